package dialogue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// ask and said are a protocol: of an ask for n, the numbers up to n are said.
type ask struct {
	Version int    `json:"version"`
	Count   int    `json:"count,omitempty"`
	Fail    string `json:"fail,omitempty"`
	Bye     bool   `json:"bye,omitempty"`
}

type said struct {
	Number int    `json:"number,omitempty"`
	Error  string `json:"error,omitempty"`
	Done   bool   `json:"done,omitempty"`
}

func (m *said) Ends() (bool, error) {
	if m.Error != "" {
		return true, errors.New(m.Error)
	}
	return m.Done, nil
}

var bye = ask{Version: 1, Bye: true}

// agent serves the protocol.
func agent(ctx context.Context, in io.Reader, out io.Writer) error {
	w := NewWriter[said](out)
	s := &Server[ask]{
		MaxRequest: 1 << 10,
		Parse: func(line []byte) (*ask, error) {
			return Parse(line, 1, func(a *ask) error {
				if a.Fail != "" {
					return errors.New(a.Fail)
				}
				return nil
			})
		},
		Answer: func(_ context.Context, a *ask) (bool, error) {
			for i := range a.Count {
				w.Add(said{Number: i + 1})
			}
			return a.Bye, w.Write(said{Done: true})
		},
		Refuse: func(why string) error { return w.Write(said{Error: why}) },
	}
	return s.Serve(ctx, in)
}

// open opens a session with run, which is closed with the test.
func open(t *testing.T, run func(context.Context, io.Reader, io.Writer) error) *Session {
	s := Open(t.Context(), "n1", bye, run)
	t.Cleanup(s.Close)
	return s
}

func count(s *Session, a ask) (sum int, err error) {
	a.Version = 1
	err = Call(context.Background(), s, time.Minute, a, func(m *said) { sum += m.Number })
	return sum, err
}

// Both sides, over one connection.
func TestDialogue(t *testing.T) {
	s := open(t, agent)
	for range 3 {
		if sum, err := count(s, ask{Count: 1000}); sum != 500500 || err != nil {
			t.Fatalf("%d %v", sum, err)
		}
	}
	if _, err := count(s, ask{Fail: "count: it is too large"}); err == nil || err.Error() != "the agent on n1: count: it is too large" {
		t.Errorf("%v", err)
	}
	if sum, err := count(s, ask{Count: 2}); sum != 3 || err != nil {
		t.Errorf("after a refusal: %d %v", sum, err)
	}
	if _, err := count(s, ask{Fail: strings.Repeat("x", 2<<10)}); err == nil || !strings.Contains(err.Error(), "the agent on n1: reading the request: ") {
		t.Errorf("%v", err)
	}
	if _, err := count(s, ask{}); err == nil || !strings.Contains(err.Error(), "the session with the agent on n1 broke: reading the request") || !s.Over() {
		t.Errorf("%v", err)
	}
}

func TestCloseEndsTheAgent(t *testing.T) {
	ended := make(chan error, 1)
	s := open(t, func(ctx context.Context, in io.Reader, out io.Writer) error {
		err := agent(ctx, in, out)
		ended <- err
		return err
	})
	s.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := count(s, ask{}); err == nil || err.Error() != "the session with the agent on n1 broke: the agent ended the session" || !s.Over() {
		t.Errorf("%v", err)
	}
}

// says is an agent that says this, whatever it is asked, and ends with err.
func says(text string, err error) func(context.Context, io.Reader, io.Writer) error {
	return func(_ context.Context, _ io.Reader, out io.Writer) error {
		_, _ = io.WriteString(out, text)
		return err
	}
}

func TestSessionsThatBreak(t *testing.T) {
	cut := errors.New("the tunnel was cut")
	for name, c := range map[string]struct {
		text string
		err  error
		sum  int
		want string
	}{
		"at once":                      {"", cut, 0, "the session with the agent on n1 broke: the tunnel was cut"},
		"in the middle of an answer":   {`{"number":4}` + "\n", cut, 4, "the session with the agent on n1 broke: the tunnel was cut"},
		"in the middle of a line":      {`{"number":4}` + "\n" + `{"num`, cut, 4, "the session with the agent on n1 broke: the tunnel was cut"},
		"with the agent's own reason":  {`{"error":"no namespace"}` + "\n", cut, 0, "the agent on n1: no namespace"},
		"without one":                  {"", nil, 0, "the session with the agent on n1 broke: the agent ended the session"},
		"by something that is no JSON": {"bash: not found\n", nil, 0, `the agent on n1 answered with something else: "bash: not found"`},
		"by a line without an end":     {strings.Repeat("x", maxLine), cut, 0, "the session with the agent on n1 broke: a line of its answer is longer than 16 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			sum, err := count(open(t, says(c.text, c.err)), ask{})
			if sum != c.sum || err == nil || err.Error() != c.want {
				t.Errorf("%d %v", sum, err)
			}
		})
	}
}

