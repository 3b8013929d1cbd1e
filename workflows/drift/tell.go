package drift

import (
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/workflows/call"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/options"
	"portcullis.dev/portcullis/workflows/slackgate"
)

// changeTells brought Slack and corrections to scheduled audits.
const changeTells = "drift-tells-20261124"

// tell says in Slack what a scheduled audit has found that the one before had not, and
// begins the correction of it, where the pipeline wants that. Both go on by themselves:
// nothing that is away holds the audit up.
func (a *auditing) tell(ctx workflow.Context, before last) {
	spec := a.in.Pipeline.Spec
	corrects := spec.Drift != nil && spec.Drift.Correct != nil
	// Who audits by hand reads the report.
	if a.in.StartedBy != contract.StartedBySchedule || spec.Slack == nil && !corrects {
		return
	}
	if workflow.GetVersion(ctx, changeTells, workflow.DefaultVersion, 1) == workflow.DefaultVersion {
		return
	}
	first := a.result.Since.IsZero()
	if spec.Slack != nil && (a.result.Changed || first && a.result.State != contract.StateClean) {
		a.notice(ctx, before)
	}
	if corrects && (a.result.Changed || first && a.fix.Findings > 0) {
		a.correct(ctx)
	}
}

// notice starts what says it.
func (a *auditing) notice(ctx workflow.Context, before last) {
	r, links := &a.result, a.in.Pipeline.Spec.Slack.Links
	info := workflow.GetInfo(ctx)
	in := contract.NoticeInput{Pipeline: a.name, Channel: a.in.Pipeline.Spec.Slack.Channel, Lines: slack.AuditLines(slack.Audit{
		Pipeline: a.name, State: string(r.State), Reason: r.Reason, Clusters: a.status.Total, Briefs: a.briefs, Findings: r.Drifts(),
		Since: before.FinishedAt, SinceState: string(before.State), SinceReason: before.Reason,
		Temporal: slackgate.Address(links.Temporal, info.Namespace, info.WorkflowExecution.ID, info.WorkflowExecution.RunID),
	})}
	opts := options.AbandonedChild(contract.NoticeID(a.name, call.Short(info.WorkflowExecution.RunID)), "say in Slack what the audit of "+a.name+" found")
	a.begin(ctx, opts, contract.NoticeWorkflow, in)
}

// correct begins a correction, or has the one that waits already look again.
func (a *auditing) correct(ctx workflow.Context) {
	if a.fix.Findings > 0 {
		opts := options.AbandonedChild(contract.CorrectionID(a.name), "correct the drift of "+a.name)
		in := contract.CorrectionInput{Pipeline: a.in.Pipeline, StartedBy: contract.StartedBySchedule, Via: contract.ViaTemporal}
		if a.begin(ctx, opts, contract.CorrectionWorkflow, in) {
			return
		}
	}
	// Where none waits there is nothing to tell.
	err := workflow.SignalExternalWorkflow(ctx, contract.CorrectionID(a.name), "", contract.SignalLook, call.Short(workflow.GetInfo(ctx).WorkflowExecution.RunID)).Get(ctx, nil)
	if err != nil && a.fix.Findings > 0 {
		a.log(ctx).Warn("the correction that waits was not told", "error", err)
	}
}

// begin starts a child that goes on by itself; false where it could not, or runs already.
func (a *auditing) begin(ctx workflow.Context, opts workflow.ChildWorkflowOptions, name string, in any) bool {
	opts.TypedSearchAttributes = temporal.NewSearchAttributes(contract.AttrPipeline.ValueSet(a.name))
	child := workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, opts), name, in)
	err := child.GetChildWorkflowExecution().Get(ctx, nil)
	if err != nil && !temporal.IsWorkflowExecutionAlreadyStartedError(err) {
		a.log(ctx).Warn("a workflow was not started", "workflow", opts.WorkflowID, "error", err)
	}
	return err == nil
}

func (a *auditing) log(ctx workflow.Context) log.Logger {
	return log.With(workflow.GetLogger(ctx), "pipeline", a.name)
}
