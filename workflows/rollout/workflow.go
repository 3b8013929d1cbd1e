// Package rollout is the Rollout workflow: one revision goes through one
// pipeline, environment by environment, held by gates.
//
// It fails, with a type of errs, only when the rollout is refused before
// anything was written. Every other end is a result.
package rollout

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/deliver"
	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/call"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/options"
	"portcullis.dev/portcullis/workflows/orders"
	"portcullis.dev/portcullis/workflows/planning"
	"portcullis.dev/portcullis/workflows/slackgate"
	"portcullis.dev/portcullis/workflows/story"
)

// Run is the workflow.
func Run(ctx workflow.Context, in contract.RolloutInput) (contract.RolloutResult, error) {
	r := start(ctx, in)
	if err := r.handle(ctx); err != nil {
		return contract.RolloutResult{}, err
	}
	r.startCourier(ctx)
	return r.run(ctx)
}

type rollout struct {
	in    contract.RolloutInput
	name  string
	state contract.RolloutState
	// rules is false in a rollout that began before there were rules of who may
	// approve, and an audit log; unlinked where those did not yet ask whether a member
	// of a group may be somebody else.
	rules, unlinked bool
	log             log.Logger
	// baselines are per environment what was measured before its change.
	baselines map[string][]contract.BaselineBatch
	// work is the context of everything that a person may end; cancel ends it.
	work   workflow.Context
	cancel workflow.CancelFunc
	// child is the promotion that runs, where one does.
	child workflow.ChildWorkflowFuture
	// ending is set once a person has ended the rollout.
	ending *ending
	// refused is why the rollout was not planned.
	refused error
	// over is set when nothing can be decided any more.
	over bool
	// courier tells Slack; nil where the pipeline has none.
	courier *slackgate.Courier
	// matrix shows what was measured for the evidence with the hash matrixOf.
	matrix   *slack.Matrix
	matrixOf string
}

// changeRules brought people, groups and exclusions to gates, and the audit log.
const changeRules = "approval-rules-20261123"

// ending is a person's decision to end the rollout.
type ending struct {
	state contract.State
	line  string
}

func start(ctx workflow.Context, in contract.RolloutInput) *rollout {
	if in.Mode == "" {
		in.Mode = contract.ModePromote
	}
	r := &rollout{in: in, name: in.Pipeline.Metadata.Name, baselines: in.Baselines}
	r.log = log.With(workflow.GetLogger(ctx), "pipeline", r.name)
	r.work, r.cancel = workflow.WithCancel(ctx)
	rules := workflow.GetVersion(ctx, changeRules, workflow.DefaultVersion, 2)
	r.rules, r.unlinked = rules >= 1, rules >= 2
	if r.baselines == nil {
		r.baselines = map[string][]contract.BaselineBatch{}
	}
	if in.Carried != nil {
		r.state = *in.Carried
	} else {
		r.state = contract.RolloutState{
			State:     contract.StatePlanning,
			Mode:      in.Mode,
			StartedBy: in.StartedBy,
			StartedAt: workflow.Now(ctx).UTC(),
			FirstRun:  workflow.GetInfo(ctx).WorkflowExecution.RunID,
		}
	}
	r.in.Carried, r.in.Baselines = nil, nil
	return r
}

func (r *rollout) run(ctx workflow.Context) (contract.RolloutResult, error) {
	if r.state.Plan == nil {
		if err := r.plan(ctx); err != nil {
			return r.refuse(ctx, err)
		}
	}
	var err error
	if r.in.Mode == contract.ModeRollback {
		r.byHand(ctx)
	} else {
		err = r.forward(ctx)
	}
	if err != nil {
		return contract.RolloutResult{}, err
	}
	return r.finish(ctx), nil
}

