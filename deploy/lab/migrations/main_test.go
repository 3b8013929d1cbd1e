// Package migrations takes the lab's Canal cluster to Calico, and back to Canal
// from half-way, with the command line as people type it, and breaks it meanwhile:
// the daemon is killed, nodes reboot, Calico does not come up.
package migrations

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"portcullis.dev/portcullis/deploy/lab/internal/drive"
	"portcullis.dev/portcullis/deploy/lab/internal/drive/drivetest"
)

const (
	// longVariable is set for the tests that take hours to run, too.
	longVariable = "PORTCULLIS_LAB_MIGRATIONS"
	// cluster is the Canal cluster of every lab here.
	cluster = "canal"
	// by is who gives all orders.
	by = "e2e"
	// migrationLimit bounds a migration in each direction.
	migrationLimit = 12 * time.Minute
)

// shape is a lab by its topology, the nodes of its Canal cluster, and the flows that
// are watched there.
type shape struct {
	topology string
	nodes    []string
	flows    drivetest.Flows
}

var (
	// three denies what its cluster denies from its start.
	three = &shape{"canal", []string{"canal-1", "canal-2", "canal-3"}, drivetest.Flows{
		Allow: []string{"mesh:mesh:8080", "edge:checkout:8443"},
		Deny:  []string{"edge:mesh:8080", "mesh:checkout:8443"},
		Hold:  []string{"mesh:mesh:7000"},
	}}
	// single denies what the lab's policies do.
	single = &shape{"canal-single", []string{"canal-1"}, drivetest.Flows{
		Allow: []string{"edge:checkout:8443", "payments:data:5432"},
		Deny:  []string{"edge:data:5432", "monitoring:checkout:8443"},
		Hold:  []string{"payments:data:5432"},
	}}
)

var (
	// p is the Portcullis that all tests share.
	p *drivetest.Lab
	// calico is the path of Calico's manifest, as it is published.
	calico string
	// now is the lab that is up.
	now = three
	// migrated is true once its cluster has Calico, and policed once it has the
	// lab's policies.
	migrated, policed bool
)

var must = drivetest.Must

func TestMain(m *testing.M) {
	drivetest.Main("migrations", func(l *drivetest.Lab) (code int, err error) {
		p = l
		if calico, err = p.CalicoManifest(context.Background(), "calico-vxlan.yaml"); err != nil {
			return 1, err
		}
		return m.Run(), nil
	}, "--topology", now.topology)
}

// long skips a test that is not for every day.
func long(t *testing.T) {
	t.Helper()
	if os.Getenv(longVariable) == "" {
		t.Skipf("takes long: make test-migrations, or set %s=1", longVariable)
	}
}

// onCanal gives the test the usual lab with Canal and the lab's policies.
func onCanal(t *testing.T) {
	t.Helper()
	fresh(t, three)
	police(t)
}

// fresh gives the test a lab on Canal: there is no way back from Calico, so that it is
// made anew after a test that went there.
func fresh(t *testing.T, want *shape) {
	t.Helper()
	if found, err := p.Kubectl(t.Context(), cluster, "-n", "kube-system", "get", "daemonset", "canal", "-o", "name", "--ignore-not-found"); err == nil && found == "" {
		migrated = true
	}
	if !migrated && now == want {
		return
	}
	p.Daemon.Stop()
	migrated = true // until there is another
	must(t, p.Anew(t.Context(), want.topology))
	p.Restart(t)
	now, migrated, policed = want, false, false
}

// police brings the lab's policies to the cluster where they are not there yet.
func police(t *testing.T) {
	t.Helper()
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
	p.MustKubectl(t, "mgmt", "-n", "fleet-default", "label", "clusters.fleet.cattle.io", cluster, "env=dev", "--overwrite")
	revision := p.MustLab(t, "policy", "commit", "good")
	p.Call(t, 0, "rollout", "start", "-f", policies(t), "--revision", revision, "--after-rollback", "--by", by)
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
	p.Call(t, 0, "rollout", "pause", drive.Pipeline, "--by", by)
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

// planned plans the migration, and wants nothing to be in its way.
func planned(t *testing.T, flags ...string) drive.MigrationPlan {
	t.Helper()
	return p.Planned(t, cluster, calico, flags...)
}

// begin starts what was planned.
func begin(t *testing.T, plan drive.MigrationPlan, flags ...string) {
	t.Helper()
	p.Begin(t, cluster, plan, by, calico, flags...)
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
	p.Call(t, 0, "migrate", verb, cluster, "--by", by, "--why", "a test")
}

// rests waits until the migration has ended, or stopped.
func rests(t *testing.T, limit time.Duration) drive.Migration {
	t.Helper()
	return until(t, limit, "at rest", func(m drive.Migration) bool { return !m.Running || m.State == "stopped" })
}

// arrived waits until all nodes are on Calico, and wants that to be proven.
func arrived(t *testing.T, limit time.Duration) drive.Migration {
	t.Helper()
	m := rests(t, limit)
	if m.State != "migrated" || !m.Proven {
		t.Fatalf("it was to end on Calico, and proven: %s", m)
	}
	migrated = true
	return m
}

// resumed lets a migration go on that has stopped, until a node is on Calico.
func resumed(t *testing.T, node string) {
	t.Helper()
	order(t, "resume")
	m := until(t, migrationLimit, node+" on Calico", func(m drive.Migration) bool {
		return m.Node(node).State == "calico" || m.State == "stopped" && m.Reason != "" || !m.Running
	})
	if m.Node(node).State != "calico" {
		t.Errorf("mended and resumed: %s", m)
	}
}
