package rollout

import (
	"errors"
	"fmt"
	"slices"

	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/workflows/approval"
	"portcullis.dev/portcullis/workflows/call"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/orders"
	"portcullis.dev/portcullis/workflows/story"
)

// handle sets the query and the updates.
func (r *rollout) handle(ctx workflow.Context) error {
	return errors.Join(
		workflow.SetQueryHandler(ctx, contract.QueryStatus, func() (contract.RolloutStatus, error) { return r.status(), nil }),
		workflow.SetUpdateHandlerWithOptions(ctx, contract.UpdatePlanned, r.planned,
			workflow.UpdateHandlerOptions{Description: "waits for the plan and returns it"}),
		orders.Answer(ctx, contract.UpdateApprove, "approves the evidence of the open gate",
			asked(r, contract.UpdateApprove, decision, r.mayApprove), r.approve, refused(r, contract.UpdateApprove, decision)),
		orders.Take(ctx, contract.UpdateReject, "ends the rollout; what its environment wrote is rolled back",
			asked(r, contract.UpdateReject, decision, r.mayReject), r.reject, refused(r, contract.UpdateReject, decision)),
		orders.Take(ctx, contract.UpdatePause, "starts nothing new until resumed",
			asked(r, contract.UpdatePause, order, r.mayPause), r.pause, refused(r, contract.UpdatePause, order)),
		orders.Take(ctx, contract.UpdateResume, "goes on after a pause",
			asked(r, contract.UpdateResume, order, r.mayResume), r.resume, refused(r, contract.UpdateResume, order)),
		orders.Take(ctx, contract.UpdateAbort, "ends the rollout; what its environment wrote is rolled back",
			asked(r, contract.UpdateAbort, order, r.mayAbort), r.abort, refused(r, contract.UpdateAbort, order)),
	)
}

// planned waits until the plan is made, or refused.
func (r *rollout) planned(ctx workflow.Context) (contract.RolloutPlan, error) {
	if err := workflow.Await(ctx, func() bool { return r.state.Plan != nil || r.refused != nil }); err != nil {
		return contract.RolloutPlan{}, err
	}
	if r.refused != nil {
		return contract.RolloutPlan{}, r.refused
	}
	return *r.state.Plan, nil
}

// mayApprove says why a vote does not count.
func (r *rollout) mayApprove(d contract.Decision) error {
	if err := r.inTime(d.By); err != nil {
		return err
	}
	gate := r.state.Gate
	if gate == nil || !approval.Of(gate.Evidence, d) {
		if opened := approval.Opened(r.state.Audit, d); opened != nil {
			return errs.Late("the gate of %s was opened on that evidence at %s; there is nothing left to approve",
				opened.Environment, opened.At.UTC().Format("15:04 UTC"))
		}
	}
	if gate == nil {
		return errs.Conflict("rollout of %s waits for no approval: it is %s", r.name, r.status().State)
	}
	if !r.rules {
		return r.mayApproveAsBefore(d)
	}
	_, err := approval.Approve(gate, r.people(), d, workflow.Now(r.work))
	return err
}

// mayApproveAsBefore has the rules of rollouts that began before there were others.
func (r *rollout) mayApproveAsBefore(d contract.Decision) error {
	gate := r.state.Gate
	if slices.ContainsFunc(gate.Votes, func(v contract.Decision) bool { return v.By == d.By }) {
		return errs.Approved("%s has approved %s already; it has %d of %s", d.By, gate.Environment, len(gate.Votes), story.Count(gate.Required, "approval"))
	}
	seen, err := approval.Seen(d, gate.Evidence.Hash)
	if err == nil && !seen {
		err = errs.Conflict("the evidence has changed: it is now %s; look at it again before approving", call.Short(gate.Evidence.Hash))
	}
	return err
}

// approve counts a vote and returns the gate with it.
func (r *rollout) approve(ctx workflow.Context, d contract.Decision) contract.GateState {
	gate := r.state.Gate
	if r.rules {
		// mayApprove has just asked the same, so that there is no error.
		d, _ = approval.Approve(gate, r.people(), d, workflow.Now(ctx))
	}
	d.At, d.Evidence = workflow.Now(ctx).UTC(), gate.Evidence.Hash
	gate.Votes = append(gate.Votes, d)
	r.decided(ctx, contract.UpdateApprove, d)
	r.note(ctx, gate.Environment, fmt.Sprintf("approved by %s, %d of %d, evidence %s",
		story.By(d.By, d.Why), r.counted(), gate.Required, call.Short(d.Evidence)))
	return *gate
}

