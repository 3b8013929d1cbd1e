// Package options holds every time limit and retry rule of the workflows, by
// kind of work. Nothing else in workflows sets a timeout.
//
// An activity ends in one of three ways: a result; an error of a lasting type
// (errs.Invalid, errs.Failed, ...), which is never retried; or errs.Unavailable,
// which is retried until the ScheduleToClose limit here.
package options

import (
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/probes/migration"
)

// Limits of waiting inside activities, handed to them as their Timeout.
const (
	// AgentTimeout bounds the wait for node agents on all clusters of a batch.
	AgentTimeout = 5 * time.Minute
	// RestoreTimeout bounds the wait until a restored unit is live again. It is
	// longer than a settle: what broke the gate may also slow the way back.
	RestoreTimeout = 30 * time.Minute
)

// PreflightTime is how long a preflight of a large cluster takes: 500 nodes meet in
// 45 rounds of a few seconds each.
const PreflightTime = 10 * time.Minute

// UndoAgain bounds the wait after an undo that failed for good: a person may mend
// what is in its way, and then it goes on.
const UndoAgain = 10 * time.Minute

// stepTimes bound the waiting inside one attempt of a migration's step.
var stepTimes = map[migration.Step]time.Duration{
	migration.Begin:     5 * time.Minute,
	migration.Tunnels:   5 * time.Minute,
	migration.Addresses: 5 * time.Minute,
	migration.Split:     5 * time.Minute,
	migration.Check:     5 * time.Minute, // for a node that has just joined to become ready
	migration.Evict:     30 * time.Minute,
	migration.Leave:     2 * time.Minute,
	migration.Swap:      6 * time.Minute,
	migration.Uncordon:  time.Minute,
	migration.Turn:      10 * time.Minute,
	migration.Unlink:    10 * time.Minute,
	migration.Adopt:     10 * time.Minute,
	migration.Clean:     10 * time.Minute,
}

// perNode is what a step of the whole cluster gets on top for each node, and perRestart
// what Adopt gets, where Calico's manifest has calico-node restart on one node after the
// other, and Split, whose undoing has Canal's pods do so.
const (
	perNode    = 2 * time.Second
	perRestart = 20 * time.Second
)

// StepTimeout bounds a migration's step; nodes is 0 for a step of one node.
func StepTimeout(step migration.Step, nodes int) time.Duration {
	each := perNode
	if step == migration.Adopt || step == migration.Split {
		each = perRestart
	}
	return stepTimes[step] + time.Duration(nodes)*each
}

// StageTimeout bounds the wait until Fleet has computed a staged unit. Fleet's
// controllers were seen to compute four clusters a second on a busy machine.
func StageTimeout(clusters int) time.Duration {
	return 5*time.Minute + time.Duration(clusters)*time.Second
}

// How long a gate's evidence is believed.
const (
	// GateRefresh is how often a waiting gate plans and measures again.
	GateRefresh = 15 * time.Minute
	// GateFresh is how old evidence may be when the last vote arrives; older
	// evidence is measured again before the gate opens.
	GateFresh = time.Minute
	// GateRetry is the wait after evidence could not be gathered.
	GateRetry = time.Minute
)

// Bounds of fan-out and of histories.
const (
	// BatchesAtOnce bounds VerifyClusters children that run at a time, for short measurements.
	BatchesAtOnce = 10
	// ClustersAtOnce bounds clusters measured at a time in one VerifyClusters. A
	// soak is not bounded: all clusters must be watched during the same time.
	ClustersAtOnce = 25
	// RestoresAtOnce bounds units that are put back at a time.
	RestoresAtOnce = 10
	// HistoryLength is where a run continues as new even if the server does not
	// suggest it yet.
	HistoryLength = 4000
	// SoakWhilePaused is one stretch of probing while a soak that is over waits
	// for a paused rollout to be resumed.
	SoakWhilePaused = time.Hour
)

// LongHistory is true when a run is to continue as new.
func LongHistory(ctx workflow.Context) bool {
	info := workflow.GetInfo(ctx)
	return info.GetContinueAsNewSuggested() || info.GetCurrentHistoryLength() > HistoryLength
}

// heartbeat is how long a long wait may be silent. It bounds how long a killed
// daemon delays a rollout. The long activities report every few seconds.
const heartbeat = 30 * time.Second

