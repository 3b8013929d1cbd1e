package drive

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Migration is what the end-to-end tests read of `migrate status -o json`.
type Migration struct {
	RunID   string          `json:"runId"`
	Running bool            `json:"running"`
	State   string          `json:"state"`
	Reason  string          `json:"reason"`
	Step    string          `json:"step"`
	Steps   []string        `json:"steps"`
	Nodes   []MigrationNode `json:"nodes"`
	Proven  bool            `json:"proven"`
	Gate    *struct {
		Node     string `json:"node"`
		Evidence string `json:"evidence"`
	} `json:"gate"`
	Log     []LogEntry `json:"log"`
	Waiting []Waiting  `json:"waiting"`
}

// MigrationNode is one node of a Migration.
type MigrationNode struct {
	Name       string        `json:"name"`
	State      string        `json:"state"`
	Step       string        `json:"step"`
	Mode       string        `json:"mode"`
	Reason     string        `json:"reason"`
	Evidence   string        `json:"evidence"`
	StartedAt  time.Time     `json:"startedAt"`
	FinishedAt time.Time     `json:"finishedAt"`
	Own        time.Duration `json:"own"`
}

// Node finds one by name.
func (m Migration) Node(name string) MigrationNode {
	for _, n := range m.Nodes {
		if n.Name == name {
			return n
		}
	}
	return MigrationNode{Name: name}
}

// nodeSteps are the steps of a node, in their order.
var nodeSteps = []string{"check", "evict", "leave", "swap", "uncordon"}

// At tells whether a step has begun: of a node or, where that is empty, of the
// cluster. What is over has been begun, too: some steps last for a moment only.
func (m Migration) At(node, step string) bool {
	if node == "" {
		return slices.Contains(m.Steps, step)
	}
	n := m.Node(node)
	switch n.State {
	case "", "pending":
		return false
	case "migrating":
		return slices.Index(nodeSteps, n.Step) >= slices.Index(nodeSteps, step)
	}
	return true
}

// String is a short form for failure messages.
func (m Migration) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "migration %s %s (%s), proven %t", m.State, m.Step, m.Reason, m.Proven)
	for _, n := range m.Nodes {
		fmt.Fprintf(&b, "; %s %s %s %s", n.Name, n.State, n.Step, n.Reason)
	}
	for _, w := range m.Waiting {
		fmt.Fprintf(&b, "; waiting %s %s: %s %s", w.Environment, w.Activity, w.For, w.LastFailure)
	}
	return b.String()
}

// Migration reads the last migration of a cluster.
func (p *Portcullis) Migration(ctx context.Context, cluster string) (Migration, error) {
	var m Migration
	_, err := p.JSON(ctx, &m, "migrate", "status", cluster)
	return m, err
}

// UntilMigration waits until ok holds for the migration of a cluster, or the limit is over.
func (p *Portcullis) UntilMigration(ctx context.Context, cluster string, limit time.Duration, what string, ok func(Migration) bool) (Migration, error) {
	return until(ctx, limit, what, func(ctx context.Context) (Migration, error) { return p.Migration(ctx, cluster) }, ok)
}

// MigrationPlan is what a start needs of `migrate plan -o json`.
type MigrationPlan struct {
	Plan struct {
		Hash   string `json:"hash"`
		Target struct {
			VNI       int    `json:"vni"`
			Port      int    `json:"port"`
			BlockSize int    `json:"blockSize"`
			PodCIDR   string `json:"podCIDR"`
		} `json:"target"`
		Nodes []struct {
			Name         string `json:"name"`
			ControlPlane bool   `json:"controlPlane"`
			Mode         string `json:"mode"`
		} `json:"nodes"`
		Acknowledge []struct {
			ID string `json:"id"`
		} `json:"acknowledge"`
		Disturbed []struct {
			Node     string `json:"node"`
			Workload string `json:"workload"`
			How      string `json:"how"`
		} `json:"disturbed"`
		Refused []string `json:"refused"`
	} `json:"plan"`
}

// PlanMigration plans the migration of a cluster with a manifest, and other flags.
func (p *Portcullis) PlanMigration(ctx context.Context, cluster, manifest string, flags ...string) (MigrationPlan, Result, error) {
	var plan MigrationPlan
	r, err := p.JSON(ctx, &plan, append([]string{"migrate", "plan", cluster, "--calico", manifest}, flags...)...)
	return plan, r, err
}

// StartMigration starts what was planned, with the same manifest and flags.
func (p *Portcullis) StartMigration(ctx context.Context, cluster string, plan MigrationPlan, by, manifest string, flags ...string) (Result, error) {
	args := append([]string{"migrate", "start", cluster, "--plan", plan.Plan.Hash, "--calico", manifest, "--by", by}, flags...)
	for _, a := range plan.Plan.Acknowledge {
		args = append(args, "--acknowledge", a.ID)
	}
	return p.CLI(ctx, args...)
}
