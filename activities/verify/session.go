package verify

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

// reachCommand is the agent's side of a session.
var reachCommand = []string{"portcullis", "node", "reach"}

// session is a running `portcullis node reach` on one node. It stays open from round to
// round, so that a round costs no exec. Calls are made one at a time.
type session struct {
	agent  agent
	cancel context.CancelFunc
	stdin  *io.PipeWriter
	lines  chan []byte
	// ended is closed when the command has ended; err is then set.
	ended chan struct{}
	err   error

	// sent is the plan that the agent has, watched the pods that its witness listens in.
	sent    int
	watched string
	// unwatched maps pods that the witness cannot listen in to the reason.
	unwatched map[string]string
}

// maxLine bounds a line of the agent's output.
const maxLine = 16 << 20

func openSession(ctx context.Context, exec executor, a agent) *session {
	ctx, cancel := context.WithCancel(ctx)
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	s := &session{agent: a, cancel: cancel, stdin: inW, lines: make(chan []byte, 64), ended: make(chan struct{}), sent: -1}
	var running sync.WaitGroup
	var execErr error
	running.Go(func() {
		execErr = exec.Exec(ctx, a.namespace, a.pod, reachCommand, inR, outW)
		outW.Close()
		// Whoever still writes a request learns that nobody reads it.
		inR.CloseWithError(io.ErrClosedPipe)
	})
	running.Go(func() {
		defer outR.Close()
		scanner := bufio.NewScanner(outR)
		scanner.Buffer(make([]byte, 64<<10), maxLine)
		for scanner.Scan() {
			select {
			case s.lines <- append([]byte(nil), scanner.Bytes()...):
			case <-ctx.Done():
				return
			}
		}
	})
	go func() {
		running.Wait()
		s.err = execErr
		if s.err == nil {
			s.err = errors.New("the agent ended the session")
		}
		close(s.ended)
		cancel()
	}()
	return s
}

// call sends a request and gives every message to each, until the one that
// ends the answer.
func (s *session) call(ctx context.Context, timeout time.Duration, req *wire.Request, each func(*wire.Message)) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := s.send(ctx, req); err != nil {
		return err
	}
	for {
		line, err := s.next(ctx)
		if err != nil {
			return err
		}
		var m wire.Message
		if err := json.Unmarshal(line, &m); err != nil {
			return fmt.Errorf("the agent on %s answered with something else: %.80q", s.agent.node, line)
		}
		switch m.Type {
		case wire.MessageError:
			return fmt.Errorf("the agent on %s: %s", s.agent.node, m.Error)
		case wire.MessageDone:
			return nil
		case wire.MessageReady:
			each(&m)
			return nil
		}
		each(&m)
	}
}

func (s *session) send(ctx context.Context, req *wire.Request) error {
	b, err := json.Marshal(req)
	if err != nil {
		return err
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := s.stdin.Write(append(b, '\n'))
		wrote <- err
	}()
	select {
	case err := <-wrote:
		if err != nil {
			<-s.ended
			return s.broken()
		}
		return nil
	case <-ctx.Done():
		return s.late(ctx)
	}
}

func (s *session) next(ctx context.Context) ([]byte, error) {
	select {
	case line := <-s.lines:
		return line, nil
	default:
	}
	select {
	case line := <-s.lines:
		return line, nil
	case <-s.ended:
		// What was said before the end still counts.
		select {
		case line := <-s.lines:
			return line, nil
		default:
			return nil, s.broken()
		}
	case <-ctx.Done():
		return nil, s.late(ctx)
	}
}

func (s *session) broken() error {
	return fmt.Errorf("the session with the agent on %s broke: %w", s.agent.node, s.err)
}

func (s *session) late(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("the agent on %s did not answer in time", s.agent.node)
	}
	return ctx.Err()
}

// close ends the session and waits until the exec is over, or a moment at most.
func (s *session) close() {
	bye, _ := json.Marshal(wire.Request{Version: wire.Version, Role: wire.RoleBye})
	go func() {
		// To a session that is broken, this fails, and that is fine.
		_, _ = s.stdin.Write(append(bye, '\n'))
		s.stdin.Close()
	}()
	select {
	case <-s.ended:
	case <-time.After(time.Second):
	}
	s.cancel()
	s.stdin.CloseWithError(io.ErrClosedPipe)
}
