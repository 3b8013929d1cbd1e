package deliver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"sync"
	"time"

	fleet "github.com/rancher/fleet/pkg/apis/fleet.cattle.io/v1alpha1"
	"github.com/rancher/wrangler/v3/pkg/genericcondition"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"portcullis.dev/portcullis/rancher"
)

// fakeFleet keeps GitRepos and does what Fleet does with them, or fails to, in
// the ways that were seen of it. The lab has the real one; this one is for what
// cannot be made to happen there at will.
type fakeFleet struct {
	mu       sync.Mutex
	clusters []rancher.Cluster
	repos    map[string]*fleet.GitRepo
	bundles  map[string]*fleet.Bundle
	deployed map[string]map[string]*rancher.BundleDeployment // GitRepo -> cluster
	holds    map[string]string
	// migrating maps clusters to the workflow that migrates them.
	migrating map[string]string
	waiters   map[chan struct{}]bool
	writes    int
	// reads counts questions about migrations.
	reads int
	// replaced are the clusters on which an agent applied by force, in that order.
	replaced []string

	// down makes every call to the API server fail.
	down error
	// loseRevisions makes Fleet say "done" without a git job, until forced this often.
	loseRevisions int
	// failJobs makes this many git jobs fail.
	failJobs int
	// conflicts makes this many writes lose a race.
	conflicts int
	// offline clusters have an agent that applies nothing; broken ones, one that fails.
	offline, broken map[string]bool
	// slow keeps objects of a deleted GitRepo until sweep.
	slow bool
}

func newFake(names ...string) *fakeFleet {
	f := &fakeFleet{
		repos: map[string]*fleet.GitRepo{}, bundles: map[string]*fleet.Bundle{}, deployed: map[string]map[string]*rancher.BundleDeployment{},
		holds: map[string]string{}, migrating: map[string]string{}, waiters: map[chan struct{}]bool{}, offline: map[string]bool{}, broken: map[string]bool{},
	}
	for _, n := range names {
		f.clusters = append(f.clusters, rancher.Cluster{ID: "c-" + n, Name: n, Connected: true, AgentLastSeen: time.Now(), Labels: map[string]string{"env": "dev", "name": n}})
	}
	return f
}

func (f *fakeFleet) Workspace() string                      { return "fleet-default" }
func (f *fakeFleet) Groups() ([]*fleet.ClusterGroup, error) { return nil, nil }

func (f *fakeFleet) Inventory() ([]rancher.Cluster, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]rancher.Cluster(nil), f.clusters...), nil
}

func (f *fakeFleet) Watch(string) (<-chan struct{}, func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ch := make(chan struct{}, 1)
	f.waiters[ch] = true
	return ch, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.waiters, ch)
	}
}

