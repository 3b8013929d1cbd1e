package call

import (
	"fmt"

	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/audit"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/options"
)

// DriftScope finds what an audit looks at.
func DriftScope(ctx workflow.Context, in audit.ScopeInput) (audit.Scope, error) {
	return get[audit.Scope](options.Read(ctx, "clusters of "+in.Pipeline), contract.ActDriftScope, in)
}

// DriftClusters audits a batch of clusters.
func DriftClusters(ctx workflow.Context, in audit.BatchInput) (audit.Batch, error) {
	n := len(in.Unit.Clusters)
	summary := fmt.Sprintf("%s: %d clusters from %s", in.Unit.Environment, n, in.Unit.Clusters[0].Name)
	return get[audit.Batch](options.Audit(ctx, n, summary), contract.ActDriftClusters, in)
}

// DriftRecord tells the metrics how an audit ended.
func DriftRecord(ctx workflow.Context, in audit.Tally) error {
	return do(options.Tell(ctx, "metrics of "+in.Pipeline), contract.ActDriftRecord, in)
}
