package migrations

import (
	"strings"
	"testing"
	"time"

	"portcullis.dev/portcullis/deploy/lab/internal/drive"
)

// inOrder has the nodes move in an order that is known; the last has the API server.
var inOrder = []string{"--first", "canal-2,canal-3,canal-1"}

// moments are all at which a migration can be aborted: steps of the cluster, and of
// each of its nodes.
func moments() (out []moment) {
	for _, step := range []string{"begin", "tunnels", "addresses", "split"} {
		out = append(out, moment{"", step})
	}
	for _, node := range []string{"canal-2", "canal-3", "canal-1"} {
		out = append(out, moment{node, "leave"}, moment{node, "swap"})
	}
	for _, step := range []string{"turn", "unlink", "adopt"} {
		out = append(out, moment{"", step})
	}
	return out
}

type moment struct{ node, step string }

func (m moment) String() string { return strings.TrimPrefix(m.node+" "+m.step, " ") }

// reboots is the node that reboots at a moment: the one that moves, or any.
func (m moment) reboots() string {
	if m.node != "" {
		return m.node
	}
	return "canal-3"
}

// TestWayBackFromEveryStep aborts at every step of the sequence; also with the
// daemon killed there, and with a node that reboots there.
func TestWayBackFromEveryStep(t *testing.T) {
	long(t)
	for _, m := range moments() {
		for _, c := range []struct {
			name    string
			excused []string
			disturb func(t *testing.T)
		}{
			{"aborted", nil, func(*testing.T) {}},
			{"daemon killed", nil, killed},
			{"node rebooted", []string{m.reboots()}, func(t *testing.T) { reboot(t, m.reboots()) }},
		} {
			t.Run(m.String()+"/"+c.name, func(t *testing.T) {
				before, w := set(t, inOrder...)
				reached(t, m.node, m.step)
				c.disturb(t)
				order(t, "abort")
				wentBack(t, before)
				w.stop(t).unharmed(t, c.excused...)
			})
		}
	}
}

func reboot(t *testing.T, node string) {
	t.Helper()
	_, err := p.Lab(t.Context(), "node", "reboot", node)
	must(t, err)
}

// set begins a migration on a cluster of which a picture is taken, with every flow
// watched; one that a test leaves half-way is aborted.
func set(t *testing.T, flags ...string) (picture, *watch) {
	t.Helper()
	onCanal(t)
	plan := planned(t, flags...)
	before := take(t)
	w := watchFlows(t)
	begin(t, plan, flags...)
	t.Cleanup(func() {
		if m, err := p.Migration(t.Context(), cluster); err == nil && m.Running {
			_, _ = p.CLI(t.Context(), "migrate", "abort", cluster, "--by", by)
			_, _ = p.UntilMigration(t.Context(), cluster, migrationLimit, "ended", func(m drive.Migration) bool { return !m.Running })
		}
	})
	return before, w
}

// TestFaults: whatever breaks on the way, the node is put back, the migration stops
// and says why; mended, it goes on; and the way back is open all the time.
func TestFaults(t *testing.T) {
	long(t)
	for _, c := range []struct {
		name  string
		fault []string
		// at is when it is injected.
		at moment
		// says is in the reason.
		says string
		// excused are nodes whose flows the fault itself harms.
		excused []string
	}{
		{"Calico's overlay is blocked", []string{"block", "canal-3", "proto=udp", "port=4789"}, moment{"", "split"}, "canal-3", nil},
		{"Calico crashes", []string{"calico", "canal-2", "how=crash"}, moment{"", "split"}, "calico-node", nil},
		{"Calico hangs", []string{"calico", "canal-2", "how=hang"}, moment{"", "split"}, "calico-node", nil},
		{"Calico's image is not there", []string{"calico", "canal-2", "how=no-image"}, moment{"", "split"}, "calico-node", nil},
		{"the CNI folder cannot be written", []string{"cni-readonly", "canal-2"}, moment{"", "split"}, "canal-2", nil},
		{"CNI programs cannot be written", []string{"cni-readonly", "canal-2", "dir=bin"}, moment{"", "split"}, "canal-2", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, w := set(t, inOrder...)
			reached(t, c.at.node, c.at.step)
			mend := inject(t, c.fault...)
			m := until(t, migrationLimit, "stopped", func(m drive.Migration) bool { return m.State == "stopped" || !m.Running })
			t.Log(m)
			if m.State != "stopped" || !strings.Contains(m.Reason, c.says) {
				t.Errorf("it was to stop, and to say %q: %s", c.says, m)
			}
			mend()
			order(t, "resume")
			m = until(t, migrationLimit, "canal-2 on Calico", func(m drive.Migration) bool {
				return m.Node("canal-2").State == "calico" || m.State == "stopped" && m.Reason != "" || !m.Running
			})
			if m.Node("canal-2").State != "calico" {
				t.Errorf("mended and resumed: %s", m)
			}
			order(t, "abort")
			wentBack(t, before)
			w.stop(t).unharmed(t, c.excused...)
		})
	}
}

// TestPathMTU: what would lose packets of full size is found before anything is changed.
func TestPathMTU(t *testing.T) {
	long(t)
	onCanal(t)
	before := take(t)
	defer inject(t, "mtu", "canal-3", "value=1400", "where=path")()
	refusal{args: []string{"migrate", "plan", cluster, "--calico", calico}, code: 10, says: []string{"path-mtu", "canal-3"}}.try(t)
	before.same(t, 30*time.Second)
}

