package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/converter"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/cmd/internal/view"
	"portcullis.dev/portcullis/workflows/contract"
)

// askTimeout bounds one question to a workflow. Where no daemon answers, what
// Temporal itself knows must still be shown soon.
const askTimeout = 5 * time.Second

// gatherRollout asks the workflow, its promotions, and the activities that have not ended.
func (a *app) gatherRollout(ctx context.Context, s *session, pipeline string, waiting bool) (view.Look, error) {
	id := contract.RolloutID(pipeline)
	r := view.Rollout{WorkflowID: id, RolloutStatus: contract.RolloutStatus{Pipeline: pipeline}}
	d, err := a.rollouts().find(ctx, s, pipeline)
	if err != nil {
		return r, err
	}
	info := d.GetWorkflowExecutionInfo()
	r.Audit = s.lastAudit(ctx, pipeline)
	r.RunID, r.StartedAt = info.GetExecution().GetRunId(), info.GetStartTime().AsTime()
	r.Running = info.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING
	if !r.Running {
		err := s.rolloutEnding(ctx, info, &r)
		return r, err
	}
	if err := s.ask(ctx, id, &r.RolloutStatus); err != nil {
		if ctx.Err() != nil {
			return r, ctx.Err()
		}
		r.State, r.Unanswered = stateAttribute(info), s.silence(ctx, err)
	}
	if waiting {
		r.Waiting = pendingOf(d, "")
	}
	s.promotions(ctx, &r, waiting)
	return r, nil
}

func (s *session) describe(ctx context.Context, id string) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return s.DescribeWorkflowExecution(ctx, id, "")
}

func (s *session) ask(ctx context.Context, id string, into any) error {
	return s.askRun(ctx, id, "", into)
}

// askRun asks one run, which may have ended; "" is the last.
func (s *session) askRun(ctx context.Context, id, run string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answer, err := s.QueryWorkflow(ctx, id, run, contract.QueryStatus)
	if err != nil {
		return err
	}
	return answer.Get(into)
}

// silence says why a workflow that runs does not answer.
func (s *session) silence(ctx context.Context, err error) string {
	seen, perr := s.lastPoll(ctx)
	err = s.explain(err)
	switch {
	case perr != nil:
		return errs.Message(s.explain(perr))
	case time.Since(seen) > pollerAge:
		return errs.Message(s.noServer())
	case errs.TypeOf(err) == errs.TypeUnavailable || errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("no Portcullis server answers on task queue %q; one was last seen %s ago", s.settings.TaskQueue, view.Ago(time.Since(seen)))
	default:
		return "it does not answer: " + errs.Message(err)
	}
}

func stateAttribute(info *workflowpb.WorkflowExecutionInfo) contract.State {
	return contract.State(attribute(info, contract.AttrState.GetName()))
}

func attribute(info *workflowpb.WorkflowExecutionInfo, name string) string {
	var value string
	payload := info.GetSearchAttributes().GetIndexedFields()[name]
	if payload == nil || converter.GetDefaultDataConverter().FromPayload(payload, &value) != nil {
		return ""
	}
	return value
}

// rolloutEnding reads how a rollout ended, from its result.
func (s *session) rolloutEnding(ctx context.Context, info *workflowpb.WorkflowExecutionInfo, r *view.Rollout) error {
	r.FinishedAt = info.GetCloseTime().AsTime()
	var result contract.RolloutResult
	failure, err := s.ended(ctx, info, &result)
	if failure != nil {
		r.State, r.Reason = closedState(info.GetStatus()), errs.Message(failure)
	}
	if failure != nil || err != nil {
		return err
	}
	r.State, r.Reason, r.Mode = result.State, result.Reason, result.Mode
	r.Environments, r.Log = result.Environments, result.Log
	if !result.StartedAt.IsZero() {
		r.StartedAt = result.StartedAt
	}
	r.Plan = planOf(result)
	return nil
}

// ended reads the result of a workflow that has ended, or the failure that it ended with.
func (s *session) ended(ctx context.Context, info *workflowpb.WorkflowExecutionInfo, result any) (failure, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	failure = s.GetWorkflow(ctx, info.GetExecution().GetWorkflowId(), info.GetExecution().GetRunId()).Get(ctx, result)
	if failure != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return failure, nil
}

