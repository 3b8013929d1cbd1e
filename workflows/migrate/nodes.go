package migrate

import (
	"fmt"
	"slices"
	"strings"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/migrate"
	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/workflows/call"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/options"
	"portcullis.dev/portcullis/workflows/story"
)

// move takes all nodes to Calico. Where too many fail it stops, and waits to be
// resumed or ended. The error is errBack, or a continue-as-new.
func (m *cluster) move(ctx workflow.Context) error {
	m.enter(ctx, contract.StateMigrating)
	for {
		why, err := m.round(ctx)
		if err != nil {
			return err
		}
		if why == "" {
			return nil
		}
		if err := m.stop(ctx, why); err != nil {
			return err
		}
		m.enter(ctx, contract.StateMigrating)
	}
}

// round lets nodes begin until all have moved, which is "", or it must stop: then it
// returns why. No node runs when it returns.
func (m *cluster) round(ctx workflow.Context) (string, error) {
	for {
		why, err := m.steer(ctx)
		if err == nil && why == "" {
			continue
		}
		m.settle(ctx)
		if m.work.Err() != nil {
			return "", errBack
		}
		if why == allMoved {
			// A node may have failed, or joined, while the last ones ran.
			if m.stale || m.pending() > 0 {
				continue
			}
			why = ""
		}
		return why, err
	}
}

// allMoved is what steer returns when there is nothing left to begin.
const allMoved = "all nodes have moved"

// steer takes the next decision of a round. It returns "" to be called again, why
// the round ends, or an error.
func (m *cluster) steer(ctx workflow.Context) (string, error) {
	switch {
	case m.work.Err() != nil:
		return "", errBack
	case m.stale:
		return m.reconcile(ctx)
	case m.state.Failures > m.in.Options.MaxFailures:
		// The nodes that run may fail, too, and are named then.
		m.settle(ctx)
		return m.tooMany(), nil
	case m.between() != "":
		// It is being taken back, or could not be: nothing else begins.
		m.settle(ctx)
		return m.between(), nil
	case m.mayContinueAsNew(ctx):
		// Nodes that run are waited for; with several at a time there is always one.
		if m.running > 0 {
			return "", m.oneEnds()
		}
		return "", m.continueAsNew(ctx)
	case m.running == 0 && m.gated():
		return "", m.gate(ctx)
	}
	next := m.next()
	if next != nil {
		waited, err := m.mayBegin(ctx)
		if err != nil || waited {
			return "", err
		}
		m.begin(ctx, next)
		return "", nil
	}
	if m.running > 0 {
		return "", m.oneEnds()
	}
	if m.again() {
		return "", nil
	}
	if left := m.left(); left != "" {
		return left, nil
	}
	return allMoved, nil
}

// oneEnds waits until another node has ended.
func (m *cluster) oneEnds() error {
	ended := m.ended
	return m.asBack(workflow.Await(m.work, func() bool { return m.ended != ended }))
}

// asBack turns the end of the work into errBack. A continue-as-new stays one: after
// Clean has begun it comes also when the work has ended.
func (m *cluster) asBack(err error) error {
	if err != nil && m.work.Err() != nil && !workflow.IsContinueAsNewError(err) {
		return errBack
	}
	return err
}

// settle waits until no node runs. A cancelled one puts itself back first.
func (m *cluster) settle(ctx workflow.Context) {
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	if err := workflow.Await(ctx, func() bool { return m.running == 0 }); err != nil {
		m.log.Warn("the nodes that run were not waited for", "error", err)
	}
}

// next is the node that may begin now, or nil. A node of the control plane moves
// alone, and one that was lost before all others.
func (m *cluster) next() *contract.NodeState {
	for i := range m.state.Nodes {
		if n := &m.state.Nodes[i]; n.Lost && n.State == contract.NodePending {
			if m.running > 0 {
				return nil
			}
			return n
		}
	}
	atOnce := max(m.in.Options.Parallel, 1)
	if m.in.Options.Canary && !m.state.Approved {
		atOnce = 1
	}
	for i := range m.state.Nodes {
		n := &m.state.Nodes[i]
		switch {
		case n.State != contract.NodePending:
		case m.alone || m.running >= atOnce || n.ControlPlane && m.running > 0:
			return nil
		default:
			return n
		}
	}
	return nil
}

func (m *cluster) pending() int {
	n := 0
	for i := range m.state.Nodes {
		if m.state.Nodes[i].State == contract.NodePending {
			n++
		}
	}
	return n
}

