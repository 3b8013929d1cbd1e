package simfleet

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"portcullis.dev/portcullis/deploy/lab/internal/fleetlab"
)

const (
	// workers is how many agents may write at the same time.
	workers = 24
	// syncWithin bounds the first listing of the agents' watches.
	syncWithin = time.Minute
	// objectsEach is how many objects an agent says that a bundle has.
	objectsEach = 6
)

// agents are the Fleet agents of all simulated clusters. Each of them sees only
// its own namespace; together they watch all.
type agents struct {
	mgmt  dynamic.Interface
	queue workqueue.TypedRateLimitingInterface[item]
	stock map[schema.GroupVersionResource]cache.SharedIndexInformer

	mu      sync.Mutex
	at      time.Time
	applied int
}

// item is an object to look at.
type item struct {
	kind schema.GroupVersionResource
	key  string
}

func (a *agents) start(ctx context.Context, mgmt dynamic.Interface) error {
	a.mgmt = mgmt
	a.queue = workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[item]())
	a.stock = map[schema.GroupVersionResource]cache.SharedIndexInformer{}
	context.AfterFunc(ctx, a.queue.ShutDown)
	for _, watched := range []struct {
		kind      schema.GroupVersionResource
		namespace string
	}{{clusters, fleetlab.Workspace}, {deployments, metav1.NamespaceAll}} {
		if err := a.watch(ctx, watched.kind, watched.namespace); err != nil {
			return err
		}
	}
	for range workers {
		go func() {
			for a.next(ctx) {
			}
		}()
	}
	return nil
}

func (a *agents) watch(ctx context.Context, kind schema.GroupVersionResource, namespace string) error {
	informer := dynamicinformer.NewFilteredDynamicInformer(a.mgmt, kind, namespace, 0, cache.Indexers{}, nil).Informer()
	enqueue := func(obj any) {
		u, ok := obj.(*unstructured.Unstructured)
		if ok && simulated(clusterOf(kind, u)) {
			a.queue.Add(item{kind, u.GetNamespace() + "/" + u.GetName()})
		}
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: enqueue, UpdateFunc: func(_, now any) { enqueue(now) },
	})
	if err != nil {
		return err
	}
	a.stock[kind] = informer
	go informer.RunWithContext(ctx)
	limited, cancel := context.WithTimeout(ctx, syncWithin)
	defer cancel()
	if !cache.WaitForCacheSync(limited.Done(), informer.HasSynced) {
		return fmt.Errorf("the simulated agents could not list %s within %s", kind.Resource, syncWithin)
	}
	return nil
}

func clusterOf(kind schema.GroupVersionResource, u *unstructured.Unstructured) string {
	if kind == clusters {
		return u.GetName()
	}
	return u.GetLabels()["fleet.cattle.io/cluster"]
}

func (a *agents) next(ctx context.Context) bool {
	it, over := a.queue.Get()
	if over {
		return false
	}
	defer a.queue.Done(it)
	if err := a.handle(ctx, it); err != nil && !apierrors.IsNotFound(err) {
		a.queue.AddRateLimited(it)
		return true
	}
	a.queue.Forget(it)
	return true
}

func (a *agents) handle(ctx context.Context, it item) error {
	obj, exists, err := a.stock[it.kind].GetStore().GetByKey(it.key)
	if err != nil || !exists {
		return err
	}
	u := obj.(*unstructured.Unstructured)
	var status map[string]any
	if it.kind == clusters {
		status = checkIn(u, time.Now())
	} else {
		status = deploy(u, time.Now())
	}
	if status == nil {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		return err
	}
	_, err = a.mgmt.Resource(it.kind).Namespace(u.GetNamespace()).
		Patch(ctx, u.GetName(), types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if err == nil && it.kind == deployments {
		a.note()
	}
	return err
}

func (a *agents) note() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at, a.applied = time.Now(), a.applied+1
}

func (a *agents) last() (time.Time, int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.at, a.applied
}

// seen says whether a Fleet cluster's agent has checked in.
func seen(cluster *unstructured.Unstructured) bool {
	at, _, _ := unstructured.NestedString(cluster.Object, "status", "agent", "lastSeen")
	return at != ""
}

// checkIn is what an agent writes into its Cluster when it has started, or nil
// when that is there.
func checkIn(cluster *unstructured.Unstructured, now time.Time) map[string]any {
	namespace, _, _ := unstructured.NestedString(cluster.Object, "status", "namespace")
	if namespace == "" || seen(cluster) || cluster.GetDeletionTimestamp() != nil {
		return nil
	}
	return map[string]any{"agent": map[string]any{
		"lastSeen": now.UTC().Format(time.RFC3339), "namespace": fleetlab.SystemNamespace,
	}}
}

// deploy is what an agent writes when it has deployed what a BundleDeployment
// asks for and found it ready, or nil when there is nothing to do.
func deploy(bd *unstructured.Unstructured, now time.Time) map[string]any {
	text := func(path ...string) string {
		s, _, _ := unstructured.NestedString(bd.Object, path...)
		return s
	}
	number := func(path ...string) int64 {
		n, _, _ := unstructured.NestedInt64(bd.Object, path...)
		return n
	}
	wanted := text("spec", "deploymentID")
	paused, _, _ := unstructured.NestedBool(bd.Object, "spec", "paused")
	ready, _, _ := unstructured.NestedBool(bd.Object, "status", "ready")
	sync := number("spec", "options", "forceSyncGeneration")
	if wanted == "" || paused || bd.GetDeletionTimestamp() != nil {
		return nil
	}
	if ready && text("status", "appliedDeploymentID") == wanted && number("status", "syncGeneration") == sync {
		return nil
	}
	helmName := text("spec", "options", "helm", "releaseName")
	if helmName == "" {
		helmName = bd.GetName()
	}
	return map[string]any{
		"appliedDeploymentID": wanted,
		"release":             fmt.Sprintf("%s/%s:%d", text("spec", "options", "defaultNamespace"), helmName, release(text("status", "release"))+1),
		"ready":               true,
		"nonModified":         true,
		"nonReadyStatus":      nil,
		"modifiedStatus":      nil,
		"syncGeneration":      sync,
		"conditions":          conditions(now, "Installed", "Deployed", "Ready", "Monitored"),
		"resources":           objects(helmName),
		"resourceCounts":      map[string]any{"desiredReady": objectsEach, "ready": objectsEach},
	}
}

// release is the number of a Helm release NAMESPACE/NAME:NUMBER, or 0.
func release(of string) int {
	n, _ := strconv.Atoi(of[strings.LastIndex(of, ":")+1:])
	return n
}

// objects is what an agent lists of a release.
func objects(release string) []any {
	list := make([]any, objectsEach)
	for i := range list {
		list[i] = map[string]any{
			"apiVersion": "crd.projectcalico.org/v1", "kind": "GlobalNetworkPolicy",
			"name": fmt.Sprintf("default.%s-%d", release, i), "createdAt": "2025-01-01T00:00:00Z",
		}
	}
	return list
}

// conditions are all true.
func conditions(now time.Time, kinds ...string) []any {
	list := make([]any, len(kinds))
	for i, kind := range kinds {
		list[i] = map[string]any{"type": kind, "status": "True", "lastUpdateTime": now.UTC().Format(time.RFC3339)}
	}
	return list
}
