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
	"portcullis.dev/portcullis/workflows/story"
)

func (a *app) migratePlan() *cobra.Command {
	var (
		f migrationFlags
		c *cobra.Command
	)
	c = &cobra.Command{
		Use:   "plan CLUSTER",
		Short: "Show what a migration to Calico would do to each node; nothing is changed but the node agents",
		Long: `Make a preflight, and show what a migration from Canal to Calico would do to each node and in which order,
what it could disturb, what the maker of the distribution says, and what must be acknowledged or mended
first. It ends with the command that starts exactly this migration; that needs --calico.`,
		Args: cobra.ExactArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			if _, err := f.read(); err != nil {
				return err
			}
			in := contract.PlanMigrationInput{Cluster: args[0], Target: f.target, Options: f.options}
			return a.planMigration(ctx, in, again(c))
		}),
	}
	f.add(c)
	return c
}

// planMigration plans and shows; flags are those that were given, for the command that starts it.
func (a *app) planMigration(ctx context.Context, in contract.PlanMigrationInput, flags []string) error {
	return a.withSession(ctx, func(ctx context.Context, s *session) error {
		var result contract.PlanMigrationResult
		id := a.opID("plan-migration/" + in.Cluster)
		err := a.withProgress(ctx, s, id, func() error {
			return s.operation(ctx, id, contract.PlanMigrationWorkflow, view.Cut("plan the migration of "+in.Cluster, 100), preflightLimit, in, &result)
		})
		if err != nil {
			return err
		}
		text := planText{result, in.Options, a.Program, flags}
		if err := a.print(result, text.write); err != nil {
			return err
		}
		if n := len(result.Plan.Refused); n > 0 {
			return preflightEnded{preflight.Fail, fmt.Sprintf("%s cannot be migrated as it is: %s to mend", result.Plan.Cluster, count(n, "thing"))}
		}
		return nil
	})
}

// planText writes a plan for people.
type planText struct {
	contract.PlanMigrationResult
	options migration.Options
	program string
	flags   []string
}

func (t planText) write(out io.Writer) error {
	w := bufio.NewWriter(out)
	t.head(w)
	if err := t.nodes(w); err != nil {
		return err
	}
	section(w, "a drain disturbs", disturbances(t.Plan.Disturbed))
	var acks []string
	for _, ack := range t.Plan.Acknowledge {
		acks = append(acks, ack.ID+": "+ack.Why)
	}
	section(w, "to be acknowledged", acks)
	section(w, "in the way", t.Plan.Refused)
	_, _ = fmt.Fprintf(w, "\nplan %s\n", t.Plan.Hash)
	t.next(w)
	return w.Flush()
}

func (t planText) head(w io.Writer) {
	p := t.Plan
	from := "no Canal"
	if p.From.Name != "" {
		from = fmt.Sprintf("Canal %s (%s/%s)", p.From.Calico, p.From.Namespace, p.From.Name)
	}
	wrapped(w, fmt.Sprintf("%s: from %s to Calico %s, about %s for %s", p.Cluster, from, cmp.Or(p.Target.Version, "of an unknown version"),
		p.Estimate.Round(time.Second), count(len(p.Nodes), "node")), 0, 2)
	wrapped(w, "target: "+targetText(p.Target), 2, 4)
	n := t.Preflight
	wrapped(w, fmt.Sprintf("preflight: %d fail, %d unknown, %d warn, %d pass; portcullis preflight %s shows them", n.Fail, n.Unknown, n.Warn, n.Pass, p.Cluster), 2, 4)
	wrapped(w, fmt.Sprintf("%s %s: %s (%s)", p.Distribution, p.Kubernetes, p.Vendor.Position, p.Vendor.Source), 2, 4)
	wrapped(w, "order: "+orderText(t.options), 2, 4)
	if len(t.options.Windows) > 0 {
		texts := make([]string, len(t.options.Windows))
		for i, window := range t.options.Windows {
			texts[i] = windowText(window)
		}
		wrapped(w, "nodes begin only "+strings.Join(texts, ", or "), 2, 4)
	}
	_, _ = fmt.Fprintln(w)
}

func orderText(o migration.Options) string {
	text := "one worker at a time"
	if o.Parallel > 1 {
		text = fmt.Sprintf("%d workers at a time, and control-plane nodes one by one", o.Parallel)
	}
	if o.Canary {
		text += ", an approval after the first node"
	}
	if o.MaxFailures == 0 {
		return text + "; it stops when a node fails"
	}
	return text + "; it stops when more than " + story.Count(o.MaxFailures, "node") + " failed"
}

func (t planText) nodes(w io.Writer) error {
	rows := [][]string{{"NODE", "ROLE", "MODE", "PODS", "MOVED", "ABOUT", "WHY"}}
	for _, node := range t.Plan.Nodes {
		role := "worker"
		if node.ControlPlane {
			role = "control plane"
		}
		rows = append(rows, []string{view.Cut(node.Name, 30), role, string(node.Mode), strconv.Itoa(node.Pods), strconv.Itoa(node.Moved),
			node.Estimate.Round(time.Second).String(), view.Cut(node.Why, 40)})
	}
	return table(w, rows)
}

// next says what to do with the plan.
func (t planText) next(w io.Writer) {
	p := t.Plan
	switch {
	case len(p.Refused) > 0:
		wrapped(w, "it cannot be started: mend what is in the way, and plan again", 0, 2)
	case p.Manifest == "":
		wrapped(w, "it cannot be started yet: plan again with --calico FILE, Calico's manifest", 0, 2)
	default:
		_, _ = fmt.Fprint(w, "\nto start it:\n")
		words := append([]string{t.program + " migrate start " + quote(p.Cluster), "--plan " + p.Hash}, t.flags...)
		for _, ack := range p.Acknowledge {
			words = append(words, "--acknowledge "+ack.ID)
		}
		broken(w, words, preflightWidth)
	}
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
	_, _ = fmt.Fprintf(w, "\n%s:\n", title)
	for _, l := range lines {
		wrapped(w, strings.ReplaceAll(l, "\n", " "), 2, 4)
	}
}
