package slackapp

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/activities/slack/slacktest"
)

func (s *setup) send(payload []byte) (int, string) {
	s.t.Helper()
	code, body, err := slacktest.Send(s.t.Context(), s.http, slacktest.Form(payload))
	require.NoError(s.t, err)
	return code, body
}

func TestSignedRequestsAreTaken(t *testing.T) {
	s := newSetup(t)
	code, body := s.send(s.button("U0ALEX", slack.ActionApprove))
	require.Equal(t, 200, code)
	require.Empty(t, body)
	require.Equal(t, "U0ALEX", s.decided(1)[0].By)

	code, _ = s.send(s.button("U0SAM", slack.ActionReject))
	require.Equal(t, 200, code)
	require.True(t, s.slack.Await(5*time.Second, func() bool { return len(s.slack.Modals()) == 1 }))
	modal := s.slack.Modals()[0].View
	code, body = s.send(s.slack.ViewSubmission("U0SAM", modal, slack.BlockWhy, slack.InputWhy, ""))
	require.Equal(t, 200, code)
	require.JSONEq(t, `{"response_action":"errors","errors":{"why":"Say why, in a few words."}}`, body)
	code, body = s.send(s.slack.ViewSubmission("U0SAM", modal, slack.BlockWhy, slack.InputWhy, "too risky"))
	require.Equal(t, 200, code)
	require.Empty(t, body)
	require.Equal(t, "too risky", s.decided(2)[1].Why)
}

func TestWhatSlackSendsToTryAnAddress(t *testing.T) {
	s := newSetup(t)
	resp, err := http.Get(s.http + "?ssl_check=1&token=x")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 200, resp.StatusCode)
	code, _, err := slacktest.Send(t.Context(), s.http, "ssl_check=1&token=x")
	require.NoError(t, err)
	require.Equal(t, 200, code)

	body := `{"type":"url_verification","token":"x","challenge":"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"}`
	r, err := slacktest.Request(t.Context(), s.http, body)
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	code, answer := do(t, r)
	require.Equal(t, 200, code)
	require.Equal(t, "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P", answer)
	require.Empty(t, s.f.got())
}

func do(t testing.TB, r *http.Request) (int, string) {
	t.Helper()
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer func() { require.NoError(t, resp.Body.Close()) }()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(body)
}

func TestBadRequestsGetOneClearAnswer(t *testing.T) {
	s := newSetup(t)
	good := slacktest.Form(s.button("U0ALEX", slack.ActionApprove))
	for name, test := range map[string]struct {
		body   string
		change func(*http.Request)
		code   int
		says   string
	}{
		"unsigned": {good, func(r *http.Request) { r.Header.Del("X-Slack-Signature") }, 401, "not signed by Slack"},
		"no time":  {good, func(r *http.Request) { r.Header.Del("X-Slack-Request-Timestamp") }, 401, "not signed by Slack"},
		"two":      {good, func(r *http.Request) { r.Header.Add("X-Slack-Signature", "v0=00") }, 401, "not signed by Slack"},
		"late": {good, func(r *http.Request) {
			slacktest.Sign(r.Header, slacktest.SigningSecret, good, time.Now().Add(-6*time.Minute))
		}, 401, "too late"},
		"ahead": {good, func(r *http.Request) {
			slacktest.Sign(r.Header, slacktest.SigningSecret, good, time.Now().Add(6*time.Minute))
		}, 401, "check slack.signingSecretFile and the clock"},
		"other secret":  {good, func(r *http.Request) { slacktest.Sign(r.Header, "other", good, time.Now()) }, 401, "not signed by Slack"},
		"giant":         {"payload=" + strings.Repeat("x", largest), nil, 413, "too large"},
		"no payload":    {"x=y", nil, 400, "has no payload"},
		"two payloads":  {good + "&" + good, nil, 400, "has no payload"},
		"no form":       {"payload=%zz", nil, 400, "cannot be read"},
		"no JSON":       {slacktest.Form([]byte("{")), nil, 400, "not the JSON that Slack sends"},
		"nobody":        {slacktest.Form([]byte(`{"type":"block_actions"}`)), nil, 400, "names no Slack user"},
		"no type":       {slacktest.Form([]byte(`{"user":{"id":"U0ALEX"}}`)), nil, 400, "has no type"},
		"no action":     {slacktest.Form([]byte(`{"type":"block_actions","user":{"id":"U0ALEX"}}`)), nil, 400, "has 0 actions and not one"},
		"odd button":    {slacktest.Form(s.slack.BlockActions("U0ALEX", s.message, slack.ActionApprove, `{"p":"../x"}`)), nil, 400, "does not say what it is about"},
		"media type":    {good, func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }, 415, "neither a form nor JSON"},
		"other JSON":    {`{"type":"event_callback"}`, func(r *http.Request) { r.Header.Set("Content-Type", "application/json") }, 400, "only url_verification"},
		"wrong address": {good, func(r *http.Request) { r.URL.Path = "/" }, 404, "404"},
		"wrong method":  {good, func(r *http.Request) { r.Method = http.MethodPut }, 405, "Method Not Allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := slacktest.Request(t.Context(), s.http, test.body)
			require.NoError(t, err)
			if test.change != nil {
				test.change(r)
			}
			code, answer := do(t, r)
			require.Equal(t, test.code, code, answer)
			require.Contains(t, answer, test.says)
			require.Equal(t, 1, strings.Count(strings.TrimSpace(answer), "\n")+1)
		})
	}
	require.Empty(t, s.f.got())
	require.Empty(t, s.slack.Ephemerals())
}

