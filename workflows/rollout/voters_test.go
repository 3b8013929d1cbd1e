package rollout_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/internal/world"
)

// ruled is gated, with people and rules at prod's gate.
func ruled(required int, timeout time.Duration, change func(*rancher.Approvals)) *world.World {
	w := gated(required, timeout)
	w.Pipeline.Spec.People = []contract.Person{
		{Name: "ann", Slack: "U0ANN", Git: []string{"ann@example.com"}},
		{Name: "bob", Slack: "U0BOB"},
		{Name: "dev", Slack: "U0DEV", Git: []string{"dev@example.com"}},
		{Name: "eve", Slack: "U0EVE"},
	}
	change(&w.Pipeline.Spec.Environments[1].Gate.Approvals)
	return w
}

func named(people ...string) func(*rancher.Approvals) {
	return func(a *rancher.Approvals) { a.From.People = people }
}

func TestOnlyWhoMayApproves(t *testing.T) {
	r := newRun(t, ruled(2, 0, func(a *rancher.Approvals) {
		a.From.People = []string{"ann", "bob", "dev", "eve"}
		a.Exclude = []rancher.Exclusion{rancher.ExcludeStarter, rancher.ExcludeAuthor}
	}))
	r.after(1*time.Minute, contract.UpdateApprove, "starter", r.vote("Ann"))
	r.after(2*time.Minute, contract.UpdateApprove, "author", r.vote("U0DEV"))
	r.after(3*time.Minute, contract.UpdateApprove, "stranger", r.vote("mallory"))
	r.after(3*time.Minute, contract.UpdateReject, "no", always(contract.Decision{By: "mallory"}))
	r.after(4*time.Minute, contract.UpdateApprove, "bob", r.vote("bob"))
	r.after(5*time.Minute, contract.UpdateApprove, "bob again", r.vote("u0bob"))
	r.env.RegisterDelayedCallback(func() {
		r.wantNoCall("Stage policies-prod")
		v := r.status().Gate.Voters
		if !slices.Equal(v.People, []string{"bob", "eve"}) || len(v.Excluded) != 2 || v.Anyone {
			t.Errorf("voters %+v", v)
		}
	}, 6*time.Minute)
	r.after(7*time.Minute, contract.UpdateApprove, "eve", r.vote("U0EVE"))
	out := r.do(r.input())
	r.wantState(out, contract.StateVerified, contract.StateVerified, contract.StateVerified)
	for id, kind := range map[string]string{
		"starter": errs.TypeNotEntitled, "author": errs.TypeNotEntitled, "stranger": errs.TypeNotEntitled, "no": errs.TypeNotEntitled,
		"bob": "", "bob again": errs.TypeApproved, "eve": "",
	} {
		r.wantUpdate(id, kind)
	}
	for _, want := range []string{"waits for 2 approvals of evidence ", " from bob or eve; not from ann, who started this rollout; not from dev, who wrote this revision", "approved by eve, 2 of 2"} {
		if !strings.Contains(logOf(out), want) {
			t.Errorf("no %q in\n%s", want, logOf(out))
		}
	}
}

