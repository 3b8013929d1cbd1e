// Package migrations takes the lab's Canal cluster to Calico, and back to Canal
// from half-way, with the command line as people type it, and breaks it meanwhile:
// the daemon is killed, nodes reboot, Calico does not come up.
package migrations

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"portcullis.dev/portcullis/deploy/lab/internal/drive"
)

const (
	// longVariable is set for the tests that take hours to run, too.
	longVariable = "PORTCULLIS_LAB_MIGRATIONS"
	// cluster is the topology's name and that of its Canal cluster.
	cluster = "canal"
	// by is who gives all orders.
	by = "e2e"
	// migrationLimit bounds a migration in each direction.
	migrationLimit = 12 * time.Minute
)

var nodes = []string{"canal-1", "canal-2", "canal-3"}

var (
	// p is the Portcullis that all tests share, and daemon its daemon.
	p      *drive.Portcullis
	daemon *drive.Process
	// calico is the path of Calico's manifest, as it is published.
	calico string
	// migrated is true once the cluster has Calico, and policed once it has the
	// lab's policies.
	migrated, policed bool
)

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "migrations:", err)
		code = 1
	}
	os.Exit(code)
}

// run starts the lab where it is not up, and takes down what it started.
func run(m *testing.M) (int, error) {
	if os.Geteuid() != 0 {
		return 1, fmt.Errorf("the lab needs root")
	}
	bin, err := filepath.Abs("../../../bin")
	if err != nil {
		return 1, err
	}
	dir, err := os.MkdirTemp("", "portcullis-migrations-")
	if err != nil {
		return 1, err
	}
	o := drive.Options{LabDir: os.Getenv("PORTCULLIS_LAB_DIR"), BinDir: bin, Dir: dir}
	if o.LabDir == "" {
		o.LabDir = "/var/lib/portcullis-lab"
	}
	ctx := context.Background()
	ours := !o.IsUp()
	if err := o.Show(ctx, "up", "--topology", cluster); err != nil {
		return 1, err
	}
	if ours && os.Getenv("PORTCULLIS_LAB_KEEP") == "" {
		defer func() {
			if err := o.Show(ctx, "down"); err != nil {
				fmt.Fprintln(os.Stderr, "migrations:", err)
			}
		}()
	}
	if calico, err = o.CalicoManifest(ctx, "calico-vxlan.yaml"); err != nil {
		return 1, err
	}
	if p, err = drive.Start(ctx, o); err != nil {
		return 1, err
	}
	defer p.Stop()
	if daemon, err = p.StartDaemon("daemon", nil); err != nil {
		return 1, err
	}
	code := m.Run()
	if code == 0 {
		_ = os.RemoveAll(dir)
		return 0, nil
	}
	fmt.Fprintln(os.Stderr, "migrations: logs are in", dir)
	show(filepath.Join(dir, "daemon.log"))
	return code, nil
}

// show prints the end of a log: on a machine that is gone later, it is all there is.
func show(file string) {
	b, err := os.ReadFile(file)
	if err != nil {
		return
	}
	lines := strings.Split(string(b), "\n")
	fmt.Fprintf(os.Stderr, "--- end of %s\n%s\n", filepath.Base(file), strings.Join(lines[max(0, len(lines)-80):], "\n"))
}

// long skips a test that is not for every day.
func long(t *testing.T) {
	t.Helper()
	if os.Getenv(longVariable) == "" {
		t.Skipf("takes long: make test-migrations, or set %s=1", longVariable)
	}
}

// onCanal gives the test a cluster that has Canal and the lab's policies: there is no
// way back from Calico, so that the lab is made anew after a test that went there.
func onCanal(t *testing.T) {
	t.Helper()
	if found, err := p.Kubectl(t.Context(), cluster, "-n", "kube-system", "get", "daemonset", "canal", "-o", "name", "--ignore-not-found"); err == nil && found == "" {
		migrated = true
	}
	if migrated {
		daemon.Stop()
		must(t, p.Show(t.Context(), "down"))
		must(t, p.Show(t.Context(), "up", "--topology", cluster))
		var err error
		daemon, err = p.StartDaemon("daemon", nil)
		must(t, err)
		migrated, policed = false, false
	}
	if !policed {
		beginPolicies(t)
		awaitPolicies(t)
	}
}

const policyLimit = 4 * time.Minute

// policies is the lab's pipeline for this cluster, as that of an environment dev: its
// pods have the addresses that the repository has there.
func policies(t *testing.T) string {
	t.Helper()
	file, err := p.PipelineFile("policies", func(text string) string {
		from, to := strings.Index(text, "  - name: dev\n"), strings.Index(text, "  probeSettings:")
		if from < 0 || to < from {
			t.Fatalf("the lab's pipeline has another shape: %s", text)
		}
		return text[:from] + "  - name: dev\n    clusters: {matchLabels: {env: dev}}\n    gate: {soak: 10s}\n" + text[to:]
	})
	must(t, err)
	return file
}