// mayBegin waits while the migration is paused, or no window is open. After a wait
// everything may be different.
func (m *cluster) mayBegin(ctx workflow.Context) (waited bool, err error) {
	if m.state.Paused != nil {
		return true, m.asBack(m.wait(ctx, m.work, func() bool { return m.state.Paused == nil }))
	}
	return m.window(ctx)
}

// begin starts the child of a node.
func (m *cluster) begin(ctx workflow.Context, n *contract.NodeState) {
	n.State, n.Reason, n.StartedAt = contract.NodeMigrating, "", workflow.Now(ctx).UTC()
	in := m.child(n)
	m.running++
	m.alone = n.ControlPlane || n.Lost
	m.note(ctx, n.Name, "begins, "+string(n.Mode))
	workflow.GoNamed(m.work, "migrate "+in.Node, func(work workflow.Context) {
		result, err := m.execute(work, in)
		m.took(work, in.Node, result, err)
		m.fetch(work, in)
		m.running--
		m.alone = false
		m.ended++
		m.stale = true
		m.show(work)
	})
}

func (m *cluster) child(n *contract.NodeState) contract.MigrateNodeInput {
	return contract.MigrateNodeInput{
		Cluster: m.state.Cluster, Migration: m.state.Migration, Node: n.Name, Mode: n.Mode, Target: m.state.Plan.Target,
		Unknown: slices.Contains(m.in.Acknowledge, migration.AckUnknown), Requirements: m.state.Requirements, Settings: m.in.Settings, Baseline: m.state.Baseline,
	}
}

// execute runs a MigrateNode.
func (m *cluster) execute(ctx workflow.Context, in contract.MigrateNodeInput) (contract.MigrateNodeResult, error) {
	summary := in.Node + " to Calico, " + string(in.Mode)
	if in.Back {
		summary = in.Node + " back to Canal"
	}
	opts := options.Child(contract.MigrateNodeID(m.state.Cluster.Name, in.Node), summary)
	opts.TypedSearchAttributes = temporal.NewSearchAttributes(contract.AttrCluster.ValueSet(m.state.Cluster.Name))
	var out contract.MigrateNodeResult
	err := workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, opts), contract.MigrateNodeWorkflow, in).Get(ctx, &out)
	return out, err
}

// took keeps how a node ended. One that was lost (its workflow was terminated)
// is somewhere between the two.
func (m *cluster) took(ctx workflow.Context, name string, result contract.MigrateNodeResult, err error) {
	n := m.node(name)
	if n == nil {
		return
	}
	n.Step, n.FinishedAt = "", workflow.Now(ctx).UTC()
	n.Evidence, n.Own = result.Evidence, result.Own
	switch {
	case err == nil && result.CNI == calico:
		n.State, n.Reason, n.Attempts, n.Lost = contract.NodeCalico, "", 0, false
		m.state.Proven = result.Proven
		m.note(ctx, name, fmt.Sprintf("is on Calico, own time %s, evidence %s", n.Own.Round(1e6), call.Short(n.Evidence)))
		return
	case err == nil:
		n.State, n.Reason, n.Lost = contract.NodeCanal, result.Reason, false
		m.state.Proven = result.Proven
	case temporal.IsCanceledError(err):
		// Cancelled before it was started: nothing was begun this time.
		n.State, n.Reason = contract.NodePending, ""
		return
	default:
		n.State, n.Reason, n.Lost = contract.NodeRestoring, "it was lost: "+story.Reason(err), true
	}
	if m.work.Err() != nil && err == nil {
		m.note(ctx, name, "was put back to Canal")
		return
	}
	n.Failures++
	n.Attempts++
	m.state.Failures++
	m.note(ctx, name, "failed: "+n.Reason)
}

// fetch takes a node that was lost back to Canal, as one that failed. Where that is
// lost, too, the migration stops; another try reaches the node, and so does the way back.
func (m *cluster) fetch(ctx workflow.Context, in contract.MigrateNodeInput) {
	n := m.node(in.Node)
	if n == nil || !n.Lost || n.State != contract.NodeRestoring {
		return
	}
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	in.Back = true
	m.note(ctx, in.Node, "goes back to Canal")
	result, err := m.execute(ctx, in)
	if n = m.node(in.Node); n == nil {
		return
	}
	n.Step, n.FinishedAt, n.Evidence = "", workflow.Now(ctx).UTC(), result.Evidence
	if err != nil {
		n.Reason = join(n.Reason, "its way back was lost, too: "+story.Reason(err))
		m.note(ctx, in.Node, n.Reason)
		return
	}
	n.State, n.Lost = contract.NodeCanal, false
	if result.Reason != "" {
		n.Reason = join(n.Reason, result.Reason)
	}
	m.state.Proven = result.Proven
	m.note(ctx, in.Node, "is back on Canal")
}