// planOf keeps of a result what is shown of the plan: the revision.
func planOf(result contract.RolloutResult) *contract.RolloutPlan {
	if result.Revision == "" {
		return nil
	}
	p := &contract.RolloutPlan{Pipeline: result.Pipeline}
	p.Revision.Commit = result.Revision
	return p
}

func closedState(status enumspb.WorkflowExecutionStatus) contract.State {
	switch status {
	case enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED, enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED:
		return contract.StateAborted
	default:
		return contract.StateFailed
	}
}

// promotions asks the promotions that run.
func (s *session) promotions(ctx context.Context, r *view.Rollout, waiting bool) {
	r.Promotions = map[string]contract.PromoteStatus{}
	for _, e := range r.Environments {
		if e.Result != nil || e.State == contract.StatePending {
			continue
		}
		id := contract.PromoteID(r.Pipeline, e.Name)
		d, err := s.describe(ctx, id)
		// The ID also finds the promotion of an earlier rollout, while this one
		// has not begun its own.
		if err != nil || d.GetWorkflowExecutionInfo().GetStartTime().AsTime().Before(r.StartedAt) {
			continue
		}
		var p contract.PromoteStatus
		if err := s.ask(ctx, id, &p); err == nil && p.Environment != "" {
			r.Promotions[e.Name] = p
		}
		if waiting {
			r.Waiting = append(r.Waiting, s.waitingIn(ctx, d, func(string) string { return e.Name })...)
		}
	}
}

// waitingIn lists the activities of a workflow and of its children. What each is
// about comes from the child's ID, and from "" for the workflow itself.
func (s *session) waitingIn(ctx context.Context, d *workflowservice.DescribeWorkflowExecutionResponse, about func(child string) string) []view.Waiting {
	if d.GetWorkflowExecutionInfo().GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		return nil
	}
	out := pendingOf(d, about(""))
	children := d.GetPendingChildren()
	found := make([][]view.Waiting, len(children))
	var group sync.WaitGroup
	for i, c := range children {
		group.Go(func() {
			if child, err := s.describe(ctx, c.GetWorkflowId()); err == nil {
				found[i] = pendingOf(child, about(c.GetWorkflowId()))
			}
		})
	}
	group.Wait()
	for _, f := range found {
		out = append(out, f...)
	}
	return out
}

// pendingOf reads the activities of one workflow that have not ended.
func pendingOf(d *workflowservice.DescribeWorkflowExecutionResponse, environment string) []view.Waiting {
	out := make([]view.Waiting, 0, len(d.GetPendingActivities()))
	for _, p := range d.GetPendingActivities() {
		w := view.Waiting{
			Environment: environment, Activity: activityName(p.GetActivityType().GetName()), Attempt: p.GetAttempt(),
			LastFailure: innermost(p.GetLastFailure()),
		}
		if p.GetState() == enumspb.PENDING_ACTIVITY_STATE_SCHEDULED && p.GetScheduledTime() != nil {
			w.RetryAt = p.GetScheduledTime().AsTime()
		}
		readProgress(p.GetHeartbeatDetails(), &w)
		out = append(out, w)
	}
	return out
}

// activityName is deliver.Settle -> settle.
func activityName(name string) string {
	_, after, found := strings.Cut(name, ".")
	if !found {
		return name
	}
	return strings.ToLower(after[:1]) + after[1:]
}

func innermost(f *failurepb.Failure) string {
	if f == nil {
		return ""
	}
	for f.GetCause() != nil && f.GetApplicationFailureInfo() == nil {
		f = f.GetCause()
	}
	return f.GetMessage()
}

// readProgress takes what the activities' heartbeats have in common. One that
// cannot be read says nothing; the activity itself is listed all the same.
func readProgress(details *commonpb.Payloads, w *view.Waiting) {
	if len(details.GetPayloads()) == 0 {
		return
	}
	var p struct {
		Phase   string `json:"phase"`
		Cluster string `json:"cluster"`
		Ready   int    `json:"ready"`
		Passing int    `json:"passing"`
		Total   int    `json:"total"`
		Round   int    `json:"round"`
		Waiting string `json:"waiting"`
	}
	if converter.GetDefaultDataConverter().FromPayload(details.GetPayloads()[0], &p) != nil {
		return
	}
	w.Phase, w.Subject, w.Round, w.For = p.Phase, p.Cluster, p.Round, p.Waiting
	w.Done, w.Total = p.Ready+p.Passing, p.Total
}
