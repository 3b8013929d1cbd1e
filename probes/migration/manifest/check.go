package manifest

import (
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// known are the objects that a manifest may hold, by group/version/kind, and when
// each is applied. Whatever else there is would be applied without being understood.
var known = map[string]struct {
	rank       int
	namespaced bool
}{
	"apiextensions.k8s.io/v1/CustomResourceDefinition": {0, false},
	"v1/Namespace":      {1, false},
	"v1/ServiceAccount": {2, true},
	"v1/ConfigMap":      {3, true},
	"rbac.authorization.k8s.io/v1/ClusterRole":        {4, false},
	"rbac.authorization.k8s.io/v1/Role":               {4, true},
	"rbac.authorization.k8s.io/v1/ClusterRoleBinding": {5, false},
	"rbac.authorization.k8s.io/v1/RoleBinding":        {5, true},
	"v1/Service":                    {6, true},
	"apps/v1/DaemonSet":             {7, true},
	"apps/v1/Deployment":            {8, true},
	"policy/v1/PodDisruptionBudget": {9, true},
}

func rank(it item) int { return known[it.GetAPIVersion()+"/"+it.GetKind()].rank }

// needed are definitions without which Calico's IPAM or Felix cannot work.
var needed = []string{
	"blockaffinities", "clusterinformations", "felixconfigurations", "globalnetworkpolicies", "ipamblocks", "ipamconfigs",
	"ipamhandles", "ippools", "networkpolicies",
}

// foreign recognises manifests of something else, of which every other complaint
// would be noise.
func foreign(items []item) error {
	for _, it := range items {
		k := it.key()
		what := ""
		switch {
		case k.group == "operator.tigera.io" || strings.HasSuffix(k.name, ".operator.tigera.io") || k.name == "tigera-operator":
			what = "the manifest of Tigera's operator"
		case k.kind == "DaemonSet" && (k.name == "canal" || k.name == "rke2-canal"), k.kind == "ConfigMap" && k.name == "canal-config":
			what = "Canal's own manifest"
		case k.kind == "DaemonSet" && strings.HasPrefix(k.name, "calico-node-windows"):
			what = "a manifest for Windows nodes"
		case k.kind == "Secret" && k.name == "calico-etcd-secrets":
			what = "the manifest for Calico with an etcd of its own"
		}
		if what != "" {
			return Errors{{it.node.Line, "this is " + what + " (" + it.String() + "); give Calico's calico-vxlan.yaml"}}
		}
	}
	return nil
}

func (m *Manifest) check(errs *Errors) {
	m.kinds(errs)
	m.definitions(errs)
	m.configuration(errs)
	m.workloads(errs)
	m.rights(errs)
}

// kinds refuses what is not known, what stands twice, and objects without a namespace.
func (m *Manifest) kinds(errs *Errors) {
	lines := map[key]int{}
	for _, it := range m.items {
		kind, ok := known[it.GetAPIVersion()+"/"+it.GetKind()]
		switch {
		case it.GetKind() == "Secret":
			errs.add(it.node.Line, "%s: a manifest with secrets is not taken, because it is kept in the history of the migration", it)
		case !ok:
			errs.add(it.node.Line, "%s (%s): manifests of Calico have no such object; apply it by itself", it, it.GetAPIVersion())
		case kind.namespaced && it.GetNamespace() == "":
			errs.add(it.node.Line, "%s has no namespace", it)
		case !kind.namespaced && it.GetNamespace() != "":
			errs.add(it.line("metadata", "namespace"), "%s has a namespace, and its kind has none", it)
		}
		if first, twice := lines[it.key()]; twice {
			errs.add(it.node.Line, "%s stands twice; the first is on line %d", it, first)
			continue
		}
		lines[it.key()] = it.node.Line
	}
}

func (m *Manifest) definitions(errs *Errors) {
	for _, plural := range needed {
		name := plural + ".crd.projectcalico.org"
		if m.find("apiextensions.k8s.io", "CustomResourceDefinition", name) == nil {
			errs.add(0, "there is no CustomResourceDefinition %s; give Calico's manifest with its definitions", name)
		}
	}
}

// Keys of calico-config.
const (
	keyBackend = "calico_backend"
	keyNetwork = "cni_network_config"
	keyMTU     = "veth_mtu"
	keyTypha   = "typha_service_name"
)

func (m *Manifest) configuration(errs *Errors) {
	i := m.index("", "ConfigMap", ConfigName)
	if i < 0 {
		errs.add(0, "there is no ConfigMap %s; give Calico's calico-vxlan.yaml", ConfigName)
		return
	}
	it := m.items[i]
	data := stringMap(it.Object["data"])
	m.config = data
	line := func(k string) int { return it.line("data", k) }
	if data[keyBackend] != "vxlan" {
		errs.add(line(keyBackend), "%s is %q: a migration from Canal brings up VXLAN, and BGP has no part in it; give Calico's calico-vxlan.yaml", keyBackend, data[keyBackend])
	}
	if n, err := strconv.Atoi(data[keyMTU]); err != nil || n != 0 && (n < 576 || n > 65535) {
		errs.add(line(keyMTU), "%s is %q; it is a number of bytes in quotes, or \"0\" for what Calico finds", keyMTU, data[keyMTU])
	}
	if why := network(data[keyNetwork]); why != "" {
		errs.add(line(keyNetwork), "%s: %s", keyNetwork, why)
	}
}

func stringMap(v any) map[string]string {
	out := map[string]string{}
	fields, _ := v.(map[string]any)
	for k, v := range fields {
		out[k], _ = v.(string)
	}
	return out
}

// placeholder is what Calico's installer fills in, some of it without quotes around.
var placeholder = regexp.MustCompile(`__[A-Z0-9_]+__`)

// networkName is that of Canal's configuration too: under it host-local keeps the
// addresses that Calico's installer takes over (cni-plugin/pkg/upgrade).
const networkName = "k8s-pod-network"

// network says what is wrong with the CNI configuration, or "".
func network(text string) string {
	var list struct {
		Name    string `json:"name"`
		Plugins []struct {
			Type string `json:"type"`
			IPAM struct {
				Type   string `json:"type"`
				Assign any    `json:"assign_ipv6"`
			} `json:"ipam"`
		} `json:"plugins"`
	}
	if text == "" {
		return "is missing or no text"
	}
	if err := json.Unmarshal([]byte(placeholder.ReplaceAllString(text, "0")), &list); err != nil {
		return "is no JSON: " + err.Error()
	}
	if len(list.Plugins) == 0 {
		return "has no plugins"
	}
	first := list.Plugins[0]
	switch {
	case list.Name != networkName:
		return "the network is " + strconv.Quote(list.Name) + ", and must be " + networkName + ", so that the pods' addresses are taken over"
	case first.Type != "calico":
		return "the first plugin is " + strconv.Quote(first.Type) + ", and must be calico"
	case first.IPAM.Type != "calico-ipam":
		return "addresses come from " + strconv.Quote(first.IPAM.Type) + ", and must come from calico-ipam"
	case first.IPAM.Assign == "true" || first.IPAM.Assign == true:
		return "assign_ipv6 is set: migrations are for IPv4 only"
	}
	return ""
}

// rights sees that every binding has its role and every account is there.
func (m *Manifest) rights(errs *Errors) {
	for _, it := range m.items {
		if it.GetKind() != "ClusterRoleBinding" && it.GetKind() != "RoleBinding" {
			continue
		}
		ref := stringMap(it.Object["roleRef"])
		if m.find("rbac.authorization.k8s.io", ref["kind"], ref["name"]) == nil && !strings.HasPrefix(ref["name"], "system:") {
			errs.add(it.line("roleRef", "name"), "%s gives %s %s, which is not in the manifest", it, ref["kind"], ref["name"])
		}
	}
	if account := m.node.Spec.Template.Spec.ServiceAccountName; m.node.Name != "" && m.find("", "ServiceAccount", account) == nil {
		i := m.index("apps", "DaemonSet", NodeName)
		errs.add(m.items[i].line("spec", "template", "spec", "serviceAccountName"), "there is no ServiceAccount %q for %s", account, NodeName)
	}
}

func (m *Manifest) workloads(errs *Errors) {
	for _, it := range m.items {
		switch it.GetKind() {
		case "DaemonSet":
			if it.GetName() != NodeName {
				errs.add(it.node.Line, "%s: the only DaemonSet of a migration is %s", it, NodeName)
				continue
			}
			m.nodeSet(it, errs)
		case "Deployment":
			m.deployment(it, errs)
		}
	}
	if m.index("apps", "DaemonSet", NodeName) < 0 {
		errs.add(0, "there is no DaemonSet %s; give Calico's calico-vxlan.yaml", NodeName)
	}
	slices.Sort(m.images)
	m.images = slices.Compact(m.images)
}

func (m *Manifest) deployment(it item, errs *Errors) {
	if name := it.GetName(); name != KubeControllers && name != Typha {
		errs.add(it.node.Line, "%s: only %s and %s are known", it, KubeControllers, Typha)
		return
	}
	var d appsv1.Deployment
	if !typed(it, &d, errs) {
		return
	}
	m.containers(it, &d.Spec.Template.Spec, errs)
}

// typed reads an object as Kubernetes does, and refuses fields that it has not.
func typed(it item, into any, errs *Errors) bool {
	err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(it.Object, into, true)
	if err != nil {
		errs.add(it.node.Line, "%s: %s", it, strings.ReplaceAll(err.Error(), "\n", " "))
	}
	return err == nil
}
