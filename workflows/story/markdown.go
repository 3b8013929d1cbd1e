package story

import (
	"fmt"
	"sort"
	"strings"
	"time"

	"portcullis.dev/portcullis/workflows/approval"
	"portcullis.dev/portcullis/workflows/contract"
)

const (
	shownRows = 50
	shownLog  = 15
)

// Rollout is a rollout's current details, in Markdown.
func Rollout(s contract.RolloutStatus) string {
	var b strings.Builder
	fmt.Fprintf(&b, "### %s: %s\n\n", s.Pipeline, s.State)
	if s.Reason != "" {
		fmt.Fprintf(&b, "%s\n\n", cell(s.Reason))
	}
	if s.Plan != nil && s.Mode != contract.ModeRollback {
		r := s.Plan.Revision
		fmt.Fprintf(&b, "Revision `%s` %s, started by %s\n\n", r.Commit, cell(r.Subject), cell(s.StartedBy))
	}
	if s.Paused != nil {
		fmt.Fprintf(&b, "**Paused** by %s. `portcullis rollout resume %s`\n\n", cell(By(s.Paused.By, s.Paused.Why)), s.Pipeline)
	}
	if s.Slack != nil {
		fmt.Fprintf(&b, "**Slack** is behind since %s: %s. Decide on the command line meanwhile.\n\n", s.Slack.Behind.UTC().Format(time.RFC3339), cell(s.Slack.Reason))
	}
	environments(&b, s)
	gate(&b, s)
	lines(&b, s.Log)
	return b.String()
}

