package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/cmd/internal/view"
	"portcullis.dev/portcullis/workflows/contract"
)

func (a *app) migrateStatus() *cobra.Command {
	return a.migrationVerb("status", "Show a cluster's migration: steps, nodes, evidence and gates", func(ctx context.Context, cluster string) error {
		return a.withSession(ctx, func(ctx context.Context, s *session) error {
			m, err := a.gatherMigration(ctx, s, cluster, true)
			if err != nil {
				return err
			}
			return a.print(m, func(w io.Writer) error {
				width, _, is := a.terminal()
				if !is {
					width = plainWidth
				}
				for _, line := range (view.Screen{Width: width, Paint: a.paint(), Now: a.Now()}).Migration(m) {
					if _, err := fmt.Fprintln(w, line); err != nil {
						return err
					}
				}
				return nil
			})
		})
	})
}

func (a *app) migrateWatch() *cobra.Command {
	c := a.migrationVerb("watch", "Follow a migration to its end", func(ctx context.Context, cluster string) error {
		return a.withSession(ctx, func(ctx context.Context, s *session) error { return a.watchMigration(ctx, s, cluster) })
	})
	c.Long = `Follow a migration to its end, and exit with its result: 0 when the cluster is on Calico, 9 when it is on
Canal again, or on Calico with the wire not as it was. On a terminal the view is drawn anew each second; elsewhere every change is a line, and with
-o json a JSON object on a line of its own. Interrupting it ends the watching, not the migration.`
	return c
}

// gatherMigration asks everything that is known of a cluster's last migration. With
// waiting false the activities are left out.
func (a *app) gatherMigration(ctx context.Context, s *session, cluster string, waiting bool) (view.Migration, error) {
	id := contract.MigrateID(cluster)
	d, err := s.describe(ctx, id)
	if err != nil {
		var absent *serviceerror.NotFound
		if errors.As(err, &absent) {
			return view.Migration{}, errs.NotFound("no migration of %s is known to Temporal at %s; `%s migrate list` has them by the clusters' names",
				cluster, s.settings.Address, a.Program)
		}
		return view.Migration{}, err
	}
	info := d.GetWorkflowExecutionInfo()
	m := view.Migration{
		WorkflowID: id, RunID: info.GetExecution().GetRunId(), Name: cluster,
		Running: info.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING,
	}
	m.StartedAt = info.GetStartTime().AsTime()
	if !m.Running {
		return m, s.migrationEnding(ctx, info, &m)
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
		m.Waiting = s.migrationWaits(ctx, d, cluster)
	}
	return m, nil
}

// migrationEnding reads how a migration ended, from its result.
func (s *session) migrationEnding(ctx context.Context, info *workflowpb.WorkflowExecutionInfo, m *view.Migration) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	m.FinishedAt = info.GetCloseTime().AsTime()
	var result contract.MigrateResult
	if err := s.GetWorkflow(ctx, m.WorkflowID, m.RunID).Get(ctx, &result); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		m.State, m.Reason = closedState(info.GetStatus()), errs.Message(err)
		return nil
	}
	m.State, m.Reason, m.Proven = result.State, result.Reason, result.Proven
	m.Nodes, m.Log = result.Nodes, result.Log
	if !result.StartedAt.IsZero() {
		m.StartedAt = result.StartedAt
	}
	return nil
}

// migrationWaits lists the activities of a migration and of its nodes that have not ended.
func (s *session) migrationWaits(ctx context.Context, d *workflowservice.DescribeWorkflowExecutionResponse, cluster string) []view.Waiting {
	out := stepsOf(pendingOf(d, ""))
	children := d.GetPendingChildren()
	found := make([][]view.Waiting, len(children))
	var group sync.WaitGroup
	for i, c := range children {
		group.Go(func() {
			node := strings.TrimPrefix(c.GetWorkflowId(), contract.MigrateNodeID(cluster, ""))
			if child, err := s.describe(ctx, c.GetWorkflowId()); err == nil {
				found[i] = stepsOf(pendingOf(child, node))
			}
		})
	}
	group.Wait()
	for _, f := range found {
		out = append(out, f...)
	}
	return out
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
func (s *session) migrationEnd(ctx context.Context, m view.Migration) error {
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

// watchMigration ends when the migration does.
func (a *app) watchMigration(ctx context.Context, s *session, cluster string) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	show, done := a.migrationWatcher()
	defer done()
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	var last view.Migration
	for {
		m, err := a.gatherMigration(ctx, s, cluster, true)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && last.WorkflowID == "":
			return err
		case err != nil:
			last.Unanswered = errs.Message(s.explain(err))
			m = last
		}
		last = m
		if err := show(m); err != nil {
			return err
		}
		if !m.Running {
			return s.migrationEnd(ctx, m)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// migrationWatcher is how each look at a migration is shown, as for rollouts.
func (a *app) migrationWatcher() (show func(view.Migration) error, done func()) {
	if a.output == "json" {
		w := &jsonWatcher{app: a}
		return func(m view.Migration) error { return w.write(m) }, w.close
	}
	if _, _, is := a.terminal(); is {
		w := &screenWatcher{app: a}
		return func(m view.Migration) error {
			return w.draw(func(s view.Screen) []string { return s.Migration(m) })
		}, w.close
	}
	var tail view.MigrationTail
	return func(m view.Migration) error {
		for _, line := range tail.Next(m, a.Now()) {
			if _, err := fmt.Fprintln(a.Stdout, line); err != nil {
				return err
			}
		}
		return nil
	}, func() {}
}
