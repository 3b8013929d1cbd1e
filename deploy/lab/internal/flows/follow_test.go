package flows

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
)

// pod makes one that is ready; its name, UID and address are told apart by id.
func pod(namespace, id, node, daemonSet string) *corev1.Pod {
	yes := true
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: id, UID: types.UID(id)},
		Spec:       corev1.PodSpec{NodeName: node},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "10.0.0." + id[1:],
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
	if daemonSet != "" {
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "DaemonSet", Name: daemonSet, Controller: &yes}}
	}
	return p
}

// processes knows every pod.
func processes(pods []*corev1.Pod) func() map[string]int {
	return func() map[string]int {
		out := map[string]int{}
		for i, p := range pods {
			out[string(p.UID)] = i + 1
		}
		return out
	}
}

// watched takes all flows that are wanted, as a Watch would, and gives their tracks.
func watched(r *roster, start bool) map[string]*track {
	out := map[string]*track{}
	for _, f := range r.wanted(start) {
		t := &track{Flow: f.flow, settling: f.settling}
		f.take(t)
		out[f.flow.From.Name+">"+f.flow.To.Name] = t
	}
	return out
}

func names(tracks map[string]*track) string {
	var out []string
	for name := range tracks {
		out = append(out, name)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func update(r *roster, at time.Time, pods ...*corev1.Pod) {
	r.processes = processes(pods)
	r.update(pods, at)
}

func TestRosterFollowsADaemonSet(t *testing.T) {
	r := newRoster([]Rule{{From: "mesh", To: "mesh", Port: 8080, Allowed: true}, {From: "mesh", To: "mesh", Port: 7000, Allowed: true, Held: true}}, nil)
	a, b := pod("mesh", "p1", "n1", "echo"), pod("mesh", "p2", "n2", "echo")
	host := pod("mesh", "p3", "n1", "echo")
	host.Spec.HostNetwork = true
	start := time.Unix(100, 0)
	update(r, start, a, b, host, pod("other", "p4", "n1", ""))
	first := r.wanted(true)
	if len(first) != 4 || r.missing() != "" {
		t.Fatalf("%d flows, want two of each rule; missing %q", len(first), r.missing())
	}
	var plain, held *track
	for _, f := range first {
		tr := &track{Flow: f.flow}
		f.take(tr)
		switch {
		case f.flow.To.Name == "mesh/echo@n2" && f.flow.Held:
			held = tr
		case f.flow.To.Name == "mesh/echo@n2":
			plain = tr
		}
	}
	if len(r.wanted(false)) != 0 {
		t.Error("a flow is wanted twice")
	}
	// The pod goes: it is missed until the next one on its node is ready.
	gone := b.DeepCopy()
	gone.DeletionTimestamp = &metav1.Time{Time: start.Add(time.Second)}
	update(r, start.Add(time.Second), a, gone)
	next := pod("mesh", "p5", "n2", "echo")
	next.Status.Conditions[0].Status = corev1.ConditionFalse
	update(r, start.Add(2*time.Second), a, next)
	if !plain.until.IsZero() || !held.until.IsZero() || len(r.wanted(false)) != 0 {
		t.Error("it is not missed any more, and the next one is not ready")
	}
	ready := next.DeepCopy()
	ready.Status.Conditions[0].Status = corev1.ConditionTrue
	update(r, start.Add(3*time.Second), a, ready)
	if want := start.Add(3 * time.Second); !plain.until.Equal(want) || !held.until.IsZero() {
		t.Errorf("missed until %s, want %s; the held connection is missed until %s, want the end", plain.until, want, held.until)
	}
	again := watched(r, false)
	if got := names(again); got != "mesh/echo@n1>mesh/echo@n2 mesh/echo@n2>mesh/echo@n1" {
		t.Errorf("watched afterwards: %s", got)
	}
	for name, tr := range again {
		if tr.settling {
			t.Errorf("%s may settle, and there was one before it", name)
		}
	}
}

func TestRosterFollowsADeployment(t *testing.T) {
	r := newRoster([]Rule{{From: "edge", To: "shop", Port: 8443, Allowed: true}, {From: "shop", To: "edge", Port: 8080}}, nil)
	from, to := pod("edge", "p1", "n1", ""), pod("shop", "p2", "n2", "")
	start := time.Unix(100, 0)
	update(r, start, from, to)
	first := watched(r, true)
	if names(first) != "edge/p1>shop/p2 shop/p2>edge/p1" {
		t.Fatal(names(first))
	}
	// Its deletion was asked for a second before that was seen, with 30 s to end.
	grace := int64(30)
	gone := to.DeepCopy()
	gone.DeletionTimestamp, gone.DeletionGracePeriodSeconds = &metav1.Time{Time: start.Add(31 * time.Second)}, &grace
	next := pod("shop", "p3", "n1", "")
	next.Status.Conditions[0].Status = corev1.ConditionFalse
	update(r, start.Add(2*time.Second), from, gone, next)
	if got, want := first["edge/p1>shop/p2"].until, start.Add(time.Second); !got.Equal(want) {
		t.Errorf("allowed until %s, want %s, when it was asked to go", got, want)
	}
	if got, want := first["shop/p2>edge/p1"].until, start.Add(2*time.Second); !got.Equal(want) {
		t.Errorf("denied until %s, want %s, when that was seen", got, want)
	}
	// A pod that is not ready yet is denied what policy denies.
	if got := names(watched(r, false)); got != "shop/p3>edge/p1" {
		t.Errorf("before it is ready: %s", got)
	}
	ready := next.DeepCopy()
	ready.Status.Conditions[0].Status = corev1.ConditionTrue
	update(r, start.Add(3*time.Second), from, ready)
	last := watched(r, false)
	if names(last) != "edge/p1>shop/p3" || !last["edge/p1>shop/p3"].settling {
		t.Errorf("when it is ready: %s", names(last))
	}
}

func TestRosterWaitsForAProcess(t *testing.T) {
	r := newRoster([]Rule{{From: "a", To: "a", Port: 1, Allowed: true}}, func() map[string]int { return nil })
	pods := []*corev1.Pod{pod("a", "p1", "n1", ""), pod("a", "p2", "n1", "")}
	r.update(pods, time.Unix(1, 0))
	if r.missing() == "" {
		t.Error("pods without a process are watched")
	}
	update(r, time.Unix(2, 0), pods...)
	if r.missing() != "" {
		t.Error(r.missing())
	}
}

func TestCompare(t *testing.T) {
	a, b, c, d := *pod("x", "p1", "n", ""), *pod("x", "p2", "n", ""), *pod("x", "p3", "n", ""), *pod("x", "p4", "n", "")
	restarted := *b.DeepCopy()
	restarted.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: 1}}
	moved := *c.DeepCopy()
	moved.Status.PodIP = "10.9.9.9"
	again := *d.DeepCopy()
	again.UID = "other"
	got := Compare([]corev1.Pod{a, b, c, d}, []corev1.Pod{a, restarted, moved, again})
	for _, x := range []struct {
		what string
		got  []string
		want string
	}{{"restarted", got.Restarted, "x/p2"}, {"readdressed", got.Readdressed, "x/p3"}, {"gone", got.Gone, "x/p4"}, {"new", got.New, "x/p4"}} {
		if !slices.Equal(x.got, []string{x.want}) {
			t.Errorf("%s: %v, want %s", x.what, x.got, x.want)
		}
	}
	if got.None() || !Compare([]corev1.Pod{a}, []corev1.Pod{a}).None() {
		t.Error("None")
	}
}

