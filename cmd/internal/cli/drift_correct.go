package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/cmd/internal/view"
	"portcullis.dev/portcullis/workflows/contract"
)

func (a *app) driftCorrect() *cobra.Command {
	return group(&cobra.Command{
		Use:   "correct",
		Short: "Have Fleet put right what an audit found, once people have approved it",
		Long: `A correction has Fleet apply the verified revision again, by force, to every GitRepo that has drifted: what is
missing is made again, what was changed is replaced. What Fleet does not have (extra policies, settings of
Felix) is told and never touched. It waits for the approvals of spec.drift.correct, and compares anew afterwards.`,
	}, a.correctStart(), a.correctStatus(),
		a.correctDecision(contract.UpdateApprove, "Approve the correction of exactly what was found", "approved"),
		a.correctDecision(contract.UpdateReject, "Leave what was found as it is", "rejected"))
}

func (a *app) correctStart() *cobra.Command {
	var file, by string
	c := &cobra.Command{
		Use:   "start PIPELINE | -f FILE",
		Short: "Compare now, and ask for the approval of what Fleet can put right",
		Long: `Begin a correction without waiting for the next audit of the schedule. With a name, the pipeline is what its
schedule has; with --file, what the file says. It does not wait: drift correct status shows what was found.`,
		Args: cobra.MaximumNArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			who, known, err := a.by(by)
			if err != nil {
				return err
			}
			return a.withSession(ctx, func(ctx context.Context, s *session) error {
				audit, err := a.audited(ctx, s, file, args)
				if err != nil {
					return err
				}
				return a.startCorrection(ctx, s, contract.CorrectionInput{Pipeline: audit.Pipeline, StartedBy: who, Via: contract.ViaCLI, Known: known})
			})
		}),
	}
	addFile(c, &file)
	addBy(c.Flags(), &by)
	return c
}

func (a *app) startCorrection(ctx context.Context, s *session, in contract.CorrectionInput) error {
	name := in.Pipeline.Metadata.Name
	if d := in.Pipeline.Spec.Drift; d == nil || d.Correct == nil {
		return errs.Invalid("pipeline %s has no spec.drift.correct: say there how many must approve a correction", name)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	run, err := s.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: contract.CorrectionID(name), TaskQueue: s.settings.TaskQueue,
		WorkflowIDConflictPolicy:                 enumspb.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
		StaticSummary:                            view.Cut("correct the drift of "+name, 190),
		TypedSearchAttributes: temporal.NewSearchAttributes(
			contract.AttrPipeline.ValueSet(name), contract.AttrState.ValueSet(string(contract.StateComparing)),
		),
	}, contract.CorrectionWorkflow, in)
	if running(err) {
		return errs.Conflict("a correction of %s runs already: `%s drift correct status %s` shows it", name, a.Program, quote(name))
	}
	if err != nil {
		return err
	}
	return a.print(map[string]any{"pipeline": name, "workflowId": run.GetID(), "runId": run.GetRunID()}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s: comparing; `%s drift correct status %s` shows what was found\n", run.GetID(), a.Program, quote(name))
		return err
	})
}

func (a *app) correctStatus() *cobra.Command {
	return a.pipelineVerb("status", "Show the last correction: what it is about, who approved, and what came of it", func(ctx context.Context, pipeline string) error {
		return a.withSession(ctx, func(ctx context.Context, s *session) error {
			status, err := s.correction(ctx, pipeline)
			if err != nil {
				return err
			}
			return a.print(status, func(w io.Writer) error { return a.correctionText(w, status) })
		})
	})
}

// correction reads the last correction of a pipeline: its answer while it runs, and its
// result afterwards.
func (s *session) correction(ctx context.Context, pipeline string) (out contract.CorrectionStatus, err error) {
	id := contract.CorrectionID(pipeline)
	d, err := s.describe(ctx, id)
	if gone(err) {
		return out, errs.NotFound("no correction of %s is known to Temporal at %s", pipeline, s.settings.Address)
	}
	if err != nil {
		return out, err
	}
	info := d.GetWorkflowExecutionInfo()
	if info.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		return out, s.attended(ctx, nil, func(ctx context.Context) error {
			return s.askRun(ctx, id, info.GetExecution().GetRunId(), &out)
		})
	}
	failure, err := s.ended(ctx, info, &out)
	if failure != nil && err == nil {
		out = contract.CorrectionStatus{Pipeline: pipeline, FinishedAt: info.GetCloseTime().AsTime()}
		out.State, out.Reason = closedState(info.GetStatus()), errs.Message(s.explain(failure))
	}
	return out, err
}

