package rollout_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/source"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/internal/world"
)

func three() *world.World {
	return world.Make(
		world.Env{Name: "dev"},
		world.Env{Name: "staging", Soak: 10 * time.Minute},
		world.Env{Name: "prod", Waves: []int{1, 2}},
	)
}

// badOn breaks New on clusters whose name starts with the prefix.
func badOn(prefix string) func(string, string) bool {
	return func(cluster, revision string) bool {
		return revision == world.New && strings.HasPrefix(cluster, prefix)
	}
}

func TestPass(t *testing.T) {
	r := newRun(t, three())
	r.env.RegisterDelayedCallback(func() { r.send(contract.UpdatePlanned, "planned", nil) }, 0)
	out := r.do(r.input())
	r.wantState(out, contract.StateVerified, contract.StateVerified, contract.StateVerified, contract.StateVerified)
	r.wantUpdate("planned", "")
	if plan, ok := r.updates.Value("planned").(contract.RolloutPlan); !ok || plan.Revision.Commit != world.New {
		t.Errorf("planned returned %v", r.updates.Value("planned"))
	}
	for _, env := range []string{"dev", "staging", "prod"} {
		r.wantLive(env, world.New)
	}
	r.wantCalls(
		"Plan", "Resolve", "Inspect",
		"EnsureAgent dev", "Measure baseline dev", "Stage policies-dev", "Release policies-dev", "Settle policies-dev",
		"Measure verify dev", "MarkVerified policies-dev",
		"Measure baseline staging", "Stage policies-staging", "Measure verify staging", "Measure soak staging", "MarkVerified policies-staging",
		"Measure baseline prod", "Stage policies-prod-wave0", "Measure verify prod-0-0", "Stage policies-prod-wave1", "Measure verify prod-1", "MarkVerified policies-prod",
	)
	for _, e := range out.Environments {
		if e.Result.Evidence == "" || e.Result.LiveAt.IsZero() || e.Result.VerdictAt.IsZero() || e.Result.ProbeTime != time.Second {
			t.Errorf("%s: incomplete result %+v", e.Name, e.Result)
		}
	}
	if r.w.Held() != "" {
		t.Errorf("held: %s", r.w.Held())
	}
}

