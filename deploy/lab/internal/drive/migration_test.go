package drive

import "testing"

func TestAt(t *testing.T) {
	m := Migration{Steps: []string{"begin", "tunnels"}, Nodes: []MigrationNode{
		{Name: "pending", State: "pending"}, {Name: "leaves", State: "migrating", Step: "leave"}, {Name: "begins", State: "migrating"},
		{Name: "moved", State: "calico"}, {Name: "back", State: "canal"},
	}}
	for _, c := range []struct {
		node, step string
		want       bool
	}{
		{"", "begin", true}, {"", "tunnels", true}, {"", "split", false},
		{"pending", "check", false}, {"nowhere", "check", false}, {"begins", "check", false},
		{"leaves", "check", true}, {"leaves", "leave", true}, {"leaves", "swap", false},
		{"moved", "swap", true}, {"back", "leave", true},
	} {
		if got := m.At(c.node, c.step); got != c.want {
			t.Errorf("%s at %s: %t", c.node, c.step, got)
		}
	}
}
