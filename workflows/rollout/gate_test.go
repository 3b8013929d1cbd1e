package rollout_test

import (
	"strings"
	"testing"
	"time"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/internal/harness"
	"portcullis.dev/portcullis/workflows/internal/world"
)

func gated(required int, timeout time.Duration) *world.World {
	return world.Make(
		world.Env{Name: "dev"},
		world.Env{Name: "prod", Waves: []int{1, 1}, Approval: required, Timeout: timeout},
	)
}

func TestApproved(t *testing.T) {
	r := newRun(t, gated(2, 0))
	r.after(time.Minute, contract.UpdateApprove, "ann", r.vote("ann"))
	r.after(2*time.Minute, contract.UpdateApprove, "again", r.vote("ann"))
	r.after(3*time.Minute, contract.UpdateApprove, "nobody", r.vote(" "))
	r.after(4*time.Minute, contract.UpdateApprove, "short", always(contract.Decision{By: "bob", Evidence: "abc"}))
	r.after(5*time.Minute, contract.UpdateApprove, "wrong", always(contract.Decision{By: "bob", Evidence: strings.Repeat("0", 64)}))
	r.env.RegisterDelayedCallback(func() { r.wantNoCall("Stage policies-prod") }, 6*time.Minute)
	r.after(7*time.Minute, contract.UpdateApprove, "bob", r.vote("bob"))
	out := r.do(r.input())
	r.wantState(out, contract.StateVerified, contract.StateVerified, contract.StateVerified)
	r.wantUpdate("ann", "")
	r.wantUpdate("again", errs.TypeApproved)
	r.wantUpdate("nobody", errs.TypeInvalid)
	r.wantUpdate("short", errs.TypeInvalid)
	r.wantUpdate("wrong", errs.TypeConflict)
	r.wantUpdate("bob", "")
	if err := r.updates.Err("wrong"); err == nil || !strings.Contains(err.Error(), "evidence has changed: it is now ") {
		t.Errorf("wrong evidence: %v", err)
	}
	if g, ok := r.updates.Value("ann").(contract.GateState); !ok || len(g.Votes) != 1 || g.Required != 2 {
		t.Errorf("approve returned %+v", r.updates.Value("ann"))
	}
	// The gate measured; the promotion did not have to do it again before it wrote.
	r.wantCalls("MarkVerified policies-dev", "EnsureAgent prod", "Measure baseline prod", "Stage policies-prod-wave0")
}

func TestEvidenceIsComplete(t *testing.T) {
	r := newRun(t, gated(1, 0))
	var seen contract.Evidence
	r.env.RegisterDelayedCallback(func() { seen = r.status().Gate.Evidence }, time.Minute)
	r.after(2*time.Minute, contract.UpdateApprove, "ann", r.vote("ann"))
	out := r.do(r.input())
	if seen.Revision != world.New || seen.Environment != "prod" || seen.PlanHash == "" || len(seen.Changes) != 1 ||
		seen.Passed["dev"] != out.Environments[0].Result.Evidence || len(seen.Baseline) != 2 || seen.Baseline["prod-0-0"] == "" {
		t.Errorf("evidence %+v", seen)
	}
}

func TestVotesForOldEvidenceAreVoid(t *testing.T) {
	r := newRun(t, gated(2, 0))
	r.after(time.Minute, contract.UpdateApprove, "ann", r.vote("ann"))
	var before, after contract.GateState
	r.env.RegisterDelayedCallback(func() { before = *r.status().Gate; r.w.Disturb("prod-0-0", "x") }, 2*time.Minute)
	r.env.RegisterDelayedCallback(func() { after = *r.status().Gate }, 20*time.Minute)
	old := func() any { return contract.Decision{By: "bob", Evidence: before.Evidence.Hash} }
	r.after(21*time.Minute, contract.UpdateApprove, "late", old)
	r.after(22*time.Minute, contract.UpdateApprove, "ann again", r.vote("ann"))
	r.after(23*time.Minute, contract.UpdateApprove, "bob", r.vote("bob"))
	out := r.do(r.input())
	r.wantState(out, contract.StateVerified)
	if len(before.Votes) != 1 || len(after.Votes) != 0 || before.Evidence.Hash == after.Evidence.Hash {
		t.Errorf("before %+v, after %+v", before, after)
	}
	r.wantUpdate("late", errs.TypeConflict)
	r.wantUpdate("ann again", "")
	r.wantUpdate("bob", "")
	if !strings.Contains(logOf(out), "void: 1 approval of the old one") {
		t.Error("the log does not tell of void votes")
	}
}

// The last vote may come long after the last look: what has changed since then
// must not slip through.
func TestTheLastVoteIsCheckedAgainstTheWire(t *testing.T) {
	r := newRun(t, gated(1, 0))
	r.env.RegisterDelayedCallback(func() { r.w.Disturb("prod-0-0", "x") }, 5*time.Minute)
	r.after(10*time.Minute, contract.UpdateApprove, "ann", r.vote("ann"))
	r.env.RegisterDelayedCallback(func() { r.wantNoCall("Stage policies-prod") }, 11*time.Minute)
	r.after(12*time.Minute, contract.UpdateApprove, "ann again", r.vote("ann"))
	out := r.do(r.input())
	r.wantState(out, contract.StateVerified)
	r.wantUpdate("ann again", "")
}

