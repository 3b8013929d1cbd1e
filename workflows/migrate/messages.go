package migrate

import (
	"errors"
	"strings"

	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/workflows/approval"
	"portcullis.dev/portcullis/workflows/call"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/orders"
	"portcullis.dev/portcullis/workflows/story"
)

// handle sets the query and the updates.
func (m *cluster) handle(ctx workflow.Context) error {
	return errors.Join(
		workflow.SetQueryHandler(ctx, contract.QueryStatus, func() (contract.MigrateStatus, error) { return m.status(), nil }),
		workflow.SetUpdateHandlerWithOptions(ctx, contract.UpdatePlanned, m.planned,
			workflow.UpdateHandlerOptions{Description: "waits until the migration begins and returns its plan"}),
		orders.Answer(ctx, contract.UpdateApprove, "approves the evidence of the first node", m.mayApprove, m.approve),
		orders.Take(ctx, contract.UpdateReject, "ends the migration at its gate; everything goes back to Canal", m.mayReject, m.reject),
		orders.Take(ctx, contract.UpdatePause, "begins no node and no step until resumed", m.mayPause, m.pause),
		orders.Take(ctx, contract.UpdateResume, "goes on after a pause, or after it has stopped", m.mayResume, m.resume),
		orders.Take(ctx, contract.UpdateAbort, "ends the migration; everything goes back to Canal", m.mayAbort, m.abort),
	)
}

// listen takes what the children tell of their steps.
func (m *cluster) listen(ctx workflow.Context) {
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	steps := workflow.GetSignalChannel(ctx, contract.SignalStep)
	workflow.GoNamed(ctx, "steps", func(ctx workflow.Context) {
		for {
			var told contract.NodeStep
			if !steps.Receive(ctx, &told) {
				return
			}
			n := m.node(told.Node)
			if n != nil && (n.State == contract.NodeMigrating || n.State == contract.NodeRestoring) {
				n.Step = told.Step
				m.show(ctx)
			}
		}
	})
}

// planned waits until the migration is begun, or refused.
func (m *cluster) planned(ctx workflow.Context) (migration.Plan, error) {
	if err := workflow.Await(ctx, func() bool { return m.decided || m.refused != nil }); err != nil {
		return migration.Plan{}, err
	}
	if m.refused != nil {
		return migration.Plan{}, m.refused
	}
	return *m.state.Plan, nil
}

// open says why nothing can be decided any more, or why nobody can have said so.
func (m *cluster) open(d contract.Decision) error {
	if _, err := approval.Sign(nil, d); err != nil {
		return err
	}
	if m.over || terminal(m.state.State) {
		return errs.Conflict("the migration of %s is over: %s", m.in.Cluster, m.state.State)
	}
	if m.restoring || m.state.State == contract.StateRestoring {
		return errs.Conflict("the migration of %s is on its way back to Canal already: %s", m.in.Cluster, m.state.Reason)
	}
	if !m.cleaning() && (m.ending != "" || m.work.Err() != nil) {
		return errs.Conflict("the migration of %s is being ended already: %s", m.in.Cluster, m.endingLine())
	}
	return nil
}

func (m *cluster) mayApprove(d contract.Decision) error {
	if err := m.open(d); err != nil {
		return err
	}
	gate := m.state.Gate
	if gate == nil {
		return errs.Conflict("the migration of %s waits for no approval: it is %s", m.in.Cluster, m.status().State)
	}
	if _, err := approval.Seen(d, gate.Evidence); err != nil {
		return err
	}
	return named(gate, d)
}

// named refuses a decision about other evidence than that of the gate.
func named(gate *contract.MigrateGate, d contract.Decision) error {
	if strings.HasPrefix(gate.Evidence, strings.ToLower(d.Evidence)) {
		return nil
	}
	return errs.Conflict("the evidence of node %s is %s, and not %s; look at it again before deciding",
		gate.Node, call.Short(gate.Evidence), call.Short(d.Evidence))
}

// approve opens the gate, and returns it with the vote.
func (m *cluster) approve(ctx workflow.Context, d contract.Decision) contract.MigrateGate {
	gate := *m.state.Gate
	d.At, d.Evidence = workflow.Now(ctx).UTC(), gate.Evidence
	gate.Votes = append(gate.Votes, d)
	// It may not be waited for yet, in a run that has just continued as new.
	m.state.Gate, m.state.Approved = nil, true
	m.note(ctx, gate.Node, "approved by "+story.By(d.By, d.Why)+", evidence "+call.Short(d.Evidence))
	return gate
}

func (m *cluster) mayReject(d contract.Decision) error {
	if err := m.open(d); err != nil {
		return err
	}
	if m.state.Gate == nil {
		return errs.Conflict("the migration of %s waits for no approval: it is %s; abort ends it", m.in.Cluster, m.status().State)
	}
	return named(m.state.Gate, d)
}

func (m *cluster) reject(ctx workflow.Context, d contract.Decision) {
	m.end(ctx, "rejected by "+story.By(d.By, d.Why))
}

func (m *cluster) mayAbort(o contract.Order) error {
	if err := m.open(contract.Decision{By: o.By, Why: o.Why}); err != nil {
		return err
	}
	if m.cleaning() {
		return errs.Conflict("the migration of %s cannot be aborted any more: %s has begun, and what it removes is what the way back needs; it ends on Calico",
			m.in.Cluster, migration.Clean)
	}
	return nil
}

func (m *cluster) abort(ctx workflow.Context, o contract.Order) {
	m.end(ctx, "aborted by "+story.By(o.By, o.Why))
}

// end cancels the work: nodes that run put themselves back, and then the way back
// is walked.
func (m *cluster) end(ctx workflow.Context, line string) {
	m.ending = line
	m.note(ctx, "", line)
	m.cancel()
}

func (m *cluster) mayPause(o contract.Order) error {
	if err := m.open(contract.Decision{By: o.By, Why: o.Why}); err != nil {
		return err
	}
	switch {
	case m.state.Paused != nil:
		return errs.Conflict("the migration of %s is paused already, by %s", m.in.Cluster, story.By(m.state.Paused.By, m.state.Paused.Why))
	case m.state.State == contract.StateStopped:
		return errs.Conflict("the migration of %s has stopped already; resume or abort it", m.in.Cluster)
	case m.cleaning():
		return errs.Conflict("the migration of %s makes its last step, %s: there is nothing left to pause", m.in.Cluster, migration.Clean)
	}
	return nil
}

func (m *cluster) pause(ctx workflow.Context, o contract.Order) {
	o.At = workflow.Now(ctx).UTC()
	m.state.Paused = &o
	m.note(ctx, "", "paused by "+story.By(o.By, o.Why))
	m.enter(ctx, m.state.State)
}

func (m *cluster) mayResume(o contract.Order) error {
	if err := m.open(contract.Decision{By: o.By, Why: o.Why}); err != nil {
		return err
	}
	if m.state.Paused == nil && (m.state.State != contract.StateStopped || m.resumed) {
		return errs.Conflict("the migration of %s is neither paused nor stopped: it is %s", m.in.Cluster, m.status().State)
	}
	return nil
}

func (m *cluster) resume(ctx workflow.Context, o contract.Order) {
	m.state.Paused = nil
	m.resumed = m.state.State == contract.StateStopped
	m.note(ctx, "", "resumed by "+story.By(o.By, o.Why))
	m.enter(ctx, m.state.State)
}
