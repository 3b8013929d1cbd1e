package probes

import (
	"regexp"
	"strings"
)

// Cluster is what expanding requirements needs to know of a cluster.
type Cluster struct {
	Pods     []Pod
	Services []Service
}

// Pod is a pod of the cluster.
type Pod struct {
	// UID is the one that kubelet knows the pod by, see wire.Pod.
	UID            string
	Namespace      string
	Name           string
	Node           string
	ServiceAccount string
	Labels         map[string]string
	// IPs are the pod's addresses, its primary one first.
	IPs []string
	// Host says that the pod is in its node's network.
	Host bool
	// Running is false for a pod that has not started, has ended, or is being deleted.
	Running bool
	// Workload is what owns the pod, as namespace/kind/name, see Workload.
	Workload string
}

// Service is a service with a cluster IP.
type Service struct {
	Namespace string
	Name      string
	// IP is the cluster IP, or empty for a service that has none.
	IP    string
	Ports []ServicePort
}

// ServicePort is one port of a service.
type ServicePort struct {
	Port     int
	Protocol Protocol
	// Ready counts the ready endpoints; Pods has the UIDs of the pods among all endpoints.
	Ready int
	Pods  []string
}

// Workload names what owns a pod, as namespace/kind/name. A ReplicaSet stands for its
// Deployment, whose name is the ReplicaSet's without the pod-template-hash. A
// pod without an owner stands for itself.
func Workload(namespace, pod, ownerKind, ownerName, templateHash string) string {
	kind, name := ownerKind, ownerName
	switch {
	case kind == "" || name == "":
		kind, name = "Pod", pod
	case kind == "ReplicaSet" && templateHash != "":
		if deployment, ok := strings.CutSuffix(name, "-"+templateHash); ok {
			kind, name = "Deployment", deployment
		}
	case kind == "Job":
		// A CronJob numbers its Jobs by the minute; each run is the same workload.
		name = cronJobRun.ReplaceAllString(name, "")
	case kind == "Node":
		// Static pods are named after their node.
		name = pod
		kind = "Pod"
	}
	return namespace + "/" + kind + "/" + name
}

var cronJobRun = regexp.MustCompile(`-\d{8,10}$`)

// labels are what a Calico selector sees of the pod: its own labels and the
// ones that Calico adds.
func (p *Pod) labels() map[string]string {
	all := make(map[string]string, len(p.Labels)+3)
	for k, v := range p.Labels {
		all[k] = v
	}
	all["projectcalico.org/namespace"] = p.Namespace
	all["projectcalico.org/orchestrator"] = "k8s"
	if p.ServiceAccount != "" {
		all["projectcalico.org/serviceaccount"] = p.ServiceAccount
	}
	return all
}

// SystemNamespace tells whether a namespace belongs to the platform. Such
// namespaces are not meant by "all": what runs there is governed by the
// platform's own policies, and a rule for users' workloads ("nobody reaches the
// database") would otherwise fail on every cluster for reasons that no user can change.
// They can be named.
func SystemNamespace(name string) bool {
	switch name {
	case "kube-system", "kube-public", "kube-node-lease", "tigera-operator", "portcullis-system":
		return true
	}
	return strings.HasPrefix(name, "cattle-") || strings.HasPrefix(name, "calico-")
}
