package view

import (
	"fmt"
	"time"
	"unicode/utf8"

	"portcullis.dev/portcullis/workflows/contract"
)

// MigrationTail turns what is seen of a migration, time after time, into lines that
// were not given before.
type MigrationTail struct {
	tail  Tail
	nodes map[string]string
	opens time.Time
}

// Next gives the lines that are new in m.
func (t *MigrationTail) Next(m Migration, now time.Time) []string {
	if t.nodes == nil {
		t.nodes = map[string]string{}
		t.tail.told, t.tail.waiting = map[contract.LogEntry]bool{}, map[string]string{}
	}
	shared := m.shared()
	lines := t.tail.story(shared)
	stamp := now.UTC().Format("15:04:05") + "  "
	add := func(format string, args ...any) { lines = append(lines, stamp+clean(fmt.Sprintf(format, args...))) }
	t.moved(m, add)
	t.tail.waits(shared, now, add)
	t.gate(m, add)
	if m.OpensAt.After(now) && !m.OpensAt.Equal(t.opens) {
		add("the next window opens at %s", m.OpensAt.UTC().Format(time.RFC3339))
	}
	t.opens = m.OpensAt
	if m.Unanswered != t.tail.silent {
		if t.tail.silent = m.Unanswered; m.Unanswered != "" {
			add("%s", oneLine(m.Unanswered))
		}
	}
	if m.State != t.tail.state {
		t.tail.state = m.State
		add("%s: %s%s", m.Name, m.State, because(m.Reason))
	}
	for i := range lines {
		lines[i] = t.tail.once(lines[i], migrationReasons(m))
	}
	return lines
}

// moved tells of each node what is done to it. What has become of it is in the story.
func (t *MigrationTail) moved(m Migration, add func(string, ...any)) {
	for _, n := range m.Nodes {
		now := n.State + " " + string(n.Step)
		was := t.nodes[n.Name]
		t.nodes[n.Name] = now
		if now != was && n.Step != "" {
			add("%s: %s, %s", n.Name, n.State, n.Step)
		}
	}
}

func (t *MigrationTail) gate(m Migration, add func(string, ...any)) {
	key := ""
	if g := m.Gate; g != nil {
		key = fmt.Sprint(g.Node, g.Evidence, len(g.Votes))
	}
	if key == t.tail.gate {
		return
	}
	if t.tail.gate = key; m.Gate != nil {
		add("gate after %s: the other nodes wait for an approval; evidence %s", m.Gate.Node, Short(m.Gate.Evidence))
		add("to approve: %s", m.approval())
	}
}

// migrationReasons are the long reasons that m gives in more than one place.
func migrationReasons(m Migration) (out []string) {
	add := func(reason string) {
		if reason = oneLine(reason); utf8.RuneCountInString(reason) >= longReason {
			out = append(out, reason)
		}
	}
	add(m.Reason)
	for _, n := range m.Nodes {
		add(n.Reason)
	}
	return out
}
