package cli

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"portcullis.dev/portcullis/cmd/internal/view"
	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/probes/preflight"
	"portcullis.dev/portcullis/workflows/contract"
)

func (a *app) migrateCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "migrate",
		Short: "Take clusters from Canal to Calico",
	}, a.migratePlan())
}

func (a *app) migratePlan() *cobra.Command {
	var (
		in                  contract.PlanMigrationInput
		encapsulation, mode string
	)
	c := &cobra.Command{
		Use:   "plan CLUSTER",
		Short: "Show what a migration to Calico would do to each node; nothing is changed but the node agents",
		Long: `Make a preflight, and show what a migration from Canal to Calico would do to each node and in which order,
what it could disturb, what the maker of the distribution says, and what must be acknowledged or mended first.`,
		Args: cobra.ExactArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			in.Cluster = args[0]
			in.Target.Encapsulation, in.Options.Mode = preflight.Encapsulation(encapsulation), migration.Mode(mode)
			if err := checkTarget(in.Target); err != nil {
				return err
			}
			if m := in.Options.Mode; m != "" && m != migration.InPlace && m != migration.Drain {
				return usagef("--mode is %q; it is in-place or drain", mode)
			}
			return a.planMigration(ctx, in)
		}),
	}
	addTarget(c, &in.Target, &encapsulation)
	c.Flags().StringVar(&mode, "mode", "", "in-place or drain; in place wherever that is possible by default")
	c.Flags().StringSliceVar(&in.Options.First, "first", nil, "nodes to begin with, in this order")
	_ = c.RegisterFlagCompletionFunc("mode", cobra.FixedCompletions([]string{"in-place", "drain"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func (a *app) planMigration(ctx context.Context, in contract.PlanMigrationInput) error {
	return a.withSession(ctx, func(ctx context.Context, s *session) error {
		var result contract.PlanMigrationResult
		id := a.opID("plan-migration/" + in.Cluster)
		watching, stop := context.WithCancel(ctx)
		watched := make(chan struct{})
		go func() { defer close(watched); a.tellProgress(watching, s, id) }()
		err := s.operation(ctx, id, contract.PlanMigrationWorkflow, view.Cut("plan the migration of "+in.Cluster, 100), preflightLimit, in, &result)
		stop()
		<-watched
		if err != nil {
			return err
		}
		if err := a.print(result, func(w io.Writer) error { return migrationText(w, result) }); err != nil {
			return err
		}
		if n := len(result.Plan.Refused); n > 0 {
			return preflightEnded{preflight.Fail, fmt.Sprintf("%s cannot be migrated as it is: %s to mend", result.Plan.Cluster, count(n, "thing"))}
		}
		return nil
	})
}

// migrationText writes a plan for people.
func migrationText(out io.Writer, result contract.PlanMigrationResult) error {
	w := bufio.NewWriter(out)
	p := result.Plan
	from := "no Canal"
	if p.From.Name != "" {
		from = fmt.Sprintf("Canal %s (%s/%s)", p.From.Calico, p.From.Namespace, p.From.Name)
	}
	wrapped(w, fmt.Sprintf("%s: from %s to Calico %s, about %s for %s", p.Cluster, from, cmp.Or(p.Target.Version, "of an unknown version"),
		p.Estimate.Round(time.Second), count(len(p.Nodes), "node")), 0, 2)
	wrapped(w, "target: "+targetText(p.Target), 2, 4)
	n := result.Preflight
	wrapped(w, fmt.Sprintf("preflight: %d fail, %d unknown, %d warn, %d pass; portcullis preflight %s shows them", n.Fail, n.Unknown, n.Warn, n.Pass, p.Cluster), 2, 4)
	wrapped(w, fmt.Sprintf("%s %s: %s (%s)", p.Distribution, p.Kubernetes, p.Vendor.Position, p.Vendor.Source), 2, 4)
	fmt.Fprintln(w)
	rows := [][]string{{"NODE", "ROLE", "MODE", "PODS", "MOVED", "ABOUT", "WHY"}}
	for _, node := range p.Nodes {
		role := "worker"
		if node.ControlPlane {
			role = "control plane"
		}
		rows = append(rows, []string{view.Cut(node.Name, 30), role, string(node.Mode), strconv.Itoa(node.Pods), strconv.Itoa(node.Moved),
			node.Estimate.Round(time.Second).String(), view.Cut(node.Why, 40)})
	}
	if err := table(w, rows); err != nil {
		return err
	}
	section(w, "a drain disturbs", disturbances(p.Disturbed))
	var acks []string
	for _, ack := range p.Acknowledge {
		acks = append(acks, ack.ID+": "+ack.Why)
	}
	section(w, "to be acknowledged", acks)
	section(w, "in the way", p.Refused)
	fmt.Fprintf(w, "\nplan %s\n", p.Hash)
	return w.Flush()
}

func disturbances(list []migration.Disturbance) []string {
	const most = 20
	var out []string
	for _, d := range list[:min(len(list), most)] {
		out = append(out, fmt.Sprintf("%s on %s: %s", d.Workload, d.Node, d.How))
	}
	if more := len(list) - most; more > 0 {
		out = append(out, fmt.Sprintf("and %d more", more))
	}
	return out
}

func section(w io.Writer, title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s:\n", title)
	for _, l := range lines {
		wrapped(w, strings.ReplaceAll(l, "\n", " "), 2, 4)
	}
}
