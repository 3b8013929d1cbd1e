package migrations

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"portcullis.dev/portcullis/deploy/lab/internal/drive"
	"portcullis.dev/portcullis/deploy/lab/internal/flows"
)

// refusal is a command line that is refused with an exit code, and one line for each
// thing that is wrong; together they say all of says.
type refusal struct {
	name string
	args []string
	code int
	says []string
	// lines is how many there are, where it is not one.
	lines int
}

func (c refusal) try(t *testing.T) {
	t.Helper()
	r, err := p.CLI(t.Context(), c.args...)
	must(t, err)
	// Before the refusal it may tell how far it is.
	told := slices.DeleteFunc(strings.Split(r.Stderr, "\n"), func(l string) bool { return !strings.HasPrefix(l, "portcullis: ") })
	t.Logf("exit %d: %s", r.Code, strings.Join(told, "\n"))
	if r.Code != c.code {
		t.Errorf("exit %d, want %d", r.Code, c.code)
	}
	if want := max(c.lines, 1); len(told) != want {
		t.Errorf("%d lines, want %d", len(told), want)
	}
	for _, s := range c.says {
		if !strings.Contains(strings.Join(told, "\n")+r.Stdout, s) {
			t.Errorf("does not say %q", s)
		}
	}
}

// TestRefused: what cannot be meant, and what cannot be done, is told with an exit
// code and one line, and nothing is changed on the cluster.
func TestRefused(t *testing.T) {
	fresh(t, three)
	manifest := func(file string) string {
		path, err := p.CalicoManifest(t.Context(), file)
		must(t, err)
		return path
	}
	start := func(more ...string) []string {
		return append([]string{"migrate", "start", cluster, "--by", by}, more...)
	}
	if !policed {
		beginPolicies(t)
	}
	some := strings.Repeat("ab", 32)
	for _, c := range []refusal{
		{name: "no plan is named", args: start("--calico", calico), code: 2, says: []string{"--plan"}},
		{name: "what is named is no hash", args: start("--plan", "latest", "--calico", calico), code: 2, says: []string{"--plan", "latest"}},
		{name: "no manifest", args: start("--plan", some), code: 2, says: []string{"--calico"}},
		{name: "no such manifest", args: start("--plan", some, "--calico", "nowhere.yaml"), code: 4, says: []string{"nowhere.yaml"}},
		{name: "Canal's manifest", args: start("--plan", some, "--calico", manifest("canal.yaml")), code: 3, says: []string{"canal.yaml:", "calico-vxlan.yaml"}},
		{name: "a manifest for BGP", args: start("--plan", some, "--calico", manifest("calico.yaml")), code: 3, says: []string{"calico.yaml:", "bird", "calico-vxlan.yaml"}, lines: 5},
		{name: "the operator's manifest", args: []string{"migrate", "plan", cluster, "--calico", manifest("tigera-operator.yaml")}, code: 3, says: []string{"tigera-operator.yaml:"}},
		{name: "no such mode", args: []string{"migrate", "plan", cluster, "--mode", "fast"}, code: 2, says: []string{"--mode", "fast"}},
		{name: "no such cluster", args: []string{"migrate", "plan", "nowhere"}, code: 4, says: []string{"nowhere"}},
		{name: "nothing to abort", args: []string{"migrate", "abort", "nowhere", "--by", by}, code: 4, says: []string{"nowhere"}},
	} {
		t.Run(c.name, c.try)
	}
	if !policed {
		pausePolicies(t)
	}
	plan := planned(t)
	hash := plan.Plan.Hash
	if !policed {
		t.Run("a rollout touches the cluster", refusal{
			args: start("--plan", hash, "--calico", calico), code: 5, says: []string{"rollout/" + drive.Pipeline, cluster},
		}.try)
		p.Call(t, 0, "rollout", "resume", drive.Pipeline, "--by", by)
		awaitPolicies(t)
	}
	before := take(t)
	for _, c := range []refusal{
		{name: "another plan", args: start("--plan", some, "--calico", calico), code: 5, says: []string{"abababababab", "migrate plan"}},
		{name: "planned with other flags", args: start("--plan", hash, "--calico", calico, "--vni", "4097"), code: 5, says: []string{hash[:12], "migrate plan"}},
		{name: "no such node to begin with", args: []string{"migrate", "plan", cluster, "--calico", calico, "--first", "nowhere"}, code: 10, says: []string{"nowhere"}},
		{name: "flannel's own overlay", args: []string{"migrate", "plan", cluster, "--calico", calico, "--vni", "1", "--port", "8472"}, code: 10, says: []string{"8472"}},
	} {
		t.Run(c.name, c.try)
	}
	t.Run("the port is taken on a node", func(t *testing.T) {
		defer p.Inject(t, "port", "canal-2", "proto=udp", "port=4789")()
		for _, c := range []refusal{
			{name: "preflight", args: []string{"preflight", cluster}, code: 10, says: []string{"4789", "canal-2"}},
			{name: "plan", args: []string{"migrate", "plan", cluster, "--calico", calico}, code: 10, says: []string{"4789", "canal-2"}},
			{name: "start", args: start("--plan", hash, "--calico", calico), code: 10, says: []string{"4789", "canal-2"}},
		} {
			t.Run(c.name, c.try)
		}
	})
	before.same(t, 30*time.Second)
}