func TestFailures(t *testing.T) {
	staging := "policies-staging"
	tests := map[string]struct {
		arrange func(r *run)
		// reason is part of the rollout's one line.
		reason string
		// untouched: staging was never written.
		untouched bool
	}{
		"verify":         {func(r *run) { r.w.Bad = badOn("staging") }, "web to api: dropped", false},
		"settle":         {func(r *run) { r.on("Settle", staging, fail(errs.Deadline("bundle x is not ready on staging"))) }, "bundle x is not ready", false},
		"settle lasting": {func(r *run) { r.on("Settle", staging, fail(errs.Failed("helm refused it"))) }, "helm refused it", false},
		"stage":          {func(r *run) { r.on("Stage", staging, fail(errs.Failed("bundle error"))) }, "bundle error", false},
		"stage mismatch": {func(r *run) { r.on("Stage", staging, fail(&world.Short{By: 1})) }, "Fleet has nothing for it", false},
		"stage down":     {func(r *run) { r.always("Stage", staging, fail(errs.Unavailable("Rancher does not answer"))) }, "Rancher does not answer", false},
		"release":        {func(r *run) { r.on("Release", staging, fail(errs.Conflict("someone else wrote it"))) }, "someone else wrote it", false},
		"measure":        {func(r *run) { r.always("Measure verify", "staging", fail(errs.Failed("no agent answers"))) }, "no agent answers", false},
		"soak":           {func(r *run) { r.always("Measure soak", "staging", fail(errs.Failed("path shut"))) }, "path shut", false},
		"recording":      {func(r *run) { r.on("MarkVerified", staging, fail(errs.Denied("no right to write"))) }, "no right to write", false},
		"agent":          {func(r *run) { r.always("EnsureAgent", "staging", fail(errs.Deadline("cluster unreachable"))) }, "cluster unreachable", true},
		"baseline":       {func(r *run) { r.always("Measure baseline", "staging", fail(errs.Failed("no agent answers"))) }, "no agent answers", true},
		"baseline unsure": {func(r *run) {
			r.always("Measure baseline", "staging", fail(&world.Unsure{Reason: "nothing could be measured"}))
		}, "nothing could be measured", true},
		"verify unsure": {func(r *run) {
			r.always("Measure verify", "staging", fail(&world.Unsure{Reason: "nothing could be measured"}))
		}, "nothing could be measured", false},
		"baseline silent": {func(r *run) { r.always("Measure baseline", "staging", fail(errs.Unavailable("no tunnel"))) }, "no tunnel", true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRun(t, three())
			test.arrange(r)
			out := r.do(r.input())
			state := contract.StateRolledBack
			if test.untouched {
				state = contract.StateFailed
			}
			r.wantState(out, state, contract.StateVerified, state, contract.StatePending)
			if !strings.Contains(out.Reason, test.reason) || strings.Contains(out.Reason, "\n") {
				t.Errorf("reason %q, want one line with %q", out.Reason, test.reason)
			}
			r.wantLive("dev", world.New)
			r.wantLive("staging", world.Old)
			r.wantLive("prod", world.Old)
			r.wantNoCall("Stage policies-prod")
			result := out.Environments[1].Result
			if result.Touched == test.untouched {
				t.Errorf("touched %v", result.Touched)
			}
			if test.untouched {
				r.wantNoCall("Restore")
				return
			}
			r.wantCalls("Restore policies-staging", "Measure compare staging", "Hold policies")
			if rb := result.Rollback; rb == nil || !rb.Live || !rb.Proven || rb.Revision != world.Old {
				t.Errorf("rollback %+v", rb)
			}
			if r.w.Held() == "" {
				t.Error("not held")
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	tests := map[string]struct {
		arrange func(r *run, in *contract.RolloutInput)
		kind    string
		message string
	}{
		"revision not there": {func(r *run, in *contract.RolloutInput) { in.Ref = "nope" }, errs.TypeNotFound, "nope is not on branch main"},
		"lint": {func(r *run, in *contract.RolloutInput) {
			r.w.Findings = []source.Finding{
				{Rule: "style", Path: "a.yaml", Message: "meh"},
				{Rule: "fleet-override-targets", Error: true, Path: "fleet.yaml", Line: 3, Message: "a revision may not choose its targets"},
			}
		}, errs.TypeInvalid, "fleet.yaml:3: a revision may not choose its targets (fleet-override-targets)"},
		"held":         {func(r *run, in *contract.RolloutInput) { r.w.SetHeld("it broke") }, errs.TypeHeld, "it broke"},
		"Rancher down": {func(r *run, in *contract.RolloutInput) { r.always("Plan", "", fail(errs.Unavailable("no route"))) }, errs.TypeUnavailable, "no route"},
		"token wrong":  {func(r *run, in *contract.RolloutInput) { r.on("Plan", "", fail(errs.Denied("the token is expired"))) }, errs.TypeDenied, "token is expired"},
		"nothing to go back to": {func(r *run, in *contract.RolloutInput) {
			in.Mode, in.Ref = contract.ModeRollback, world.Old
		}, errs.TypeInvalid, "nothing to go back"},
		"rollback of an unknown environment": {func(r *run, in *contract.RolloutInput) {
			in.Mode, in.Environments = contract.ModeRollback, []string{"qa"}
		}, errs.TypeInvalid, "no environment qa"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRun(t, three())
			in := r.input()
			test.arrange(r, &in)
			r.env.RegisterDelayedCallback(func() { r.send(contract.UpdatePlanned, "planned", nil) }, 0)
			err := r.refused(in, test.kind)
			if !strings.Contains(err.Error(), test.message) {
				t.Errorf("error %q, want %q", err, test.message)
			}
			r.wantUpdate("planned", test.kind)
		})
	}
}

func TestHeldIsLiftedByAfterRollback(t *testing.T) {
	r := newRun(t, three())
	r.w.SetHeld("it broke")
	in := r.input()
	in.AfterRollback = true
	out := r.do(in)
	r.wantState(out, contract.StateVerified)
	r.wantCalls("Plan", "Hold policies", "Stage policies-dev")
	if r.w.Held() != "" {
		t.Error("still held")
	}
}

func TestScopeRollout(t *testing.T) {
	r := newRun(t, three())
	r.w.Pipeline.Spec.Rollback.Scope = contract.ScopeRollout
	r.w.Bad = badOn("prod-1")
	out := r.do(r.input())
	r.wantState(out, contract.StateRolledBack, contract.StateRolledBack, contract.StateRolledBack, contract.StateRolledBack)
	for _, env := range []string{"dev", "staging", "prod"} {
		r.wantLive(env, world.Old)
	}
	r.wantCalls("Restore policies-prod", "Measure compare prod", "Restore policies-staging", "Measure compare staging", "Restore policies-dev", "Measure compare dev", "Hold")
	for _, e := range out.Environments {
		if !e.Result.Rollback.Proven || len(e.Result.Baseline) != 0 {
			t.Errorf("%s: %+v", e.Name, e.Result.Rollback)
		}
	}
}

func TestRollbackFails(t *testing.T) {
	t.Run("restore", func(t *testing.T) {
		r := newRun(t, three())
		r.w.Bad = badOn("prod-1")
		r.on("Restore", "prod-wave1", fail(errs.Deadline("prod-1-0 does not answer")))
		out := r.do(r.input())
		r.wantState(out, contract.StateRolledBack)
		rb := out.Environments[2].Result.Rollback
		if rb.Live || rb.Proven || !strings.Contains(rb.Detail, "prod-1-0 does not answer") {
			t.Errorf("rollback %+v", rb)
		}
		// The other unit is put back all the same.
		if got := r.w.Live("policies-prod-wave0"); got != world.Old {
			t.Errorf("wave0 has %.4s", got)
		}
		if r.w.Held() == "" {
			t.Error("not held")
		}
	})
	t.Run("compare", func(t *testing.T) {
		r := newRun(t, three())
		r.w.Bad = badOn("dev")
		r.on("Restore", "dev", func(context.Context) error { r.w.Disturb("dev-0-0", "a pod has moved"); return nil })
		out := r.do(r.input())
		r.wantState(out, contract.StateRolledBack)
		rb := out.Environments[0].Result.Rollback
		if !rb.Live || rb.Proven || !strings.Contains(rb.Detail, "not those of the baseline") {
			t.Errorf("rollback %+v", rb)
		}
	})
	t.Run("management cluster away for a while", func(t *testing.T) {
		r := newRun(t, three())
		r.w.Bad = badOn("dev")
		for range 5 {
			r.on("Restore", "dev", fail(errs.Unavailable("Rancher does not answer")))
		}
		out := r.do(r.input())
		r.wantState(out, contract.StateRolledBack)
		if rb := out.Environments[0].Result.Rollback; !rb.Live || !rb.Proven {
			t.Errorf("rollback %+v", rb)
		}
		r.wantLive("dev", world.Old)
	})
}

func TestRollbackByHand(t *testing.T) {
	r := newRun(t, three())
	in := r.input()
	in.Mode, in.Reason, in.Environments = contract.ModeRollback, "users complain", []string{"staging", "prod"}
	out := r.do(in)
	r.wantState(out, contract.StateRolledBack, contract.StateRolledBack, contract.StateRolledBack)
	r.wantLive("dev", world.Old)
	r.wantLive("staging", world.Older)
	r.wantLive("prod", world.Older)
	r.wantCalls("Restore policies-prod", "Measure verify prod", "MarkVerified policies-prod", "Restore policies-staging", "MarkVerified policies-staging", "Hold")
	if got := r.w.Verified("policies-prod-wave0"); got != world.Older {
		t.Errorf("verified %.4s", got)
	}
	if !strings.Contains(r.w.Held(), "users complain") {
		t.Errorf("held %q", r.w.Held())
	}
}

func TestRollbackByHandToARevision(t *testing.T) {
	r := newRun(t, three())
	in := r.input()
	in.Mode, in.Ref, in.Environments = contract.ModeRollback, world.New, []string{"dev"}
	r.w.Bad = badOn("dev")
	out := r.do(in)
	r.wantState(out, contract.StateRolledBack)
	rb := out.Environments[0].Result.Rollback
	if !rb.Live || rb.Proven {
		t.Errorf("rollback %+v", rb)
	}
	r.wantNoCall("MarkVerified")
}
