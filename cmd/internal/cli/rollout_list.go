package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"

	"portcullis.dev/portcullis/cmd/internal/view"
	"portcullis.dev/portcullis/workflows/contract"
)

// listed is one rollout in the list.
type listed struct {
	Pipeline   string         `json:"pipeline"`
	State      contract.State `json:"state"`
	Revision   string         `json:"revision,omitempty"`
	Running    bool           `json:"running"`
	StartedAt  time.Time      `json:"startedAt"`
	FinishedAt time.Time      `json:"finishedAt,omitzero"`
	RunID      string         `json:"runId"`
}

type listFlags struct {
	pipeline string
	running  bool
	limit    int
}

func (a *app) rolloutList() *cobra.Command {
	var f listFlags
	c := &cobra.Command{
		Use:   "list",
		Short: "List rollouts, the newest first",
		Args:  cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			if f.limit < 1 || f.limit > 1000 {
				return usagef("--limit is %d; it is from 1 to 1000", f.limit)
			}
			return a.withSession(ctx, func(ctx context.Context, s *session) error { return a.list(ctx, s, f) })
		}),
	}
	c.Flags().StringVar(&f.pipeline, "pipeline", "", "only this pipeline's")
	c.Flags().BoolVar(&f.running, "running", false, "only those that run")
	c.Flags().IntVar(&f.limit, "limit", 20, "how many at most")
	return c
}

func (a *app) list(ctx context.Context, s *session, f listFlags) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	page, err := s.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
		Namespace: s.settings.Namespace, PageSize: int32(f.limit), Query: f.query(),
	})
	if err != nil {
		return err
	}
	rollouts := make([]listed, 0, len(page.GetExecutions()))
	for _, e := range page.GetExecutions() {
		rollouts = append(rollouts, readListed(e))
	}
	return a.print(map[string]any{"rollouts": rollouts}, func(w io.Writer) error { return a.listTable(w, rollouts) })
}

// query is for Temporal's index.
func (f listFlags) query() string {
	// A run that continued as new is the same rollout's earlier part.
	terms := []string{
		fmt.Sprintf("WorkflowType = '%s'", contract.RolloutWorkflow),
		"ExecutionStatus != 'ContinuedAsNew'",
	}
	if f.pipeline != "" {
		terms = append(terms, fmt.Sprintf("%s = '%s'", contract.AttrPipeline.GetName(), strings.ReplaceAll(f.pipeline, "'", "''")))
	}
	if f.running {
		terms = append(terms, "ExecutionStatus = 'Running'")
	}
	return strings.Join(terms, " AND ")
}

func readListed(e *workflowpb.WorkflowExecutionInfo) listed {
	l := listed{
		Pipeline:  attribute(e, contract.AttrPipeline.GetName()),
		State:     stateAttribute(e),
		Revision:  attribute(e, contract.AttrRevision.GetName()),
		Running:   e.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING,
		StartedAt: e.GetStartTime().AsTime(),
		RunID:     e.GetExecution().GetRunId(),
	}
	if l.Running {
		return l
	}
	l.FinishedAt = e.GetCloseTime().AsTime()
	// What was terminated or failed outright could not write its last state.
	if e.GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED {
		l.State = closedState(e.GetStatus())
	}
	return l
}

func (a *app) listTable(w io.Writer, rollouts []listed) error {
	rows := [][]string{{"PIPELINE", "STATE", "REVISION", "STARTED", "TOOK", "RUN"}}
	for _, l := range rollouts {
		end, took := l.FinishedAt, ""
		if l.Running {
			end, took = a.Now(), " so far"
		}
		rows = append(rows, []string{
			l.Pipeline, string(l.State), view.Short(l.Revision), l.StartedAt.UTC().Format(time.RFC3339),
			view.Ago(end.Sub(l.StartedAt)) + took, l.RunID,
		})
	}
	return table(w, rows)
}
