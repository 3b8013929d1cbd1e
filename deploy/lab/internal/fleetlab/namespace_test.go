package fleetlab

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic/fake"

	"portcullis.dev/portcullis/deploy/lab/internal/apply"
)

// A Cluster is changed where its namespace is gone, and left alone where it is
// there or was not made yet.
func TestRemindOfNamespace(t *testing.T) {
	for name, c := range map[string]struct {
		namespace string
		there     bool
		changed   bool
	}{
		"not made yet": {"", false, false},
		"there":        {"cluster-a", true, false},
		"gone":         {"cluster-a", false, true},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := object("fleet.cattle.io/v1alpha1", "Cluster", Workspace, "a", map[string]any{"status": map[string]any{"namespace": c.namespace}})
			objects := []runtime.Object{cluster}
			if c.there {
				objects = append(objects, object("v1", "Namespace", "", c.namespace, nil))
			}
			client := fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
				clusters: "ClusterList", namespaces: "NamespaceList",
			}, objects...)
			if err := remindOfNamespace(t.Context(), &apply.Client{Dynamic: client}, cluster.DeepCopy()); err != nil {
				t.Fatal(err)
			}
			after, err := client.Resource(clusters).Namespace(Workspace).Get(t.Context(), "a", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if _, changed, _ := unstructured.NestedString(after.Object, "metadata", "annotations", "portcullis.dev/namespace-was-gone"); changed != c.changed {
				t.Errorf("changed: %t", changed)
			}
		})
	}
}
