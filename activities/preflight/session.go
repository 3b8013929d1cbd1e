package preflight

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/probes/preflight/node"
)

// command is the agent's side of a session.
var command = []string{"portcullis", "node", "preflight"}

// session is a running `portcullis node preflight` on one node. Calls are made one at a time.
type session struct {
	node   string
	cancel context.CancelFunc
	stdin  *io.PipeWriter
	lines  chan []byte
	// ended is closed when the command has ended; err is then set.
	ended chan struct{}
	err   error
}

// maxLine bounds a line of the agent's output.
const maxLine = 16 << 20

func openSession(ctx context.Context, exec verify.Executor, nodeName string, pod verify.AgentPod) *session {
	ctx, cancel := context.WithCancel(ctx)
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	s := &session{node: nodeName, cancel: cancel, stdin: inW, lines: make(chan []byte, 64), ended: make(chan struct{})}
	var running sync.WaitGroup
	var execErr, scanErr error
	running.Go(func() {
		execErr = exec.Exec(ctx, pod.Namespace, pod.Pod, command, inR, outW)
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
		scanErr = scanner.Err()
	})
	go func() {
		running.Wait()
		s.err = errors.Join(scanErr, execErr)
		if s.err == nil {
			s.err = errors.New("the agent ended the session")
		}
		close(s.ended)
		cancel()
	}()
	return s
}

// call sends a request and gives every message to each, until the one that ends
// the answer.
func (s *session) call(ctx context.Context, timeout time.Duration, req node.Request, each func(*node.Message)) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req.Version = node.Version
	if err := s.send(ctx, req); err != nil {
		return err
	}
	for {
		line, err := s.next(ctx)
		if err != nil {
			return err
		}
		var m node.Message
		if err := json.Unmarshal(line, &m); err != nil {
			return fmt.Errorf("the agent on %s answered with something else: %.80q", s.node, line)
		}
		switch m.Type {
		case node.MessageError:
			return fmt.Errorf("the agent on %s: %s", s.node, m.Error)
		case node.MessageDone:
			return nil
		}
		each(&m)
	}
}

func (s *session) send(ctx context.Context, req node.Request) error {
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
		if err == nil {
			return nil
		}
		select {
		case <-s.ended:
			return s.broken()
		case <-ctx.Done():
			return s.late(ctx)
		}
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
	return fmt.Errorf("the session with the agent on %s broke: %w", s.node, s.err)
}

func (s *session) late(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("the agent on %s did not answer in time", s.node)
	}
	return ctx.Err()
}

// over says whether the session can be used no more.
func (s *session) over() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// close ends the session and waits until the exec is over, or a moment at most.
func (s *session) close() {
	bye, _ := json.Marshal(node.Request{Version: node.Version, Role: node.RoleBye})
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