func TestGateStaysShutWithoutEvidence(t *testing.T) {
	r := newRun(t, gated(1, 0))
	r.env.RegisterDelayedCallback(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.always("EnsureAgent", "prod-0-0", fail(errs.Deadline("unreachable")))
	}, 5*time.Minute)
	r.after(10*time.Minute, contract.UpdateApprove, "ann", r.vote("ann"))
	r.env.RegisterDelayedCallback(func() {
		r.wantNoCall("Stage policies-prod")
		r.mu.Lock()
		defer r.mu.Unlock()
		r.hooks = nil
	}, 20*time.Minute)
	out := r.do(r.input())
	r.wantState(out, contract.StateVerified)
	if !strings.Contains(logOf(out), "unreachable") {
		t.Error("the log does not say why the gate stays shut")
	}
}

func TestGateEnds(t *testing.T) {
	tests := map[string]struct {
		send    func(r *run)
		state   contract.State
		reason  string
		updates map[string]string
	}{
		"reject": {func(r *run) {
			r.after(time.Minute, contract.UpdateReject, "reject", always(contract.Decision{By: "bob", Why: "not on a Friday"}))
			r.after(time.Minute, contract.UpdateAbort, "second", always(contract.Order{By: "eve"}))
		}, contract.StateRejected, "rejected by bob (not on a Friday)", map[string]string{"reject": ""}},
		"abort": {func(r *run) {
			r.after(time.Minute, contract.UpdateAbort, "nobody", always(contract.Order{}))
			r.after(2*time.Minute, contract.UpdateAbort, "abort", always(contract.Order{By: "bob", Why: "wrong one"}))
		}, contract.StateAborted, "aborted by bob (wrong one)", map[string]string{"abort": "", "nobody": errs.TypeInvalid}},
		"timeout": {func(r *run) {}, contract.StateRejected, "only 0 of 1 approval came within 1h0m0s", nil},
		"cancelled": {func(r *run) { r.env.RegisterDelayedCallback(r.env.CancelWorkflow, time.Minute) },
			contract.StateAborted, "the workflow was cancelled", nil},
	}
	for name, test := range tests {
		for _, scope := range []contract.RollbackScope{contract.ScopeEnvironment, contract.ScopeRollout} {
			t.Run(name+" scope "+string(scope), func(t *testing.T) {
				r := newRun(t, gated(1, time.Hour))
				r.w.Pipeline.Spec.Rollback.Scope = scope
				test.send(r)
				out := r.do(r.input())
				r.wantNoCall("Stage policies-prod")
				r.wantNoCall("Restore policies-prod")
				if out.Environments[1].State != test.state || !strings.Contains(out.Reason, test.reason) {
					t.Errorf("prod is %s: %s", out.Environments[1].State, out.Reason)
				}
				if scope == contract.ScopeRollout {
					r.wantState(out, contract.StateRolledBack, contract.StateRolledBack)
					r.wantLive("dev", world.Old)
				} else {
					r.wantState(out, test.state, contract.StateVerified)
					r.wantLive("dev", world.New)
					if r.w.Held() != "" {
						t.Errorf("held: %s", r.w.Held())
					}
				}
				for id, kind := range test.updates {
					r.wantUpdate(id, kind)
				}
			})
		}
	}
}

func TestContinueAsNewAtTheGate(t *testing.T) {
	r := newRun(t, gated(2, 48*time.Hour))
	r.after(time.Minute, contract.UpdateApprove, "ann", r.vote("ann"))
	r.env.RegisterDelayedCallback(func() { r.env.SetContinueAsNewSuggested(true) }, 2*time.Minute)
	r.env.ExecuteWorkflow(contract.RolloutWorkflow, r.input())
	in, continued := harness.Carried[contract.RolloutInput](t, r.env.GetWorkflowError())
	if !continued {
		t.Fatalf("want continue-as-new, have %v", r.env.GetWorkflowError())
	}
	if in.Carried == nil || in.Carried.Gate == nil || len(in.Carried.Gate.Votes) != 1 || len(in.Baselines["prod"]) == 0 {
		t.Fatalf("carried %+v", in.Carried)
	}

	again := newRun(t, r.w)
	again.after(time.Minute, contract.UpdateApprove, "ann", again.vote("ann"))
	again.after(2*time.Minute, contract.UpdateApprove, "bob", again.vote("bob"))
	again.env.RegisterDelayedCallback(func() { again.send(contract.UpdatePlanned, "planned", nil) }, 0)
	out := again.do(in)
	again.wantState(out, contract.StateVerified, contract.StateVerified, contract.StateVerified)
	again.wantUpdate("ann", errs.TypeApproved)
	again.wantUpdate("bob", "")
	again.wantUpdate("planned", "")
	again.wantLive("prod", world.New)
	if out.Environments[0].Result.Evidence == "" || !out.StartedAt.Equal(in.Carried.StartedAt) {
		t.Error("the first run's results are lost")
	}
}
