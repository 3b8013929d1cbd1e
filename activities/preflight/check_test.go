package preflight

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	k8stesting "k8s.io/client-go/testing"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/probes/preflight"
	"portcullis.dev/portcullis/probes/preflight/node"
	"portcullis.dev/portcullis/rancher"
)

func result(t *testing.T, r *preflight.Report, id string) preflight.Result {
	t.Helper()
	i := slices.IndexFunc(r.Results, func(res preflight.Result) bool { return res.ID == id })
	if i < 0 {
		t.Fatalf("no result of %s", id)
	}
	return r.Results[i]
}

func TestCheck(t *testing.T) {
	l := newLab(t, 3)
	r, err := l.check(Input{})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{
		"agent-answers", "kernel-version", "nodes-ready", "windows-nodes", "ip-family", "kubernetes-version", "calico-version", "cni-addon",
		"cni-healthy", "flannel-backend", "node-pod-cidr", "flannel-annotations", "ipam-capacity", "kube-proxy-mode", "clock", "link-mtu",
		"reach-tcp-10250", "reach-udp-4789", "reach-udp-8472", "path-mtu", "drain-budgets", "overlay-device",
	} {
		if res := result(t, r, id); res.Status != preflight.Pass {
			t.Errorf("%s: %s: %s %v", id, res.Status, res.Measured, res.More)
		}
	}
	// What the agent of the test leaves out is unknown, not passed.
	for _, id := range []string{"ipset-works", "memory-room", "cni-one-active"} {
		if res := result(t, r, id); res.Status != preflight.Unsure {
			t.Errorf("%s: %s", id, res.Status)
		}
	}
	if r.Target.Version != "v3.28.5" || r.Target.PodCIDR != "10.42.0.0/16" || r.Target.MTU != 1450 || r.Mesh.Pairs != 6 || r.Mesh.Rounds != 1 || l.execs != 3 {
		t.Errorf("%+v, %d execs", r, l.execs)
	}
}

// Nodes without an agent, agents that break, and clocks that are wrong.
func TestCheckThroughTrouble(t *testing.T) {
	l := newLab(t, 4)
	l.broken[nodeName(1)] = errors.New("no tunnel")
	l.flaky[nodeName(2)] = true
	l.skew = time.Minute
	if err := l.kube.CoreV1().Pods("portcullis-system").Delete(t.Context(), "agent-n003", metav1Delete); err != nil {
		t.Fatal(err)
	}
	r, err := l.check(Input{})
	if err != nil {
		t.Fatal(err)
	}
	var unknown []string
	for _, res := range r.Results {
		if res.ID == "agent-answers" && res.Status == preflight.Unsure {
			unknown = append(unknown, strings.Join(res.Nodes, " ")+": "+res.Measured)
		}
	}
	if len(unknown) != 2 || !strings.Contains(unknown[0], "n001: the session with the agent on n001 broke: no tunnel") || !strings.Contains(unknown[1], "n003: the agent is not ready: no agent") {
		t.Errorf("%q", unknown)
	}
	if res := result(t, r, "reach-tcp-10250"); res.Status != preflight.Unsure || !strings.Contains(res.Measured, "2 of 12 directions open, 10 unknown") || !strings.Contains(res.More[0], "n001 took no part") {
		t.Errorf("%+v", res)
	}
	if res := result(t, r, "clock"); res.Status != preflight.Fail || !slices.Equal(res.Nodes, []string{"n000", "n002"}) {
		t.Errorf("%+v", res)
	}
}

func TestCheckPaths(t *testing.T) {
	l := newLab(t, 3)
	l.narrow = 1400
	l.lost = func(from, to int, p preflight.Path) bool {
		return to == 1 && p == preflight.PathFlannel || from == 0 && to == 2 && p == preflight.PathKubelet
	}
	r, err := l.check(Input{})
	if err != nil {
		t.Fatal(err)
	}
	if res := result(t, r, "reach-udp-8472"); res.Status != preflight.Fail || !strings.Contains(strings.Join(res.More, ""), "all nodes -> n001: filtered (it did not arrive)") {
		t.Errorf("%+v", res)
	}
	if res := result(t, r, "reach-tcp-10250"); res.Status != preflight.Fail || !slices.Contains(res.More, "n000 -> n002: filtered") {
		t.Errorf("%+v", res)
	}
	if res := result(t, r, "path-mtu"); res.Status != preflight.Fail || !strings.Contains(res.Remedy, "1350") {
		t.Errorf("%+v", res)
	}
}

