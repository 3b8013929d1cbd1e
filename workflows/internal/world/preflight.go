package world

import (
	"context"

	checks "portcullis.dev/portcullis/activities/preflight"
	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/probes/preflight"
)

// Preflight are the preflight activities of the model: every check passes, but on
// clusters that are bad.
type Preflight struct{ w *World }

// PlanMigration plans with what Check reports.
func (p *Preflight) PlanMigration(ctx context.Context, in checks.PlanInput) (*checks.Planned, error) {
	if err := p.w.did(ctx, "PlanMigration", in.Cluster.Name, false); err != nil {
		return nil, err
	}
	if c := p.w.Canal; c != nil && in.Cluster.Name == c.Cluster {
		return &checks.Planned{Plan: c.Plan(in.Target, in.Options), Preflight: preflight.Counts{Pass: 1}}, nil
	}
	facts := &preflight.ClusterFacts{Name: in.Cluster.Name, DaemonSets: preflight.Known([]preflight.CNISet{{Name: "canal", Flavour: preflight.FlavourCanal}})}
	return &checks.Planned{Plan: migration.Make(facts, nil, &preflight.Report{Target: in.Target}, in.Options), Preflight: preflight.Counts{Pass: 1}}, nil
}

// Check finds one node and nothing wrong with it.
func (p *Preflight) Check(ctx context.Context, in checks.Input) (*preflight.Report, error) {
	if err := p.w.did(ctx, "Preflight", in.Cluster.Name, false); err != nil {
		return nil, err
	}
	r := &preflight.Report{Cluster: in.Cluster.Name, Status: preflight.Pass, Target: in.Target, Nodes: 1, Counts: preflight.Counts{Pass: 1}}
	r.Results = []preflight.Result{{ID: "kernel-version", Status: preflight.Pass, Measured: "6.1"}}
	if p.w.Bad != nil && p.w.Bad(in.Cluster.Name, "") {
		r.Status, r.Results[0].Status, r.Counts = preflight.Fail, preflight.Fail, preflight.Counts{Fail: 1}
	}
	return r, nil
}

// CheckNode finds what the model of the cluster has.
func (p *Preflight) CheckNode(ctx context.Context, in checks.NodeInput) (*preflight.Report, error) {
	if err := p.w.did(ctx, "CheckNode", in.Node, false); err != nil {
		return nil, err
	}
	return p.w.Canal.CheckNode(in.Node), nil
}
