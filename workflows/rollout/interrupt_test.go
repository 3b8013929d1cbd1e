package rollout_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/internal/world"
)

// phases are the moments of the second of three environments at which people
// may interrupt, by the activity that runs.
var phases = []struct {
	activity, subject string
	// touched: something of the environment has been written by then.
	touched bool
}{
	{"EnsureAgent", "staging", false},
	{"Measure baseline", "staging", false},
	{"Stage", "policies-staging", true},
	{"Release", "policies-staging", true},
	{"Settle", "policies-staging", true},
	{"Measure verify", "staging", true},
	{"Measure soak", "staging", true},
}

func TestEndedAtEveryPhase(t *testing.T) {
	for _, update := range []string{contract.UpdateAbort, contract.UpdateReject} {
		for _, phase := range phases {
			t.Run(update+" during "+phase.activity, func(t *testing.T) {
				r := newRun(t, three())
				r.on(phase.activity, phase.subject, r.update(update, "end", map[string]string{"by": "bob", "why": "smells"}))
				out := r.do(r.input())
				r.wantUpdate("end", "")
				state := contract.StateRolledBack
				if !phase.touched {
					state = contract.StateAborted
					if update == contract.UpdateReject {
						state = contract.StateRejected
					}
				}
				r.wantState(out, state, contract.StateVerified, state, contract.StatePending)
				if !strings.Contains(out.Reason, "by bob (smells)") {
					t.Errorf("reason %q", out.Reason)
				}
				r.wantLive("dev", world.New)
				r.wantLive("staging", world.Old)
				r.wantNoCall("Stage policies-prod")
				if phase.touched {
					r.wantCalls("Restore policies-staging", "Measure compare staging")
					if !strings.Contains(r.w.Held(), "by bob") {
						t.Errorf("held %q", r.w.Held())
					}
				} else {
					r.wantNoCall("Restore")
				}
			})
		}
	}
}

func TestAbortedWhilePlanning(t *testing.T) {
	r := newRun(t, three())
	r.env.RegisterDelayedCallback(func() { r.send(contract.UpdatePlanned, "planned", nil) }, 0)
	r.on("Inspect", "", r.update(contract.UpdateReject, "reject", contract.Decision{By: "bob"}))
	r.on("Plan", "", r.update(contract.UpdateAbort, "abort", contract.Order{By: "bob"}))
	out := r.do(r.input())
	r.wantState(out, contract.StateAborted)
	r.wantUpdate("abort", "")
	r.wantUpdate("planned", errs.TypeFailed)
	if r.w.Writes() != 0 {
		t.Errorf("%d writes", r.w.Writes())
	}
}

func TestRejectedWhilePlanning(t *testing.T) {
	r := newRun(t, three())
	r.on("Inspect", "", r.update(contract.UpdateReject, "reject", contract.Decision{By: "bob"}))
	r.wantState(r.do(r.input()), contract.StateVerified)
	r.wantUpdate("reject", errs.TypeConflict)
}

func TestCancelledFromOutside(t *testing.T) {
	r := newRun(t, three())
	r.on("Settle", "policies-staging", func(context.Context) error {
		r.env.RegisterDelayedCallback(r.env.CancelWorkflow, 0)
		time.Sleep(30 * time.Millisecond)
		return nil
	})
	out := r.do(r.input())
	r.wantState(out, contract.StateRolledBack, contract.StateVerified, contract.StateRolledBack)
	r.wantLive("staging", world.Old)
}

