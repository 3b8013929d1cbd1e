package cli

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/cmd/internal/view"
	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/story"
)

type startMigrationFlags struct {
	migrationFlags
	plan        string
	acknowledge []string
	pipeline    string
	by          string
	watch       bool
}

func (a *app) migrateStart() *cobra.Command {
	var f startMigrationFlags
	c := &cobra.Command{
		Use:   "start CLUSTER --plan HASH --calico FILE",
		Short: "Take a cluster from Canal to Calico, as it was planned",
		Long: `Start a migration, and wait until it was checked and planned again. It is refused, before anything is
changed, where that plan is not the one that --plan names: give the flags that the plan was made with, or
copy the command that migrate plan ends with. The migration goes on by itself; --watch, or migrate watch,
follows it to its end.`,
		Args: cobra.ExactArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error { return a.startMigration(ctx, args[0], f) }),
	}
	f.add(c)
	fs := c.Flags()
	fs.StringVar(&f.plan, "plan", "", "hash of the plan that you have read")
	fs.StringArrayVar(&f.acknowledge, "acknowledge", nil, "what you know and accept, as the plan names it; once for each")
	fs.StringVar(&f.pipeline, "pipeline", "", "pipeline file: its probes and their settings are used besides what the cluster's Services offer")
	fs.BoolVar(&f.watch, "watch", false, "watch until it ends, and exit with its result")
	addBy(fs, &f.by)
	_ = c.MarkFlagFilename("pipeline", "yaml", "yml")
	return c
}

// planHash is a plan's hash, or the beginning of it.
var planHash = regexp.MustCompile(fmt.Sprintf(`^[0-9a-f]{%d,64}$`, contract.MinEvidence))

// input makes what the workflow is given, but for the cluster.
func (a *app) input(f *startMigrationFlags) (in contract.MigrateInput, err error) {
	switch {
	case f.plan == "":
		return in, usagef("name the plan that you have read with --plan; `%s migrate plan` shows its hash", a.Program)
	case !planHash.MatchString(f.plan):
		return in, usagef("--plan is %q; it is the hash that `%s migrate plan` shows, or at least its first %d characters", f.plan, a.Program, contract.MinEvidence)
	case f.calico == "":
		return in, usagef("give Calico's manifest with --calico, the same file that was planned with")
	}
	in = contract.MigrateInput{Plan: f.plan, Acknowledge: f.acknowledge}
	if in.Manifest, err = f.read(); err != nil {
		return in, err
	}
	in.Target, in.Options = f.target, f.options
	if in.StartedBy, _, err = a.by(f.by); err != nil {
		return in, err
	}
	if f.pipeline != "" {
		p, err := loadPipeline(f.pipeline)
		if err != nil {
			return in, err
		}
		in.Probes, in.Settings = p.Spec.Probes, p.Spec.ProbeTimings
	}
	return in, nil
}

func (a *app) startMigration(ctx context.Context, cluster string, f startMigrationFlags) error {
	in, err := a.input(&f)
	if err != nil {
		return err
	}
	return a.withSession(ctx, func(ctx context.Context, s *session) error {
		c, err := a.findCluster(ctx, s, cluster)
		if err != nil {
			return err
		}
		in.Cluster = c.Name
		k := a.migrations()
		run, err := k.begin(ctx, s, beginning{c.Name, migrationSummary(in), migrationDetails(in), contract.StateChecking, in})
		if running(err) {
			return k.refused(ctx, s, c.Name)
		}
		if err != nil {
			return err
		}
		return a.followMigration(ctx, s, run, in, f.watch)
	})
}

// findCluster takes a name or Rancher's ID, as a plan does: a migration's ID has the name.
func (a *app) findCluster(ctx context.Context, s *session, cluster string) (found rancher.Cluster, err error) {
	var inventory contract.InventoryResult
	err = s.operation(ctx, a.opID("inventory"), contract.InventoryWorkflow, "find the cluster "+view.Cut(cluster, 80), inventoryLimit, contract.InventoryInput{}, &inventory)
	if err != nil {
		return found, err
	}
	for _, c := range inventory.Clusters {
		if c.Name == cluster {
			return c, nil
		}
		if c.ID == cluster {
			found = c
		}
	}
	if found.Name == "" {
		return found, errs.NotFound("no cluster %q is known to Rancher and Fleet; `%s clusters` lists them", cluster, a.Program)
	}
	return found, nil
}

// inventoryLimit bounds the listing of clusters.
const inventoryLimit = 2 * time.Minute

func migrationSummary(in contract.MigrateInput) string {
	return fmt.Sprintf("migrate %s from Canal to Calico %s", in.Cluster, in.Target.Version)
}

// migrationDetails is Markdown for the Temporal UI.
func migrationDetails(in contract.MigrateInput) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Started by **%s**\n\n- plan `%s`\n- Calico %s, manifest `%s`\n- %s\n",
		view.Cut(in.StartedBy, 60), in.Plan, in.Target.Version, in.Options.Manifest, orderText(in.Options))
	for _, w := range in.Options.Windows {
		fmt.Fprintf(&b, "- nodes begin only %s\n", windowText(w))
	}
	if len(in.Acknowledge) > 0 {
		fmt.Fprintf(&b, "- acknowledged: %s\n", view.Cut(strings.Join(in.Acknowledge, ", "), 200))
	}
	if n := len(in.Probes); n > 0 {
		fmt.Fprintf(&b, "- %s of a pipeline\n", story.Count(n, "probe"))
	}
	return b.String()
}

// followMigration shows the plan that was made again or, where asked for, watches.
func (a *app) followMigration(ctx context.Context, s *session, run client.WorkflowRun, in contract.MigrateInput, watch bool) error {
	var plan migration.Plan
	err := a.withProgress(ctx, s, run.GetID(), func() error { return s.planned(ctx, run, preflightLimit, &plan) })
	if err != nil {
		return err
	}
	k := a.migrations()
	if watch {
		return k.follow(ctx, s, in.Cluster)
	}
	result := map[string]any{"workflowId": run.GetID(), "runId": run.GetRunID(), "plan": plan}
	return a.print(result, func(w io.Writer) error {
		begin := ""
		if len(plan.Nodes) > 0 {
			begin = ", " + plan.Nodes[0].Name + " first"
		}
		_, err := fmt.Fprintf(w, "started: %s, run %s\nplan:    %s, made again and the same: %s%s\nwatch:   %s\n",
			run.GetID(), run.GetRunID(), view.Short(plan.Hash), story.Count(len(plan.Nodes), "node"), begin, k.tells("watch", in.Cluster))
		return err
	})
}
