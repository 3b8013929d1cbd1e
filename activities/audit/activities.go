package audit

import (
	"context"
	"sync"
	"time"

	fleet "github.com/rancher/fleet/pkg/apis/fleet.cattle.io/v1alpha1"
	"k8s.io/client-go/rest"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/pace"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/rancher/drift"
)

// Fleet is the management cluster as these activities use it. *rancher.Client is
// one. Inventory and Snapshot read caches and may be behind.
type Fleet interface {
	Inventory() ([]rancher.Cluster, error)
	Snapshot(gitRepo string) (rancher.Snapshot, error)
	ListGitRepos(ctx context.Context, having map[string]string) ([]fleet.GitRepo, error)
}

// Clusters gives access to downstream clusters.
type Clusters interface {
	// REST returns how to talk to the API server of a cluster, by Rancher's ID.
	REST(clusterID string) (*rest.Config, error)
}

const (
	// clustersAtOnce bounds the clusters of a batch that are read at a time.
	clustersAtOnce = 8
	// clusterTimeout bounds one cluster, with every retry of its requests.
	clusterTimeout = 45 * time.Second
	// heartbeatEvery is the time between two heartbeats.
	heartbeatEvery = 5 * time.Second
)

// Activities audit.
type Activities struct {
	fleet    Fleet
	clusters Clusters
	wishes   *wishes
	metrics  *metrics
	now      func() time.Time
	// patience is how long Fleet may seem not to have a revision live, before that is believed:
	// the caches may be behind.
	patience time.Duration
	// beforeRecheck is how long is waited before a look at the caches is made again.
	beforeRecheck time.Duration
}

// New returns the activities.
func New(f Fleet, clusters Clusters) *Activities {
	return &Activities{
		fleet: f, clusters: clusters, wishes: newWishes(), metrics: newMetrics(), now: time.Now,
		patience: 15 * time.Second, beforeRecheck: time.Second,
	}
}

// Scope finds the clusters of the pipeline, the GitRepos that deliver to them, and
// what was edited on these by hand.
func (a *Activities) Scope(ctx context.Context, in ScopeInput) (_ *Scope, err error) {
	defer a.metrics.count("Scope", &err)
	for _, i := range in.Ignores {
		if err := i.Check(); err != nil {
			return nil, errs.Invalid("pipeline %s: %v", in.Pipeline, err)
		}
	}
	clusters, err := a.fleet.Inventory()
	if err != nil {
		return nil, err
	}
	repos, err := a.fleet.ListGitRepos(ctx, nil)
	if err != nil {
		return nil, err
	}
	req := drift.ScopeRequest{
		Pipeline: in.Pipeline, Source: in.Source, Environments: in.Environments, Clusters: clusters, GitRepos: repos,
		Delivered: map[string][]string{}, Now: a.now(),
	}
	for i := range repos {
		name := repos[i].Name
		if req.Delivered[name], err = a.delivered(name); err != nil {
			return nil, err
		}
	}
	units, err := drift.Scope(req)
	if err != nil {
		return nil, errs.Invalid("pipeline %s: %v", in.Pipeline, err)
	}
	for i := range units {
		drift.Excuse(units[i].Findings, in.Ignores, nil, a.now())
	}
	return &Scope{Units: units, Expired: drift.ExpiredOf(in.Ignores, a.now())}, nil
}

// delivered are the clusters that Fleet has BundleDeployments of the GitRepo for.
func (a *Activities) delivered(gitRepo string) ([]string, error) {
	s, err := a.fleet.Snapshot(gitRepo)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	var out []string
	for _, d := range s.Deployments {
		if name := d.Labels[fleet.ClusterLabel]; name != "" && !seen[name] {
			seen[name] = true
			out = append(out, name)
		}
	}
	return out, nil
}

// Clusters audits the clusters of a batch. One that cannot be reached, or only in part, is
// a result; the errors are those of the management cluster, and cancellation.
func (a *Activities) Clusters(ctx context.Context, in BatchInput) (_ *Batch, err error) {
	defer a.metrics.count("Clusters", &err)
	beat := newBeat(ctx, len(in.Unit.Clusters))
	defer beat.stop()
	before, err := a.deliveries(ctx, in.Unit, beat)
	if err != nil {
		return nil, err
	}
	found, reached := make([]drift.Cluster, len(in.Unit.Clusters)), make([]bool, len(in.Unit.Clusters))
	slots := make(chan struct{}, clustersAtOnce)
	var group sync.WaitGroup
	for i, c := range in.Unit.Clusters {
		group.Go(func() {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			defer func() { <-slots }()
			found[i], reached[i] = a.cluster(ctx, in, c, before[c.Name])
			beat.done()
		})
	}
	group.Wait()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err := a.recheck(in.Unit, before, found); err != nil {
		return nil, err
	}
	return a.batch(in, found, reached)
}

