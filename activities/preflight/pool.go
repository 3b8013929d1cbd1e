package preflight

import (
	"context"
	"io"
	"strings"
	"sync"
	"time"

	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/probes/dialogue"
	"portcullis.dev/portcullis/probes/preflight/node"
)

// command is the agent's side of a session.
var command = []string{"portcullis", "node", "preflight"}

// bye ends a session.
var bye = node.Request{Version: node.Version, Role: node.RoleBye}

// Time limits of what is asked of one agent.
const (
	openTimeout   = 15 * time.Second
	factsTimeout  = 20 * time.Second
	listenTimeout = 10 * time.Second
	reachSlack    = 15 * time.Second
	// reopenAfter is the wait before a session that broke is opened once more.
	reopenAfter = 500 * time.Millisecond
)

// pool keeps sessions open from one round to the next.
type pool struct {
	exec   verify.Executor
	agents map[string]verify.AgentPod

	mu       sync.Mutex
	sessions map[string]*dialogue.Session
}

func newPool(exec verify.Executor, agents map[string]verify.AgentPod) *pool {
	return &pool{exec: exec, agents: agents, sessions: map[string]*dialogue.Session{}}
}

// do gives f a session with a node's agent. Where that breaks, it is opened and f
// called once more: f must bear that.
func (p *pool) do(ctx context.Context, name string, f func(*dialogue.Session) error) error {
	err := f(p.session(ctx, name))
	if err == nil || ctx.Err() != nil {
		return err
	}
	p.drop(name)
	select {
	case <-ctx.Done():
		return err
	case <-time.After(reopenAfter):
	}
	if err = f(p.session(ctx, name)); err != nil {
		p.drop(name)
	}
	return err
}

func (p *pool) session(ctx context.Context, name string) *dialogue.Session {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.sessions[name]
	if s == nil || s.Over() {
		pod := p.agents[name]
		s = dialogue.Open(ctx, name, bye, func(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
			return p.exec.Exec(ctx, pod.Namespace, pod.Pod, command, stdin, stdout)
		})
		p.sessions[name] = s
	}
	return s
}

func (p *pool) drop(name string) {
	p.mu.Lock()
	s := p.sessions[name]
	delete(p.sessions, name)
	p.mu.Unlock()
	if s != nil {
		s.Close()
	}
}

// keep closes the sessions with all nodes but these.
func (p *pool) keep(names map[string]bool) {
	p.mu.Lock()
	var drop []string
	for name := range p.sessions {
		if !names[name] {
			drop = append(drop, name)
		}
	}
	p.mu.Unlock()
	var closing sync.WaitGroup
	for _, name := range drop {
		closing.Go(func() { p.drop(name) })
	}
	closing.Wait()
}

func (p *pool) close() { p.keep(nil) }

// call asks an agent.
func call(ctx context.Context, s *dialogue.Session, timeout time.Duration, req node.Request, each func(*node.Message)) error {
	req.Version = node.Version
	return dialogue.Call(ctx, s, timeout, req, each)
}

// clock compares the node's clock with this one.
func clock(ctx context.Context, s *dialogue.Session) (skew time.Duration, err error) {
	best := time.Duration(-1)
	// The first call waits for the exec to begin; a later one tells the time.
	for range 3 {
		start := time.Now()
		var at time.Time
		err = call(ctx, s, openTimeout, node.Request{Role: node.RoleClock}, func(m *node.Message) {
			if m.Type == node.MessageClock {
				at = m.Time
			}
		})
		if err != nil {
			return 0, err
		}
		took := time.Since(start)
		if best < 0 || took < best {
			best, skew = took, at.Sub(start.Add(took/2))
		}
	}
	return skew, nil
}

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 300 {
		return strings.ToValidUTF8(s[:297], "") + "..."
	}
	return s
}
