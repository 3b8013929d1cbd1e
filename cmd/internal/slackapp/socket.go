package slackapp

import (
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
	slackgo "github.com/slack-go/slack"
	"github.com/slack-go/slack/socketmode"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/slack"
)

const (
	// socketRetry is the wait before Socket Mode is tried again after Slack refused
	// it; it doubles up to socketRetryMost.
	socketRetry, socketRetryMost = time.Second, time.Minute
	handshake                    = 20 * time.Second
	// largestFrame is more than one envelope holds.
	largestFrame = 1 << 20
)

// runSocket keeps Socket Mode connected until ctx ends. The library connects anew
// by itself; what it gives up for, a token that is refused, may be mended by a
// person at any time, and the file is read again.
func (a *App) runSocket(ctx context.Context) {
	for wait := socketRetry; ctx.Err() == nil; wait = min(2*wait, socketRetryMost) {
		began := time.Now()
		err := a.connect(ctx)
		a.socket.Set(0)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > socketRetryMost {
			wait = socketRetry
		}
		a.log.Warn("Slack's Socket Mode cannot be used yet", "reason", errs.Message(err), "again", wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// connect runs one client of Socket Mode until it gives up.
func (a *App) connect(ctx context.Context) error {
	token, err := slack.Secret("slack.appTokenFile", a.cfg.AppTokenFile)
	if err != nil {
		return err
	}
	trust, err := slack.TLS(a.cfg.CAFile)
	if err != nil {
		return err
	}
	api, err := a.slack.API(slackgo.OptionAppLevelToken(token))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := socketmode.New(api,
		socketmode.OptionDialer(&websocket.Dialer{
			Proxy: http.ProxyFromEnvironment, HandshakeTimeout: handshake, TLSClientConfig: trust,
			// Slack does not put frames together again.
			WriteBufferSize: 32 << 10,
		}),
		socketmode.OptionReadLimit(largestFrame),
		socketmode.OptionLog(log.New(io.Discard, "", 0)))
	events := make(chan struct{})
	go func() {
		defer close(events)
		a.events(ctx, c)
	}()
	err = c.RunContext(ctx)
	cancel()
	<-events
	return slack.Explain("apps.connections.open", "slack.appTokenFile", err)
}

// events answers what comes, until ctx ends.
func (a *App) events(ctx context.Context, c *socketmode.Client) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-c.Events:
			a.event(ctx, c, e)
		}
	}
}

func (a *App) event(ctx context.Context, c *socketmode.Client, e socketmode.Event) {
	switch e.Type {
	case socketmode.EventTypeHello:
		a.socket.Set(1)
		a.log.Info("Slack's Socket Mode is in use")
	case socketmode.EventTypeConnecting:
		a.socket.Set(0)
	case socketmode.EventTypeConnectionError:
		a.log.Warn("Slack's Socket Mode cannot be reached", "reason", connectionReason(e.Data))
	case socketmode.EventTypeErrorBadMessage:
		a.bad(ctx, c, e.Data)
	case socketmode.EventTypeInteractive:
		// The next envelope is read while this one is worked on.
		a.work.Go(func() { a.envelope(ctx, c, e.Request) })
	default:
		// Events and commands that this app did not ask for are taken and left alone.
		if e.Request != nil && e.Request.EnvelopeID != "" {
			a.acknowledge(ctx, c, e.Request.EnvelopeID, nil)
		}
	}
}

func connectionReason(data any) string {
	if e, ok := data.(*slackgo.ConnectionErrorEvent); ok {
		return errs.Message(slack.Explain("apps.connections.open", "slack.appTokenFile", e.ErrorObj))
	}
	return "unknown"
}

// envelope answers one interaction.
func (a *App) envelope(ctx context.Context, c *socketmode.Client, r *socketmode.Request) {
	in, err := Parse(r.Payload)
	var answer any
	if err == nil {
		answer, err = a.handle(ctx, in)
	}
	a.acknowledge(ctx, c, r.EnvelopeID, answer)
	if err != nil {
		a.refused(ctx, in, err)
	}
}

// refused says of an interaction that was not taken at all why.
func (a *App) refused(ctx context.Context, in Interaction, err error) {
	a.log.Warn("an interaction was not taken", "reason", errs.Message(err))
	if in.User != "" {
		a.tell(ctx, in, refusal(err))
		return
	}
	a.count(Unknown, errs.TypeOf(err))
}

// bad acknowledges what could not even be read, so that Slack does not send it again.
func (a *App) bad(ctx context.Context, c *socketmode.Client, data any) {
	a.count(Unknown, errs.TypeInvalid)
	a.log.Warn("an interaction was not taken", "reason", "it is not the JSON that Slack sends")
	m, ok := data.(*socketmode.ErrorBadMessage)
	if !ok {
		return
	}
	var r struct {
		EnvelopeID string `json:"envelope_id"`
	}
	if json.Unmarshal(m.Message, &r) == nil && r.EnvelopeID != "" {
		a.acknowledge(ctx, c, r.EnvelopeID, nil)
	}
}

func (a *App) acknowledge(ctx context.Context, c *socketmode.Client, envelope string, answer any) {
	if err := c.AckCtx(ctx, envelope, answer); err != nil && ctx.Err() == nil {
		a.log.Warn("Slack was not answered", "reason", err.Error())
	}
}
