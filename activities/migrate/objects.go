package migrate

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/util/retry"
)

func patchOf(m map[string]any) ([]byte, error) { return json.Marshal(m) }

// mergeSpec merges fields into the spec of one of Calico's objects, which is made
// where there is none and something is to be set; nil removes a field. Nothing is
// written where all is so already.
func (r *run) mergeSpec(ctx context.Context, kind schema.GroupVersionResource, kindName, name string, spec map[string]any) error {
	have, err := r.get(ctx, kind, name)
	if err != nil {
		return err
	}
	if have == nil {
		set := map[string]any{}
		for k, v := range spec {
			if v != nil {
				set[k] = normal(v)
			}
		}
		if len(set) == 0 {
			return nil
		}
		r.changed("%s %s: made with %v", kindName, name, set)
		_, err := r.dyn.Resource(kind).Create(ctx, &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": kind.GroupVersion().String(), "kind": kindName, "metadata": map[string]any{"name": name}, "spec": set,
		}}, metav1.CreateOptions{FieldManager: fieldManager})
		return err
	}
	change := map[string]any{}
	for k, v := range spec {
		is, there, _ := unstructured.NestedFieldNoCopy(have.Object, "spec", k)
		switch {
		case v == nil && there:
			change[k] = nil
		case v != nil && !reflect.DeepEqual(is, normal(v)) && (there || v != false):
			change[k] = v
		}
	}
	if len(change) == 0 {
		return nil
	}
	data, err := patchOf(map[string]any{"spec": change})
	if err != nil {
		return err
	}
	r.changed("%s %s: %s", kindName, name, data)
	_, err = r.dyn.Resource(kind).Patch(ctx, name, types.MergePatchType, data, metav1.PatchOptions{FieldManager: fieldManager})
	return err
}

// normal gives a number the type that it has in what the API server returns.
func normal(v any) any {
	if i, ok := v.(int); ok {
		return int64(i)
	}
	return v
}

// resource finds how an object is addressed.
func (r *run) resource(u *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	gvk := u.GroupVersionKind()
	m, err := r.maps.RESTMapping(gvk.GroupKind(), gvk.Version)
	if meta.IsNoMatchError(err) {
		// Its CustomResourceDefinition may have come a moment ago.
		meta.MaybeResetRESTMapper(r.maps)
		m, err = r.maps.RESTMapping(gvk.GroupKind(), gvk.Version)
	}
	if err != nil {
		return nil, err
	}
	if m.Scope.Name() == meta.RESTScopeNameNamespace {
		return r.dyn.Resource(m.Resource).Namespace(u.GetNamespace()), nil
	}
	return r.dyn.Resource(m.Resource), nil
}

// apply makes an object what it must be, by server-side apply.
func (r *run) apply(ctx context.Context, u *unstructured.Unstructured) error {
	api, err := r.resource(u)
	if err != nil {
		return fmt.Errorf("%s %s: %w", u.GetKind(), u.GetName(), err)
	}
	if _, err := api.Apply(ctx, u.GetName(), u, metav1.ApplyOptions{FieldManager: fieldManager, Force: true}); err != nil {
		return fmt.Errorf("%s %s: %w", u.GetKind(), u.GetName(), err)
	}
	return nil
}

