package substrate

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"portcullis.dev/portcullis/deploy/lab/internal/kube"
	"portcullis.dev/portcullis/deploy/lab/internal/pki"
	"portcullis.dev/portcullis/deploy/lab/internal/state"
	"portcullis.dev/portcullis/deploy/lab/internal/topology"
)

func testLab(t *testing.T) *Lab {
	t.Helper()
	dir := t.TempDir()
	store, err := state.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	for _, d := range []string{"pki", "kubeconfig", "log"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return &Lab{Config: Config{StateDir: dir, Log: t.Logf}, store: store, plan: topology.Default().Plan()}
}

// Every user of a cluster gets the subject that RBAC and the node authorizer know it by.
func TestIssue(t *testing.T) {
	l := testLab(t)
	prod, _ := l.plan.Cluster("prod")
	if err := l.issue(prod); err != nil {
		t.Fatal(err)
	}
	for name, server := range map[string]string{"node-prod-2": prod.APIServer(), "scheduler": "https://127.0.0.1:6443", "proxy": prod.APIServer()} {
		b, err := os.ReadFile(l.pki("prod", name+".kubeconfig"))
		if err != nil {
			t.Fatal(err)
		}
		var cfg struct {
			Clusters []struct{ Cluster struct{ Server string } }
		}
		if err := yaml.Unmarshal(b, &cfg); err != nil || cfg.Clusters[0].Cluster.Server != server {
			t.Errorf("%s: %v %+v, want server %s", name, err, cfg, server)
		}
	}
	if _, err := adminClient(l.StateDir, prod); err != nil {
		t.Errorf("admin: %v", err)
	}
	if fi, err := os.Stat(Kubeconfig(l.StateDir, "prod")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("admin kubeconfig: %v %v", fi, err)
	}
}

// Two clusters must not trust each other's certificates.
func TestClustersHaveTheirOwnAuthority(t *testing.T) {
	l := testLab(t)
	for _, name := range []string{"dev", "prod"} {
		c, _ := l.plan.Cluster(name)
		if err := l.issue(c); err != nil {
			t.Fatal(err)
		}
	}
	dev, err := pki.Open(l.path("pki", "dev"), "ca", "")
	if err != nil {
		t.Fatal(err)
	}
	if dev.Signed(l.pki("prod", "admin.crt")) || !dev.Signed(l.pki("dev", "admin.crt")) {
		t.Error("the authority of dev signed a certificate of prod, or not its own")
	}
	if _, err := kube.New("https://127.0.0.1", kube.Identity{CAFile: l.pki("dev", "ca.crt"), CertFile: l.pki("prod", "admin.crt"), KeyFile: l.pki("dev", "admin.key")}); err == nil {
		t.Error("a certificate with a foreign key was taken")
	}
}

func TestEnsureRecordsAndSurvives(t *testing.T) {
	l := testLab(t)
	r := state.Record{Command: []string{"/bin/sleep", "60"}}
	if err := l.ensure("sleeper", r); err != nil {
		t.Fatal(err)
	}
	first := l.Processes()["sleeper"]
	t.Cleanup(func() { _ = state.End([]state.Process{l.Processes()["sleeper"].Process}, 0) })
	if err := l.ensure("sleeper", r); err != nil {
		t.Fatal(err)
	}
	if l.Processes()["sleeper"].Process != first.Process {
		t.Error("a running process was started again")
	}
	if err := l.StopProcess("sleeper"); err != nil {
		t.Fatal(err)
	}
	if first.Alive() {
		t.Error("it still runs")
	}
	if err := l.StartProcess("sleeper"); err != nil {
		t.Fatal(err)
	}
	if again := l.Processes()["sleeper"]; !again.Alive() || again.Process == first.Process {
		t.Errorf("it was not started again: %+v", again)
	}
	if err := l.StopProcess("nobody"); err == nil || !strings.Contains(err.Error(), "sleeper") {
		t.Errorf("an unknown name: %v, want the names that there are", err)
	}
}

func TestUpRefusesAnotherTopology(t *testing.T) {
	l := testLab(t)
	one, err := topology.Parse([]byte("clusters: [{name: mgmt, id: local}]"))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Up(context.Background(), one, Built{}); !errors.Is(err, ErrOtherTopology) {
		t.Errorf("got %v, want ErrOtherTopology", err)
	}
}

func TestStatusWithoutLab(t *testing.T) {
	if err := Status(context.Background(), t.TempDir(), io.Discard); !errors.Is(err, ErrNotUp) {
		t.Errorf("got %v, want ErrNotUp", err)
	}
}

func TestPollSaysWhatWasLastWrong(t *testing.T) {
	err := poll(context.Background(), "thing", 30*time.Millisecond, 5*time.Millisecond, func(context.Context) error { return errors.New("not yet") })
	if err == nil || !strings.Contains(err.Error(), "thing: not after 30ms: not yet") {
		t.Errorf("got %v", err)
	}
}

func TestWriteChanged(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	past := time.Unix(1, 0)
	for content, change := range map[string]bool{"a": false, "b": true} {
		if err := os.WriteFile(file, []byte("a"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, past, past); err != nil {
			t.Fatal(err)
		}
		if err := writeChanged(file, []byte(content)); err != nil {
			t.Fatal(err)
		}
		fi, err := os.Stat(file)
		if err != nil || fi.ModTime().Equal(past) == change {
			t.Errorf("%q over a: written at %v, %v", content, fi.ModTime(), err)
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != content {
			t.Errorf("got %q, %v", got, err)
		}
	}
}

func TestField(t *testing.T) {
	if got := field("Rss:        12 kB\nPss:   5 kB\n", "Pss:"); got != 5<<10 {
		t.Errorf("got %d", got)
	}
}

func TestSpent(t *testing.T) {
	a, b, c := state.Process{PID: 1, Start: 1}, state.Process{PID: 2, Start: 1}, state.Process{PID: 2, Start: 9}
	before := map[state.Process]uint64{a: 10, b: 500}
	// Process 2 has ended, and its number is another's now.
	after := map[state.Process]uint64{a: 15, c: 7}
	if got := spent(before, after); got != 12 {
		t.Errorf("got %d, want 12", got)
	}
}
