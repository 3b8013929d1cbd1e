package rancher

import (
	"context"
	"fmt"
	"time"

	fleet "github.com/rancher/fleet/pkg/apis/fleet.cattle.io/v1alpha1"
	"github.com/rancher/lasso/pkg/cache"
	"github.com/rancher/lasso/pkg/controller"
	"github.com/rancher/wrangler/v3/pkg/generic"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	toolscache "k8s.io/client-go/tools/cache"
)

const (
	// syncTimeout bounds the first filling of the caches.
	syncTimeout = 60 * time.Second
	// workersPerType is how many goroutines hand on the events of one type.
	// The handlers only wake waiters, so one is enough and keeps order.
	workersPerType = 1

	byRepo = "portcullis.byRepo"
)

// caches are the shared informers on the management cluster. What they return
// may be old; callers decide by generations, never by "it is in the cache".
type caches struct {
	gitRepos    generic.ControllerInterface[*fleet.GitRepo, *fleet.GitRepoList]
	bundles     generic.ControllerInterface[*fleet.Bundle, *fleet.BundleList]
	deployments generic.ControllerInterface[*BundleDeployment, *BundleDeploymentList]
	clusters    generic.ControllerInterface[*fleet.Cluster, *fleet.ClusterList]
	groups      generic.ControllerInterface[*fleet.ClusterGroup, *fleet.ClusterGroupList]
	jobs        generic.ControllerInterface[*batchv1.Job, *batchv1.JobList]
	management  generic.NonNamespacedControllerInterface[*ManagementCluster, *ManagementClusterList]
	factory     controller.SharedControllerFactory
	workspace   string
}

// Start fills the caches and keeps them until ctx ends. It returns when they are
// filled, or with a named error after a minute; then it may be called again.
func (c *Client) Start(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.caches != nil {
		return nil
	}
	if err := c.probeTypes(ctx); err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	made, err := c.newCaches(running)
	if err != nil {
		stop()
		return c.wrap(ctx, err, "preparing to watch the management cluster")
	}
	if err := made.start(running); err != nil {
		stop()
		return c.wrap(ctx, err, "watching the management cluster")
	}
	c.caches = made
	context.AfterFunc(ctx, func() {
		stop()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.caches = nil
	})
	return nil
}

// probeTypes asks for one object of each type that will be watched: an informer
// only ever logs why it cannot fill, and a person needs the reason.
func (c *Client) probeTypes(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for _, path := range []string{
		"/apis/fleet.cattle.io/v1alpha1/namespaces/" + c.cfg.Workspace + "/gitrepos",
		"/apis/fleet.cattle.io/v1alpha1/namespaces/" + c.cfg.Workspace + "/bundles",
		"/apis/fleet.cattle.io/v1alpha1/namespaces/" + c.cfg.Workspace + "/clusters",
		"/apis/fleet.cattle.io/v1alpha1/namespaces/" + c.cfg.Workspace + "/clustergroups",
		"/apis/fleet.cattle.io/v1alpha1/bundledeployments",
		"/apis/management.cattle.io/v3/clusters",
		"/apis/batch/v1/namespaces/" + c.cfg.Workspace + "/jobs",
	} {
		_, err := c.fleet.Get().AbsPath(path).Param("limit", "1").Do(ctx).Raw()
		if apierrors.IsNotFound(err) {
			return problem(KindNotFound, "the management cluster behind %s does not serve %s; is Fleet installed?", c.cfg.URL, path)
		}
		if err != nil {
			return c.wrap(ctx, err, "listing "+path)
		}
	}
	return nil
}

