package migration

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"portcullis.dev/portcullis/deploy/lab/internal/drive/drivetest"
	"portcullis.dev/portcullis/deploy/lab/internal/flows"
)

// watched are flows that policies allow and deny. What is denied is served: the same
// ports are reached by those that may.
var watched = drivetest.Flows{
	Allow: []string{"mesh:mesh:8080", "edge:checkout:8443"},
	Deny:  []string{"edge:mesh:8080", "mesh:checkout:8443"},
	Hold:  []string{"mesh:mesh:7000"},
}

const (
	// checked is how long all is watched before anything is done, and quiet how long it
	// may take until policies that were just applied do what they say.
	checked = 5 * time.Second
	quiet   = time.Minute
	// afterwards is how long all is watched when it is over.
	afterwards = 10 * time.Second
)

// recording is one run being watched.
type recording struct {
	b      *testing.B
	stage  *stage
	watch  *flows.Watch
	stop   context.CancelFunc
	before []corev1.Pod
	began  time.Time

	mu       sync.Mutex
	cordoned map[string]*span
}

// span is the time in which a node was moved.
type span struct{ from, to time.Time }

func (s span) has(t time.Time) bool {
	return !t.Before(s.from) && (s.to.IsZero() || t.Before(s.to))
}

// record sees first that what is allowed works and what is denied does not, and then
// watches until finish.
func (s *stage) record(b *testing.B) *recording {
	b.Helper()
	s.sound(b)
	r := &recording{b: b, stage: s, cordoned: map[string]*span{}, before: s.pods(b)}
	r.watch = watched.Follow(b.Context(), b, s.kube)
	r.followNodes()
	time.Sleep(checked)
	r.began = time.Now()
	return r
}

// sound waits until the policies do what they say, and fails where they do not.
func (s *stage) sound(b *testing.B) {
	b.Helper()
	var t flows.Totals
	for end := time.Now().Add(quiet); time.Now().Before(end); {
		var err error
		t, err = watched.Look(b, s.kube, checked)
		must(b, err)
		if t.Failed+t.Opened+t.HeldLost+t.HeldLate == 0 && t.Denied > 0 && t.Tries > t.Denied && t.Held > 0 {
			return
		}
	}
	b.Fatalf("before anything is done, policies do not do what they say: %s", t)
}

// pods are those of the pod network, but for Calico's controllers: they are what is exchanged.
func (s *stage) pods(b *testing.B) (out []corev1.Pod) {
	b.Helper()
	list, err := s.kube.CoreV1().Pods("").List(b.Context(), metav1.ListOptions{})
	must(b, err)
	for _, p := range list.Items {
		if app := p.Labels["k8s-app"]; !p.Spec.HostNetwork && app != "calico-kube-controllers" && app != "flannel-migration-controller" {
			out = append(out, p)
		}
	}
	return out
}

// labels that say which network a node has, or is to have.
var labels = []string{"portcullis.dev/cni", "projectcalico.org/node-network-during-migration"}

// followNodes notes what is done to nodes.
func (r *recording) followNodes() {
	ctx, stop := context.WithCancel(context.WithoutCancel(r.b.Context()))
	r.stop = stop
	factory := informers.NewSharedInformerFactory(r.stage.kube, 0)
	_, err := factory.Core().V1().Nodes().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(old, new any) {
			was, ok := old.(*corev1.Node)
			is, ok2 := new.(*corev1.Node)
			if ok && ok2 {
				r.node(was, is)
			}
		},
	})
	must(r.b, err)
	factory.Start(ctx.Done())
}

func (r *recording) node(was, is *corev1.Node) {
	if was.Spec.Unschedulable != is.Spec.Unschedulable {
		r.cordon(is.Name, is.Spec.Unschedulable)
	}
	for _, l := range labels {
		if value := is.Labels[l]; was.Labels[l] != value && value != "" {
			r.watch.Mark("%s: %s", is.Name, value)
		}
	}
}

func (r *recording) cordon(node string, on bool) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if on {
		r.watch.MarkAt(now, "%s cordoned", node)
		r.cordoned[node] = &span{from: now}
		return
	}
	r.watch.MarkAt(now, "%s uncordoned", node)
	if s := r.cordoned[node]; s != nil {
		s.to = now
	}
}

// figures are what is measured of a run.
type figures struct {
	Name     string
	Result   string
	Noticed  []string      `json:",omitempty"`
	Took     time.Duration // from the first change to the end
	PerNode  map[string]time.Duration
	Own      map[string]time.Duration `json:",omitempty"`
	Flows    flows.Totals
	Late     int
	Pods     flows.Changes
	Watched  int // pods that were there before
	Residue  []string
	Cordoned []string `json:",omitempty"`
	NotReady []string `json:",omitempty"`
	Failing  []string `json:",omitempty"` // flows that failed to the end
	between
}

// between are failures by where the pods were.
type between struct {
	// Still are failures between pods of nodes that were not being moved then, and
	// were on the same side.
	Still int
	// Across is the longest gap between a moved node and one that was not, neither of
	// which was being moved.
	Across time.Duration
	// Moving is the longest gap of a flow of a node that was being moved.
	Moving time.Duration
}

