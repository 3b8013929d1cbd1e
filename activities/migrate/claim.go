package migrate

import (
	"context"
	"errors"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/activity"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/rancher"
)

// Claims marks clusters that are being migrated, and knows which pipelines reach them.
type Claims interface {
	// SetMigration marks a cluster for a migration; a conflict where it is another's.
	SetMigration(ctx context.Context, cluster, id string) error
	// ClearMigration takes the mark off again, where it is this migration's.
	ClearMigration(ctx context.Context, cluster, id string) error
	// PipelinesOf names the pipelines that deliver to a cluster.
	PipelinesOf(ctx context.Context, cluster string) ([]string, error)
}

// Claim takes a cluster for a migration. It marks the cluster first and looks for
// rollouts then; a rollout starts first, and looks for the mark then: of two that
// come at the same time at most one goes on.
//
// Errors: Conflict (a rollout or another migration has it), Denied, Untrusted, Unavailable.
func (a *Activities) Claim(ctx context.Context, in ClaimInput) error {
	if err := a.claims.SetMigration(ctx, in.Cluster.Name, in.Migration); err != nil {
		return errs.FromRancher(err)
	}
	busy, err := a.rolloutOn(ctx, in.Cluster)
	if err != nil {
		return err
	}
	if busy == "" {
		return nil
	}
	if err := a.claims.ClearMigration(ctx, in.Cluster.Name, in.Migration); err != nil {
		return errs.FromRancher(err)
	}
	return errs.Conflict("cluster %s: the rollout %s is running; wait for it, or abort it", in.Cluster.Name, busy)
}

// Unclaim gives a cluster back. It can be called again.
func (a *Activities) Unclaim(ctx context.Context, in ClaimInput) error {
	return errs.Persist(errs.FromRancher(a.claims.ClearMigration(ctx, in.Cluster.Name, in.Migration)))
}

// rolloutOn names a rollout that runs and reaches the cluster, or "".
func (a *Activities) rolloutOn(ctx context.Context, cluster rancher.Cluster) (string, error) {
	pipelines, err := a.claims.PipelinesOf(ctx, cluster.Name)
	if err != nil {
		return "", errs.FromRancher(err)
	}
	for _, p := range pipelines {
		id := "rollout/" + p
		running, err := a.running(ctx, id)
		if err != nil {
			return "", errs.Unavailable("cluster %s: cannot see whether %s runs: %s", cluster.Name, id, oneLine(err.Error()))
		}
		if running {
			return id, nil
		}
	}
	return "", nil
}

// isRunning asks Temporal whether a workflow runs. One that is not known does not.
func isRunning(ctx context.Context, id string) (bool, error) {
	d, err := activity.GetClient(ctx).DescribeWorkflowExecution(ctx, id, "")
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return d.GetWorkflowExecutionInfo().GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, nil
}
