package node

import (
	"context"
	"errors"
	"io"
	"time"

	"portcullis.dev/portcullis/probes/dialogue"
	"portcullis.dev/portcullis/probes/wire"
)

// session is what lasts from one request to the next.
type session struct {
	out     *dialogue.Writer[Message]
	host    *wire.Host
	witness *witness
}

// Serve serves one session: it reads requests from in and writes NDJSON to out,
// until the input ends, a bye is read, ctx ends or five minutes pass without a
// request. A request that is refused is answered with one line of type error, and
// the session goes on. The error returned is that the session itself broke.
func Serve(ctx context.Context, in io.Reader, out io.Writer) error {
	s := &session{out: dialogue.NewWriter[Message](out)}
	host, err := wire.OpenHost()
	if err != nil {
		return errors.Join(err, s.refuse(err.Error()))
	}
	s.host = host
	defer s.host.Close()
	defer func() { s.witness.close() }()
	server := &dialogue.Server[Request]{MaxRequest: MaxRequestBytes, Parse: ParseRequest, Answer: s.answer, Refuse: s.refuse}
	return server.Serve(ctx, in)
}

// answer serves one request; done is true after a bye.
func (s *session) answer(ctx context.Context, req *Request) (done bool, err error) {
	switch req.Role {
	case RoleClock:
		return false, s.out.Write(Message{Type: MessageClock, Time: time.Now()}, Message{Type: MessageDone})
	case RoleFacts:
		return false, s.facts(ctx, req)
	case RoleListen:
		s.witness.close()
		s.witness = listen(ctx, req)
		return false, s.out.Write(Message{Type: MessageListening, Failed: s.witness.failed}, Message{Type: MessageDone})
	case RoleReach:
		s.reach(ctx, req)
		return false, s.out.Write(Message{Type: MessageDone, Done: len(req.Peers), Total: len(req.Peers)})
	case RoleCollect:
		if s.witness == nil {
			return false, s.refuse("nothing is listened for in this session")
		}
		seen, failed := s.witness.collect(ctx, req.Round)
		return false, s.out.Write(Message{Type: MessageSeen, Seen: seen, Failed: failed}, Message{Type: MessageDone})
	}
	return true, nil
}

func (s *session) refuse(why string) error {
	return s.out.Write(Message{Type: MessageError, Error: why})
}

func (s *session) facts(ctx context.Context, req *Request) error {
	report := func(done, total int) {
		// A broken output is seen by the message that ends the answer.
		_ = s.out.Write(Message{Type: MessageProgress, Done: done, Total: total})
	}
	facts, err := collect(ctx, req.Ports, report)
	if err != nil {
		return s.refuse(err.Error())
	}
	return s.out.Write(Message{Type: MessageFacts, Facts: facts}, Message{Type: MessageDone})
}
