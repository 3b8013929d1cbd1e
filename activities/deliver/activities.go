package deliver

import (
	"context"

	"portcullis.dev/portcullis/rancher"
)

// Activities plan against and write to Rancher and Fleet.
type Activities struct{}

// Clusters lists the inventory.
func (a *Activities) Clusters(ctx context.Context) ([]rancher.Cluster, error) { panic("owner") }

// Plan decides clusters, units, GitRepos and the way back. It writes nothing.
func (a *Activities) Plan(ctx context.Context, in PlanInput) (*Plan, error) { panic("owner") }

// Stage pins the unit's GitRepo to the commit, paused, and waits until Fleet has computed it for every cluster.
func (a *Activities) Stage(ctx context.Context, in UnitInput) (*Staged, error) { panic("owner") }

// Release lifts the pause.
func (a *Activities) Release(ctx context.Context, in UnitInput) error { panic("owner") }

// Settle waits until the commit is live on every cluster of the unit.
func (a *Activities) Settle(ctx context.Context, in UnitInput) (*Settled, error) { panic("owner") }

// Restore puts the unit back to what it was, holds the pipeline in the same write, and waits until that is live.
func (a *Activities) Restore(ctx context.Context, in RestoreInput) (*Settled, error) { panic("owner") }

// MarkVerified records the commit as verified on the unit's GitRepo.
func (a *Activities) MarkVerified(ctx context.Context, in VerifiedInput) error { panic("owner") }

// Hold sets or lifts the hold on every GitRepo of the pipeline.
func (a *Activities) Hold(ctx context.Context, in HoldInput) error { panic("owner") }
