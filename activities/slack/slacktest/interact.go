package slacktest

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// trigger makes a trigger for a user.
func (s *Server) trigger(user string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := fmt.Sprintf("%d.%d.%x", s.next(), time.Now().Unix(), sha256.Sum256([]byte(user)))
	s.triggers[id] = trigger{user: user, made: time.Now()}
	return id
}

func person(user string) object {
	return object{"id": user, "username": strings.ToLower(user), "name": strings.ToLower(user), "team_id": TeamID}
}

func (s *Server) common(kind, user string) object {
	return object{
		"type": kind, "user": person(user), "api_app_id": AppID, "token": "Shh_its_a_seekrit",
		"team": object{"id": TeamID, "domain": "test"}, "enterprise": nil, "is_enterprise_install": false,
	}
}

// BlockActions is what Slack sends when a user presses a button of a message.
func (s *Server) BlockActions(user string, m Message, action, value string) []byte {
	p := s.common("block_actions", user)
	p["container"] = object{"type": "message", "message_ts": m.TS, "channel_id": m.Channel, "is_ephemeral": false}
	p["trigger_id"] = s.trigger(user)
	p["channel"] = object{"id": m.Channel, "name": strings.ToLower(m.Channel)}
	p["message"] = m.object()
	p["state"] = object{"values": object{}}
	p["response_url"] = s.http.URL + "/actions/T0TEST/1/x"
	p["actions"] = []object{{
		"action_id": action, "block_id": "portcullis.gate", "type": "button", "value": value, "style": "primary",
		"text": object{"type": "plain_text", "text": "Approve", "emoji": false}, "action_ts": fmt.Sprintf("%d.000001", time.Now().Unix()),
	}}
	return marshal(p)
}

// ViewSubmission is what Slack sends when a user submits a modal.
func (s *Server) ViewSubmission(user, view, block, input, value string) []byte {
	p := s.common("view_submission", user)
	p["trigger_id"] = s.trigger(user)
	p["response_urls"] = []object{}
	p["view"] = shown(view, object{"values": object{block: object{input: object{"type": "plain_text_input", "value": value}}}})
	return marshal(p)
}

// ViewClosed is what Slack sends when a user closes a modal that asked for that.
func (s *Server) ViewClosed(user, view string) []byte {
	p := s.common("view_closed", user)
	p["is_cleared"] = false
	p["view"] = shown(view, object{"values": object{}})
	return marshal(p)
}

// Shortcut is what Slack sends for a global shortcut, of which this app has none.
func (s *Server) Shortcut(user string) []byte {
	p := s.common("shortcut", user)
	p["callback_id"], p["trigger_id"], p["action_ts"] = "unknown", s.trigger(user), "1.0"
	return marshal(p)
}

// shown is a view as Slack sends it back.
func shown(view string, state object) object {
	var v object
	if err := json.Unmarshal([]byte(view), &v); err != nil {
		v = object{}
	}
	v["id"], v["team_id"], v["state"], v["hash"] = "V0TEST", TeamID, state, "1.x"
	v["app_id"], v["bot_id"], v["root_view_id"], v["app_installed_team_id"] = AppID, "B0BOT", "V0TEST", TeamID
	return v
}

func marshal(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // of maps and texts: cannot be
	}
	return raw
}

// Form is an interaction as the body of an HTTP request.
func Form(payload []byte) string { return url.Values{"payload": {string(payload)}}.Encode() }

// Sign gives a request the headers with which Slack proves that it is from Slack.
func Sign(h http.Header, secret, body string, at time.Time) {
	stamp := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(secret))
	_, _ = mac.Write([]byte("v0:" + stamp + ":" + body))
	h.Set("X-Slack-Request-Timestamp", stamp)
	h.Set("X-Slack-Signature", "v0="+hex.EncodeToString(mac.Sum(nil)))
}

// Request is a signed request to an app's endpoint.
func Request(ctx context.Context, to, body string) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("User-Agent", "Slackbot 1.0 (+https://api.slack.com/robots)")
	Sign(r.Header, SigningSecret, body, time.Now())
	return r, nil
}

// Send sends a signed request and returns the answer.
func Send(ctx context.Context, to, body string) (int, string, error) {
	r, err := Request(ctx, to, body)
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, largestCall))
	return resp.StatusCode, string(text), err
}
