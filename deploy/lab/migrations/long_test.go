package migrations

import (
	"slices"
	"strings"
	"testing"
	"time"

	"portcullis.dev/portcullis/deploy/lab/internal/drive"
	"portcullis.dev/portcullis/deploy/lab/internal/drive/drivetest"
)

var (
	// inOrder has the nodes move in an order that is known; the last has the API server.
	inOrder = []string{"--first", "canal-2,canal-3,canal-1"}
	// together has both workers move, and go back, at the same time.
	together = append([]string{"--parallel", "2"}, inOrder...)
)

// moments are all at which a migration can be aborted: steps of the cluster, and of
// each of its nodes.
func moments() (out []moment) {
	for _, step := range []string{"begin", "tunnels", "addresses", "split"} {
		out = append(out, moment{"", step})
	}
	for _, node := range []string{"canal-2", "canal-3", "canal-1"} {
		out = append(out, moment{node, "leave"}, moment{node, "swap"})
	}
	for _, step := range completion {
		out = append(out, moment{"", step})
	}
	return out
}

// completion are the steps that come when all nodes have moved.
var completion = []string{"turn", "unlink", "adopt"}

type moment struct{ node, step string }

func (m moment) String() string { return strings.TrimPrefix(m.node+" "+m.step, " ") }

// late moments come when both workers have moved.
func (m moment) late() bool { return m.node == "canal-1" || slices.Contains(completion, m.step) }

// reboots is the node that reboots at a moment: the one that moves, or any.
func (m moment) reboots() string {
	if m.node != "" {
		return m.node
	}
	return "canal-3"
}

// TestWayBackFromEveryStep aborts at every step of the sequence; also with the
// daemon killed there, and with a node that reboots there. The workers move one after
// the other, but where something else is tried as well and they have moved before.
func TestWayBackFromEveryStep(t *testing.T) {
	long(t)
	for _, m := range moments() {
		for _, c := range []struct {
			name    string
			excused []string
			disturb func(t *testing.T)
		}{
			{"aborted", nil, nil},
			{"daemon killed", nil, func(t *testing.T) { p.Kill(t) }},
			{"node rebooted", []string{m.reboots()}, func(t *testing.T) { reboot(t, m.reboots()) }},
		} {
			t.Run(m.String()+"/"+c.name, func(t *testing.T) {
				flags := inOrder
				if m.late() && c.disturb != nil {
					flags = together
				}
				before, w := set(t, flags...)
				reached(t, m.node, m.step)
				if c.disturb != nil {
					c.disturb(t)
				}
				order(t, "abort")
				wentBack(t, before, w, c.excused...)
			})
		}
	}
}

// set begins a migration on a cluster of which a picture is taken.
func set(t *testing.T, flags ...string) (picture, watch) {
	t.Helper()
	onCanal(t)
	plan := planned(t, flags...)
	before := take(t)
	return before, launch(t, plan, flags...)
}

// TestFaults: whatever breaks on the way, the node is put back, the migration stops
// and says why; mended, it goes on; and the way back is open all the time.
func TestFaults(t *testing.T) {
	long(t)
	for _, c := range []struct {
		name  string
		fault []string
		// says is in the reason.
		says string
		// both is true where Canal cannot come back either: it waits, in sight, until
		// the fault is mended, and stops then.
		both bool
	}{
		{"the CNI folder cannot be written", []string{"cni-readonly", "canal-2"}, "preflight: cni-writable", false},
		{"CNI programs cannot be written", []string{"cni-readonly", "canal-2", "dir=bin"}, "preflight: cni-writable", false},
		{"Calico's overlay is blocked", []string{"block", "canal-3", "proto=udp", "port=4789"}, "canal-3", false},
		{"Calico crashes", []string{"calico", "canal-2", "how=crash"}, "calico-node", false},
		{"Calico hangs", []string{"calico", "canal-2", "how=hang"}, "calico-node", false},
		{"Calico's image, which is Canal's too, is gone", []string{"calico", "canal-2", "how=no-image"}, "calico-node", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, w := set(t, inOrder...)
			reached(t, "", "split")
			mend := p.Inject(t, c.fault...)
			if c.both {
				m := until(t, migrationLimit, "held up on its way back", func(m drive.Migration) bool {
					return !m.Running || m.State == "stopped" || slices.ContainsFunc(m.Waiting, func(w drive.Waiting) bool { return strings.HasPrefix(w.Activity, "undo") })
				})
				t.Log(m)
				mend()
			}
			m := rests(t, migrationLimit)
			t.Log(m)
			if m.State != "stopped" || !strings.Contains(m.Reason, c.says) {
				t.Errorf("it was to stop, and to say %q: %s", c.says, m)
			}
			mend()
			resumed(t, "canal-2")
			order(t, "abort")
			wentBack(t, before, w)
		})
	}
}

