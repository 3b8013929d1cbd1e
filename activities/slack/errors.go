package slack

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	slackgo "github.com/slack-go/slack"

	"portcullis.dev/portcullis/activities/errs"
)

// neverSent is true for connections that could not be made.
func neverSent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial" && !untrusted(err)
}

func untrusted(err error) bool {
	var (
		verify  *tls.CertificateVerificationError
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
	)
	return errors.As(err, &verify) || errors.As(err, &unknown) || errors.As(err, &name)
}

// explain gives an error of a call its type and one line: what is wrong and what
// to do. Of what Slack answered, only its own error codes are repeated.
func explain(what, about string, cfg Config, err error) error {
	var (
		limited *slackgo.RateLimitedError
		status  slackgo.StatusCodeError
		answer  slackgo.SlackErrorResponse
		syntax  *json.SyntaxError
		kind    *json.UnmarshalTypeError
	)
	switch {
	case err == nil:
		return nil
	case errs.TypeOf(err) != "":
		return err
	case errors.As(err, &limited):
		return errs.UnavailableAfter(max(limited.RetryAfter, time.Second), "Slack limits %s: it may be asked again in %s", what, limited.RetryAfter)
	case errors.As(err, &answer):
		return answered(what, about, cfg, answer)
	case errors.As(err, &status):
		if status.Code >= 500 || status.Code == http.StatusTooManyRequests {
			return errs.Unavailable("Slack answered %d to %s", status.Code, what)
		}
		return errs.Failed("Slack answered %d to %s: is slack.apiURL the address of its Web API?", status.Code, what)
	case untrusted(err):
		return errs.Untrusted("Slack's certificate does not verify; name the CA that is between in slack.caFile")
	case errors.Is(err, context.DeadlineExceeded):
		return errs.Unavailable("Slack did not answer to %s in time", what)
	case errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &syntax), errors.As(err, &kind), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errs.Unavailable("what answered to %s does not speak as Slack does", what)
	}
	return errs.Unavailable("Slack cannot be reached for %s: %s", what, plain(err))
}

// Explain is explain for a call that was made with another token than the bot's:
// file is how the configuration calls its file.
func Explain(what, file string, err error) error {
	return explain(what, "", Config{BotTokenFile: file}, err)
}

// plain is a network error without the address that it was for: that of an upload
// is as good as a key.
func plain(err error) string {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return strings.Join(strings.Fields(err.Error()), " ")
}

// answered explains an error code of Slack.
func answered(what, about string, cfg Config, e slackgo.SlackErrorResponse) error {
	code := word(e.Err)
	switch code {
	case "invalid_auth", "not_authed", "token_revoked", "token_expired", "account_inactive", "not_allowed_token_type", "org_login_required":
		return errs.Denied("Slack refuses the token (%s): put a valid one into %s", code, cfg.BotTokenFile)
	case "missing_scope", "no_permission":
		if e.Needed == "" {
			return errs.Denied("Slack refuses %s (%s): add the app's scopes of docs/slack.md and install it again", what, code)
		}
		return errs.Denied("Slack: %s needs the scope %s and the token has %s: add it to the app and install it again", what, word(e.Needed), word(e.Provided))
	case "is_archived":
		return errs.Failed("Slack: the channel %s is archived: unarchive it, or name another one in the pipeline", about)
	case "channel_not_found", "not_in_channel", "restricted_action", "restricted_action_read_only_channel":
		return errs.Failed("Slack: cannot write to the channel %s (%s): check its ID and invite the app to it", about, code)
	case "message_not_found", "cant_update_message", "edit_window_closed", "thread_not_found", "cannot_reply_to_message":
		return errs.NotFound("Slack: the message in %s is gone (%s)", about, code)
	case "expired_trigger_id", "exchanged_trigger_id", "trigger_expired", "trigger_exchanged":
		return errs.Late("that took too long for Slack: press the button again")
	case "no_such_subteam", "subteam_not_found", "invalid_subteam":
		return errs.NotFound("Slack: there is no user group %s: check spec.environments[].gate.approvals.from.groups", about)
	case "user_not_found", "user_not_visible", "user_not_in_channel":
		return errs.NotFound("Slack: the user is not known in %s (%s)", about, code)
	case "internal_error", "fatal_error", "service_unavailable", "request_timeout", "team_added_to_org", "ratelimited", "rate_limited":
		return errs.Unavailable("Slack answered %s to %s", code, what)
	}
	return errs.Failed("Slack answered %s to %s", code, what)
}

// invalidBlocks tells Slack's answer to blocks that it does not take apart from others.
func invalidBlocks(err error) bool {
	var answer slackgo.SlackErrorResponse
	return errors.As(err, &answer) && strings.HasPrefix(answer.Err, "invalid_blocks")
}

// word keeps of what Slack said what codes and scopes are made of.
func word(s string) string {
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-:.,", r) {
			return r
		}
		return -1
	}, s)
	if s == "" {
		return "nothing"
	}
	return s[:min(len(s), 200)]
}
