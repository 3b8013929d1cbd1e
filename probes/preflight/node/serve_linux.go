package node

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"portcullis.dev/portcullis/probes/wire"
)

// idleLimit ends a session that nobody asks anything of any more.
const idleLimit = 5 * time.Minute

// session is what lasts from one request to the next.
type session struct {
	out     *writer
	host    *wire.Host
	witness *witness
}

// Serve serves one session: it reads requests from in and writes NDJSON to out,
// until the input ends, a bye is read, ctx ends or five minutes pass without a
// request. A request that is refused is answered with one line of type error, and
// the session goes on. The error returned is that the session itself broke.
func Serve(ctx context.Context, in io.Reader, out io.Writer) error {
	s := &session{out: &writer{enc: json.NewEncoder(out)}}
	host, err := wire.OpenHost()
	if err != nil {
		return errors.Join(err, s.out.write(Message{Type: MessageError, Error: err.Error()}))
	}
	s.host = host
	defer s.host.Close()
	defer func() { s.witness.close() }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return s.serve(ctx, in)
}

func (s *session) serve(ctx context.Context, in io.Reader) error {
	lines := make(chan []byte)
	var readErr error
	go func() {
		defer close(lines)
		readErr = readLines(ctx, in, lines)
	}()
	idle := time.NewTimer(idleLimit)
	defer idle.Stop()
	for {
		idle.Reset(idleLimit)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-idle.C:
			return fmt.Errorf("no request came for %s", idleLimit)
		case line, ok := <-lines:
			if !ok && readErr != nil {
				return errors.Join(readErr, s.out.write(Message{Type: MessageError, Error: readErr.Error()}))
			}
			if !ok {
				return nil
			}
			if done, err := s.answer(ctx, line); done || err != nil {
				return err
			}
		}
	}
}

func readLines(ctx context.Context, in io.Reader, lines chan<- []byte) error {
	scanner := bufio.NewScanner(in)
	scanner.Buffer(make([]byte, 64<<10), MaxRequestBytes)
	for scanner.Scan() {
		if len(scanner.Bytes()) == 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case lines <- append([]byte(nil), scanner.Bytes()...):
		}
	}
	if err := scanner.Err(); err != nil {
		return fmt.Errorf("reading the request: %w", err)
	}
	return nil
}

// answer serves one request; done is true after a bye.
func (s *session) answer(ctx context.Context, line []byte) (done bool, err error) {
	req, err := ParseRequest(line)
	if err != nil {
		return false, s.refuse(err.Error())
	}
	switch req.Role {
	case RoleClock:
		return false, s.out.write(Message{Type: MessageClock, Time: time.Now()}, Message{Type: MessageDone})
	case RoleFacts:
		return false, s.facts(ctx, req)
	case RoleListen:
		s.witness.close()
		s.witness = listen(req)
		return false, s.out.write(Message{Type: MessageListening, Failed: s.witness.failed}, Message{Type: MessageDone})
	case RoleReach:
		s.reach(ctx, req)
		return false, s.out.write(Message{Type: MessageDone, Done: len(req.Peers), Total: len(req.Peers)})
	case RoleCollect:
		if s.witness == nil {
			return false, s.refuse("nothing is listened for in this session")
		}
		seen, failed := s.witness.collect(ctx, req.Round)
		return false, s.out.write(Message{Type: MessageSeen, Seen: seen, Failed: failed}, Message{Type: MessageDone})
	}
	return true, nil
}

func (s *session) refuse(why string) error {
	return s.out.write(Message{Type: MessageError, Error: why})
}

func (s *session) facts(ctx context.Context, req *Request) error {
	report := func(done, total int) {
		// A broken output is seen by the message that ends the answer.
		_ = s.out.write(Message{Type: MessageProgress, Done: done, Total: total})
	}
	facts, err := Collect(ctx, req.Ports, report)
	if err != nil {
		return s.refuse(err.Error())
	}
	return s.out.write(Message{Type: MessageFacts, Facts: facts}, Message{Type: MessageDone})
}

// writer writes messages, one per line. The first error stays.
type writer struct {
	mu  sync.Mutex
	enc *json.Encoder
	err error
}

func (w *writer) write(messages ...Message) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range messages {
		if w.err == nil {
			w.err = w.enc.Encode(m)
		}
	}
	return w.err
}