// plan decides what will be done. Nothing is written before it is complete.
func (r *rollout) plan(ctx workflow.Context) error {
	r.upsert(ctx, contract.AttrPipeline.ValueSet(r.name))
	r.enter(ctx, contract.StatePlanning)
	r.begin(ctx)
	plan, err := planning.Make(r.work, r.in)
	if err != nil {
		return err
	}
	r.state.Plan = plan
	for _, env := range plan.Plan.Environments {
		r.state.Environments = append(r.state.Environments, contract.EnvironmentState{Name: env.Name, State: contract.StatePending})
	}
	if commit := plan.Revision.Commit; commit != "" {
		r.upsert(ctx, contract.AttrRevision.ValueSet(commit))
		r.note(ctx, "", "planned "+call.Short(commit)+" "+plan.Revision.Subject)
	} else {
		r.note(ctx, "", "planned the way back")
	}
	return nil
}

// refuse ends a rollout that was not planned: aborted by a person, or failed.
func (r *rollout) refuse(ctx workflow.Context, err error) (contract.RolloutResult, error) {
	if r.ended(err) {
		// Whoever waits for the plan gets an error; the rollout itself has a result.
		r.refused = errs.Failed("the rollout of %s was ended before it was planned: %s", r.name, r.endingLine())
		r.state.State, r.state.Reason = contract.StateAborted, r.endingLine()
		return r.finish(ctx), nil
	}
	r.refused = story.Final(err)
	r.over = true
	r.state.Reason = story.Reason(err)
	r.note(ctx, "", "refused: "+r.state.Reason)
	r.enter(ctx, contract.StateFailed)
	r.count(ctx)
	orders.Drain(ctx, r.log)
	return contract.RolloutResult{}, r.refused
}

// ended is true when err is the cancellation of this rollout.
func (r *rollout) ended(err error) bool {
	return r.ending != nil || (temporal.IsCanceledError(err) && r.work.Err() != nil)
}

func (r *rollout) endingLine() string {
	if r.ending != nil {
		return r.ending.line
	}
	return "the workflow was cancelled"
}

func (r *rollout) endingState() contract.State {
	if r.ending != nil {
		return r.ending.state
	}
	return contract.StateAborted
}

// forward takes the environments in order until one does not end verified.
func (r *rollout) forward(ctx workflow.Context) error {
	for r.state.Current < len(r.state.Environments) {
		verified, err := r.environment(ctx, r.state.Current)
		if err != nil {
			return err
		}
		if !verified {
			return r.backFrom(ctx, r.state.Current)
		}
		r.state.Current++
	}
	r.state.State = contract.StateVerified
	return nil
}

// environment takes one environment: pause, gate, promotion. The error is only
// ever a continue-as-new.
func (r *rollout) environment(ctx workflow.Context, i int) (bool, error) {
	env := &r.state.Environments[i]
	r.upsert(ctx, contract.AttrEnvironment.ValueSet(env.Name))
	err := r.mayEnter(ctx, i)
	if workflow.IsContinueAsNewError(err) {
		return false, err
	}
	if err != nil {
		r.close(ctx, env, err)
		return false, nil
	}
	env.State = contract.StatePromoting
	r.enter(ctx, contract.StatePromoting)
	r.note(ctx, env.Name, "promoting")
	in := r.promotion(i)
	result, started, err := r.promote(r.work, in)
	switch {
	case err != nil && !started:
		r.close(ctx, env, err)
		return false, nil
	case err != nil:
		r.lost(ctx, env, in, err)
		return false, nil
	}
	if len(result.Baseline) > 0 {
		r.baselines[env.Name], result.Baseline = result.Baseline, nil
	}
	r.take(ctx, env, result)
	if result.State != contract.StateVerified {
		return false, nil
	}
	// A person who ends the rollout after its last environment comes too late.
	last := i == len(r.state.Environments)-1
	return last || !r.ended(r.work.Err()), nil
}

// lost walks the way back of a promotion that was ended from outside, by
// terminating it: what it had written is not known, so everything is put back.
func (r *rollout) lost(ctx workflow.Context, env *contract.EnvironmentState, in contract.PromoteInput, err error) {
	r.note(ctx, env.Name, "the promotion was lost: "+story.Reason(err))
	in.RollbackOnly, in.Reason = true, "the promotion was lost: "+story.Reason(err)
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	r.rollBack(ctx, env, in)
}