// Many nodes meet in rounds, with no more sessions open than allowed, and every pair is told.
func TestCheckInRounds(t *testing.T) {
	l := newLab(t, 30)
	r, err := l.check(Input{AtOnce: 8})
	if err != nil {
		t.Fatal(err)
	}
	if res := result(t, r, "reach-udp-4789"); res.Status != preflight.Pass || res.Measured != "870 of 870 directions open" {
		t.Errorf("%+v", res)
	}
	if l.most > 8 || r.Mesh.Rounds != 28 || r.Mesh.AtOnce > 8 {
		t.Errorf("%d at once, %d execs, %+v", l.most, l.execs, r.Mesh)
	}
	// The facts need one session for each node, the rounds those of the plan.
	if l.execs > 30+r.Mesh.Sessions {
		t.Errorf("%d execs, planned %d", l.execs, r.Mesh.Sessions)
	}
}

// What may not be read is unknown, with the reason; only without nodes is there no report.
func TestCheckDenied(t *testing.T) {
	l := newLab(t, 2)
	l.raw["/apis/crd.projectcalico.org/v1/ippools"] = "forbidden"
	l.raw["/apis"] = "{"
	forbid := func(verb, what string) {
		l.kube.PrependReactor(verb, what, func(k8stesting.Action) (bool, runtime.Object, error) {
			return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: what}, "", errors.New("not allowed"))
		})
	}
	forbid("list", "poddisruptionbudgets")
	forbid("list", "daemonsets")
	r, err := l.check(Input{})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"drain-budgets", "existing-cni", "flannel-backend", "cidr-overlap", "calico-api", "ip-family"} {
		if res := result(t, r, id); res.Status != preflight.Unsure {
			t.Errorf("%s: %s: %s", id, res.Status, res.Measured)
		}
	}
	if res := result(t, r, "drain-budgets"); !strings.Contains(res.Measured, "not allowed") {
		t.Errorf("%+v", res)
	}
	forbid("list", "nodes")
	if _, err := l.check(Input{}); errs.TypeOf(err) != errs.TypeDenied {
		t.Errorf("%v", err)
	}
}

func TestCheckInput(t *testing.T) {
	for _, in := range []Input{{AtOnce: -1}, {PacketTimeout: -1}, {PacketTimeout: time.Hour}} {
		l := newLab(t, 1)
		if _, err := l.activities().Check(t.Context(), in); errs.TypeOf(err) != errs.TypeInvalid {
			t.Errorf("%+v: %v", in, err)
		}
	}
}

