package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"portcullis.dev/portcullis/activities/slack/slacktest"
	"portcullis.dev/portcullis/deploy/lab/internal/drive"
)

const (
	// gates is the channel of the workspace that the app is in.
	gates = "C0GATES"
	// approveButton is the action of the button.
	approveButton = "portcullis.approve"
	// slackLimit is how long Slack's part may take over anything.
	slackLimit = 30 * time.Second
)

// workspace is a Slack, and where the daemon takes what it sends.
type workspace struct {
	*slacktest.Server
	to string
}

// withSlack restarts the daemon with a Slack, until the test ends.
func withSlack(t *testing.T) workspace {
	t.Helper()
	s := slacktest.New()
	t.Cleanup(s.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	listen := l.Addr().String()
	must(t, l.Close())
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		f := filepath.Join(dir, name)
		must(t, os.WriteFile(f, data, 0o600))
		return f
	}
	section := fmt.Sprintf("\nslack: {botTokenFile: %s, signingSecretFile: %s, caFile: %s, apiURL: %q, listen: %q}\n",
		file("bot", []byte(slacktest.BotToken)), file("signing", []byte(slacktest.SigningSecret)), file("ca.pem", s.CA()), s.URL(), listen)
	p.Daemon.Stop()
	t.Cleanup(func() {
		p.Daemon.Stop()
		p.Restart(t)
	})
	p.Daemon, err = p.StartDaemon("daemon-slack", func(config string) string { return strings.TrimRight(config, "\n") + section })
	must(t, err)
	return workspace{Server: s, to: "http://" + listen + "/slack/interactions"}
}

// message waits for prod's message, until it says text and has its buttons or not.
func (w workspace) message(t *testing.T, limit time.Duration, text string, open bool) slacktest.Message {
	t.Helper()
	var found slacktest.Message
	if !w.Await(limit, func() bool {
		for _, m := range w.Messages(gates, "") {
			if strings.Contains(m.Text, text) && strings.Contains(m.Blocks, approveButton) == open {
				found = m
				return true
			}
		}
		return false
	}) {
		t.Fatalf("no message that says %q: %+v", text, w.Messages(gates, ""))
	}
	return found
}

// press presses a message's button as a user, in a request that is signed with secret.
func (w workspace) press(t *testing.T, user string, m slacktest.Message, secret string) int {
	t.Helper()
	value, err := m.Button(approveButton)
	must(t, err)
	body := slacktest.Form(w.BlockActions(user, m, approveButton, value))
	r, err := slacktest.Request(t.Context(), w.to, body)
	must(t, err)
	slacktest.Sign(r.Header, secret, body, time.Now())
	answer, err := http.DefaultClient.Do(r)
	must(t, err)
	must(t, answer.Body.Close())
	return answer.StatusCode
}

// refused presses, and wants that user alone to be told why it does not count.
func (w workspace) refused(t *testing.T, user string, m slacktest.Message, why string) {
	t.Helper()
	if code := w.press(t, user, m, slacktest.SigningSecret); code != 200 {
		t.Fatalf("%s's press was answered %d", user, code)
	}
	if !w.Await(slackLimit, func() bool {
		return slices.ContainsFunc(w.Ephemerals(), func(e slacktest.Ephemeral) bool { return e.User == user && strings.Contains(e.Text, why) })
	}) {
		t.Fatalf("%s was not told %q: %+v", user, why, w.Ephemerals())
	}
}

// approved presses, and wants that to count.
func (w workspace) approved(t *testing.T, user string, m slacktest.Message) {
	t.Helper()
	if code := w.press(t, user, m, slacktest.SigningSecret); code != 200 {
		t.Fatalf("%s's press was answered %d", user, code)
	}
}

// inSlack is the sample pipeline with a prod gate that two of three people open in Slack.
func inSlack(t *testing.T) string {
	t.Helper()
	file, err := p.PipelineFile("slack", func(text string) string {
		const gate = "approvals: {required: 1}"
		if !strings.Contains(text, gate) {
			t.Fatalf("the sample pipeline has no gate %q", gate)
		}
		text = strings.Replace(text, gate, "approvals: {required: 2, from: {people: [alex, sam, e2e]}, exclude: [starter]}", 1)
		return strings.TrimRight(text, "\n") + `
  people: [{name: alex, slack: U0ALEX}, {name: sam, slack: U0SAM}, {name: kim, slack: U0KIM}, {name: e2e, slack: U0E2E}]
  slack: {channel: ` + gates + `, links: {temporal: "https://temporal.example.com"}}
`
	})
	must(t, err)
	return file
}

