package migrate

import (
	"cmp"
	"slices"

	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/workflows/call"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/story"
)

// back walks the way back: the steps of the completion, the nodes in reverse
// order, and the steps of the preparation. Cancellation does not reach it. The error
// is only ever a continue-as-new.
func (m *cluster) back(ctx workflow.Context) error {
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	if m.state.Reason == "" || m.ending != "" || m.work.Err() != nil {
		if m.state.State != contract.StateRestoring {
			m.state.Reason = m.endingLine()
		}
	}
	m.restoring, m.state.Paused, m.state.Gate = true, nil, nil
	if m.state.State != contract.StateRestoring {
		m.note(ctx, "", "goes back: "+m.state.Reason)
	}
	m.enter(ctx, contract.StateRestoring)
	m.undo(ctx, migration.Completion())
	if err := m.restore(ctx); err != nil {
		return err
	}
	m.undo(ctx, migration.Preparation())
	if err := m.compare(ctx, ctx); err != nil {
		m.state.Reason = join(m.state.Reason, "after the way back: "+story.Reason(err))
	}
	m.state.State = contract.StateOriginal
	return nil
}

// restore takes the nodes that have left Canal back to it, the last first; those of
// the control plane one by one, and the others as many at a time as they went.
func (m *cluster) restore(ctx workflow.Context) error {
	m.review(ctx)
	atOnce := max(m.in.Options.Parallel, 1)
	for _, name := range m.wayBack() {
		n := m.node(name)
		free := func() bool { return m.running == 0 || m.running < atOnce && !m.alone && !n.ControlPlane }
		if err := workflow.Await(ctx, free); err != nil {
			m.log.Warn("a place was not waited for", "error", err)
		}
		if m.mayContinueAsNew(ctx) {
			m.settle(ctx)
			return m.continueAsNew(ctx)
		}
		m.restoreNode(ctx, n)
	}
	m.settle(ctx)
	return nil
}

// review lists the nodes before they are taken back. One that is gone is forgotten: a
// way back to it would never end. One that joined late, and has Calico, goes back with
// the others; one that was made anew has Canal.
func (m *cluster) review(ctx workflow.Context) {
	if !slices.Contains(m.state.Steps, migration.Split) {
		return
	}
	persist(ctx, "list the nodes", func(line string) { m.note(ctx, "", line) }, func() error {
		found, err := call.Nodes(ctx, m.state.Cluster)
		if err != nil {
			return err
		}
		m.drop(ctx, found)
		for _, f := range found {
			m.join(ctx, f)
			if n := m.node(f.Name); f.CNI == calico && (n.State == contract.NodePending || n.State == contract.NodeCanal) {
				n.State = contract.NodeCalico
			}
		}
		return nil
	})
}

// wayBack names the nodes that are not on Canal for sure, the last that moved first.
func (m *cluster) wayBack() []string {
	var moved []contract.NodeState
	for _, n := range m.state.Nodes {
		if n.Lost || n.State != contract.NodePending && n.State != contract.NodeCanal {
			moved = append(moved, n)
		}
	}
	slices.Reverse(moved)
	slices.SortStableFunc(moved, func(a, b contract.NodeState) int {
		return cmp.Compare(b.FinishedAt.UnixNano(), a.FinishedAt.UnixNano())
	})
	names := make([]string, len(moved))
	for i, n := range moved {
		names[i] = n.Name
	}
	return names
}

// restoreNode starts the way back of a node, which is tried until it is walked.
func (m *cluster) restoreNode(ctx workflow.Context, n *contract.NodeState) {
	n.State, n.Step = contract.NodeRestoring, ""
	in, name := m.child(n), n.Name
	in.Back = true
	m.running++
	m.alone = n.ControlPlane
	m.note(ctx, name, "goes back to Canal")
	workflow.GoNamed(ctx, "restore "+name, func(ctx workflow.Context) {
		var result contract.MigrateNodeResult
		persist(ctx, "take it back to Canal", func(line string) { m.note(ctx, name, line) }, func() (err error) {
			result, err = m.execute(ctx, in)
			return err
		})
		if n := m.node(name); n != nil {
			n.State, n.Step, n.FinishedAt, n.Evidence = contract.NodeCanal, "", workflow.Now(ctx).UTC(), result.Evidence
			n.Reason, n.Lost = result.Reason, false
		}
		m.running--
		m.alone = false
		m.ended++
		m.note(ctx, name, "is back on Canal")
	})
}
