package view

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/story"
)

// Migration is what is known of a cluster's migration at one moment. It is also
// what `migrate status -o json` prints.
type Migration struct {
	WorkflowID string `json:"workflowId"`
	RunID      string `json:"runId"`
	// Name is the cluster's.
	Name string `json:"name"`
	// Running is false once the workflow has ended.
	Running bool `json:"running"`
	contract.MigrateStatus
	FinishedAt time.Time `json:"finishedAt,omitzero"`
	// Waiting are the activities that have not ended, with what they wait for.
	Waiting []Waiting `json:"waiting,omitempty"`
	// Unanswered says why the workflow itself could not be asked; what is shown
	// then comes from Temporal's index.
	Unanswered string `json:"unanswered,omitempty"`
}

// Shared is what a migration has in common with a rollout.
func (m Migration) Shared() Rollout {
	r := Rollout{WorkflowID: m.WorkflowID, RunID: m.RunID, Running: m.Running, FinishedAt: m.FinishedAt, Waiting: m.Waiting, Unanswered: m.Unanswered}
	r.Pipeline, r.State, r.Reason, r.Log, r.StartedBy, r.StartedAt = m.Name, m.State, m.Reason, m.Log, m.StartedBy, m.StartedAt
	return r
}

// Silent keeps why nobody has answered.
func (m Migration) Silent(why string) Look {
	m.Unanswered = why
	return m
}

// shownNodes is how many nodes are drawn where the height is not limited.
const shownNodes = 40

func (m Migration) rows() int { return shownNodes }

// moving is a migration being drawn.
type moving struct {
	*drawing
	m Migration
}

func (m Migration) draw(shared *drawing, nodes, log int) {
	d := &moving{shared, m}
	d.head()
	d.steps()
	d.nodes(nodes)
	d.gate()
	d.stopped()
	d.waiting()
	d.story(log)
	d.foot()
}

func (d *moving) head() {
	m := d.m
	end := d.Now
	if !m.FinishedAt.IsZero() {
		end = m.FinishedAt
	}
	title := fmt.Sprintf("%s  %s", m.Name, m.State)
	if !m.StartedAt.IsZero() {
		title += "  " + Ago(end.Sub(m.StartedAt))
	}
	d.line(func(t string) string { return d.Paint.Bold(d.Paint.State(m.State, t)) }, "%s", title)
	if p := m.Plan; p != nil {
		d.line(nil, "  %s, plan %s", oneLine(fmt.Sprintf("Canal %s to Calico %s", p.From.Calico, p.Target.Version)), Short(p.Hash))
	}
	if m.StartedBy != "" {
		d.line(d.Paint.Dim, "  started by %s at %s, run %s", m.StartedBy, m.StartedAt.UTC().Format(time.RFC3339), m.RunID)
	}
	if m.Reason != "" {
		for _, part := range fold(oneLine(m.Reason), d.Width-2) {
			d.line(func(t string) string { return d.Paint.State(m.State, t) }, "  %s", part)
		}
	}
	if m.Paused != nil {
		d.line(func(t string) string { return d.Paint.in(yellow, t) }, "  paused by %s%s", m.Paused.By, because(m.Paused.Why))
	}
	if m.OpensAt.After(d.Now) {
		d.line(func(t string) string { return d.Paint.in(yellow, t) }, "  the next window opens in %s, at %s",
			Ago(m.OpensAt.Sub(d.Now)), m.OpensAt.UTC().Format(time.RFC3339))
	}
	if !m.Running && m.ended() && m.Proven {
		d.line(d.Paint.Good, "  proven: the wire is as it was before")
	}
	if m.Unanswered != "" {
		d.line(d.Paint.Bad, "  %s", oneLine(m.Unanswered))
	}
	d.lines = append(d.lines, "")
}

// ended tells the ends after which something had been changed.
func (m Migration) ended() bool {
	return m.State == contract.StateMigrated || m.State == contract.StateOriginal
}

// fold breaks text at spaces into lines of at most width characters; three at most.
func fold(text string, width int) []string {
	const most = 3
	var out []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		next := strings.TrimSpace(line + " " + word)
		if len([]rune(next)) > width && line != "" && len(out) < most-1 {
			out = append(out, line)
			next = word
		}
		line = next
	}
	return append(out, line)
}

// steps draws the way: the cluster's steps, and where the nodes come in it.
func (d *moving) steps() {
	m := d.m
	if len(m.Steps) == 0 && m.Step == "" && m.State != contract.StateMigrated {
		return
	}
	var parts []string
	for _, s := range migration.Preparation() {
		parts = append(parts, d.step(s))
	}
	if len(m.Nodes) > 0 {
		on := 0
		for _, n := range m.Nodes {
			if n.State == contract.NodeCalico {
				on++
			}
		}
		parts = append(parts, fmt.Sprintf("%s nodes %d/%d", mark(nodesState(m.Nodes, on)), on, len(m.Nodes)))
	}
	for _, s := range migration.Completion() {
		parts = append(parts, d.step(s))
	}
	d.line(nil, "%s", strings.Join(parts, "  "))
	d.lines = append(d.lines, "")
}

