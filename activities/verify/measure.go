package verify

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/pace"
	"portcullis.dev/portcullis/probes"
)

const (
	// heartbeatEvery is the time between two heartbeats.
	heartbeatEvery = 2 * time.Second
	// listTimeout bounds one wait for the first listing of a cluster.
	listTimeout = 15 * time.Second
	// retryEvery is the time between two attempts to reach a cluster.
	retryEvery = 2 * time.Second
	// minSpacing is the least time between the starts of two rounds.
	minSpacing = 250 * time.Millisecond
	// waitSpacing is the same while something cannot be measured.
	waitSpacing = time.Second
	// maxIdle is how long a session is kept without a round.
	maxIdle = 15 * time.Second
)

// measurement is one call of Measure.
type measurement struct {
	*Activities
	in       Input
	settings probes.Settings
	// started is when the first attempt began, begun when this one did.
	started, begun time.Time

	mu       sync.Mutex
	progress Progress

	window  *probes.Window
	plan    *probes.Plan
	version int
	// seen is the number of changes that the plan knows of; results are those of the last round.
	seen      int64
	results   []probes.RequirementResult
	rounds    int
	probeTime time.Duration
}

func newMeasurement(a *Activities, in Input, started time.Time) *measurement {
	m := &measurement{Activities: a, in: in, settings: in.Settings, started: started, begun: a.now(), seen: -1}
	rules := make([]probes.Rule, len(in.Requirements))
	for i, r := range in.Requirements {
		rules[i] = probes.RuleFor(r.Expect, m.settings)
		if in.Mode == Compare {
			// Whether it is open or shut, it must be so for the whole window.
			rules[i] = probes.RuleFor(probes.Deny, m.settings)
		}
	}
	// The time in which nobody measured does not count as unmet.
	m.window = probes.NewWindow(rules, m.settings.Deadline.Duration, m.begun)
	m.progress = Progress{Phase: "connecting", Total: len(in.Requirements), StartedAt: started}
	return m
}

// resumed is when the first attempt of this activity began.
func resumed(ctx context.Context, now time.Time) time.Time {
	if !activity.IsActivity(ctx) || !activity.HasHeartbeatDetails(ctx) {
		return now
	}
	var last Progress
	if err := activity.GetHeartbeatDetails(ctx, &last); err != nil || last.StartedAt.IsZero() {
		return now
	}
	return last.StartedAt
}

// beat heartbeats the progress until stop is called. What is over before the first
// beat costs Temporal none.
func (m *measurement) beat(ctx context.Context) (stop func()) {
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(heartbeatEvery)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				m.heartbeat(ctx)
			}
		}
	})
	return func() { close(done); running.Wait() }
}

func (m *measurement) heartbeat(ctx context.Context) {
	if !activity.IsActivity(ctx) {
		return
	}
	m.mu.Lock()
	p := m.progress
	m.mu.Unlock()
	activity.RecordHeartbeat(ctx, p)
}

func (m *measurement) note(change func(*Progress)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(&m.progress)
}

// run measures until there is a verdict.
func (m *measurement) run(ctx context.Context) (*probes.Evidence, error) {
	m.metrics.running.WithLabelValues(string(m.in.Mode)).Inc()
	defer m.metrics.running.WithLabelValues(string(m.in.Mode)).Dec()
	defer m.metrics.setWaiting(m.in.Cluster.Name, false)
	conn, v, err := m.open(ctx)
	defer v.close()
	if err != nil {
		return m.giveUp(ctx, err)
	}
	p := &prober{exec: conn.exec, token: token(), timeout: m.settings.Timeout.Duration, opening: m.opening}
	defer p.close()
	for {
		r := m.round(ctx, v, p)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		m.settle(r)
		if passed, done := m.decide(r); done {
			return m.evidence(passed, r), nil
		}
		pause := m.pause(r)
		if pause > maxIdle {
			// What carries a session may cut it when nothing is said for long.
			p.close()
		}
		if err := pace.Sleep(ctx, pause); err != nil {
			return nil, err
		}
	}
}

// open connects to the cluster and lists it, again and again until the deadline.
func (m *measurement) open(ctx context.Context) (*connection, *view, error) {
	var last error
	for {
		conn, v, err := m.tryOpen(ctx)
		if err == nil {
			return conn, v, nil
		}
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		last = classify(m.in.Cluster.Name, err)
		m.wait(errs.Message(last))
		if m.window.Expired(m.now()) {
			return nil, nil, last
		}
		if err := pace.Sleep(ctx, retryEvery); err != nil {
			return nil, nil, err
		}
	}
}