// live reads an object as it is; nil where there is none.
func (r *run) live(ctx context.Context, u *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	api, err := r.resource(u)
	if meta.IsNoMatchError(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	have, err := api.Get(ctx, u.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return have, err
}

// drop deletes an object, in the background; one that is gone is passed over.
func (r *run) drop(ctx context.Context, u *unstructured.Unstructured) error {
	api, err := r.resource(u)
	if meta.IsNoMatchError(err) {
		return nil
	}
	if err != nil {
		return err
	}
	background := metav1.DeletePropagationBackground
	err = api.Delete(ctx, u.GetName(), metav1.DeleteOptions{PropagationPolicy: &background})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// putBack makes an object exactly what it was, also one that was deleted.
func (r *run) putBack(ctx context.Context, u *unstructured.Unstructured) error {
	api, err := r.resource(u)
	if err != nil {
		return err
	}
	have, err := r.live(ctx, u)
	if err != nil {
		return err
	}
	if have == nil {
		_, err = api.Create(ctx, u, metav1.CreateOptions{FieldManager: fieldManager})
		return err
	}
	if equality.Semantic.DeepEqual(clean(have).Object, u.Object) {
		return nil
	}
	want := u.DeepCopy()
	want.SetResourceVersion(have.GetResourceVersion())
	_, err = api.Update(ctx, want, metav1.UpdateOptions{FieldManager: fieldManager})
	return err
}

// editDaemonSet changes a DaemonSet, unless it is so already.
func (r *run) editDaemonSet(ctx context.Context, namespace, name string, edit func(*appsv1.DaemonSet)) error {
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		ds, err := r.kube.AppsV1().DaemonSets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		was := ds.DeepCopy()
		edit(ds)
		if reflect.DeepEqual(was.Spec, ds.Spec) {
			return nil
		}
		_, err = r.kube.AppsV1().DaemonSets(namespace).Update(ctx, ds, metav1.UpdateOptions{FieldManager: fieldManager})
		return err
	})
}

// onlyWhere lets a pod run only on nodes whose label has, or has not, the value, in
// addition to what it requires already.
func onlyWhere(spec *corev1.PodSpec, operator corev1.NodeSelectorOperator, value string) {
	rule := corev1.NodeSelectorRequirement{Key: labelCNI, Operator: operator, Values: []string{value}}
	if spec.Affinity == nil {
		spec.Affinity = &corev1.Affinity{}
	}
	if spec.Affinity.NodeAffinity == nil {
		spec.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	a := spec.Affinity.NodeAffinity
	if a.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		a.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{}
	}
	required := a.RequiredDuringSchedulingIgnoredDuringExecution
	made := len(required.NodeSelectorTerms) == 0
	if made {
		required.NodeSelectorTerms = []corev1.NodeSelectorTerm{{}}
	}
	// Terms are alternatives: each must have it.
	for i := range required.NodeSelectorTerms {
		t := &required.NodeSelectorTerms[i]
		if len(t.MatchExpressions)+len(t.MatchFields) == 0 && !made {
			continue // it matches no node, and is to match none
		}
		var kept []corev1.NodeSelectorRequirement
		for _, e := range t.MatchExpressions {
			if e.Key != labelCNI {
				kept = append(kept, e)
			}
		}
		kept = append(kept, rule)
		t.MatchExpressions = kept
	}
}

// anywhere takes back what onlyWhere did: an object that was changed by an update is
// not rid of it by being applied without it.
func anywhere(spec *corev1.PodSpec) {
	if spec.Affinity == nil || spec.Affinity.NodeAffinity == nil {
		return
	}
	a := spec.Affinity.NodeAffinity
	if required := a.RequiredDuringSchedulingIgnoredDuringExecution; required != nil {
		var terms []corev1.NodeSelectorTerm
		for _, t := range required.NodeSelectorTerms {
			t.MatchExpressions = slices.DeleteFunc(slices.Clone(t.MatchExpressions), func(e corev1.NodeSelectorRequirement) bool { return e.Key == labelCNI })
			// A term without anything in it would match no node.
			if len(t.MatchExpressions)+len(t.MatchFields) > 0 {
				terms = append(terms, t)
			}
		}
		if required.NodeSelectorTerms = terms; len(terms) == 0 {
			a.RequiredDuringSchedulingIgnoredDuringExecution = nil
		}
	}
	if a.RequiredDuringSchedulingIgnoredDuringExecution == nil && len(a.PreferredDuringSchedulingIgnoredDuringExecution) == 0 {
		spec.Affinity.NodeAffinity = nil
	}
	if spec.Affinity.NodeAffinity == nil && spec.Affinity.PodAffinity == nil && spec.Affinity.PodAntiAffinity == nil {
		spec.Affinity = nil
	}
}
