// Package faults starts the lab with its topology canal, breaks it in every way
// that it can be broken, and sees each fault's effect and its end. It takes the
// lab down afterwards and looks for what is left.
package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"portcullis.dev/portcullis/deploy/lab/internal/substrate"
	"portcullis.dev/portcullis/deploy/lab/internal/topology"
)

// wanted is set for these tests to run: they break the lab that is up.
const wanted = "PORTCULLIS_LAB_FAULTS"

// cluster is the topology's name and that of its Canal cluster.
const cluster = "canal"

var (
	bin, stateDir string
	nodes         = []string{"canal-1", "canal-2", "canal-3"}
)

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv(wanted) == "" {
		fmt.Printf("these tests break the lab: set %s=1 to run them\n", wanted)
		return
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	if os.Geteuid() != 0 {
		return 1, fmt.Errorf("the lab needs root")
	}
	var err error
	if bin, err = filepath.Abs("../../../bin"); err != nil {
		return 1, err
	}
	if stateDir = os.Getenv("PORTCULLIS_LAB_DIR"); stateDir == "" {
		stateDir = "/var/lib/portcullis-lab"
	}
	dir, err := os.MkdirTemp("", "portcullis-faults-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	// The lab itself brings the sample policies where there is no Fleet to do it.
	file, err := topology.WithoutFleet(cluster, dir)
	if err != nil {
		return 1, err
	}
	ctx := context.Background()
	begun := time.Now()
	if out, err := command(ctx, "lab", "up", "--topology", file); err != nil {
		return 1, fmt.Errorf("%w\n%s", err, out)
	}
	fmt.Printf("the lab is up after %s\n", time.Since(begun).Round(time.Second))
	code := m.Run()
	begun = time.Now()
	if out, err := command(ctx, "lab", "down"); err != nil {
		return 1, fmt.Errorf("%w\n%s", err, out)
	}
	if left := substrate.Leftovers(stateDir); len(left) > 0 {
		return 1, fmt.Errorf("left after lab down: %v", left)
	}
	fmt.Printf("the lab is down after %s, and nothing is left\n", time.Since(begun).Round(time.Second))
	return code, nil
}

// command runs a program of bin and gives what it wrote.
func command(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, name), args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, lastLine(out.String()))
	}
	return out.String(), nil
}

func lastLine(s string) string {
	l := strings.Split(strings.TrimSpace(s), "\n")
	return l[len(l)-1]
}

func lab(t *testing.T, args ...string) string {
	t.Helper()
	out, err := command(t.Context(), "lab", args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// inNode runs a shell's words in a node, and says whether that went well.
func inNode(t *testing.T, node, words string) (string, bool) {
	t.Helper()
	out, err := command(t.Context(), "lab", "exec", node, "--", "sh", "-c", words)
	return out, err == nil
}

// inject injects a fault twice, for it may be, and clears it at the test's end.
func inject(t *testing.T, args ...string) {
	t.Helper()
	lab(t, append([]string{"fault", "inject"}, args...)...)
	id := strings.TrimSpace(lab(t, append([]string{"fault", "inject"}, args...)...))
	t.Cleanup(func() {
		if _, err := command(context.WithoutCancel(t.Context()), "lab", "fault", "clear", id); err != nil {
			t.Error(err)
		}
	})
	if !slices.Contains(strings.Fields(lab(t, "fault", "list")), id) {
		t.Fatalf("%s is not in the list", id)
	}
}

// clearAll clears faults twice and sees that none is left.
func clearAll(t *testing.T) {
	t.Helper()
	for range 2 {
		lab(t, "fault", "clear", "--all")
	}
	if list := lab(t, "fault", "list"); list != "" {
		t.Fatalf("still in force: %s", list)
	}
}

func kubectl(ctx context.Context, args ...string) (string, error) {
	return kubectlIn(ctx, "", args...)
}

func kubectlIn(ctx context.Context, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	kubeconfig := substrate.Kubeconfig(stateDir, cluster)
	cmd := exec.CommandContext(ctx, filepath.Join(stateDir, "bin", "kubectl"), append([]string{"--kubeconfig", kubeconfig}, args...)...)
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &out
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, lastLine(out.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

func mustKubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := kubectl(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

type pod struct{ namespace, name, node, ip string }

// pods of a namespace with a label, as the API server knows them.
func pods(ctx context.Context, namespace, selector string) ([]pod, error) {
	out, err := kubectl(ctx, "-n", namespace, "get", "pods", "-l", selector, "-o", "json")
	if err != nil {
		return nil, err
	}
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Spec     struct{ NodeName string }
			Status   struct{ PodIP string }
		}
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, err
	}
	var found []pod
	for _, i := range list.Items {
		found = append(found, pod{namespace, i.Metadata.Name, i.Spec.NodeName, i.Status.PodIP})
	}
	return found, nil
}

// dial connects from a pod to an address by TCP.
func dial(ctx context.Context, from pod, to string) error {
	_, err := kubectl(ctx, "-n", from.namespace, "exec", from.name, "--", "/workload", "--dial", to, "--timeout", "1s")
	return err
}

// pairs says of every pair of nodes whether their pods reach each other.
func pairs(ctx context.Context) (map[string]bool, error) {
	all, err := pods(ctx, "mesh", "app=node-echo")
	if err != nil {
		return nil, err
	}
	if len(all) != len(nodes) {
		return nil, fmt.Errorf("%d pods, want one on each of %d nodes", len(all), len(nodes))
	}
	out := map[string]bool{}
	for _, from := range all {
		for _, to := range all {
			out[from.node+">"+to.node] = dial(ctx, from, to.ip+":7000") == nil
		}
	}
	return out, nil
}

// connected waits until every pair of nodes is connected and returns how long it took.
func connected(t *testing.T, limit time.Duration) time.Duration {
	t.Helper()
	begun := time.Now()
	until(t, limit, "all nodes are connected", func(ctx context.Context) error {
		got, err := pairs(ctx)
		if err != nil {
			return err
		}
		for p, ok := range got {
			if !ok {
				return fmt.Errorf("%s: no connection", p)
			}
		}
		return nil
	})
	return time.Since(begun)
}

func until(t *testing.T, limit time.Duration, what string, ask func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not after %s: %v", what, limit, err)
		case <-time.After(500 * time.Millisecond):
		}
	}
}
