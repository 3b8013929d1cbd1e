package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/cmd/internal/view"
	"portcullis.dev/portcullis/workflows/contract"
)

// kind is what is started, watched and decided about: the rollouts of pipelines, or
// the migrations of clusters.
type kind struct {
	*app
	// noun is what people call one, owner what it is one of, and group the command
	// with its verbs.
	noun, owner, group string
	// workflow is its type. Its ID comes from the owner's name, which key has as well.
	workflow string
	id       func(name string) string
	key      temporal.SearchAttributeKeyKeyword
	// verb makes a command that is about the last one of an owner.
	verb func(use, short string, do func(ctx context.Context, name string) error) *cobra.Command
	// gather asks everything that is known of the last one. With waiting false the
	// activities that have not ended are left out. With an error the look has what was
	// found out until then, and its owner's name at least.
	gather func(ctx context.Context, s *session, name string, waiting bool) (view.Look, error)
	// end is nil for one that ended as it was meant to.
	end func(context.Context, *session, view.Look) error
	// approved is where the answer to an approval goes, and what it says then.
	approved func(contract.Decision) (answer any, says func() string)
	// unknown ends the line that says that there is none, and instead the one that says
	// that one runs already; NAME in it is the owner's.
	unknown, instead string
}

// The owners.
const (
	ofPipeline = "pipeline"
	ofCluster  = "cluster"
)

// tells is the command line of a verb about name.
func (k kind) tells(verb, name string) string {
	return fmt.Sprintf("%s %s %s %s", k.Program, k.group, verb, quote(name))
}

// find describes the last one.
func (k kind) find(ctx context.Context, s *session, name string) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	d, err := s.describe(ctx, k.id(name))
	if gone(err) {
		return nil, errs.NotFound("no %s of %s is known to Temporal at %s%s", k.noun, name, s.settings.Address, k.unknown)
	}
	return d, err
}

// beginning is what Temporal is told of one that starts.
type beginning struct {
	name             string
	summary, details string
	state            contract.State
	input            any
}

// begin starts one. Where one runs already, the error is a WorkflowExecutionAlreadyStarted.
func (k kind) begin(ctx context.Context, s *session, b beginning) (client.WorkflowRun, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return s.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID:                                       k.id(b.name),
		TaskQueue:                                s.settings.TaskQueue,
		WorkflowIDReusePolicy:                    enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		WorkflowIDConflictPolicy:                 enumspb.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
		StaticSummary:                            view.Cut(b.summary, 190),
		StaticDetails:                            b.details,
		TypedSearchAttributes: temporal.NewSearchAttributes(
			k.key.ValueSet(b.name), contract.AttrState.ValueSet(string(b.state)),
		),
	}, k.workflow, b.input)
}

// running tells from the error of begin that one runs already.
func running(err error) bool {
	var already *serviceerror.WorkflowExecutionAlreadyStarted
	return errors.As(err, &already)
}

// gone tells that there is none, or that it had ended before it could be told anything.
func gone(err error) bool {
	var absent *serviceerror.NotFound
	return errors.As(err, &absent)
}

// refused names the one that runs.
func (k kind) refused(ctx context.Context, s *session, name string) error {
	instead := strings.ReplaceAll(k.instead, "NAME", name)
	l, err := k.gather(ctx, s, name, false)
	if err != nil {
		return errs.Conflict("a %s of %s runs already: %s", k.noun, name, instead)
	}
	r := l.Shared()
	what := []string{"run " + r.RunID}
	if c := r.Revision(); c != "" {
		what = append(what, "revision "+view.Short(c))
	}
	if r.State != "" {
		what = append(what, string(r.State))
	}
	if r.StartedBy != "" {
		what = append(what, "started by "+r.StartedBy)
	}
	if !r.StartedAt.IsZero() {
		what = append(what, view.Ago(k.Now().Sub(r.StartedAt))+" ago")
	}
	return errs.Conflict("a %s of %s runs already (%s): %s", k.noun, name, strings.Join(what, ", "), instead)
}

// planned waits, for limit at most, for the plan, or for the error that ended the
// workflow instead.
func (s *session) planned(ctx context.Context, run client.WorkflowRun, limit time.Duration, plan any) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := s.attended(ctx, run, func(ctx context.Context) error {
		handle, err := s.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{
			WorkflowID: run.GetID(), RunID: run.GetRunID(),
			UpdateName: contract.UpdatePlanned, WaitForStage: client.WorkflowUpdateStageCompleted,
		})
		if err != nil {
			return err
		}
		return handle.Get(ctx, plan)
	})
	if err == nil || errs.TypeOf(err) != "" {
		return err
	}
	return s.ownError(ctx, run, err)
}

// ownError prefers the error that the workflow ended with over what became of a
// message to it.
func (s *session) ownError(ctx context.Context, run client.WorkflowRun, err error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	d, derr := s.DescribeWorkflowExecution(ctx, run.GetID(), run.GetRunID())
	if derr != nil || d.GetWorkflowExecutionInfo().GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		return err
	}
	// What the results of all kinds have.
	var result struct {
		Mode   contract.Mode  `json:"mode"`
		State  contract.State `json:"state"`
		Reason string         `json:"reason"`
	}
	if werr := s.GetWorkflow(ctx, run.GetID(), run.GetRunID()).Get(ctx, &result); werr != nil {
		return werr
	}
	return verdict(result.Mode, result.State, result.Reason)
}
