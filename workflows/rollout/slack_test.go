package rollout_test

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/internal/world"
)

const channel = "C0GATES"

// shown is a world whose gates are shown in Slack.
func shown(required int) *world.World {
	w := gated(required, 0)
	w.Pipeline.Spec.Slack = &contract.Slack{
		Channel: channel, RemindEvery: metav1.Duration{Duration: 30 * time.Minute},
		Links: contract.Links{Temporal: "https://temporal.example.com/", Compare: "https://git.example.com/x/-/compare/{from}...{to}"},
	}
	return w
}

// thread is everything that stands in threads of a channel.
func thread(w *world.World, channel string) string {
	var out []string
	for _, p := range w.Posts(channel) {
		if p.Thread != "" {
			out = append(out, p.Text)
		}
	}
	return strings.Join(out, "\n")
}

func messages(w *world.World, channel string) []world.SlackPost {
	var out []world.SlackPost
	for _, p := range w.Posts(channel) {
		if p.Environment != "" {
			out = append(out, p)
		}
	}
	return out
}

func TestAGateIsShownInSlack(t *testing.T) {
	r := newRun(t, shown(2))
	r.env.RegisterDelayedCallback(func() {
		got := messages(r.w, channel)
		if len(got) != 1 || got[0].Environment != "prod" || len(got[0].Views) == 0 {
			t.Fatalf("messages %+v", got)
		}
		v := got[0].Views[len(got[0].Views)-1]
		if v.Gate == nil || v.Gate.Evidence != r.status().Gate.Evidence.Hash || v.Gate.Measured != 2 || v.Gate.From != world.Old ||
			v.Gate.Compare != "https://git.example.com/x/-/compare/"+world.Old+"..."+world.New ||
			v.Gate.Changes.Changed.Count != 1 || !strings.HasPrefix(v.Temporal, "https://temporal.example.com/namespaces/") {
			t.Errorf("view %+v gate %+v", v, v.Gate)
		}
		if m := v.Gate.Matrix; m == nil || m.Clusters != 2 || len(m.Rows) == 0 || len(m.Rows[0].Cells) != 2 {
			t.Errorf("the gate has not the matrix that was measured: %+v", m)
		}
		for _, line := range []string{"started by ann", "*dev* verified: 1 of 1 cluster verified", "*prod* waits for 2 approvals"} {
			if !strings.Contains(thread(r.w, channel), line) {
				t.Errorf("no %q in the thread:\n%s", line, thread(r.w, channel))
			}
		}
	}, time.Minute)
	r.after(2*time.Minute, contract.UpdateApprove, "sam", r.vote("sam"))
	r.env.RegisterDelayedCallback(func() {
		if v := last(r.w); v.Gate == nil || len(v.Gate.Votes) != 1 || v.Gate.Votes[0].By != "sam" {
			t.Errorf("the vote is not shown: %+v", v.Gate)
		}
	}, 3*time.Minute)
	r.after(4*time.Minute, contract.UpdateApprove, "bob", r.vote("bob"))
	r.wantState(r.do(r.input()), contract.StateVerified)
	if got := messages(r.w, channel); len(got) != 1 {
		t.Errorf("%d messages of one gate", len(got))
	}
	if v := last(r.w); !v.Over || v.Gate != nil || v.State != string(contract.StateVerified) {
		t.Errorf("the last view is not of the end: %+v", v)
	}
	for _, line := range []string{"approved by sam", "approved by bob", "the gate of *prod* is open", "*prod* verified", "*verified*"} {
		if !strings.Contains(thread(r.w, channel), line) {
			t.Errorf("no %q in the thread:\n%s", line, thread(r.w, channel))
		}
	}
}

func last(w *world.World) (v struct {
	Over  bool
	State string
	Gate  *slack.Gate
}) {
	m := messages(w, channel)
	if len(m) == 0 {
		return v
	}
	view := m[len(m)-1].Views[len(m[len(m)-1].Views)-1]
	v.Over, v.State, v.Gate = view.Over, view.State, view.Gate
	return v
}

// The message says that an environment soaks, and since when.
func TestASoakIsShownInSlack(t *testing.T) {
	w := shown(1)
	w.Pipeline.Spec.Environments[1].Gate.Soak = metav1.Duration{Duration: time.Hour}
	r := newRun(t, w)
	r.after(2*time.Minute, contract.UpdateApprove, "sam", r.vote("sam"))
	r.wantState(r.do(r.input()), contract.StateVerified)
	m := messages(r.w, channel)
	soaks := 0
	for _, v := range m[0].Views {
		if s := v.Environments[1].Soaking; s != nil {
			soaks++
			if s.Until.Sub(s.Since) != time.Hour || v.Environments[1].State != string(contract.StatePromoting) {
				t.Errorf("the soak %+v of %+v", s, v.Environments[1])
			}
		}
	}
	if soaks == 0 {
		t.Errorf("no view of %d has the soak", len(m[0].Views))
	}
	if e := m[0].Views[len(m[0].Views)-1].Environments[1]; e.Soaking != nil || e.Soak != time.Hour {
		t.Errorf("after it: %+v", e)
	}
}

