package migrate

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"portcullis.dev/portcullis/probes/migration"
)

// running makes a call of a step, to try parts of it.
func (w *world) run(t testing.TB, step migration.Step, node string) *run {
	t.Helper()
	r, err := w.activities(t).run(t.Context(), at(t, step, node))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Whatever a pod required before, with the rule it runs where it ran before and the label is
// as the rule wants it; asked again with another value, the last one holds.
func TestOnlyWhere(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	requirement := func() corev1.NodeSelectorRequirement {
		ops := []corev1.NodeSelectorOperator{corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn, corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist}
		r := corev1.NodeSelectorRequirement{Key: []string{"zone", "disk"}[random.IntN(2)], Operator: ops[random.IntN(4)]}
		if r.Operator == corev1.NodeSelectorOpIn || r.Operator == corev1.NodeSelectorOpNotIn {
			r.Values = []string{[]string{"a", "b"}[random.IntN(2)]}
		}
		return r
	}
	spec := func() *corev1.PodSpec {
		s := &corev1.PodSpec{}
		if random.IntN(4) == 0 {
			return s
		}
		required := &corev1.NodeSelector{}
		for range random.IntN(3) {
			var term corev1.NodeSelectorTerm
			for range random.IntN(3) {
				term.MatchExpressions = append(term.MatchExpressions, requirement())
			}
			required.NodeSelectorTerms = append(required.NodeSelectorTerms, term)
		}
		s.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{}}
		if len(required.NodeSelectorTerms) > 0 { // one without terms is refused by the API server
			s.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = required
		}
		return s
	}
	for range 3000 {
		s := spec()
		before := s.DeepCopy()
		operator := []corev1.NodeSelectorOperator{corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn}[random.IntN(2)]
		value := []string{cniCanal, cniCalico}[random.IntN(2)]
		onlyWhere(s, corev1.NodeSelectorOpIn, "other")
		onlyWhere(s, operator, value)
		once := s.DeepCopy()
		onlyWhere(s, operator, value)
		if !reflect.DeepEqual(once, s) {
			t.Fatalf("twice is not as once: %+v", before.Affinity)
		}
		for _, zone := range []string{"", "a", "b"} {
			for _, disk := range []string{"", "a"} {
				for _, label := range []string{"", cniCanal, cniCalico} {
					has := map[string]string{}
					for k, v := range map[string]string{"zone": zone, "disk": disk, labelCNI: label} {
						if v != "" {
							has[k] = v
						}
					}
					rule := (label == value) == (operator == corev1.NodeSelectorOpIn)
					if got, want := admits(s, has), admits(before, has) && rule; got != want {
						t.Fatalf("%s %s on %v: %v, and not %v\nbefore %+v\nafter  %+v", operator, value, has, got, want, before.Affinity, s.Affinity)
					}
				}
			}
		}
		if matchesNothing(before) {
			continue // no DaemonSet that runs somewhere has such a term
		}
		anywhere(s)
		for _, zone := range []string{"", "a", "b"} {
			if has := map[string]string{"zone": zone}; admits(s, has) != admits(before, has) {
				t.Fatalf("anywhere is not as before on %v: %+v, %+v", has, before.Affinity, s.Affinity)
			}
		}
	}
}

// matchesNothing tells whether a pod has a term that no node meets.
func matchesNothing(s *corev1.PodSpec) bool {
	if s.Affinity == nil || s.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return false
	}
	return slices.ContainsFunc(s.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms, func(t corev1.NodeSelectorTerm) bool {
		return len(t.MatchExpressions) == 0
	})
}

// A patch of a node changes the keys that it names, and nothing else.
func TestPatchNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(3, 4))
		w := newWorld(t, 1)
		r := w.run(t, migration.Leave, "n0")
		keys := []string{labelCNI, annotationCordoned, annotationTunnel, "team", "a.b/c"}
		pick := func() map[string]any {
			out := map[string]any{}
			for _, k := range keys {
				switch random.IntN(4) {
				case 0:
					out[k] = nil
				case 1:
					out[k] = fmt.Sprint(random.IntN(3))
				}
			}
			if len(out) == 0 && random.IntN(2) == 0 {
				return nil
			}
			return out
		}
		expect := func(have map[string]string, patch map[string]any) map[string]string {
			out := maps.Clone(have)
			for k, v := range patch {
				if v == nil {
					delete(out, k)
				} else {
					out[k] = v.(string)
				}
			}
			return out
		}
		for range 300 {
			before := w.objects[kindOf("v1", "Node").key("", "n0")].DeepCopy()
			labels, annotations := pick(), pick()
			if err := r.patchNode(t.Context(), "n0", labels, annotations); err != nil {
				t.Fatal(err)
			}
			after := w.objects[kindOf("v1", "Node").key("", "n0")].DeepCopy()
			if want := expect(before.GetLabels(), labels); !maps.Equal(want, after.GetLabels()) {
				t.Fatalf("labels %v by %v: %v", before.GetLabels(), labels, after.GetLabels())
			}
			if want := expect(before.GetAnnotations(), annotations); !maps.Equal(want, after.GetAnnotations()) {
				t.Fatalf("annotations %v by %v: %v", before.GetAnnotations(), annotations, after.GetAnnotations())
			}
			for _, u := range []*unstructured.Unstructured{before, after} {
				u.SetLabels(nil)
				u.SetAnnotations(nil)
			}
			if !same(clean(before).Object, clean(after).Object) {
				t.Fatal("something else changed")
			}
		}
	})
}