// Read suits quick reads of the management cluster and the plan.
func Read(ctx workflow.Context, summary string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout:    time.Minute,
		ScheduleToCloseTimeout: 10 * time.Minute,
		RetryPolicy:            retry(15 * time.Second),
		Summary:                summary,
	})
}

// Ask suits a question that is worth little waiting: it is asked again later.
func Ask(ctx workflow.Context, summary string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout:    30 * time.Second,
		ScheduleToCloseTimeout: 45 * time.Second,
		RetryPolicy:            retry(5 * time.Second),
		Summary:                summary,
	})
}

// Git suits work that may have to clone a repository.
func Git(ctx workflow.Context, summary string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout:    5 * time.Minute,
		ScheduleToCloseTimeout: 15 * time.Minute,
		RetryPolicy:            retry(15 * time.Second),
		Summary:                summary,
	})
}

// Wait suits activities that wait, heartbeating, for at most timeout: stage,
// settle, ensure agent. Other sides that are down get ten minutes on top.
// A cancelled wait is waited for, so that no write of it can come after the undo.
func Wait(ctx workflow.Context, timeout time.Duration, summary string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout:    timeout + 2*time.Minute,
		ScheduleToCloseTimeout: timeout + 10*time.Minute,
		HeartbeatTimeout:       heartbeat,
		WaitForCancellation:    true,
		RetryPolicy:            retry(15 * time.Second),
		Summary:                summary,
	})
}

// Measure suits probing for about expected, with heartbeats. A cancelled
// measurement is left at once: it writes nothing.
func Measure(ctx workflow.Context, expected time.Duration, summary string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout:    expected + 10*time.Minute,
		ScheduleToCloseTimeout: expected + 20*time.Minute,
		HeartbeatTimeout:       heartbeat,
		RetryPolicy:            retry(10 * time.Second),
		Summary:                summary,
	})
}

// Write suits one quick, idempotent write on the way forward. When cancelled it
// is waited for, so that it cannot come after the undo.
func Write(ctx workflow.Context, summary string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout:    time.Minute,
		ScheduleToCloseTimeout: 15 * time.Minute,
		WaitForCancellation:    true,
		RetryPolicy:            retry(15 * time.Second),
		Summary:                summary,
	})
}

// Record suits a write that must be made in the end, for the next rollout
// relies on it: it is retried for a day, in sight of everyone.
func Record(ctx workflow.Context, summary string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout:    time.Minute,
		ScheduleToCloseTimeout: 24 * time.Hour,
		WaitForCancellation:    true,
		RetryPolicy:            retry(time.Minute),
		Summary:                summary,
	})
}

// Undo suits the way back. It is retried without end: an unreachable management
// cluster keeps it pending, visibly, rather than giving up half-way.
func Undo(ctx workflow.Context, timeout time.Duration, summary string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: timeout + 2*time.Minute,
		HeartbeatTimeout:    heartbeat,
		RetryPolicy:         retry(30 * time.Second),
		Summary:             summary,
	})
}

func retry(most time.Duration) *temporal.RetryPolicy {
	return &temporal.RetryPolicy{
		InitialInterval:    time.Second,
		BackoffCoefficient: 2,
		MaximumInterval:    most,
	}
}

// Child returns the options that all children share: the parent's cancellation
// is passed on and the way back is waited for; if the parent is terminated, the
// child is asked to end, which takes it through its own way back.
func Child(id, summary string) workflow.ChildWorkflowOptions {
	return workflow.ChildWorkflowOptions{
		WorkflowID:            id,
		WaitForCancellation:   true,
		ParentClosePolicy:     enumspb.PARENT_CLOSE_POLICY_REQUEST_CANCEL,
		WorkflowIDReusePolicy: enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		StaticSummary:         summary,
	}
}

// ReadingChild is Child for a workflow that changes nothing: one that was left
// behind by a terminated parent makes room.
func ReadingChild(id, summary string) workflow.ChildWorkflowOptions {
	o := Child(id, summary)
	//lint:ignore SA1019 its successor, the conflict policy, cannot be given for a child
	o.WorkflowIDReusePolicy = enumspb.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING //nolint:staticcheck // as above
	return o
}
