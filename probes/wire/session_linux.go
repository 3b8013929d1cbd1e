package wire

import (
	"context"
	"io"
	"sync/atomic"
	"time"

	"portcullis.dev/portcullis/probes/dialogue"
)

// progressEvery is the time between two progress lines.
const progressEvery = 500 * time.Millisecond

// session is what lasts from one request to the next.
type session struct {
	runner  *runner
	witness *witness
	out     *dialogue.Writer[Message]
	// last is the last reach request, for again.
	last *Request
}

// Serve serves one session: it reads requests from in and writes NDJSON to out,
// until the input ends, a bye is read, ctx ends or five minutes pass without a
// request. A request that is refused is answered with one line of type error, and the
// session goes on. The error returned is that the session itself broke.
func Serve(ctx context.Context, in io.Reader, out io.Writer) error {
	s := &session{runner: newRunner(), out: dialogue.NewWriter[Message](out)}
	defer s.runner.thread.stop()
	return s.serve(ctx, in)
}

func (s *session) serve(ctx context.Context, in io.Reader) error {
	defer func() { s.witness.close() }()
	server := &dialogue.Server[Request]{
		MaxRequest: MaxRequestBytes, Parse: ParseRequest, Answer: s.answer,
		Refuse: func(why string) error { return s.out.Write(Message{Type: MessageError, Error: why}) },
	}
	return server.Serve(ctx, in)
}

// answer serves one request; done is true after a bye.
func (s *session) answer(ctx context.Context, req *Request) (done bool, err error) {
	switch req.Role {
	case RoleReach:
		s.last = req
		return false, s.reach(ctx, req)
	case RoleAgain:
		if s.last == nil {
			return false, s.refuse(req, "there is no reach in this session that could be run again")
		}
		s.last.Round = req.Round
		return false, s.reach(ctx, s.last)
	case RoleWitness:
		s.witness.close()
		s.witness = s.runner.listen(req.Session, req.Pods)
		s.runner.leave()
		return false, s.out.Write(Message{Type: MessageReady, Failed: s.witness.failed, Round: req.Round})
	case RoleCollect:
		return false, s.collect(ctx, req)
	}
	return true, nil
}

func (s *session) refuse(req *Request, why string) error {
	return s.out.Write(Message{Type: MessageError, Round: req.Round, Error: why})
}

func (s *session) collect(ctx context.Context, req *Request) error {
	if s.witness == nil {
		return s.refuse(req, "there is no witness in this session")
	}
	seen, failed := s.witness.collect(ctx, req.Round)
	return s.out.Write(Message{Type: MessageSeen, Round: req.Round, Seen: seen, Failed: failed}, Message{Type: MessageDone, Round: req.Round})
}

// reach runs a round and reports its results and its progress.
func (s *session) reach(ctx context.Context, req *Request) error {
	var done atomic.Int64
	total := len(req.Probes)
	finished := make(chan struct{})
	reported := make(chan struct{})
	go func() {
		defer close(reported)
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-finished:
				return
			case <-tick.C:
				// A broken output is seen by the message that ends the round.
				_ = s.out.Write(Message{Type: MessageProgress, Round: req.Round, Done: int(done.Load()), Total: total})
			}
		}
	}()
	s.runner.reach(ctx, req, func(r Result) {
		done.Add(1)
		s.out.Add(Message{Type: MessageResult, Round: req.Round, Result: &r})
	})
	close(finished)
	<-reported
	return s.out.Write(Message{Type: MessageDone, Round: req.Round, Done: int(done.Load()), Total: total})
}
