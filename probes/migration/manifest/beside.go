package manifest

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Prefix is put before the names of Calico's roles and bindings while Canal is
// there: Canal's have the same names and other rights, and its pods need them.
const Prefix = "portcullis-"

// Object names an object of a cluster.
type Object struct {
	schema.GroupVersionKind
	Namespace, Name string
}

// Beside gives the objects as they are installed while Canal still runs, in the
// order in which they are applied. calico-node runs only where the node's label has
// the value; roles and bindings have Prefix before their names; Felix asks the API
// server, and not Typha. What serves the whole cluster (kube-controllers, Typha, their
// budgets) comes when Canal has gone, with Objects.
func (m *Manifest) Beside(label, value string) ([]*unstructured.Unstructured, error) {
	out := make([]*unstructured.Unstructured, 0, len(m.items))
	for _, object := range m.Objects() {
		switch object.GetKind() {
		case "Deployment", "PodDisruptionBudget", "Service":
			continue
		case "ConfigMap":
			if err := withoutTypha(object); err != nil {
				return nil, err
			}
		case "DaemonSet":
			if err := Require(object, label, corev1.NodeSelectorOpIn, value); err != nil {
				return nil, err
			}
		case "ClusterRole", "Role":
			object.SetName(Prefix + object.GetName())
		case "ClusterRoleBinding", "RoleBinding":
			if err := m.rebind(object); err != nil {
				return nil, err
			}
		}
		out = append(out, object)
	}
	return out, nil
}

// withoutTypha lets Felix ask the API server.
func withoutTypha(config *unstructured.Unstructured) error {
	if _, has, _ := unstructured.NestedString(config.Object, "data", keyTypha); !has || config.GetName() != ConfigName {
		return nil
	}
	return unstructured.SetNestedField(config.Object, "none", "data", keyTypha)
}

// rebind gives a binding its other name, and the role's where that is renamed too.
func (m *Manifest) rebind(binding *unstructured.Unstructured) error {
	binding.SetName(Prefix + binding.GetName())
	ref := stringMap(binding.Object["roleRef"])
	if m.find("rbac.authorization.k8s.io", ref["kind"], ref["name"]) == nil {
		return nil // one of Kubernetes's own
	}
	return unstructured.SetNestedField(binding.Object, Prefix+ref["name"], "roleRef", "name")
}

// Renamed are the objects that Beside gives other names; they are deleted once
// Calico is as its manifest says.
func (m *Manifest) Renamed() []Object {
	var out []Object
	for _, it := range m.items {
		if it.GroupVersionKind().Group == "rbac.authorization.k8s.io" {
			out = append(out, Object{it.GroupVersionKind(), it.GetNamespace(), Prefix + it.GetName()})
		}
	}
	return out
}
