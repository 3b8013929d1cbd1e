package slack_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/activities/slack/slacktest"
)

// workspace is a Slack, and activities that use it.
func workspace(t testing.TB) (*slacktest.Server, *slack.Activities, *slack.Client) {
	t.Helper()
	s := slacktest.New()
	t.Cleanup(s.Close)
	c, err := slack.NewClient(config(t, s, slacktest.BotToken))
	require.NoError(t, err)
	return s, slack.New(c), c
}

func config(t testing.TB, s *slacktest.Server, token string) slack.Config {
	t.Helper()
	dir := t.TempDir()
	write := func(name, data string) string {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, []byte(data), 0o600))
		return file
	}
	return slack.Config{BotTokenFile: write("token", token+"\n"), URL: s.URL(), CAFile: write("ca.pem", string(s.CA()))}
}

func gateView() slack.View {
	return slack.View{
		Pipeline: "policies", Rollout: "run-1", State: "awaiting-approval", Revision: strings.Repeat("c", 40),
		Subject: "Let web reach api", Author: "dev", StartedBy: "ann", Temporal: "https://temporal.example.com/x",
		Environments: []slack.Environment{
			{Name: "dev", State: "verified", Clusters: 2, Verified: 2, Pairs: 12, Evidence: strings.Repeat("e", 64), Soak: time.Minute, LiveAt: time.Unix(1700000000, 0)},
			{Name: "prod", State: "awaiting-approval", Clusters: 3},
		},
		Gate: &slack.Gate{
			Environment: "prod", Required: 2, Evidence: strings.Repeat("f", 64), Since: time.Unix(1700000000, 0), Deadline: time.Unix(1700003600, 0),
			Votes: []slack.Said{{By: "sam", Via: "cli", Why: "seen in dev"}}, Counted: 1,
			Changes:  slack.Changes{Added: slack.Objects{Count: 1, Names: []string{"NetworkPolicy/web"}}, Changed: slack.Objects{Count: 30, Names: []string{"NetworkPolicy/api"}}},
			From:     strings.Repeat("b", 40),
			Compare:  "https://git.example.com/x/-/compare/b...c",
			Measured: 3,
		},
	}
}

func TestAMessageIsWrittenAndChangedInPlace(t *testing.T) {
	s, a, _ := workspace(t)
	at, err := a.Message(t.Context(), slack.MessageInput{Channel: "C0GATES", Environment: "prod", View: gateView()})
	require.NoError(t, err)
	v := gateView()
	v.Gate, v.State, v.Environments[1].State = nil, "promoting", "promoting"
	same, err := a.Message(t.Context(), slack.MessageInput{Channel: "C0GATES", At: at.At, Environment: "prod", View: v})
	require.NoError(t, err)
	require.Equal(t, at, same)
	_, err = a.Lines(t.Context(), slack.LinesInput{Channel: "C0GATES", Thread: at.At, Lines: []string{"one", "two"}})
	require.NoError(t, err)

	messages := s.Messages("C0GATES", "")
	require.Len(t, messages, 1)
	require.Equal(t, 1, messages[0].Edits)
	require.Contains(t, messages[0].Text, "policies → prod: promoting")
	require.NotContains(t, messages[0].Blocks, slack.ActionApprove, "a gate that no longer waits has no buttons")
	thread := s.Messages("C0GATES", at.At)
	require.Len(t, thread, 1)
	require.Equal(t, "one\ntwo", thread[0].Text)
}

