package cli

import (
	"context"
	"strings"

	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/cmd/internal/view"
	"portcullis.dev/portcullis/workflows/contract"
)

// gatherMigration asks the workflow, and what of it and of its nodes has not ended.
func (a *app) gatherMigration(ctx context.Context, s *session, cluster string, waiting bool) (view.Look, error) {
	id := contract.MigrateID(cluster)
	m := view.Migration{WorkflowID: id, Name: cluster}
	d, err := a.migrations().find(ctx, s, cluster)
	if err != nil {
		return m, err
	}
	info := d.GetWorkflowExecutionInfo()
	m.RunID, m.StartedAt = info.GetExecution().GetRunId(), info.GetStartTime().AsTime()
	m.Running = info.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING
	if !m.Running {
		err := s.migrationEnding(ctx, info, &m)
		return m, err
	}
	if err := s.ask(ctx, id, &m.MigrateStatus); err != nil {
		if ctx.Err() != nil {
			return m, ctx.Err()
		}
		m.State, m.Unanswered = stateAttribute(info), s.silence(ctx, err)
	}
	if m.StartedAt.IsZero() {
		m.StartedAt = info.GetStartTime().AsTime()
	}
	// What was measured is compressed data, and of no use to people.
	m.Baseline = nil
	if waiting {
		node := func(child string) string { return strings.TrimPrefix(child, contract.MigrateNodeID(cluster, "")) }
		m.Waiting = stepsOf(s.waitingIn(ctx, d, node))
	}
	return m, nil
}

// migrationEnding reads how a migration ended, from its result.
func (s *session) migrationEnding(ctx context.Context, info *workflowpb.WorkflowExecutionInfo, m *view.Migration) error {
	m.FinishedAt = info.GetCloseTime().AsTime()
	var result contract.MigrateResult
	failure, err := s.ended(ctx, info, &result)
	if failure != nil {
		m.State, m.Reason = closedState(info.GetStatus()), errs.Message(failure)
	}
	if failure != nil || err != nil {
		return err
	}
	m.State, m.Reason, m.Proven = result.State, result.Reason, result.Proven
	m.Nodes, m.Log = result.Nodes, result.Log
	if !result.StartedAt.IsZero() {
		m.StartedAt = result.StartedAt
	}
	return nil
}

// stepsOf names the activities that make steps by what they do.
func stepsOf(list []view.Waiting) []view.Waiting {
	for i, w := range list {
		switch {
		case w.Phase == "":
		case w.Activity == "do":
			list[i].Activity = w.Phase
		case w.Activity == "undo":
			list[i].Activity = "undo " + w.Phase
		}
	}
	return list
}

// migrationEnd is nil when the cluster is on Calico, and that is proven. One that
// was refused ended with an error of its own, with its type.
func migrationEnd(ctx context.Context, s *session, l view.Look) error {
	m := l.(view.Migration)
	if m.State == contract.StateMigrated && m.Proven {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if m.State == contract.StateFailed {
		if err := s.GetWorkflow(ctx, m.WorkflowID, m.RunID).Get(ctx, nil); err != nil {
			return err
		}
	}
	return notPassed{m.State, m.Reason}
}
