package options

import (
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"
)

// Bounds of an audit.
const (
	// AuditsAtOnce bounds the batches of clusters that are audited at a time.
	AuditsAtOnce = 4
	// auditEach is how long a cluster takes at most, and auditBeside how many of a batch are
	// audited at a time; see activities/audit.
	auditEach   = 45 * time.Second
	auditBeside = 8
)

// Audit suits the reading of so many clusters, with heartbeats. A cancelled one is left at
// once: it writes nothing.
func Audit(ctx workflow.Context, clusters int, summary string) workflow.Context {
	most := time.Minute + time.Duration((clusters+auditBeside-1)/auditBeside)*auditEach
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout:    most,
		ScheduleToCloseTimeout: most + 10*time.Minute,
		HeartbeatTimeout:       heartbeat,
		RetryPolicy:            retry(15 * time.Second),
		Summary:                summary,
	})
}

// Tell suits what is told to nobody who waits for it: it is tried a few times.
func Tell(ctx workflow.Context, summary string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout:    10 * time.Second,
		ScheduleToCloseTimeout: time.Minute,
		RetryPolicy:            &temporal.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 2, MaximumInterval: 5 * time.Second, MaximumAttempts: 3},
		Summary:                summary,
	})
}

// Bounds of a correction of drift.
const (
	// CorrectionLook is how often a correction that waits compares again though no audit
	// told it to.
	CorrectionLook = 12 * time.Hour
	// CorrectionTime bounds the wait until Fleet has applied a GitRepo again. With the
	// retries and the way back it is less than rancher.CorrectionLasts.
	CorrectionTime = time.Hour
)
