package verify

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
)

// What other activities that work through the node agent share with this package.

// Executor runs a command in an agent's container. Its error is one line.
type Executor = executor

// Connect reaches a cluster: its API server, in JSON, and the agents' containers through it.
func Connect(clusters Clusters, id string) (kubernetes.Interface, Executor, error) {
	c, err := dial(clusters, id, runtime.ContentTypeJSON)
	if err != nil {
		return nil, nil, err
	}
	return c.kube, c.exec, nil
}

// Classify gives an error of talking to a cluster the type that Temporal and
// people know it by.
func Classify(cluster string, err error) error { return classify(cluster, err) }

// AgentPod is a node agent's pod.
type AgentPod struct {
	Namespace, Pod string
	// Reason says why it cannot be used, or is empty.
	Reason string
}

// AgentPods finds the agents of nodes, by the node's name. Every node that is
// given and can have one has an entry.
func AgentPods(ctx context.Context, kube kubernetes.Interface, namespace string, nodes []corev1.Node) (map[string]AgentPod, error) {
	if namespace == "" {
		namespace = DefaultNamespace
	}
	pods, err := kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(agentLabels).String()})
	if err != nil {
		return nil, err
	}
	out := map[string]AgentPod{}
	for _, n := range agentNodes(nodes, pods.Items, imageOf(pods.Items)) {
		out[n.Node] = AgentPod{Namespace: namespace, Reason: n.Reason}
	}
	for i := range pods.Items {
		p := &pods.Items[i]
		if a, ok := out[p.Spec.NodeName]; ok && (a.Pod == "" || p.DeletionTimestamp == nil) {
			a.Pod = p.Name
			out[p.Spec.NodeName] = a
		}
	}
	return out, nil
}

// imageOf is the image of most agents: one that differs has not been updated.
func imageOf(pods []corev1.Pod) string {
	count, best := map[string]int{}, ""
	for i := range pods {
		if cs := pods[i].Spec.Containers; len(cs) > 0 {
			count[cs[0].Image]++
			if count[cs[0].Image] > count[best] {
				best = cs[0].Image
			}
		}
	}
	return best
}
