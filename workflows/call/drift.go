package call

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/audit"
	"portcullis.dev/portcullis/activities/deliver"
	"portcullis.dev/portcullis/rancher"
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

// Correct has Fleet apply a unit again, and waits for it, at most for timeout.
func Correct(ctx workflow.Context, in deliver.CorrectInput, timeout time.Duration) error {
	in.Timeout = timeout
	return do(options.Wait(ctx, timeout, "apply "+unit(in.UnitInput)+" again"), contract.ActCorrect, in)
}

// Uncorrect puts back what Correct changed of the GitRepo.
func Uncorrect(ctx workflow.Context, in deliver.CorrectInput) error {
	in.Timeout = rancher.DefaultSettleTimeout
	return do(options.Undo(ctx, in.Timeout, "stop correcting "+in.Unit.GitRepo), contract.ActUncorrect, in)
}
