package drift_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/workflows"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/internal/harness"
	"portcullis.dev/portcullis/workflows/internal/world"
)

// correcting is a correction that a test plays.
type correcting struct {
	*testing.T
	env  *testsuite.TestWorkflowEnvironment
	w    *world.World
	sent harness.Updates
	in   contract.CorrectionInput
}

// newCorrecting has one policy gone on a cluster of each environment.
func newCorrecting(t *testing.T, approvals int) *correcting {
	t.Helper()
	w := make3()
	w.Gone, w.Stubborn = map[string]string{"dev-0-0": "db", "prod-1-7": "db"}, map[string]bool{}
	w.Pipeline.Spec.People = []contract.Person{{Name: "ann"}, {Name: "bob", Slack: "U0BOB"}}
	w.Pipeline.Spec.Drift = &contract.Drift{Schedule: "@daily", Correct: &contract.DriftCorrect{Approvals: approvals, Timeout: metav1.Duration{Duration: 24 * time.Hour}}}
	c := &correcting{T: t, env: harness.Environment(), w: w}
	workflows.Register(c.env)
	w.Register(c.env)
	c.in = contract.CorrectionInput{Pipeline: w.Pipeline, StartedBy: "ann", Via: contract.ViaCLI, Known: contract.KnownAccount}
	return c
}

func (c *correcting) after(d time.Duration, f func()) { c.env.RegisterDelayedCallback(f, d) }

func (c *correcting) status() contract.CorrectionStatus {
	return harness.Status[contract.CorrectionStatus](c.T, c.env)
}

// votes sends a decision on the evidence that there is after d.
func (c *correcting) votes(d time.Duration, update, by string) {
	c.after(d, func() {
		vote := contract.Decision{By: by, Via: contract.ViaCLI, Known: contract.KnownSaid, Why: "seen"}
		if g := c.status().Gate; g != nil {
			vote.Evidence = g.Evidence.Hash
		}
		c.sent.Send(c.env, update, update+" by "+by, vote)
	})
}

func (c *correcting) run() contract.CorrectionStatus {
	c.Helper()
	c.env.ExecuteWorkflow(contract.CorrectionWorkflow, c.in)
	require.NoError(c, c.env.GetWorkflowError())
	var out contract.CorrectionStatus
	require.NoError(c, c.env.GetWorkflowResult(&out))
	return out
}

// wrote are the calls that changed GitRepos, in order.
func (c *correcting) wrote() []string {
	var out []string
	for _, call := range c.w.Calls() {
		if strings.HasPrefix(call, "Correct ") || strings.HasPrefix(call, "Uncorrect ") {
			out = append(out, call)
		}
	}
	return out
}

func TestCorrection(t *testing.T) {
	c := newCorrecting(t, 2)
	c.w.Drifting["prod-1-3"] = "by-hand"
	c.votes(time.Minute, contract.UpdateApprove, "ann")
	c.after(90*time.Second, func() { require.Empty(t, c.wrote(), "one of two approvals") })
	c.votes(2*time.Minute, contract.UpdateApprove, "U0BOB")
	r := c.run()
	require.Equal(t, contract.StateCorrected, r.State, r.Reason)
	require.Equal(t, []string{"Correct policies-dev-wave0", "Uncorrect policies-dev-wave0", "Correct policies-prod-wave1", "Uncorrect policies-prod-wave1"}, c.wrote())
	require.Empty(t, c.w.Gone)
	require.Equal(t, 1, r.Left, "the extra policy is told, and not touched")
	require.Equal(t, "by-hand", c.w.Drifting["prod-1-3"])
	for _, u := range r.Units {
		require.Equal(t, contract.StateCorrected, u.State)
	}
	var what []string
	for _, e := range r.Audit.Entries {
		what = append(what, e.What+" "+e.By)
	}
	require.Equal(t, []string{"start ann", "approve ann", "approve bob", "opened "}, what)
	require.False(t, r.FinishedAt.IsZero())
	c.sent.Want(t, "approve by ann", "")
}