func TestGroupsAreResolvedOneByOne(t *testing.T) {
	s, a, _ := workspace(t)
	s.SetGroup("S0OPS", "U2", "U1")
	got, err := a.ResolveGroups(t.Context(), slack.GroupsInput{Groups: []string{"S0NONE", "S0OPS"}})
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), got.At, time.Minute)
	require.Contains(t, got.Groups[0].Error, "there is no user group S0NONE")
	require.Equal(t, slack.Group{ID: "S0OPS", Users: []string{"U1", "U2"}}, got.Groups[1])

	s.FailAlways("usergroups.users.list", slacktest.Fault{Error: "missing_scope", Needed: "usergroups:read", Provided: "chat:write"})
	got, err = a.ResolveGroups(t.Context(), slack.GroupsInput{Groups: []string{"S0OPS"}})
	require.NoError(t, err)
	require.Equal(t, slack.Group{ID: "S0OPS", Error: "Slack: usergroups.users.list needs the scope usergroups:read and the token has chat:write: add it to the app and install it again"}, got.Groups[0])
}

func TestWhatSlackRefusesHasOneClearError(t *testing.T) {
	for name, test := range map[string]struct {
		arrange func(*slacktest.Server)
		kind    string
		says    string
	}{
		"token revoked": {func(s *slacktest.Server) { s.Revoke() }, errs.TypeDenied, "Slack refuses the token (token_revoked): put a valid one into "},
		"wrong auth":    {func(s *slacktest.Server) { s.Fail("chat.postMessage", slacktest.Fault{Error: "invalid_auth"}) }, errs.TypeDenied, "invalid_auth"},
		"archived":      {func(s *slacktest.Server) { s.SetChannel("C0GATES", slacktest.Channel{Archived: true, Member: true}) }, errs.TypeFailed, "the channel C0GATES is archived"},
		"not invited":   {func(s *slacktest.Server) { s.SetChannel("C0GATES", slacktest.Channel{}) }, errs.TypeFailed, "invite the app to it"},
		"scope": {func(s *slacktest.Server) {
			s.Fail("chat.postMessage", slacktest.Fault{Error: "missing_scope", Needed: "chat:write", Provided: "users:read,channels:read"})
		}, errs.TypeDenied, "needs the scope chat:write and the token has users:read,channels:read"},
		"long rate limit": {func(s *slacktest.Server) { s.Fail("chat.postMessage", slacktest.Fault{Status: 429, RetryAfter: "77"}) }, errs.TypeUnavailable, "may be asked again in 1m17s"},
		"broken":          {func(s *slacktest.Server) { s.Fail("chat.postMessage", slacktest.Fault{Status: 503, Body: "<html>"}) }, errs.TypeUnavailable, "Slack answered 503"},
		"no Slack":        {func(s *slacktest.Server) { s.Fail("chat.postMessage", slacktest.Fault{Status: 404}) }, errs.TypeFailed, "is slack.apiURL the address"},
		"no JSON":         {func(s *slacktest.Server) { s.Fail("chat.postMessage", slacktest.Fault{Body: "<html>log in</html>"}) }, errs.TypeUnavailable, "does not speak as Slack does"},
		"empty":           {func(s *slacktest.Server) { s.Fail("chat.postMessage", slacktest.Fault{Body: ""}) }, errs.TypeUnavailable, "does not speak as Slack does"},
		"success of none": {func(s *slacktest.Server) { s.Fail("chat.postMessage", slacktest.Fault{Body: "{}"}) }, errs.TypeUnavailable, "without saying which message"},
		"unknown code":    {func(s *slacktest.Server) { s.Fail("chat.postMessage", slacktest.Fault{Error: "odd_<x> code"}) }, errs.TypeFailed, "Slack answered odd_xcode to chat.postMessage"},
		"down":            {func(s *slacktest.Server) { s.Close() }, errs.TypeUnavailable, "cannot be reached"},
	} {
		t.Run(name, func(t *testing.T) {
			s, a, c := workspace(t)
			test.arrange(s)
			_, err := a.Message(t.Context(), slack.MessageInput{Channel: "C0GATES", Environment: "prod", View: gateView()})
			require.Equal(t, test.kind, errs.TypeOf(err), "%v", err)
			require.Contains(t, errs.Message(err), test.says)
			require.NotContains(t, err.Error(), slacktest.BotToken)
			require.NotContains(t, errs.Message(err), "\n")
			require.NotContains(t, errs.Message(err), "127.0.0.1/api")
			require.InDelta(t, 0, testutil.ToFloat64(c.Collectors()[1].(prometheus.Gauge)), 0)
		})
	}
}

