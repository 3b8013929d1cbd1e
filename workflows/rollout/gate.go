package rollout

import (
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/deliver"
	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/source"
	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/approval"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/evidence"
	"portcullis.dev/portcullis/workflows/measure"
	"portcullis.dev/portcullis/workflows/options"
	"portcullis.dev/portcullis/workflows/planning"
	"portcullis.dev/portcullis/workflows/story"
)

// rejected is the end of a gate that was never opened.
type rejected struct{ line string }

func (r *rejected) Error() string { return r.line }

func asRejected(err error, target **rejected) bool { return errors.As(err, target) }

// gate waits until enough people have approved the environment's evidence. The
// evidence is gathered anew from time to time; when it has changed, the votes
// given for the old one are void.
func (r *rollout) gate(ctx workflow.Context, i int) error {
	r.enter(ctx, contract.StateBaseline)
	at, err := r.gather(ctx, i)
	if err != nil && r.state.Gate == nil {
		return err
	}
	spec := r.environmentSpec(i)
	r.state.Environments[i].State = contract.StateApproval
	r.enter(ctx, contract.StateApproval)
	defer func() { r.state.Gate = nil }()
	for {
		next, enough := at.Add(options.GateRefresh), r.agreed
		retry := workflow.Now(ctx).Add(options.GateRetry)
		switch {
		case err != nil:
			// Without evidence no vote opens the gate; it looks again sooner.
			next, enough = retry, never
		case approval.Unresolved(r.state.Gate.Voters) && retry.Before(next):
			next = retry
		}
		if err := r.await(spec, next, enough); err != nil {
			return err
		}
		now := workflow.Now(ctx)
		if r.expired(now) {
			line := fmt.Sprintf("only %d of %s came within %s", r.counted(), story.Count(r.state.Gate.Required, "approval"), spec.Gate.Approvals.Timeout.Duration)
			r.became(ctx, contract.AuditEntry{What: contract.AuditExpired, Environment: spec.Name, Why: line, Evidence: r.state.Gate.Evidence.Hash})
			return &rejected{line: line}
		}
		fresh := err == nil && now.Sub(at) < options.GateFresh
		if r.agreed() && fresh {
			r.opened(ctx)
			return nil
		}
		if !r.agreed() && r.mayContinueAsNew(ctx) {
			return r.continueAsNew(ctx)
		}
		if err == nil && !r.agreed() && now.Before(at.Add(options.GateRefresh)) && approval.Unresolved(r.state.Gate.Voters) {
			// It was time to ask Slack again, and not to measure.
			r.regroup(ctx, i)
			continue
		}
		if at, err = r.again(ctx, i, at); r.work.Err() != nil {
			return r.work.Err()
		}
	}
}

// agreed is true when the votes suffice and nothing holds the gate shut.
func (r *rollout) agreed() bool {
	return r.counted() >= r.state.Gate.Required && r.state.Paused == nil
}

// expired is true when the gate's time is over. Approvals that came in time are not
// lost because the evidence is still to be measured again.
func (r *rollout) expired(now time.Time) bool {
	deadline := r.state.Gate.Deadline
	over := !deadline.IsZero() && !now.Before(deadline)
	return over && !(r.rules && r.counted() >= r.state.Gate.Required)
}

func never() bool { return false }

// await waits for enough votes, the next look at the evidence, or the deadline.
func (r *rollout) await(spec rancher.Environment, next time.Time, enough func() bool) error {
	now := workflow.Now(r.work)
	// A deadline that is over and has not ended the gate is waited for no more.
	if deadline := r.state.Gate.Deadline; !deadline.IsZero() && deadline.Before(next) && (!r.rules || now.Before(deadline)) {
		next = deadline
	}
	wait := next.Sub(now)
	if wait <= 0 || r.expired(now) {
		return r.work.Err()
	}
	_, err := workflow.AwaitWithOptions(r.work, workflow.AwaitOptions{
		Timeout:      wait,
		TimerOptions: workflow.TimerOptions{Summary: "gate of " + spec.Name + ": measure again"},
	}, enough)
	return err
}

// again gathers evidence again and tells when that could not be done; the gate
// stays shut meanwhile.
func (r *rollout) again(ctx workflow.Context, i int, last time.Time) (time.Time, error) {
	at, err := r.gather(ctx, i)
	if err == nil {
		return at, nil
	}
	if !temporal.IsCanceledError(err) {
		r.note(ctx, r.state.Gate.Environment, "the evidence could not be gathered again: "+story.Reason(err))
	}
	return last, err
}