func environments(b *strings.Builder, s contract.RolloutStatus) {
	b.WriteString("| environment | state | clusters | evidence | |\n|---|---|---|---|---|\n")
	for i, e := range s.Environments {
		var evidence, note string
		if e.Result != nil {
			evidence, note = code(short(e.Result.Evidence)), e.Result.Reason
			if e.Result.Rollback != nil {
				note += "; " + Rollback(*e.Result.Rollback)
			}
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s |\n", e.Name, e.State, counts(s.Plan, i, e.Result), evidence, cell(note))
	}
	b.WriteString("\n")
}

func counts(plan *contract.RolloutPlan, i int, result *contract.PromoteResult) string {
	if result == nil {
		if plan == nil || i >= len(plan.Plan.Environments) {
			return ""
		}
		n := 0
		for _, u := range plan.Plan.Environments[i].Units {
			n += len(u.Clusters)
		}
		return fmt.Sprint(n)
	}
	good := 0
	for _, c := range result.Clusters {
		if c.State == RowVerified {
			good++
		}
	}
	return fmt.Sprintf("%d of %d verified", good, len(result.Clusters))
}

func gate(b *strings.Builder, s contract.RolloutStatus) {
	g := s.Gate
	if g == nil {
		return
	}
	fmt.Fprintf(b, "### Gate of %s: %d of %s\n\n", g.Environment, len(g.Votes), Count(g.Required, "approval"))
	fmt.Fprintf(b, "Evidence `%s`", g.Evidence.Hash)
	if !g.Deadline.IsZero() {
		fmt.Fprintf(b, ", until %s", g.Deadline.UTC().Format(time.RFC3339))
	}
	fmt.Fprintf(b, "\n\n```\n%s\n%s\n```\n\n", Approve(s.Pipeline, g.Evidence.Hash),
		fmt.Sprintf("portcullis rollout reject %s --why REASON", s.Pipeline))
	for _, line := range []string{approval.Terms(g.Voters), approval.Unknown(g.Voters)} {
		if line != "" {
			fmt.Fprintf(b, "Approvals: %s\n\n", cell(line))
		}
	}
	for _, v := range g.Votes {
		fmt.Fprintf(b, "- approved by %s\n", cell(By(v.By, v.Why)))
	}
	changes := make([]string, 0, len(g.Evidence.Changes))
	for _, c := range g.Evidence.Changes {
		changes = append(changes, fmt.Sprintf("- %s `%s` %s", c.Kind, c.Path, cell(strings.Join(c.Objects, ", "))))
	}
	if len(changes) > shownRows {
		changes = append(changes[:shownRows], fmt.Sprintf("- and %d more files", len(changes)-shownRows))
	}
	fmt.Fprintf(b, "\nChanges:\n\n%s\n\n", strings.Join(changes, "\n"))
}

// Approve is the exact line that approves evidence.
func Approve(pipeline, hash string) string {
	return fmt.Sprintf("portcullis rollout approve %s --evidence %s", pipeline, short(hash))
}

// Rows of clusters.
const (
	RowPending    = "pending"
	RowStaged     = "staged"
	RowLive       = "live"
	RowVerified   = "verified"
	RowFailed     = "failed"
	RowRolledBack = "rolled-back"
)

// Promotion is a promotion's current details, in Markdown. Failed clusters come first.
func Promotion(s contract.PromoteStatus) string {
	var b strings.Builder
	state := string(s.State)
	if s.Paused {
		state += ", paused"
	}
	fmt.Fprintf(&b, "### %s: %s\n\n", s.Environment, state)
	if s.Unit != "" {
		fmt.Fprintf(&b, "At `%s`, wave %s\n\n", s.Unit, s.Wave)
	}
	if !s.SoakUntil.IsZero() {
		fmt.Fprintf(&b, "Soaking until %s\n\n", s.SoakUntil.UTC().Format(time.RFC3339))
	}
	rows := append([]contract.ClusterRow(nil), s.Clusters...)
	sort.SliceStable(rows, func(i, j int) bool {
		return rows[i].State == RowFailed && rows[j].State != RowFailed
	})
	left := 0
	if len(rows) > shownRows {
		left, rows = len(rows)-shownRows, rows[:shownRows]
	}
	b.WriteString("| cluster | wave | state | probes | evidence | |\n|---|---|---|---|---|---|\n")
	for _, r := range rows {
		probes := ""
		if r.Pairs > 0 {
			probes = fmt.Sprintf("%d of %d", r.Pairs-r.Failing, r.Pairs)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", r.Cluster, r.Wave, r.State, probes, code(short(r.Evidence)), cell(r.Reason))
	}
	if left > 0 {
		fmt.Fprintf(&b, "\nand %d more clusters\n", left)
	}
	b.WriteString("\n")
	lines(&b, s.Log)
	return b.String()
}

// Rollback says in one line what was put back and what of it was proven.
func Rollback(r contract.RollbackResult) string {
	to := string(r.Kind)
	if r.Revision != "" {
		to += " " + short(r.Revision)
	}
	line := "went back to " + to
	switch {
	case r.Live && r.Proven:
		line += ", live and proven"
	case r.Live:
		line += ", live but not proven"
	case r.Proven:
		line += ", proven by probes though Fleet does not report it live"
	default:
		line += ", neither live nor proven"
	}
	if r.Detail != "" {
		line += ": " + r.Detail
	}
	return line
}

func lines(b *strings.Builder, log []contract.LogEntry) {
	if over := len(log) - shownLog; over > 0 {
		log = log[over:]
	}
	for _, l := range log {
		fmt.Fprintf(b, "- %s %s %s\n", l.At.UTC().Format("15:04:05"), l.Environment, cell(l.Message))
	}
}

func short(s string) string {
	if len(s) > contract.MinEvidence {
		return s[:contract.MinEvidence]
	}
	return s
}

func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + s + "`"
}

// cell keeps text from other places inside one table cell or line. Backticks and
// angle brackets are taken out: the text may come from a commit or a cluster.
func cell(s string) string {
	return strings.NewReplacer("|", "/", "`", "'", "<", "(", ">", ")", "[", "(", "]", ")").Replace(oneLine(s))
}
