package manifest

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// Require lets the pods of a workload run only on nodes whose label key is, with
// operator In, one of the values, or with NotIn none of them (a node without the
// label is none of them). Everything else of the workload stays as it is, and what
// it required before it requires still. Asking twice changes nothing more.
func Require(workload *unstructured.Unstructured, key string, operator corev1.NodeSelectorOperator, values ...string) error {
	path := []string{"spec", "template", "spec", "affinity"}
	given, found, err := unstructured.NestedMap(workload.Object, path...)
	if err != nil {
		return fmt.Errorf("%s %s: %w", workload.GetKind(), workload.GetName(), err)
	}
	var spec corev1.PodSpec
	if found {
		spec.Affinity = new(corev1.Affinity)
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(given, spec.Affinity); err != nil {
			return fmt.Errorf("%s %s: its affinity: %w", workload.GetKind(), workload.GetName(), err)
		}
	}
	RequirePod(&spec, key, operator, values...)
	affinity, err := runtime.DefaultUnstructuredConverter.ToUnstructured(spec.Affinity)
	if err != nil {
		return fmt.Errorf("%s %s: its affinity: %w", workload.GetKind(), workload.GetName(), err)
	}
	return unstructured.SetNestedMap(workload.Object, affinity, path...)
}

// RequirePod is Require for the spec of a pod.
func RequirePod(spec *corev1.PodSpec, key string, operator corev1.NodeSelectorOperator, values ...string) {
	want := corev1.NodeSelectorRequirement{Key: key, Operator: operator, Values: slices.Clone(values)}
	if spec.Affinity == nil {
		spec.Affinity = new(corev1.Affinity)
	}
	if spec.Affinity.NodeAffinity == nil {
		spec.Affinity.NodeAffinity = new(corev1.NodeAffinity)
	}
	nodes := spec.Affinity.NodeAffinity
	if nodes.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		nodes.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{want}}},
		}
		return
	}
	terms := nodes.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	for i := range terms {
		// Terms are alternatives, so each needs it. One that is empty matches no
		// node, and with an expression in it would match some.
		empty := len(terms[i].MatchExpressions) == 0 && len(terms[i].MatchFields) == 0
		if !empty && !slices.ContainsFunc(terms[i].MatchExpressions, func(r corev1.NodeSelectorRequirement) bool { return same(r, want) }) {
			terms[i].MatchExpressions = append(terms[i].MatchExpressions, want)
		}
	}
}

func same(a, b corev1.NodeSelectorRequirement) bool {
	return a.Key == b.Key && a.Operator == b.Operator && slices.Equal(a.Values, b.Values)
}
