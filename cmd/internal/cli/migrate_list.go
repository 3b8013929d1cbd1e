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

// listedMigration is one migration in the list.
type listedMigration struct {
	Cluster    string         `json:"cluster"`
	State      contract.State `json:"state"`
	Running    bool           `json:"running"`
	StartedAt  time.Time      `json:"startedAt"`
	FinishedAt time.Time      `json:"finishedAt,omitzero"`
	RunID      string         `json:"runId"`
}

type migrationListFlags struct {
	cluster string
	running bool
	limit   int
}

func (a *app) migrateList() *cobra.Command {
	var f migrationListFlags
	c := &cobra.Command{
		Use:   "list",
		Short: "List migrations, the newest first",
		Args:  cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			if f.limit < 1 || f.limit > 1000 {
				return usagef("--limit is %d; it is from 1 to 1000", f.limit)
			}
			return a.withSession(ctx, func(ctx context.Context, s *session) error { return a.listMigrations(ctx, s, f) })
		}),
	}
	c.Flags().StringVar(&f.cluster, "cluster", "", "only this cluster's")
	c.Flags().BoolVar(&f.running, "running", false, "only those that run")
	c.Flags().IntVar(&f.limit, "limit", 20, "how many at most")
	return c
}

func (a *app) listMigrations(ctx context.Context, s *session, f migrationListFlags) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	page, err := s.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
		Namespace: s.settings.Namespace, PageSize: int32(f.limit), Query: f.query(),
	})
	if err != nil {
		return err
	}
	list := make([]listedMigration, 0, len(page.GetExecutions()))
	for _, e := range page.GetExecutions() {
		list = append(list, readMigration(e))
	}
	return a.print(map[string]any{"migrations": list}, func(w io.Writer) error { return a.migrationTable(w, list) })
}

// query is for Temporal's index. A run that continued as new is the same
// migration's earlier part.
func (f migrationListFlags) query() string {
	terms := []string{
		fmt.Sprintf("WorkflowType = '%s'", contract.MigrateWorkflow),
		"ExecutionStatus != 'ContinuedAsNew'",
	}
	if f.cluster != "" {
		terms = append(terms, fmt.Sprintf("%s = '%s'", contract.AttrCluster.GetName(), strings.ReplaceAll(f.cluster, "'", "''")))
	}
	if f.running {
		terms = append(terms, "ExecutionStatus = 'Running'")
	}
	return strings.Join(terms, " AND ")
}

func readMigration(e *workflowpb.WorkflowExecutionInfo) listedMigration {
	l := listedMigration{
		Cluster:   first(attribute(e, contract.AttrCluster.GetName()), strings.TrimPrefix(e.GetExecution().GetWorkflowId(), contract.MigrateID(""))),
		State:     stateAttribute(e),
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

func (a *app) migrationTable(w io.Writer, list []listedMigration) error {
	rows := [][]string{{"CLUSTER", "STATE", "STARTED", "TOOK", "RUN"}}
	for _, l := range list {
		end, took := l.FinishedAt, ""
		if l.Running {
			end, took = a.Now(), " so far"
		}
		rows = append(rows, []string{
			view.Cut(l.Cluster, 24), string(l.State), l.StartedAt.UTC().Format(time.RFC3339), view.Ago(end.Sub(l.StartedAt)) + took, l.RunID,
		})
	}
	return table(w, rows)
}
