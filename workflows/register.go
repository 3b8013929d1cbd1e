// Package workflows registers the workflows and activities of Portcullis under
// the names that stand in histories (see contract).
package workflows

import (
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/audit"
	"portcullis.dev/portcullis/activities/deliver"
	"portcullis.dev/portcullis/activities/migrate"
	checks "portcullis.dev/portcullis/activities/preflight"
	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/activities/source"
	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/drift"
	migrations "portcullis.dev/portcullis/workflows/migrate"
	"portcullis.dev/portcullis/workflows/ops"
	"portcullis.dev/portcullis/workflows/preflight"
	"portcullis.dev/portcullis/workflows/promote"
	"portcullis.dev/portcullis/workflows/rollout"
	"portcullis.dev/portcullis/workflows/slackgate"
	"portcullis.dev/portcullis/workflows/verifyclusters"
)

// Register registers every workflow.
func Register(r worker.WorkflowRegistry) {
	for name, run := range map[string]any{
		contract.RolloutWorkflow:   rollout.Run,
		contract.PromoteWorkflow:   promote.Run,
		contract.VerifyWorkflow:    verifyclusters.Run,
		contract.PlanWorkflow:      ops.PlanRollout,
		contract.ProbeWorkflow:     ops.Probe,
		contract.InventoryWorkflow: ops.Inventory,
		contract.AgentWorkflow:     ops.Agent,
		contract.HoldWorkflow:      ops.Hold,
		contract.PreflightWorkflow: preflight.Run,

		contract.PlanMigrationWorkflow: preflight.PlanMigration,
		contract.MigrateWorkflow:       migrations.Run,
		contract.MigrateNodeWorkflow:   migrations.RunNode,

		contract.DriftWorkflow:      drift.Run,
		contract.CorrectionWorkflow: drift.Correct,

		contract.SlackWorkflow:  slackgate.Run,
		contract.NoticeWorkflow: slackgate.Notice,
	} {
		r.RegisterWorkflowWithOptions(run, workflow.RegisterOptions{Name: name})
	}
}

// Activities are the structs whose methods are registered.
type Activities struct {
	Source    *source.Activities
	Deliver   *deliver.Activities
	Verify    *verify.Activities
	Preflight *checks.Activities
	Migrate   *migrate.Activities
	Slack     *slack.Activities
	Audit     *audit.Activities
}

// RegisterActivities registers every activity, named <package>.<Method>. Exported
// methods that are no activities, such as those that hand out metrics, are
// passed over; a test makes sure that no activity is.
func RegisterActivities(r worker.ActivityRegistry, a Activities) {
	for prefix, methods := range map[string]any{"source.": a.Source, "deliver.": a.Deliver, "verify.": a.Verify, "preflight.": a.Preflight, "migrate.": a.Migrate, "audit.": a.Audit, "slack.": a.Slack} {
		r.RegisterActivityWithOptions(methods, activity.RegisterOptions{Name: prefix, SkipInvalidStructFunctions: true})
	}
}
