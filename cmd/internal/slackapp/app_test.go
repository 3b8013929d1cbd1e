package slackapp

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/activities/slack/slacktest"
	"portcullis.dev/portcullis/cmd/internal/config"
	"portcullis.dev/portcullis/workflows/contract"
)

// temporalFake takes updates.
type temporalFake struct {
	mu      sync.Mutex
	updates []client.UpdateWorkflowOptions
	answer  func(client.UpdateWorkflowOptions) error
	status  contract.RolloutStatus
}

type handle struct {
	client.WorkflowUpdateHandle
	err error
}

func (h handle) Get(context.Context, any) error { return h.err }

func (f *temporalFake) UpdateWorkflow(ctx context.Context, o client.UpdateWorkflowOptions) (client.WorkflowUpdateHandle, error) {
	f.mu.Lock()
	f.updates = append(f.updates, o)
	answer := f.answer
	f.mu.Unlock()
	if answer == nil {
		return handle{}, nil
	}
	err := answer(o)
	if errs.TypeOf(err) == "" && err != nil {
		return nil, err
	}
	return handle{err: err}, nil
}

type encoded struct {
	converter.EncodedValue
	v any
}

func (e encoded) Get(into any) error {
	p, err := converter.GetDefaultDataConverter().ToPayload(e.v)
	if err != nil {
		return err
	}
	return converter.GetDefaultDataConverter().FromPayload(p, into)
}

func (f *temporalFake) QueryWorkflow(context.Context, string, string, string, ...any) (converter.EncodedValue, error) {
	return encoded{v: f.status}, nil
}

func (f *temporalFake) got() []contract.Decision {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []contract.Decision
	for _, u := range f.updates {
		out = append(out, u.Args[0].(contract.Decision))
	}
	return out
}

func (f *temporalFake) answers(a func(client.UpdateWorkflowOptions) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = a
}

// setup is an app that runs against a workspace, with a gate's message in it.
type setup struct {
	t       testing.TB
	slack   *slacktest.Server
	f       *temporalFake
	app     *App
	message slacktest.Message
	log     *lines
	http    string
	files   map[string]string
}

type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func view() slack.View {
	return slack.View{
		Pipeline: "policies", Rollout: "run-1", State: "awaiting-approval", Revision: strings.Repeat("c", 40),
		Environments: []slack.Environment{{Name: "prod", State: "awaiting-approval"}},
		Gate:         &slack.Gate{Environment: "prod", Required: 2, Evidence: strings.Repeat("f", 64), Since: time.Unix(1700000000, 0)},
	}
}

func newSetup(t testing.TB) *setup {
	t.Helper()
	s := &setup{t: t, slack: slacktest.New(), f: &temporalFake{status: contract.RolloutStatus{Pipeline: "policies", RolloutState: contract.RolloutState{FirstRun: "run-1"}}}, log: &lines{}, files: map[string]string{}}
	dir := t.TempDir()
	for name, data := range map[string]string{"bot": slacktest.BotToken, "app": slacktest.AppToken, "secret": slacktest.SigningSecret, "ca": string(s.slack.CA())} {
		s.files[name] = filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(s.files[name], []byte(data), 0o600))
	}
	cfg := config.Slack{
		BotTokenFile: s.files["bot"], AppTokenFile: s.files["app"], SigningSecretFile: s.files["secret"], CAFile: s.files["ca"],
		APIURL: s.slack.URL(), Listen: "127.0.0.1:0",
	}
	c, err := slack.NewClient(slack.Config{BotTokenFile: cfg.BotTokenFile, URL: cfg.APIURL, CAFile: cfg.CAFile})
	require.NoError(t, err)
	s.app = New(cfg, c)
	ctx, cancel := context.WithCancel(context.Background())
	wait, err := s.app.Start(ctx, s.f, slog.New(slog.NewTextHandler(s.log, nil)))
	require.NoError(t, err)
	t.Cleanup(func() { cancel(); s.slack.Close(); wait() })
	s.http = "http://" + s.app.address + Path

	at, err := slack.New(c).Message(ctx, slack.MessageInput{Channel: "C0GATES", Environment: "prod", View: view()})
	require.NoError(t, err)
	s.message = s.slack.Messages("C0GATES", "")[0]
	require.Equal(t, at.At, s.message.TS)
	return s
}

func (s *setup) connected() {
	s.t.Helper()
	require.True(s.t, s.slack.Await(10*time.Second, func() bool { return s.slack.Sockets() > 0 }), s.log.String())
}

// button is what Slack sends when a user presses a button of the message.
func (s *setup) button(user, action string) []byte {
	s.t.Helper()
	value, err := s.message.Button(action)
	require.NoError(s.t, err)
	return s.slack.BlockActions(user, s.message, action, value)
}

