package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"portcullis.dev/portcullis/cmd/internal/view"
	"portcullis.dev/portcullis/workflows/contract"
)

func (a *app) migrateCommand() *cobra.Command {
	k := a.migrations()
	return group(&cobra.Command{
		Use:   k.group,
		Short: "Take clusters from Canal to Calico",
		Long: `Take a live cluster from Canal to Calico, node by node, in place where that is possible, with probes
around every node and a way back from each. A migration goes on by itself; these verbs plan, start, watch
and decide about it.`,
	},
		a.migratePlan(), a.migrateStart(), k.list(),
		k.status("Show a cluster's migration: steps, nodes, evidence and gates"),
		k.watch(`Follow a migration to its end, and exit with its result: 0 when the cluster is on Calico, 9 when it is on
Canal again, or on Calico with the wire not as it was. On a terminal the view is drawn anew each second; elsewhere every change is a line, and with
-o json a JSON object on a line of its own. Interrupting it ends the watching, not the migration.`),
		k.approve("Agree to the evidence of the canary node: the others may move",
			`Agree to the evidence of the canary node. At least 12 characters of its hash are needed, and they must be
of the evidence that waits for an approval.`),
		k.reject("Refuse at the gate: every node goes back to Canal"),
		k.order(contract.UpdatePause, "Let no further node begin, until it is resumed", "paused"),
		k.order(contract.UpdateResume, "Go on after a pause, or try again after a stop", "resumed"),
		k.order(contract.UpdateAbort, "Take every node back to Canal, and end the migration", "aborting"),
	)
}

func (a *app) migrations() kind {
	return kind{
		app: a, noun: "migration", owner: ofCluster, group: "migrate",
		workflow: contract.MigrateWorkflow, id: contract.MigrateID, key: contract.AttrCluster,
		verb: a.clusterVerb, gather: a.gatherMigration, end: migrationEnd,
		approved: func(d contract.Decision) (any, func() string) {
			return nil, func() string { return "approved, evidence " + view.Short(d.Evidence) }
		},
		unknown: fmt.Sprintf("; `%s migrate list` has them by the clusters' names", a.Program),
		instead: "wait for it, or end it with `portcullis migrate abort NAME`",
	}
}

// clusterVerb makes a command that is about the migration of one cluster.
func (a *app) clusterVerb(use, short string, do func(ctx context.Context, cluster string) error) *cobra.Command {
	return &cobra.Command{
		Use:   use + " CLUSTER",
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE:  a.run(func(ctx context.Context, args []string) error { return do(ctx, args[0]) }),
	}
}