// between names a node that was lost and is not back on Canal, with why, or is "".
func (m *cluster) between() string {
	for _, n := range m.state.Nodes {
		if n.Lost && n.State == contract.NodeRestoring {
			return "node " + n.Name + " is between Canal and Calico: " + n.Reason
		}
	}
	return ""
}

func (m *cluster) node(name string) *contract.NodeState {
	for i := range m.state.Nodes {
		if m.state.Nodes[i].Name == name {
			return &m.state.Nodes[i]
		}
	}
	return nil
}

// again lets nodes that failed once try once more, when all others have moved.
func (m *cluster) again() bool {
	found := false
	for i := range m.state.Nodes {
		n := &m.state.Nodes[i]
		if n.State != contract.NodeCalico && n.Attempts == 1 {
			n.State, found = contract.NodePending, true
		}
	}
	return found
}

// failed are the lines of the nodes that are not on Calico for a reason.
func (m *cluster) failed() []string {
	var lines []string
	for _, n := range m.state.Nodes {
		if n.State != contract.NodeCalico && n.Reason != "" {
			lines = append(lines, n.Name+": "+n.Reason)
		}
	}
	return lines
}

func (m *cluster) tooMany() string {
	return fmt.Sprintf("%s, and at most %d may: %s", failures(m.state.Failures), m.in.Options.MaxFailures, story.Some(m.failed(), 3))
}

func failures(n int) string {
	if n == 1 {
		return "a node failed"
	}
	return fmt.Sprintf("nodes failed %d times", n)
}

// left says which nodes could not be moved.
func (m *cluster) left() string {
	lines := m.failed()
	if len(lines) == 0 {
		return ""
	}
	return story.Count(len(lines), "node") + " could not be moved: " + story.Some(lines, 3)
}

// reconcile takes up the nodes that joined, and drops those that are gone. It
// returns why the round must end, or "".
func (m *cluster) reconcile(ctx workflow.Context) (string, error) {
	m.stale = false
	found, err := call.Nodes(m.work, m.state.Cluster)
	if m.work.Err() != nil {
		return "", errBack
	}
	if err != nil {
		m.stale = true
		return join(strings.Join(m.failed(), "; "), "the nodes could not be listed: "+story.Reason(err)), nil
	}
	m.drop(ctx, found)
	for _, f := range found {
		m.join(ctx, f)
	}
	return "", nil
}

// drop forgets nodes that are gone, but for those that run: they end themselves.
func (m *cluster) drop(ctx workflow.Context, found []migrate.Node) {
	m.state.Nodes = slices.DeleteFunc(slices.Clone(m.state.Nodes), func(n contract.NodeState) bool {
		there := slices.ContainsFunc(found, func(f migrate.Node) bool { return f.Name == n.Name })
		if there || n.State == contract.NodeMigrating {
			return false
		}
		if n.Failures > 0 && n.State != contract.NodeCalico {
			// What failed was the node, and not the migration.
			m.state.Failures = max(0, m.state.Failures-n.Attempts)
		}
		m.note(ctx, n.Name, "is gone from the cluster, and left out")
		return true
	})
}

// join takes up a node that was not there. Workers go before the control plane.
// One of the same name that was made anew begins again.
func (m *cluster) join(ctx workflow.Context, f migrate.Node) {
	state := contract.NodePending
	if f.CNI == calico {
		state = contract.NodeCalico
	}
	if n := m.node(f.Name); n != nil {
		if n.State == contract.NodeCalico && state == contract.NodePending {
			n.State = contract.NodePending
			m.note(ctx, f.Name, "is on Canal again, as if it had joined anew")
		}
		return
	}
	n := contract.NodeState{Name: f.Name, ControlPlane: f.ControlPlane, Mode: m.mode(), State: state}
	m.note(ctx, f.Name, "has joined the cluster, with "+f.CNI)
	at := len(m.state.Nodes)
	if !n.ControlPlane {
		if first := slices.IndexFunc(m.state.Nodes, func(o contract.NodeState) bool {
			return o.ControlPlane && o.State == contract.NodePending
		}); first >= 0 {
			at = first
		}
	}
	m.state.Nodes = slices.Insert(m.state.Nodes, at, n)
}
