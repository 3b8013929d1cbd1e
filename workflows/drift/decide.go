package drift

import (
	"errors"

	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/workflows/approval"
	"portcullis.dev/portcullis/workflows/call"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/orders"
	"portcullis.dev/portcullis/workflows/slackgate"
	"portcullis.dev/portcullis/workflows/story"
)

// handle sets the query and the updates.
func (c *correction) handle(ctx workflow.Context) error {
	return errors.Join(
		workflow.SetQueryHandler(ctx, contract.QueryStatus, func() (contract.CorrectionStatus, error) { return c.status(), nil }),
		orders.Answer(ctx, contract.UpdateApprove, "approves the correction of what was found",
			c.asked(contract.UpdateApprove, c.mayApprove), c.approve, c.refused(contract.UpdateApprove)),
		orders.Take(ctx, contract.UpdateReject, "leaves what was found as it is",
			c.asked(contract.UpdateReject, c.mayReject), c.reject, c.refused(contract.UpdateReject)),
	)
}

// asked asks may, and tells the log of what is refused: Temporal keeps no trace of it.
func (c *correction) asked(what string, may func(contract.Decision) (contract.Decision, error)) func(contract.Decision) error {
	return func(d contract.Decision) error {
		_, err := may(d)
		if err != nil {
			orders.Tell(c.work, c.log, approval.Entry(what, approval.Signed(c.people(), d), err))
		}
		return err
	}
}

// refused keeps in the audit log what the handler refused, and the validator did not.
func (c *correction) refused(what string) func(workflow.Context, contract.Decision, error) {
	return func(ctx workflow.Context, d contract.Decision, err error) {
		d = approval.Signed(c.people(), d)
		d.At = workflow.Now(ctx).UTC()
		c.state.Audit = approval.Append(c.state.Audit, approval.Entry(what, d, err))
	}
}

func (c *correction) mayApprove(d contract.Decision) (contract.Decision, error) {
	if err := c.open(d); err != nil {
		return d, err
	}
	return approval.Approve(c.state.Gate, c.people(), d, workflow.Now(c.work))
}

// open says why nothing can be decided now.
func (c *correction) open(d contract.Decision) error {
	if err := orders.By(d.By); err != nil {
		return err
	}
	if opened := approval.Opened(c.state.Audit, d); opened != nil {
		return errs.Late("the correction of %s was approved at %s", c.name, opened.At.UTC().Format("15:04 UTC"))
	}
	switch {
	case c.over:
		return errs.Late("the correction of %s is over: %s", c.name, c.state.State)
	case c.rejected != "":
		return errs.Late("the correction of %s was %s", c.name, c.rejected)
	case c.state.Gate == nil:
		return errs.Conflict("the correction of %s waits for no approval: it is %s", c.name, c.state.State)
	}
	return nil
}

// approve counts a vote and returns the gate with it.
func (c *correction) approve(ctx workflow.Context, d contract.Decision) contract.GateState {
	gate := c.state.Gate
	// mayApprove has just asked the same, so that there is no error.
	d, _ = approval.Approve(gate, c.people(), d, workflow.Now(ctx))
	gate.Votes = append(gate.Votes, d)
	c.became(ctx, approval.Entry(contract.UpdateApprove, d, nil))
	c.note(ctx, "approved by "+story.By(d.By, d.Why)+", evidence "+call.Short(d.Evidence))
	return *gate
}

func (c *correction) mayReject(d contract.Decision) (contract.Decision, error) {
	if err := c.open(d); err != nil {
		return d, err
	}
	return approval.Reject(c.state.Gate, c.people(), d, workflow.Now(c.work))
}

func (c *correction) reject(ctx workflow.Context, d contract.Decision) {
	d, _ = approval.Reject(c.state.Gate, c.people(), d, workflow.Now(ctx))
	c.became(ctx, approval.Entry(contract.UpdateReject, d, nil))
	c.rejected = "rejected by " + story.By(d.By, d.Why)
	c.note(ctx, c.rejected)
	c.cancel()
}

// became keeps a decision, or what became of some.
func (c *correction) became(ctx workflow.Context, e contract.AuditEntry) {
	e.At = workflow.Now(ctx).UTC()
	c.state.Audit = approval.Append(c.state.Audit, e)
	orders.Tell(ctx, c.log, e)
}

func (c *correction) people() []contract.Person { return c.in.Pipeline.Spec.People }

// counted is how many approvals the gate has, and agreed whether they suffice.
func (c *correction) counted() int { return approval.Count(c.state.Gate, c.people()) }

func (c *correction) agreed() bool { return c.counted() >= c.state.Gate.Required }

// findings counts what there is to put right.
func (c *correction) findings() int {
	n := 0
	for _, u := range c.state.Units {
		n += u.Fix.Findings
	}
	return n
}

func (c *correction) status() contract.CorrectionStatus {
	return contract.CorrectionStatus{Pipeline: c.name, CorrectionState: c.state}
}

func (c *correction) enter(ctx workflow.Context, state contract.State) {
	c.state.State = state
	if err := workflow.UpsertTypedSearchAttributes(ctx, contract.AttrPipeline.ValueSet(c.name), contract.AttrState.ValueSet(string(state))); err != nil {
		c.log.Warn("search attributes not set", "error", err)
	}
	c.show(ctx)
}

func (c *correction) note(ctx workflow.Context, message string) {
	c.log.Info(message, "state", c.state.State)
	c.state.Log = story.Append(c.state.Log, workflow.Now(ctx), "", message)
	c.show(ctx)
}

// show tells the Temporal UI and Slack how it is now.
func (c *correction) show(ctx workflow.Context) {
	workflow.SetCurrentDetails(ctx, story.Correction(c.status()))
	if c.courier == nil {
		return
	}
	info := workflow.GetInfo(ctx)
	c.courier.Tell(slackgate.CorrectionView(c.in.Pipeline, c.status(), c.over,
		slackgate.Address(c.in.Pipeline.Spec.Slack.Links.Temporal, info.Namespace, info.WorkflowExecution.ID, info.WorkflowExecution.RunID)))
}

// startCourier begins to tell Slack, where the pipeline has it.
func (c *correction) startCourier(ctx workflow.Context) {
	if c.in.Pipeline.Spec.Slack == nil {
		return
	}
	c.courier = &slackgate.Courier{
		ID: contract.SlackCorrectionID(c.name), Summary: "show the correction of " + c.name + " in Slack", Pipeline: c.name,
		Slack: *c.in.Pipeline.Spec.Slack, Log: c.log,
	}
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	c.courier.Start(ctx)
	slackgate.Hear(ctx, c.state.FirstRun, func(s *contract.SlackState) {
		c.state.Slack = s
		c.show(ctx)
	})
}
