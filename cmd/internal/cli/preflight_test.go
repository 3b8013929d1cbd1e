package cli

import (
	"bytes"
	"encoding/xml"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/probes/preflight"
	"portcullis.dev/portcullis/workflows/contract"
)

var updatePreflight = flag.Bool("update-preflight", false, "write the golden files of preflight anew")

// someReport is a report with every status, made by the judge itself.
func someReport() *preflight.Report {
	node := func(name string) preflight.NodeFacts {
		return preflight.NodeFacts{
			Node: name, Kernel: preflight.Known("6.1.0-13-amd64"),
			IPSet:     preflight.Known(preflight.Trial{OK: true, Detail: "a set was made, filled, read and destroyed"}),
			Services:  preflight.Known(map[string]preflight.ServiceState{"firewalld": preflight.ServiceRunning, "nm-cloud-setup": preflight.ServiceAbsent}),
			Memory:    preflight.Known(preflight.Memory{Total: 8 << 30, Available: 300 << 20}),
			ClockSkew: preflight.Known(time.Duration(0)),
		}
	}
	cluster := &preflight.ClusterFacts{
		Name:       "prod",
		Kubernetes: preflight.Known("v1.30.4"),
		Nodes:      preflight.Known([]preflight.Node{{Name: "prod-1", OS: "linux", Ready: true}, {Name: "prod-2", OS: "linux", Ready: true}, {Name: "a-node-with-a-very-long-name.example.com", OS: "linux"}}),
		DaemonSets: preflight.Known([]preflight.CNISet{{Namespace: "kube-system", Name: "canal", Flavour: preflight.FlavourCanal, Calico: "v3.28.5", Desired: 3, Ready: 3}}),
		Flannel:    preflight.Known(preflight.FlannelConfig{Present: true, Source: "ConfigMap kube-system/canal-config", Network: "10.42.0.0/16", Backend: "host-gw"}),
	}
	mesh := preflight.NewMesh(3, preflight.Paths(preflight.Target{}))
	mesh.Absent["a-node-with-a-very-long-name.example.com"] = "no agent has been created there yet"
	mesh.Size = preflight.Grow(2, 100, preflight.Paths(preflight.Target{}), 6)
	for i := range mesh.Paths {
		mesh.Paths[i].Answers[preflight.Open] = 1
		mesh.Add(i, preflight.Pair{From: "prod-1", To: "prod-2", Answer: preflight.Filtered, Detail: "it did not arrive"})
	}
	r := preflight.Judge(cluster, []preflight.NodeFacts{node("prod-1"), node("prod-2"), {Node: "a-node-with-a-very-long-name.example.com", Problem: "the agent is not ready: no agent has been created there yet"}}, mesh, preflight.Target{})
	r.StartedAt, r.Took = time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC), 4231*time.Millisecond
	return r
}

func someResult() contract.PreflightResult {
	return contract.PreflightResult{Status: preflight.Fail, Clusters: map[string]contract.ClusterPreflight{
		"prod": {Report: someReport()},
		"west": {Error: "cluster west is not connected: \x1b[31mno tunnel", ErrorType: errs.TypeUnavailable},
	}}
}

func TestPreflightGolden(t *testing.T) {
	for file, args := range map[string][]string{
		"preflight.txt":       {"preflight", "prod", "west"},
		"preflight-brief.txt": {"preflight", "prod", "west", "--brief"},
		"preflight.json":      {"preflight", "prod", "west", "-o", "json"},
		"preflight.xml":       {"preflight", "prod", "west", "-o", "junit"},
	} {
		t.Run(file, func(t *testing.T) {
			r := run(t, &fakeTemporal{results: map[string]any{contract.PreflightWorkflow: someResult()}}, args...)
			require.Equal(t, exitPreflight, r.code, r.errors)
			path := filepath.Join("testdata", file)
			if *updatePreflight {
				require.NoError(t, os.MkdirAll("testdata", 0o755))
				require.NoError(t, os.WriteFile(path, []byte(r.out), 0o644))
			}
			want, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, string(want), r.out)
			if strings.HasSuffix(file, ".txt") {
				for line := range strings.SplitSeq(r.out, "\n") {
					require.LessOrEqual(t, len([]rune(line)), preflightWidth, line)
					require.NotContains(t, line, "\x1b")
				}
			}
		})
	}
}