// deliveries asks the caches what Fleet has live, and asks again for a while where that is
// not what was verified.
func (a *Activities) deliveries(ctx context.Context, u drift.Unit, beat *beat) (map[string]*drift.Delivered, error) {
	if u.GitRepo == "" || u.Moving != "" || u.Unknown != "" {
		return nil, nil
	}
	for deadline := a.now().Add(a.patience); ; {
		s, err := a.fleet.Snapshot(u.GitRepo)
		if err != nil {
			return nil, err
		}
		behind := s.GitRepo == nil || s.GitRepo.Generation < u.Generation
		found := drift.Deliveries(s, u)
		late := a.now().After(deadline)
		switch {
		case behind && late:
			return nil, errs.Unavailable("the view of GitRepo %s is behind: generation %d was not seen yet", u.GitRepo, u.Generation)
		case !behind && (late || live(found)):
			return found, nil
		}
		beat.waiting("Fleet's view of " + u.GitRepo)
		if err := pace.Sleep(ctx, a.beforeRecheck); err != nil {
			return nil, err
		}
	}
}

func live(found map[string]*drift.Delivered) bool {
	for _, d := range found {
		if len(d.Findings) > 0 {
			return false
		}
	}
	return true
}

// recheck looks whether what was compared with was still so at the end. Where it was not, a rollout
// or a hand changed it meanwhile, and what was found says nothing.
func (a *Activities) recheck(u drift.Unit, before map[string]*drift.Delivered, found []drift.Cluster) error {
	if before == nil {
		return nil
	}
	s, err := a.fleet.Snapshot(u.GitRepo)
	if err != nil {
		return err
	}
	moved := s.GitRepo == nil || s.GitRepo.Generation != u.Generation
	after := drift.Deliveries(s, u)
	for i := range found {
		c := &found[i]
		if b, n := before[c.Cluster], after[c.Cluster]; moved || b == nil || n == nil || !b.SameReleases(n) {
			*c = drift.Cluster{
				Cluster: c.Cluster, Environment: c.Environment, GitRepo: c.GitRepo, Revision: c.Revision, Requests: c.Requests,
				State: drift.Moving, Reason: "GitRepo " + u.GitRepo + " was changed while the audit read the cluster",
			}
		}
	}
	return nil
}

// batch packs what was found.
func (a *Activities) batch(in BatchInput, found []drift.Cluster, reached []bool) (*Batch, error) {
	out := &Batch{States: map[drift.State]int{}, Findings: map[drift.Category]int{}}
	for i := range found {
		c := &found[i]
		out.Digest.Add(c)
		out.Fix.Add(c)
		out.Briefs = drift.Briefs(out.Briefs, c, MostBriefs)
		out.States[c.State]++
		out.Ignored += c.Ignored
		out.Requests = max(out.Requests, c.Requests)
		for category, n := range c.Counts {
			out.Findings[category] += n
		}
		if reached[i] && c.State != drift.Moving {
			out.Measurable = append(out.Measurable, c.Cluster)
		}
	}
	var err error
	if out.Data, err = drift.Pack(found, in.Budget); err != nil {
		return nil, errs.Failed("what was found on clusters of %s could not be packed: %v", in.Unit.GitRepo, err)
	}
	return out, nil
}

// Record tells the metrics how an audit ended.
func (a *Activities) Record(_ context.Context, in Tally) error {
	a.metrics.record(in)
	return nil
}

// beat heartbeats how far a batch is.
type beat struct {
	mu       sync.Mutex
	progress Progress
	stop     func()
}

func newBeat(ctx context.Context, total int) *beat {
	b := &beat{progress: Progress{Phase: "auditing", Total: total}}
	b.stop = pace.Heartbeat(ctx, heartbeatEvery, b.soFar)
	return b
}

func (b *beat) soFar() Progress {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.progress
}

func (b *beat) done() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.progress.Ready++
	b.progress.Waiting = ""
}

func (b *beat) waiting(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.progress.Waiting = what
}