// On the whole way there and back, nodes are changed in what is the migration's alone.
func TestNodesKeepWhatIsNotOurs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		all := reversible(course(2))
		mustDo(t, w, all...)
		mustUndo(t, w, all...)
		mustDo(t, w, course(2)...)
		patches := 0
		for _, wr := range w.log {
			verb, path, _ := strings.Cut(wr.what, " ")
			if !strings.HasPrefix(path, "/api/v1/nodes/") {
				continue
			}
			patches++
			var patch struct {
				Metadata *struct{ Labels, Annotations map[string]any } `json:"metadata"`
				Spec     map[string]any                                `json:"spec"`
			}
			var fields map[string]map[string]any
			if err := json.Unmarshal(wr.body, &fields); err != nil || json.Unmarshal(wr.body, &patch) != nil || verb != "PATCH" {
				t.Fatalf("%s: %s %v", wr.what, wr.body, err)
			}
			for field, v := range fields["metadata"] {
				if v == nil {
					t.Errorf("%s takes away all %s", wr.what, field)
				}
			}
			if patch.Metadata != nil {
				for k := range patch.Metadata.Labels {
					if k != labelCNI {
						t.Errorf("%s changes the label %s", wr.what, k)
					}
				}
				for k := range patch.Metadata.Annotations {
					if k != annotationCordoned && !strings.HasPrefix(k, calicoDomain) && !strings.HasPrefix(k, flannelPrefix) {
						t.Errorf("%s changes the annotation %s", wr.what, k)
					}
				}
			}
			for k := range patch.Spec {
				if k != "unschedulable" {
					t.Errorf("%s changes %s", wr.what, k)
				}
			}
		}
		if patches < 10 {
			t.Errorf("%d patches of nodes were seen", patches)
		}
		for _, n := range w.of("Node") {
			if n.GetLabels()["team"] != "a" || n.GetAnnotations()["projectcalico.org/kube-labels"] != "x" {
				t.Errorf("%s has %v and %v", n.GetName(), n.GetLabels(), n.GetAnnotations())
			}
		}
	})
}

func TestMergeSpec(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tc := range []struct {
			name       string
			have, want map[string]any
			set        map[string]any
			writes     int
		}{
			{"nothing to set of nothing", nil, nil, map[string]any{"a": nil}, 0},
			{"made", nil, map[string]any{"a": int64(1), "b": true}, map[string]any{"a": 1, "b": true, "c": nil}, 1},
			{"as it is", map[string]any{"a": int64(1), "x": "y"}, map[string]any{"a": int64(1), "x": "y"}, map[string]any{"a": 1}, 0},
			{"changed", map[string]any{"a": int64(1), "x": "y"}, map[string]any{"a": int64(2), "x": "y"}, map[string]any{"a": 2}, 1},
			{"removed", map[string]any{"a": int64(1), "x": "y"}, map[string]any{"x": "y"}, map[string]any{"a": nil}, 1},
			{"false is as absent", map[string]any{"x": "y"}, map[string]any{"x": "y"}, map[string]any{"disabled": false}, 0},
			{"true becomes false", map[string]any{"disabled": true}, map[string]any{"disabled": false}, map[string]any{"disabled": false}, 1},
		} {
			w := newWorld(t, 1)
			delete(w.objects, kindOf("crd.projectcalico.org/v1", "IPPool").key("", "default-ipv4-ippool"))
			if tc.have != nil {
				w.put(crd("IPPool", "p", tc.have))
			}
			r := w.run(t, migration.Addresses, "")
			w.log = nil
			for range 2 {
				if err := r.mergeSpec(t.Context(), ipPools, "IPPool", "p", tc.set); err != nil {
					t.Fatalf("%s: %v", tc.name, err)
				}
			}
			var got map[string]any
			if u := w.objects[kindOf("crd.projectcalico.org/v1", "IPPool").key("", "p")]; u != nil {
				got, _, _ = unstructured.NestedMap(u.Object, "spec")
			}
			if !reflect.DeepEqual(got, tc.want) || len(w.log) != tc.writes {
				t.Errorf("%s: %v in %d writes", tc.name, got, len(w.log))
			}
		}
	})
}

// A DaemonSet that another changes at the same time is read again.
func TestEditDaemonSetThatAnotherChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		r := w.run(t, migration.Split, "")
		raced := false
		w.fault = func(_ string, late bool) error {
			if u := w.objects[kindOf("apps/v1", "DaemonSet").key("kube-system", "canal")]; !late && !raced {
				raced = true
				u = u.DeepCopy()
				u.SetLabels(map[string]string{"theirs": "kept"})
				w.put(u)
			}
			return nil
		}
		if _, err := r.Do(t.Context(), at(t, migration.Begin, "")); err != nil {
			t.Fatal(err)
		}
		raced = false
		if err := r.split(t.Context()); err != nil {
			t.Fatal(err)
		}
		u := w.objects[kindOf("apps/v1", "DaemonSet").key("kube-system", "canal")]
		if u.GetLabels()["theirs"] != "kept" || !raced {
			t.Errorf("%v", u.GetLabels())
		}
	})
}

// What was given is not changed where a copy is.
func TestCleanIsACopy(t *testing.T) {
	t.Parallel()
	u := crd("IPPool", "p", map[string]any{"a": "b"})
	u.SetUID("u")
	u.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: "m"}})
	u.Object["status"] = map[string]any{"x": "y"}
	c := clean(u)
	c.Object["spec"].(map[string]any)["a"] = "c"
	if u.GetUID() != "u" || u.Object["spec"].(map[string]any)["a"] != "b" || u.Object["status"] == nil {
		t.Errorf("%v", u.Object)
	}
	if got := slices.Sorted(maps.Keys(c.Object["metadata"].(map[string]any))); !slices.Equal(got, []string{"name"}) || c.Object["status"] != nil {
		t.Errorf("%v", c.Object)
	}
}