func (c *Client) newCaches(ctx context.Context) (*caches, error) {
	base, err := c.REST(localCluster)
	if err != nil {
		return nil, err
	}
	inWorkspace := map[schema.GroupVersionKind]string{}
	for _, kind := range []string{"GitRepo", "Bundle", "Cluster", "ClusterGroup"} {
		inWorkspace[fleetGroupVersion.WithKind(kind)] = c.cfg.Workspace
	}
	inWorkspace[batchv1.SchemeGroupVersion.WithKind("Job")] = c.cfg.Workspace
	factory, err := controller.NewSharedControllerFactoryFromConfigWithOptions(base, knownTypes, &controller.SharedControllerFactoryOptions{
		CacheOptions:           &cache.SharedCacheFactoryOptions{KindNamespace: inWorkspace},
		DefaultWorkers:         workersPerType,
		SyncOnlyChangedObjects: true,
	})
	if err != nil {
		return nil, err
	}
	made := &caches{
		factory:     factory,
		workspace:   c.cfg.Workspace,
		gitRepos:    generic.NewController[*fleet.GitRepo, *fleet.GitRepoList](fleetGroupVersion.WithKind("GitRepo"), "gitrepos", true, factory),
		bundles:     generic.NewController[*fleet.Bundle, *fleet.BundleList](fleetGroupVersion.WithKind("Bundle"), "bundles", true, factory),
		deployments: generic.NewController[*BundleDeployment, *BundleDeploymentList](fleetGroupVersion.WithKind("BundleDeployment"), "bundledeployments", true, factory),
		clusters:    generic.NewController[*fleet.Cluster, *fleet.ClusterList](fleetGroupVersion.WithKind("Cluster"), "clusters", true, factory),
		groups:      generic.NewController[*fleet.ClusterGroup, *fleet.ClusterGroupList](fleetGroupVersion.WithKind("ClusterGroup"), "clustergroups", true, factory),
		jobs:        generic.NewController[*batchv1.Job, *batchv1.JobList](batchv1.SchemeGroupVersion.WithKind("Job"), "jobs", true, factory),
		management:  generic.NewNonNamespacedController[*ManagementCluster, *ManagementClusterList](managementGroupVersion.WithKind("Cluster"), "clusters", factory),
	}
	if err := made.slim(); err != nil {
		return nil, err
	}
	made.index()
	made.handle(ctx, c.wake)
	return made, nil
}

func (k *caches) informers() map[string]toolscache.SharedIndexInformer {
	return map[string]toolscache.SharedIndexInformer{
		"GitRepos":            k.gitRepos.Informer(),
		"Bundles":             k.bundles.Informer(),
		"BundleDeployments":   k.deployments.Informer(),
		"Fleet Clusters":      k.clusters.Informer(),
		"ClusterGroups":       k.groups.Informer(),
		"Jobs":                k.jobs.Informer(),
		"management Clusters": k.management.Informer(),
	}
}

// slim keeps the large parts that nobody here reads out of memory: a thousand
// clusters with a few bundles each would otherwise be hundreds of megabytes.
func (k *caches) slim() error {
	for _, informer := range k.informers() {
		if err := informer.SetTransform(slim); err != nil {
			return fmt.Errorf("setting the transform of a cache: %w", err)
		}
	}
	return nil
}

func slim(obj any) (any, error) {
	if m, ok := obj.(metav1.Object); ok {
		m.SetManagedFields(nil)
	}
	switch o := obj.(type) {
	case *fleet.GitRepo:
		o.Status.Resources, o.Status.PerClusterResourceCounts = nil, nil
	case *fleet.Bundle:
		o.Spec.Resources, o.Status.ResourceKey, o.Status.PartitionStatus = nil, nil, nil
	case *BundleDeployment:
		o.Status.Resources = nil
	case *batchv1.Job:
		o.Spec.Template = corev1.PodTemplateSpec{}
	}
	return obj, nil
}

func (k *caches) index() {
	k.bundles.Cache().AddIndexer(byRepo, func(b *fleet.Bundle) ([]string, error) {
		return repoIndex(b.Namespace, b.Labels[fleet.RepoLabel]), nil
	})
	k.deployments.Cache().AddIndexer(byRepo, func(d *BundleDeployment) ([]string, error) {
		return repoIndex(d.Labels[fleet.BundleNamespaceLabel], d.Labels[fleet.RepoLabel]), nil
	})
	k.jobs.Cache().AddIndexer(byRepo, func(j *batchv1.Job) ([]string, error) {
		return repoIndex(j.Namespace, ownerOf(j)), nil
	})
}

// ownerOf is the GitRepo whose git job this is, or "".
func ownerOf(j *batchv1.Job) string {
	for _, o := range j.OwnerReferences {
		if o.Kind == "GitRepo" {
			return o.Name
		}
	}
	return ""
}

func repoIndex(namespace, repo string) []string {
	if repo == "" {
		return nil
	}
	return []string{repoKey(namespace, repo)}
}

func repoKey(namespace, repo string) string { return namespace + "/" + repo }

// handle makes every watch event wake those who wait for that GitRepo.
func (k *caches) handle(ctx context.Context, wake *notifier) {
	const name = "portcullis-wake"
	k.gitRepos.OnChange(ctx, name, func(key string, repo *fleet.GitRepo) (*fleet.GitRepo, error) {
		wake.changed(key)
		return repo, nil
	})
	k.bundles.OnChange(ctx, name, func(_ string, b *fleet.Bundle) (*fleet.Bundle, error) {
		wakeOwner(wake, b == nil, func() (string, string) { return b.Namespace, b.Labels[fleet.RepoLabel] })
		return b, nil
	})
	k.deployments.OnChange(ctx, name, func(_ string, d *BundleDeployment) (*BundleDeployment, error) {
		wakeOwner(wake, d == nil, func() (string, string) {
			return d.Labels[fleet.BundleNamespaceLabel], d.Labels[fleet.RepoLabel]
		})
		return d, nil
	})
	k.jobs.OnChange(ctx, name, func(_ string, j *batchv1.Job) (*batchv1.Job, error) {
		wakeOwner(wake, j == nil, func() (string, string) { return j.Namespace, ownerOf(j) })
		return j, nil
	})
}

