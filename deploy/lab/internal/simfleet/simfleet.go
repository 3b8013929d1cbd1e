// Package simfleet makes a management cluster believe in many downstream
// clusters that are not there: their Fleet and Rancher objects are real, and
// Fleet's own controllers work for them; only their agents are simulated. Whoever
// talks to one of them through Rancher is led to what the package's user puts there,
// such as the package simcluster.
package simfleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"

	"portcullis.dev/portcullis/deploy/lab/internal/apply"
	"portcullis.dev/portcullis/deploy/lab/internal/fleetlab"
	"portcullis.dev/portcullis/deploy/lab/internal/rancherd"
)

// Label marks every object that this package makes. Fleet clusters carry it
// too, so that a pipeline can select them.
const (
	Label = "portcullis.dev/simulated"
	// prefix begins the names of the Fleet clusters, idPrefix those of Rancher's.
	prefix, idPrefix = "sim-", "c-sim-"
)

var (
	clusters    = schema.GroupVersionResource{Group: "fleet.cattle.io", Version: "v1alpha1", Resource: "clusters"}
	deployments = schema.GroupVersionResource{Group: "fleet.cattle.io", Version: "v1alpha1", Resource: "bundledeployments"}
	gitRepos    = schema.GroupVersionResource{Group: "fleet.cattle.io", Version: "v1alpha1", Resource: "gitrepos"}
	namespaces  = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
	configMaps  = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}

	selected = metav1.ListOptions{LabelSelector: Label + "=true"}
)

const (
	// atOnce bounds the writes that are under way.
	atOnce = 24
	// joinWithin bounds how long Fleet may take to know all clusters, goneWithin
	// how long it and Kubernetes may take to forget them.
	joinWithin = 10 * time.Minute
	goneWithin = 20 * time.Minute
)

// Options say what to simulate.
type Options struct {
	// LabDir is the lab's state directory.
	LabDir string
	// Count is how many clusters there are.
	Count int
	// Labels are what the Fleet clusters have besides what Rancher gives them.
	Labels map[string]string
	// Rancher are the files of the stand-in that their IDs are made known to, and
	// Behind the cluster in its table that all of them lead to.
	Rancher rancherd.Files
	Behind  string
	// Log tells what is going on.
	Log func(format string, args ...any)
}

// Fleet is a set of simulated clusters.
type Fleet struct {
	Options
	mgmt   dynamic.Interface
	agents agents
}

// Open prepares a simulation. Nothing is made yet.
func Open(o Options) (*Fleet, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", filepath.Join(o.LabDir, "kubeconfig", "mgmt.yaml"))
	if err != nil {
		return nil, fmt.Errorf("the lab is not up: %w", err)
	}
	// A thousand agents have a thousand connections; these must not be slower.
	cfg.QPS, cfg.Burst = 1000, 2000
	mgmt, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	return &Fleet{Options: o, mgmt: mgmt}, nil
}

// Create makes the clusters and returns when Fleet has a namespace for each and
// their agents were seen. The agents run until ctx ends.
func (f *Fleet) Create(ctx context.Context) error {
	if err := f.Rancher.WriteAliases(f.aliases()); err != nil {
		return err
	}
	if err := f.manageAgents(ctx, false); err != nil {
		return err
	}
	if err := f.each(ctx, f.createOne); err != nil {
		return err
	}
	f.Log("%d clusters made", f.Count)
	if err := f.agents.start(ctx, f.mgmt); err != nil {
		return err
	}
	return apply.Until(ctx, joinWithin, func(ctx context.Context) (bool, string, error) {
		n, err := f.joined(ctx)
		return n == f.Count, fmt.Sprintf("clusters to join Fleet, %d of %d have (%v)", n, f.Count, err), nil
	})
}

// joined counts the clusters that have a namespace and an agent that was seen.
func (f *Fleet) joined(ctx context.Context) (int, error) {
	list, err := f.mgmt.Resource(clusters).Namespace(fleetlab.Workspace).List(ctx, selected)
	if err != nil {
		return 0, err
	}
	n := 0
	for i := range list.Items {
		namespace, _, _ := unstructured.NestedString(list.Items[i].Object, "status", "namespace")
		if namespace != "" && seen(&list.Items[i]) {
			n++
		}
	}
	return n, nil
}

// LastApplied is when an agent last wrote that it applied something, and how
// many such writes there were so far.
func (f *Fleet) LastApplied() (time.Time, int) { return f.agents.last() }

// Remove takes everything away again: the GitRepos that target the clusters,
// the clusters, their namespaces, and the way to them. It goes on after an
// error, so that as little as possible stays.
func (f *Fleet) Remove(ctx context.Context, gitRepo string) error {
	ctx, cancel := context.WithTimeout(ctx, goneWithin)
	defer cancel()
	return errors.Join(
		f.removeGitRepo(ctx, gitRepo),
		f.removeAll(ctx, f.mgmt.Resource(clusters).Namespace(fleetlab.Workspace)),
		f.removeAll(ctx, f.mgmt.Resource(rancherd.ClustersResource)),
		f.removeNamespaces(ctx),
		f.manageAgents(ctx, true),
		f.Rancher.WriteAliases(nil),
	)
}

