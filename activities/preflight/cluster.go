package preflight

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/probes/preflight"
)

const (
	// callTimeout bounds one request to an API server.
	callTimeout = 20 * time.Second
	// readTimeout bounds everything that is read of it.
	readTimeout = 60 * time.Second
	// pageSize is how many objects are read at once.
	pageSize = 500
)

// pages reads a list page by page. Items takes those of a page.
func pages[L metav1.ListInterface, T any](ctx context.Context, list func(context.Context, metav1.ListOptions) (L, error), items func(L) []T) ([]T, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	var out []T
	next := ""
	for {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		page, err := list(call, metav1.ListOptions{Limit: pageSize, Continue: next})
		cancel()
		if err != nil {
			return nil, err
		}
		out = append(out, items(page)...)
		if next = page.GetContinue(); next == "" {
			return out, nil
		}
	}
}

func (r *run) listNodes(ctx context.Context) ([]corev1.Node, error) {
	return pages(ctx, r.conn.kube.CoreV1().Nodes().List, func(l *corev1.NodeList) []corev1.Node { return l.Items })
}

// fact is what reading gave, or why it is not known.
func fact[T any](r *run, what string, v T, err error) preflight.Fact[T] {
	if err == nil {
		return preflight.Known(v)
	}
	err = verify.Classify(r.in.Cluster.Name, err)
	return preflight.Unknown[T](oneLine(what + ": " + errs.Message(err)))
}

// objects are what the facts of a cluster are made from.
type objects struct {
	replicaSets []appsv1.ReplicaSet
	statefulSet []appsv1.StatefulSet
	pods        []corev1.Pod
	services    []corev1.Service
	budgets     []policyv1.PodDisruptionBudget
}

// cluster reads everything that the API server knows. What it does not tell, or
// may not be read, is unknown, with the reason.
func (r *run) cluster(ctx context.Context, nodes []corev1.Node) *preflight.ClusterFacts {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	f := &preflight.ClusterFacts{Name: r.in.Cluster.Name}
	for i := range nodes {
		f.Nodes.Value = append(f.Nodes.Value, nodeOf(&nodes[i]))
	}
	f.Nodes.Known = true

	var o objects
	var podErr, svcErr, pdbErr error
	var reading sync.WaitGroup
	kube := r.conn.kube
	reading.Go(func() {
		sets, err := pages(ctx, kube.AppsV1().DaemonSets("").List, func(l *appsv1.DaemonSetList) []appsv1.DaemonSet { return l.Items })
		f.DaemonSets, f.Flannel = r.networks(ctx, sets, err, nodes)
	})
	reading.Go(func() {
		// Where workloads cannot be listed, their pods' replicas are not known.
		o.replicaSets, _ = pages(ctx, kube.AppsV1().ReplicaSets("").List, func(l *appsv1.ReplicaSetList) []appsv1.ReplicaSet { return l.Items })
	})
	reading.Go(func() {
		o.statefulSet, _ = pages(ctx, kube.AppsV1().StatefulSets("").List, func(l *appsv1.StatefulSetList) []appsv1.StatefulSet { return l.Items })
	})
	reading.Go(func() {
		o.pods, podErr = pages(ctx, kube.CoreV1().Pods("").List, func(l *corev1.PodList) []corev1.Pod { return l.Items })
	})
	reading.Go(func() {
		o.services, svcErr = pages(ctx, kube.CoreV1().Services("").List, func(l *corev1.ServiceList) []corev1.Service { return l.Items })
	})
	reading.Go(func() {
		o.budgets, pdbErr = pages(ctx, kube.PolicyV1().PodDisruptionBudgets("").List, func(l *policyv1.PodDisruptionBudgetList) []policyv1.PodDisruptionBudget { return l.Items })
	})
	reading.Go(func() { f.Kubernetes = r.version(ctx) })
	reading.Go(func() { f.Pools = r.pools(ctx) })
	reading.Go(func() { f.CalicoAPI = r.calicoAPI(ctx) })
	reading.Go(func() { f.ProxyMode = r.proxyMode(ctx) })
	var cidrs []string
	var cidrErr error
	reading.Go(func() { cidrs, cidrErr = r.serviceCIDRs(ctx) })
	reading.Wait()

	f.Budgets = fact(r, "listing PodDisruptionBudgets", budgetsOf(o.budgets), pdbErr)
	f.Pods = fact(r, "listing pods", podsOf(&o), podErr)
	if cidrErr == nil && len(cidrs) == 0 {
		cidrs = serviceRanges(o.pods)
	}
	f.Services = fact(r, "listing services", preflight.ServiceNet{CIDRs: cidrs, Addresses: serviceAddresses(o.services)}, svcErr)
	return f
}

