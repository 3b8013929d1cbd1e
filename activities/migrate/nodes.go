package migrate

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/verify"
)

const (
	// labelCNI chooses on a node between Canal and Calico; without it, a node has
	// Canal until Turn and Calico after.
	labelCNI  = "portcullis.dev/cni"
	cniCanal  = "canal"
	cniCalico = "calico"
	// annotationCordoned is on a node that a migration cordoned.
	annotationCordoned = "portcullis.dev/cordoned"
	// calicoDomain begins the names of Calico's annotations on nodes.
	calicoDomain      = "projectcalico.org/"
	annotationTunnel  = calicoDomain + "IPv4VXLANTunnelAddr"
	annotationAddress = calicoDomain + "IPv4Address"
)

// Nodes lists the nodes of a cluster as they are now: Linux ones, by name.
// Errors: Denied, Untrusted, Unavailable.
func (a *Activities) Nodes(ctx context.Context, in NodesInput) ([]Node, error) {
	c, err := a.connect(in.Cluster.ID)
	if err != nil {
		return nil, verify.Classify(in.Cluster.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	nodes, err := c.nodes(ctx)
	if err != nil {
		return nil, verify.Classify(in.Cluster.Name, err)
	}
	choice, err := c.choice(ctx)
	if err != nil {
		return nil, verify.Classify(in.Cluster.Name, err)
	}
	out := make([]Node, 0, len(nodes))
	for i := range nodes {
		n := &nodes[i]
		out = append(out, Node{Name: n.Name, ControlPlane: controlPlane(n), Ready: ready(n), CNI: cmp.Or(n.Labels[labelCNI], choice)})
	}
	return out, nil
}

// choice is the CNI that a node without labelCNI has: Calico's where its DaemonSet runs there.
func (c *cluster) choice(ctx context.Context) (string, error) {
	ds, err := c.kube.AppsV1().DaemonSets(calicoNamespace).Get(ctx, calicoDaemonSet, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return cniCanal, nil
	}
	if err != nil {
		return "", err
	}
	if a := ds.Spec.Template.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		for _, t := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
			if slices.ContainsFunc(t.MatchExpressions, func(e corev1.NodeSelectorRequirement) bool {
				return e.Key == labelCNI && e.Operator == corev1.NodeSelectorOpIn
			}) {
				return cniCanal, nil
			}
		}
	}
	return cniCalico, nil
}

// nodes are the nodes that carry pods of Linux, by name.
func (c *cluster) nodes(ctx context.Context) ([]corev1.Node, error) {
	list, err := c.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	nodes := slices.DeleteFunc(list.Items, func(n corev1.Node) bool {
		os := n.Labels[corev1.LabelOSStable]
		return os != "" && os != "linux"
	})
	slices.SortFunc(nodes, func(a, b corev1.Node) int { return strings.Compare(a.Name, b.Name) })
	return nodes, nil
}

func controlPlane(n *corev1.Node) bool {
	for _, role := range []string{"control-plane", "controlplane", "master", "etcd"} {
		if _, ok := n.Labels["node-role.kubernetes.io/"+role]; ok {
			return true
		}
	}
	return false
}

func ready(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

func podReady(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func calicoAnnotations(n *corev1.Node) map[string]string {
	out := map[string]string{}
	for k, v := range n.Annotations {
		if strings.HasPrefix(k, calicoDomain) {
			out[k] = v
		}
	}
	return out
}

// podNetwork is a node's, of IPv4. One that has just joined may not have been given it yet.
func podNetwork(n *corev1.Node) (netip.Prefix, error) {
	if n.Spec.PodCIDR == "" {
		return netip.Prefix{}, errs.Unavailable("node %s has no pod network", n.Name)
	}
	p, err := netip.ParsePrefix(n.Spec.PodCIDR)
	if err != nil || !p.Addr().Is4() {
		return netip.Prefix{}, errs.Failed("node %s has no pod network of IPv4: %q", n.Name, n.Spec.PodCIDR)
	}
	return p.Masked(), nil
}

// peers are the pod networks of the other nodes.
func peers(nodes []corev1.Node, but string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for i := range nodes {
		if nodes[i].Name == but {
			continue
		}
		p, err := podNetwork(&nodes[i])
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func internalAddress(n *corev1.Node) netip.Addr {
	for _, a := range n.Status.Addresses {
		if addr, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP && addr.Is4() {
			return addr
		}
	}
	return netip.Addr{}
}

// node finds the one that the step is about.
func node(nodes []corev1.Node, name string) (*corev1.Node, error) {
	for i := range nodes {
		if nodes[i].Name == name {
			return &nodes[i], nil
		}
	}
	return nil, errs.NotFound("node %s is not there", name)
}

// patchNode merges labels and annotations into a node's; nil removes.
func (r *run) patchNode(ctx context.Context, name string, labels, annotations map[string]any) error {
	// A map that is null in a merge patch takes away everything that the node has.
	metadata := map[string]any{}
	if len(labels) > 0 {
		metadata["labels"] = labels
	}
	if len(annotations) > 0 {
		metadata["annotations"] = annotations
	}
	data, err := patchOf(map[string]any{"metadata": metadata})
	if err != nil {
		return err
	}
	_, err = r.kube.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, data, metav1.PatchOptions{FieldManager: fieldManager})
	return err
}

// podsOn lists a node's pods that have the labels, or all.
func (r *run) podsOn(ctx context.Context, namespace, selector, node string) ([]corev1.Pod, error) {
	list, err := r.kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector, FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}
