package migrations

import (
	"strings"
	"testing"
	"time"

	"portcullis.dev/portcullis/deploy/lab/internal/flows"
)

// TestSingleNode: a cluster of one node moves in place, once somebody has said that they
// know what that means. Pods and held connections stay, and what policy denies is never
// open. An outage is possible: how long a flow failed is told, and not judged.
func TestSingleNode(t *testing.T) {
	const ack = "single-node"
	long(t)
	fresh(t, single)
	police(t)
	plan := planned(t)
	start := []string{"migrate", "start", cluster, "--plan", plan.Plan.Hash, "--calico", calico, "--by", by}
	refusal{args: []string{"migrate", "plan", cluster, "--calico", calico, "--mode", "drain"}, code: 10, says: []string{single.nodes[0], "the only one"}}.try(t)
	wanted := false
	for _, a := range plan.Plan.Acknowledge {
		if a.ID == ack {
			wanted = true
			continue
		}
		start = append(start, "--acknowledge", a.ID)
	}
	said := p.Call(t, 0, "migrate", "plan", cluster, "--calico", calico).Stdout
	if !wanted || !strings.Contains(said, "--acknowledge "+ack) {
		t.Fatalf("the plan does not ask for %s: %s", ack, said)
	}
	before := take(t)
	refusal{args: start, code: 3, says: []string{ack, cluster}}.try(t)
	before.same(t, 30*time.Second)

	had := pods(t)
	w := launch(t, plan)
	m := arrived(t, migrationLimit)
	s := w.stop(t)
	if s.Tries == 0 || s.Held == 0 || s.HeldLost > 0 || s.Opened > 0 {
		t.Errorf("held connections were to stay, and denied flows to be shut: %s", s)
	}
	if c := flows.Compare(had, pods(t)); !c.None() {
		t.Errorf("pods are not what they were: %+v", c)
	}
	if n := m.Node(single.nodes[0]); n.Mode != "in-place" || n.State != "calico" {
		t.Errorf("%+v", n)
	}
	clean(t)
	asWanted(t, plan)
	connected(t)
}