func TestCorrectionIsRefused(t *testing.T) {
	c := newCorrecting(t, 2)
	c.votes(time.Minute, contract.UpdateApprove, "mallory")
	c.votes(2*time.Minute, contract.UpdateApprove, "ann")
	c.votes(3*time.Minute, contract.UpdateApprove, "ANN")
	c.after(4*time.Minute, func() {
		c.sent.Send(c.env, contract.UpdateApprove, "other evidence", contract.Decision{By: "bob", Evidence: strings.Repeat("0", 64)})
		c.sent.Send(c.env, contract.UpdateApprove, "no evidence", contract.Decision{By: "bob"})
		c.sent.Send(c.env, contract.UpdateReject, "reject by mallory", contract.Decision{By: "mallory"})
	})
	c.votes(5*time.Minute, contract.UpdateReject, "bob")
	r := c.run()
	require.Equal(t, contract.StateRejected, r.State)
	require.Equal(t, "rejected by bob (seen)", r.Reason)
	require.Empty(t, c.wrote())
	c.sent.Want(t, "approve by mallory", errs.TypeNotEntitled)
	c.sent.Want(t, "approve by ANN", errs.TypeApproved)
	c.sent.Want(t, "other evidence", errs.TypeConflict)
	c.sent.Want(t, "no evidence", errs.TypeInvalid)
	c.sent.Want(t, "reject by mallory", errs.TypeNotEntitled)
	require.NotContains(t, c.sent.Err("reject by mallory").Error(), "rollout abort")
}

// What was approved is what is corrected: other findings void the approvals.
func TestCorrectionOfSomethingElseIsNotApproved(t *testing.T) {
	c := newCorrecting(t, 2)
	c.votes(time.Minute, contract.UpdateApprove, "ann")
	c.after(2*time.Minute, func() {
		c.w.SetGone("prod-1-9", "web")
		c.env.SignalWorkflow(contract.SignalLook, "audit")
	})
	c.after(3*time.Minute, func() { require.Empty(t, c.status().Gate.Votes) })
	c.votes(4*time.Minute, contract.UpdateApprove, "bob")
	// This one comes between the last vote and the opening, unseen by any audit.
	c.after(5*time.Minute, func() { c.w.SetGone("prod-1-8", "web") })
	c.votes(6*time.Minute, contract.UpdateApprove, "Ann")
	c.after(7*time.Minute, func() {
		s := c.status()
		require.Equal(t, contract.StateApproval, s.State)
		require.Empty(t, s.Gate.Votes)
		require.Empty(t, c.wrote())
	})
	r := c.run()
	require.Equal(t, contract.StateRejected, r.State)
	require.Equal(t, "only 0 of 2 approvals came in time", r.Reason)
	require.Empty(t, c.wrote())
}

func TestCorrectionEndsWhenThereIsNothingLeft(t *testing.T) {
	t.Run("at once", func(t *testing.T) {
		c := newCorrecting(t, 1)
		c.w.Gone = map[string]string{}
		c.w.Drifting["dev-0-0"] = "by-hand"
		r := c.run()
		require.Equal(t, contract.StateNothing, r.State)
		require.Equal(t, 1, r.Left)
	})
	t.Run("later", func(t *testing.T) {
		c := newCorrecting(t, 1)
		c.after(time.Hour, func() {
			c.w.SetGone("dev-0-0", "")
			c.w.SetGone("prod-1-7", "")
			c.env.SignalWorkflow(contract.SignalLook, "audit")
		})
		require.Equal(t, contract.StateNothing, c.run().State)
	})
	t.Run("a rollout is changing it", func(t *testing.T) {
		c := newCorrecting(t, 1)
		c.w.Moving["policies-dev-wave0"], c.w.Moving["policies-prod-wave1"] = "a rollout has staged it", "a rollout has staged it"
		require.Equal(t, contract.StateNothing, c.run().State)
		require.Empty(t, c.wrote())
	})
}

// What Fleet did not put right is told, and what was changed for it is put back in any case.
func TestCorrectionThatDoesNotHelp(t *testing.T) {
	for name, arrange := range map[string]struct {
		with   func(*correcting)
		reason string
		wrote  int
	}{
		"it stays":            {func(c *correcting) { c.w.Stubborn["prod-1-7"] = true }, "policies-prod-wave1: 1 finding still there", 4},
		"Fleet fails":         {func(c *correcting) { c.fails("Correct policies-dev-wave0", errs.Failed("Helm failed")) }, "Helm failed", 2},
		"a rollout was first": {func(c *correcting) { c.fails("Correct policies-dev-wave0", errs.Conflict("it was changed since")) }, "it was changed since", 2},
		"a cluster is away afterwards": {func(c *correcting) {
			corrected := false
			c.w.Hook = func(_ context.Context, name, subject string) error {
				corrected = corrected || name == "Uncorrect"
				if corrected && name == "Audit" && subject == "prod-1-0" {
					return errs.Denied("the token is refused")
				}
				return nil
			}
		}, "policies-prod-wave1: the token is refused", 4},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCorrecting(t, 1)
			arrange.with(c)
			c.votes(time.Minute, contract.UpdateApprove, "bob")
			r := c.run()
			require.Equal(t, contract.StateUncorrected, r.State)
			require.Contains(t, r.Reason, arrange.reason)
			require.Len(t, c.wrote(), arrange.wrote)
		})
	}
}