// inTime is open for those who approve or reject, who come too late where it is not.
func (r *rollout) inTime(by string) error {
	err := r.open(by)
	if errs.TypeOf(err) == errs.TypeConflict {
		return errs.Late("%s", errs.Message(err))
	}
	return err
}

// open says why nothing can be decided any more, or that nobody decides.
func (r *rollout) open(by string) error {
	if err := orders.By(by); err != nil {
		return err
	}
	if r.over {
		return errs.Conflict("rollout of %s is over: %s", r.name, r.state.State)
	}
	if r.ended(r.work.Err()) {
		return errs.Conflict("rollout of %s is being ended already: %s", r.name, r.endingLine())
	}
	return nil
}

// forwardOnly refuses orders that make no sense on the way back.
func (r *rollout) forwardOnly(what string) error {
	if r.state.State == contract.StateRollingBack {
		return errs.Conflict("rollout of %s is rolling back, which cannot be %s", r.name, what)
	}
	return nil
}

func (r *rollout) mayReject(d contract.Decision) error {
	if err := r.inTime(d.By); err != nil {
		return err
	}
	if r.state.Plan == nil {
		return errs.Conflict("rollout of %s is not planned yet: there is nothing to reject", r.name)
	}
	if err := r.forwardOnly("rejected"); err != nil {
		return err
	}
	if gate := r.state.Gate; gate != nil && r.rules {
		_, err := approval.Reject(gate, r.people(), d, workflow.Now(r.work))
		return err
	}
	return nil
}

func (r *rollout) reject(ctx workflow.Context, d contract.Decision) {
	if gate := r.state.Gate; gate != nil && r.rules {
		d, _ = approval.Reject(gate, r.people(), d, workflow.Now(ctx))
	}
	d = r.decided(ctx, contract.UpdateReject, d)
	r.end(ctx, contract.StateRejected, "rejected by "+story.By(d.By, d.Why))
}

func (r *rollout) mayAbort(o contract.Order) error {
	if err := r.open(o.By); err != nil {
		return err
	}
	return r.forwardOnly("aborted")
}

func (r *rollout) abort(ctx workflow.Context, o contract.Order) {
	o = r.ordered(ctx, contract.UpdateAbort, o)
	r.end(ctx, contract.StateAborted, "aborted by "+story.By(o.By, o.Why))
}

// end tells the promotion why, and then cancels the work: what was touched is
// put back by the promotion itself.
func (r *rollout) end(ctx workflow.Context, state contract.State, line string) {
	r.ending = &ending{state: state, line: line}
	r.note(ctx, "", line)
	r.tell(ctx, contract.SignalStop, line)
	r.cancel()
}

// tell signals the promotion that runs. One that has just ended cannot be told,
// and need not.
func (r *rollout) tell(ctx workflow.Context, signal string, what any) {
	if r.child == nil {
		return
	}
	if err := r.child.SignalChildWorkflow(ctx, signal, what).Get(ctx, nil); err != nil {
		r.log.Warn("promotion not signalled", "signal", signal, "error", err)
	}
}

func (r *rollout) mayPause(o contract.Order) error {
	if err := r.open(o.By); err != nil {
		return err
	}
	if r.state.Paused != nil {
		return errs.Conflict("rollout of %s is paused already, by %s", r.name, story.By(r.state.Paused.By, r.state.Paused.Why))
	}
	return r.forwardOnly("paused")
}

func (r *rollout) pause(ctx workflow.Context, o contract.Order) {
	o = r.ordered(ctx, contract.UpdatePause, o)
	r.state.Paused = &o
	r.note(ctx, "", "paused by "+story.By(o.By, o.Why))
	r.enter(ctx, r.state.State)
	r.tell(ctx, contract.SignalPause, o)
}

func (r *rollout) mayResume(o contract.Order) error {
	if err := r.open(o.By); err != nil {
		return err
	}
	if r.state.Paused == nil {
		return errs.Conflict("rollout of %s is not paused", r.name)
	}
	return nil
}

func (r *rollout) resume(ctx workflow.Context, o contract.Order) {
	o = r.ordered(ctx, contract.UpdateResume, o)
	r.state.Paused = nil
	r.note(ctx, "", "resumed by "+story.By(o.By, o.Why))
	r.enter(ctx, r.state.State)
	r.tell(ctx, contract.SignalResume, o)
}
