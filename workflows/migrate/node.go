package migrate

import (
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/migrate"
	checks "portcullis.dev/portcullis/activities/preflight"
	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/workflows/call"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/story"
)

// CNIs that a node can have in a result.
const (
	canal  = "canal"
	calico = "calico"
)

// RunNode is the MigrateNode workflow: one node goes to Calico, or back to Canal.
// A node that fails, or is cancelled, is put back; that is a result, never an
// error.
func RunNode(ctx workflow.Context, in contract.MigrateNodeInput) (contract.MigrateNodeResult, error) {
	n := &node{in: in, result: contract.MigrateNodeResult{Node: in.Node}}
	n.log = log.With(workflow.GetLogger(ctx), "cluster", in.Cluster.Name, "node", in.Node)
	n.wire = wire{cluster: in.Cluster, requirements: in.Requirements, settings: in.Settings, baseline: in.Baseline, subject: in.Node}
	if err := workflow.SetQueryHandler(ctx, contract.QueryStatus, func() (contract.MigrateNodeResult, error) { return n.result, nil }); err != nil {
		return n.result, err
	}
	if in.Back {
		n.begun = migration.NodeSteps(in.Mode)
		n.back(ctx, "")
		return n.result, nil
	}
	if reason := n.forward(ctx); reason != "" {
		if ctx.Err() != nil {
			reason = "it was cancelled"
		}
		n.back(ctx, reason)
	}
	return n.result, nil
}

type node struct {
	in contract.MigrateNodeInput
	// begun are the steps of which a part may have been made, in order.
	begun  []migration.Step
	wire   wire
	result contract.MigrateNodeResult
	log    log.Logger
}

// forward makes the steps, and compares the wire where one could have changed it.
// It returns why it could not, or "".
func (n *node) forward(ctx workflow.Context) string {
	for _, step := range migration.NodeSteps(n.in.Mode) {
		if ctx.Err() != nil {
			return story.Reason(ctx.Err())
		}
		n.begun = append(n.begun, step)
		n.tell(ctx, step)
		if step == migration.Check {
			if problem := n.preflight(ctx); problem != "" {
				return fmt.Sprintf("%s: %s", step, problem)
			}
		}
		done, err := call.Do(ctx, n.input(step), 0)
		if err != nil {
			return fmt.Sprintf("%s: %s", step, story.Reason(err))
		}
		// The node's own time is that of the way forward.
		n.result.Own += max(done.Took-done.Waited, 0)
		n.made(ctx, string(step), done)
		if step != migration.Swap && step != migration.Uncordon {
			continue
		}
		if n.result.Evidence, err = n.wire.compare(ctx); err != nil {
			return fmt.Sprintf("after %s: %s", step, story.Reason(err))
		}
		n.note(ctx, "the wire is as before, evidence "+call.Short(n.result.Evidence))
	}
	n.result.CNI, n.result.Proven = calico, true
	return ""
}

// nodePreflight is the change that has a node held against the checks again before it moves.
const nodePreflight = "node-preflight"

// preflight holds the node against the checks once more: much may have changed since
// the plan. It says what is in the way, or "".
func (n *node) preflight(ctx workflow.Context) string {
	if workflow.GetVersion(ctx, nodePreflight, workflow.DefaultVersion, 1) == workflow.DefaultVersion {
		return ""
	}
	report, err := call.CheckNode(ctx, checks.NodeInput{Input: checks.Input{Cluster: n.in.Cluster, Target: n.in.Target}, Node: n.in.Node})
	if err != nil {
		return "preflight: " + story.Reason(err)
	}
	n.result.Own += report.Took
	var found []string
	for _, r := range report.InTheWay(n.in.Unknown) {
		found = append(found, fmt.Sprintf("%s is %s: %s; %s", r.ID, r.Status, r.Measured, r.Remedy))
	}
	if len(found) > 0 {
		return "preflight: " + story.Some(found, namedAtMost)
	}
	n.note(ctx, fmt.Sprintf("preflight in %s: nothing is in the way", report.Took.Round(time.Millisecond)))
	return ""
}

// back undoes what was begun, last step first, and proves it. Cancellation does
// not reach it.
func (n *node) back(ctx workflow.Context, reason string) {
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	if reason != "" {
		n.note(ctx, "goes back to Canal: "+reason)
	}
	for _, step := range slices.Backward(n.begun) {
		// Check changes nothing, and what Uncordon did is what the undoing of Evict does.
		if step == migration.Check || step == migration.Uncordon {
			continue
		}
		n.tell(ctx, step)
		n.made(ctx, "undo "+string(step), undo(ctx, n.input(step), 0, func(line string) { n.note(ctx, line) }))
	}
	n.result.CNI, n.result.Reason = canal, reason
	var err error
	if n.result.Evidence, err = n.wire.compare(ctx); err != nil {
		n.note(ctx, "back on Canal: "+story.Reason(err))
		n.result.Reason = join(reason, "after it was put back: "+story.Reason(err))
		return
	}
	n.result.Proven = true
	n.note(ctx, "back on Canal, the wire is as before")
}

func join(reason, more string) string {
	if reason == "" {
		return more
	}
	return reason + "; " + more
}

func (n *node) input(step migration.Step) migrate.StepInput {
	return migrate.StepInput{
		Cluster: n.in.Cluster, Migration: n.in.Migration, Node: n.in.Node, Step: step, Target: n.in.Target,
	}
}

func (n *node) made(ctx workflow.Context, what string, done migrate.StepResult) {
	n.note(ctx, fmt.Sprintf("%s in %s: %s", what, done.Took.Round(time.Millisecond), changes(done)))
}

// tell shows the step in the migration of the cluster. One that cannot be told, as
// it has ended or was terminated, need not know.
func (n *node) tell(ctx workflow.Context, step migration.Step) {
	parent := workflow.GetInfo(ctx).ParentWorkflowExecution
	if parent == nil {
		return
	}
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	told := workflow.SignalExternalWorkflow(ctx, parent.ID, "", contract.SignalStep, contract.NodeStep{Node: n.in.Node, Step: step})
	if err := told.Get(ctx, nil); err != nil {
		n.log.Warn("the step was not told", "step", step, "error", err)
	}
}

func (n *node) note(ctx workflow.Context, message string) {
	n.log.Info(message)
	n.result.Log = story.Append(n.result.Log, workflow.Now(ctx), n.in.Node, message)
	workflow.SetCurrentDetails(ctx, story.Node(n.result))
}
