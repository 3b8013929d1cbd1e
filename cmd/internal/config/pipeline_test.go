package config

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"portcullis.dev/portcullis/probes"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/contract"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestGoodPipelineIsReadAndCompleted(t *testing.T) {
	p, err := LoadPipeline("testdata/good.yaml")
	require.NoError(t, err)
	require.Equal(t, "network-policies", p.Metadata.Name)
	require.Len(t, p.Spec.Environments, 3)
	prod := p.Spec.Environments[2]
	require.Equal(t, time.Hour, prod.Gate.Soak.Duration)
	require.Equal(t, 10*time.Minute, prod.Gate.SettleTimeout.Duration)
	require.Equal(t, map[string]string{"canary": "true"}, prod.Waves[0].Clusters.MatchLabels)
	require.Equal(t, 5, prod.Waves[1].MaxConcurrent)
	require.True(t, p.Spec.Probes[1].From.Namespaces.All)
	require.Equal(t, probes.TCP, p.Spec.Probes[0].To.Protocol)
	require.Equal(t, probes.DNS, p.Spec.Probes[2].To.Protocol)
	require.Equal(t, contract.ScopeEnvironment, p.Spec.Rollback.Scope)
	require.Equal(t, time.Second, p.Spec.ProbeTimings.Timeout.Duration)
}

func TestEverythingThatAPipelineCanSay(t *testing.T) {
	p, err := LoadPipeline("testdata/full.yaml")
	require.NoError(t, err)
	require.Equal(t, contract.Person{Name: "alex", Slack: "U012AB3CD", Git: []string{"alex@example.com", "alex@example.org"}}, p.Spec.People[0])
	approvals := p.Spec.Environments[2].Gate.Approvals
	require.Equal(t, rancher.Approvers{People: []string{"alex", "sam"}, Groups: []string{"S012AB3CD"}}, approvals.From)
	require.Equal(t, []rancher.Exclusion{rancher.ExcludeStarter, rancher.ExcludeAuthor}, approvals.Exclude)
	require.Equal(t, 2*time.Hour, p.Spec.Slack.Escalation.After.Duration)
	require.Equal(t, "2099-12-31", p.Spec.Drift.Ignore[0].Until)
	p, err = LoadPipeline("testdata/good.yaml")
	require.NoError(t, err)
	require.Nil(t, p.Spec.Slack)
	require.Nil(t, p.Spec.Drift)
}

// An ignore lasts to the end of its day, in UTC.
func TestIgnoreEndsWithItsDay(t *testing.T) {
	data, err := os.ReadFile("testdata/full.yaml")
	require.NoError(t, err)
	_, err = parsePipeline("p.yaml", data, time.Date(2099, 12, 31, 23, 59, 59, 0, time.UTC))
	require.NoError(t, err)
	_, err = parsePipeline("p.yaml", data, time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC))
	require.ErrorContains(t, err, "spec.drift.ignore[0].until: 2099-12-31 is past")
}

func TestSchedules(t *testing.T) {
	data, err := os.ReadFile("testdata/full.yaml")
	require.NoError(t, err)
	for _, schedule := range []string{"*/5 * * * *", "0 6 1,15 * *", "30 2 * jan-mar mon-fri", "0 6 29 2 *", "@daily", "@every 90m"} {
		p, err := ParsePipeline("p.yaml", []byte(strings.Replace(string(data), "0 6 * * *", schedule, 1)))
		require.NoError(t, err, schedule)
		require.Equal(t, schedule, p.Spec.Drift.Schedule)
	}
}

// A pipeline travels to the daemon as JSON; what arrives must be what was read.
func TestPipelineSurvivesTheTrip(t *testing.T) {
	for _, file := range []string{"testdata/good.yaml", "testdata/full.yaml"} {
		p, err := LoadPipeline(file)
		require.NoError(t, err)
		raw, err := json.Marshal(p)
		require.NoError(t, err)
		var back contract.Pipeline
		require.NoError(t, json.Unmarshal(raw, &back))
		require.Equal(t, p, back)
	}
}

func TestBadPipelinesAreRefusedWithThePlace(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			_, err = ParsePipeline("pipeline.yaml", data)
			var found Errors
			require.ErrorAs(t, err, &found)
			requireGolden(t, strings.TrimSuffix(file, ".yaml")+".golden", found.Error()+"\n")
			requireOneLineEach(t, found)
		})
	}
}

func requireOneLineEach(t *testing.T, found Errors) {
	t.Helper()
	for _, e := range found {
		require.NotContains(t, e.Error(), "\n")
		require.Positive(t, e.Line)
		require.Positive(t, e.Column)
	}
}

func requireGolden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

func TestSecretsInARepoURLAreNotRepeated(t *testing.T) {
	good, err := os.ReadFile("testdata/good.yaml")
	require.NoError(t, err)
	for _, url := range []string{"https://ci:hunter2@git.example.com/x", "https://hunter2@git.example.com/x", "https://ci:hunter2%zz@git/x", "ssh://git:hunter2@git/x"} {
		_, err = ParsePipeline("p.yaml", []byte(strings.Replace(string(good), "https://git.example.com/platform/network-policies", url, 1)))
		require.Error(t, err)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

func FuzzPipeline(f *testing.F) {
	files, err := filepath.Glob("testdata/*/*.yaml")
	require.NoError(f, err)
	for _, file := range append(files, "testdata/good.yaml", "testdata/full.yaml") {
		data, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParsePipeline("p.yaml", data)
		if err != nil {
			var found Errors
			if !errors.As(err, &found) {
				t.Fatalf("not Errors: %v", err)
			}
			requireOneLineEach(t, found)
			return
		}
		requireUsable(t, p)
	})
}

// requireUsable holds what everything behind the loader relies on.
func requireUsable(t *testing.T, p contract.Pipeline) {
	t.Helper()
	require.NotEmpty(t, p.Metadata.Name)
	require.NotEmpty(t, p.Spec.Source.Branch)
	require.NotEmpty(t, p.Spec.Environments)
	require.NotEmpty(t, p.Spec.Probes)
	for _, e := range p.Spec.Environments {
		require.False(t, emptySelector(e.Clusters))
		require.Positive(t, e.Gate.SettleTimeout.Duration)
	}
	raw, err := json.Marshal(p)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, new(contract.Pipeline)))
}