func (a *app) correctionText(w io.Writer, s contract.CorrectionStatus) error {
	head := s.Pipeline + ": " + string(s.State)
	if s.Reason != "" {
		head += ": " + s.Reason
	}
	if !s.StartedAt.IsZero() {
		head += fmt.Sprintf(" (started by %s at %s)", view.Cut(s.StartedBy, 60), s.StartedAt.UTC().Format(time.RFC3339))
	}
	lines := []string{head}
	for _, u := range s.Units {
		line := fmt.Sprintf("  %s: GitRepo %s, %d to put right on %s: %s", u.Environment, u.GitRepo, u.Fix.Findings, view.Cut(strings.Join(u.Fix.Clusters, ", "), 80), u.State)
		if u.Reason != "" {
			line += ": " + u.Reason
		}
		lines = append(lines, line)
	}
	for _, b := range s.Briefs {
		lines = append(lines, "  "+briefText(b.Cluster, string(b.Category), b.Kind, b.Namespace, b.Name, b.Correctable))
	}
	if s.Left > 0 {
		lines = append(lines, fmt.Sprintf("  %d that Fleet cannot put right stay as they are; `%s drift report %s` shows all", s.Left, a.Program, quote(s.Pipeline)))
	}
	if g := s.Gate; g != nil {
		lines = append(lines, gateText(a.Program, s.Pipeline, *g)...)
	}
	if s.Slack != nil {
		lines = append(lines, "  Slack does not show this since "+s.Slack.Behind.UTC().Format(time.RFC3339)+": "+s.Slack.Reason)
	}
	for _, l := range s.Log {
		lines = append(lines, "  "+l.At.UTC().Format(time.RFC3339)+" "+l.Message)
	}
	_, err := fmt.Fprintln(w, strings.Join(lines, "\n"))
	return err
}

func briefText(cluster, category, kind, namespace, name string, correctable bool) string {
	if namespace != "" {
		name = namespace + "/" + name
	}
	s := fmt.Sprintf("%-8s %s %s", category, kind, name)
	if cluster != "" {
		s += " on " + cluster
	}
	if !correctable {
		s += " (stays)"
	}
	return s
}

func gateText(program, pipeline string, g contract.GateState) []string {
	lines := []string{fmt.Sprintf("  waits for %d of %d approvals of evidence %s", max(g.Required-len(g.Votes), 0), g.Required, view.Short(g.Evidence.Hash))}
	if !g.Deadline.IsZero() {
		lines[0] += ", until " + g.Deadline.UTC().Format(time.RFC3339)
	}
	for _, v := range g.Votes {
		lines = append(lines, "  approved by "+v.By+" at "+v.At.UTC().Format(time.RFC3339))
	}
	return append(lines, fmt.Sprintf("  %s drift correct approve %s --evidence %s", program, quote(pipeline), view.Short(g.Evidence.Hash)))
}

func (a *app) correctDecision(update, short, done string) *cobra.Command {
	d := contract.Decision{Environment: contract.GateCorrection, Via: contract.ViaCLI}
	c := a.pipelineVerb(update, short, func(ctx context.Context, pipeline string) (err error) {
		if d.By, d.Known, err = a.by(d.By); err != nil {
			return err
		}
		status := a.Program + " drift correct status " + quote(pipeline)
		if update == contract.UpdateApprove && d.Evidence == "" {
			return usagef("say which evidence you approve with --evidence; `%s` shows it", status)
		}
		return a.withSession(ctx, func(ctx context.Context, s *session) error {
			return a.decideCorrection(ctx, s, pipeline, update, status, done, d)
		})
	})
	c.Flags().StringVar(&d.Evidence, "evidence", "", "hash of the evidence, as drift correct status shows it")
	addBy(c.Flags(), &d.By)
	c.Flags().StringVar(&d.Why, "why", "", "the reason, kept with the correction")
	return c
}

func (a *app) decideCorrection(ctx context.Context, s *session, pipeline, update, status, done string, d contract.Decision) error {
	var gate contract.GateState
	answer := any(nil)
	if update == contract.UpdateApprove {
		answer = &gate
	}
	err := s.order(ctx, contract.CorrectionID(pipeline), update, status, d, answer)
	if gone(err) {
		last, lerr := s.correction(ctx, pipeline)
		if lerr != nil {
			return lerr
		}
		return errs.Late("the correction of %s is over since %s: %s", pipeline, last.FinishedAt.UTC().Format(time.RFC3339), last.State)
	}
	if err != nil {
		return err
	}
	if answer != nil {
		done = fmt.Sprintf("%s, %d of %d approvals", done, len(gate.Votes), gate.Required)
	}
	return a.print(map[string]any{"pipeline": pipeline, "decision": update, "by": d.By, "approvals": len(gate.Votes)}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s: %s\n", pipeline, done)
		return err
	})
}