func TestARateLimitIsWaitedForOrHandedUp(t *testing.T) {
	s, a, _ := workspace(t)
	s.Fail("chat.postMessage", slacktest.Fault{Status: 429, RetryAfter: "1"})
	began := time.Now()
	_, err := a.Message(t.Context(), slack.MessageInput{Channel: "C0GATES", Environment: "prod", View: gateView()})
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(began), time.Second)
	require.Len(t, s.Calls("chat.postMessage"), 2)

	s.Fail("chat.postMessage", slacktest.Fault{Status: 429, RetryAfter: "30"})
	_, err = a.Message(t.Context(), slack.MessageInput{Channel: "C0GATES", Environment: "prod", View: gateView()})
	var app *temporal.ApplicationError
	require.ErrorAs(t, err, &app)
	require.Equal(t, 30*time.Second, app.NextRetryDelay())
	require.Len(t, s.Calls("chat.postMessage"), 3)
}

// A message that Slack may have taken is not sent twice by the client.
func TestNoMessageIsSentTwice(t *testing.T) {
	s, a, _ := workspace(t)
	s.Fail("chat.postMessage", slacktest.Fault{Status: 500, After: true})
	_, err := a.Lines(t.Context(), slack.LinesInput{Channel: "C0GATES", Lines: []string{"x"}})
	require.Equal(t, errs.TypeUnavailable, errs.TypeOf(err))
	require.Len(t, s.Messages("C0GATES", ""), 1)
}

func TestTheTokenCanBeRotated(t *testing.T) {
	s := slacktest.New()
	defer s.Close()
	cfg := config(t, s, "xoxb-old")
	c, err := slack.NewClient(cfg)
	require.NoError(t, err)
	a := slack.New(c)
	lines := slack.LinesInput{Channel: "C0GATES", Lines: []string{"x"}}
	_, err = a.Lines(t.Context(), lines)
	require.Equal(t, errs.TypeDenied, errs.TypeOf(err))
	require.NoError(t, os.WriteFile(cfg.BotTokenFile, []byte(slacktest.BotToken), 0o600))
	_, err = a.Lines(t.Context(), lines)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(cfg.BotTokenFile, []byte("two words"), 0o600))
	_, err = a.Lines(t.Context(), lines)
	require.Equal(t, errs.TypeInvalid, errs.TypeOf(err))
	require.NotContains(t, err.Error(), "two words")
}

func TestWrongCertificate(t *testing.T) {
	s := slacktest.New()
	defer s.Close()
	cfg := config(t, s, slacktest.BotToken)
	cfg.CAFile = ""
	c, err := slack.NewClient(cfg)
	require.NoError(t, err)
	_, err = slack.New(c).Lines(t.Context(), slack.LinesInput{Channel: "C0GATES", Lines: []string{"x"}})
	require.Equal(t, errs.TypeUntrusted, errs.TypeOf(err))
	cfg.CAFile = cfg.BotTokenFile
	_, err = slack.NewClient(cfg)
	require.Equal(t, errs.TypeInvalid, errs.TypeOf(err))
}

func TestWithoutATokenItSaysWhereOneGoes(t *testing.T) {
	c, err := slack.NewClient(slack.Config{})
	require.NoError(t, err)
	require.False(t, c.On())
	_, err = slack.New(c).Lines(t.Context(), slack.LinesInput{Channel: "C", Lines: []string{"x"}})
	require.Equal(t, errs.TypeInvalid, errs.TypeOf(err))
	require.Contains(t, err.Error(), "slack.botTokenFile")
}