func TestPictureJoinsWhatCannotBeToldApart(t *testing.T) {
	start := time.Unix(100, 0)
	r := Report{From: start, To: start.Add(450 * time.Second), Every: 50 * time.Millisecond}
	got := r.runs([]Try{{At: start.Add(time.Second)}, {At: start.Add(1050 * time.Millisecond)}, {At: start.Add(3 * time.Second)}})
	if len(got) != 2 || got[0].To.Sub(got[0].From) != 100*time.Millisecond {
		t.Errorf("runs: %v", got)
	}
	r.Events = []Event{{start, "a text of some length"}, {start.Add(time.Second), "another one"}, {start.Add(449 * time.Second), "the last, at the right edge"}}
	if lanes := r.lanes(); lanes != 2 {
		t.Errorf("%d lanes, want two: the texts would cover each other", lanes)
	}
}

// A whole watch, of pods that are all in one namespace and told apart by address.
func TestFollow(t *testing.T) {
	pid := namespace(t)
	echo(t, pid, "127.0.0.1:8080")
	stop := echo(t, pid, "127.0.0.2:8080")
	a, b := pod("mesh", "p1", "n1", "echo"), pod("mesh", "p2", "n2", "echo")
	a.Status.PodIP, b.Status.PodIP = "127.0.0.1", "127.0.0.2"
	kube := fake.NewClientset(a, b)
	rules := []Rule{{From: "mesh", To: "mesh", Port: 8080, Allowed: true}}
	w, err := follow(t.Context(), kube, rules, 20*time.Millisecond, func() map[string]int { return map[string]int{"p1": pid, "p2": pid, "p3": pid} })
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	stop()
	if err := kube.CoreV1().Pods("mesh").Delete(t.Context(), "p2", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(400 * time.Millisecond)
	next := pod("mesh", "p3", "n2", "echo")
	next.Status.PodIP = "127.0.0.3"
	echo(t, pid, "127.0.0.3:8080")
	if _, err := kube.CoreV1().Pods("mesh").Create(t.Context(), next, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(400 * time.Millisecond)
	r, err := w.Stop()
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Flows) != 2 {
		t.Fatalf("%d flows, want one in each direction: %+v", len(r.Flows), r.Flows)
	}
	to, from := r.Flows[0], r.Flows[1]
	if gaps := to.Gaps(r.Every); len(gaps) != 1 || gaps[0].Length < 300*time.Millisecond || gaps[0].Length > 700*time.Millisecond || len(to.Spans) != 2 {
		t.Errorf("to the pod that went: gaps %v in %d of %d tries, %d spans", gaps, len(to.Bad), to.Tries, len(to.Spans))
	}
	if len(from.Bad) != 0 || from.Tries < 20 {
		t.Errorf("from it: %d of %d failed", len(from.Bad), from.Tries)
	}
}