// Whom a gate is to exclude must be known before anything is written.
func TestGatesThatCannotOpenAreRefusedAtTheStart(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*rancher.Approvals)
		by     string
		want   string
	}{
		"starter unknown": {func(a *rancher.Approvals) { a.Exclude = []rancher.Exclusion{rancher.ExcludeStarter} }, "root", `"root" is nobody in spec.people`},
		"nobody left": {func(a *rancher.Approvals) {
			a.From.People, a.Exclude = []string{"ann"}, []rancher.Exclusion{rancher.ExcludeStarter}
		}, "ann", "could never open"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRun(t, ruled(1, 0, c.change))
			in := r.input()
			in.StartedBy = c.by
			if err := r.refused(in, errs.TypeInvalid); !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestGroupsAreAskedAgainUntilSlackAnswers(t *testing.T) {
	r := newRun(t, ruled(2, 0, func(a *rancher.Approvals) {
		a.From = rancher.Approvers{People: []string{"ann"}, Groups: []string{"S0OPS"}}
	}))
	r.always("ResolveGroups", "S0OPS", fail(errs.Failed("Slack does not answer")))
	r.after(20*time.Second, contract.UpdateApprove, "bob early", r.vote("bob"))
	r.after(25*time.Second, contract.UpdateApprove, "ann", r.vote("ann"))
	r.env.RegisterDelayedCallback(func() {
		r.w.SetGroup("S0OPS", "U0BOB", "U0NEW")
		r.mu.Lock()
		defer r.mu.Unlock()
		r.hooks = nil
	}, 30*time.Second)
	r.after(3*time.Minute, contract.UpdateApprove, "eve", r.vote("eve"))
	r.after(4*time.Minute, contract.UpdateApprove, "bob", r.vote("bob"))
	out := r.do(r.input())
	r.wantState(out, contract.StateVerified, contract.StateVerified, contract.StateVerified)
	r.wantUpdate("bob early", errs.TypeNotEntitled)
	if err := r.updates.Err("bob early"); !strings.Contains(err.Error(), "it is not known now who is in Slack's group S0OPS (Slack does not answer)") {
		t.Errorf("%v", err)
	}
	r.wantUpdate("ann", "")
	r.wantUpdate("eve", errs.TypeNotEntitled)
	r.wantUpdate("bob", "")
}

func TestWhoHasLeftTheGroupCountsNoMore(t *testing.T) {
	r := newRun(t, ruled(2, 0, func(a *rancher.Approvals) { a.From.Groups = []string{"S0OPS"} }))
	r.w.SetGroup("S0OPS", "U0BOB", "U0EVE", "U0ANN")
	r.after(1*time.Minute, contract.UpdateApprove, "bob", r.vote("bob"))
	r.env.RegisterDelayedCallback(func() { r.w.SetGroup("S0OPS", "U0EVE", "U0ANN") }, 2*time.Minute)
	// Bob's approval is taken away when the gate is looked at for the last vote.
	r.after(3*time.Minute, contract.UpdateApprove, "eve", r.vote("eve"))
	r.env.RegisterDelayedCallback(func() {
		r.wantNoCall("Stage policies-prod")
		if votes := r.status().Gate.Votes; len(votes) != 1 || votes[0].By != "eve" {
			t.Errorf("votes %+v", votes)
		}
	}, 6*time.Minute)
	r.after(7*time.Minute, contract.UpdateApprove, "ann", r.vote("ann"))
	out := r.do(r.input())
	r.wantState(out, contract.StateVerified, contract.StateVerified, contract.StateVerified)
	if !strings.Contains(logOf(out), "void: the approval of bob: bob may not approve prod") {
		t.Errorf("the log does not tell of it\n%s", logOf(out))
	}
}

func TestTooLate(t *testing.T) {
	r := newRun(t, ruled(1, time.Hour, named("ann", "bob")))
	var seen string
	r.env.RegisterDelayedCallback(func() { seen = r.status().Gate.Evidence.Hash }, time.Second)
	r.after(20*time.Second, contract.UpdateApprove, "ann", r.vote("ann"))
	r.on("Settle", "policies-prod-wave0", func(ctx context.Context) error {
		return r.update(contract.UpdateApprove, "bob", contract.Decision{By: "bob", Evidence: seen})(ctx)
	})
	out := r.do(r.input())
	r.wantState(out, contract.StateVerified)
	r.wantUpdate("bob", errs.TypeLate)
	if err := r.updates.Err("bob"); !strings.Contains(err.Error(), "the gate of prod was opened on that evidence at ") {
		t.Errorf("%v", err)
	}
}

// Enough approvals came in time: the deadline does not take them away while the
// evidence is measured again, nor does it let more in.
func TestApprovalsInTimeOutlastTheDeadline(t *testing.T) {
	r := newRun(t, ruled(1, 10*time.Minute, named("ann", "bob")))
	r.env.RegisterDelayedCallback(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.always("EnsureAgent", "prod-0-0", fail(errs.Deadline("unreachable")))
	}, 5*time.Minute)
	r.after(9*time.Minute, contract.UpdateApprove, "ann", r.vote("ann"))
	r.after(12*time.Minute, contract.UpdateApprove, "bob", r.vote("bob"))
	r.env.RegisterDelayedCallback(func() {
		r.wantNoCall("Stage policies-prod")
		r.mu.Lock()
		defer r.mu.Unlock()
		r.hooks = nil
	}, 15*time.Minute)
	out := r.do(r.input())
	r.wantState(out, contract.StateVerified)
	r.wantUpdate("ann", "")
	r.wantUpdate("bob", errs.TypeLate)
}

// Where what came in time is void afterwards, the deadline ends the gate at once.
func TestVoidApprovalsDoNotOutlastTheDeadline(t *testing.T) {
	r := newRun(t, ruled(1, 10*time.Minute, named("ann", "bob")))
	r.env.RegisterDelayedCallback(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.always("EnsureAgent", "prod-0-0", fail(errs.Deadline("unreachable")))
	}, 5*time.Minute)
	r.after(9*time.Minute, contract.UpdateApprove, "ann", r.vote("ann"))
	r.env.RegisterDelayedCallback(func() {
		r.w.Disturb("prod-0-0", "x")
		r.mu.Lock()
		defer r.mu.Unlock()
		r.hooks = nil
	}, 15*time.Minute)
	out := r.do(r.input())
	r.wantState(out, contract.StateRejected, contract.StateVerified, contract.StateRejected)
	if took := out.FinishedAt.Sub(out.StartedAt); took > 20*time.Minute {
		t.Errorf("it took %s", took)
	}
}