func (c *correcting) fails(call string, err error) {
	c.w.Hook = func(_ context.Context, name, subject string) error {
		if name+" "+subject == call {
			return err
		}
		return nil
	}
}

// Cancelled in the middle: what was begun is put back, and looked at.
func TestCorrectionIsCancelled(t *testing.T) {
	c := newCorrecting(t, 1)
	c.votes(time.Minute, contract.UpdateApprove, "bob")
	c.w.Hook = func(_ context.Context, name, _ string) error {
		if name == "Correct" {
			c.env.CancelWorkflow()
		}
		return nil
	}
	r := c.run()
	require.Equal(t, contract.StateUncorrected, r.State)
	require.Contains(t, r.Reason, "policies-prod-wave1: 1 finding still there")
	require.Equal(t, []string{"Correct policies-dev-wave0", "Uncorrect policies-dev-wave0"}, c.wrote())
}

func TestCorrectionIsCancelledAtTheGate(t *testing.T) {
	c := newCorrecting(t, 1)
	c.after(time.Minute, c.env.CancelWorkflow)
	require.Equal(t, contract.StateAborted, c.run().State)
}

func TestCorrectionNeedsItsGate(t *testing.T) {
	c := newCorrecting(t, 3) // of two people
	c.env.ExecuteWorkflow(contract.CorrectionWorkflow, c.in)
	require.ErrorContains(t, c.env.GetWorkflowError(), "could never open")
	c = newCorrecting(t, 1)
	c.in.Pipeline.Spec.Drift = nil
	c.env.ExecuteWorkflow(contract.CorrectionWorkflow, c.in)
	require.ErrorContains(t, c.env.GetWorkflowError(), "no spec.drift.correct")
}

// A gate that waits for long goes on in a new run, with its votes.
func TestCorrectionGoesOnAnew(t *testing.T) {
	c := newCorrecting(t, 2)
	c.votes(time.Minute, contract.UpdateApprove, "ann")
	c.after(2*time.Minute, func() {
		c.env.SetCurrentHistoryLength(100000)
		c.env.SignalWorkflow(contract.SignalLook, "audit")
	})
	c.env.ExecuteWorkflow(contract.CorrectionWorkflow, c.in)
	in, again := harness.Carried[contract.CorrectionInput](t, c.env.GetWorkflowError())
	require.True(t, again)
	require.Len(t, in.Carried.Gate.Votes, 1)

	next := newCorrecting(t, 2)
	next.in = in
	next.votes(time.Minute, contract.UpdateApprove, "bob")
	require.Equal(t, contract.StateCorrected, next.run().State)
}

// A correction is shown in Slack from its gate to its end.
func TestCorrectionInSlack(t *testing.T) {
	c := newCorrecting(t, 1)
	c.in.Pipeline.Spec.Slack = &contract.Slack{Channel: "C0GATES"}
	c.votes(time.Minute, contract.UpdateApprove, "bob")
	r := c.run()
	require.Equal(t, contract.StateCorrected, r.State)
	posts := c.w.Posts("C0GATES")
	require.NotEmpty(t, posts)
	views := posts[0].Views
	require.Equal(t, contract.GateCorrection, posts[0].Environment)
	require.Equal(t, 2, views[0].Drift.Findings)
	last := views[len(views)-1]
	require.True(t, last.Over)
	require.Equal(t, string(contract.StateCorrected), last.State)
	var thread []string
	for _, p := range posts[1:] {
		thread = append(thread, p.Text)
	}
	require.Contains(t, strings.Join(thread, "\n"), "*policies-dev-wave0* correcting")
}

