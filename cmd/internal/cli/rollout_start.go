package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/cmd/internal/view"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/story"
)

// startFlags are what `rollout start` and `rollout rollback` share.
type startFlags struct {
	file      string
	supersede bool
	wait      bool
}

func (a *app) rolloutStart() *cobra.Command {
	var (
		f  startFlags
		in = contract.RolloutInput{Mode: contract.ModePromote}
	)
	c := &cobra.Command{
		Use:   "start -f FILE",
		Short: "Take a revision through the pipeline's environments",
		Long: `Start a rollout, wait until it is planned, and show the plan. The rollout goes on by itself;
--wait, or rollout watch, follows it to its end.`,
		Args: cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error { return a.start(ctx, f, in) }),
	}
	addRevision(c, &in)
	addStart(c, &f)
	addBy(c.Flags(), &in.StartedBy)
	return c
}

func addStart(c *cobra.Command, f *startFlags) {
	addFile(c, &f.file)
	c.Flags().BoolVar(&f.supersede, "supersede", false, "end a rollout that runs already, in order, and then start")
	c.Flags().BoolVar(&f.wait, "wait", false, "watch until it ends, and exit with its result")
}

// start starts a rollout of either mode.
func (a *app) start(ctx context.Context, f startFlags, in contract.RolloutInput) error {
	p, err := loadPipeline(f.file)
	if err != nil {
		return err
	}
	in.Pipeline = p
	if in.StartedBy, err = a.by(in.StartedBy); err != nil {
		return err
	}
	if err := knownEnvironments(p, in.Environments); err != nil {
		return err
	}
	return a.withSession(ctx, func(ctx context.Context, s *session) error {
		run, err := a.begin(ctx, s, f, in)
		if err != nil {
			return err
		}
		return a.follow(ctx, s, f, run, in)
	})
}

func knownEnvironments(p contract.Pipeline, names []string) error {
	known := map[string]bool{}
	for _, e := range p.Spec.Environments {
		known[e.Name] = true
	}
	for _, n := range names {
		if !known[n] {
			return errs.Invalid("pipeline %s has no environment %q", p.Metadata.Name, n)
		}
	}
	return nil
}

// begin starts the workflow, after ending another one where that was asked for.
func (a *app) begin(ctx context.Context, s *session, f startFlags, in contract.RolloutInput) (client.WorkflowRun, error) {
	run, err := s.execute(ctx, in)
	var already *serviceerror.WorkflowExecutionAlreadyStarted
	if !errors.As(err, &already) {
		return run, err
	}
	if !f.supersede {
		return nil, a.refused(ctx, s, in.Pipeline.Metadata.Name)
	}
	if err := a.endOther(ctx, s, in); err != nil {
		return nil, err
	}
	// Ending the other may have rolled back and held the pipeline; who
	// supersedes has seen to that by superseding.
	in.AfterRollback = true
	run, err = s.execute(ctx, in)
	if errors.As(err, &already) {
		return nil, a.refused(ctx, s, in.Pipeline.Metadata.Name)
	}
	return run, err
}

func (s *session) execute(ctx context.Context, in contract.RolloutInput) (client.WorkflowRun, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	name := in.Pipeline.Metadata.Name
	return s.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID:                                       contract.RolloutID(name),
		TaskQueue:                                s.settings.TaskQueue,
		WorkflowIDReusePolicy:                    enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		WorkflowIDConflictPolicy:                 enumspb.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
		StaticSummary:                            summary(in),
		StaticDetails:                            details(in),
		TypedSearchAttributes: temporal.NewSearchAttributes(
			contract.AttrPipeline.ValueSet(name),
			contract.AttrState.ValueSet(string(contract.StatePlanning)),
		),
	}, contract.RolloutWorkflow, in)
}

func summary(in contract.RolloutInput) string {
	verb, ref := "roll out", first(in.Ref, in.Pipeline.Spec.Source.Branch)
	if in.Mode == contract.ModeRollback {
		verb, ref = "roll back", first(in.Ref, "the revision verified before")
	}
	return view.Cut(fmt.Sprintf("%s %s: %s", verb, in.Pipeline.Metadata.Name, ref), 190)
}

// details is Markdown for the Temporal UI.
func details(in contract.RolloutInput) string {
	var b strings.Builder
	src := in.Pipeline.Spec.Source
	fmt.Fprintf(&b, "Started by **%s**", view.Cut(in.StartedBy, 60))
	if in.Reason != "" {
		fmt.Fprintf(&b, ": %s", view.Cut(in.Reason, 200))
	}
	fmt.Fprintf(&b, "\n\n- repository `%s`, branch `%s`\n- environments:", src.Repo, src.Branch)
	for i, e := range in.Pipeline.Spec.Environments {
		sep := " →"
		if i == 0 {
			sep = ""
		}
		fmt.Fprintf(&b, "%s %s", sep, e.Name)
	}
	fmt.Fprintf(&b, "\n- %s\n", story.Count(len(in.Pipeline.Spec.Probes), "probe"))
	return b.String()
}