func (s *setup) envelope(payload []byte) slacktest.Ack {
	s.t.Helper()
	ack, err := s.slack.Envelope(context.Background(), payload)
	require.NoError(s.t, err)
	return ack
}

func (s *setup) decided(n int) []contract.Decision {
	s.t.Helper()
	require.True(s.t, s.slack.Await(5*time.Second, func() bool { return len(s.f.got()) >= n }), s.log.String())
	return s.f.got()
}

func (s *setup) told(user, text string) {
	s.t.Helper()
	require.True(s.t, s.slack.Await(5*time.Second, func() bool {
		for _, e := range s.slack.Ephemerals() {
			if e.User == user && strings.Contains(e.Text, text) {
				return true
			}
		}
		return false
	}), "%s was not told %q, but: %+v\n%s", user, text, s.slack.Ephemerals(), s.log)
}

func TestApproveOverSocketMode(t *testing.T) {
	s := newSetup(t)
	s.connected()
	ack := s.envelope(s.button("U0ALEX", slack.ActionApprove))
	require.Empty(t, ack.Payload)
	require.Equal(t, contract.Decision{
		By: "U0ALEX", Environment: "prod", Evidence: strings.Repeat("f", 64), Via: contract.ViaSlack, Known: contract.KnownSlack,
	}, s.decided(1)[0])
	u := s.f.updates[0]
	require.Equal(t, "rollout/policies", u.WorkflowID)
	require.Equal(t, "run-1", u.FirstExecutionRunID, "a button of an earlier rollout decides nothing about a later one")
	require.Equal(t, contract.UpdateApprove, u.UpdateName)
	require.Empty(t, s.slack.Ephemerals(), "who was heard sees it in the message")
}

func TestARefusalIsSeenByThatPersonAlone(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		says string
	}{
		"not entitled": {errs.NotEntitled("eve is nobody who may approve prod"), "eve is nobody who may approve prod"},
		"twice":        {errs.Approved("alex has approved prod already"), "alex has approved prod already"},
		"over":         {serviceerror.NewNotFound("workflow execution already completed"), "no longer runs: there is nothing left to decide"},
		"other run":    {serviceerror.NewInvalidArgument("first execution run ID mismatch"), "no longer runs"},
		"Temporal":     {serviceerror.NewUnavailable("dial tcp 10.0.0.1:7233: refused"), "Temporal cannot be reached"},
		"late":         {context.DeadlineExceeded, "it may count all the same"},
		"markup":       {errs.Late("<!channel> *x* on 10.42.0.9"), "&lt;!channel&gt; ∗x∗ on [address]"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSetup(t)
			s.connected()
			s.f.answers(func(client.UpdateWorkflowOptions) error { return test.err })
			s.envelope(s.button("U0EVE", slack.ActionApprove))
			s.told("U0EVE", test.says)
			require.Len(t, s.slack.Ephemerals(), 1)
			require.NotContains(t, s.slack.Ephemerals()[0].Text, "10.")
			require.Len(t, s.slack.Messages("C0GATES", ""), 1)
		})
	}
}

func TestRejectAsksWhy(t *testing.T) {
	s := newSetup(t)
	s.connected()
	s.envelope(s.button("U0SAM", slack.ActionReject))
	require.True(t, s.slack.Await(5*time.Second, func() bool { return len(s.slack.Modals()) == 1 }), s.log.String())
	require.Empty(t, s.f.got(), "the button alone decides nothing")
	modal := s.slack.Modals()[0].View

	ack := s.envelope(s.slack.ViewSubmission("U0SAM", modal, slack.BlockWhy, slack.InputWhy, " \n"))
	require.Contains(t, string(ack.Payload), "Say why")
	require.Empty(t, s.f.got())

	ack = s.envelope(s.slack.ViewSubmission("U0SAM", modal, slack.BlockWhy, slack.InputWhy, "not on\na Friday"))
	require.Empty(t, ack.Payload, "the form closes")
	got := s.decided(1)[0]
	require.Equal(t, "U0SAM", got.By)
	require.Equal(t, "not on a Friday", got.Why)
	require.Equal(t, contract.UpdateReject, s.f.updates[0].UpdateName)

	s.f.answers(func(client.UpdateWorkflowOptions) error { return errs.NotEntitled("sam may not") })
	ack = s.envelope(s.slack.ViewSubmission("U0SAM", modal, slack.BlockWhy, slack.InputWhy, "again"))
	require.Contains(t, string(ack.Payload), "sam may not")

	s.f.answers(func(client.UpdateWorkflowOptions) error {
		time.Sleep(answerWithin + 300*time.Millisecond)
		return errs.Late("too late")
	})
	ack = s.envelope(s.slack.ViewSubmission("U0SAM", modal, slack.BlockWhy, slack.InputWhy, "slowly"))
	require.Empty(t, ack.Payload, "Slack is answered in time")
	s.told("U0SAM", "too late")
}

