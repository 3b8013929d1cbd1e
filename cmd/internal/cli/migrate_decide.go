package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/cmd/internal/view"
	"portcullis.dev/portcullis/workflows/contract"
)

func (a *app) migrateApprove() *cobra.Command {
	var d contract.Decision
	c := a.migrationVerb("approve", "Agree to the evidence of the canary node: the others may move", func(ctx context.Context, cluster string) error {
		if d.Evidence == "" {
			return usagef("say which evidence you approve with --evidence; `%s migrate status %s` shows it", a.Program, quote(cluster))
		}
		by, err := a.by(d.By)
		if err != nil {
			return err
		}
		d.By = by
		return a.tellMigration(ctx, cluster, contract.UpdateApprove, d, "approved, evidence "+view.Short(d.Evidence))
	})
	c.Long = `Agree to the evidence of the canary node. At least 12 characters of its hash are needed, and they must be
of the evidence that waits for an approval.`
	c.Flags().StringVar(&d.Evidence, "evidence", "", "hash of the evidence, as migrate status shows it")
	addMigrationDecision(c, &d.By, &d.Why)
	return c
}

func (a *app) migrateReject() *cobra.Command {
	var d contract.Decision
	c := a.migrationVerb("reject", "Refuse at the gate: every node goes back to Canal", func(ctx context.Context, cluster string) error {
		by, err := a.by(d.By)
		if err != nil {
			return err
		}
		d.By = by
		return a.tellMigration(ctx, cluster, contract.UpdateReject, d, "rejected")
	})
	c.Flags().StringVar(&d.Evidence, "evidence", "", "hash of the evidence; a rejection may leave it out")
	addMigrationDecision(c, &d.By, &d.Why)
	return c
}

func (a *app) migratePause() *cobra.Command {
	return a.migrationOrder("pause", "Let no further node begin, until it is resumed", contract.UpdatePause, "paused")
}

func (a *app) migrateResume() *cobra.Command {
	return a.migrationOrder("resume", "Go on after a pause, or try again after a stop", contract.UpdateResume, "resumed")
}

func (a *app) migrateAbort() *cobra.Command {
	return a.migrationOrder("abort", "Take every node back to Canal, and end the migration", contract.UpdateAbort, "aborting")
}

func addMigrationDecision(c *cobra.Command, by, why *string) {
	addBy(c.Flags(), by)
	c.Flags().StringVar(why, "why", "", "the reason, kept with the migration")
}

func (a *app) migrationOrder(verb, short, update, done string) *cobra.Command {
	var o contract.Order
	c := a.migrationVerb(verb, short, func(ctx context.Context, cluster string) error {
		by, err := a.by(o.By)
		if err != nil {
			return err
		}
		o.By = by
		return a.tellMigration(ctx, cluster, update, o, done)
	})
	addMigrationDecision(c, &o.By, &o.Why)
	return c
}

// tellMigration sends an order to the migration that runs, and shows what it made of it.
func (a *app) tellMigration(ctx context.Context, cluster, update string, order any, done string) error {
	return a.withSession(ctx, func(ctx context.Context, s *session) error {
		err := s.update(ctx, contract.MigrateID(cluster), "", update, updateLimit, order, nil)
		if gone(err) {
			return errs.NotFound("no migration of %s is running", cluster)
		}
		if err != nil {
			return err
		}
		m, err := a.gatherMigration(ctx, s, cluster, true)
		if err != nil {
			// The order was taken; that its effect cannot be shown is no failure.
			m = view.Migration{Name: cluster, WorkflowID: contract.MigrateID(cluster)}
		}
		return a.print(m, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "%s: %s (%s)\n", cluster, done, first(string(m.State), "running"))
			return err
		})
	})
}