// beginPolicies starts a rollout of the lab's policies to the cluster.
func beginPolicies(t *testing.T) {
	t.Helper()
	_, err := p.Kubectl(t.Context(), "mgmt", "-n", "fleet-default", "label", "clusters.fleet.cattle.io", cluster, "env=dev", "--overwrite")
	must(t, err)
	revision, err := p.Lab(t.Context(), "policy", "commit", "good")
	must(t, err)
	call(t, 0, "rollout", "start", "-f", policies(t), "--revision", revision, "--after-rollback", "--by", by)
}

// pausePolicies holds the rollout where the policies are on the cluster, and not
// verified yet.
func pausePolicies(t *testing.T) {
	t.Helper()
	s, err := p.Until(t.Context(), drive.Pipeline, policyLimit, "soaking", func(s drive.Status) bool { return s.Now("dev") == "soaking" || !s.Running })
	must(t, err)
	if !s.Running {
		t.Fatalf("the rollout was to soak: %s", s)
	}
	call(t, 0, "rollout", "pause", drive.Pipeline, "--by", by)
}

func awaitPolicies(t *testing.T) {
	t.Helper()
	s, err := p.Ended(t.Context(), drive.Pipeline, policyLimit)
	must(t, err)
	if s.State != "verified" {
		t.Fatalf("the policies were to be verified: %s", s)
	}
	policed = true
}

// call calls the command line and wants an exit code of it.
func call(t *testing.T, code int, args ...string) drive.Result {
	t.Helper()
	r, err := p.CLI(t.Context(), args...)
	must(t, err)
	if r.Code != code {
		t.Fatalf("portcullis %s: exit %d, want %d: %s", strings.Join(args, " "), r.Code, code, strings.TrimSpace(r.Stderr))
	}
	return r
}

// planned plans the migration, and wants nothing to be in its way.
func planned(t *testing.T, flags ...string) drive.MigrationPlan {
	t.Helper()
	plan, r, err := p.PlanMigration(t.Context(), cluster, calico, flags...)
	must(t, err)
	if r.Code != 0 || len(plan.Plan.Refused) > 0 {
		t.Fatalf("plan: exit %d: %s: %v", r.Code, r.Stderr, plan.Plan.Refused)
	}
	return plan
}

// begin starts what was planned.
func begin(t *testing.T, plan drive.MigrationPlan, flags ...string) {
	t.Helper()
	r, err := p.StartMigration(t.Context(), cluster, plan, by, calico, flags...)
	must(t, err)
	if r.Code != 0 {
		t.Fatalf("start: exit %d: %s", r.Code, r.Stderr)
	}
}

// until waits for the migration.
func until(t *testing.T, limit time.Duration, what string, ok func(drive.Migration) bool) drive.Migration {
	t.Helper()
	m, err := p.UntilMigration(t.Context(), cluster, limit, what, ok)
	must(t, err)
	return m
}

// reached waits until a step has begun, of a node or, where that is empty, of the cluster.
func reached(t *testing.T, node, step string) {
	t.Helper()
	m := until(t, migrationLimit, strings.TrimSpace(node+" at "+step), func(m drive.Migration) bool {
		return m.At(node, step) || !m.Running || m.State == "stopped"
	})
	if !m.At(node, step) {
		t.Fatalf("%s at %s was not reached: %s", node, step, m)
	}
}

// order gives the migration an order.
func order(t *testing.T, verb string) {
	t.Helper()
	call(t, 0, "migrate", verb, cluster, "--by", by, "--why", "a test")
}

// ended waits for the end and wants it to be a state, proven on the wire.
func ended(t *testing.T, state string) drive.Migration {
	t.Helper()
	m := until(t, migrationLimit, "ended", func(m drive.Migration) bool { return !m.Running })
	if m.State != state || !m.Proven {
		t.Errorf("it was to end %s and proven: %s", state, m)
	}
	return m
}

// killed kills the daemon as a crash would, and starts another.
func killed(t *testing.T) {
	t.Helper()
	daemon.Kill()
	var err error
	daemon, err = p.StartDaemon("daemon", nil)
	must(t, err)
}

// inject injects a fault until the test ends, or until mend is called.
func inject(t *testing.T, args ...string) (mend func()) {
	t.Helper()
	id, err := p.Lab(t.Context(), append([]string{"fault", "inject"}, args...)...)
	must(t, err)
	ctx := context.WithoutCancel(t.Context())
	mend = func() {
		t.Helper()
		if _, err := p.Lab(ctx, "fault", "clear", id); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(mend)
	return mend
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until nothing is wrong any more.
func eventually(t *testing.T, limit time.Duration, what string, wrong func() string) {
	t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(time.Second) {
		w := wrong()
		if w == "" {
			return
		}
		if time.Now().After(end) {
			t.Errorf("%s: not within %s: %s", what, limit, w)
			return
		}
	}
}