// get reads a path of the API server into v. Found is false when there is no such thing.
func (r *run) get(ctx context.Context, path string, v any) (found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	b, err := r.conn.raw(ctx, path)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return false, fmt.Errorf("%s is not what it should be: %w", path, err)
	}
	return true, nil
}

func (r *run) version(ctx context.Context) preflight.Fact[string] {
	var v struct {
		GitVersion string `json:"gitVersion"`
	}
	_, err := r.get(ctx, "/version", &v)
	if err == nil && v.GitVersion == "" {
		err = errors.New("the API server does not tell its version")
	}
	return fact(r, "reading the version", v.GitVersion, err)
}

// listOf is as much of a list of custom objects as is read.
type listOf[T any] struct {
	Items []struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
		Spec     T                 `json:"spec"`
	} `json:"items"`
}

func (r *run) pools(ctx context.Context) preflight.Fact[[]preflight.Pool] {
	var l listOf[struct {
		CIDR      string `json:"cidr"`
		IPIPMode  string `json:"ipipMode"`
		VXLANMode string `json:"vxlanMode"`
		BlockSize int    `json:"blockSize"`
		Disabled  bool   `json:"disabled"`
	}]
	var out []preflight.Pool
	found, err := r.get(ctx, "/apis/crd.projectcalico.org/v1/ippools", &l)
	if err == nil && !found {
		_, err = r.get(ctx, "/apis/projectcalico.org/v3/ippools", &l)
	}
	for _, p := range l.Items {
		out = append(out, preflight.Pool{
			Name: p.Metadata.Name, CIDR: p.Spec.CIDR, IPIP: p.Spec.IPIPMode, VXLAN: p.Spec.VXLANMode,
			BlockSize: p.Spec.BlockSize, Disabled: p.Spec.Disabled,
		})
	}
	return fact(r, "listing IPPools", out, err)
}

func (r *run) calicoAPI(ctx context.Context) preflight.Fact[preflight.CalicoAPI] {
	api, err := r.readCalicoAPI(ctx)
	return fact(r, "reading which APIs there are", api, err)
}

func (r *run) readCalicoAPI(ctx context.Context) (api preflight.CalicoAPI, err error) {
	var groups metav1.APIGroupList
	if found, err := r.get(ctx, "/apis", &groups); err != nil || !found {
		return api, errors.Join(err, notFound(found, "/apis"))
	}
	has := func(name string) bool {
		return slices.ContainsFunc(groups.Groups, func(g metav1.APIGroup) bool { return g.Name == name })
	}
	api.Mode = "none"
	if has("crd.projectcalico.org") {
		api.Mode = "crd"
	}
	if has("projectcalico.org") {
		var service struct {
			Spec struct {
				Service *struct{} `json:"service"`
			} `json:"spec"`
		}
		found, err := r.get(ctx, "/apis/apiregistration.k8s.io/v1/apiservices/v3.projectcalico.org", &service)
		if err != nil {
			return api, err
		}
		api.Mode = "native"
		if found && service.Spec.Service != nil {
			api.Mode = "aggregated"
		}
	}
	if api.Mode == "none" {
		return api, nil
	}
	var resources metav1.APIResourceList
	if _, err := r.get(ctx, "/apis/crd.projectcalico.org/v1", &resources); err != nil {
		return api, err
	}
	api.Tiers = slices.ContainsFunc(resources.APIResources, func(a metav1.APIResource) bool { return a.Name == "tiers" })
	return api, nil
}

func notFound(found bool, path string) error {
	if found {
		return nil
	}
	return fmt.Errorf("there is no %s", path)
}

// serviceCIDRs are those of the ServiceCIDR API, where there is one.
func (r *run) serviceCIDRs(ctx context.Context) ([]string, error) {
	var l listOf[struct {
		CIDRs []string `json:"cidrs"`
	}]
	var out []string
	_, err := r.get(ctx, "/apis/networking.k8s.io/v1/servicecidrs", &l)
	for _, s := range l.Items {
		out = append(out, s.Spec.CIDRs...)
	}
	return out, err
}

// proxyMode reads kubeadm's ConfigMap of kube-proxy.
func (r *run) proxyMode(ctx context.Context) preflight.Fact[string] {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	m, err := r.conn.kube.CoreV1().ConfigMaps("kube-system").Get(ctx, "kube-proxy", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return preflight.Unknown[string]("there is no ConfigMap kube-system/kube-proxy, and the nodes' kube-proxy does not tell")
	}
	if err != nil {
		return fact(r, "reading kube-proxy's configuration", "", err)
	}
	for line := range strings.SplitSeq(m.Data["config.conf"], "\n") {
		if value, ok := strings.CutPrefix(line, "mode:"); ok {
			mode := strings.Trim(strings.TrimSpace(value), `"'`)
			if mode == "" {
				mode = "iptables"
			}
			return preflight.Known(mode)
		}
	}
	return preflight.Known("iptables")
}