// mayEnter waits until the environment may be entered: not paused, gate open,
// hold lifted.
func (r *rollout) mayEnter(ctx workflow.Context, i int) error {
	if err := r.unpaused(r.work); err != nil {
		return err
	}
	if r.environmentSpec(i).Gate.Approvals.Required > 0 {
		if err := r.gate(ctx, i); err != nil {
			return err
		}
	}
	if r.state.Plan.Plan.Held == "" {
		return nil
	}
	// Only a start with --after-rollback gets here on a held pipeline.
	if err := call.Hold(r.work, deliver.HoldInput{Pipeline: r.name}); err != nil {
		return err
	}
	r.note(ctx, "", "hold lifted: "+r.state.Plan.Plan.Held)
	r.state.Plan.Plan.Held = ""
	return nil
}

// unpaused waits while the rollout is paused.
func (r *rollout) unpaused(ctx workflow.Context) error {
	if r.state.Paused == nil {
		return ctx.Err()
	}
	return workflow.Await(ctx, func() bool { return r.state.Paused == nil })
}

// close ends an environment that was never handed to a promotion.
func (r *rollout) close(ctx workflow.Context, env *contract.EnvironmentState, err error) {
	state, reason := contract.StateFailed, story.Reason(err)
	var no *rejected
	switch {
	case asRejected(err, &no):
		state, reason = contract.StateRejected, no.line
	case r.ended(err):
		state, reason = r.endingState(), r.endingLine()
	}
	env.State = state
	env.Result = &contract.PromoteResult{Environment: env.Name, State: state, Reason: reason}
	r.note(ctx, env.Name, fmt.Sprintf("%s: %s", state, reason))
}

// take keeps a promotion's result.
func (r *rollout) take(ctx workflow.Context, env *contract.EnvironmentState, result contract.PromoteResult) {
	env.State, env.Result, env.Soaking = result.State, &result, nil
	if result.State == contract.StateAborted && r.ending != nil {
		env.State = r.ending.state
	}
	line := string(env.State)
	if result.Evidence != "" {
		line += ", evidence " + call.Short(result.Evidence)
	}
	if result.Reason != "" {
		line += ": " + result.Reason
	}
	if result.Rollback != nil {
		line += "; " + story.Rollback(*result.Rollback)
	}
	r.note(ctx, env.Name, line)
	r.clock(ctx, result)
	if r.in.Pipeline.Spec.Rollback.Scope != contract.ScopeRollout {
		delete(r.baselines, env.Name)
	}
}

func (r *rollout) promotion(i int) contract.PromoteInput {
	env := r.state.Plan.Plan.Environments[i]
	return contract.PromoteInput{
		Pipeline:     r.in.Pipeline,
		Environment:  r.environmentSpec(i),
		Plan:         env,
		Namespace:    r.state.Plan.Plan.Namespace,
		Commit:       r.state.Plan.Revision.Commit,
		Rollout:      r.state.FirstRun,
		Baseline:     r.baselines[env.Name],
		KeepBaseline: r.in.Pipeline.Spec.Rollback.Scope == contract.ScopeRollout,
	}
}

// promote runs a promotion as a child, which pauses, resumes and ends with the
// rollout. It also returns whether the child was started at all.
func (r *rollout) promote(ctx workflow.Context, in contract.PromoteInput) (contract.PromoteResult, bool, error) {
	summary := fmt.Sprintf("%s to %s", call.Short(in.Commit), in.Plan.Name)
	if in.RollbackOnly {
		summary = "roll back " + in.Plan.Name
	}
	opts := options.Child(contract.PromoteID(r.name, in.Plan.Name), summary)
	opts.TypedSearchAttributes = temporal.NewSearchAttributes(
		contract.AttrPipeline.ValueSet(r.name),
		contract.AttrEnvironment.ValueSet(in.Plan.Name),
		contract.AttrRevision.ValueSet(in.Commit),
	)
	r.child = workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, opts), contract.PromoteWorkflow, in)
	defer func() { r.child = nil }()
	started := r.child.GetChildWorkflowExecution().Get(ctx, nil) == nil
	var out contract.PromoteResult
	err := r.child.Get(ctx, &out)
	if temporal.IsWorkflowExecutionAlreadyStartedError(err) {
		err = errs.Conflict("%s still runs, left by an earlier rollout; wait for it to end", opts.WorkflowID)
	}
	return out, started, err
}

