package cli

import (
	"context"

	"github.com/spf13/cobra"
)

func (a *app) migrateCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "migrate",
		Short: "Take clusters from Canal to Calico",
		Long: `Take a live cluster from Canal to Calico, node by node, in place where that is possible, with probes
around every node and a way back from each. A migration goes on by itself; these verbs plan, start, watch
and decide about it.`,
	},
		a.migratePlan(), a.migrateStart(), a.migrateList(), a.migrateStatus(), a.migrateWatch(),
		a.migrateApprove(), a.migrateReject(), a.migratePause(), a.migrateResume(), a.migrateAbort(),
	)
}

// migrationVerb makes a command that is about the migration of one cluster.
func (a *app) migrationVerb(use, short string, do func(ctx context.Context, cluster string) error) *cobra.Command {
	return &cobra.Command{
		Use:   use + " CLUSTER",
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE:  a.run(func(ctx context.Context, args []string) error { return do(ctx, args[0]) }),
	}
}
