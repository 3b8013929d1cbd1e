package source

import (
	"strings"

	"github.com/projectcalico/calico/libcalico-go/lib/selector"
	"go.yaml.in/yaml/v3"
)

const (
	calicoCRD = "crd.projectcalico.org/v1"
	calicoAPI = "projectcalico.org/v3"
)

// calico lints Calico objects. It reports only what is certain from the text:
// which Calico a cluster has is not known here, so what some version lacks is told
// as a warning, and what no open source Calico has as an error.
func (l *linter) calico(name string, root *yaml.Node, version, kind string) {
	group, _, _ := strings.Cut(version, "/")
	if group != "crd.projectcalico.org" && group != "projectcalico.org" {
		return
	}
	if version != calicoCRD && version != calicoAPI {
		l.add(true, "calico-api-version", name, keyLine(root, "apiVersion"), "Calico has no %s; use %s, or %s where Calico's API server runs", version, calicoCRD, calicoAPI)
		return
	}
	spec := field(root, "spec")
	switch kind {
	case "GlobalNetworkPolicy", "NetworkPolicy":
		l.policy(name, root, spec, version)
	case "GlobalNetworkSet", "NetworkSet":
		if line := keyLine(spec, "allowedEgressDomains"); line > 0 {
			l.add(true, "calico-egress-domains", name, line, "allowedEgressDomains is not in open source Calico: it is dropped without a word, and the set stays empty; use nets")
		}
	case "FelixConfiguration":
		if line := keyLine(spec, "flowLogsFileEnabled"); line > 0 {
			l.add(true, "calico-flow-logs", name, line, "flowLogsFileEnabled is not in open source Calico: it is dropped without a word")
		}
		if line := keyLine(spec, "flowLogsFlushInterval"); line > 0 {
			l.add(false, "calico-flow-logs", name, line, "flowLogsFlushInterval is in Calico 3.30 and later only; earlier ones drop it without a word")
		}
	}
}

func (l *linter) policy(name string, root, spec *yaml.Node, version string) {
	if version == calicoCRD && field(spec, "types") == nil && len(items(field(spec, "egress"))) > 0 {
		l.add(false, "calico-types", name, keyLine(spec, "egress"), "types is missing, and %s is stored without defaults: name Ingress, Egress or both", calicoCRD)
	}
	l.tier(name, root, spec, version)
	for _, key := range []string{"selector", "namespaceSelector", "serviceAccountSelector"} {
		l.selector(name, field(spec, key), "spec."+key)
	}
	for _, dir := range []string{"ingress", "egress"} {
		for _, rule := range items(field(spec, dir)) {
			l.rule(name, dir, resolved(rule))
		}
	}
}

// tier tells of tiers that would not be where they seem.
func (l *linter) tier(name string, root, spec *yaml.Node, version string) {
	tier := text(field(spec, "tier"))
	if tier == "" || tier == "default" {
		return
	}
	line := keyLine(spec, "tier")
	l.add(false, "calico-tier", name, line, "tier %s needs open source Calico 3.29 or later and a Tier object; 3.28 and earlier drop it without a word, and the policy runs among all others", tier)
	policy := text(field(root, "metadata", "name"))
	if version == calicoCRD && !strings.HasPrefix(policy, tier+".") {
		l.add(false, "calico-tier-name", name, line, "Calico 3.29 to 3.31 take the tier from the name: call it %s.%s, or it runs in another tier", tier, policy)
	}
}

func (l *linter) rule(name, dir string, rule *yaml.Node) {
	for _, side := range []string{"source", "destination"} {
		for _, key := range []string{"selector", "notSelector", "namespaceSelector"} {
			l.selector(name, field(rule, side, key), dir+" "+side+"."+key)
		}
		l.selector(name, field(rule, side, "serviceAccounts", "selector"), dir+" "+side+".serviceAccounts.selector")
	}
	if src := field(rule, "source", "selector"); dir == "egress" && src != nil {
		l.add(false, "calico-egress-source", name, src.Line, "source.selector in an egress rule narrows which of the policy's own pods the rule is for; for where to, use destination.selector")
	}
}

// selector refuses what Calico cannot parse: some of it would be dropped, and the
// rule would then hold for everything.
func (l *linter) selector(name string, n *yaml.Node, where string) {
	s := text(n)
	if s == "" || strings.Contains(s, "{{") {
		return
	}
	if _, err := selector.Parse(s); err != nil {
		l.add(true, "calico-selector", name, n.Line, "%s is not a Calico selector (%v): %s", where, err, s)
	}
}
