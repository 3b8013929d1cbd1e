package doctor

import (
	"fmt"
	"slices"
	"strings"

	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/rancher/drift"
)

// need is one verb on one resource, as a request of the daemon makes it.
type need struct {
	// group is empty for the core group; namespace is empty for all of them, and
	// for what is in none.
	group, resource, subresource, namespace, verb string
}

// String is as people write it: create pods/exec in portcullis-system.
func (n need) String() string {
	s := n.verb + " " + n.resource
	if n.subresource != "" {
		s += "/" + n.subresource
	}
	if n.group != "" {
		s += "." + n.group
	}
	if n.namespace != "" {
		s += " in " + n.namespace
	}
	return s
}

// in makes needs of verbs on one resource.
func in(group, resource, namespace string, verbs ...string) []need {
	var out []need
	for _, v := range verbs {
		out = append(out, need{group: group, resource: resource, namespace: namespace, verb: v})
	}
	return out
}

const (
	fleetGroup  = "fleet.cattle.io"
	rancherAPI  = "management.cattle.io"
	calicoGroup = "crd.projectcalico.org"
)

// onManagement is what rollouts, holds and migrations do on the management cluster.
func onManagement(workspace string) []need {
	return slices.Concat(
		in(rancherAPI, "settings", "", "get"),
		in(rancherAPI, "clusters", "", "list", "watch"),
		in(fleetGroup, "gitrepos", workspace, "get", "list", "watch", "create", "patch", "delete"),
		in(fleetGroup, "bundles", workspace, "list", "watch"),
		in(fleetGroup, "bundledeployments", "", "list", "watch"),
		in(fleetGroup, "clusters", workspace, "get", "list", "watch", "patch"),
		in(fleetGroup, "clustergroups", workspace, "list", "watch"),
		in("batch", "jobs", workspace, "list", "watch"),
		in("", "configmaps", workspace, "get", "create", "patch", "delete"),
		in("", "secrets", workspace, "get"),
	)
}

// onCluster is what the node agent and the probes need of a cluster.
func onCluster(agent string) []need {
	return slices.Concat(
		in("", "namespaces", "", "get", "create", "patch", "delete"),
		in("", "serviceaccounts", agent, "create", "patch", "delete"),
		in("apps", "daemonsets", agent, "get", "create", "patch", "delete"),
		in("", "pods", "", "list", "watch"),
		in("", "services", "", "list", "watch"),
		in("", "nodes", "", "list", "watch"),
		in("discovery.k8s.io", "endpointslices", "", "list", "watch"),
		// An exec by WebSocket is a get and, from Kubernetes 1.35 on, a create; one by SPDY is a create.
		[]need{
			{resource: "pods", subresource: "exec", namespace: agent, verb: "get"},
			{resource: "pods", subresource: "exec", namespace: agent, verb: "create"},
		},
	)
}

// forPreflight is what a preflight reads besides.
func forPreflight() []need {
	return slices.Concat(
		in("apps", "daemonsets", "", "list"),
		in("apps", "replicasets", "", "list"),
		in("apps", "statefulsets", "", "list"),
		in("policy", "poddisruptionbudgets", "", "list"),
		in("", "configmaps", "kube-system", "get"),
		in(calicoGroup, "ippools", "", "list"),
		in("apiregistration.k8s.io", "apiservices", "", "get"),
		in("networking.k8s.io", "servicecidrs", "", "list"),
	)
}

// forAudit is what a drift audit reads besides: every type that it lists on each
// cluster, and the releases of Helm, which are Secrets.
func forAudit() []need {
	var out []need
	for _, t := range drift.Watched() {
		group, _, _ := strings.Cut(t.APIVersion, "/")
		out = append(out, need{group: group, resource: drift.Resource(t), verb: "list"})
	}
	return append(out, in("", "secrets", "", "get", "list")...)
}

// forMigration is what a migration writes besides. It applies Calico's own
// manifest, with its types and its ClusterRoles, so that it can grant rights: only
// an administrator of the cluster can.
func forMigration() []need {
	calico := []string{"felixconfigurations", "clusterinformations", "ippools", "ipamconfigs", "ipamblocks", "ipamhandles", "blockaffinities"}
	var out []need
	for _, resource := range calico {
		out = append(out, in(calicoGroup, resource, "", "get", "list", "create", "update", "patch", "delete")...)
	}
	return slices.Concat(out,
		in("apiextensions.k8s.io", "customresourcedefinitions", "", "get", "create", "patch", "delete"),
		in("rbac.authorization.k8s.io", "clusterroles", "", "get", "create", "patch", "delete", "escalate", "bind"),
		in("rbac.authorization.k8s.io", "clusterrolebindings", "", "list", "create", "patch", "delete"),
		in("rbac.authorization.k8s.io", "rolebindings", "", "list"),
		in("", "configmaps", "kube-system", "get", "create", "patch", "delete"),
		in("", "serviceaccounts", "kube-system", "get", "create", "patch", "delete"),
		in("apps", "daemonsets", "kube-system", "get", "create", "update", "patch", "delete"),
		in("apps", "deployments", "kube-system", "get", "create", "patch", "delete"),
		in("", "nodes", "", "patch"),
		in("", "pods", "", "delete"),
		[]need{{resource: "pods", subresource: "eviction", verb: "create"}},
	)
}

// fields are what of Fleet's types a rollout relies on, by kind: an older Fleet
// without them drops silently what is written to them, or never reports them.
var fields = map[string][]string{
	"GitRepo": {
		"spec.repo", "spec.revision", "spec.branch", "spec.paths", "spec.paused", "spec.targets", "spec.forceSyncGeneration",
		"status.observedGeneration", "status.commit", "status.conditions",
	},
	"Bundle":           {"status.observedGeneration", "status.resourcesSha256Sum"},
	"BundleDeployment": {"spec.stagedDeploymentID", "spec.deploymentID", "status.appliedDeploymentID", "status.ready", "status.nonModified"},
	"Cluster":          {"spec.paused", "status.agent.lastSeen"},
}

// sourceKey tells two pipelines that read one repository apart by nothing but that.
func sourceKey(s rancher.Source) string {
	return fmt.Sprintf("%s|%s|%s", s.Repo, s.Branch, s.ClientSecretName)
}