// with changes the world and wakes those who wait.
func (f *fakeFleet) with(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	for name := range f.repos {
		f.reconcile(name)
	}
	for ch := range f.waiters {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

func (f *fakeFleet) Snapshot(name string) (rancher.Snapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var s rancher.Snapshot
	if r := f.repos[name]; r != nil {
		s.GitRepo = r.DeepCopy()
	}
	if b := f.bundles[name]; b != nil {
		s.Bundles = append(s.Bundles, b.DeepCopy())
	}
	for _, d := range f.deployed[name] {
		if copied, ok := d.DeepCopyObject().(*rancher.BundleDeployment); ok {
			s.Deployments = append(s.Deployments, copied)
		}
	}
	return s, nil
}

func (f *fakeFleet) GetGitRepo(_ context.Context, name string) (*fleet.GitRepo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down != nil {
		return nil, f.down
	}
	if r := f.repos[name]; r != nil {
		return r.DeepCopy(), nil
	}
	return nil, nil
}

func (f *fakeFleet) Migrations(_ context.Context, names ...string) (map[string]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down != nil {
		return nil, f.down
	}
	f.reads++
	found := map[string]string{}
	for _, name := range names {
		if by := f.migrating[name]; by != "" {
			found[name] = by
		}
	}
	return found, nil
}

func (f *fakeFleet) GitJobs(context.Context, string) ([]*batchv1.Job, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return nil, f.down
}

func (f *fakeFleet) ListGitRepos(_ context.Context, having map[string]string) ([]fleet.GitRepo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []fleet.GitRepo
	for _, r := range f.repos {
		if labels.SelectorFromSet(having).Matches(labels.Set(r.Labels)) {
			out = append(out, *r.DeepCopy())
		}
	}
	return out, f.down
}

func (f *fakeFleet) CreateGitRepo(_ context.Context, repo *fleet.GitRepo) (*fleet.GitRepo, error) {
	var out *fleet.GitRepo
	var err error
	f.with(func() {
		if err = f.down; err != nil {
			return
		}
		if f.repos[repo.Name] != nil {
			err = &rancher.Error{Kind: rancher.KindConflict, Message: "exists"}
			return
		}
		made := repo.DeepCopy()
		made.Generation, made.ResourceVersion = 1, "1"
		f.repos[repo.Name] = made
		f.writes++
		out = made.DeepCopy()
	})
	return out, err
}

func (f *fakeFleet) PatchGitRepo(_ context.Context, name string, patch map[string]any) (*fleet.GitRepo, error) {
	var out *fleet.GitRepo
	var err error
	f.with(func() {
		if err = f.down; err != nil {
			return
		}
		was := f.repos[name]
		meta, _ := patch["metadata"].(map[string]any)
		if f.conflicts > 0 || was == nil || meta["resourceVersion"] != was.ResourceVersion {
			f.conflicts--
			err = &rancher.Error{Kind: rancher.KindConflict, Message: "changed in between"}
			return
		}
		now := patched(was, patch)
		before, _ := json.Marshal(was.Spec)
		after, _ := json.Marshal(now.Spec)
		if string(before) != string(after) {
			now.Generation++
		}
		rv, _ := strconv.Atoi(was.ResourceVersion)
		now.ResourceVersion = strconv.Itoa(rv + 1)
		f.repos[name] = now
		f.writes++
		out = now.DeepCopy()
	})
	return out, err
}

func patched(repo *fleet.GitRepo, patch map[string]any) *fleet.GitRepo {
	var doc, change map[string]any
	data, _ := json.Marshal(repo)
	_ = json.Unmarshal(data, &doc)
	data, _ = json.Marshal(patch)
	_ = json.Unmarshal(data, &change)
	merge(doc, change)
	data, _ = json.Marshal(doc)
	out := &fleet.GitRepo{}
	_ = json.Unmarshal(data, out)
	return out
}

func merge(doc, change map[string]any) {
	for k, v := range change {
		inner, isMap := v.(map[string]any)
		old, wasMap := doc[k].(map[string]any)
		switch {
		case v == nil:
			delete(doc, k)
		case isMap && wasMap:
			merge(old, inner)
		default:
			doc[k] = v
		}
	}
}

func (f *fakeFleet) DeleteGitRepo(_ context.Context, name string) error {
	f.with(func() {
		delete(f.repos, name)
		if !f.slow {
			delete(f.bundles, name)
			delete(f.deployed, name)
		}
	})
	return nil
}

func (f *fakeFleet) ReadHold(_ context.Context, pipeline string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.holds[pipeline], f.down
}

func (f *fakeFleet) WriteHold(_ context.Context, pipeline, reason string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.holds[pipeline] = reason
	return f.down
}

// reconcile is Fleet: the git job, the bundle controller, and the agents.
func (f *fakeFleet) reconcile(name string) {
	repo := f.repos[name]
	if repo.Status.ObservedGeneration == repo.Generation {
		f.agents(name)
		return
	}
	forced := repo.Status.UpdateGeneration != repo.Spec.ForceSyncGeneration
	repo.Status.ObservedGeneration, repo.Status.UpdateGeneration = repo.Generation, repo.Spec.ForceSyncGeneration
	repo.Status.Commit, repo.Status.GitJobStatus, repo.Status.Conditions = commitOf(repo), "Current", nil
	switch {
	case f.loseRevisions > 0 && forced:
		f.loseRevisions--
		return
	case f.failJobs > 0:
		f.failJobs--
		repo.Status.GitJobStatus = "Failed"
		repo.Status.Conditions = []genericcondition.GenericCondition{{Type: "Stalled", Status: "True", Message: "dial tcp: connection refused"}}
		return
	}
	f.job(repo)
	f.agents(name)
}

func commitOf(repo *fleet.GitRepo) string {
	if repo.Spec.Branch != "" {
		return headOfMain
	}
	return repo.Spec.Revision
}

const headOfMain = "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee"

func (f *fakeFleet) job(repo *fleet.GitRepo) {
	sum := sha256.Sum256([]byte(repo.Status.Commit))
	b := &fleet.Bundle{ObjectMeta: metav1.ObjectMeta{
		Name: repo.Name + "-policies", Namespace: repo.Namespace, Generation: repo.Generation,
		Labels: map[string]string{fleet.CommitLabel: repo.Status.Commit, fleet.RepoLabel: repo.Name},
	}}
	b.Spec.Paused = repo.Spec.Paused
	b.Spec.ForceSyncGeneration = repo.Spec.ForceSyncGeneration
	if repo.Spec.CorrectDrift != nil && repo.Spec.CorrectDrift.Enabled {
		b.Spec.CorrectDrift = repo.Spec.CorrectDrift
	}
	b.Status.ObservedGeneration, b.Status.ResourcesSHA256Sum = b.Generation, hex.EncodeToString(sum[:])
	f.bundles[repo.Name] = b
	old := f.deployed[repo.Name]
	f.deployed[repo.Name] = map[string]*rancher.BundleDeployment{}
	for _, c := range f.clusters {
		if !hits(repo.Spec.Targets, c) {
			continue
		}
		d := old[c.Name]
		if d == nil {
			d = &rancher.BundleDeployment{}
		}
		d.Labels = map[string]string{fleet.CommitLabel: repo.Status.Commit, fleet.BundleLabel: b.Name, fleet.ClusterLabel: c.Name}
		d.Spec.Paused = b.Spec.Paused || c.Paused
		d.Spec.StagedOptions.ForceSyncGeneration = b.Spec.ForceSyncGeneration
		d.Spec.StagedOptions.CorrectDrift, d.Spec.CorrectDrift = b.Spec.CorrectDrift, b.Spec.CorrectDrift
		d.Spec.StagedDeploymentID = ("s-" + b.Status.ResourcesSHA256Sum)[:63] + ":" + strconv.FormatInt(b.Spec.ForceSyncGeneration, 10)
		if !d.Spec.Paused {
			d.Spec.DeploymentID, d.Spec.Options = d.Spec.StagedDeploymentID, d.Spec.StagedOptions
		}
		f.deployed[repo.Name][c.Name] = d
		b.Status.Summary.DesiredReady++
	}
}

func hits(targets []fleet.GitTarget, c rancher.Cluster) bool {
	for _, t := range targets {
		if t.ClusterName == c.Name {
			return true
		}
		if t.ClusterSelector != nil {
			if s, err := metav1.LabelSelectorAsSelector(t.ClusterSelector); err == nil && s.Matches(labels.Set(c.Labels)) {
				return true
			}
		}
	}
	return false
}

func (f *fakeFleet) agents(name string) {
	for cluster, d := range f.deployed[name] {
		if f.offline[cluster] || d.Spec.Paused {
			continue
		}
		if o := d.Spec.Options.CorrectDrift; d.Status.AppliedDeploymentID != d.Spec.DeploymentID && o != nil && o.Force {
			f.replaced = append(f.replaced, cluster)
		}
		d.Status = fleet.BundleDeploymentStatus{AppliedDeploymentID: d.Spec.DeploymentID, Release: "x/y:1", Ready: true, NonModified: true}
		if f.broken[cluster] {
			d.Status.Release = ""
			d.Status.Conditions = []genericcondition.GenericCondition{{Type: "Installed", Status: "False", Message: "not installed: error validating data: unknown field spec.podSelecter"}}
		}
	}
}