// TestSlackGate: prod's gate is opened by the signed presses of two people in Slack, and of
// nobody else.
func TestSlackGate(t *testing.T) {
	w := withSlack(t)
	good := commit(t, "good")
	goodCommit = ""
	start(t, inSlack(t), good)
	m := w.message(t, rolloutLimit, "prod: waits for approval, 0 of 2", true)
	s, err := p.Status(t.Context(), drive.Pipeline)
	must(t, err)
	if s.Gate == nil || !strings.Contains(m.Blocks, s.Gate.Evidence.Hash[:12]) || !strings.Contains(m.Blocks, good[:7]) {
		t.Errorf("the message has not the evidence and revision of %s: %s", s, m.Blocks)
	}

	if files := w.Files(); len(files) != 1 || !slices.Equal(m.Pictures(), []string{files[0].ID}) {
		t.Errorf("the message shows the files %v, and %d were uploaded", m.Pictures(), len(files))
	}

	w.refused(t, "U0KIM", m, "may not approve prod")
	w.refused(t, "U0EVE", m, "may not approve prod")
	w.refused(t, "U0E2E", m, "started this rollout")
	if code := w.press(t, "U0ALEX", m, "not-the-secret"); code != 401 {
		t.Errorf("a press that is not signed by Slack was answered %d", code)
	}
	w.approved(t, "U0ALEX", m)
	m = w.message(t, slackLimit, "1 of 2", true)
	w.refused(t, "U0ALEX", m, "approved prod already")
	if s, err = p.Status(t.Context(), drive.Pipeline); err != nil || s.Gate == nil {
		t.Fatalf("one of two opened the gate: %v %s", err, s)
	}
	w.approved(t, "U0SAM", m)
	if s = ended(t, drive.Pipeline); s.State != "verified" {
		t.Fatalf("%.7s was to be verified: %s", good, s)
	}
	goodCommit = good
	m = w.message(t, slackLimit, "prod: verified", false)
	w.told(t, m.TS, "approved by alex", "approved by sam", "the gate of *prod* is open")
	w.keptToItself(t)
	decided(t)
}

// told wants lines in a message's thread.
func (w workspace) told(t *testing.T, thread string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !w.Await(slackLimit, func() bool {
			return slices.ContainsFunc(w.Messages(gates, thread), func(m slacktest.Message) bool { return strings.Contains(m.Text, line) })
		}) {
			t.Errorf("the thread does not say %q: %+v", line, w.Messages(gates, thread))
		}
	}
}

// keptToItself: no address of the lab was ever sent to Slack.
func (w workspace) keptToItself(t *testing.T) {
	t.Helper()
	for _, method := range []string{"chat.postMessage", "chat.update", "chat.postEphemeral", "views.open"} {
		for _, call := range w.Calls(method) {
			for field, text := range call.Form {
				if strings.Contains(text, "10.99.") || strings.Contains(text, p.LabDir) {
					t.Errorf("%s: %s tells of the lab's network: %s", method, field, text)
				}
			}
		}
	}
}

// decided: the audit log has who approved, by which way, and nobody else.
func decided(t *testing.T) {
	t.Helper()
	var log struct {
		Rollouts []struct {
			Entries []struct{ What, By, Via, Known, Refused string }
		}
	}
	_, err := p.JSON(t.Context(), &log, "rollout", "audit", drive.Pipeline)
	must(t, err)
	var by []string
	if len(log.Rollouts) > 0 {
		for _, e := range log.Rollouts[0].Entries {
			if e.What == "approve" && e.Refused == "" {
				by = append(by, e.By+" "+e.Via+" "+e.Known)
			}
		}
	}
	if want := []string{"alex slack slack", "sam slack slack"}; !slices.Equal(by, want) {
		t.Errorf("the audit log has the approvals %q, want %q", by, want)
	}
}
