package view

import (
	"fmt"
	"strings"
	"time"

	"portcullis.dev/portcullis/workflows/approval"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/story"
)

// Screen is how a rollout or a migration is drawn.
type Screen struct {
	// Width in characters; lines are cut to it.
	Width int
	// Height in lines; 0 means no limit. Rows and old lines of the story go first.
	Height int
	Paint  Paint
	Now    time.Time
}

// What is shown of each part.
const (
	shownClusters = 12
	shownLog      = 8
	shownWaiting  = 6
)

// Lines draws it.
func (s Screen) Lines(l Look) []string {
	d := &drawing{Screen: s, r: l.Shared()}
	rows, story := l.rows(), shownLog
	for {
		d.lines = nil
		l.draw(d, rows, story)
		if s.Height <= 0 || len(d.lines) <= s.Height || rows+story == 0 {
			break
		}
		if rows > 3 || story == 0 {
			rows = max(rows-1, 0)
		} else {
			story--
		}
	}
	if s.Height > 0 && len(d.lines) > s.Height {
		d.lines = d.lines[:s.Height]
	}
	return d.lines
}

type drawing struct {
	Screen
	r     Rollout
	lines []string
}

func (r Rollout) rows() int { return shownClusters }

func (r Rollout) draw(d *drawing, rows, story int) {
	d.head()
	for i := range r.Environments {
		d.environment(i, rows)
	}
	d.gate()
	d.waiting()
	d.story(story)
	d.foot()
}

// line adds a line of plain text, cut to the width, painted by paint afterwards
// so that no escape sequence is cut in two.
func (d *drawing) line(paint func(string) string, format string, args ...any) {
	text := shorten(strings.TrimRight(clean(fmt.Sprintf(format, args...)), " "), d.Width)
	if paint != nil {
		text = paint(text)
	}
	d.lines = append(d.lines, text)
}

func (d *drawing) head() {
	r := d.r
	end := d.Now
	if !r.FinishedAt.IsZero() {
		end = r.FinishedAt
	}
	title := fmt.Sprintf("%s  %s", r.Pipeline, r.State)
	if !r.StartedAt.IsZero() {
		title += "  " + Ago(end.Sub(r.StartedAt))
	}
	if r.Mode == contract.ModeRollback {
		title += "  (rollback by hand)"
	}
	d.line(func(t string) string { return d.Paint.Bold(d.Paint.State(r.State, t)) }, "%s", title)
	if r.Plan != nil && r.Plan.Revision.Commit != "" {
		d.line(nil, "  revision %s  %s", Short(r.Plan.Revision.Commit), oneLine(r.Plan.Revision.Subject))
	}
	if r.StartedBy != "" {
		d.line(d.Paint.Dim, "  started by %s at %s, run %s", r.StartedBy, r.StartedAt.UTC().Format(time.RFC3339), r.RunID)
	}
	if r.Reason != "" {
		d.line(func(t string) string { return d.Paint.State(r.State, t) }, "  %s", oneLine(r.Reason))
	}
	if r.Paused != nil {
		d.line(func(t string) string { return d.Paint.in(yellow, t) }, "  paused by %s%s", r.Paused.By, because(r.Paused.Why))
	}
	if r.Slack != nil {
		d.line(func(t string) string { return d.Paint.in(yellow, t) }, "  Slack is behind since %s: %s", r.Slack.Behind.UTC().Format("15:04 UTC"), r.Slack.Reason)
	}
	if r.Unanswered != "" {
		d.line(d.Paint.Bad, "  %s", oneLine(r.Unanswered))
	}
	d.audit()
	d.lines = append(d.lines, "")
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ": " + oneLine(why)
}

func (d *drawing) environment(i, rows int) {
	e := d.r.Environments[i]
	clusters := d.r.clusters(i)
	p, running := d.r.Promotions[e.Name]
	state := e.State
	if running && p.State != "" {
		state = p.State
	}
	d.line(func(t string) string { return d.Paint.State(state, t) }, "%s %s %s %s",
		mark(state), pad(Cut(e.Name, 16), 16), pad(string(state), 18), d.note(e, p, running, clusters))
	// The head says why the rollout ended; it is not said twice.
	if e.Result != nil && e.Result.Reason != "" && !strings.Contains(d.r.Reason, e.Result.Reason) {
		d.line(nil, "    %s", oneLine(e.Result.Reason))
	}
	if e.Result != nil && e.Result.Rollback != nil {
		d.line(nil, "    %s", Rollback(*e.Result.Rollback))
	}
	if state == contract.StatePending {
		return
	}
	shown := chosen(clusters, rows)
	for _, c := range shown {
		d.cluster(c)
	}
	if left := len(clusters) - len(shown); left > 0 {
		d.line(d.Paint.Dim, "    and %s more", story.Count(left, "cluster"))
	}
}

