package options

import (
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"
)

// Slack suits one call of Slack. It is not retried: by the time that Slack is back
// there may be something newer to say, which the workflow decides.
func Slack(ctx workflow.Context, summary string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout:    time.Minute,
		ScheduleToCloseTimeout: 5 * time.Minute,
		RetryPolicy:            &temporal.RetryPolicy{MaximumAttempts: 1},
		Summary:                summary,
	})
}

// How a SlackGate waits.
const (
	// SlackRetry is the wait after Slack did not take something; it doubles up to SlackRetryMost.
	SlackRetry     = 5 * time.Second
	SlackRetryMost = 5 * time.Minute
	// SlackLook is how often it is seen whether the rollout still runs.
	SlackLook = 30 * time.Minute
	// SlackNextRun is how long a rollout's run that has ended is given to be followed by the next one.
	SlackNextRun = time.Minute
	// SlackGiveUp is how long after the end of a rollout Slack is still tried.
	SlackGiveUp = 24 * time.Hour
	// SlackFarewell bounds how long a rollout that is over waits for its last view
	// to be handed over. It is Temporal that is waited for, not Slack.
	SlackFarewell = 30 * time.Second
)

// SlackSoak is how often a message shows anew how far a soak of this length is: often enough
// to be looked at, and far from what Slack lets an app do.
func SlackSoak(d time.Duration) time.Duration {
	return min(max(d/20, time.Minute), 15*time.Minute).Truncate(time.Second)
}

// AbandonedChild returns the options of a child that goes on by itself.
func AbandonedChild(id, summary string) workflow.ChildWorkflowOptions {
	return workflow.ChildWorkflowOptions{
		WorkflowID:            id,
		ParentClosePolicy:     enumspb.PARENT_CLOSE_POLICY_ABANDON,
		WorkflowIDReusePolicy: enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		StaticSummary:         summary,
	}
}
