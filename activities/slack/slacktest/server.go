// Package slacktest is Slack as an app sees it from outside: its Web API over
// HTTPS, Socket Mode over WebSocket, and the signed requests that it sends. It
// checks what Slack checks (tokens, channels, sizes of blocks, triggers that are
// used up) and fails as Slack fails, so that tests run over the real wire.
package slacktest

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"
)

// What the app is installed with.
const (
	BotToken      = "xoxb-test-bot-token"
	AppToken      = "xapp-test-app-token"
	SigningSecret = "8f742231b10e8888abcd99yyyzzz85a5"
	AppID         = "A0TESTAPP"
	TeamID        = "T0TEST"
	BotUser       = "U0BOT"
)

// triggerLife is how long a trigger opens a modal.
const triggerLife = 3 * time.Second

// Message is one message in a channel.
type Message struct {
	Channel string
	TS      string
	Thread  string
	Text    string
	// Blocks is the JSON of its blocks.
	Blocks    string
	Edits     int
	Broadcast bool
}

// Ephemeral is a message that one user saw.
type Ephemeral struct {
	Channel, User, Text string
}

// Opened is a modal that was opened.
type Opened struct {
	// View is its JSON.
	View string
	User string
}

// Channel is a channel of the workspace.
type Channel struct {
	Archived bool
	// Member is true when the app was invited.
	Member bool
}

// Fault is what a call meets instead of being carried out.
type Fault struct {
	// Error is one of Slack's codes; Needed and Provided go with missing_scope.
	Error, Needed, Provided string
	// Status of the answer, with RetryAfter in seconds; Body is its text.
	Status     int
	RetryAfter string
	Body       string
	// After carries the call out and fails only then.
	After bool
	// Hang keeps the answer back until the client goes away.
	Hang bool
}

// Call is one call of the Web API.
type Call struct {
	Method string
	At     time.Time
	Form   map[string]string
}

// Server is one workspace. Its fields may be changed under Lock.
type Server struct {
	http *httptest.Server

	mu         sync.Mutex
	channels   map[string]*Channel
	groups     map[string][]string
	messages   []*Message
	ephemerals []Ephemeral
	opened     []Opened
	files      map[string]*File
	faults     map[string][]Fault
	always     map[string]Fault
	calls      []Call
	triggers   map[string]trigger
	tickets    map[string]bool
	sockets    []*socket
	waiting    map[string]chan Ack
	n          int
	botToken   string
	closed     bool
	changed    chan struct{}
}

type trigger struct {
	user string
	made time.Time
}

// New starts a workspace with the channel C0GATES, in which the app is.
func New() *Server {
	s := &Server{
		channels: map[string]*Channel{"C0GATES": {Member: true}, "C0ESCALATION": {Member: true}},
		groups:   map[string][]string{}, files: map[string]*File{},
		faults: map[string][]Fault{}, always: map[string]Fault{},
		triggers: map[string]trigger{}, tickets: map[string]bool{}, waiting: map[string]chan Ack{},
		botToken: BotToken, changed: make(chan struct{}),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/{method}", s.api)
	mux.HandleFunc("GET /api/{method}", s.api)
	mux.HandleFunc("POST /upload/{id}", s.upload)
	mux.HandleFunc("GET /link/", s.link)
	s.http = httptest.NewTLSServer(mux)
	return s
}

// URL is the address of the Web API.
func (s *Server) URL() string { return s.http.URL + "/api/" }

// CA is the certificate to trust, in PEM.
func (s *Server) CA() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.http.Certificate().Raw})
}

// Close ends the workspace and everything that is connected to it.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	for _, c := range s.sockets {
		c.close()
	}
	s.mu.Unlock()
	s.http.CloseClientConnections()
	s.http.Close()
}

// Fail lets the next calls of a method fail, one by one, in this order.
func (s *Server) Fail(method string, faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[method] = append(s.faults[method], faults...)
}

// FailAlways lets every call of a method fail, or of all with "*"; the zero Fault ends that.
func (s *Server) FailAlways(method string, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f == (Fault{}) {
		delete(s.always, method)
		return
	}
	s.always[method] = f
}

// SetChannel makes or changes a channel.
func (s *Server) SetChannel(id string, c Channel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.channels[id] = &c
}

// SetGroup makes or changes a user group.
func (s *Server) SetGroup(id string, users ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.groups[id] = users
}

// Revoke makes the bot's token worthless.
func (s *Server) Revoke() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.botToken = ""
}

// Messages of a channel that are in no thread, or those of a thread, oldest first.
func (s *Server) Messages(channel, thread string) []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Message
	for _, m := range s.messages {
		if m.Channel == channel && m.Thread == thread {
			out = append(out, *m)
		}
	}
	return out
}

// Ephemerals are what single users were shown.
func (s *Server) Ephemerals() []Ephemeral {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ephemerals)
}

// Modals are those that were opened.
func (s *Server) Modals() []Opened {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.opened)
}

// Calls of a method.
func (s *Server) Calls(method string) []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Call
	for _, c := range s.calls {
		if c.Method == method {
			out = append(out, c)
		}
	}
	return out
}

// Await waits until f is true, at most for d, looking whenever something happened.
func (s *Server) Await(d time.Duration, f func() bool) bool {
	end := time.After(d)
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		if f() {
			return true
		}
		select {
		case <-changed:
		case <-time.After(50 * time.Millisecond):
		case <-end:
			return f()
		}
	}
}

// happened wakes who waits; the lock is held.
func (s *Server) happened() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// next makes a number of its own; the lock is held.
func (s *Server) next() int {
	s.n++
	return s.n
}

func (s *Server) ts() string { return fmt.Sprintf("%d.%06d", time.Now().Unix(), s.next()) }

// tokenOf is the token of a call: in its header or in its form.
func tokenOf(r *http.Request) string {
	if t, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return t
	}
	return r.FormValue("token")
}