// TestPowerOff: a node that is off while it moves is waited for; it comes back on
// one side or the other, and the way back is open.
func TestPowerOff(t *testing.T) {
	long(t)
	before, w := set(t, inOrder...)
	reached(t, "canal-2", "swap")
	mend := inject(t, "power", "canal-2")
	time.Sleep(time.Minute)
	m, err := p.Migration(t.Context(), cluster)
	must(t, err)
	t.Log(m)
	mend()
	m = until(t, migrationLimit, "canal-2 on one side", func(m drive.Migration) bool {
		s := m.Node("canal-2").State
		return s == "calico" || s == "canal" || !m.Running
	})
	t.Log(m)
	order(t, "abort")
	wentBack(t, before)
	w.stop(t).unharmed(t, "canal-2")
}

// TestDrain: a budget that lets no pod go holds the node up, in sight, and nothing is
// forced; without it the node is drained and moves. Pods that are not moved, as
// those of DaemonSets, lose nothing.
func TestDrain(t *testing.T) {
	long(t)
	onCanal(t)
	mend := inject(t, "budget", cluster)
	flags := append([]string{"--mode", "drain"}, inOrder...)
	_, w := set(t, flags...)
	reached(t, "canal-2", "evict")
	m := until(t, 3*time.Minute, "held up by the budget", func(m drive.Migration) bool {
		for _, w := range m.Waiting {
			if strings.Contains(w.For, "canal-2") {
				return true
			}
		}
		return false
	})
	t.Log(m)
	time.Sleep(20 * time.Second)
	held, err := p.Kubectl(t.Context(), cluster, "-n", "checkout", "get", "pods", "-o", `jsonpath={range .items[*]}{.spec.nodeName} {end}`)
	must(t, err)
	if !strings.Contains(held, "canal-2") {
		t.Errorf("a pod that may not go has gone: %s", held)
	}
	mend()
	m = until(t, 2*migrationLimit, "ended", func(m drive.Migration) bool { return !m.Running || m.State == "stopped" })
	if m.State != "migrated" || !m.Proven {
		t.Fatalf("it was to end on Calico, and proven: %s", m)
	}
	migrated = true
	s := w.stop(t)
	for _, f := range s.Bad {
		if strings.HasPrefix(f.From.Name, "mesh/") && strings.HasPrefix(f.To.Name, "mesh/") {
			t.Errorf("%s to %s: %+v", f.From.Name, f.To.Name, f.Bad)
		}
	}
	if s.Opened > 0 {
		t.Errorf("%d times a flow that policy denies was open", s.Opened)
	}
	if out, err := p.Kubectl(t.Context(), cluster, "get", "nodes", "-o", "jsonpath={.items[*].spec.unschedulable}"); err != nil || out != "" {
		t.Errorf("nodes are cordoned: %s %v", out, err)
	}
}

// TestCanary: the others wait for the approval of the first node's evidence, and of
// no other; then they move two at a time.
func TestCanary(t *testing.T) {
	long(t)
	_, w := set(t, append([]string{"--canary", "--parallel", "2"}, inOrder...)...)
	m := until(t, migrationLimit, "at its gate", func(m drive.Migration) bool { return m.Gate != nil || !m.Running || m.State == "stopped" })
	if m.Gate == nil || m.Gate.Node != "canal-2" || m.State != "awaiting-approval" {
		t.Fatalf("it was to wait for an approval: %s", m)
	}
	for _, n := range []string{"canal-3", "canal-1"} {
		if s := m.Node(n).State; s != "pending" {
			t.Errorf("%s is %s", n, s)
		}
	}
	refusal{args: []string{"migrate", "approve", cluster, "--evidence", strings.Repeat("ab", 16), "--by", by}, code: 5, says: []string{"evidence"}}.try(t)
	call(t, 0, "migrate", "approve", cluster, "--evidence", m.Gate.Evidence[:12], "--by", by, "--why", "seen")
	m = until(t, migrationLimit, "ended", func(m drive.Migration) bool { return !m.Running || m.State == "stopped" })
	if m.State != "migrated" || !m.Proven {
		t.Fatalf("it was to end on Calico, and proven: %s", m)
	}
	migrated = true
	w.stop(t).unharmed(t)
}

// TestNodeJoins: a machine that joins while others move gets Canal, is prepared and
// moves like them.
func TestNodeJoins(t *testing.T) {
	long(t)
	onCanal(t)
	const late = "canal-3"
	boot := inject(t, "power", late)
	_, err := p.Kubectl(t.Context(), cluster, "delete", "node", late)
	must(t, err)
	eventually(t, 5*time.Minute, "the pods of "+late+" to be gone", func() string {
		out, err := p.Kubectl(t.Context(), cluster, "get", "pods", "-A", "--field-selector", "spec.nodeName="+late, "-o", "name")
		if err != nil {
			return err.Error()
		}
		return out
	})
	_, w := set(t)
	reached(t, "canal-2", "swap")
	boot()
	m := until(t, 2*migrationLimit, "ended", func(m drive.Migration) bool { return !m.Running || m.State == "stopped" })
	if m.State != "migrated" || !m.Proven || m.Node(late).State != "calico" {
		t.Fatalf("all three were to end on Calico, and proven: %s", m)
	}
	migrated = true
	w.stop(t).unharmed(t, late)
	if found := left(t); len(found) > 0 {
		t.Errorf("left: %s", strings.Join(found, "\n"))
	}
	connected(t)
}