// Slack that is away holds nothing up: the rollout says so, is approved by the
// command line, and Slack is brought up to date when it is back.
func TestSlackThatIsAwayHoldsNothingUp(t *testing.T) {
	r := newRun(t, shown(1))
	r.always("SlackMessage", "", fail(errs.Denied("Slack refuses the token (token_revoked)")))
	r.env.RegisterDelayedCallback(func() {
		s := r.status()
		if s.Slack == nil || s.Slack.Behind.IsZero() || s.Slack.Type != errs.TypeDenied || !strings.Contains(s.Slack.Reason, "token_revoked") {
			t.Errorf("the status does not tell of Slack: %+v", s.Slack)
		}
	}, 10*time.Minute)
	r.after(20*time.Minute, contract.UpdateApprove, "ann", r.vote("ann"))
	r.wantState(r.do(r.input()), contract.StateVerified)
	r.wantUpdate("ann", "")
}

func TestSlackThatComesBackIsToldAll(t *testing.T) {
	r := newRun(t, shown(1))
	r.always("SlackMessage", "", fail(errs.UnavailableAfter(40*time.Second, "Slack limits chat.postMessage")))
	r.env.RegisterDelayedCallback(func() {
		r.mu.Lock()
		r.hooks = nil
		r.mu.Unlock()
	}, 10*time.Minute)
	r.env.RegisterDelayedCallback(func() {
		if s := r.status().Slack; s != nil {
			t.Errorf("Slack is back and the status says %+v", s)
		}
		if len(messages(r.w, channel)) != 1 || !strings.Contains(thread(r.w, channel), "*prod* waits for") {
			t.Errorf("posts %+v", r.w.Posts(channel))
		}
	}, 17*time.Minute)
	r.after(20*time.Minute, contract.UpdateApprove, "ann", r.vote("ann"))
	r.wantState(r.do(r.input()), contract.StateVerified)
}

// A message that a person takes away is written anew.
func TestAMessageThatIsTakenAwayIsWrittenAnew(t *testing.T) {
	r := newRun(t, shown(2))
	r.env.RegisterDelayedCallback(func() { r.w.Unpost(messages(r.w, channel)[0].At) }, time.Minute)
	r.after(2*time.Minute, contract.UpdateApprove, "sam", r.vote("sam"))
	r.env.RegisterDelayedCallback(func() {
		if v := last(r.w); v.Gate == nil || len(v.Gate.Votes) != 1 {
			t.Errorf("no message shows the vote: %+v", r.w.Posts(channel))
		}
	}, 3*time.Minute)
	r.after(4*time.Minute, contract.UpdateApprove, "bob", r.vote("bob"))
	r.wantState(r.do(r.input()), contract.StateVerified)
}

func TestRemindersAndEscalation(t *testing.T) {
	w := shown(1)
	w.Pipeline.Spec.Slack.Escalation = &contract.Escalation{Channel: "C0ESC", After: metav1.Duration{Duration: 45 * time.Minute}}
	r := newRun(t, w)
	r.env.RegisterDelayedCallback(func() {
		if len(messages(w, "C0ESC")) != 0 || strings.Contains(thread(w, channel), "reminder") {
			t.Errorf("too early: %+v", w.Posts("C0ESC"))
		}
	}, 25*time.Minute)
	r.env.RegisterDelayedCallback(func() {
		if len(messages(w, "C0ESC")) != 1 || strings.Count(thread(w, channel), "reminder: *prod* still waits for 1 approval") != 2 {
			t.Errorf("after 70 minutes: %s\n%+v", thread(w, channel), w.Posts("C0ESC"))
		}
	}, 70*time.Minute)
	r.after(75*time.Minute, contract.UpdateApprove, "ann", r.vote("ann"))
	r.wantState(r.do(r.input()), contract.StateVerified)
	esc := messages(w, "C0ESC")
	if v := esc[0].Views[len(esc[0].Views)-1]; v.Gate != nil {
		t.Error("the message in the escalation channel still has a gate")
	}
}

func TestWithoutSlackNothingIsTold(t *testing.T) {
	r := newRun(t, gated(1, 0))
	r.after(time.Minute, contract.UpdateApprove, "ann", r.vote("ann"))
	r.wantState(r.do(r.input()), contract.StateVerified)
	r.wantNoCall("Slack")
}

// No gate, no message.
func TestWithoutAGateNothingIsTold(t *testing.T) {
	w := shown(0)
	r := newRun(t, w)
	r.wantState(r.do(r.input()), contract.StateVerified)
	r.wantNoCall("Slack")
}

func TestVoidVotesAreToldInTheThread(t *testing.T) {
	r := newRun(t, shown(2))
	r.after(time.Minute, contract.UpdateApprove, "sam", r.vote("sam"))
	r.env.RegisterDelayedCallback(func() { r.w.Disturb("prod-0-0", "x") }, 2*time.Minute)
	r.after(21*time.Minute, contract.UpdateApprove, "sam again", r.vote("sam"))
	r.after(22*time.Minute, contract.UpdateApprove, "bob", r.vote("bob"))
	r.wantState(r.do(r.input()), contract.StateVerified)
	if s := thread(r.w, channel); !strings.Contains(s, "the evidence of *prod* has changed") || !strings.Contains(s, "void: 1 approval of the old one") {
		t.Errorf("the thread does not tell of void votes:\n%s", s)
	}
}