func TestWithoutASecretNothingIsTaken(t *testing.T) {
	s := newSetup(t)
	require.NoError(t, os.WriteFile(s.files["secret"], nil, 0o600))
	body := slacktest.Form(s.button("U0ALEX", slack.ActionApprove))
	r, err := slacktest.Request(t.Context(), s.http, body)
	require.NoError(t, err)
	slacktest.Sign(r.Header, "", body, time.Now())
	code, _ := do(t, r)
	require.Equal(t, 401, code)
	require.Empty(t, s.f.got())
}

// forge makes the i-th request that must not be taken, out of one that was.
func forge(r *rand.Rand, i int, body string, h http.Header) (string, http.Header) {
	out := h.Clone()
	stamp, err := strconv.ParseInt(h.Get("X-Slack-Request-Timestamp"), 10, 64)
	if err != nil {
		panic(err)
	}
	switch i % 12 {
	case 0: // one byte of the body is another
		at := r.IntN(len(body))
		body = body[:at] + string(rune('A'+r.IntN(26))) + "~" + body[at+1:]
	case 1: // another person
		body = strings.Replace(body, "U0ALEX", fmt.Sprintf("U0%04d", i), 1)
	case 2: // other evidence
		body = strings.Replace(body, url.QueryEscape(strings.Repeat("f", 64)), strings.Repeat("a", 64), 1)
	case 3:
		out.Del("X-Slack-Signature")
	case 4:
		out.Del("X-Slack-Request-Timestamp")
	case 5: // replayed as it was
	case 6: // replayed in capitals
		out.Set("X-Slack-Signature", "v0="+strings.ToUpper(strings.TrimPrefix(h.Get("X-Slack-Signature"), "v0=")))
	case 7: // replayed with a new time
		out.Set("X-Slack-Request-Timestamp", strconv.FormatInt(stamp+1+r.Int64N(60), 10))
	case 8: // signed too long ago
		slacktest.Sign(out, slacktest.SigningSecret, body, time.Now().Add(-window-time.Second-time.Duration(r.Int64N(int64(48*time.Hour)))))
	case 9: // signed for later
		slacktest.Sign(out, slacktest.SigningSecret, body, time.Now().Add(window+2*time.Second+time.Duration(r.Int64N(int64(48*time.Hour)))))
	case 10: // signed by somebody else
		slacktest.Sign(out, fmt.Sprintf("guess-%d", i), body, time.Now())
	case 11: // half a signature, or one of another version
		out.Set("X-Slack-Signature", []string{"v0=", "v1=" + h.Get("X-Slack-Signature")[3:], h.Get("X-Slack-Signature")[:40], "v0=zz"}[r.IntN(4)])
	}
	return body, out
}

// forgeries sends n requests that must not be taken, and one before them that was.
func forgeries(t testing.TB, s *setup, n int) {
	t.Helper()
	r := rand.New(rand.NewPCG(5, 6))
	body := slacktest.Form(s.button("U0ALEX", slack.ActionApprove))
	h := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	slacktest.Sign(h, slacktest.SigningSecret, body, time.Now())
	handler := s.app.Handler()
	send := func(body string, h http.Header) int {
		request := httptest.NewRequest(http.MethodPost, Path, bytes.NewReader([]byte(body)))
		request.Header = h
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, request)
		return w.Code
	}
	require.Equal(t, 200, send(body, h))
	s.decided(1)
	for i := range n {
		b, headers := forge(r, i, body, h)
		if code := send(b, headers); code < 400 {
			t.Fatalf("forgery %d (kind %d) was answered with %d", i, i%12, code)
		}
	}
	require.Len(t, s.f.got(), 1)
}

func TestNoForgeryIsTaken(t *testing.T) { forgeries(t, newSetup(t), 600) }

// BenchmarkForgeries sends 10,000 requests that were altered, replayed, sent late
// or not signed; none may be taken.
func BenchmarkForgeries(b *testing.B) {
	const n = 10_000
	for b.Loop() {
		began := time.Now()
		forgeries(b, newSetup(b), n)
		b.ReportMetric(n, "forged")
		b.ReportMetric(0, "taken")
		b.ReportMetric(time.Since(began).Seconds()/n*1e6, "us/request")
	}
}
