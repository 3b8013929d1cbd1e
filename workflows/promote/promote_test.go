package promote_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/testsuite"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/internal/harness"
	"portcullis.dev/portcullis/workflows/internal/world"
)

func environment(w *world.World) *testsuite.TestWorkflowEnvironment {
	env := harness.Environment()
	workflows.Register(env)
	w.Register(env)
	return env
}

func input(w *world.World) contract.PromoteInput {
	env := w.Pipeline.Spec.Environments[0]
	in := contract.PromoteInput{Pipeline: w.Pipeline, Environment: env, Commit: world.New, Rollout: "run", Namespace: "fleet-default"}
	in.Plan.Name, in.Plan.Units = env.Name, w.Units()
	return in
}

func result(t *testing.T, env *testsuite.TestWorkflowEnvironment) contract.PromoteResult {
	t.Helper()
	if err := env.GetWorkflowError(); err != nil {
		t.Fatal(err)
	}
	var out contract.PromoteResult
	if err := env.GetWorkflowResult(&out); err != nil {
		t.Fatal(err)
	}
	return out
}

// next runs on through every continue-as-new, with a suggestion after each step.
func walk(t *testing.T, w *world.World, in contract.PromoteInput) (contract.PromoteResult, int) {
	t.Helper()
	for runs := 1; ; runs++ {
		env := environment(w)
		done := len(w.Calls())
		env.SetOnTimerFiredListener(func(string) {})
		w.Hook = func(_ context.Context, name, _ string) error {
			// Not at once: a run that suggests from its beginning would do nothing.
			if len(w.Calls()) > done+1 && (name == "Settle" || name == "Restore" || name == "Release") {
				env.RegisterDelayedCallback(func() { env.SetContinueAsNewSuggested(true) }, 0)
			}
			return nil
		}
		env.ExecuteWorkflow(contract.PromoteWorkflow, in)
		next, again := harness.Carried[contract.PromoteInput](t, env.GetWorkflowError())
		if !again {
			return result(t, env), runs
		}
		in = next
	}
}

func TestContinueAsNewBetweenUnits(t *testing.T) {
	w := world.Make(world.Env{Name: "prod", Waves: []int{1, 2, 1, 1}})
	out, runs := walk(t, w, input(w))
	if runs < 3 {
		t.Errorf("only %d runs", runs)
	}
	if out.State != contract.StateVerified || out.Evidence == "" {
		t.Errorf("result %+v", out)
	}
	for _, u := range w.Units() {
		if w.Live(u.GitRepo) != world.New || w.Verified(u.GitRepo) != world.New {
			t.Errorf("%s: live %.4s, verified %.4s", u.GitRepo, w.Live(u.GitRepo), w.Verified(u.GitRepo))
		}
	}
	stages := 0
	for _, c := range w.Calls() {
		if strings.HasPrefix(c, "Stage") {
			stages++
		}
	}
	if stages != len(w.Units()) {
		t.Errorf("%d stages for %d units", stages, len(w.Units()))
	}
}

// What a run touched is put back by the run that finds the failure.
func TestRollbackAfterContinueAsNew(t *testing.T) {
	w := world.Make(world.Env{Name: "prod", Waves: []int{1, 1, 1, 1}})
	w.Bad = func(cluster, revision string) bool { return cluster == "prod-3-0" && revision == world.New }
	out, runs := walk(t, w, input(w))
	if runs < 3 || out.State != contract.StateRolledBack || !out.Rollback.Live || !out.Rollback.Proven {
		t.Errorf("%d runs: %+v %+v", runs, out.State, out.Rollback)
	}
	for _, u := range w.Units() {
		if got := w.Live(u.GitRepo); got != world.Old {
			t.Errorf("%s has %.4s", u.GitRepo, got)
		}
	}
}

func TestRestoresStartWithTheLastUnit(t *testing.T) {
	w := world.Make(world.Env{Name: "prod", Waves: []int{1, 1, 1}})
	in := input(w)
	in.RollbackOnly, in.Reason = true, "because"
	env := environment(w)
	env.ExecuteWorkflow(contract.PromoteWorkflow, in)
	out := result(t, env)
	if out.State != contract.StateRolledBack || out.Reason != "because" || w.Held() != "because" {
		t.Errorf("%s %q held %q", out.State, out.Reason, w.Held())
	}
	if i := slices.IndexFunc(w.Calls(), func(c string) bool { return strings.HasPrefix(c, "Restore") }); i < 0 {
		t.Error("nothing was restored")
	}
}

func TestTheWeakestRestoreIsReported(t *testing.T) {
	w := world.Make(world.Env{Name: "prod", Waves: []int{1, 1}})
	in := input(w)
	in.Plan.Units = slices.Clone(in.Plan.Units)
	in.Plan.Units[1].Before = rancher.Before{Kind: rancher.RestoreAbsent}
	in.RollbackOnly = true
	env := environment(w)
	env.ExecuteWorkflow(contract.PromoteWorkflow, in)
	out := result(t, env)
	if out.Rollback.Kind != rancher.RestoreAbsent || out.Rollback.Revision != "" {
		t.Errorf("%+v", out.Rollback)
	}
}

// One unit that is out of reach does not keep the others waiting.
func TestRestoresDoNotWaitForEachOther(t *testing.T) {
	w := world.Make(world.Env{Name: "prod", Waves: []int{1, 1, 1}})
	in := input(w)
	in.RollbackOnly = true
	stuck := make(chan struct{})
	w.Hook = func(_ context.Context, name, subject string) error {
		switch {
		case name == "Restore" && strings.HasSuffix(subject, "wave2"):
			<-stuck
		case name == "Restore" && strings.HasSuffix(subject, "wave0"):
			close(stuck)
		}
		return nil
	}
	env := environment(w)
	env.ExecuteWorkflow(contract.PromoteWorkflow, in)
	if out := result(t, env); !out.Rollback.Live {
		t.Errorf("%+v", out.Rollback)
	}
}

func TestStatusWhileUnderWay(t *testing.T) {
	w := world.Make(world.Env{Name: "prod", Waves: []int{1, 1}})
	in := input(w)
	in.Plan.Unready = map[string]string{"prod-1-0": "Rancher has no tunnel to it"}
	env := environment(w)
	var seen contract.PromoteStatus
	w.Hook = func(_ context.Context, name, subject string) error {
		if name != "EnsureAgent" || subject != "prod-1-0" {
			return nil
		}
		env.RegisterDelayedCallback(func() {
			if v, err := env.QueryWorkflow(contract.QueryStatus); err == nil {
				_ = v.Get(&seen)
			}
		}, 0)
		time.Sleep(20 * time.Millisecond)
		return errs.Deadline("cluster prod-1-0 is unreachable")
	}
	env.ExecuteWorkflow(contract.PromoteWorkflow, in)
	out := result(t, env)
	if seen.State != contract.StateBaseline || len(seen.Clusters) != 2 || seen.Clusters[1].Reason != "Rancher has no tunnel to it" {
		t.Errorf("status %+v", seen)
	}
	if out.State != contract.StateFailed || out.Touched || out.Clusters[1].State != "failed" {
		t.Errorf("result %+v", out)
	}
	if w.Writes() != 0 {
		t.Errorf("%d writes", w.Writes())
	}
}
