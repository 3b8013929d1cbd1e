package wire

import (
	"context"
	"io"
	"sync/atomic"
	"time"
)

// session is what lasts from one request to the next.
type session struct {
	runner  *runner
	witness *witness
	out     *writer
	// last is the last reach request, for again.
	last *Request
}

func newSession(out io.Writer) (*session, error) {
	return &session{runner: newRunner(), out: newWriter(out)}, nil
}

func (s *session) close() {
	s.witness.close()
	s.runner.thread.stop()
}

// answer serves one request; done is true after a bye.
func (s *session) answer(ctx context.Context, line []byte) (done bool, err error) {
	req, err := ParseRequest(line)
	if err != nil {
		return false, s.out.write(Message{Type: MessageError, Error: err.Error()})
	}
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
		return false, s.out.write(Message{Type: MessageReady, Failed: s.witness.failed, Round: req.Round})
	case RoleCollect:
		return false, s.collect(ctx, req)
	}
	return true, nil
}

func (s *session) refuse(req *Request, why string) error {
	return s.out.write(Message{Type: MessageError, Round: req.Round, Error: why})
}

func (s *session) collect(ctx context.Context, req *Request) error {
	if s.witness == nil {
		return s.refuse(req, "there is no witness in this session")
	}
	seen, failed := s.witness.collect(ctx, req.Round)
	s.out.add(Message{Type: MessageSeen, Round: req.Round, Seen: seen, Failed: failed})
	return s.out.write(Message{Type: MessageDone, Round: req.Round})
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
				_ = s.out.write(Message{Type: MessageProgress, Round: req.Round, Done: int(done.Load()), Total: total})
			}
		}
	}()
	s.runner.reach(ctx, req, func(r Result) {
		done.Add(1)
		s.out.add(Message{Type: MessageResult, Round: req.Round, Result: &r})
	})
	close(finished)
	<-reported
	return s.out.write(Message{Type: MessageDone, Round: req.Round, Done: int(done.Load()), Total: total})
}
