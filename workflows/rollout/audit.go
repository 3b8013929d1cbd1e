package rollout

import (
	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/workflows/approval"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/orders"
)

// decision and order are what both kinds of message say of who decides.
func decision(d contract.Decision) contract.Decision { return d }

func order(o contract.Order) contract.Decision {
	return contract.Decision{By: o.By, Why: o.Why, Via: o.Via, Known: o.Known}
}

// asked asks may, and tells the log of what is refused. Where the validator refuses,
// that is the only trace that is left: Temporal keeps none.
func asked[A any](r *rollout, what string, as func(A) contract.Decision, may func(A) error) func(A) error {
	return func(in A) error {
		d := as(in)
		err := may(in)
		if err == nil && r.rules {
			_, err = approval.Sign(r.people(), d)
		}
		if err != nil {
			r.tellLog(approval.Entry(what, r.at(approval.Signed(r.people(), d)), err))
		}
		return err
	}
}

// refused keeps in the audit log what the handler refused, and the validator did not.
func refused[A any](r *rollout, what string, as func(A) contract.Decision) func(workflow.Context, A, error) {
	return func(ctx workflow.Context, in A, err error) {
		d, _ := approval.Sign(r.people(), as(in))
		d.At = workflow.Now(ctx).UTC()
		r.keep(approval.Entry(what, r.at(d), err))
	}
}

// decided keeps a decision, and returns it under the one name of whoever made it.
func (r *rollout) decided(ctx workflow.Context, what string, d contract.Decision) contract.Decision {
	if r.rules {
		d, _ = approval.Sign(r.people(), d)
	}
	d.At = workflow.Now(ctx).UTC()
	e := approval.Entry(what, r.at(d), nil)
	r.keep(e)
	r.tellLog(e)
	return d
}

// ordered is decided for an order.
func (r *rollout) ordered(ctx workflow.Context, what string, o contract.Order) contract.Order {
	d := r.decided(ctx, what, order(o))
	return contract.Order{By: d.By, Why: d.Why, At: d.At, Via: d.Via, Known: d.Known}
}

// became keeps what became of decisions, or of the rollout's start.
func (r *rollout) became(ctx workflow.Context, e contract.AuditEntry) {
	e.At = workflow.Now(ctx).UTC()
	r.keep(e)
	r.tellLog(e)
}

// keep adds to the audit log. A rollout that began before there was one keeps none,
// because its recorded result has none.
func (r *rollout) keep(e contract.AuditEntry) {
	if r.rules {
		r.state.Audit = approval.Append(r.state.Audit, e)
	}
}

// at adds the environment that the rollout is in.
func (r *rollout) at(d contract.Decision) contract.Decision {
	if d.Environment == "" && r.state.Plan != nil && r.state.Current < len(r.state.Environments) {
		d.Environment = r.state.Environments[r.state.Current].Name
	}
	return d
}

// tellLog writes one line for each decision, and counts it.
func (r *rollout) tellLog(e contract.AuditEntry) { orders.Tell(r.work, r.log, e) }

// people are those whom the pipeline names.
func (r *rollout) people() []contract.Person { return r.in.Pipeline.Spec.People }

// begin keeps who began the rollout.
func (r *rollout) begin(ctx workflow.Context) {
	what := contract.AuditStart
	if r.in.Mode == contract.ModeRollback {
		what = contract.AuditRollback
	}
	if !r.rules {
		return
	}
	by, _ := approval.Name(r.people(), r.in.StartedBy)
	r.became(ctx, contract.AuditEntry{What: what, By: by, Via: approval.Via(r.in.Via), Known: approval.Known(r.in.Known), Why: r.in.Reason})
}

// counted is how many approvals the open gate has.
func (r *rollout) counted() int {
	if !r.rules {
		return len(r.state.Gate.Votes)
	}
	return approval.Count(r.state.Gate, r.people())
}
