package migrate

import (
	"slices"

	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/workflows/call"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/evidence"
)

// gated is true when the first node has moved and was not approved yet.
func (m *cluster) gated() bool { return m.in.Options.Canary && !m.state.Approved && m.canary() != nil }

func (m *cluster) canary() *contract.NodeState {
	i := slices.IndexFunc(m.state.Nodes, func(n contract.NodeState) bool {
		return n.State == contract.NodeCalico && n.Evidence != ""
	})
	if i < 0 {
		return nil
	}
	return &m.state.Nodes[i]
}

// gate waits for the approval of the first node. The error is errBack, or a
// continue-as-new.
func (m *cluster) gate(ctx workflow.Context) error {
	if m.state.Gate == nil {
		n := m.canary()
		hash, err := evidence.Hash(struct{ Cluster, Plan, Node, Evidence string }{m.state.Cluster.Name, m.state.Plan.Hash, n.Name, n.Evidence})
		if err != nil {
			return err
		}
		m.state.Gate = &contract.MigrateGate{Node: n.Name, Evidence: hash, Since: workflow.Now(ctx).UTC()}
		m.note(ctx, n.Name, "waits for an approval of evidence "+call.Short(hash))
	}
	m.enter(ctx, contract.StateApproval)
	err := m.wait(ctx, m.work, func() bool { return m.state.Approved })
	if workflow.IsContinueAsNewError(err) {
		return err
	}
	// Nodes may have come and gone while somebody thought about it.
	m.state.Gate, m.stale = nil, true
	if err == nil {
		m.enter(ctx, contract.StateMigrating)
	}
	return m.asBack(err)
}

// stop waits until a person resumes the migration, or ends it. No node runs. It
// covers a pause: one resume ends both.
func (m *cluster) stop(ctx workflow.Context, why string) error {
	m.state.Reason, m.state.Paused, m.resumed = why, nil, false
	m.note(ctx, "", "stopped: "+why)
	m.enter(ctx, contract.StateStopped)
	return m.stopped(ctx)
}

// stopped is the wait of stop; a migration that has continued as new comes here.
// Once Clean has begun there is no way back, and so nothing ends the wait.
func (m *cluster) stopped(ctx workflow.Context) error {
	work := m.work
	if m.cleaning() {
		work, _ = workflow.NewDisconnectedContext(ctx)
	}
	err := m.wait(ctx, work, func() bool { return m.resumed })
	if err != nil {
		return m.asBack(err)
	}
	m.resumed = false
	m.state.Reason, m.state.Failures, m.stale = "", 0, true
	for i := range m.state.Nodes {
		if n := &m.state.Nodes[i]; n.State != contract.NodeCalico {
			n.State, n.Attempts = contract.NodePending, 0
		}
	}
	return nil
}
