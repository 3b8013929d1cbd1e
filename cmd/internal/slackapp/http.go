package slackapp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	slackgo "github.com/slack-go/slack"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/slack"
)

// Path is where Slack sends interactions to.
const Path = "/slack/interactions"

// window is how old a signed request may be, by Slack's own rule.
const window = 5 * time.Minute

// Handler takes Slack's signed requests.
func (a *App) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+Path, a.post)
	// Slack tries the certificate so; it means nothing else.
	mux.HandleFunc("GET "+Path, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("ssl_check") != "1" {
			refuse(w, http.StatusMethodNotAllowed, "interactions are posted")
		}
	})
	return mux
}

// runHTTP serves until ctx ends.
func (a *App) runHTTP(ctx context.Context, socket net.Listener) {
	server := &http.Server{
		Handler: a.Handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
	}
	stop := context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerWithin)
		defer cancel()
		_ = server.Shutdown(ctx)
	})
	defer stop()
	if err := server.Serve(socket); !errors.Is(err, http.ErrServerClosed) {
		a.log.Error("the listener for Slack ended", "error", err)
	}
}

func refuse(w http.ResponseWriter, code int, line string) { http.Error(w, line, code) }

// post takes one request: signed, not seen before, and then what is in it.
func (a *App) post(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, largest))
	if err != nil {
		a.turnAway(w, http.StatusRequestEntityTooLarge, "too-large", "the request is too large or was cut off")
		return
	}
	if err := a.verify(r.Header, body); err != nil {
		a.turnAway(w, http.StatusUnauthorized, "unsigned", "the request is not signed by Slack, or too late: check slack.signingSecretFile and the clock")
		return
	}
	if !a.seen.first(r.Header, time.Now()) {
		a.turnAway(w, http.StatusConflict, "replayed", "the request was taken before")
		return
	}
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch kind {
	case "application/json":
		a.challenge(w, body)
	case "application/x-www-form-urlencoded":
		a.form(w, r, body)
	default:
		a.turnAway(w, http.StatusUnsupportedMediaType, errs.TypeInvalid, "the request is neither a form nor JSON")
	}
}

func (a *App) turnAway(w http.ResponseWriter, code int, outcome, line string) {
	a.count(Unknown, outcome)
	refuse(w, code, line)
}

// verify checks the signature and the time in it.
func (a *App) verify(h http.Header, body []byte) error {
	secret, err := slack.Secret("slack.signingSecretFile", a.cfg.SigningSecretFile)
	if err != nil {
		a.log.Error("Slack's requests cannot be checked", "reason", errs.Message(err))
		return err
	}
	if len(h.Values("X-Slack-Signature")) != 1 || len(h.Values("X-Slack-Request-Timestamp")) != 1 {
		return slackgo.ErrMissingHeaders
	}
	v, err := slackgo.NewSecretsVerifier(h, secret)
	if err != nil {
		return err
	}
	if _, err := v.Write(body); err != nil {
		return err
	}
	return v.Ensure()
}

// challenge answers the request by which Slack tries an address.
func (a *App) challenge(w http.ResponseWriter, body []byte) {
	var in struct {
		Type      string `json:"type"`
		Challenge string `json:"challenge"`
	}
	if err := json.Unmarshal(body, &in); err != nil || in.Type != "url_verification" || len(in.Challenge) > 1<<10 {
		a.turnAway(w, http.StatusBadRequest, errs.TypeInvalid, "of JSON, only url_verification is known here")
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = io.WriteString(w, in.Challenge)
}

func (a *App) form(w http.ResponseWriter, r *http.Request, body []byte) {
	form, err := url.ParseQuery(string(body))
	if err != nil {
		a.turnAway(w, http.StatusBadRequest, errs.TypeInvalid, "the form cannot be read")
		return
	}
	if form.Get("ssl_check") == "1" {
		return
	}
	if len(form["payload"]) != 1 {
		a.turnAway(w, http.StatusBadRequest, errs.TypeInvalid, "the form has no payload")
		return
	}
	in, err := Parse([]byte(form.Get("payload")))
	if err != nil {
		a.turnAway(w, http.StatusBadRequest, errs.TypeInvalid, errs.Message(err))
		return
	}
	answer, err := a.handle(r.Context(), in)
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, errs.Message(err))
		return
	}
	if answer == nil {
		return
	}
	var out bytes.Buffer
	if err := json.NewEncoder(&out).Encode(answer); err != nil {
		refuse(w, http.StatusInternalServerError, "the answer cannot be written")
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_, _ = w.Write(out.Bytes())
}

// seen knows the signatures of requests that were taken, for as long as they
// could be sent again.
type seen struct {
	mu    sync.Mutex
	old   map[[32]byte]bool
	young map[[32]byte]bool
	turn  time.Time
}

// first is true for a request that was not taken before. A signature is over the
// time and the body, so that no two requests of Slack have the same.
func (s *seen) first(h http.Header, now time.Time) bool {
	// The same signature can be written in capitals.
	key := sha256.Sum256([]byte(strings.ToLower(h.Get("X-Slack-Signature"))))
	s.mu.Lock()
	defer s.mu.Unlock()
	// What is valid may be of a clock that is one window ahead, and is so for two.
	if now.Sub(s.turn) > 2*window {
		s.old, s.young, s.turn = s.young, map[[32]byte]bool{}, now
	}
	if s.old[key] || s.young[key] {
		return false
	}
	s.young[key] = true
	return true
}