// An answer that comes too late is not taken for that to the next request.
func TestLateAnswerIsOfNoUse(t *testing.T) {
	answer := make(chan bool)
	s := open(t, func(ctx context.Context, in io.Reader, out io.Writer) error {
		<-answer
		_, err := io.WriteString(out, `{"number":1}`+"\n"+`{"done":true}`+"\n")
		<-ctx.Done()
		return errors.Join(ctx.Err(), err)
	})
	err := Call(t.Context(), s, time.Millisecond, ask{}, func(*said) {})
	if err == nil || err.Error() != "the agent on n1 did not answer in time" {
		t.Fatal(err)
	}
	close(answer)
	if sum, err := count(s, ask{}); err == nil || sum != 0 || !s.Over() {
		t.Errorf("%d of the answer to another request, %v", sum, err)
	}
}

// What is not asked for stays with the agent, however much it says.
func TestUnreadAnswersAreNotKept(t *testing.T) {
	wrote := make(chan int, 1)
	s := Open(t.Context(), "n1", bye, func(_ context.Context, _ io.Reader, out io.Writer) error {
		n, line := 0, []byte(`"`+strings.Repeat("x", 1<<20)+`"`+"\n")
		for {
			m, err := out.Write(line)
			if n += m; err != nil {
				wrote <- n
				return err
			}
		}
	})
	time.Sleep(200 * time.Millisecond)
	s.cancel()
	if n := <-wrote; n > maxLine {
		t.Errorf("%d MiB were taken that nobody asked for", n>>20)
	}
}

// Whatever ends a session ends everything that it started.
func TestNothingOutlivesASession(t *testing.T) {
	deaf := func(ctx context.Context, _ io.Reader, _ io.Writer) error { <-ctx.Done(); return ctx.Err() }
	chatty := func(ctx context.Context, _ io.Reader, out io.Writer) error {
		for ctx.Err() == nil {
			fmt.Fprintln(out, `{"number":1}`)
			time.Sleep(time.Millisecond)
		}
		return ctx.Err()
	}
	for name, end := range map[string]func(context.Context, context.CancelFunc, *Session){
		"closed":    func(_ context.Context, _ context.CancelFunc, s *Session) { s.Close() },
		"cancelled": func(_ context.Context, cancel context.CancelFunc, _ *Session) { cancel() },
		"too late": func(ctx context.Context, _ context.CancelFunc, s *Session) {
			_ = Call(ctx, s, time.Second, ask{}, func(*said) {})
		},
	} {
		for kind, run := range map[string]func(context.Context, io.Reader, io.Writer) error{"deaf": deaf, "chatty": chatty, "agent": agent} {
			if kind == "agent" && name == "too late" {
				continue
			}
			t.Run(kind+" "+name, func(t *testing.T) {
				// It fails where a goroutine that was started inside does not end.
				synctest.Test(t, func(t *testing.T) {
					// Not the test's context: its end would hide what should have ended before.
					ctx, cancel := context.WithCancel(context.Background())
					end(ctx, cancel, Open(ctx, "n1", bye, run))
					time.Sleep(time.Second)
				})
			})
		}
	}
}

func TestServeEndsWhenNobodyAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, w := io.Pipe()
		defer w.Close()
		start := time.Now()
		err := agent(t.Context(), in, io.Discard)
		if err == nil || err.Error() != "no request came for 5m0s" || time.Since(start) != idleLimit {
			t.Errorf("%v after %s", err, time.Since(start))
		}
	})
}

func TestParse(t *testing.T) {
	for line, want := range map[string]string{
		`nonsense`:                 "the request is not a JSON object: ",
		`{}`:                       "the request has no version; this agent speaks version 1",
		`{"version":2,"new":true}`: "the request has version 2, this agent speaks version 1: install the agent of the same release",
		`{"version":1,"new":true}`: "the request cannot be read: ",
		`{"version":1,"fail":"x"}`: "x",
		`{"version":1,"count":3}`:  "",
	} {
		a, err := Parse([]byte(line), 1, func(a *ask) error {
			if a.Fail != "" {
				return errors.New(a.Fail)
			}
			return nil
		})
		switch {
		case want == "" && (err != nil || a.Count != 3):
			t.Errorf("%s: %+v %v", line, a, err)
		case want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)):
			t.Errorf("%s: %v", line, err)
		}
	}
}
