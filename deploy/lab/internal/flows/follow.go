package flows

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

const (
	// syncEvery is the longest time until a change of pods is seen; events bring it on at once.
	syncEvery = 500 * time.Millisecond
	// syncWithin bounds the wait for the pods that are there at the start.
	syncWithin = 30 * time.Second
)

// Follow watches the flows that rules name between a cluster's pods, which must be
// on this machine, and takes in pods that come:
//
//   - An allowed flow is watched while both pods are ready. Of one that begins later
//     what counts begins with its first success, or five seconds after.
//   - A pod of a DaemonSet that goes is missed until the next one on its node is
//     ready; any other is no longer watched once its deletion was asked for.
//   - A denied flow is watched while both pods have an address, ready or not.
//   - Held connections are those between pods that are there at the start.
//
// It returns when all flows between the pods of the start are watched.
func Follow(ctx context.Context, kube kubernetes.Interface, rules []Rule, every time.Duration) (*Watch, error) {
	return follow(ctx, kube, rules, every, byPod)
}

// follow is given how to find a process of each pod, by the pods' UIDs.
func follow(ctx context.Context, kube kubernetes.Interface, rules []Rule, every time.Duration, processes func() map[string]int) (*Watch, error) {
	w := newWatch(ctx, every)
	changed := make(chan struct{}, 1)
	notify := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	factory := informers.NewSharedInformerFactory(kube, 0)
	pods := factory.Core().V1().Pods().Informer()
	_, err := pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { notify() }, UpdateFunc: func(any, any) { notify() }, DeleteFunc: func(any) { notify() },
	})
	if err != nil {
		return nil, err
	}
	factory.Start(w.ctx.Done())
	list := func() (out []*corev1.Pod) {
		for _, o := range pods.GetStore().List() {
			if p, ok := o.(*corev1.Pod); ok {
				out = append(out, p)
			}
		}
		return out
	}
	r := newRoster(rules, processes)
	if err := w.begin(r, pods.HasSynced, list); err != nil {
		w.stop()
		w.done.Wait()
		return nil, err
	}
	w.done.Go(func() { w.follow(r, changed, list) })
	return w, nil
}