// note is what stands beside an environment's state.
func (d *drawing) note(e contract.EnvironmentState, p contract.PromoteStatus, running bool, clusters []contract.ClusterRow) string {
	var parts []string
	if len(clusters) > 0 {
		parts = append(parts, states(clusters))
	}
	if running && p.Wave != "" {
		parts = append(parts, "wave "+p.Wave)
	}
	if running && !p.SoakUntil.IsZero() && p.State == contract.StateSoaking {
		parts = append(parts, "soaks "+Ago(p.SoakUntil.Sub(d.Now))+" more")
	}
	if running && p.Paused {
		parts = append(parts, "paused")
	}
	if e.Result != nil && e.Result.Evidence != "" {
		parts = append(parts, "evidence "+Short(e.Result.Evidence))
	}
	return strings.Join(parts, ", ")
}

func states(clusters []contract.ClusterRow) string {
	words := make([]string, len(clusters))
	for i, c := range clusters {
		words[i] = c.State
	}
	return story.Count(len(clusters), "cluster") + ": " + tally(words)
}

// chosen takes the clusters that people look for: those that failed, those that
// move, and then the others.
func chosen(clusters []contract.ClusterRow, most int) []contract.ClusterRow {
	if len(clusters) <= most {
		return clusters
	}
	var failed, moving, rest []contract.ClusterRow
	for _, c := range clusters {
		switch c.State {
		case "failed", "rolled-back":
			failed = append(failed, c)
		case "staged", "live":
			moving = append(moving, c)
		default:
			rest = append(rest, c)
		}
	}
	return append(append(failed, moving...), rest...)[:most]
}

func (d *drawing) cluster(c contract.ClusterRow) {
	probes := ""
	if judged(c) {
		probes = fmt.Sprintf("%d/%d probes", c.Pairs-c.Failing, c.Pairs)
	}
	d.line(func(t string) string { return d.Paint.row(c.State, t) }, "    %s %s %s %s %s",
		pad(Cut(c.Cluster, 24), 24), pad(Cut(c.Wave, 10), 10), pad(c.State, 11), pad(probes, 15), oneLine(c.Reason))
}

// judged tells whether the row's probes were held against the pipeline: before
// the revision is live they are only a baseline.
func judged(c contract.ClusterRow) bool {
	return c.Pairs > 0 && (c.State == "verified" || c.State == "failed" || c.State == "rolled-back")
}

func mark(state contract.State) string {
	switch state {
	case contract.StateVerified:
		return "✓"
	case contract.StateFailed, contract.StateRolledBack, contract.StateRejected, contract.StateAborted:
		return "✗"
	case contract.StatePending:
		return "·"
	case contract.StateApproval, contract.StatePaused:
		return "?"
	default:
		return "▸"
	}
}

// Rollback says what was put back and what of it was proven.
func Rollback(b contract.RollbackResult) string {
	what := map[string]string{
		"last-verified":     "the last verified",
		"before-portcullis": "what was there before Portcullis",
		"absent":            "nothing, as before",
	}[string(b.Kind)]
	if b.Revision != "" {
		what += " " + Short(b.Revision)
	}
	var found string
	switch {
	case b.Live && b.Proven:
		found = "live, and the probes found what they found before"
	case b.Live:
		found = "live, but not proven by probes"
	default:
		found = "not live everywhere, and not proven"
	}
	return fmt.Sprintf("went back to %s: %s%s", what, found, because(b.Detail))
}