// A rollback is never interrupted, whatever people order.
func TestTheWayBackIsNotInterrupted(t *testing.T) {
	r := newRun(t, three())
	r.w.Pipeline.Spec.Rollback.Scope = contract.ScopeRollout
	r.w.Bad = badOn("staging")
	r.on("Restore", "dev", func(ctx context.Context) error {
		for _, u := range []string{contract.UpdateAbort, contract.UpdatePause, contract.UpdateReject} {
			if err := r.update(u, u, map[string]string{"by": "bob"})(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	out := r.do(r.input())
	r.wantState(out, contract.StateRolledBack)
	r.wantLive("dev", world.Old)
	for _, u := range []string{contract.UpdateAbort, contract.UpdatePause, contract.UpdateReject} {
		r.wantUpdate(u, errs.TypeConflict)
	}
}

func TestPausedAtEveryPhase(t *testing.T) {
	planning := phases[0]
	planning.activity, planning.subject = "Inspect", ""
	for _, phase := range append([]struct {
		activity, subject string
		touched           bool
	}{planning}, phases...) {
		t.Run(phase.activity, func(t *testing.T) {
			r := newRun(t, three())
			var from, to int
			r.on(phase.activity, phase.subject, func(ctx context.Context) error {
				from = len(r.w.Calls())
				r.after(time.Hour, contract.UpdatePause, "twice", always(contract.Order{By: "bob"}))
				r.env.RegisterDelayedCallback(func() {
					to = len(r.w.Calls())
					if s := r.status().State; s != contract.StatePaused {
						t.Errorf("state %s while paused", s)
					}
					r.send(contract.UpdateResume, "resume", contract.Order{By: "bob", Why: "all clear"})
				}, 2*time.Hour)
				return r.update(contract.UpdatePause, "pause", contract.Order{By: "bob", Why: "wait"})(ctx)
			})
			r.after(0, contract.UpdateResume, "early", always(contract.Order{By: "bob"}))
			out := r.do(r.input())
			r.wantState(out, contract.StateVerified)
			r.wantUpdate("pause", "")
			r.wantUpdate("resume", "")
			r.wantUpdate("early", errs.TypeConflict)
			r.wantUpdate("twice", errs.TypeConflict)
			if from == 0 || to < from {
				t.Fatalf("paused at call %d, resumed at %d", from, to)
			}
			for _, c := range r.w.Calls()[from:to] {
				if strings.HasPrefix(c, "Stage") || strings.HasPrefix(c, "Release") {
					t.Errorf("%q while paused", c)
				}
			}
		})
	}
}

func TestAbortedWhilePaused(t *testing.T) {
	for _, phase := range phases {
		t.Run(phase.activity, func(t *testing.T) {
			r := newRun(t, three())
			r.on(phase.activity, phase.subject, func(ctx context.Context) error {
				r.after(3*time.Hour, contract.UpdateAbort, "abort", always(contract.Order{By: "bob"}))
				return r.update(contract.UpdatePause, "pause", contract.Order{By: "bob"})(ctx)
			})
			out := r.do(r.input())
			r.wantUpdate("abort", "")
			if out.State == contract.StateVerified {
				t.Errorf("state %s", out.State)
			}
			r.wantLive("staging", world.Old)
			r.wantLive("dev", world.New)
		})
	}
}

// A soak that is over while paused goes on probing, and still catches what breaks.
func TestSoakGoesOnWhilePaused(t *testing.T) {
	r := newRun(t, three())
	soaks := 0
	r.always("Measure soak", "staging", func(ctx context.Context) error {
		soaks++
		switch soaks {
		case 1:
			return r.update(contract.UpdatePause, "pause", contract.Order{By: "bob"})(ctx)
		case 3:
			return errs.Failed("path shut at night")
		}
		return nil
	})
	out := r.do(r.input())
	r.wantState(out, contract.StateRolledBack, contract.StateVerified, contract.StateRolledBack)
	r.wantLive("staging", world.Old)
}

// Whatever people and failures do, in whatever order, an environment ends
// either verified or as it was before: never between.
func TestNeverBetween(t *testing.T) {
	activities := []string{
		"Plan", "Resolve", "Inspect", "EnsureAgent", "Measure baseline", "Stage", "Release", "Settle",
		"Measure verify", "Measure soak", "Measure compare", "MarkVerified", "Restore", "Hold",
	}
	const rounds = 60
	for seed := range uint64(rounds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 7))
			r := newRun(t, three())
			if rnd.IntN(2) == 0 {
				r.w.Pipeline.Spec.Rollback.Scope = contract.ScopeRollout
			}
			story := interfere(r, rnd, activities)
			// Nobody is left paused for ever.
			for i := range 6 {
				r.after(time.Duration(i+1)*5*time.Hour, contract.UpdateResume, fmt.Sprintf("resume%d", i), always(contract.Order{By: "bob"}))
			}
			r.env.ExecuteWorkflow(contract.RolloutWorkflow, r.input())
			if !r.env.IsWorkflowCompleted() {
				t.Fatalf("did not end: %v\n%s", story, strings.Join(r.w.Calls(), "\n"))
			}
			if r.env.GetWorkflowError() != nil {
				if n := r.w.Writes(); n > 0 {
					t.Errorf("failed after %d writes: %v (%v)", n, r.env.GetWorkflowError(), story)
				}
				return
			}
			var out contract.RolloutResult
			if err := r.env.GetWorkflowResult(&out); err != nil {
				t.Fatal(err)
			}
			for _, env := range out.Environments {
				want := world.Old
				if env.State == contract.StateVerified {
					want = world.New
				}
				r.wantLive(env.Name, want)
			}
			if t.Failed() {
				t.Logf("%v\n%s%s", story, logOf(out), strings.Join(r.w.Calls(), "\n"))
			}
		})
	}
}

// interfere plans up to four events at random activities of random environments.
func interfere(r *run, rnd *rand.Rand, activities []string) []string {
	var story []string
	for i := range 1 + rnd.IntN(4) {
		name := activities[rnd.IntN(len(activities))]
		subject := []string{"", "dev", "staging", "prod"}[rnd.IntN(4)]
		id := fmt.Sprint("event", i)
		by := map[string]string{"by": "bob"}
		var event string
		var f func(context.Context) error
		switch rnd.IntN(6) {
		case 0:
			event, f = "fail", fail(errs.Failed("by chance"))
			if name == "Restore" {
				// A restore that fails for good is told, not survived: see TestRollbackFails.
				event, f = "hiccup", fail(errs.Unavailable("by chance"))
			}
		case 1:
			event, f = "hiccup", fail(errs.Unavailable("by chance"))
		case 2:
			event, f = "pause", r.update(contract.UpdatePause, id, by)
		case 3:
			event, f = "resume", r.update(contract.UpdateResume, id, by)
		case 4:
			event, f = "abort", r.update(contract.UpdateAbort, id, by)
		case 5:
			event, f = "cancel", func(context.Context) error {
				r.env.RegisterDelayedCallback(r.env.CancelWorkflow, 0)
				time.Sleep(10 * time.Millisecond)
				return nil
			}
		}
		story = append(story, fmt.Sprintf("%s at %s %s", event, name, subject))
		r.on(name, subject, f)
	}
	return story
}
