package rollout

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/workflows/approval"
	"portcullis.dev/portcullis/workflows/call"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/orders"
	"portcullis.dev/portcullis/workflows/planning"
	"portcullis.dev/portcullis/workflows/story"
)

// openGate makes the gate of the i-th environment, which then waits.
func (r *rollout) openGate(ctx workflow.Context, i int, e contract.Evidence, now time.Time) error {
	approvals := r.environmentSpec(i).Gate.Approvals
	gate := &contract.GateState{Environment: e.Environment, Required: approvals.Required, Since: now, Evidence: e}
	if approvals.Timeout.Duration > 0 {
		gate.Deadline = now.Add(approvals.Timeout.Duration)
	}
	line := fmt.Sprintf("waits for %s of evidence %s", story.Count(gate.Required, "approval"), call.Short(e.Hash))
	if r.rules {
		v, err := planning.Voters(r.in, r.state.Plan, r.environmentSpec(i))
		if err != nil {
			return err
		}
		if !r.unlinked {
			v.Unlinked = nil
		}
		gate.Voters = v
		if terms := approval.Terms(v); terms != "" {
			line += " " + terms
		}
	}
	r.state.Gate = gate
	r.note(ctx, e.Environment, line)
	return nil
}

// renew gives the gate the evidence that there is now, and tells which votes count no more.
func (r *rollout) renew(ctx workflow.Context, e contract.Evidence) {
	gate := r.state.Gate
	if before := gate.Evidence.Hash; before != e.Hash {
		r.note(ctx, e.Environment, fmt.Sprintf("the evidence has changed from %s to %s; void: %s of the old one",
			call.Short(before), call.Short(e.Hash), story.Count(len(gate.Votes), "approval")))
	}
	for _, gone := range approval.Renew(gate, r.people(), e) {
		r.lose(ctx, gone)
	}
}

// lose tells of an approval that counts no more.
func (r *rollout) lose(ctx workflow.Context, gone approval.Void) {
	gate := r.state.Gate
	if gone.Vote.Evidence == gate.Evidence.Hash {
		r.note(ctx, gate.Environment, "void: the approval of "+gone.Vote.By+": "+gone.Why)
	}
	r.became(ctx, orders.Voided(gate.Environment, gone))
}

// opened tells that the gate is open, and who opened it.
func (r *rollout) opened(ctx workflow.Context) {
	gate := r.state.Gate
	r.became(ctx, orders.Opened(gate, r.counted()))
	r.note(ctx, gate.Environment, "gate open, evidence "+call.Short(gate.Evidence.Hash))
}

// groupsAsked is who is in a gate's Slack user groups, which is asked while the
// evidence is gathered. It is nil where the gate has no groups.
type groupsAsked struct {
	answer workflow.Future
	found  slack.Groups
	failed string
}

// askGroups begins to ask Slack who is in the groups of the i-th environment's gate.
func (r *rollout) askGroups(i int) *groupsAsked {
	from := r.environmentSpec(i).Gate.Approvals.From
	if !r.rules || len(from.Groups) == 0 {
		return nil
	}
	return &groupsAsked{answer: call.ResolveGroups(r.work, from.Groups)}
}

// hearGroups waits for the answer, and takes it into the gate where one waits already.
func (r *rollout) hearGroups(ctx workflow.Context, g *groupsAsked) {
	if g == nil {
		return
	}
	if err := g.answer.Get(ctx, &g.found); err != nil {
		g.failed = story.Reason(err)
	}
	if r.state.Gate != nil {
		g.into(r.state.Gate.Voters)
	}
}

func (g *groupsAsked) into(v *contract.Voters) {
	if g != nil && v != nil {
		approval.Resolve(v, g.found, g.failed)
	}
}

// regroup asks Slack again, and nothing else.
func (r *rollout) regroup(ctx workflow.Context, i int) {
	r.hearGroups(ctx, r.askGroups(i))
	r.renew(ctx, r.state.Gate.Evidence)
	r.show(ctx)
}