// gather plans and measures the environment as it is now, and sets the gate's evidence.
func (r *rollout) gather(ctx workflow.Context, i int) (time.Time, error) {
	groups := r.askGroups(i)
	e, baseline, err := r.look(i)
	r.hearGroups(ctx, groups)
	if err != nil {
		return time.Time{}, err
	}
	r.baselines[e.Environment] = baseline
	now := workflow.Now(ctx).UTC()
	if r.state.Gate == nil {
		if err := r.openGate(ctx, i, e, now); err != nil {
			return time.Time{}, err
		}
		groups.into(r.state.Gate.Voters)
	} else {
		r.renew(ctx, e)
	}
	r.show(ctx)
	return now, nil
}

// look builds the evidence: what would be done to the environment, what was
// proven before it, and what its wire is now.
func (r *rollout) look(i int) (contract.Evidence, []contract.BaselineBatch, error) {
	var none contract.Evidence
	plan, err := planning.Environments(r.work, r.in)
	if err != nil {
		return none, nil, err
	}
	env := plan.Environments[i]
	changes, err := r.changes(env)
	if err != nil {
		return none, nil, err
	}
	found, err := measure.Clusters(r.work, measure.Request{
		Pipeline: r.in.Pipeline, Environment: env.Name, Phase: "gate", Clusters: allClusters(env),
		Mode: verify.Baseline, EnsureAgent: options.AgentTimeout, Keep: true,
	})
	if err != nil {
		return none, nil, err
	}
	if bad := measure.Unmeasured(found.Clusters); bad != "" {
		return none, nil, errs.Failed("no baseline of %s: %s", env.Name, bad)
	}
	r.state.Plan.Plan.Environments[i] = env
	e := contract.Evidence{
		Revision:    r.revision(),
		Environment: env.Name,
		PlanHash:    env.Hash,
		Changes:     changes,
		Passed:      map[string]string{},
		Baseline:    map[string]string{},
	}
	for _, earlier := range r.state.Environments[:i] {
		if earlier.Result != nil {
			e.Passed[earlier.Name] = earlier.Result.Evidence
		}
	}
	for _, c := range found.Clusters {
		e.Baseline[c.Cluster] = c.Hash
	}
	e.Hash, err = evidence.Gate(e)
	return e, found.Kept, err
}

// changes are the files that differ from what the environment has now. A
// revision that the planning did not know of is inspected now.
func (r *rollout) changes(env deliver.EnvironmentPlan) ([]source.Change, error) {
	known := r.state.Plan.Inspection.Changes
	for _, since := range planning.Since(env) {
		if _, ok := known[since]; !ok && since != r.revision() {
			inspection, err := planning.Inspect(r.work, r.in, deliver.Plan{
				Namespace: r.state.Plan.Plan.Namespace, Environments: []deliver.EnvironmentPlan{env},
			}, r.revision())
			if err != nil {
				return nil, err
			}
			known = inspection.Changes
			break
		}
	}
	return merge(known, planning.Since(env)), nil
}

func merge(known map[string][]source.Change, since []string) []source.Change {
	seen := map[string]bool{}
	var out []source.Change
	for _, s := range since {
		for _, c := range known[s] {
			if key := c.Kind + " " + c.Path; !seen[key] {
				seen[key] = true
				out = append(out, c)
			}
		}
	}
	return out
}

func allClusters(env deliver.EnvironmentPlan) []rancher.Cluster {
	var out []rancher.Cluster
	for _, u := range env.Units {
		out = append(out, u.Clusters...)
	}
	return out
}

// mayContinueAsNew is true when the history is long and no message is lost by
// starting a new one. Where the wait is resumed, votes and evidence are carried.
func (r *rollout) mayContinueAsNew(ctx workflow.Context) bool {
	return options.LongHistory(ctx) && r.work.Err() == nil && workflow.AllHandlersFinished(ctx)
}

func (r *rollout) continueAsNew(ctx workflow.Context) error {
	next := r.in
	state := r.state
	next.Carried, next.Baselines = &state, r.baselines
	return workflow.NewContinueAsNewError(ctx, contract.RolloutWorkflow, next)
}
