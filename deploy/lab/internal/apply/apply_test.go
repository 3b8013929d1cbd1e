package apply

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestDecode(t *testing.T) {
	for _, c := range []struct {
		name, in string
		objects  int
		ok       bool
	}{
		{"empty documents are left out", "---\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n# only a comment\n", 1, true},
		{"two", "apiVersion: v1\nkind: A\n---\napiVersion: v1\nkind: B\n", 2, true},
		{"nothing", "", 0, true},
		{"no kind", "apiVersion: v1\nmetadata: {name: a}\n", 0, false},
		{"no apiVersion", "kind: A\n", 0, false},
		{"no YAML", "a: {", 0, false},
	} {
		objs, err := Decode([]byte(c.in))
		if (err == nil) != c.ok || len(objs) != c.objects {
			t.Errorf("%s: %d objects, %v", c.name, len(objs), err)
		}
	}
}

func TestReplicas(t *testing.T) {
	deployment := func(generation, observed, want, updated, available, all int64) *unstructured.Unstructured {
		u := &unstructured.Unstructured{Object: map[string]any{
			"spec": map[string]any{"replicas": want},
			"status": map[string]any{
				"observedGeneration": observed, "updatedReplicas": updated, "availableReplicas": available, "replicas": all,
			},
		}}
		u.SetGeneration(generation)
		return u
	}
	for _, c := range []struct {
		name string
		d    *unstructured.Unstructured
		done bool
	}{
		{"done", deployment(1, 1, 2, 2, 2, 2), true},
		{"not seen yet", deployment(2, 1, 2, 2, 2, 2), false},
		{"old pods left", deployment(2, 2, 2, 2, 2, 3), false},
		{"not available", deployment(1, 1, 2, 2, 1, 2), false},
	} {
		if why, done := replicas(c.d); done != c.done {
			t.Errorf("%s: %v, %s", c.name, done, why)
		}
	}
}
