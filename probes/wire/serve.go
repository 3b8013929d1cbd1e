package wire

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// idleLimit ends a session that nobody asks anything of any more, as when the connection
// that carried it broke without its input being closed.
const idleLimit = 5 * time.Minute

// progressEvery is the time between two progress lines.
const progressEvery = 500 * time.Millisecond

// Idle waits until ctx ends or the process is told to stop. It is what the
// agent's container does between sessions; it listens on nothing.
func Idle(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	<-ctx.Done()
	return nil
}

// Serve serves one session: it reads requests from in and writes NDJSON to out,
// until the input ends, a bye is read, ctx ends or five minutes pass without a
// request. A request that is refused is answered with one line of type error, and the
// session goes on. The error returned is that the session itself broke.
func Serve(ctx context.Context, in io.Reader, out io.Writer) error {
	s, err := newSession(out)
	if err != nil {
		return errors.Join(err, newWriter(out).write(Message{Type: MessageError, Error: err.Error()}))
	}
	defer s.close()
	return s.serve(ctx, in)
}

func (s *session) serve(ctx context.Context, in io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lines := make(chan []byte)
	var readErr error
	go func() {
		defer close(lines)
		readErr = readLines(ctx, in, lines)
	}()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(idleLimit):
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

// writer writes messages, one per line. The first error stays.
type writer struct {
	mu  sync.Mutex
	buf *bufio.Writer
	enc *json.Encoder
	err error
}

func newWriter(out io.Writer) *writer {
	buf := bufio.NewWriterSize(out, 64<<10)
	return &writer{buf: buf, enc: json.NewEncoder(buf)}
}

// add writes a message that may wait in the buffer.
func (w *writer) add(m Message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = w.enc.Encode(m)
	}
}

// write writes a message and everything before it.
func (w *writer) write(m Message) error {
	w.add(m)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = w.buf.Flush()
	}
	return w.err
}