func TestDecide(t *testing.T) {
	silent := node.PathAnswer{Answer: preflight.Filtered, Silent: true}
	refused := node.PathAnswer{Answer: preflight.Refused}
	turned := node.PathAnswer{Answer: preflight.Filtered, Detail: "turned away"}
	udp, tcp := preflight.PathFlannel, preflight.PathBGP
	for name, c := range map[string]struct {
		path preflight.Path
		a    node.PathAnswer
		seen bool
		deaf string
		want preflight.Answer
	}{
		"arrived":             {udp, silent, true, "", preflight.Open},
		"arrived, refused":    {udp, refused, true, "", preflight.Open},
		"did not arrive":      {udp, silent, false, "", preflight.Filtered},
		"refused by a filter": {udp, refused, false, "", preflight.Refused},
		"turned away":         {udp, turned, false, "", preflight.Filtered},
		"nobody watched":      {udp, silent, false, "no raw socket", preflight.Untold},
		"tcp open":            {tcp, node.PathAnswer{Answer: preflight.Open}, false, "", preflight.Open},
		"tcp refused":         {tcp, refused, false, "", preflight.Refused},
		"tcp nobody listens":  {tcp, refused, false, "cannot listen", preflight.Untold},
		"an answer unknown":   {tcp, node.PathAnswer{Answer: "perhaps"}, false, "", preflight.Untold},
		"none, but arrived":   {udp, node.PathAnswer{}, true, "", preflight.Open},
		"tcp silent":          {tcp, silent, false, "cannot listen", preflight.Filtered},
	} {
		if got, _ := decide(c.path, c.a, c.seen, c.deaf); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestBoundLeavesOutWhatPassed(t *testing.T) {
	r := &preflight.Report{Results: []preflight.Result{{Status: preflight.Fail}, {Status: preflight.Pass, Measured: strings.Repeat("x", maxReport)}}}
	got, err := bound(r)
	if err != nil || len(got.Results) != 1 || got.LeftOut != 1 {
		t.Errorf("%+v %v", got, err)
	}
}

// The plan is made from what the same preflight found, and an unknown CNI
// configuration means a drain, never a guess.
func TestPlanMigration(t *testing.T) {
	l := newLab(t, 3)
	in := PlanInput{Input: Input{Cluster: rancher.Cluster{ID: "c-1", Name: "dev"}, PacketTimeout: 50 * time.Millisecond}}
	planned, err := l.activities().PlanMigration(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	p := planned.Plan
	if p.Cluster != "dev" || p.From.Name != "canal" || len(p.Nodes) != 3 || p.Target.PodCIDR != "10.42.0.0/16" || planned.Preflight.Pass == 0 {
		t.Errorf("plan %+v, preflight %+v", p, planned.Preflight)
	}
	for _, n := range p.Nodes {
		if n.Mode != migration.Drain || n.Why != "its CNI configuration could not be read" {
			t.Errorf("node %s: %s (%s)", n.Name, n.Mode, n.Why)
		}
	}
	if !slices.ContainsFunc(p.Acknowledge, func(a migration.Acknowledgement) bool { return a.ID == migration.AckUnknown }) {
		t.Errorf("what is unknown need not be acknowledged: %v", p.Acknowledge)
	}
}

// One node of a cluster that is half-way: of what it has, what did not pass is told, and
// nobody else is asked.
func TestCheckNode(t *testing.T) {
	l := newLab(t, 3)
	l.skew = time.Minute
	r, err := l.checkNode(nodeName(1))
	if err != nil {
		t.Fatal(err)
	}
	if res := result(t, r, "clock"); res.Status != preflight.Fail || !slices.Equal(res.Nodes, []string{nodeName(1)}) {
		t.Errorf("%+v", res)
	}
	if res := result(t, r, "ipset-works"); res.Status != preflight.Unsure {
		t.Errorf("%+v", res)
	}
	for _, res := range r.Results {
		if res.Status == preflight.Pass || strings.HasPrefix(res.ID, "reach-") || res.ID == "ports-free" || res.ID == "overlay-device" {
			t.Errorf("%s is told: %+v", res.ID, res)
		}
	}
	if r.Nodes != 1 || l.execs != 1 {
		t.Errorf("%d nodes, %d agents asked", r.Nodes, l.execs)
	}
	if _, err := l.checkNode("nowhere"); errs.TypeOf(err) != errs.TypeNotFound || !strings.Contains(err.Error(), "dev has no node nowhere") {
		t.Error(err)
	}
}

// An agent that is away for a moment is waited for; one that stays away is unknown.
func TestCheckNodeWaitsForItsAgent(t *testing.T) {
	for name, stays := range map[string]bool{"a moment": false, "for good": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, 2)
				l.broken[nodeName(0)] = errors.New("no tunnel")
				start := time.Now()
				if !stays {
					time.AfterFunc(20*time.Second, func() { l.mu.Lock(); defer l.mu.Unlock(); delete(l.broken, nodeName(0)) })
				}
				r, err := l.checkNode(nodeName(0))
				if err != nil {
					t.Fatal(err)
				}
				took := time.Since(start)
				i := slices.IndexFunc(r.Results, func(res preflight.Result) bool { return strings.Contains(res.Measured, "no tunnel") })
				if stays && (i < 0 || len(r.InTheWay(false)) == 0 || len(r.InTheWay(true)) != 0) || !stays && i >= 0 {
					t.Errorf("%+v", r.Results)
				}
				if took < 20*time.Second || took > agentWait {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}
