package verify

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portcullis.dev/portcullis/probes"
)

// The annotation that a static pod's mirror carries: the UID that kubelet knows it by.
const mirrorAnnotation = "kubernetes.io/config.mirror"

// podOf takes from a pod what probing needs to know.
func podOf(p *corev1.Pod) probes.Pod {
	out := probes.Pod{
		UID: string(p.UID), Namespace: p.Namespace, Name: p.Name, Node: p.Spec.NodeName,
		ServiceAccount: p.Spec.ServiceAccountName, Labels: p.Labels, Host: p.Spec.HostNetwork,
		Running: p.Status.Phase == corev1.PodRunning && p.DeletionTimestamp == nil,
	}
	if mirror := p.Annotations[mirrorAnnotation]; mirror != "" {
		out.UID = mirror
	}
	for _, ip := range p.Status.PodIPs {
		out.IPs = append(out.IPs, ip.IP)
	}
	if len(out.IPs) == 0 && p.Status.PodIP != "" {
		out.IPs = []string{p.Status.PodIP}
	}
	var kind, name string
	if owner := metav1.GetControllerOf(p); owner != nil {
		kind, name = owner.Kind, owner.Name
	}
	out.Workload = probes.Workload(p.Namespace, p.Name, kind, name, p.Labels["pod-template-hash"])
	return out
}

// podReason says why a pod is not ready, or "".
func podReason(p *corev1.Pod) string {
	if p.DeletionTimestamp != nil {
		return "it is being deleted"
	}
	for _, c := range p.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil && w.Reason != "" {
			return clipLine(w.Reason + " " + w.Message)
		}
		if t := c.State.Terminated; t != nil {
			return clipLine("ended: " + cmp.Or(t.Message, t.Reason))
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return ""
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return clipLine(c.Reason + " " + c.Message)
		}
	}
	return "it is " + cmp.Or(string(p.Status.Phase), "new")
}

// nodeReason says why a node cannot be probed from, or "".
func nodeReason(n *corev1.Node) string {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			if c.Status == corev1.ConditionTrue {
				return ""
			}
			return clipLine("is not ready: " + c.Reason)
		}
	}
	return "has not reported yet"
}

// servicesOf joins services with their endpoints.
func servicesOf(services []*corev1.Service, endpoints []*discoveryv1.EndpointSlice, pods []*corev1.Pod) []probes.Service {
	type key struct{ namespace, name string }
	bySlice := map[key][]*discoveryv1.EndpointSlice{}
	for _, e := range endpoints {
		k := key{e.Namespace, e.Labels[discoveryv1.LabelServiceName]}
		bySlice[k] = append(bySlice[k], e)
	}
	uids := map[key]string{}
	for _, p := range pods {
		uids[key{p.Namespace, p.Name}] = podOf(p).UID
	}
	out := make([]probes.Service, 0, len(services))
	for _, s := range services {
		svc := probes.Service{Namespace: s.Namespace, Name: s.Name}
		if s.Spec.ClusterIP != corev1.ClusterIPNone && s.Spec.Type != corev1.ServiceTypeExternalName {
			svc.IP = s.Spec.ClusterIP
		}
		for _, p := range s.Spec.Ports {
			port := probes.ServicePort{Port: int(p.Port), Protocol: probes.TCP}
			if p.Protocol == corev1.ProtocolUDP {
				port.Protocol = probes.UDP
			}
			for _, e := range bySlice[key{s.Namespace, s.Name}] {
				if !slices.ContainsFunc(e.Ports, func(ep discoveryv1.EndpointPort) bool {
					return ep.Name == nil && p.Name == "" || ep.Name != nil && *ep.Name == p.Name
				}) {
					continue
				}
				for _, ep := range e.Endpoints {
					if ep.Conditions.Ready == nil || *ep.Conditions.Ready {
						port.Ready++
					}
					uid := ""
					if ep.TargetRef != nil && ep.TargetRef.Kind == "Pod" {
						uid = uids[key{ep.TargetRef.Namespace, ep.TargetRef.Name}]
					}
					port.Pods = append(port.Pods, uid)
				}
			}
			slices.Sort(port.Pods)
			svc.Ports = append(svc.Ports, port)
		}
		out = append(out, svc)
	}
	return out
}