// refused names the rollout that runs.
func (a *app) refused(ctx context.Context, s *session, pipeline string) error {
	const how = "wait for it, end it with `portcullis rollout abort %s`, or start with --supersede"
	r, err := a.gather(ctx, s, pipeline, false)
	if err != nil {
		return errs.Conflict("a rollout of %s runs already: "+how, pipeline, pipeline)
	}
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
		what = append(what, view.Ago(a.Now().Sub(r.StartedAt))+" ago")
	}
	return errs.Conflict("a rollout of %s runs already (%s): "+how, pipeline, strings.Join(what, ", "), pipeline)
}

// endOther aborts the rollout that runs and waits until it has gone its way back.
func (a *app) endOther(ctx context.Context, s *session, in contract.RolloutInput) error {
	id := contract.RolloutID(in.Pipeline.Metadata.Name)
	a.say("a rollout of %s runs already: ending it in order", in.Pipeline.Metadata.Name)
	order := contract.Order{By: in.StartedBy, Why: "superseded by another rollout"}
	err := s.update(ctx, id, "", contract.UpdateAbort, updateLimit, order, nil)
	if err != nil && !gone(err) {
		return err
	}
	// How it ended does not matter here, only that it did.
	err = s.attended(ctx, nil, func(ctx context.Context) error { return s.GetWorkflow(ctx, id, "").Get(ctx, nil) })
	if ctx.Err() != nil || errs.TypeOf(err) == errs.TypeUnavailable {
		return err
	}
	return nil
}

// gone tells that the workflow had ended before it could be told anything.
func gone(err error) bool {
	var absent *serviceerror.NotFound
	return errors.As(err, &absent)
}

// follow shows the plan and, where asked for, watches.
func (a *app) follow(ctx context.Context, s *session, f startFlags, run client.WorkflowRun, in contract.RolloutInput) error {
	plan, err := s.planned(ctx, run)
	if err != nil {
		return err
	}
	if f.wait {
		if a.output != "json" {
			if err := a.planText(a.Stdout, plan); err != nil {
				return err
			}
		}
		return a.watch(ctx, s, in.Pipeline.Metadata.Name)
	}
	result := map[string]any{"workflowId": run.GetID(), "runId": run.GetRunID(), "plan": plan}
	return a.print(result, func(w io.Writer) error {
		if err := a.planText(w, plan); err != nil {
			return err
		}
		_, err := fmt.Fprintf(w, "\nstarted: %s, run %s\nwatch:   %s rollout watch %s\n",
			run.GetID(), run.GetRunID(), a.Program, in.Pipeline.Metadata.Name)
		return err
	})
}

// planned waits for the plan, or for the error that ended the rollout instead.
func (s *session) planned(ctx context.Context, run client.WorkflowRun) (plan contract.RolloutPlan, err error) {
	ctx, cancel := context.WithTimeout(ctx, planLimit)
	defer cancel()
	err = s.attended(ctx, run, func(ctx context.Context) error {
		handle, err := s.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{
			WorkflowID: run.GetID(), RunID: run.GetRunID(),
			UpdateName: contract.UpdatePlanned, WaitForStage: client.WorkflowUpdateStageCompleted,
		})
		if err != nil {
			return err
		}
		return handle.Get(ctx, &plan)
	})
	if err == nil || errs.TypeOf(err) == errs.TypeUnavailable {
		return plan, err
	}
	return plan, s.ownError(ctx, run, err)
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
	var result contract.RolloutResult
	if werr := s.GetWorkflow(ctx, run.GetID(), run.GetRunID()).Get(ctx, &result); werr != nil {
		return werr
	}
	if errs.TypeOf(err) != "" {
		return err
	}
	return verdict(result.Mode, result.State, result.Reason)
}

// verdict is nil when a rollout ended as it was meant to.
func verdict(mode contract.Mode, state contract.State, reason string) error {
	if state == contract.StateVerified || mode == contract.ModeRollback && state == contract.StateRolledBack {
		return nil
	}
	return notPassed{state, reason}
}

// updateLimit is how long a rollout may take to answer an order.
const updateLimit = 30 * time.Second

// say tells what happens meanwhile, to people alone.
func (a *app) say(format string, args ...any) {
	if a.output != "json" {
		_, _ = fmt.Fprintf(a.Stderr, format+"\n", args...)
	}
}
