package deliver

import (
	"context"
	"time"

	fleet "github.com/rancher/fleet/pkg/apis/fleet.cattle.io/v1alpha1"
	batchv1 "k8s.io/api/batch/v1"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/rancher"
)

// Fleet is the management cluster as these activities use it. *rancher.Client is
// one. Snapshot, Inventory and Groups read caches and may be behind; the others
// read and write the API server itself.
type Fleet interface {
	Workspace() string
	Inventory() ([]rancher.Cluster, error)
	Groups() ([]*fleet.ClusterGroup, error)
	Snapshot(gitRepo string) (rancher.Snapshot, error)
	// Watch returns a channel that receives after every change of what belongs
	// to the GitRepo, and how to stop.
	Watch(gitRepo string) (<-chan struct{}, func())

	GetGitRepo(ctx context.Context, name string) (*fleet.GitRepo, error)
	GitJobs(ctx context.Context, name string) ([]*batchv1.Job, error)
	ListGitRepos(ctx context.Context, having map[string]string) ([]fleet.GitRepo, error)
	CreateGitRepo(ctx context.Context, repo *fleet.GitRepo) (*fleet.GitRepo, error)
	PatchGitRepo(ctx context.Context, name string, patch map[string]any) (*fleet.GitRepo, error)
	DeleteGitRepo(ctx context.Context, name string) error
	ReadHold(ctx context.Context, pipeline string) (string, error)
	WriteHold(ctx context.Context, pipeline, reason string) error
	// Migrations returns which of the clusters are being migrated, and by which workflow.
	Migrations(ctx context.Context, clusters ...string) (map[string]string, error)
}

var _ Fleet = (*rancher.Client)(nil)

// Activities plan against and write to Rancher and Fleet.
type Activities struct {
	fleet   Fleet
	timings timings
	metrics *metrics
}

// timings are how long the waiting loops are patient with what.
type timings struct {
	// recheck is how often to look without being woken, and whether the API answers.
	recheck time.Duration
	// quiet is the least time between two looks: a thousand clusters make a
	// thousand events.
	quiet time.Duration
	// lasting is how long a failure must stand before it is believed.
	lasting time.Duration
	// lost is how long Fleet may say "done" while its Bundles say otherwise
	// before it is made to sync again; doubled each time, up to again.
	lost time.Duration
	// job is the same for a git job that failed.
	job   time.Duration
	again time.Duration
	// ask bounds one question to the API server inside a wait.
	ask time.Duration
}

func defaultTimings() timings {
	return timings{
		recheck: 3 * time.Second,
		quiet:   20 * time.Millisecond,
		lasting: 20 * time.Second,
		lost:    6 * time.Second,
		job:     10 * time.Second,
		again:   time.Minute,
		ask:     5 * time.Second,
	}
}

// New makes the activities on a client, which may still be filling its caches:
// until then they fail as Unavailable, and are retried.
func New(client *rancher.Client) *Activities { return newWith(client, defaultTimings()) }

func newWith(f Fleet, t timings) *Activities {
	return &Activities{fleet: f, timings: t, metrics: newMetrics()}
}

// Clusters lists the inventory.
func (a *Activities) Clusters(context.Context) (_ []rancher.Cluster, err error) {
	defer a.metrics.count("Clusters", &err)
	return a.fleet.Inventory()
}

// Stage pins the unit's GitRepo to the commit, paused, and waits until Fleet has
// computed it for every cluster of the unit, and for no other. It writes once for
// each rollout and commit.
func (a *Activities) Stage(ctx context.Context, in UnitInput) (_ *Staged, err error) {
	defer a.metrics.count("Stage", &err)
	if err := a.unmigrated(ctx, clusterNames(in.Unit.Clusters)); err != nil {
		return nil, err
	}
	w := a.begin(ctx, "staging", in)
	repo, err := a.stage(ctx, in)
	if err != nil {
		return nil, err
	}
	w.want.Generation = repo.Generation
	report, err := w.until(ctx, rancher.Computed, rancher.Report.AllComputed)
	if err != nil {
		return nil, err
	}
	return &Staged{Clusters: report.Clusters}, nil
}

// Release lifts the pause from what Stage wrote.
func (a *Activities) Release(ctx context.Context, in UnitInput) (err error) {
	defer a.metrics.count("Release", &err)
	if err := a.unmigrated(ctx, clusterNames(in.Unit.Clusters)); err != nil {
		return err
	}
	return a.release(ctx, in)
}

// Settle waits until the commit is live on every cluster of the unit.
func (a *Activities) Settle(ctx context.Context, in UnitInput) (_ *Settled, err error) {
	defer a.metrics.count("Settle", &err)
	w := a.begin(ctx, "settling", in)
	w.want.Complete = true // Stage saw the git job of this commit through
	report, err := w.until(ctx, rancher.Live, rancher.Report.AllLive)
	if err != nil {
		return nil, err
	}
	return &Settled{Clusters: report.Clusters, LiveAt: time.Now().UTC()}, nil
}

// Restore puts the unit back to what it was, holds the pipeline in the same
// write, and waits until that is live. It never gives up early: what it returns
// to has worked before. Refused credentials are retried, too: the way back waits
// for the person who mends them.
func (a *Activities) Restore(ctx context.Context, in RestoreInput) (_ *Settled, err error) {
	defer func() { err = errs.Persist(err) }()
	defer a.metrics.count("Restore", &err)
	w := a.begin(ctx, "restoring", in.UnitInput)
	w.patient = true
	if err := a.holdOthers(ctx, in.Pipeline, in.Unit.GitRepo, in.Reason); err != nil {
		return nil, err
	}
	if in.Unit.Before.Kind == rancher.RestoreAbsent {
		return a.remove(ctx, w, in)
	}
	repo, want, err := a.putBack(ctx, in)
	if err != nil {
		return nil, err
	}
	w.want = want
	w.want.Generation = repo.Generation
	report, err := w.until(ctx, rancher.Live, func(r rancher.Report) bool {
		return r.Waiting == "" && r.Done() == len(r.Clusters)
	})
	if err != nil {
		return nil, err
	}
	return &Settled{Clusters: report.Clusters, LiveAt: time.Now().UTC()}, nil
}

// MarkVerified records the commit as verified on the unit's GitRepo. Refused
// credentials are retried, as by Restore.
func (a *Activities) MarkVerified(ctx context.Context, in VerifiedInput) (err error) {
	defer func() { err = errs.Persist(err) }()
	defer a.metrics.count("MarkVerified", &err)
	return a.markVerified(ctx, in)
}

// Hold sets or lifts the hold on every GitRepo of the pipeline.
func (a *Activities) Hold(ctx context.Context, in HoldInput) (err error) {
	defer a.metrics.count("Hold", &err)
	return a.hold(ctx, in)
}
