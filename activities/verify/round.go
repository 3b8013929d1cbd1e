package verify

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"portcullis.dev/portcullis/probes"
	"portcullis.dev/portcullis/probes/dialogue"
	"portcullis.dev/portcullis/probes/wire"
)

// reachCommand is the agent's side of a session.
var reachCommand = []string{"portcullis", "node", "reach"}

// bye ends a session.
var bye = wire.Request{Version: wire.Version, Role: wire.RoleBye}

const (
	// maxNodes bounds how many agents are asked at the same time.
	maxNodes = 64
	// callSlack is added to what a round must take at most.
	callSlack = 20 * time.Second
	// witnessTimeout bounds a request to a witness.
	witnessTimeout = 20 * time.Second
	// openTimeout bounds the start of a session: an exec through Rancher, the API
	// server, the kubelet and the container runtime.
	openTimeout = time.Minute
	// openAtOnce bounds how many sessions one daemon starts at the same time. What is
	// on the way slows down under many at once, until all of them are too late.
	openAtOnce = 32
	// pairsPerTimeout is how many pairs an agent has under way at once.
	pairsPerTimeout = 2000
)

// prober runs rounds on a cluster through its agents.
type prober struct {
	exec    executor
	token   string
	timeout time.Duration
	// opening has a place for each session that may be starting; queued is how
	// long the last round waited for one.
	opening chan struct{}
	queued  time.Duration

	sessions map[string]*session
	// plan is the version of the plan that pairs belong to.
	plan  int
	round int
}

// session is a running `portcullis node reach` on one node. It stays open from round to
// round, so that a round costs no exec.
type session struct {
	*dialogue.Session
	pod string
	// sent is the plan that the agent has, watched the pods that its witness listens in.
	sent    int
	watched string
	// unwatched maps pods that the witness cannot listen in to the reason.
	unwatched map[string]string
}

func openSession(ctx context.Context, exec executor, a agent) *session {
	return &session{pod: a.pod, sent: -1, Session: dialogue.Open(ctx, a.node, bye, func(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
		return exec.Exec(ctx, a.namespace, a.pod, reachCommand, stdin, stdout)
	})}
}

// outcome is what a round found for one pair.
type outcome struct {
	probes.Measured
	duration time.Duration
	// unrun is true when the probe was not made, or its result did not come.
	unrun bool
}

// nodeWork is one node's share of a round.
type nodeWork struct {
	agent agent
	// missing says why the node has no agent.
	missing string
	pairs   []int
	// listen are the pods that its witness is to listen in.
	listen map[string]*probes.Pod
}

// run runs a round: the witnesses listen, the probes run on all nodes, and the
// witnesses are heard. Every pair has an outcome. The error of a node is in waiting.
func (p *prober) run(ctx context.Context, plan *probes.Plan, version int, pods map[string]*probes.Pod, agents map[string]agent, missing map[string]string) (got []outcome, waiting []string) {
	p.round++
	p.plan, p.queued = version, 0
	work := share(plan, pods, agents, missing)
	p.prune(work)
	r := &roundState{prober: p, plan: plan, results: make([]*wire.Result, len(plan.Pairs)), failed: map[int]string{}, sights: newSights()}
	r.each(work, func(w *nodeWork) error { return r.listen(ctx, w) })
	r.each(work, func(w *nodeWork) error { return r.reach(ctx, w) })
	r.each(work, func(w *nodeWork) error { return r.collect(ctx, w) })
	return r.outcomes(), r.waiting
}

// share divides the plan among nodes.
func share(plan *probes.Plan, pods map[string]*probes.Pod, agents map[string]agent, missing map[string]string) map[string]*nodeWork {
	work := map[string]*nodeWork{}
	on := func(node string) *nodeWork {
		w, ok := work[node]
		if !ok {
			w = &nodeWork{agent: agents[node], missing: missing[node], listen: map[string]*probes.Pod{}}
			w.agent.node = node
			if w.missing == "" && !w.agent.ready {
				w.missing = fmt.Sprintf("node %s has no ready agent", node)
			}
			work[node] = w
		}
		return w
	}
	for i := range plan.Pairs {
		pair := &plan.Pairs[i]
		w := on(pair.Source.Node)
		w.pairs = append(w.pairs, i)
		if pair.Protocol != probes.UDP {
			continue
		}
		for _, uid := range pair.Targets {
			// A pod in its node's network cannot be witnessed, see wire.
			if t := pods[uid]; t != nil && !t.Host {
				on(t.Node).listen[uid] = t
			}
		}
	}
	return work
}

