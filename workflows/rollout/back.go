package rollout

import (
	"fmt"

	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/deliver"
	"portcullis.dev/portcullis/workflows/call"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/story"
)

// backFrom decides what the end of the i-th environment means for the rollout:
// its own promotion has walked its own way back by now. With rollback.scope
// rollout the earlier environments follow, last first.
func (r *rollout) backFrom(ctx workflow.Context, i int) error {
	env := r.state.Environments[i]
	r.state.Reason = env.Name
	if env.Result != nil && env.Result.Reason != "" {
		r.state.Reason += ": " + env.Result.Reason
	}
	end := env.State
	if end == contract.StateVerified {
		// Ended by a person between two environments.
		end, r.state.Reason = r.endingState(), r.endingLine()
		i++
	}
	back := env.Result != nil && env.Result.Rollback != nil
	// Cancellation does not reach the way back.
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	if r.in.Pipeline.Spec.Rollback.Scope == contract.ScopeRollout {
		back = r.earlier(ctx, i) || back
	}
	if back {
		end = contract.StateRolledBack
		r.hold(ctx)
	}
	r.state.State = end
	return nil
}

// earlier rolls back the environments before i that this rollout changed.
func (r *rollout) earlier(ctx workflow.Context, i int) bool {
	back := false
	for j := i - 1; j >= 0; j-- {
		env := &r.state.Environments[j]
		if env.Result == nil || !env.Result.Touched {
			continue
		}
		back = true
		in := r.promotion(j)
		in.RollbackOnly, in.Reason = true, r.state.Reason
		r.rollBack(ctx, env, in)
	}
	return back
}

// byHand walks a rollback that a person asked for, last environment first.
func (r *rollout) byHand(ctx workflow.Context) {
	if r.ended(r.work.Err()) {
		r.state.State, r.state.Reason = r.endingState(), r.endingLine()
		return
	}
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	r.state.Reason = "rolled back by " + story.By(r.in.StartedBy, r.in.Reason)
	for j := len(r.state.Environments) - 1; j >= 0; j-- {
		in := r.promotion(j)
		in.RollbackOnly, in.Reason, in.Baseline = true, r.state.Reason, nil
		in.Target = target(in)
		in.Commit = in.Target
		r.rollBack(ctx, &r.state.Environments[j], in)
	}
	r.hold(ctx)
	r.state.State = contract.StateRolledBack
}

// target is the revision that all units of an environment go back to; where
// they differ there is none to name, and none is recorded.
func target(in contract.PromoteInput) string {
	revision := in.Plan.Units[0].Before.Revision
	for _, u := range in.Plan.Units {
		if u.Before.Revision != revision {
			return ""
		}
	}
	return revision
}

// rollBack runs one environment's way back and keeps its result.
func (r *rollout) rollBack(ctx workflow.Context, env *contract.EnvironmentState, in contract.PromoteInput) {
	env.State = contract.StateRollingBack
	r.enter(ctx, contract.StateRollingBack)
	r.note(ctx, env.Name, "rolling back")
	result, _, err := r.promote(ctx, in)
	if err != nil {
		result = contract.PromoteResult{
			Environment: env.Name,
			State:       contract.StateRolledBack,
			Touched:     true,
			Reason:      in.Reason,
			Rollback:    &contract.RollbackResult{Detail: "the way back could not be walked: " + story.Reason(err)},
		}
	}
	result.Baseline = nil
	r.take(ctx, env, result)
}

// hold keeps the pipeline from being rolled out again until a person lifts it.
// Restoring has set it on the GitRepos that were touched; this reaches all.
func (r *rollout) hold(ctx workflow.Context) {
	if err := call.Hold(ctx, deliver.HoldInput{Pipeline: r.name, Reason: r.state.Reason}); err != nil {
		r.note(ctx, "", fmt.Sprintf("the pipeline could not be held: %s", story.Reason(err)))
		return
	}
	r.note(ctx, "", "the pipeline is held: lift it with portcullis rollout release "+r.name)
}
