package dialogue

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// idleLimit ends a session that nobody asks anything of any more, as when the connection
// that carried it broke without its input being closed.
const idleLimit = 5 * time.Minute

// Server is the agent's side of a session in which requests are of type R.
type Server[R any] struct {
	// MaxRequest bounds a request, in bytes.
	MaxRequest int
	// Parse reads and validates one line. Its error is for Refuse.
	Parse func(line []byte) (*R, error)
	// Answer serves one request; done ends the session. Its error is that the session broke.
	Answer func(ctx context.Context, req *R) (done bool, err error)
	// Refuse answers that there is no answer, and in one line why.
	Refuse func(why string) error
}

// Serve serves a session: it reads requests from in until that ends, one is the
// last, ctx ends or five minutes pass without a request. A request that cannot be
// parsed is refused, and the session goes on. The error is that the session broke.
func (s *Server[R]) Serve(ctx context.Context, in io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lines := make(chan []byte)
	var readErr error
	go func() {
		defer close(lines)
		readErr = scan(ctx, in, s.MaxRequest, bufio.ScanLines, lines)
	}()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(idleLimit):
			return fmt.Errorf("no request came for %s", idleLimit)
		case line, ok := <-lines:
			if !ok && readErr != nil && ctx.Err() == nil {
				err := fmt.Errorf("reading the request: %w", readErr)
				return errors.Join(err, s.Refuse(err.Error()))
			}
			if !ok {
				return ctx.Err()
			}
			if done, err := s.serve(ctx, line); done || err != nil {
				return err
			}
		}
	}
}

func (s *Server[R]) serve(ctx context.Context, line []byte) (done bool, err error) {
	req, err := s.Parse(line)
	if err != nil {
		return false, s.Refuse(err.Error())
	}
	return s.Answer(ctx, req)
}

// scan sends the lines of in, each at most so many bytes, until in or ctx ends.
// Empty lines are left out.
func scan(ctx context.Context, in io.Reader, limit int, split bufio.SplitFunc, lines chan<- []byte) error {
	scanner := bufio.NewScanner(in)
	scanner.Buffer(make([]byte, min(limit, 64<<10)), limit)
	scanner.Split(split)
	for scanner.Scan() {
		if len(scanner.Bytes()) == 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case lines <- bytes.Clone(scanner.Bytes()):
		}
	}
	return scanner.Err()
}

// Parse reads a request of a version of a protocol, and has it validated. What is
// not known is refused, and the error is one line that says what is wrong and where.
func Parse[R any](line []byte, version int, validate func(*R) error) (*R, error) {
	var head struct {
		Version *int `json:"version"`
	}
	if err := json.Unmarshal(line, &head); err != nil {
		return nil, fmt.Errorf("the request is not a JSON object: %w", err)
	}
	if head.Version == nil {
		return nil, fmt.Errorf("the request has no version; this agent speaks version %d", version)
	}
	if *head.Version != version {
		return nil, fmt.Errorf("the request has version %d, this agent speaks version %d: install the agent of the same release", *head.Version, version)
	}
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	req := new(R)
	if err := dec.Decode(req); err != nil {
		return nil, fmt.Errorf("the request cannot be read: %w", err)
	}
	if err := validate(req); err != nil {
		return nil, err
	}
	return req, nil
}

// Writer writes messages of type M, one per line. The first error stays. It is safe
// for concurrent use.
type Writer[M any] struct {
	mu  sync.Mutex
	buf *bufio.Writer
	enc *json.Encoder
	err error
}

// NewWriter returns a writer to out.
func NewWriter[M any](out io.Writer) *Writer[M] {
	buf := bufio.NewWriterSize(out, 64<<10)
	return &Writer[M]{buf: buf, enc: json.NewEncoder(buf)}
}

// Add writes a message that may wait for the next Write.
func (w *Writer[M]) Add(m M) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.add(m)
}

func (w *Writer[M]) add(m M) {
	if w.err == nil {
		w.err = w.enc.Encode(m)
	}
}

// Write writes messages and everything that was added before.
func (w *Writer[M]) Write(messages ...M) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range messages {
		w.add(m)
	}
	if w.err == nil {
		w.err = w.buf.Flush()
	}
	return w.err
}