// prune closes sessions that are of no use any more.
func (p *prober) prune(work map[string]*nodeWork) {
	for node, s := range p.sessions {
		if w := work[node]; s.Over() || w == nil || w.agent.pod != s.pod {
			s.Close()
			delete(p.sessions, node)
		}
	}
}

func (p *prober) close() {
	var closing sync.WaitGroup
	for _, s := range p.sessions {
		closing.Go(s.Close)
	}
	closing.Wait()
	p.sessions = nil
}

// roundState is one round under way.
type roundState struct {
	*prober
	plan    *probes.Plan
	mu      sync.Mutex
	results []*wire.Result
	// failed maps pairs that could not be run to the reason.
	failed  map[int]string
	sights  *sights
	waiting []string
}

// each runs a step on all nodes, a bounded number at a time.
func (r *roundState) each(work map[string]*nodeWork, step func(*nodeWork) error) {
	slots := make(chan struct{}, maxNodes)
	var running sync.WaitGroup
	for _, w := range work {
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			if err := step(w); err != nil {
				r.fail(w, err)
			}
		})
	}
	running.Wait()
	slices.Sort(r.waiting)
	r.waiting = slices.Compact(r.waiting)
}

// fail notes that a node's share cannot be trusted to be whole.
func (r *roundState) fail(w *nodeWork, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = append(r.waiting, clipLine(err.Error()))
	for _, i := range w.pairs {
		r.failed[i] = err.Error()
	}
	if s := r.sessions[w.agent.node]; s != nil {
		delete(r.sessions, w.agent.node)
		go s.Close()
	}
}

// session returns the node's open session, or opens one.
func (r *roundState) session(ctx context.Context, w *nodeWork) (*session, error) {
	if w.missing != "" {
		return nil, fmt.Errorf("%s", w.missing)
	}
	r.mu.Lock()
	s := r.sessions[w.agent.node]
	r.mu.Unlock()
	if s != nil {
		return s, nil
	}
	s, err := r.open(ctx, w.agent)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sessions == nil {
		r.sessions = map[string]*session{}
	}
	r.sessions[w.agent.node] = s
	return s, nil
}