func (m *measurement) tryOpen(ctx context.Context) (*connection, *view, error) {
	conn, err := m.connect(m.in.Cluster.ID)
	if err != nil {
		return nil, nil, err
	}
	// A watch keeps its errors to itself while it tries again; a plain request does not.
	if err := reachable(ctx, conn.kube); err != nil {
		return nil, nil, err
	}
	v, err := watch(ctx, conn.kube, m.config.Namespace)
	if err != nil {
		return nil, nil, err
	}
	if err := v.wait(ctx, min(listTimeout, m.settings.Deadline.Duration)); err != nil {
		v.close()
		return nil, nil, err
	}
	return conn, v, nil
}

// reachable asks the API server for as little as possible of what is needed.
func reachable(ctx context.Context, kube kubernetes.Interface) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := kube.CoreV1().Pods("").List(ctx, metav1.ListOptions{Limit: 1})
	return err
}

// wait tells people what is waited for; an empty reason is that nothing is.
func (m *measurement) wait(reason string) {
	m.note(func(p *Progress) {
		p.Waiting = reason
		if reason != "" && p.Round == 0 {
			p.Phase = "waiting"
		}
	})
	m.metrics.setWaiting(m.in.Cluster.Name, reason != "")
}

// round is what one round found.
type round struct {
	plan *probes.Plan
	got  []probes.Measured
	// results are the flows, whole.
	results []probes.RequirementResult
	// verdicts are what the round says in this mode.
	verdicts   []probes.Verdict
	comparison probes.Comparison
	begin, end time.Time
	waiting    []string
	unrun      bool
}

// round expands the requirements, probes every pair once and judges.
func (m *measurement) round(ctx context.Context, v *view, p *prober) *round {
	m.replan(v)
	r := &round{plan: m.plan, begin: m.now()}
	m.rounds++
	m.note(func(p *Progress) { p.Phase, p.Round = string(m.in.Mode), m.rounds })
	before := v.cluster()
	agents, missing := v.agents()
	outcomes, waiting := p.run(ctx, m.plan, m.version, podIndex(before), agents, missing)
	r.end = m.now()
	// Other measurements of this daemon were in the way, and not the cluster.
	m.window.Excuse(p.queued)
	r.begin = r.begin.Add(p.queued)
	r.waiting = waiting
	r.plan, outcomes = discardStale(m.plan, outcomes, v.cluster())
	for _, o := range outcomes {
		r.got = append(r.got, o.Measured)
		r.unrun = r.unrun || o.unrun
		m.metrics.observe(o)
	}
	r.results = probes.Summarize(m.in.Requirements, r.plan, r.got)
	r.verdicts = probes.JudgeRound(m.in.Requirements, r.plan, r.got)
	m.metrics.rounds.WithLabelValues(string(m.in.Mode)).Inc()
	return r
}

// replan expands the requirements again when something changed that matters.
func (m *measurement) replan(v *view) {
	changes := v.changes.Load()
	if m.plan != nil && changes == m.seen {
		return
	}
	m.seen = changes
	m.plan = probes.Expand(m.in.Requirements, v.cluster())
	m.version++
}

func podIndex(c *probes.Cluster) map[string]*probes.Pod {
	index := make(map[string]*probes.Pod, len(c.Pods))
	for i := range c.Pods {
		index[c.Pods[i].UID] = &c.Pods[i]
	}
	return index
}

// discardStale leaves out the pairs of pods that were replaced during the
// round: what was measured there is neither for nor against a requirement. One that
// has no pair left was not measured.
func discardStale(plan *probes.Plan, got []outcome, now *probes.Cluster) (*probes.Plan, []outcome) {
	pods := podIndex(now)
	current := func(uid string, ips []string) bool {
		p := pods[uid]
		return p != nil && p.Running && (ips == nil || slices.Equal(p.IPs, ips))
	}
	out := &probes.Plan{Skipped: plan.Skipped, Problems: slices.Clone(plan.Problems)}
	kept := make([]outcome, 0, len(got))
	had, has := map[int]bool{}, map[int]bool{}
	for i, p := range plan.Pairs {
		had[p.Requirement] = true
		stale := !current(p.Source.UID, p.Source.IPs) ||
			!p.Behind && slices.ContainsFunc(p.Targets, func(uid string) bool { return !current(uid, nil) })
		if stale {
			continue
		}
		has[p.Requirement] = true
		out.Pairs = append(out.Pairs, p)
		kept = append(kept, got[i])
	}
	for i := range had {
		if !has[i] {
			out.Problems[i] = "its pods were replaced during the round"
		}
	}
	return out, kept
}

// settle takes a round into account.
func (m *measurement) settle(r *round) {
	if m.in.Mode == Compare {
		m.compare(r)
	}
	m.window.Observe(r.begin, r.end, r.verdicts)
	m.probeTime += r.end.Sub(r.begin)
	reason := ""
	if len(r.waiting) > 0 {
		reason = r.waiting[0]
	} else if i := slices.IndexFunc(r.plan.Problems, func(p string) bool { return p != "" }); i >= 0 && m.in.Mode != Compare && m.in.Mode != Baseline {
		reason = m.in.Requirements[i].Name + ": " + r.plan.Problems[i]
	}
	m.note(func(p *Progress) { p.Passing = m.window.Passing() })
	m.wait(reason)
}