func nodesState(nodes []contract.NodeState, on int) contract.State {
	switch on {
	case len(nodes):
		return contract.StateVerified
	case 0:
		if !slices.ContainsFunc(nodes, func(n contract.NodeState) bool { return n.State != contract.NodePending }) {
			return contract.StatePending
		}
	}
	return contract.StateMigrating
}

func (d *moving) step(s migration.Step) string {
	m := d.m
	state := contract.StatePending
	switch {
	case m.Step == s:
		state = contract.StateMigrating
	case m.State == contract.StateMigrated || slices.Contains(m.Steps, s):
		state = contract.StateVerified
	}
	return mark(state) + " " + string(s)
}

// nodes draws the nodes in the plan's order, or the most telling where they are many.
func (d *moving) nodes(most int) {
	nodes := d.m.Nodes
	if len(nodes) == 0 {
		return
	}
	d.line(d.Paint.Dim, "  %s %s %s %s %s %s  %s", pad("NODE", 24), pad("ROLE", 13), pad("MODE", 8), pad("STATE", 9), pad("STEP", 8), pad("TIME", 7), "EVIDENCE")
	shown := telling(nodes, most)
	for _, n := range shown {
		d.node(n)
	}
	if left := len(nodes) - len(shown); left > 0 {
		words := make([]string, 0, len(nodes))
		for _, n := range nodes {
			words = append(words, n.State)
		}
		d.line(d.Paint.Dim, "  and %s more; of all %d: %s", story.Count(left, "node"), len(nodes), tally(words))
	}
}

// telling takes the nodes that people look for: those that failed, those that
// move, the next, and then the others.
func telling(nodes []contract.NodeState, most int) []contract.NodeState {
	if len(nodes) <= most {
		return nodes
	}
	sorted := slices.Clone(nodes)
	slices.SortStableFunc(sorted, func(a, b contract.NodeState) int { return cmp.Compare(weight(a), weight(b)) })
	return sorted[:most]
}

func weight(n contract.NodeState) int {
	switch {
	case n.Reason != "":
		return 0
	case n.State == contract.NodeMigrating || n.State == contract.NodeRestoring:
		return 1
	case n.State == contract.NodePending:
		return 2
	}
	return 3
}

func (d *moving) node(n contract.NodeState) {
	role := "worker"
	if n.ControlPlane {
		role = "control plane"
	}
	took := ""
	switch {
	case n.StartedAt.IsZero():
	case n.FinishedAt.Before(n.StartedAt):
		took = Ago(d.Now.Sub(n.StartedAt))
	default:
		took = Ago(n.FinishedAt.Sub(n.StartedAt))
	}
	note := Short(n.Evidence)
	if n.Own > 0 {
		note = strings.TrimSpace(note + "  own " + n.Own.Round(100*time.Millisecond).String())
	}
	state := nodeState(n)
	d.line(func(t string) string { return d.Paint.State(state, t) }, "%s %s %s %s %s %s %s  %s", mark(state),
		pad(Cut(n.Name, 24), 24), pad(role, 13), pad(string(n.Mode), 8), pad(n.State, 9), pad(string(n.Step), 8), pad(took, 7), note)
	if n.Reason != "" {
		for _, part := range fold(oneLine(n.Reason), d.Width-4) {
			d.line(nil, "    %s", part)
		}
	}
}

// nodeState maps a node's state to one whose mark and colour say the same.
func nodeState(n contract.NodeState) contract.State {
	switch {
	case n.State == contract.NodeCalico:
		return contract.StateVerified
	case n.State == contract.NodeRestoring:
		return contract.StateRollingBack
	case n.State == contract.NodeCanal && n.Reason != "":
		return contract.StateFailed
	case n.State == contract.NodePending || n.State == contract.NodeCanal:
		return contract.StatePending
	}
	return contract.StateMigrating
}

func (d *moving) gate() {
	g := d.m.Gate
	if g == nil {
		return
	}
	d.lines = append(d.lines, "")
	d.line(func(t string) string { return d.Paint.in(yellow, t) }, "gate after %s: the other nodes wait for an approval, %s by now",
		g.Node, Ago(d.Now.Sub(g.Since)))
	for _, v := range g.Votes {
		d.line(nil, "  %s agreed%s", v.By, because(v.Why))
	}
	d.line(nil, "  evidence %s", g.Evidence)
	d.line(nil, "  %s", d.m.approval())
}

// approval is the command that opens the gate.
func (m Migration) approval() string {
	return fmt.Sprintf("portcullis migrate approve %s --evidence %s --why …", m.Name, Short(m.Gate.Evidence))
}

// stopped says what can be done about a migration that has stopped.
func (d *moving) stopped() {
	if !d.m.Running || d.m.State != contract.StateStopped {
		return
	}
	d.lines = append(d.lines, "")
	d.line(func(t string) string { return d.Paint.in(yellow, t) }, "stopped: every node forwards as it stands, and can while you look")
	d.line(nil, "  portcullis migrate resume %s     tries again", d.m.Name)
	if slices.Contains(d.m.Steps, migration.Clean) {
		return // what Clean removes is what the way back needs
	}
	d.line(nil, "  portcullis migrate abort %s      takes every node back to Canal", d.m.Name)
}
