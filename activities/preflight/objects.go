package preflight

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portcullis.dev/portcullis/probes/preflight"
)

const (
	mirrorAnnotation = "kubernetes.io/config.mirror"
	flannelPrefix    = "flannel.alpha.coreos.com/"
	// imagesListed is how many images kubelet lists unless told otherwise
	// (nodeStatusMaxImages): a list that long may have left some out.
	imagesListed = 50
)

// nodeOf takes from a node what the checks need.
func nodeOf(n *corev1.Node) preflight.Node {
	out := preflight.Node{
		Name: n.Name, OS: cmp.Or(n.Labels[corev1.LabelOSStable], n.Status.NodeInfo.OperatingSystem),
		PodCIDRs: n.Spec.PodCIDRs, MaxPods: int(n.Status.Allocatable.Pods().Value()),
		ImagesCut: len(n.Status.Images) >= imagesListed, Flannel: map[string]string{},
	}
	if len(out.PodCIDRs) == 0 && n.Spec.PodCIDR != "" {
		out.PodCIDRs = []string{n.Spec.PodCIDR}
	}
	for _, label := range []string{"node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master", "node-role.kubernetes.io/controlplane"} {
		_, ok := n.Labels[label]
		out.ControlPlane = out.ControlPlane || ok
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			out.Ready = c.Status == corev1.ConditionTrue
		}
	}
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			out.Addresses = append(out.Addresses, a.Address)
		}
	}
	for k, v := range n.Annotations {
		if name, ok := strings.CutPrefix(k, flannelPrefix); ok {
			out.Flannel[name] = v
		}
	}
	for _, image := range n.Status.Images {
		out.Images = append(out.Images, image.Names...)
	}
	return out
}

func budgetsOf(all []policyv1.PodDisruptionBudget) []preflight.Budget {
	out := make([]preflight.Budget, 0, len(all))
	for i := range all {
		b := &all[i]
		out = append(out, preflight.Budget{
			Namespace: b.Namespace, Name: b.Name, Allowed: int(b.Status.DisruptionsAllowed), Healthy: int(b.Status.CurrentHealthy),
			Desired: int(b.Status.DesiredHealthy), Expected: int(b.Status.ExpectedPods), Stale: b.Status.ObservedGeneration < b.Generation,
		})
	}
	return out
}

// podsOf joins pods with the workloads that they belong to.
func podsOf(o *objects) []preflight.Pod {
	type key struct{ namespace, name string }
	sets := map[key]*appsv1.ReplicaSet{}
	for i := range o.replicaSets {
		sets[key{o.replicaSets[i].Namespace, o.replicaSets[i].Name}] = &o.replicaSets[i]
	}
	stateful := map[key]int{}
	for i := range o.statefulSet {
		stateful[key{o.statefulSet[i].Namespace, o.statefulSet[i].Name}] = replicas(o.statefulSet[i].Spec.Replicas)
	}
	out := make([]preflight.Pod, 0, len(o.pods))
	for i := range o.pods {
		p := &o.pods[i]
		pod := preflight.Pod{
			Namespace: p.Namespace, Name: p.Name, Node: p.Spec.NodeName, HostNetwork: p.Spec.HostNetwork,
			Mirror: p.Annotations[mirrorAnnotation] != "",
			Done:   p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed,
		}
		for _, v := range p.Spec.Volumes {
			pod.LocalData = pod.LocalData || v.EmptyDir != nil
		}
		if owner := metav1.GetControllerOf(p); owner != nil {
			pod.Controller, pod.Owner = owner.Kind, strings.ToLower(owner.Kind)+"/"+owner.Name
			k := key{p.Namespace, owner.Name}
			switch owner.Kind {
			case "ReplicaSet":
				if s := sets[k]; s != nil {
					pod.Replicas = replicas(s.Spec.Replicas)
					if d := metav1.GetControllerOf(s); d != nil {
						pod.Owner = strings.ToLower(d.Kind) + "/" + d.Name
					}
				}
			case "StatefulSet":
				pod.Replicas = stateful[k]
			}
		}
		out = append(out, pod)
	}
	return out
}

// replicas is how many are wanted; unset means one.
func replicas(n *int32) int {
	if n == nil {
		return 1
	}
	return int(*n)
}

func serviceAddresses(services []corev1.Service) []string {
	var out []string
	for i := range services {
		if ip := services[i].Spec.ClusterIP; ip != "" && ip != corev1.ClusterIPNone {
			out = append(out, ip)
		}
	}
	return out
}

// serviceRanges reads the services' network from the API server's own command
// line, where that runs as a pod.
func serviceRanges(pods []corev1.Pod) []string {
	found := map[string]bool{}
	for i := range pods {
		for _, c := range pods[i].Spec.Containers {
			if !strings.HasPrefix(c.Name, "kube-apiserver") {
				continue
			}
			for _, arg := range slices.Concat(c.Command, c.Args) {
				if value, ok := strings.CutPrefix(arg, "--service-cluster-ip-range="); ok {
					for cidr := range strings.SplitSeq(value, ",") {
						found[strings.TrimSpace(cidr)] = true
					}
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}