// compare replaces the verdicts by whether flows are as before.
func (m *measurement) compare(r *round) {
	r.comparison = probes.Compare(m.in.Want.Requirements, r.results)
	r.verdicts = r.comparison.Same
	had := slices.ContainsFunc(m.in.Want.Requirements, func(q probes.RequirementResult) bool { return len(q.Flows) > 0 })
	if had && r.comparison.Compared == 0 {
		// Nothing that was measured then can be measured now.
		r.verdicts = make([]probes.Verdict, len(m.in.Requirements))
	}
}

// decide says whether the measurement is over, and how.
func (m *measurement) decide(r *round) (passed, done bool) {
	now := m.now()
	switch m.in.Mode {
	case Baseline:
		agree := m.results != nil && len(probes.Compare(m.results, r.results).Differences) == 0
		m.results = r.results
		if agree && !r.unrun {
			return true, true
		}
		return false, now.Sub(m.begun) >= m.settings.Deadline.Duration
	case Soak:
		end := m.started.Add(m.in.Duration)
		late := end.Add(m.settings.Deadline.Duration + m.settings.Settle.Duration)
		over := !now.Before(end)
		return over && m.window.Passed(), over && m.window.Passed() || m.window.Expired(now) || now.After(late) && m.window.Passing() < len(r.verdicts)
	}
	passed = m.window.Passed()
	return passed, passed || m.window.Expired(now) || m.window.Overdue(now)
}

// pause is the time until the next round.
func (m *measurement) pause(r *round) time.Duration {
	now := m.now()
	spacing := minSpacing
	if len(r.waiting) > 0 {
		spacing = waitSpacing
	}
	next := r.begin.Add(spacing)
	if m.in.Mode == Soak && m.window.Passed() {
		next = r.begin.Add(m.settings.Interval.Duration)
		// The last round is at the end of the soak, not an interval after it.
		if end := m.started.Add(m.in.Duration); end.After(now) && next.After(end) {
			next = end
		}
	}
	return max(0, next.Sub(now))
}

// giveUp ends a measurement that could not begin.
func (m *measurement) giveUp(ctx context.Context, err error) (*probes.Evidence, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	switch errs.TypeOf(err) {
	case errs.TypeDenied, errs.TypeUntrusted, errs.TypeInvalid, errs.TypeNotFound:
		return nil, err
	}
	r := &round{plan: &probes.Plan{Problems: make([]string, len(m.in.Requirements))}}
	for i := range r.plan.Problems {
		r.plan.Problems[i] = errs.Message(err)
	}
	r.results = probes.Summarize(m.in.Requirements, r.plan, nil)
	e := m.evidence(false, r)
	e.Inconclusive = true
	e.Reason = clipLine("nothing could be measured: " + errs.Message(err))
	return e, nil
}

// evidence is the result of the measurement, after its last round.
func (m *measurement) evidence(passed bool, r *round) *probes.Evidence {
	e := &probes.Evidence{
		Cluster: m.in.Cluster.Name, Passed: passed,
		Pairs: len(r.plan.Pairs), Rounds: m.rounds, Skipped: r.plan.Skipped,
		Hash:      probes.Hash(r.results),
		StartedAt: m.started, FinishedAt: m.now(), ProbeTime: metav1.Duration{Duration: m.probeTime},
	}
	violated := false
	for i := range r.results {
		if m.in.Mode != Baseline {
			r.results[i].Passed = m.window.Believed(i)
			violated = violated || m.window.Violated(i)
		}
	}
	e.Requirements = probes.Bound(r.results)
	if !passed {
		e.Inconclusive = !violated
		e.Reason = m.reason(r)
	}
	m.metrics.finished(m.in.Mode, e)
	return e
}

// reason is one line on why it did not pass.
func (m *measurement) reason(r *round) string {
	switch {
	case m.in.Mode == Compare && len(r.comparison.Differences) > 0:
		n := len(r.comparison.Differences)
		reason := r.comparison.Differences[0]
		if n > 1 {
			reason += " (and " + strconv.Itoa(n-1) + " more)"
		}
		return clipLine("not as before: " + reason)
	case m.in.Mode == Compare:
		return "nothing that was measured before could be measured again"
	case m.in.Mode == Baseline && len(r.waiting) > 0:
		return clipLine("not everything could be measured: " + r.waiting[0])
	case m.in.Mode == Baseline:
		return "what was measured kept changing until the deadline"
	}
	reason := probes.Reason(r.results, r.plan)
	if reason == "" {
		reason = "the requirements did not hold for their whole window"
	}
	return reason
}

// token names a session of probes.
func token() string {
	b := make([]byte, 8)
	// It never fails; were it not random, two measurements at once could hear each other's datagrams.
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}
