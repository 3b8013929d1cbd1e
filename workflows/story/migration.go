package story

import (
	"fmt"
	"strings"
	"time"

	"portcullis.dev/portcullis/workflows/contract"
)

// Migration is a migration's current details, in Markdown. Nodes that failed, or
// are on their way, come first.
func Migration(s contract.MigrateStatus) string {
	var b strings.Builder
	name := s.Cluster.Name
	fmt.Fprintf(&b, "### %s: %s\n\n", name, s.State)
	if s.Reason != "" {
		fmt.Fprintf(&b, "%s\n\n", cell(s.Reason))
	}
	if s.StartedBy != "" {
		fmt.Fprintf(&b, "From Canal to Calico, started by %s", cell(s.StartedBy))
		if s.Plan != nil {
			fmt.Fprintf(&b, ", plan %s", code(short(s.Plan.Hash)))
		}
		b.WriteString("\n\n")
	}
	if s.Step != "" {
		fmt.Fprintf(&b, "At step %s\n\n", s.Step)
	}
	if s.Paused != nil {
		fmt.Fprintf(&b, "**Paused** by %s. `portcullis migrate resume %s`\n\n", cell(By(s.Paused.By, s.Paused.Why)), name)
	}
	if !s.OpensAt.IsZero() {
		fmt.Fprintf(&b, "The next window opens at %s\n\n", s.OpensAt.UTC().Format(time.RFC3339))
	}
	if s.State == contract.StateStopped {
		fmt.Fprintf(&b, "```\nportcullis migrate resume %s\nportcullis migrate abort %s --why REASON\n```\n\n", name, name)
	}
	if g := s.Gate; g != nil {
		fmt.Fprintf(&b, "### Gate after %s\n\nEvidence `%s`\n\n```\nportcullis migrate approve %s --evidence %s\nportcullis migrate reject %s --why REASON\n```\n\n",
			cell(g.Node), g.Evidence, name, short(g.Evidence), name)
	}
	migrationNodes(&b, s.Nodes)
	lines(&b, s.Log)
	return b.String()
}

func migrationNodes(b *strings.Builder, nodes []contract.NodeState) {
	if len(nodes) == 0 {
		return
	}
	counts := map[string]int{}
	var first, rest []contract.NodeState
	for _, n := range nodes {
		counts[n.State]++
		if n.Reason != "" || n.Step != "" || n.State == contract.NodeMigrating || n.State == contract.NodeRestoring {
			first = append(first, n)
			continue
		}
		rest = append(rest, n)
	}
	fmt.Fprintf(b, "%d of %s on Calico\n\n| node | mode | state | step | evidence | own time | |\n|---|---|---|---|---|---|---|\n",
		counts[contract.NodeCalico], Count(len(nodes), "node"))
	for i, n := range append(first, rest...) {
		if i == shownRows {
			fmt.Fprintf(b, "\nand %s more\n", Count(len(nodes)-shownRows, "node"))
			break
		}
		name := cell(n.Name)
		if n.ControlPlane {
			name += " (control plane)"
		}
		own := ""
		if n.Own > 0 {
			own = n.Own.Round(time.Millisecond).String()
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s |\n", name, n.Mode, n.State, n.Step, code(short(n.Evidence)), own, cell(n.Reason))
	}
	b.WriteString("\n")
}

// Node is the current details of one node's migration, in Markdown.
func Node(r contract.MigrateNodeResult) string {
	var b strings.Builder
	fmt.Fprintf(&b, "### %s", cell(r.Node))
	if r.CNI != "" {
		fmt.Fprintf(&b, ": %s", r.CNI)
	}
	b.WriteString("\n\n")
	if r.Reason != "" {
		fmt.Fprintf(&b, "%s\n\n", cell(r.Reason))
	}
	if r.Evidence != "" {
		fmt.Fprintf(&b, "Evidence %s\n\n", code(short(r.Evidence)))
	}
	lines(&b, r.Log)
	return b.String()
}