// open starts a session and waits until the agent answers in it: a witness of no
// pods is a greeting.
func (r *roundState) open(ctx context.Context, a agent) (*session, error) {
	asked := time.Now()
	select {
	case r.opening <- struct{}{}:
		defer func() { <-r.opening }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	r.mu.Lock()
	r.queued = max(r.queued, time.Since(asked))
	r.mu.Unlock()
	s := openSession(ctx, r.exec, a)
	hello := &wire.Request{Version: wire.Version, Role: wire.RoleWitness, Session: r.token, Round: r.round}
	if err := dialogue.Call(ctx, s.Session, openTimeout, hello, func(*wire.Message) {}); err != nil {
		go s.Close()
		return nil, err
	}
	return s, nil
}

// listen makes the node's witness listen in the pods that UDP probes go to.
func (r *roundState) listen(ctx context.Context, w *nodeWork) error {
	if len(w.listen) == 0 {
		return nil
	}
	s, err := r.session(ctx, w)
	if err != nil {
		return err
	}
	req := &wire.Request{Version: wire.Version, Role: wire.RoleWitness, Session: r.token, Round: r.round}
	for _, uid := range sortedKeys(w.listen) {
		req.Pods = append(req.Pods, wirePod(w.listen[uid]))
	}
	if key := fmt.Sprint(req.Pods); s.watched != key {
		s.watched = ""
		if err := dialogue.Call(ctx, s.Session, witnessTimeout, req, func(m *wire.Message) { s.unwatched = m.Failed }); err != nil {
			return err
		}
		s.watched = key
	}
	return nil
}

// reach runs the node's probes.
func (r *roundState) reach(ctx context.Context, w *nodeWork) error {
	if len(w.pairs) == 0 {
		return nil
	}
	s, err := r.session(ctx, w)
	if err != nil {
		return err
	}
	req := &wire.Request{Version: wire.Version, Role: wire.RoleAgain, Round: r.round}
	if s.sent != r.prober.plan {
		req = r.request(w)
	}
	timeout := callSlack + 2*r.timeout*time.Duration(1+len(w.pairs)/pairsPerTimeout)
	err = dialogue.Call(ctx, s.Session, timeout, req, func(m *wire.Message) { r.take(w, m) })
	if err == nil {
		s.sent = r.prober.plan
	}
	return err
}

func (r *roundState) request(w *nodeWork) *wire.Request {
	req := &wire.Request{Version: wire.Version, Role: wire.RoleReach, Session: r.token, Round: r.round, TimeoutMillis: int(r.timeout.Milliseconds())}
	known := map[string]bool{}
	for _, i := range w.pairs {
		pair := &r.plan.Pairs[i]
		if !known[pair.Source.UID] {
			known[pair.Source.UID] = true
			req.Pods = append(req.Pods, wirePod(pair.Source))
		}
		req.Probes = append(req.Probes, wire.Probe{ID: strconv.Itoa(i), Pod: pair.Source.UID, Protocol: pair.Protocol, Host: pair.Host, Port: pair.Port, Path: pair.Path})
	}
	return req
}

func wirePod(p *probes.Pod) wire.Pod { return wire.Pod{UID: p.UID, IPs: p.IPs, Host: p.Host} }

// take takes a message of a reach.
func (r *roundState) take(w *nodeWork, m *wire.Message) {
	if m.Round != r.round || m.Type != wire.MessageResult || m.Result == nil {
		return
	}
	i, err := strconv.Atoi(m.Result.ID)
	if err != nil || !contains(w.pairs, i) {
		return
	}
	if len(m.Result.Detail) > maxLineLength {
		m.Result.Detail = clipLine(m.Result.Detail)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.results[i] = m.Result
}

// contains searches in pairs, which are sorted.
func contains(pairs []int, i int) bool {
	_, ok := slices.BinarySearch(pairs, i)
	return ok
}

// collect hears the node's witness.
func (r *roundState) collect(ctx context.Context, w *nodeWork) error {
	if len(w.listen) == 0 {
		return nil
	}
	r.mu.Lock()
	s := r.sessions[w.agent.node]
	r.mu.Unlock()
	if s == nil || s.watched == "" {
		return nil
	}
	req := &wire.Request{Version: wire.Version, Role: wire.RoleCollect, Round: r.round}
	var seen []string
	var failed map[string]string
	err := dialogue.Call(ctx, s.Session, witnessTimeout, req, func(m *wire.Message) {
		if m.Type == wire.MessageSeen {
			seen, failed = m.Seen, m.Failed
		}
	})
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for uid := range w.listen {
		if failed[uid] == "" && s.unwatched[uid] == "" {
			r.sights.watched[uid] = true
		}
	}
	for _, id := range seen {
		r.sights.seen[id] = true
	}
	return nil
}

// sights is what the witnesses of all nodes say.
type sights struct {
	watched map[string]bool
	seen    map[string]bool
}

func newSights() *sights {
	return &sights{watched: map[string]bool{}, seen: map[string]bool{}}
}

// of tells what is known of a pair's datagram. It was not seen only when a
// witness was listening in every pod where it could have arrived.
func (s *sights) of(id string, pair *probes.Pair) wire.Sight {
	if s.seen[id] {
		return wire.Seen
	}
	if len(pair.Targets) == 0 {
		return wire.Unwatched
	}
	for _, uid := range pair.Targets {
		if !s.watched[uid] {
			return wire.Unwatched
		}
	}
	return wire.Unseen
}

// possible are the outcomes that a probe can have.
var possible = []probes.Outcome{probes.Allowed, probes.Refused, probes.Dropped, probes.Unresolved, probes.Error}

// outcomes puts together what agents and witnesses said. What nobody said is an error.
func (r *roundState) outcomes() []outcome {
	out := make([]outcome, len(r.results))
	for i, res := range r.results {
		switch {
		case res != nil:
			settled := wire.Settle(*res, r.sights.of(res.ID, &r.plan.Pairs[i]))
			if !slices.Contains(possible, settled.Outcome) {
				settled.Outcome, settled.Detail = probes.Error, fmt.Sprintf("the agent reported %.20q, which is no outcome", settled.Outcome)
			}
			out[i] = outcome{Measured: probes.Measured{Outcome: settled.Outcome, Detail: settled.Detail}, duration: settled.Duration()}
		default:
			why := cmp.Or(r.failed[i], "the agent did not report a result")
			out[i] = outcome{Measured: probes.Measured{Outcome: probes.Error, Detail: why}, unrun: true}
		}
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// maxLineLength bounds a reason.
const maxLineLength = 300

// clipLine makes one short line of s.
func clipLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxLineLength {
		s = strings.ToValidUTF8(s[:maxLineLength], "") + "…"
	}
	return s
}