// TestWayBack aborts in the middle of the first node's move, after the daemon was
// killed and the node has rebooted there, and finds the cluster as it was.
func TestWayBack(t *testing.T) {
	onCanal(t)
	const moving = "canal-2"
	plan := planned(t, "--first", moving)
	before := take(t)
	w := launch(t, plan, "--first", moving)
	t.Run("a rollout is refused meanwhile", func(t *testing.T) {
		revision := p.MustLab(t, "policy", "commit", "v1")
		refusal{args: []string{"rollout", "start", "-f", policies(t), "--revision", revision, "--by", by}, code: 5, says: []string{"migrate/" + cluster}}.try(t)
	})
	t.Run("a second start is refused", func(t *testing.T) {
		refusal{args: []string{"migrate", "start", cluster, "--plan", plan.Plan.Hash, "--calico", calico, "--first", moving, "--by", by}, code: 5, says: []string{"runs already", by}}.try(t)
	})
	reached(t, moving, "swap")
	p.Kill(t)
	reboot(t, moving)
	order(t, "abort")
	wentBack(t, before, w, moving)
}

// launch begins a migration with every flow watched; one that the test leaves half-way
// is aborted.
func launch(t *testing.T, plan drive.MigrationPlan, flags ...string) watch {
	t.Helper()
	w := watchFlows(t.Context(), t)
	begin(t, plan, flags...)
	t.Cleanup(func() {
		ctx, stop := context.WithTimeout(context.WithoutCancel(t.Context()), migrationLimit)
		defer stop()
		if m, err := p.Migration(ctx, cluster); err == nil && m.Running {
			_, _ = p.CLI(ctx, "migrate", "abort", cluster, "--by", by)
			_, _ = p.UntilMigration(ctx, cluster, migrationLimit, "ended", func(m drive.Migration) bool { return !m.Running })
		}
	})
	return w
}

func reboot(t *testing.T, node string) {
	t.Helper()
	p.MustLab(t, "node", "reboot", node)
}

// wentBack waits for the end of the way back and wants everything to be as before, with
// no flow harmed but for those of nodes that are excused.
func wentBack(t *testing.T, before picture, w watch, excused ...string) {
	t.Helper()
	m := until(t, migrationLimit, "ended", func(m drive.Migration) bool { return !m.Running })
	if m.State != "original" || !m.Proven {
		t.Errorf("it was to end on Canal, and proven: %s", m)
	}
	if !strings.Contains(m.Reason, by) {
		t.Errorf("the reason does not say who ended it: %s", m)
	}
	for _, n := range m.Nodes {
		if n.State != "pending" && n.State != "canal" {
			t.Errorf("%s is %s", n.Name, n.State)
		}
	}
	if r, err := p.CLI(t.Context(), "migrate", "watch", cluster); err != nil || r.Code != 9 {
		t.Errorf("watching what ended on Canal: exit %d, want 9: %s %v", r.Code, r.Stderr, err)
	}
	settled(t)
	if len(excused) > 0 { // of all others the watch tells
		connected(t)
	}
	before.same(t, 2*time.Minute)
	w.stop(t).unharmed(t, excused...)
}

// settled waits until every pod is ready: kubelet gives up on some for a while where a
// node boots in the middle of a swap.
func settled(t *testing.T) {
	t.Helper()
	p.MustKubectl(t, cluster, "wait", "pods", "-A", "--all", "--for=condition=Ready", "--timeout=110s")
}

// passage is a migration that goes all the way; one test begins it and the next
// one sees its end.
var passage struct {
	plan   drive.MigrationPlan
	watch  watch
	before []corev1.Pod
}