// TestPathMTU: what would lose packets of full size is found before anything is changed.
func TestPathMTU(t *testing.T) {
	long(t)
	onCanal(t)
	before := take(t)
	defer p.Inject(t, "mtu", "canal-3", "value=1400", "where=path")()
	refusal{args: []string{"migrate", "plan", cluster, "--calico", calico}, code: 10, says: []string{"path-mtu", "canal-3"}}.try(t)
	before.same(t, 30*time.Second)
}

// TestPowerOff: a node that is off while it moves is waited for; it comes back on
// one side or the other, and the way back is open.
func TestPowerOff(t *testing.T) {
	long(t)
	before, w := set(t, inOrder...)
	reached(t, "canal-2", "swap")
	mend := p.Inject(t, "power", "canal-2")
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
	wentBack(t, before, w, "canal-2")
}

// TestDrain: a budget that lets no pod go holds the node up, in sight, and nothing is
// forced; without it the node is drained and moves. Pods that are not moved, as
// those of DaemonSets, lose nothing.
func TestDrain(t *testing.T) {
	long(t)
	onCanal(t)
	mend := p.Inject(t, "budget", cluster)
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
	held := p.MustKubectl(t, cluster, "-n", "checkout", "get", "pods", "-o", `jsonpath={range .items[*]}{.spec.nodeName} {end}`)
	if !strings.Contains(held, "canal-2") {
		t.Errorf("a pod that may not go has gone: %s", held)
	}
	mend()
	arrived(t, 2*migrationLimit)
	s := w.stop(t)
	for _, f := range s.bad {
		if !f.Allowed || strings.HasPrefix(f.From.Name, "mesh/") && strings.HasPrefix(f.To.Name, "mesh/") {
			t.Error(line(f))
		}
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
	p.Call(t, 0, "migrate", "approve", cluster, "--evidence", m.Gate.Evidence[:12], "--by", by, "--why", "seen")
	arrived(t, migrationLimit)
	w.stop(t).unharmed(t)
}

// TestNodeJoins: a machine that joins while others move gets Canal, is prepared and
// moves like them.
func TestNodeJoins(t *testing.T) {
	long(t)
	onCanal(t)
	const late = "canal-3"
	boot := p.Inject(t, "power", late)
	p.MustKubectl(t, cluster, "delete", "node", late)
	drivetest.Eventually(t, 5*time.Minute, "the pods of "+late+" to be gone", func() string {
		out, err := p.Kubectl(t.Context(), cluster, "get", "pods", "-A", "--field-selector", "spec.nodeName="+late, "-o", "name")
		if err != nil {
			return err.Error()
		}
		return out
	})
	w := launch(t, planned(t))
	reached(t, "canal-2", "swap")
	boot()
	if m := arrived(t, 2*migrationLimit); m.Node(late).State != "calico" {
		t.Errorf("all three were to end on Calico: %s", m)
	}
	w.stop(t).unharmed(t, late)
	clean(t)
	connected(t)
}
