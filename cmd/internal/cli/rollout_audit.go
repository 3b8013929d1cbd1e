package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/cmd/internal/view"
	"portcullis.dev/portcullis/workflows/contract"
)

// audited is one rollout in the audit log.
type audited struct {
	RunID      string         `json:"runId"`
	Revision   string         `json:"revision,omitempty"`
	State      contract.State `json:"state,omitempty"`
	Running    bool           `json:"running"`
	StartedAt  time.Time      `json:"startedAt"`
	FinishedAt time.Time      `json:"finishedAt,omitzero"`
	contract.Audit
	// Unknown is why there are no entries, where there may have been decisions.
	Unknown string `json:"unknown,omitempty"`
}

func (a *app) rolloutAudit() *cobra.Command {
	limit := 10
	c := a.pipelineVerb("audit", "Show who decided what, how, when, why and on what evidence", func(ctx context.Context, pipeline string) error {
		if limit < 1 || limit > 1000 {
			return usagef("--limit is %d; it is from 1 to 1000", limit)
		}
		return a.withSession(ctx, func(ctx context.Context, s *session) error { return a.audit(ctx, s, pipeline, limit) })
	})
	c.Long = `Show every decision about a pipeline's rollouts, the newest rollout first: who began it, approved, rejected,
paused, resumed or aborted it, how that came, why, and on what evidence; which approvals were void, and when
gates opened. It goes back as far as Temporal keeps workflows that have ended. A decision that was refused
at once leaves no trace there: the server's log has one line for it.`
	c.Flags().IntVar(&limit, "limit", limit, "of how many rollouts at most")
	return c
}

func (a *app) audit(ctx context.Context, s *session, pipeline string, limit int) error {
	k := a.rollouts()
	runs, err := s.runs(ctx, k.query(listFlags{owner: pipeline}), limit)
	if err != nil {
		return err
	}
	if len(runs) == 0 {
		return errs.NotFound("no rollout of %s is known to Temporal at %s", pipeline, s.settings.Address)
	}
	out := make([]audited, 0, len(runs))
	for _, info := range runs {
		one := s.auditOf(ctx, k, info)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		out = append(out, one)
	}
	return a.print(map[string]any{"pipeline": pipeline, "rollouts": out}, func(w io.Writer) error { return auditText(w, pipeline, out) })
}

// auditOf reads one rollout's audit log: of one that has ended from its result, and of
// the others from what it answers.
func (s *session) auditOf(ctx context.Context, k kind, info *workflowpb.WorkflowExecutionInfo) audited {
	l := k.readListed(info)
	out := audited{RunID: l.RunID, Revision: l.Revision, State: l.State, Running: l.Running, StartedAt: l.StartedAt, FinishedAt: l.FinishedAt}
	var err error
	if info.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED {
		var result contract.RolloutResult
		var failure error
		failure, err = s.ended(ctx, info, &result)
		err = cmp.Or(err, failure)
		out.Audit, out.State = result.Audit, result.State
	} else {
		var status contract.RolloutStatus
		err = s.askRun(ctx, info.GetExecution().GetWorkflowId(), l.RunID, &status)
		out.Audit, out.State = status.Audit, cmp.Or(out.State, status.State)
	}
	switch {
	case err != nil:
		out.Unknown = errs.Message(s.explain(err))
	case len(out.Entries) == 0:
		out.Unknown = "it began under a Portcullis that kept no audit log"
	}
	return out
}

func auditText(w io.Writer, pipeline string, runs []audited) error {
	for i, r := range runs {
		sep := "\n"
		if i == 0 {
			sep = ""
		}
		revision := ""
		if r.Revision != "" {
			revision = ", revision " + view.Short(r.Revision)
		}
		if _, err := fmt.Fprintf(w, "%s%s: run %s%s, %s\n", sep, pipeline, r.RunID, revision, first(string(r.State), "not known how it is")); err != nil {
			return err
		}
		if err := entriesText(w, r); err != nil {
			return err
		}
	}
	return nil
}

func entriesText(w io.Writer, r audited) error {
	if r.Unknown != "" {
		_, err := fmt.Fprintf(w, "  not known: %s\n", view.Cut(r.Unknown, 160))
		return err
	}
	if r.Dropped > 0 {
		if _, err := fmt.Fprintf(w, "  %d older decisions are left out\n", r.Dropped); err != nil {
			return err
		}
	}
	rows := [][]string{{"  AT", "WHAT", "ENVIRONMENT", "BY", "VIA", "KNOWN BY", "EVIDENCE", "WHY"}}
	for _, e := range r.Entries {
		why := e.Why
		if e.Refused != "" {
			why = strings.TrimSpace("refused: " + e.Refused + " " + why)
		}
		rows = append(rows, []string{
			"  " + e.At.UTC().Format(time.RFC3339), e.What, dash(e.Environment), dash(view.Cut(e.By, 24)), dash(string(e.Via)), dash(string(e.Known)),
			dash(view.Short(e.Evidence)), view.Cut(why, 100),
		})
	}
	return table(w, rows)
}

func dash(text string) string { return first(text, "-") }