func TestDetailsAndWhatIsNotKnown(t *testing.T) {
	s := newSetup(t)
	s.connected()
	s.envelope(s.button("U0SAM", slack.ActionDetails))
	require.True(t, s.slack.Await(5*time.Second, func() bool { return len(s.slack.Modals()) == 1 }), s.log.String())
	s.envelope(s.slack.ViewClosed("U0SAM", s.slack.Modals()[0].View))
	s.envelope(s.slack.BlockActions("U0SAM", s.message, "someone.elses", "x"))
	s.told("U0SAM", "does not know this button")
	s.envelope(s.slack.Shortcut("U0SAM"))
	s.f.status.FirstRun = "run-2"
	s.envelope(s.button("U0SAM", slack.ActionDetails))
	s.told("U0SAM", "no longer runs")
	require.Empty(t, s.f.got())
}

func TestSocketModeLivesThroughEverything(t *testing.T) {
	s := newSetup(t)
	s.connected()
	for _, bad := range []string{
		`{`, `[]`, `"x"`, `{"type":"interactive","envelope_id":"e1","payload":7}`, `{"type":"odd","envelope_id":"e2"}`,
		`{"type":"interactive","envelope_id":"e3","payload":{"type":"block_actions","user":{"id":"U0SAM"},"actions":"x"}}`,
		`{"type":"interactive","envelope_id":"e4","payload":{"type":"block_actions","user":{"id":"` + strings.Repeat("U", 300000) + `"}}}`,
		`{"type":"events_api","envelope_id":"e5","payload":{"type":"event_callback","event":{"type":"app_mention"}}}`,
		`{"type":"slash_commands","envelope_id":"e6","payload":{"command":"/x"}}`,
	} {
		require.True(t, s.slack.Await(5*time.Second, func() bool { return s.slack.Raw([]byte(bad)) == nil }))
	}
	require.NoError(t, s.slack.Refresh("refresh_requested"))
	require.Eventually(t, func() bool { return len(s.slack.Calls("apps.connections.open")) >= 2 && s.slack.Sockets() > 0 }, 10*time.Second, 20*time.Millisecond)
	s.slack.Cut()
	require.Eventually(t, func() bool { return len(s.slack.Calls("apps.connections.open")) >= 3 && s.slack.Sockets() > 0 }, 10*time.Second, 20*time.Millisecond)
	require.Empty(t, s.f.got())
	require.Eventually(t, func() bool {
		_, err := s.slack.Envelope(t.Context(), s.button("U0ALEX", slack.ActionApprove))
		return err == nil
	}, 10*time.Second, 100*time.Millisecond)
	s.decided(1)
	require.NotContains(t, s.log.String(), slacktest.AppToken)
	require.NotContains(t, s.log.String(), slacktest.BotToken)
	require.NotContains(t, s.log.String(), "ticket-")
}

// A token that is refused is waited for: a person may put another one there.
func TestAnAppTokenThatIsRefusedIsTriedAgain(t *testing.T) {
	s := newSetup(t)
	s.connected()
	s.slack.FailAlways("apps.connections.open", slacktest.Fault{Error: "token_revoked"})
	s.slack.Cut()
	require.Eventually(t, func() bool { return strings.Contains(s.log.String(), "token_revoked") }, 10*time.Second, 20*time.Millisecond, s.log.String())
	require.Contains(t, s.log.String(), "slack.appTokenFile")
	s.slack.FailAlways("apps.connections.open", slacktest.Fault{})
	s.connected()
}

func TestOnePressIsOneUpdate(t *testing.T) {
	in := Interaction{Kind: Approve, User: "U0ALEX", Trigger: "1.2.abc"}
	require.Equal(t, updateID(in), updateID(in))
	other := in
	other.Trigger = "1.3.abc"
	require.NotEqual(t, updateID(in), updateID(other))
	other = in
	other.User = "U0SAM"
	require.NotEqual(t, updateID(in), updateID(other))
}

func TestManyAtOnceAreTurnedAway(t *testing.T) {
	s := newSetup(t)
	hold := make(chan struct{})
	s.f.answers(func(client.UpdateWorkflowOptions) error { <-hold; return nil })
	in, err := Parse(s.button("U0ALEX", slack.ActionApprove))
	require.NoError(t, err)
	for range atOnce {
		_, err := s.app.handle(t.Context(), in)
		require.NoError(t, err)
	}
	_, err = s.app.handle(t.Context(), in)
	require.ErrorIs(t, err, errBusy)
	close(hold)
	require.Eventually(t, func() bool { _, err := s.app.handle(t.Context(), in); return !errors.Is(err, errBusy) }, 5*time.Second, 10*time.Millisecond)
}