func TestAudit(t *testing.T) {
	r := newRun(t, ruled(2, 0, named("ann", "bob", "eve")))
	r.after(1*time.Minute, contract.UpdatePause, "pause", always(contract.Order{By: "u0eve", Why: "lunch", Via: contract.ViaCLI, Known: contract.KnownAccount}))
	r.after(2*time.Minute, contract.UpdateResume, "resume", always(contract.Order{By: "eve"}))
	r.after(3*time.Minute, contract.UpdateApprove, "ann", func() any {
		d := r.vote("ann")().(contract.Decision)
		d.Via, d.Known, d.Why = contract.ViaSlack, contract.KnownSlack, "seen in staging"
		return d
	})
	r.after(4*time.Minute, contract.UpdateApprove, "refused", r.vote("mallory"))
	r.env.RegisterDelayedCallback(func() { r.w.Disturb("prod-0-0", "x") }, 5*time.Minute)
	r.after(30*time.Minute, contract.UpdateApprove, "ann again", r.vote("ann"))
	r.after(31*time.Minute, contract.UpdateApprove, "bob", r.vote("bob"))
	in := r.input()
	in.Via, in.Known = contract.ViaCLI, contract.KnownSaid
	out := r.do(in)
	r.wantState(out, contract.StateVerified)
	type line struct{ what, by, via, known, why string }
	want := []line{
		{"start", "ann", "cli", "said", ""},
		{"pause", "eve", "cli", "account", "lunch"},
		{"resume", "eve", "unknown", "said", ""},
		{"approve", "ann", "slack", "slack", "seen in staging"},
		{"void", "ann", "slack", "slack", "the evidence has changed"},
		{"approve", "ann", "unknown", "said", ""},
		{"approve", "bob", "unknown", "said", ""},
		{"opened", "", "", "", "2 of 2 approvals: ann; bob"},
	}
	if len(out.Audit.Entries) != len(want) {
		t.Fatalf("%d entries: %+v", len(out.Audit.Entries), out.Audit.Entries)
	}
	for i, e := range out.Audit.Entries {
		got := line{e.What, e.By, string(e.Via), string(e.Known), e.Why}
		if strings.HasPrefix(got.why, want[i].why) {
			got.why = want[i].why
		}
		if got != want[i] || e.At.IsZero() || e.Refused != "" {
			t.Errorf("entry %d: %+v, want %+v", i, e, want[i])
		}
	}
	last := out.Audit.Entries[7]
	if last.Evidence == "" || last.Evidence == out.Audit.Entries[3].Evidence || last.Environment != "prod" {
		t.Errorf("opened on %+v", last)
	}
}

