package verify

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"portcullis.dev/portcullis/probes"
)

// view is a cluster's pods, services and nodes, followed by watches for as long
// as a measurement lasts. It lists once; after that, it costs what changes.
type view struct {
	namespace string
	factory   informers.SharedInformerFactory
	synced    []cache.InformerSynced
	stop      context.CancelFunc
	// changes counts the changes that can matter to a plan.
	changes atomic.Int64

	mu sync.Mutex
	// problem is the last error of a list or watch.
	problem error
}

// agent is the node agent's pod on a node.
type agent struct {
	node, namespace, pod string
	ready                bool
	// reason says why it is not ready.
	reason string
}

func watch(ctx context.Context, kube kubernetes.Interface, namespace string) (*view, error) {
	ctx, stop := context.WithCancel(ctx)
	v := &view{namespace: namespace, stop: stop}
	v.factory = informers.NewSharedInformerFactoryWithOptions(kube, 0, informers.WithTransform(trim))
	for _, i := range []cache.SharedIndexInformer{
		v.factory.Core().V1().Pods().Informer(),
		v.factory.Core().V1().Services().Informer(),
		v.factory.Core().V1().Nodes().Informer(),
		v.factory.Discovery().V1().EndpointSlices().Informer(),
	} {
		if err := i.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) { v.fail(err) }); err != nil {
			stop()
			return nil, err
		}
		if _, err := i.AddEventHandler(v.handler()); err != nil {
			stop()
			return nil, err
		}
		v.synced = append(v.synced, i.HasSynced)
	}
	v.factory.Start(ctx.Done())
	return v, nil
}

// trim drops what is not used of the objects, so that a large cluster's view stays small.
func trim(obj any) (any, error) {
	switch o := obj.(type) {
	case *corev1.Pod:
		o.ManagedFields = nil
		o.Spec = corev1.PodSpec{NodeName: o.Spec.NodeName, HostNetwork: o.Spec.HostNetwork, ServiceAccountName: o.Spec.ServiceAccountName}
	case *corev1.Node:
		o.ManagedFields = nil
		o.Status = corev1.NodeStatus{Conditions: o.Status.Conditions}
	case *corev1.Service:
		o.ManagedFields = nil
	case *discoveryv1.EndpointSlice:
		o.ManagedFields = nil
	}
	return obj, nil
}

func (v *view) handler() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { v.changes.Add(1) },
		UpdateFunc: func(old, now any) {
			if matters(old, now) {
				v.changes.Add(1)
			}
		},
		DeleteFunc: func(any) { v.changes.Add(1) },
	}
}

// matters tells whether an update can change a plan. Kubelets write the status
// of pods and nodes all the time.
func matters(old, now any) bool {
	switch n := now.(type) {
	case *corev1.Pod:
		return !reflect.DeepEqual(podOf(old.(*corev1.Pod)), podOf(n)) || podReason(old.(*corev1.Pod)) != podReason(n)
	case *corev1.Node:
		return nodeReason(old.(*corev1.Node)) != nodeReason(n)
	}
	return true
}

func (v *view) fail(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.problem = err
}

// wait waits until everything is listed. Its error is the reason why not.
func (v *view) wait(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if !slices.ContainsFunc(v.synced, func(done cache.InformerSynced) bool { return !done() }) {
			return nil
		}
		select {
		case <-ctx.Done():
			v.mu.Lock()
			defer v.mu.Unlock()
			if v.problem != nil {
				return v.problem
			}
			return fmt.Errorf("the API server did not list the cluster's pods in time")
		case <-tick.C:
		}
	}
}

func (v *view) close() {
	if v != nil {
		v.stop()
	}
}

// cluster returns what the watches know now.
func (v *view) cluster() *probes.Cluster {
	everything := labels.Everything()
	// Reading a cache with this selector cannot fail.
	pods, _ := v.factory.Core().V1().Pods().Lister().List(everything)
	services, _ := v.factory.Core().V1().Services().Lister().List(everything)
	slicesOf, _ := v.factory.Discovery().V1().EndpointSlices().Lister().List(everything)
	c := &probes.Cluster{}
	for _, p := range pods {
		c.Pods = append(c.Pods, podOf(p))
	}
	c.Services = servicesOf(services, slicesOf, pods)
	return c
}

// agents returns the agents by node, and for every node without a ready one the reason.
func (v *view) agents() (agents map[string]agent, missing map[string]string) {
	nodes, _ := v.factory.Core().V1().Nodes().Lister().List(labels.Everything())
	pods, _ := v.factory.Core().V1().Pods().Lister().Pods(v.namespace).List(labels.SelectorFromSet(agentLabels))
	agents, missing = map[string]agent{}, map[string]string{}
	for _, p := range pods {
		a := agent{node: p.Spec.NodeName, namespace: p.Namespace, pod: p.Name, reason: podReason(p)}
		a.ready = a.reason == ""
		if old, ok := agents[a.node]; !ok || !old.ready {
			agents[a.node] = a
		}
	}
	for _, n := range nodes {
		a, ok := agents[n.Name]
		switch reason := nodeReason(n); {
		case reason != "":
			missing[n.Name] = fmt.Sprintf("node %s %s", n.Name, reason)
		case !ok:
			missing[n.Name] = fmt.Sprintf("node %s has no agent", n.Name)
		case !a.ready:
			missing[n.Name] = fmt.Sprintf("the agent on node %s is not ready: %s", n.Name, a.reason)
		}
	}
	return agents, missing
}
