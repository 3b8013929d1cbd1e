package drift

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/projectcalico/calico/libcalico-go/lib/selector"
)

// A canonical body says the same as the one that it was made from, with every default
// written out and every value in one spelling. It shares nothing that is changed.

// emptiness says which values say the same as none at the key.
type emptiness func(key string, v any) bool

// rewrite copies v, drops from maps what says nothing, and spells every scalar in the one way
// that its key has. List elements stay: an empty rule is one that matches everything.
func rewrite(key string, v any, nothing emptiness, spell func(key string, v any) any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			e = rewrite(k, e, nothing, spell)
			if e != nil && !nothing(k, e) {
				out[k] = e
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = rewrite(key, e, nothing, spell)
		}
		return out
	}
	return spell(key, v)
}

// canonSpec rewrites a body and returns its spec for defaults to be put in.
func canonSpec(body map[string]any, nothing emptiness, spell func(string, any) any) (out, spec map[string]any) {
	out, _ = rewrite("", body, nothing, spell).(map[string]any)
	spec, ok := out["spec"].(map[string]any)
	if !ok && out["spec"] == nil {
		spec = map[string]any{}
		out["spec"] = spec
	}
	return out, spec
}

func size(v any) int {
	switch v := v.(type) {
	case map[string]any:
		return len(v)
	case []any:
		return len(v)
	}
	return -1
}

// canonNetworkPolicy knows the defaults of networking.k8s.io/v1: of a peer's selectors an
// empty one selects everything and none selects nothing; every other empty list or map is none.
func canonNetworkPolicy(body map[string]any) map[string]any {
	out, spec := canonSpec(body, func(key string, v any) bool {
		return size(v) == 0 && key != "podSelector" && key != "namespaceSelector" && key != "spec"
	}, spellNetworkPolicy)
	if spec == nil {
		return out
	}
	if size(spec["podSelector"]) == 0 {
		delete(spec, "podSelector") // for the policy itself, none and empty are all pods
	}
	if spec["policyTypes"] == nil {
		types := []any{"Ingress"}
		if size(spec["egress"]) > 0 {
			types = append(types, "Egress")
		}
		spec["policyTypes"] = types
	}
	for _, direction := range []string{"ingress", "egress"} {
		for _, rule := range list(spec[direction]) {
			for _, port := range list(field(rule, "ports")) {
				if p, ok := port.(map[string]any); ok && p["protocol"] == nil {
					p["protocol"] = "TCP"
				}
			}
		}
	}
	return out
}

func spellNetworkPolicy(key string, v any) any {
	switch key {
	case "cidr", "except":
		return spellNet(v, false)
	}
	return v
}

// canonCalicoPolicy knows what Calico takes a missing field for. Which version stored
// the object does not matter: its API server writes defaults out, and its CRDs do not.
func canonCalicoPolicy(body map[string]any) map[string]any {
	out, spec := canonSpec(body, calicoNothing, spellCalico)
	if spec == nil {
		return out
	}
	if spec["selector"] == "all()" {
		delete(spec, "selector")
	}
	if spec["tier"] == "default" {
		delete(spec, "tier")
	}
	if spec["types"] == nil {
		ingress, egress := size(spec["ingress"]) > 0, size(spec["egress"]) > 0
		var types []any
		if ingress || !egress {
			types = append(types, "Ingress")
		}
		if egress {
			types = append(types, "Egress")
		}
		spec["types"] = types
	}
	return out
}

// calicoNothing: in Calico's policies and sets what is false, empty or null says nothing,
// but for an ICMP or HTTP match, which is there without saying more.
func calicoNothing(key string, v any) bool {
	switch key {
	case "icmp", "notICMP", "http", "spec":
		return false
	}
	return v == false || v == "" || size(v) == 0
}

func canonCalicoSet(body map[string]any) map[string]any {
	out, _ := canonSpec(body, calicoNothing, spellCalico)
	return out
}