// depart begins the passage, with every flow watched.
func depart(t *testing.T) {
	t.Helper()
	onCanal(t)
	passage.plan = planned(t)
	passage.before = pods(t)
	passage.watch = watchFlows(context.WithoutCancel(t.Context()), t) // it outlasts the test
	begin(t, passage.plan)
}

// TestCalicoDoesNotComeUp: the node fails, is put back, and the migration stops with
// the reason, half-way; once what is wrong is mended, it goes on.
func TestCalicoDoesNotComeUp(t *testing.T) {
	depart(t)
	first, failing := passage.plan.Plan.Nodes[0].Name, passage.plan.Plan.Nodes[1].Name
	mend := p.Inject(t, "calico", failing, "how=crash")
	m := rests(t, migrationLimit)
	t.Log(m)
	if m.State != "stopped" || !m.Proven || !strings.Contains(m.Reason, failing) {
		t.Fatalf("it was to stop for %s, with the wire as before: %s", failing, m)
	}
	if n := m.Node(first); n.State != "calico" {
		t.Errorf("%s is to stay on Calico: %+v", first, n)
	}
	if n := m.Node(failing); n.State != "canal" || !strings.Contains(n.Reason, "calico-node") {
		t.Errorf("%s was to be put back to Canal, and to say why: %+v", failing, n)
	}
	ready := p.MustKubectl(t, cluster, "-n", "kube-system", "get", "pods", "-l", "k8s-app=canal", "--field-selector", "spec.nodeName="+failing,
		"-o", `jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}`)
	if ready != "True" {
		t.Errorf("Canal on %s is ready: %q", failing, ready)
	}
	mend()
	resumed(t, failing)
}

// TestInPlace: the whole way, with every flow tried twenty times a second.
func TestInPlace(t *testing.T) {
	if passage.before == nil {
		depart(t)
	}
	m := arrived(t, migrationLimit)
	passage.watch.stop(t).unharmed(t)
	if c := flows.Compare(passage.before, pods(t)); !c.None() {
		t.Errorf("pods are not what they were: %+v", c)
	}
	for _, n := range m.Nodes {
		t.Logf("%s: %s, own time %s", n.Name, n.State, n.Own.Round(time.Millisecond))
	}
	p.Call(t, 0, "migrate", "watch", cluster)
	clean(t)
	asWanted(t, passage.plan)
	t.Run("pods that start now", func(t *testing.T) {
		p.MustKubectl(t, cluster, "-n", "mesh", "delete", "pods", "--all", "--wait")
		p.MustKubectl(t, cluster, "-n", "mesh", "rollout", "status", "daemonset/node-echo", "--timeout=90s")
		connected(t)
	})
	t.Run("there is nothing to migrate from any more", func(t *testing.T) {
		for _, c := range []refusal{
			{name: "plan", args: []string{"migrate", "plan", cluster, "--calico", calico}, code: 10, says: []string{"no Canal"}},
			{name: "start", args: []string{"migrate", "start", cluster, "--plan", passage.plan.Plan.Hash, "--calico", calico, "--by", by}, code: 10, says: []string{"no Canal"}},
		} {
			t.Run(c.name, c.try)
		}
	})
}

// asWanted sees that Calico's overlay and pool are those that the plan named.
func asWanted(t *testing.T, plan drive.MigrationPlan) {
	t.Helper()
	target := plan.Plan.Target
	for _, n := range now.nodes {
		device := p.MustInNode(t, n, "ip -d link show vxlan.calico")
		for _, want := range []string{fmt.Sprintf("vxlan id %d ", target.VNI), fmt.Sprintf("dstport %d ", target.Port)} {
			if !strings.Contains(device, want) {
				t.Errorf("%s: vxlan.calico lacks %q: %s", n, want, device)
			}
		}
	}
	text := p.MustKubectl(t, cluster, "get", "ippools.crd.projectcalico.org",
		"-o", `jsonpath={range .items[*]}{.spec.cidr} {.spec.vxlanMode} {.spec.ipipMode} {.spec.blockSize} {.spec.natOutgoing}{"\n"}{end}`)
	// Canal's own pool, which nothing used, is gone.
	pools := strings.Split(strings.TrimSpace(text), "\n")
	if want := fmt.Sprintf("%s Always Never %d true", target.PodCIDR, target.BlockSize); len(pools) != 1 || pools[0] != want {
		t.Errorf("pools: %q, want %q", pools, want)
	}
}