// scheduled runs an audit of the schedule, and returns what it began, by what it is.
func scheduled(t *testing.T, w *world.World, last *contract.DriftResult) (contract.DriftResult, beginnings) {
	t.Helper()
	env := harness.Environment()
	workflows.Register(env)
	w.Register(env)
	if last != nil {
		env.SetLastCompletionResult(*last)
	}
	began := beginnings{}
	env.OnWorkflow(contract.NoticeWorkflow, mock.Anything, mock.Anything).Return(nil)
	env.OnWorkflow(contract.CorrectionWorkflow, mock.Anything, mock.Anything).Return(contract.CorrectionStatus{}, nil)
	env.OnSignalExternalWorkflow(mock.Anything, mock.Anything, mock.Anything, mock.Anything, mock.Anything).Return(
		func(_, id, _, signal string, _ any) error {
			began.signals = append(began.signals, signal+" "+id)
			return errs.NotFound("none")
		})
	env.SetOnChildWorkflowStartedListener(func(info *workflow.Info, _ workflow.Context, args converter.EncodedValues) {
		switch info.WorkflowType.Name {
		case contract.NoticeWorkflow:
			require.NoError(t, args.Get(&began.notice))
		case contract.CorrectionWorkflow:
			require.NoError(t, args.Get(&began.correction))
		}
	})
	env.ExecuteWorkflow(contract.DriftWorkflow, contract.DriftInput{Pipeline: w.Pipeline, StartedBy: contract.StartedBySchedule})
	require.NoError(t, env.GetWorkflowError())
	var out contract.DriftResult
	require.NoError(t, env.GetWorkflowResult(&out))
	return out, began
}

// beginnings are what an audit began, beside itself.
type beginnings struct {
	notice     contract.NoticeInput
	correction contract.CorrectionInput
	signals    []string
}

// A scheduled audit says what is new, and nothing twice; also that all is well again.
func TestNoticesAndCorrectionsOfScheduledAudits(t *testing.T) {
	w := make3()
	w.Gone = map[string]string{}
	w.Pipeline.Spec.Slack = &contract.Slack{Channel: "C0GATES", Links: contract.Links{Temporal: "https://temporal.example.com/"}}
	w.Pipeline.Spec.Drift = &contract.Drift{Schedule: "@daily", Correct: &contract.DriftCorrect{Approvals: 1}}
	said := func(b beginnings) string { return strings.Join(b.notice.Lines, "\n") }

	clean, began := scheduled(t, w, nil)
	require.Empty(t, began.notice.Lines, "nothing is news while nothing was ever wrong")
	w.SetGone("prod-1-7", "db")
	first, began := scheduled(t, w, &clean)
	require.Equal(t, "C0GATES", began.notice.Channel)
	require.Contains(t, said(began), "*policies* has drifted: 1 missing\n• missing NetworkPolicy shop/db on prod-1-7\nThe audit of ")
	require.Contains(t, said(began), " found: nothing\n`portcullis drift report policies` · <https://temporal.example.com/namespaces/")
	require.Equal(t, contract.StartedBySchedule, began.correction.StartedBy)
	require.Equal(t, "policies", began.correction.Pipeline.Metadata.Name)
	same, began := scheduled(t, w, &first)
	require.Equal(t, beginnings{}, began, "the same again is no news")
	w.SetGone("prod-1-7", "")
	w.Drifting["dev-0-0"] = "x"
	other, began := scheduled(t, w, &same)
	require.Contains(t, said(began), "has drifted: 1 extra")
	require.Empty(t, began.correction.StartedBy, "Fleet cannot put that right")
	require.Equal(t, []string{"look correct/policies"}, began.signals, "the correction that may wait looks again")
	delete(w.Drifting, "dev-0-0")
	_, began = scheduled(t, w, &other)
	require.Contains(t, said(began), "*policies* is as it was rolled out again: 62 clusters audited\nThe audit of ")
	require.Contains(t, said(began), "found: 1 extra")

	// The first audit of all.
	w.SetGone("prod-1-7", "db")
	_, began = scheduled(t, w, nil)
	require.Contains(t, said(began), "has drifted")
	require.NotEmpty(t, began.correction.StartedBy)
	// Without Slack, and without a correction.
	w.Pipeline.Spec.Slack, w.Pipeline.Spec.Drift.Correct = nil, nil
	_, began = scheduled(t, w, &clean)
	require.Equal(t, beginnings{}, began)
}

// An audit that somebody began by hand is theirs to read.
func TestAuditsByHandTellNobody(t *testing.T) {
	w := make3()
	w.Gone = map[string]string{"dev-0-0": "db"}
	w.Pipeline.Spec.Slack = &contract.Slack{Channel: "C0GATES"}
	_, err := execute(t, w, nil)
	require.NoError(t, err)
	require.Empty(t, w.Posts("C0GATES"))
}