// environmentSpec is the pipeline's part for the plan's i-th environment.
func (r *rollout) environmentSpec(i int) rancher.Environment {
	name := r.state.Plan.Plan.Environments[i].Name
	for _, env := range r.in.Pipeline.Spec.Environments {
		if env.Name == name {
			return env
		}
	}
	return rancher.Environment{Name: name}
}

// finish shows the end, waits for those who still ask, and returns the result.
func (r *rollout) finish(ctx workflow.Context) contract.RolloutResult {
	r.over = true
	line := string(r.state.State)
	if r.state.Reason != "" {
		line += ": " + r.state.Reason
	}
	r.note(ctx, "", line)
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	r.enter(ctx, r.state.State)
	r.count(ctx)
	r.courier.Farewell(ctx)
	orders.Drain(ctx, r.log)
	return contract.RolloutResult{
		Pipeline:     r.name,
		Mode:         r.in.Mode,
		Revision:     r.revision(),
		State:        r.state.State,
		Reason:       r.state.Reason,
		Environments: r.state.Environments,
		Log:          r.state.Log,
		Audit:        r.state.Audit,
		StartedAt:    r.state.StartedAt,
		FinishedAt:   workflow.Now(ctx).UTC(),
	}
}

func (r *rollout) revision() string {
	if r.state.Plan == nil {
		return ""
	}
	return r.state.Plan.Revision.Commit
}

func (r *rollout) enter(ctx workflow.Context, state contract.State) {
	r.state.State = state
	r.upsert(ctx, contract.AttrState.ValueSet(string(r.status().State)))
	r.show(ctx)
}

func (r *rollout) upsert(ctx workflow.Context, attributes ...temporal.SearchAttributeUpdate) {
	if err := workflow.UpsertTypedSearchAttributes(ctx, attributes...); err != nil {
		r.log.Warn("search attributes not set", "error", err)
	}
}

// status is what a query returns: a pause covers the state that it holds.
func (r *rollout) status() contract.RolloutStatus {
	s := contract.RolloutStatus{Pipeline: r.name, RolloutState: r.state}
	if s.Paused != nil && !r.over {
		s.State = contract.StatePaused
	}
	return s
}

func (r *rollout) show(ctx workflow.Context) {
	workflow.SetCurrentDetails(ctx, story.Rollout(r.status()))
	r.tellSlack(ctx)
}

func (r *rollout) note(ctx workflow.Context, environment, message string) {
	r.log.Info(message, "environment", environment, "state", r.state.State)
	r.state.Log = story.Append(r.state.Log, workflow.Now(ctx), environment, message)
	r.show(ctx)
}

// count writes the end of the rollout into the metrics.
func (r *rollout) count(ctx workflow.Context) {
	m := workflow.GetMetricsHandler(ctx).WithTags(map[string]string{
		"pipeline": r.name, "mode": string(r.in.Mode), "state": string(r.state.State),
	})
	m.Counter("portcullis_rollouts_total").Inc(1)
	m.Timer("portcullis_rollout_duration").Record(workflow.Now(ctx).Sub(r.state.StartedAt).Round(time.Millisecond))
}

// clock writes what of the time from live to verdict was not spent probing.
func (r *rollout) clock(ctx workflow.Context, result contract.PromoteResult) {
	if result.State != contract.StateVerified || result.LiveAt.IsZero() {
		return
	}
	own := result.VerdictAt.Sub(result.LiveAt) - result.ProbeTime
	workflow.GetMetricsHandler(ctx).WithTags(map[string]string{"pipeline": r.name, "environment": result.Environment}).
		Timer("portcullis_verdict_own_time").Record(max(own, 0))
}