// wakeOwner wakes the waiters of the GitRepo that owns an object. A deleted
// object no longer tells whose it was, so everyone looks.
func wakeOwner(wake *notifier, gone bool, owner func() (namespace, repo string)) {
	if gone {
		wake.changedAny()
		return
	}
	if namespace, repo := owner(); repo != "" {
		wake.changed(repoKey(namespace, repo))
	}
}

func (k *caches) start(ctx context.Context) error {
	informers := k.informers() // creates them all before the factory starts what exists
	limited, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	started := make(chan error, 1)
	go func() { started <- k.factory.Start(ctx, workersPerType) }()
	select {
	case err := <-started:
		if err != nil {
			return err
		}
	case <-limited.Done():
	}
	for name, informer := range informers {
		if !informer.HasSynced() {
			return problem(KindUnavailable, "the cache of %s was not filled within %s", name, syncTimeout)
		}
	}
	return nil
}

// filled returns the caches, or a named error while there are none.
func (c *Client) filled() (*caches, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.caches == nil {
		return nil, problem(KindUnavailable, "the view of the management cluster behind %s is not filled yet", c.cfg.URL)
	}
	return c.caches, nil
}

// Snapshot is what Fleet knows of one GitRepo, from the caches.
type Snapshot struct {
	// GitRepo is nil where there is none.
	GitRepo     *fleet.GitRepo
	Bundles     []*fleet.Bundle
	Deployments []*BundleDeployment
	// Jobs are Fleet's git jobs of the GitRepo that were not deleted yet.
	Jobs []*batchv1.Job
}

// Snapshot reads the caches; its objects must not be changed.
func (c *Client) Snapshot(name string) (Snapshot, error) {
	k, err := c.filled()
	if err != nil {
		return Snapshot{}, err
	}
	var s Snapshot
	if s.GitRepo, err = k.gitRepos.Cache().Get(k.workspace, name); apierrors.IsNotFound(err) {
		s.GitRepo, err = nil, nil
	}
	if err != nil {
		return Snapshot{}, problem(KindFailed, "reading the cache of GitRepos: %v", err)
	}
	key := repoKey(k.workspace, name)
	if s.Bundles, err = k.bundles.Cache().GetByIndex(byRepo, key); err != nil {
		return Snapshot{}, problem(KindFailed, "reading the cache of Bundles: %v", err)
	}
	if s.Deployments, err = k.deployments.Cache().GetByIndex(byRepo, key); err != nil {
		return Snapshot{}, problem(KindFailed, "reading the cache of BundleDeployments: %v", err)
	}
	if s.Jobs, err = k.jobs.Cache().GetByIndex(byRepo, key); err != nil {
		return Snapshot{}, problem(KindFailed, "reading the cache of Jobs: %v", err)
	}
	return s, nil
}

// Watch returns a channel that receives after every change of the GitRepo, its
// Bundles or BundleDeployments, and how to stop.
func (c *Client) Watch(name string) (<-chan struct{}, func()) {
	return c.wake.watch(repoKey(c.cfg.Workspace, name))
}

// Inventory lists the clusters of the workspace by name.
func (c *Client) Inventory() ([]Cluster, error) {
	k, err := c.filled()
	if err != nil {
		return nil, err
	}
	clusters, err := k.clusters.Cache().List(k.workspace, labels.Everything())
	if err != nil {
		return nil, problem(KindFailed, "reading the cache of Fleet clusters: %v", err)
	}
	management, err := k.management.Cache().List(labels.Everything())
	if err != nil {
		return nil, problem(KindFailed, "reading the cache of Rancher clusters: %v", err)
	}
	return Join(clusters, management), nil
}

// Groups lists the cluster groups of the workspace.
func (c *Client) Groups() ([]*fleet.ClusterGroup, error) {
	k, err := c.filled()
	if err != nil {
		return nil, err
	}
	groups, err := k.groups.Cache().List(k.workspace, labels.Everything())
	if err != nil {
		return nil, problem(KindFailed, "reading the cache of cluster groups: %v", err)
	}
	return groups, nil
}

var _ runtime.Object = (*BundleDeployment)(nil)
