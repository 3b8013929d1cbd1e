package view

import (
	"fmt"
	"time"
)

// changes tells of each node what is done to it. What has become of it is in the story.
func (m Migration) changes(t *Tail, add adder) {
	for _, n := range m.Nodes {
		now := n.State + " " + string(n.Step)
		was := t.rows[n.Name]
		t.rows[n.Name] = now
		if now != was && n.Step != "" {
			add("%s: %s, %s", n.Name, n.State, n.Step)
		}
	}
}

func (m Migration) gates(t *Tail, now time.Time, add adder) {
	key := ""
	if g := m.Gate; g != nil {
		key = fmt.Sprint(g.Node, g.Evidence, len(g.Votes))
	}
	if key != t.gate && m.Gate != nil {
		add("gate after %s: the other nodes wait for an approval; evidence %s", m.Gate.Node, Short(m.Gate.Evidence))
		add("to approve: %s", m.approval())
	}
	if m.OpensAt.After(now) && !m.OpensAt.Equal(t.opens) {
		add("the next window opens at %s", m.OpensAt.UTC().Format(time.RFC3339))
	}
	t.gate, t.opens = key, m.OpensAt
}

func (m Migration) reasons() []string {
	out := []string{m.Reason}
	for _, n := range m.Nodes {
		out = append(out, n.Reason)
	}
	return out
}
