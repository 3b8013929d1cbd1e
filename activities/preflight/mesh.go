package preflight

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"
	"time"

	"portcullis.dev/portcullis/probes/dialogue"
	"portcullis.dev/portcullis/probes/preflight"
	"portcullis.dev/portcullis/probes/preflight/node"
)

// member is a node that takes part in the mesh.
type member struct {
	name    string
	address string
}

// mesher tries every pair of members.
type mesher struct {
	pool    *pool
	members []member
	paths   []preflight.Path
	sizes   []int
	atOnce  int
	timeout time.Duration
	token   string
	note    func(done, total int)
	out     *preflight.Mesh
}

// newToken names a measurement.
func newToken() string {
	b := make([]byte, 8)
	// It never fails.
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// run tries every pair, round by round. The mesh is complete whatever happens:
// what could not be told of a pair is unknown.
func (m *mesher) run(ctx context.Context) error {
	rounds := preflight.Schedule(len(m.members), m.atOnce)
	for i, r := range rounds {
		m.note(i, len(rounds))
		m.round(ctx, i, r)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	m.note(len(rounds), len(rounds))
	return nil
}

// heard is what one member of a round reported.
type heard struct {
	// problem says why the member took no part in the round.
	problem string
	// deaf are the paths that it could not listen on.
	deaf    map[int]string
	answers map[int][]node.PathAnswer
	seen    map[int]node.Sighting
}

func (m *mesher) round(ctx context.Context, number int, r preflight.Round) {
	members := r.Members()
	keep := map[string]bool{}
	all := map[int]*heard{}
	for _, i := range members {
		keep[m.members[i].name] = true
		all[i] = &heard{answers: map[int][]node.PathAnswer{}, seen: map[int]node.Sighting{}}
	}
	m.pool.keep(keep)
	// Everybody listens before anybody sends, and is heard after everybody has sent.
	m.each(members, all, func(i int, h *heard) error { return m.listen(ctx, number, i, h) })
	m.each(members, all, func(i int, h *heard) error { return m.reach(ctx, number, i, r, h, all) })
	m.each(members, all, func(i int, h *heard) error { return m.collect(ctx, number, i, h) })
	for _, i := range members {
		for _, j := range r.Peers(i) {
			m.merge(i, j, all[i], all[j])
		}
	}
}

// each does something with all members that still take part, at the same time.
func (m *mesher) each(members []int, all map[int]*heard, do func(int, *heard) error) {
	problems := make([]error, len(members))
	var running sync.WaitGroup
	for at, i := range members {
		if all[i].problem == "" {
			running.Go(func() { problems[at] = do(i, all[i]) })
		}
	}
	running.Wait()
	// Only now, for the others look at it.
	for at, i := range members {
		if problems[at] != nil {
			all[i].problem = oneLine(problems[at].Error())
		}
	}
}

func (m *mesher) listen(ctx context.Context, round, i int, h *heard) error {
	req := node.Request{Role: node.RoleListen, Session: m.token, Round: round, Self: i, Address: m.members[i].address, Paths: m.paths}
	return m.pool.do(ctx, m.members[i].name, func(s *dialogue.Session) error {
		return call(ctx, s, listenTimeout+openTimeout, req, func(msg *node.Message) {
			if msg.Type == node.MessageListening {
				h.deaf = msg.Failed
			}
		})
	})
}

// reach is not tried again: what awaits packets is gone with its session.
func (m *mesher) reach(ctx context.Context, round, i int, r preflight.Round, h *heard, all map[int]*heard) error {
	req := node.Request{
		Role: node.RoleReach, Session: m.token, Round: round, Self: i, Paths: m.paths, Sizes: m.sizes,
		TimeoutMillis: int(m.timeout.Milliseconds()),
	}
	for _, j := range r.Peers(i) {
		if all[j].problem == "" {
			req.Peers = append(req.Peers, node.Peer{ID: j, Address: m.members[j].address})
		}
	}
	// Each peer takes at most two time-outs, and they are tried many at once.
	limit := reachSlack + time.Duration(2+len(req.Peers)/100)*2*m.timeout
	return call(ctx, m.pool.session(ctx, m.members[i].name), limit, req, func(msg *node.Message) {
		if msg.Type == node.MessageReached && m.knows(msg.Peer) {
			h.answers[msg.Peer] = msg.Answers
		}
	})
}

func (m *mesher) collect(ctx context.Context, round, i int, h *heard) error {
	return call(ctx, m.pool.session(ctx, m.members[i].name), listenTimeout, node.Request{Role: node.RoleCollect, Round: round}, func(msg *node.Message) {
		if msg.Type != node.MessageSeen {
			return
		}
		h.deaf = msg.Failed
		for _, s := range msg.Seen {
			if m.knows(s.From) {
				h.seen[s.From] = s
			}
		}
	})
}

// knows tells whether a number is that of a member. What an agent says of others
// is left out, or it could fill the daemon's memory.
func (m *mesher) knows(i int) bool { return i >= 0 && i < len(m.members) }

// merge decides what is known of the direction from i to j.
func (m *mesher) merge(i, j int, from, to *heard) {
	pair := preflight.Pair{From: m.members[i].name, To: m.members[j].name}
	answers, reported := from.answers[j]
	sighting, arrived := to.seen[i]
	problem := cmp.Or(from.problem, to.problem)
	if problem == "" && (!reported || len(answers) != len(m.paths)) {
		problem = "the agent on " + pair.From + " left it out"
	}
	for p, path := range m.paths {
		one := pair
		if problem != "" {
			one.Answer, one.Detail = preflight.Untold, problem
		} else {
			one.Answer, one.Detail = decide(path, answers[p], arrived && slices.Contains(sighting.Paths, p), to.deaf[p])
		}
		m.out.Add(p, one)
	}
	pair.MTU = sighting.Largest
	if pair.MTU == 0 {
		pair.Detail = problem
	}
	m.out.AddMTU(pair)
}

// possible are the answers that an agent can give.
var possible = []preflight.Answer{preflight.Open, preflight.Refused, preflight.Filtered, preflight.Untold}

// decide tells what a path is like from what the source got back and what the
// destination saw. Deaf says why the destination could not listen.
func decide(path preflight.Path, a node.PathAnswer, seen bool, deaf string) (preflight.Answer, string) {
	a.Detail = oneLine(a.Detail)
	if !slices.Contains(possible, a.Answer) {
		a.Answer, a.Detail = preflight.Untold, fmt.Sprintf("the agent reported %.20q, which is no answer", a.Answer)
	}
	if path.Protocol == "tcp" {
		if a.Answer == preflight.Refused && deaf != "" {
			// Nobody could listen, so that a reset is what is to be expected.
			return preflight.Untold, deaf
		}
		return a.Answer, a.Detail
	}
	switch {
	case seen:
		return preflight.Open, ""
	case deaf != "":
		return preflight.Untold, deaf
	case a.Answer == preflight.Filtered && a.Silent:
		return preflight.Filtered, "it did not arrive"
	}
	return a.Answer, a.Detail
}