// begin waits for the pods of the start, and watches all flows between them.
func (w *Watch) begin(r *roster, synced func() bool, list func() []*corev1.Pod) error {
	ctx, cancel := context.WithTimeout(w.ctx, syncWithin)
	defer cancel()
	missing := "the cluster's pods"
	for {
		if synced() {
			r.update(list(), time.Now())
			if missing = r.missing(); missing == "" {
				break
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("flows: %s: not found within %s", missing, syncWithin)
		case <-time.After(syncEvery):
		}
	}
	for _, f := range r.wanted(true) {
		if err := w.watch(f); err != nil {
			return err
		}
	}
	return nil
}

// watch begins to watch a flow. The process that led to the source may have ended
// since, as one that a probe has started: another of the pod does as well.
func (w *Watch) watch(f want) error {
	t, err := w.add(f.flow, f.settling)
	if err != nil {
		if pid, found := f.roster.processes()[f.ends[0].uid]; found {
			f.ends[0].pod.PID, f.flow.From.PID = pid, pid
			t, err = w.add(f.flow, f.settling)
		}
	}
	if err != nil {
		return err
	}
	f.take(t)
	return nil
}

// follow takes in what changes until the watch ends.
func (w *Watch) follow(r *roster, changed <-chan struct{}, list func() []*corev1.Pod) {
	ticker := time.NewTicker(syncEvery)
	defer ticker.Stop()
	for {
		select {
		case <-w.ctx.Done():
			return
		case <-changed:
		case <-ticker.C:
		}
		r.update(list(), time.Now())
		for _, f := range r.wanted(false) {
			// A pod that went meanwhile has no namespace to enter: the next update says so.
			_ = w.watch(f)
		}
	}
}

// instance is one pod with one address.
type instance struct {
	pod       Pod
	uid       string
	namespace string
	// slot names a DaemonSet's pod and its node; "" of other pods.
	slot  string
	ready bool
	// retired is when it was seen to go, asked when that was asked for.
	retired, asked time.Time
	tracks         []*track
}

// roster knows the pods that rules name, and which flows there are between them.
type roster struct {
	rules     []Rule
	instances map[string]*instance
	have      map[string]bool
	// processes gives a process of each pod of this machine, by the pods' UIDs.
	processes func() map[string]int
}

func newRoster(rules []Rule, processes func() map[string]int) *roster {
	return &roster{rules: rules, processes: processes, instances: map[string]*instance{}, have: map[string]bool{}}
}

func (r *roster) named(namespace string) bool {
	for _, rule := range r.rules {
		if rule.From == namespace || rule.To == namespace {
			return true
		}
	}
	return false
}

// update takes in the pods as they are now.
func (r *roster) update(pods []*corev1.Pod, now time.Time) {
	present := map[string]bool{}
	var pids map[string]int
	for _, p := range pods {
		if p.Spec.HostNetwork || p.Status.PodIP == "" || !r.named(p.Namespace) || p.DeletionTimestamp != nil ||
			p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		key := string(p.UID) + "/" + p.Status.PodIP
		present[key] = true
		i := r.instances[key]
		if i == nil {
			if pids == nil {
				pids = r.processes()
			}
			pid, found := pids[string(p.UID)]
			if !found {
				continue
			}
			i = &instance{pod: Pod{Name: p.Namespace + "/" + p.Name, Node: p.Spec.NodeName, IP: p.Status.PodIP, PID: pid}, uid: string(p.UID), namespace: p.Namespace}
			if o := metav1.GetControllerOf(p); o != nil && o.Kind == "DaemonSet" {
				i.slot = p.Namespace + "/" + o.Name + "@" + p.Spec.NodeName
				i.pod.Name = i.slot
			}
			r.instances[key] = i
		}
		if ready(p) && !i.ready {
			i.ready = true
			r.replaced(i, now)
		}
	}
	asked := map[string]time.Time{}
	for _, p := range pods {
		if p.DeletionTimestamp != nil {
			at := p.DeletionTimestamp.Time
			if g := p.DeletionGracePeriodSeconds; g != nil {
				at = at.Add(-time.Duration(*g) * time.Second)
			}
			asked[string(p.UID)+"/"+p.Status.PodIP] = at
		}
	}
	for key, i := range r.instances {
		if present[key] || !i.retired.IsZero() {
			continue
		}
		i.retired, i.asked = now, now
		if at, ok := asked[key]; ok && at.Before(now) {
			i.asked = at
		}
		for _, t := range i.tracks {
			switch {
			case !t.Allowed:
				t.end(now)
			case i.slot == "":
				t.end(i.asked)
			}
		}
	}
}

// replaced ends what was missed of a DaemonSet's pod, as the next one is ready.
func (r *roster) replaced(by *instance, now time.Time) {
	if by.slot == "" {
		return
	}
	for _, i := range r.instances {
		if i == by || i.slot != by.slot {
			continue
		}
		for _, t := range i.tracks {
			if !t.Held {
				t.end(now)
			}
		}
	}
}

func ready(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// missing names a rule that has no flow, or "".
func (r *roster) missing() string {
	for _, rule := range r.rules {
		if len(r.of(rule)) == 0 {
			return fmt.Sprintf("ready pods for flows from namespace %s to %s", rule.From, rule.To)
		}
	}
	return ""
}

// want is a flow that is not watched yet.
type want struct {
	flow     Flow
	settling bool
	key      string
	roster   *roster
	ends     [2]*instance
}

// take notes that it is watched.
func (f want) take(t *track) {
	f.roster.have[f.key] = true
	for _, i := range f.ends {
		i.tracks = append(i.tracks, t)
	}
}

// wanted are the flows that are to be watched from now on; those of the start
// include the held ones.
func (r *roster) wanted(start bool) (out []want) {
	for _, rule := range r.rules {
		if rule.Held && !start {
			continue
		}
		for _, f := range r.of(rule) {
			if !r.have[f.key] {
				f.settling = !start && (f.ends[0].slot == "" || f.ends[1].slot == "")
				out = append(out, f)
			}
		}
	}
	return out
}

// of are a rule's flows between the pods that are there; a pod has none to itself.
func (r *roster) of(rule Rule) (out []want) {
	for fromKey, from := range r.instances {
		for toKey, to := range r.instances {
			if from.namespace != rule.From || to.namespace != rule.To || from == to || !from.retired.IsZero() || !to.retired.IsZero() {
				continue
			}
			if rule.Allowed && !(from.ready && to.ready) {
				continue
			}
			out = append(out, want{
				flow:   Flow{From: from.pod, To: to.pod, Port: rule.Port, Allowed: rule.Allowed, Held: rule.Held},
				key:    fmt.Sprintf("%s>%s:%d %t %t", fromKey, toKey, rule.Port, rule.Allowed, rule.Held),
				roster: r, ends: [2]*instance{from, to},
			})
		}
	}
	return out
}
