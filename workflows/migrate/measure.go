package migrate

import (
	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/probes"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/measure"
	"portcullis.dev/portcullis/workflows/options"
)

// wire measures one cluster, in a child workflow: the evidence is large, and
// the history of a migration with many nodes would grow with every look.
type wire struct {
	cluster      rancher.Cluster
	requirements []probes.Requirement
	settings     probes.Settings
	baseline     *contract.BaselineBatch
	// subject is part of the children's IDs: a node, or the cluster itself.
	subject string
}

func (w wire) request(mode verify.Mode) measure.Request {
	return measure.Request{
		Pipeline: contract.Pipeline{
			// A pipeline's name has no slash, so that no rollout's child has this ID.
			Metadata: contract.Metadata{Name: contract.MigrateID(w.cluster.Name)},
			Spec:     contract.Spec{Probes: w.requirements, ProbeTimings: withDefaults(w.settings)},
		},
		Environment: w.subject,
		Phase:       string(mode),
		Clusters:    []rancher.Cluster{w.cluster},
		Mode:        mode,
	}
}

// before measures what the wire is before anything is changed.
func (w wire) before(ctx workflow.Context) (*contract.BaselineBatch, error) {
	req := w.request(verify.Baseline)
	req.Keep, req.EnsureAgent = true, options.AgentTimeout
	found, err := measure.Clusters(ctx, req)
	if err != nil {
		return nil, err
	}
	if bad := measure.Unmeasured(found.Clusters); bad != "" {
		return nil, errs.Failed("the wire of cluster %s could not be measured, so that nothing could be proven: %s", w.cluster.Name, bad)
	}
	if len(found.Kept) != 1 {
		return nil, errs.Failed("the wire of cluster %s was measured, and nothing was kept of it", w.cluster.Name)
	}
	return &found.Kept[0], nil
}

// compare measures whether the wire is as before, and returns the hash of what
// was found. The error says what is not as before, or why that could not be told.
func (w wire) compare(ctx workflow.Context) (string, error) {
	if w.baseline == nil {
		return "", errs.Failed("there is no measurement of cluster %s from before to compare with", w.cluster.Name)
	}
	req := w.request(verify.Compare)
	req.Want = []contract.BaselineBatch{*w.baseline}
	found, err := measure.Clusters(ctx, req)
	if err != nil {
		return "", err
	}
	if len(found.Clusters) == 0 {
		return "", errs.Failed("the wire of cluster %s was not measured", w.cluster.Name)
	}
	e := found.Clusters[0]
	switch {
	case e.Passed:
		return e.Hash, nil
	case e.Inconclusive:
		return e.Hash, errs.Failed("it could not be told whether the wire is as before: %s", e.Reason)
	}
	return e.Hash, errs.Failed("the wire is not as before: %s", e.Reason)
}