func canonTier(body map[string]any) map[string]any {
	out, spec := canonSpec(body, calicoNothing, spellCalico)
	if spec != nil && spec["defaultAction"] == "Deny" {
		delete(spec, "defaultAction")
	}
	return out
}

// canonFelix: in Felix's configuration what is false or empty says something; only null does not.
func canonFelix(body map[string]any) map[string]any {
	out, _ := canonSpec(body, func(string, any) bool { return false }, func(key string, v any) any {
		if key == "net" {
			return spellNet(v, true)
		}
		return v
	})
	return out
}

// canonAdmin: of admin network policies the protocol of ports is filled in.
func canonAdmin(body map[string]any) map[string]any {
	out, spec := canonSpec(body, func(key string, v any) bool {
		l, ok := v.([]any)
		return ok && len(l) == 0 || (key == "matchLabels" || key == "matchExpressions") && size(v) == 0
	}, func(key string, v any) any {
		if key == "networks" {
			return spellNet(v, false)
		}
		return v
	})
	for _, direction := range []string{"ingress", "egress"} {
		for _, rule := range list(spec[direction]) {
			for _, port := range list(field(rule, "ports")) {
				for _, form := range []string{"portNumber", "portRange"} {
					if p, ok := field(port, form).(map[string]any); ok && p["protocol"] == nil {
						p["protocol"] = "TCP"
					}
				}
			}
		}
	}
	return out
}

func spellCalico(key string, v any) any {
	switch key {
	case "nets", "notNets", "expectedIPs":
		return spellNet(v, true)
	case "ports", "notPorts":
		return spellPort(v)
	case "protocol", "notProtocol":
		return spellProtocol(v)
	case "selector", "notSelector", "namespaceSelector", "serviceAccountSelector":
		return spellSelector(v)
	}
	return v
}

// spellNet masks and shortens an address range; with alone, an address by itself is the range of it.
func spellNet(v any, alone bool) any {
	s, ok := v.(string)
	if !ok {
		return v
	}
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked().String()
	}
	if a, err := netip.ParseAddr(s); err == nil && alone && a.Zone() == "" {
		return netip.PrefixFrom(a, a.BitLen()).String()
	}
	return v
}

// spellPort: "80", 80 and "80:80" are one port.
func spellPort(v any) any {
	s, ok := v.(string)
	if !ok {
		return v
	}
	from, to, isRange := strings.Cut(s, ":")
	a, errA := strconv.ParseUint(from, 10, 16)
	if errA != nil || isRange && to == "" {
		return v
	}
	if !isRange {
		return float64(a)
	}
	b, errB := strconv.ParseUint(to, 10, 16)
	if errB != nil {
		return v
	}
	if a == b {
		return float64(a)
	}
	return strconv.FormatUint(a, 10) + ":" + strconv.FormatUint(b, 10)
}

var protocols = map[string]string{
	"tcp": "TCP", "udp": "UDP", "icmp": "ICMP", "icmpv6": "ICMPv6", "sctp": "SCTP", "udplite": "UDPLite",
	"6": "TCP", "17": "UDP", "1": "ICMP", "58": "ICMPv6", "132": "SCTP", "136": "UDPLite",
}

// spellProtocol: Calico takes names in any case, and numbers.
func spellProtocol(v any) any {
	s, ok := v.(string)
	if n, is := v.(float64); is {
		s, ok = strconv.FormatFloat(n, 'f', -1, 64), true
	}
	if name := protocols[strings.ToLower(s)]; ok && name != "" {
		return name
	}
	return v
}

// spellSelector writes a selector as Calico does. What Calico cannot parse stays as it is.
func spellSelector(v any) any {
	s, ok := v.(string)
	if !ok || strings.TrimSpace(s) == "" {
		return v
	}
	parsed, err := selector.Parse(s)
	if err != nil {
		return v
	}
	return parsed.String()
}

func list(v any) []any {
	l, _ := v.([]any)
	return l
}

func field(v any, name string) any {
	m, _ := v.(map[string]any)
	return m[name]
}
