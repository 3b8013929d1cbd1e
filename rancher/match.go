package rancher

import (
	fleet "github.com/rancher/fleet/pkg/apis/fleet.cattle.io/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// selects says whether a label selector selects a cluster. An empty selector
// selects everything.
func selects(sel *metav1.LabelSelector, set map[string]string) (bool, error) {
	s, err := metav1.LabelSelectorAsSelector(sel)
	if err != nil {
		return false, err
	}
	return s.Matches(labels.Set(set)), nil
}

func emptySelector(sel metav1.LabelSelector) bool {
	return len(sel.MatchLabels) == 0 && len(sel.MatchExpressions) == 0
}

// targeted says whether Fleet would deliver a GitRepo with these targets to a
// cluster. As in Fleet, targets are alternatives, what one target says must hold
// together, and a target that says nothing matches nothing.
func targeted(targets []fleet.GitTarget, c Cluster, groups []*fleet.ClusterGroup) (bool, error) {
	if len(targets) == 0 {
		targets = []fleet.GitTarget{{ClusterGroup: "default"}}
	}
	for _, t := range targets {
		ok, err := oneTarget(t, c, groups)
		if ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

func oneTarget(t fleet.GitTarget, c Cluster, groups []*fleet.ClusterGroup) (bool, error) {
	byGroup := t.ClusterGroup != "" || t.ClusterGroupSelector != nil
	if t.ClusterName == "" && t.ClusterSelector == nil && !byGroup {
		return false, nil
	}
	if t.ClusterName != "" && t.ClusterName != c.Name {
		return false, nil
	}
	if t.ClusterSelector != nil {
		if ok, err := selects(t.ClusterSelector, c.Labels); !ok || err != nil {
			return false, err
		}
	}
	if !byGroup {
		return true, nil
	}
	for _, g := range groups {
		ok, err := inGroup(t, g, c)
		if ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

func inGroup(t fleet.GitTarget, g *fleet.ClusterGroup, c Cluster) (bool, error) {
	if t.ClusterGroup != "" && t.ClusterGroup != g.Name {
		return false, nil
	}
	if t.ClusterGroupSelector != nil {
		if ok, err := selects(t.ClusterGroupSelector, g.Labels); !ok || err != nil {
			return false, err
		}
	}
	if g.Spec.Selector == nil {
		return false, nil
	}
	return selects(g.Spec.Selector, c.Labels)
}

// negations returns the alternatives of which one holds exactly where sel does
// not: a selector is a conjunction, so one alternative for each of its terms.
// NotIn also holds where the key is absent, and so is the exact opposite of In.
func negations(sel metav1.LabelSelector) []metav1.LabelSelectorRequirement {
	var out []metav1.LabelSelectorRequirement
	for _, key := range sortedKeys(sel.MatchLabels) {
		out = append(out, metav1.LabelSelectorRequirement{Key: key, Operator: metav1.LabelSelectorOpNotIn, Values: []string{sel.MatchLabels[key]}})
	}
	opposite := map[metav1.LabelSelectorOperator]metav1.LabelSelectorOperator{
		metav1.LabelSelectorOpIn:           metav1.LabelSelectorOpNotIn,
		metav1.LabelSelectorOpNotIn:        metav1.LabelSelectorOpIn,
		metav1.LabelSelectorOpExists:       metav1.LabelSelectorOpDoesNotExist,
		metav1.LabelSelectorOpDoesNotExist: metav1.LabelSelectorOpExists,
	}
	for _, e := range sel.MatchExpressions {
		out = append(out, metav1.LabelSelectorRequirement{Key: e.Key, Operator: opposite[e.Operator], Values: e.Values})
	}
	return out
}

// both returns the selector that selects what a and b select.
func both(a, b metav1.LabelSelector) metav1.LabelSelector {
	out := metav1.LabelSelector{}
	for _, s := range []metav1.LabelSelector{a, b} {
		for _, key := range sortedKeys(s.MatchLabels) {
			value := s.MatchLabels[key]
			if had, ok := out.MatchLabels[key]; ok && had != value {
				// Two values of one key: as expressions they select nothing, as they should.
				out.MatchExpressions = append(out.MatchExpressions, metav1.LabelSelectorRequirement{Key: key, Operator: metav1.LabelSelectorOpIn, Values: []string{value}})
				continue
			}
			if out.MatchLabels == nil {
				out.MatchLabels = map[string]string{}
			}
			out.MatchLabels[key] = value
		}
		out.MatchExpressions = append(out.MatchExpressions, s.MatchExpressions...)
	}
	return out
}
