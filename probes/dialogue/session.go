package dialogue

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	// maxLine bounds a line of the agent's output, in bytes.
	maxLine = 16 << 20
	// farewell bounds the wait for an agent to end by itself.
	farewell = time.Second
)

// Session is the daemon's side of a session with the agent on one node. Calls are
// made one at a time.
type Session struct {
	node   string
	bye    any
	cancel context.CancelFunc
	stdin  *io.PipeWriter
	// lines has no room: what is not read yet stays with the agent.
	lines chan []byte
	// over is closed when the session can be used no more.
	over <-chan struct{}
	// ended is closed when the command has ended; err is then set.
	ended chan struct{}
	err   error
}

// Open starts a session with the agent on a node. Run connects its input and its
// output until it ends or ctx does; its error is one line. Bye is the request
// that ends the session.
func Open(ctx context.Context, node string, bye any, run func(ctx context.Context, stdin io.Reader, stdout io.Writer) error) *Session {
	ctx, cancel := context.WithCancel(ctx)
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	s := &Session{node: node, bye: bye, cancel: cancel, stdin: inW, lines: make(chan []byte), over: ctx.Done(), ended: make(chan struct{})}
	var running sync.WaitGroup
	var runErr, scanErr error
	running.Go(func() {
		runErr = run(ctx, inR, outW)
		_ = outW.Close()
		// Whoever still writes a request learns that nobody reads it.
		_ = inR.CloseWithError(io.ErrClosedPipe)
	})
	running.Go(func() {
		defer func() { _ = outR.Close() }()
		scanErr = scan(ctx, outR, maxLine, wholeLines, s.lines)
	})
	go func() {
		running.Wait()
		s.err = reason(scanErr, runErr)
		close(s.ended)
		cancel()
	}()
	return s
}

// wholeLines leaves out the last line where a connection that broke cut it.
func wholeLines(data []byte, _ bool) (advance int, line []byte, err error) {
	return bufio.ScanLines(data, false)
}

// reason says why a session ended. Whose output cannot be read is not let go on, so
// that any other error is only what came of it.
func reason(scanErr, runErr error) error {
	switch {
	case errors.Is(scanErr, bufio.ErrTooLong):
		return fmt.Errorf("a line of its answer is longer than %d MiB", maxLine>>20)
	case runErr != nil:
		return runErr
	case scanErr != nil:
		return scanErr
	}
	return errors.New("the agent ended the session")
}

// Message is a line of an answer.
type Message[M any] interface {
	*M
	// Ends says whether it ends the answer, with an error where it is a refusal.
	Ends() (ends bool, refused error)
}

// Call sends a request and gives every message of its answer to each, but for a
// refusal, which is its error. Any other error names the node as well, or is that of
// ctx, and the session is then over.
func Call[M any, P Message[M]](ctx context.Context, s *Session, timeout time.Duration, req any, each func(P)) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	b, err := json.Marshal(req)
	if err != nil {
		return err
	}
	go func() {
		// It cannot be written once the session has ended, of which next tells.
		_, _ = s.stdin.Write(append(b, '\n'))
	}()
	for {
		m, err := read[M, P](ctx, s)
		if err != nil {
			// What comes later would be taken for the answer to the next request.
			s.cancel()
			return err
		}
		ends, refused := m.Ends()
		if refused != nil {
			return fmt.Errorf("the agent on %s: %w", s.node, refused)
		}
		each(m)
		if ends {
			return nil
		}
	}
}

func read[M any, P Message[M]](ctx context.Context, s *Session) (P, error) {
	line, err := s.next(ctx)
	if err != nil {
		return nil, err
	}
	m := P(new(M))
	if err := json.Unmarshal(line, m); err != nil {
		return nil, fmt.Errorf("the agent on %s answered with something else: %.80q", s.node, line)
	}
	return m, nil
}

func (s *Session) next(ctx context.Context) ([]byte, error) {
	lines := s.lines
	if s.Over() {
		lines = nil
	}
	select {
	case line := <-lines:
		return line, nil
	case <-s.ended:
		return nil, fmt.Errorf("the session with the agent on %s broke: %w", s.node, s.err)
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil, fmt.Errorf("the agent on %s did not answer in time", s.node)
		}
		return nil, ctx.Err()
	}
}

// Over says whether the session can be used no more.
func (s *Session) Over() bool {
	select {
	case <-s.over:
		return true
	default:
		return false
	}
}

// Close ends the session and waits until the agent has ended, or a moment at most.
func (s *Session) Close() {
	bye, _ := json.Marshal(s.bye)
	go func() {
		// To a session that is broken, this fails, and that is fine.
		_, _ = s.stdin.Write(append(bye, '\n'))
		_ = s.stdin.Close()
	}()
	patience := time.After(farewell)
	for waiting := true; waiting; {
		select {
		case <-s.lines:
			// It gets to the bye when what it said before has been taken.
		case <-s.ended:
			waiting = false
		case <-patience:
			waiting = false
		}
	}
	s.cancel()
	s.stdin.CloseWithError(io.ErrClosedPipe)
}
