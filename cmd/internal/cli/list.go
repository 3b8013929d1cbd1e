package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"

	"portcullis.dev/portcullis/cmd/internal/view"
	"portcullis.dev/portcullis/workflows/contract"
)

// listed is one rollout or migration in the list: of a pipeline, or of a cluster.
type listed struct {
	Pipeline   string         `json:"pipeline,omitempty"`
	Cluster    string         `json:"cluster,omitempty"`
	State      contract.State `json:"state"`
	Revision   string         `json:"revision,omitempty"`
	Running    bool           `json:"running"`
	StartedAt  time.Time      `json:"startedAt"`
	FinishedAt time.Time      `json:"finishedAt,omitzero"`
	RunID      string         `json:"runId"`
}

type listFlags struct {
	owner   string
	running bool
	limit   int
}

func (k kind) list() *cobra.Command {
	var f listFlags
	c := &cobra.Command{
		Use:   "list",
		Short: "List " + k.noun + "s, the newest first",
		Args:  cobra.NoArgs,
		RunE: k.run(func(ctx context.Context, _ []string) error {
			if f.limit < 1 || f.limit > 1000 {
				return usagef("--limit is %d; it is from 1 to 1000", f.limit)
			}
			return k.withSession(ctx, func(ctx context.Context, s *session) error { return k.listAll(ctx, s, f) })
		}),
	}
	c.Flags().StringVar(&f.owner, k.owner, "", "only this "+k.owner+"'s")
	c.Flags().BoolVar(&f.running, "running", false, "only those that run")
	c.Flags().IntVar(&f.limit, "limit", 20, "how many at most")
	return c
}

func (k kind) listAll(ctx context.Context, s *session, f listFlags) error {
	found, err := s.runs(ctx, k.query(f), f.limit)
	if err != nil {
		return err
	}
	list := make([]listed, 0, len(found))
	for _, e := range found {
		list = append(list, k.readListed(e))
	}
	return k.print(map[string]any{k.noun + "s": list}, func(w io.Writer) error { return k.listTable(w, list) })
}

// runs lists workflows, the newest first.
func (s *session) runs(ctx context.Context, query string, limit int) ([]*workflowpb.WorkflowExecutionInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	page, err := s.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{Namespace: s.settings.Namespace, PageSize: int32(limit), Query: query})
	return page.GetExecutions(), err
}

// query is for Temporal's index.
func (k kind) query(f listFlags) string {
	// A run that continued as new is an earlier part of the same one.
	terms := []string{
		fmt.Sprintf("WorkflowType = '%s'", k.workflow),
		"ExecutionStatus != 'ContinuedAsNew'",
	}
	if f.owner != "" {
		terms = append(terms, fmt.Sprintf("%s = '%s'", k.key.GetName(), strings.ReplaceAll(f.owner, "'", "''")))
	}
	if f.running {
		terms = append(terms, "ExecutionStatus = 'Running'")
	}
	return strings.Join(terms, " AND ")
}

func (k kind) readListed(e *workflowpb.WorkflowExecutionInfo) listed {
	l := listed{
		State:     stateAttribute(e),
		Revision:  attribute(e, contract.AttrRevision.GetName()),
		Running:   e.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING,
		StartedAt: e.GetStartTime().AsTime(),
		RunID:     e.GetExecution().GetRunId(),
	}
	owner := first(attribute(e, k.key.GetName()), strings.TrimPrefix(e.GetExecution().GetWorkflowId(), k.id("")))
	if k.owner == ofCluster {
		l.Cluster = owner
	} else {
		l.Pipeline = owner
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

func (k kind) listTable(w io.Writer, list []listed) error {
	rows := [][]string{{strings.ToUpper(k.owner), "STATE", "REVISION", "STARTED", "TOOK", "RUN"}}
	for _, l := range list {
		end, took := l.FinishedAt, ""
		if l.Running {
			end, took = k.Now(), " so far"
		}
		rows = append(rows, []string{
			first(l.Pipeline, view.Cut(l.Cluster, 24)), string(l.State), view.Short(l.Revision),
			l.StartedAt.UTC().Format(time.RFC3339), view.Ago(end.Sub(l.StartedAt)) + took, l.RunID,
		})
	}
	if k.owner == ofCluster { // migrations have no revision
		for i, row := range rows {
			rows[i] = slices.Delete(row, 2, 3)
		}
	}
	return table(w, rows)
}
