package migrate

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/probes"
)

const (
	// maxServices bounds the Services whose pods are probed, and sampleEach the pairs
	// of one of them, so that a round stays short on clusters of any size.
	maxServices = 50
	sampleEach  = 60
)

// Requirements says what of a cluster is measured before, during and after its
// migration: what it was given, and whether the pods of every namespace reach those
// behind every Service and the cluster's DNS. Whether such a path is open or shut is not
// judged: it must stay what it was. Errors: Denied, Untrusted, Unavailable.
func (a *Activities) Requirements(ctx context.Context, in RequirementsInput) ([]probes.Requirement, error) {
	c, err := a.connect(in.Cluster.ID)
	if err != nil {
		return nil, verify.Classify(in.Cluster.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	services, err := c.kube.CoreV1().Services(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, verify.Classify(in.Cluster.Name, err)
	}
	pods, err := c.kube.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, verify.Classify(in.Cluster.Name, err)
	}
	out := slices.Clone(in.Given)
	// A pipeline's requirements may say less of some clusters than of others.
	for i := range out {
		out[i].Optional = true
	}
	return append(out, offered(services.Items, pods.Items)...), nil
}

// offered makes a requirement of every port that a Service leads to a pod.
func offered(services []corev1.Service, pods []corev1.Pod) []probes.Requirement {
	slices.SortFunc(services, func(a, b corev1.Service) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	type goal struct {
		namespace, selector string
		port                int
		protocol            probes.Protocol
	}
	var out []probes.Requirement
	done := map[goal]bool{}
	for i := range services {
		s := &services[i]
		if len(s.Spec.Selector) == 0 || s.Spec.Type == corev1.ServiceTypeExternalName {
			continue
		}
		selector := selectorOf(s.Spec.Selector)
		for _, p := range s.Spec.Ports {
			port, protocol := target(s, p, pods), protocolOf(p.Protocol)
			key := goal{s.Namespace, selector, port, protocol}
			if port == 0 || protocol == "" || done[key] {
				continue
			}
			done[key] = true
			out = append(out, probes.Requirement{
				Name:   fmt.Sprintf("service %s/%s on %s %d", s.Namespace, s.Name, protocol, port),
				From:   probes.From{Namespaces: probes.Namespaces{All: true}},
				To:     probes.To{Namespace: s.Namespace, Selector: selector, Port: port, Protocol: protocol},
				Expect: probes.Allow, Sample: sampleEach, Optional: true,
			})
		}
	}
	if len(out) > maxServices {
		out = out[:maxServices]
	}
	return append(out, probes.Requirement{
		Name: "the cluster's DNS", From: probes.From{Namespaces: probes.Namespaces{All: true}},
		To: probes.To{DNS: "kubernetes.default.svc.cluster.local"}, Expect: probes.Allow, Sample: sampleEach, Optional: true,
	})
}

// selectorOf writes labels as one of Calico's selectors.
func selectorOf(labels map[string]string) string {
	var parts []string
	for k, v := range labels {
		parts = append(parts, fmt.Sprintf("%s == '%s'", k, v))
	}
	slices.Sort(parts)
	return strings.Join(parts, " && ")
}

// target is the port of the pods that a Service's port leads to; 0 where it is
// not known.
func target(s *corev1.Service, p corev1.ServicePort, pods []corev1.Pod) int {
	switch {
	case p.TargetPort.Type == intstr.Int && p.TargetPort.IntVal != 0:
		return int(p.TargetPort.IntVal)
	case p.TargetPort.Type == intstr.Int:
		return int(p.Port)
	}
	for i := range pods {
		if pods[i].Namespace != s.Namespace || !matches(pods[i].Labels, s.Spec.Selector) {
			continue
		}
		for _, c := range pods[i].Spec.Containers {
			for _, port := range c.Ports {
				if port.Name == p.TargetPort.StrVal {
					return int(port.ContainerPort)
				}
			}
		}
	}
	return 0
}

func matches(labels, selector map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

func protocolOf(p corev1.Protocol) probes.Protocol {
	switch p {
	case corev1.ProtocolTCP, "":
		return probes.TCP
	case corev1.ProtocolUDP:
		return probes.UDP
	}
	return ""
}