// What CI systems read is well formed, and its numbers are right.
func TestPreflightJUnit(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, preflightJUnit(&b, someResult()))
	var got junitSuites
	require.NoError(t, xml.Unmarshal(b.Bytes(), &got))
	require.Len(t, got.Suites, 2)
	for _, s := range got.Suites {
		require.Len(t, s.Cases, s.Tests)
		failures, errors := 0, 0
		for _, c := range s.Cases {
			if c.Failure != nil {
				failures++
			}
			if c.Error != nil {
				errors++
			}
		}
		require.Equal(t, s.Failures, failures)
		require.Equal(t, s.Errors, errors)
	}
	require.NotZero(t, got.Suites[0].Failures)
	require.Equal(t, 1, got.Suites[1].Errors)
}

func TestPreflightExitCodes(t *testing.T) {
	report := func(s preflight.Status) contract.ClusterPreflight {
		return contract.ClusterPreflight{Report: &preflight.Report{Status: s}}
	}
	for name, c := range map[string]struct {
		clusters map[string]contract.ClusterPreflight
		want     int
	}{
		"pass":    {map[string]contract.ClusterPreflight{"a": report(preflight.Pass), "b": report(preflight.Warn)}, exitOK},
		"unknown": {map[string]contract.ClusterPreflight{"a": report(preflight.Pass), "b": report(preflight.Unsure)}, exitUnknown},
		"error":   {map[string]contract.ClusterPreflight{"a": {Error: "no tunnel"}}, exitUnknown},
		"fail":    {map[string]contract.ClusterPreflight{"a": report(preflight.Unsure), "b": report(preflight.Fail)}, exitPreflight},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fakeTemporal{results: map[string]any{contract.PreflightWorkflow: contract.PreflightResult{Clusters: c.clusters}}}
			require.Equal(t, c.want, run(t, f, "preflight", "--all").code)
		})
	}
}

func TestPreflightInput(t *testing.T) {
	f := &fakeTemporal{results: map[string]any{contract.PreflightWorkflow: contract.PreflightResult{}}}
	r := run(t, f, "preflight", "a", "b", "--encapsulation", "ipip", "--calico-version", "v3.28.5", "--mtu", "1400", "--pod-cidr", "10.0.0.0/8", "--typha", "--image", "x:1,y:2", "--packet-timeout", "2s")
	require.Equal(t, exitOK, r.code, r.errors)
	require.Equal(t, contract.PreflightInput{
		Clusters:      []string{"a", "b"},
		Target:        preflight.Target{Version: "v3.28.5", Encapsulation: preflight.IPIP, MTU: 1400, PodCIDR: "10.0.0.0/8", Typha: true, Images: []string{"x:1", "y:2"}},
		PacketTimeout: 2 * time.Second,
	}, f.inputs[0])
	for _, args := range [][]string{
		{}, {"--all", "a"}, {"a", "--encapsulation", "gre"}, {"a", "--port", "70000"}, {"a", "--vni", "-1"}, {"a", "--mtu", "5"},
		{"a", "--block-size", "8"}, {"a", "--pod-cidr", "fd00::/48"}, {"a", "-o", "xml"},
	} {
		require.Equal(t, exitUsage, run(t, nil, append([]string{"preflight"}, args...)...).code, "%q", args)
	}
	require.Equal(t, exitUsage, run(t, nil, "clusters", "-o", "junit").code)
}

func TestWrap(t *testing.T) {
	for _, width := range []int{10, 13, 40} {
		for _, text := range []string{"", "a", strings.Repeat("word ", 30), strings.Repeat("x", 95), "  lead " + strings.Repeat("é", 50)} {
			got := wrap(text, width, width)
			require.NotEmpty(t, got)
			for _, l := range got[1:] {
				require.LessOrEqual(t, len([]rune(l)), width)
			}
			joined := strings.ReplaceAll(strings.Join(got, ""), " ", "")
			require.Equal(t, strings.ReplaceAll(text, " ", ""), joined, fmt.Sprint(width))
		}
	}
}