// What a validator refuses leaves no trace but this line.
func TestEveryDecisionIsALineOfTheLog(t *testing.T) {
	var out bytes.Buffer
	r := newRunWith(t, ruled(1, 0, named("ann")), log.NewStructuredLogger(slog.New(slog.NewJSONHandler(&out, nil))))
	r.after(1*time.Minute, contract.UpdateApprove, "no", r.vote("mallory"))
	r.after(2*time.Minute, contract.UpdateAbort, "bad", always(contract.Order{By: "x\ny", Why: "secret"}))
	r.after(3*time.Minute, contract.UpdateApprove, "ann", r.vote("U0ANN"))
	r.wantState(r.do(r.input()), contract.StateVerified)
	type line struct{ Msg, What, By, Outcome, Refused, Environment, Evidence string }
	var got []line
	for text := range strings.Lines(out.String()) {
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatal(err)
		}
		if l.Msg == "decision" {
			l.Msg, l.Refused, l.Evidence = "", strings.SplitN(l.Refused, ":", 2)[0], l.Evidence[:min(1, len(l.Evidence))]
			got = append(got, l)
		}
	}
	want := []line{
		{What: "start", By: "ann", Outcome: "taken"},
		{What: "approve", By: "mallory", Outcome: errs.TypeNotEntitled, Refused: "mallory may not approve prod", Environment: "prod"},
		{What: "abort", Outcome: errs.TypeInvalid, Refused: "by has a character that cannot be printed", Environment: "prod"},
		{What: "approve", By: "ann", Outcome: "taken", Environment: "prod"},
		{What: "opened", Outcome: "taken", Environment: "prod"},
	}
	for i := range got {
		if i == 0 || i == 2 {
			continue
		}
		if got[i].Evidence == "" {
			t.Errorf("line %d has no evidence", i)
		}
		got[i].Evidence = ""
	}
	if !slices.Equal(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
	if strings.Contains(out.String(), "secret") {
		t.Error("what is not well-formed is repeated")
	}
}

func TestOrdersThatAreNotWellFormedAreRefused(t *testing.T) {
	r := newRun(t, ruled(1, 0, named("ann")))
	giant := strings.Repeat("a", 1<<20)
	r.after(1*time.Minute, contract.UpdateApprove, "giant", always(contract.Decision{By: giant, Evidence: strings.Repeat("0", 64)}))
	r.after(2*time.Minute, contract.UpdateAbort, "abort", always(contract.Order{By: "ann", Why: giant}))
	r.after(3*time.Minute, contract.UpdatePause, "pause", always(contract.Order{By: "ann\nbob"}))
	r.after(4*time.Minute, contract.UpdateReject, "reject", always(contract.Decision{By: "ann", Why: giant}))
	r.after(5*time.Minute, contract.UpdateApprove, "ann", r.vote("ann"))
	out := r.do(r.input())
	r.wantState(out, contract.StateVerified)
	for _, id := range []string{"giant", "abort", "pause", "reject"} {
		r.wantUpdate(id, errs.TypeInvalid)
		if err := r.updates.Err(id); len(err.Error()) > 200 {
			t.Errorf("%s: %d bytes are repeated", id, len(err.Error()))
		}
	}
}

// A rollout that began under an older Portcullis keeps its rules, and its result its shape.
func TestRolloutOfAnOlderPortcullis(t *testing.T) {
	r := newRun(t, ruled(2, 0, func(a *rancher.Approvals) { a.Exclude = []rancher.Exclusion{rancher.ExcludeStarter} }))
	r.env.OnGetVersion("approval-rules-20261123", workflow.DefaultVersion, workflow.Version(2)).Return(workflow.DefaultVersion)
	r.after(1*time.Minute, contract.UpdateApprove, "ann", r.vote("ann"))
	r.after(2*time.Minute, contract.UpdateApprove, "again", r.vote("ann"))
	r.after(3*time.Minute, contract.UpdateApprove, "mallory", r.vote("mallory"))
	out := r.do(r.input())
	r.wantState(out, contract.StateVerified)
	r.wantUpdate("again", errs.TypeApproved)
	if len(out.Audit.Entries) != 0 {
		t.Errorf("%+v", out.Audit)
	}
}