func (d *drawing) gate() {
	g := d.r.Gate
	if g == nil {
		return
	}
	d.lines = append(d.lines, "")
	until := ""
	if !g.Deadline.IsZero() {
		until = ", " + Ago(g.Deadline.Sub(d.Now)) + " left"
	}
	d.line(func(t string) string { return d.Paint.in(yellow, t) }, "gate of %s: %d of %s given%s",
		g.Environment, len(g.Votes), story.Count(g.Required, "approval"), until)
	for _, line := range append(strings.Split(approval.Terms(g.Voters), "; "), approval.Unknown(g.Voters)) {
		if line != "" {
			d.line(d.Paint.Dim, "  %s", line)
		}
	}
	for _, v := range g.Votes {
		d.line(nil, "  %s agreed%s", v.By, because(v.Why))
	}
	d.evidence(g.Evidence)
	d.line(nil, "  portcullis rollout approve %s --evidence %s --why …", d.r.Pipeline, Short(g.Evidence.Hash))
}

func (d *drawing) evidence(e contract.Evidence) {
	d.line(nil, "  evidence %s: %s", Short(e.Hash), d.r.files(e))
	for _, name := range sortedKeys(e.Passed) {
		d.line(d.Paint.Dim, "    %s passed with %s", name, Short(e.Passed[name]))
	}
}

// files says which files differ from what the environment has now.
func (r Rollout) files(e contract.Evidence) string {
	if len(e.Changes) == 0 && r.isNew(e.Environment) {
		return "everything is new here"
	}
	names := make([]string, 0, 3)
	for _, c := range e.Changes[:min(3, len(e.Changes))] {
		names = append(names, c.Kind+" "+c.Path)
	}
	if more := len(e.Changes) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return story.Count(len(e.Changes), "changed file") + sep(": ", strings.Join(names, ", "))
}

// isNew tells whether the environment has no revision yet.
func (r Rollout) isNew(environment string) bool {
	if r.Plan == nil {
		return false
	}
	for _, e := range r.Plan.Plan.Environments {
		for _, u := range e.Units {
			if e.Name == environment && (u.Before.Revision != "" || u.Before.Branch != "") {
				return false
			}
		}
	}
	return true
}

func sep(before, text string) string {
	if text == "" {
		return ""
	}
	return before + text
}

func (d *drawing) waiting() {
	if len(d.r.Waiting) == 0 {
		return
	}
	d.lines = append(d.lines, "")
	for i, w := range d.r.Waiting {
		if i == shownWaiting {
			d.line(d.Paint.Dim, "  and %d more", len(d.r.Waiting)-i)
			return
		}
		d.line(nil, "  %s", w.Text(d.Now))
	}
}

// Text is one line: what runs, how far it is, what it waits for, and why it failed before.
func (w Waiting) Text(now time.Time) string {
	text := w.Activity + sep(" ", w.Subject)
	if w.Environment != "" {
		text = w.Environment + " " + text
	}
	if w.Total > 0 {
		text += fmt.Sprintf(" %d/%d", w.Done, w.Total)
	}
	if w.Round > 0 {
		text += fmt.Sprintf(" round %d", w.Round)
	}
	if w.For != "" {
		text += ": " + oneLine(w.For)
	}
	if w.LastFailure != "" && w.Attempt > 1 {
		text += fmt.Sprintf(" (attempt %d; before: %s)", w.Attempt, oneLine(w.LastFailure))
	}
	if w.RetryAt.After(now) {
		text += ", again in " + Ago(w.RetryAt.Sub(now))
	}
	return text
}

func (d *drawing) story(most int) {
	log := d.r.log()
	if len(log) == 0 || most == 0 {
		return
	}
	d.lines = append(d.lines, "")
	for _, l := range log[max(0, len(log)-most):] {
		d.line(d.Paint.Dim, "  %s", Entry(l))
	}
}

// Entry is one line of the story.
func Entry(l contract.LogEntry) string {
	where := ""
	if l.Environment != "" {
		where = l.Environment + ": "
	}
	return l.At.UTC().Format("15:04:05") + "  " + where + oneLine(l.Message)
}

func (d *drawing) foot() {
	if !d.r.Running {
		d.lines = append(d.lines, "")
		d.line(func(t string) string { return d.Paint.Bold(d.Paint.State(d.r.State, t)) }, "ended: %s", d.r.State)
	}
}

func oneLine(text string) string { return strings.Join(strings.Fields(clean(text)), " ") }