func (f *Fleet) removeGitRepo(ctx context.Context, name string) error {
	err := f.mgmt.Resource(gitRepos).Namespace(fleetlab.Workspace).Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	return apply.Until(ctx, goneWithin, func(ctx context.Context) (bool, string, error) {
		list, err := f.mgmt.Resource(deployments).List(ctx, metav1.ListOptions{
			LabelSelector: "fleet.cattle.io/repo-name=" + name, Limit: 1, ResourceVersion: "0",
		})
		if err != nil {
			return false, err.Error(), nil
		}
		return len(list.Items) == 0, "the BundleDeployments of GitRepo " + name + " to go", nil
	})
}

func (f *Fleet) removeAll(ctx context.Context, of dynamic.ResourceInterface) error {
	return of.DeleteCollection(ctx, metav1.DeleteOptions{}, selected)
}

// removeNamespaces waits until the clusters' namespaces are gone. Fleet removes
// those of clusters that it saw go; the rest are removed here.
func (f *Fleet) removeNamespaces(ctx context.Context) error {
	told := map[string]bool{}
	return apply.Until(ctx, goneWithin, func(ctx context.Context) (bool, string, error) {
		list, err := f.mgmt.Resource(namespaces).List(ctx, metav1.ListOptions{LabelSelector: "fleet.cattle.io/managed=true"})
		if err != nil {
			return false, err.Error(), nil
		}
		left := 0
		for i := range list.Items {
			ns := &list.Items[i]
			if !simulated(ns.GetAnnotations()["fleet.cattle.io/cluster"]) {
				continue
			}
			left++
			if ns.GetDeletionTimestamp() != nil || told[ns.GetName()] {
				continue
			}
			told[ns.GetName()] = true
			if err := f.mgmt.Resource(namespaces).Delete(ctx, ns.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				return false, err.Error(), nil
			}
		}
		return left == 0, fmt.Sprintf("%d namespaces to go", left), nil
	})
}

// each calls do for every cluster, a bounded number at a time.
func (f *Fleet) each(ctx context.Context, do func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for i := range f.Count {
		g.Go(func() error { return do(ctx, i) })
	}
	return g.Wait()
}

func name(i int) string { return fmt.Sprintf("%s%04d", prefix, i) }
func id(i int) string   { return fmt.Sprintf("%s%04d", idPrefix, i) }

func simulated(cluster string) bool {
	return len(cluster) > len(prefix) && cluster[:len(prefix)] == prefix
}

func (f *Fleet) aliases() map[string]string {
	out := make(map[string]string, f.Count)
	for i := range f.Count {
		out[id(i)] = f.Behind
	}
	return out
}

// createOne makes Rancher's and Fleet's object of one cluster, as Rancher does
// when a cluster is added.
func (f *Fleet) createOne(ctx context.Context, i int) error {
	of := f.mgmt.Resource(rancherd.ClustersResource)
	_, err := of.Create(ctx, f.rancherCluster(i), metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("cluster %s: %w", id(i), err)
	}
	status, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": conditions(time.Now(), "Connected", "Ready")}})
	if err != nil {
		return err
	}
	if _, err := of.Patch(ctx, id(i), types.MergePatchType, status, metav1.PatchOptions{}, "status"); err != nil {
		return fmt.Errorf("status of cluster %s: %w", id(i), err)
	}
	_, err = f.mgmt.Resource(clusters).Namespace(fleetlab.Workspace).Create(ctx, f.fleetCluster(i), metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("Fleet cluster %s: %w", name(i), err)
	}
	return nil
}

func (f *Fleet) rancherCluster(i int) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{
		"spec": map[string]any{"displayName": name(i), "internal": false, "fleetWorkspaceName": fleetlab.Workspace},
	}}
	u.SetAPIVersion("management.cattle.io/v3")
	u.SetKind("Cluster")
	u.SetName(id(i))
	u.SetLabels(map[string]string{Label: "true"})
	return u
}

func (f *Fleet) fleetCluster(i int) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{}}}
	u.SetAPIVersion("fleet.cattle.io/v1alpha1")
	u.SetKind("Cluster")
	u.SetNamespace(fleetlab.Workspace)
	u.SetName(name(i))
	labels := map[string]string{
		Label:                               "true",
		"management.cattle.io/cluster-name": id(i),
		"management.cattle.io/cluster-display-name": name(i),
	}
	for k, v := range f.Labels {
		labels[k] = v
	}
	u.SetLabels(labels)
	return u
}

// manageAgents says whether Fleet delivers its own agent by a Bundle for each
// cluster. Simulated agents cannot be updated; the agents of the lab's own
// clusters stay as they are meanwhile.
func (f *Fleet) manageAgents(ctx context.Context, on bool) error {
	of := f.mgmt.Resource(configMaps).Namespace(fleetlab.SystemNamespace)
	cm, err := of.Get(ctx, "fleet-controller", metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("configuration of Fleet: %w", err)
	}
	text, _, _ := unstructured.NestedString(cm.Object, "data", "config")
	changed, err := withManageAgent(text, on)
	if err != nil {
		return fmt.Errorf("configuration of Fleet: %w", err)
	}
	patch, err := json.Marshal(map[string]any{"data": map[string]any{"config": changed}})
	if err != nil {
		return err
	}
	_, err = of.Patch(ctx, "fleet-controller", types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

// withManageAgent changes one field of Fleet's configuration. It is on unless it is said to be off.
func withManageAgent(config string, on bool) (string, error) {
	var fields map[string]any
	if err := json.Unmarshal([]byte(config), &fields); err != nil {
		return "", err
	}
	if on {
		delete(fields, "manageAgent")
	} else {
		fields["manageAgent"] = false
	}
	b, err := json.MarshalIndent(fields, "", "  ")
	return string(b), err
}