// finish watches a little longer, and tells what was seen; moved are the times in
// which nodes were.
func (r *recording) finish(moved map[string]span) (figures, flows.Report) {
	r.b.Helper()
	took := time.Since(r.began)
	time.Sleep(afterwards)
	r.stop()
	r.mu.Lock()
	for node, s := range r.cordoned {
		if m, known := moved[node]; known && !s.to.IsZero() {
			moved[node] = span{m.from, s.to}
		} else if !known {
			moved[node] = *s
		}
	}
	r.mu.Unlock()
	for _, node := range slices.Sorted(maps.Keys(moved)) {
		to := moved[node].to
		if to.IsZero() {
			to = time.Now()
		}
		r.watch.Lasted(moved[node].from, to, node)
	}
	report, err := r.watch.Stop()
	must(r.b, err)
	after := r.stage.pods(r.b)
	f := figures{
		Name: r.b.Name(), Took: took, Flows: report.Totals(), Late: report.Late, Watched: len(r.before),
		Pods: flows.Compare(r.before, after), PerNode: map[string]time.Duration{}, between: where(report, moved),
		Residue: r.stage.residue(r.b), Failing: failing(report), NotReady: notReady(after), Cordoned: r.stage.cordonedNodes(r.b),
	}
	for node, s := range moved {
		if !s.to.IsZero() {
			f.PerNode[node] = s.to.Sub(s.from)
		}
	}
	return f, report
}

// where sorts gaps by where the pods were.
func where(r flows.Report, moved map[string]span) (out between) {
	for _, s := range r.Flows {
		if !s.Allowed || s.Held {
			continue
		}
		for _, g := range s.Gaps(r.Every) {
			from, to := moved[s.From.Node], moved[s.To.Node]
			isMoved := func(m span) bool { return !m.to.IsZero() && !g.From.Before(m.to) }
			switch {
			case busy(from, g.From) || busy(to, g.From):
				out.Moving = max(out.Moving, g.Length)
				// What of it is left when both are back counts as theirs.
				if end := g.From.Add(g.Length); !busy(from, end) && !busy(to, end) {
					out.Across = max(out.Across, end.Sub(latest(from.to, to.to, g.From)))
				}
			case isMoved(from) != isMoved(to):
				out.Across = max(out.Across, g.Length)
			default:
				out.Still += g.Tries
			}
		}
	}
	return out
}

func busy(s span, at time.Time) bool { return !s.from.IsZero() && s.has(at) }

// latest is the later of those times at which moves ended that are after a time.
func latest(a, b, after time.Time) time.Time {
	last := after
	for _, t := range []time.Time{a, b} {
		if t.After(last) {
			last = t
		}
	}
	return last
}

// failing are flows that worked at no time in the last seconds.
func failing(r flows.Report) (out []string) {
	since := r.To.Add(-afterwards / 2)
	for _, s := range r.Flows {
		if !s.Allowed || s.Held || len(s.Spans) == 0 || s.Spans[len(s.Spans)-1].To.Before(r.To) {
			continue
		}
		for _, g := range s.Gaps(r.Every) {
			if g.From.Before(since) && g.From.Add(g.Length).After(r.To.Add(-time.Second)) {
				out = append(out, s.From.Name+" to "+s.To.Name)
			}
		}
	}
	return out
}

func notReady(pods []corev1.Pod) (out []string) {
	for _, p := range pods {
		ready := slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		})
		if !ready && p.Status.Phase != corev1.PodSucceeded {
			out = append(out, p.Namespace+"/"+p.Name+" "+string(p.Status.Phase))
		}
	}
	return out
}

func (s *stage) cordonedNodes(b *testing.B) (out []string) {
	b.Helper()
	list, err := s.kube.CoreV1().Nodes().List(b.Context(), metav1.ListOptions{})
	must(b, err)
	for _, n := range list.Items {
		if n.Spec.Unschedulable {
			out = append(out, n.Name)
		}
	}
	return out
}

// tell reports a run, and keeps its picture.
func tell(b *testing.B, title string, f figures, r flows.Report) {
	b.Helper()
	b.ReportMetric(f.Took.Seconds(), "s")
	b.ReportMetric(float64(f.Flows.Failed), "failed")
	b.ReportMetric(f.Flows.Longest.Seconds(), "s-longest-gap")
	b.ReportMetric(float64(f.Flows.Opened), "denied-open")
	b.ReportMetric(float64(f.Flows.HeldLost), "held-lost")
	b.ReportMetric(float64(len(f.Pods.Gone)), "pods-recreated")
	b.ReportMetric(0, "ns/op")
	write(b, ".json", f)
	write(b, "-report.json", r)
	write(b, ".svg", r.SVG(title))
	var own []string
	for _, n := range slices.Sorted(maps.Keys(f.Own)) {
		own = append(own, fmt.Sprintf("%s %s", n, f.Own[n].Round(time.Millisecond)))
	}
	b.Logf("%s: %s after %s (per node %v; own %s)\n  %s; %d ticks late, %d held bytes late, %d echoed late\n  between nodes at rest %d failed; across at most %s; of a node being moved at most %s\n"+
		"  of %d pods %d gone, %d restarted, %d with another address; %d left behind; cordoned %v; not ready %v; failing to the end %v\n  noticed: %s",
		title, f.Result, f.Took.Round(time.Second), f.PerNode, strings.Join(own, ", "), f.Flows, f.Late, f.Flows.HeldLate, f.Flows.HeldSlow, f.Still, f.Across, f.Moving,
		f.Watched, len(f.Pods.Gone), len(f.Pods.Restarted), len(f.Pods.Readdressed), len(f.Residue), f.Cordoned, f.NotReady, f.Failing, strings.Join(f.Noticed, "\n    "))
	if f.Flows.Opened > 0 {
		b.Errorf("%d times a flow that policy denies was open", f.Flows.Opened)
	}
}
