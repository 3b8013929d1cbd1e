package world

import (
	"context"
	"time"

	"portcullis.dev/portcullis/activities/audit"
	"portcullis.dev/portcullis/activities/deliver"
	"portcullis.dev/portcullis/rancher/drift"
)

// Audit are the auditing activities of the model: every cluster is clean, but those in
// Drifting.
type Audit struct{ w *World }

// Scope has the clusters of every environment.
func (a *Audit) Scope(ctx context.Context, in audit.ScopeInput) (*audit.Scope, error) {
	if err := a.w.did(ctx, "Scope", in.Pipeline, false); err != nil {
		return nil, err
	}
	out := &audit.Scope{}
	for _, env := range a.w.plans {
		for _, u := range env.Units {
			out.Units = append(out.Units, drift.Unit{
				Environment: env.Name, GitRepo: u.GitRepo, Generation: 1, Revision: u.Before.Revision, Moving: a.w.Moving[u.GitRepo], Clusters: u.Clusters,
			})
		}
	}
	return out, nil
}

// Clusters finds one extra policy on each cluster that drifts.
func (a *Audit) Clusters(ctx context.Context, in audit.BatchInput) (*audit.Batch, error) {
	if err := a.w.did(ctx, "Audit", in.Unit.Clusters[0].Name, false); err != nil {
		return nil, err
	}
	out := &audit.Batch{States: map[drift.State]int{}, Findings: map[drift.Category]int{}, Requests: 11}
	found := make([]drift.Cluster, len(in.Unit.Clusters))
	for i, c := range in.Unit.Clusters {
		found[i] = drift.Cluster{Cluster: c.Name, Environment: in.Unit.Environment, GitRepo: in.Unit.GitRepo, Revision: in.Unit.Revision}
		if in.Unit.Moving != "" {
			found[i].State, found[i].Reason = drift.Moving, in.Unit.Moving
		} else {
			out.Measurable = append(out.Measurable, c.Name)
		}
		if name := a.w.Drifting[c.Name]; name != "" {
			found[i].Findings = []drift.Finding{{Category: drift.Extra, Key: drift.Key{APIVersion: drift.Networking, Kind: "NetworkPolicy", Namespace: "shop", Name: name}}}
		}
		if name := a.w.gone(c.Name); name != "" && in.Unit.Moving == "" {
			found[i].Findings = append(found[i].Findings, drift.Finding{Category: drift.Missing, Key: drift.Key{APIVersion: drift.Networking, Kind: "NetworkPolicy", Namespace: "shop", Name: name}})
		}
		drift.Excuse(found[i].Findings, in.Ignores, c.Labels, time.Now())
		found[i].Settle()
		out.States[found[i].State]++
		out.Ignored += found[i].Ignored
		for category, n := range found[i].Counts {
			out.Findings[category] += n
		}
		out.Digest.Add(&found[i])
		out.Fix.Add(&found[i])
		out.Briefs = drift.Briefs(out.Briefs, &found[i], audit.MostBriefs)
	}
	var err error
	out.Data, err = drift.Pack(found, in.Budget)
	return out, err
}

// Record keeps nothing.
func (a *Audit) Record(ctx context.Context, in audit.Tally) error {
	return a.w.did(ctx, "Record", in.Pipeline, false)
}

func (w *World) gone(cluster string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.Gone[cluster]
}

// SetGone takes a policy away from a cluster; an empty name puts it back.
func (w *World) SetGone(cluster, name string) { w.set(w.Gone, cluster, name) }

// Correct puts everything back that is gone.
func (d *Deliver) Correct(ctx context.Context, in deliver.CorrectInput) (*deliver.Settled, error) {
	if err := d.w.did(ctx, "Correct", in.Unit.GitRepo, true); err != nil {
		return nil, err
	}
	for _, c := range in.Unit.Clusters {
		if !d.w.Stubborn[c.Name] {
			d.w.set(d.w.Gone, c.Name, "")
		}
	}
	return d.settled(in.UnitInput), nil
}

// Uncorrect is noted.
func (d *Deliver) Uncorrect(ctx context.Context, in deliver.CorrectInput) error {
	return d.w.did(ctx, "Uncorrect", in.Unit.GitRepo, true)
}
