package drift

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	calico "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// random makes policies as people write them: with and without what has a default.
type random struct{ *rand.Rand }

func pick[T any](r random, values ...T) T { return values[r.IntN(len(values))] }

func (r random) some(most int, make func() any) []any {
	out := []any{}
	for range r.IntN(most + 1) {
		out = append(out, make())
	}
	return out
}

// maybe puts a value in about every other time.
func (r random) maybe(m map[string]any, key string, make func() any) {
	if r.IntN(2) == 0 {
		m[key] = make()
	}
}

func (r random) labelSelector() any {
	m := map[string]any{}
	r.maybe(m, "matchLabels", func() any {
		out := map[string]any{}
		for range r.IntN(3) {
			out[pick(r, "app", "tier", "zone")] = pick(r, "a", "b", "c")
		}
		return out
	})
	r.maybe(m, "matchExpressions", func() any {
		return r.some(2, func() any {
			return map[string]any{"key": pick(r, "app", "tier"), "operator": "In", "values": []any{pick(r, "x", "y"), "z"}}
		})
	})
	return m
}

func (r random) networkPolicy() map[string]any {
	spec := map[string]any{}
	r.maybe(spec, "podSelector", r.labelSelector)
	r.maybe(spec, "policyTypes", func() any {
		return pick(r, []any{"Ingress"}, []any{"Egress"}, []any{"Egress", "Ingress"}, []any{})
	})
	for direction, peers := range map[string]string{"ingress": "from", "egress": "to"} {
		r.maybe(spec, direction, func() any {
			return r.some(3, func() any {
				rule := map[string]any{}
				r.maybe(rule, peers, func() any { return r.some(3, r.peer) })
				r.maybe(rule, "ports", func() any { return r.some(3, r.networkPort) })
				return rule
			})
		})
	}
	return spec
}

func (r random) peer() any {
	if r.IntN(3) == 0 {
		block := map[string]any{"cidr": pick(r, "10.0.0.0/8", "10.1.2.3/16", "fd00::1/64")}
		r.maybe(block, "except", func() any { return r.some(2, func() any { return pick(r, "10.1.0.0/24", "10.2.0.0/24") }) })
		return map[string]any{"ipBlock": block}
	}
	m := map[string]any{}
	r.maybe(m, "namespaceSelector", r.labelSelector)
	if len(m) == 0 || r.IntN(2) == 0 {
		m["podSelector"] = r.labelSelector()
	}
	return m
}

func (r random) networkPort() any {
	m := map[string]any{}
	r.maybe(m, "protocol", func() any { return pick(r, "TCP", "UDP", "SCTP") })
	r.maybe(m, "port", func() any { return pick[any](r, 80, 443, 8443, "http") })
	return m
}

// throughNetworking is what the API server makes of a spec: what its types do not have is
// dropped, and its defaults are put in (SetDefaults_NetworkPolicy and _NetworkPolicyPort).
func throughNetworking(t *testing.T, spec map[string]any) map[string]any {
	t.Helper()
	typed := networkingv1.NetworkPolicySpec{}
	remarshal(t, spec, &typed)
	tcp := corev1.ProtocolTCP
	fill := func(ports []networkingv1.NetworkPolicyPort) {
		for i := range ports {
			if ports[i].Protocol == nil {
				ports[i].Protocol = &tcp
			}
		}
	}
	for i := range typed.Ingress {
		fill(typed.Ingress[i].Ports)
	}
	for i := range typed.Egress {
		fill(typed.Egress[i].Ports)
	}
	if len(typed.PolicyTypes) == 0 {
		typed.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(typed.Egress) != 0 {
			typed.PolicyTypes = append(typed.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
	out := map[string]any{}
	remarshal(t, typed, &out)
	return out
}

func (r random) calicoPolicy() map[string]any {
	spec := map[string]any{}
	r.maybe(spec, "order", func() any { return pick[any](r, 100, 200.5, 1000) })
	r.maybe(spec, "selector", r.selector)
	r.maybe(spec, "namespaceSelector", r.selector)
	r.maybe(spec, "types", func() any {
		return pick(r, []any{"Ingress"}, []any{"Egress"}, []any{"Egress", "Ingress"}, []any{})
	})
	r.maybe(spec, "tier", func() any { return pick(r, "default", "platform") })
	for _, flag := range []string{"doNotTrack", "preDNAT", "applyOnForward"} {
		r.maybe(spec, flag, func() any { return r.IntN(2) == 0 })
	}
	for _, direction := range []string{"ingress", "egress"} {
		r.maybe(spec, direction, func() any { return r.some(3, r.calicoRule) })
	}
	return spec
}

func (r random) selector() any {
	return pick(r, `app == "a"`, `app=='b'`, `has(zone) && zone in {"x", "y"}`, `!has(app)`, "all()")
}

func (r random) calicoRule() any {
	m := map[string]any{"action": pick(r, "Allow", "Deny", "Pass", "Log")}
	r.maybe(m, "protocol", func() any { return pick[any](r, "TCP", "tcp", "UDP", 6, 17, "ICMP", 47) })
	r.maybe(m, "notProtocol", func() any { return pick[any](r, "UDP", 132) })
	r.maybe(m, "ipVersion", func() any { return pick(r, 4, 6) })
	r.maybe(m, "icmp", func() any { return map[string]any{"type": pick(r, 0, 8)} })
	r.maybe(m, "source", r.entity)
	r.maybe(m, "destination", r.entity)
	return m
}

func (r random) entity() any {
	m := map[string]any{}
	r.maybe(m, "nets", func() any { return r.some(3, r.net) })
	r.maybe(m, "notNets", func() any { return r.some(2, r.net) })
	r.maybe(m, "selector", r.selector)
	r.maybe(m, "notSelector", r.selector)
	r.maybe(m, "namespaceSelector", r.selector)
	r.maybe(m, "ports", func() any {
		return r.some(3, func() any { return pick[any](r, 80, "443", "1000:2000", "http", 8443) })
	})
	r.maybe(m, "serviceAccounts", func() any { return map[string]any{"names": []any{"a", "b"}} })
	return m
}

func (r random) net() any {
	return pick(r, "10.0.0.0/8", "10.1.2.3/16", "192.0.2.1", "2001:DB8::/32", "169.254.169.254/32")
}

// throughCalico is what Calico's API server makes of a spec: its types read and written,
// and the types and tier that its client fills in. stored leaves these two out: a CRD has no defaults.
func throughCalico(t *testing.T, spec map[string]any, stored bool) map[string]any {
	t.Helper()
	typed := calico.GlobalNetworkPolicySpec{}
	remarshal(t, spec, &typed)
	if !stored {
		if typed.Tier == "" {
			typed.Tier = "default"
		}
		if len(typed.Types) == 0 {
			switch {
			case len(typed.Egress) == 0:
				typed.Types = []calico.PolicyType{calico.PolicyTypeIngress}
			case len(typed.Ingress) == 0:
				typed.Types = []calico.PolicyType{calico.PolicyTypeEgress}
			default:
				typed.Types = []calico.PolicyType{calico.PolicyTypeIngress, calico.PolicyTypeEgress}
			}
		}
	}
	out := map[string]any{}
	remarshal(t, typed, &out)
	return out
}

func remarshal(t *testing.T, from, to any) {
	t.Helper()
	data, err := json.Marshal(from)
	if err == nil {
		err = json.Unmarshal(data, to)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func object(t *testing.T, version, kind string, spec map[string]any) *Object {
	t.Helper()
	data, err := json.Marshal(map[string]any{
		"apiVersion": version, "kind": kind, "metadata": map[string]any{"name": "p", "namespace": "shop"}, "spec": spec,
	})
	if err != nil {
		t.Fatal(err)
	}
	o, err := Decode(data, Type{})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// found compares one wished object with one live object.
func found(wish, live *Object) []Finding {
	findings, _ := Compare(Input{
		Releases: []Held{{Bundle: "b", Wish: NewWish([]*Object{wish})}},
		Live:     map[Type][]*Object{wish.Type(): {live}},
	})
	return findings
}

type subject struct {
	version, kind string
	make          func(random) map[string]any
	through       func(*testing.T, map[string]any) map[string]any
}

func subjects() []subject {
	return []subject{
		{Networking, "NetworkPolicy", random.networkPolicy, throughNetworking},
		{CalicoStored, "GlobalNetworkPolicy", random.calicoPolicy, func(t *testing.T, s map[string]any) map[string]any { return throughCalico(t, s, true) }},
		{CalicoServed, "GlobalNetworkPolicy", random.calicoPolicy, func(t *testing.T, s map[string]any) map[string]any { return throughCalico(t, s, false) }},
	}
}

const rounds = 1500

// What the API server and Calico fill in, drop, and spell otherwise is never told.
func TestDefaultingIsNoDrift(t *testing.T) {
	for _, s := range subjects() {
		t.Run(s.version+" "+s.kind, func(t *testing.T) {
			r := random{rand.New(rand.NewPCG(1, 2))}
			for range rounds {
				spec := s.make(r)
				wish := object(t, s.version, s.kind, spec)
				live := object(t, s.version, s.kind, s.through(t, spec))
				if f := found(wish, live); len(f) > 0 {
					t.Fatalf("%v\nwished %s\nlive   %s", f, encode(wish.Body), encode(live.Body))
				}
			}
		})
	}
}

// The order of what is a set is never told.
func TestOrderOfSetsIsNoDrift(t *testing.T) {
	for _, s := range subjects() {
		r := random{rand.New(rand.NewPCG(3, 4))}
		for range rounds / 4 {
			spec := s.through(t, s.make(r))
			wish, live := object(t, s.version, s.kind, spec), object(t, s.version, s.kind, spec)
			shuffle(r, live.Body, "", rulesOf(wish.Type()).ordered)
			if f := found(wish, live); len(f) > 0 {
				t.Fatalf("%s: %v\nwished %s\nlive   %s", s.kind, f, encode(wish.Body), encode(live.Body))
			}
		}
	}
}

func shuffle(r random, v any, key string, ordered func(string) bool) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			shuffle(r, e, k, ordered)
		}
	case []any:
		for _, e := range v {
			shuffle(r, e, key, ordered)
		}
		if !ordered(key) {
			r.Shuffle(len(v), func(i, j int) { v[i], v[j] = v[j], v[i] })
		}
	}
}

// Any single change of what is live is found, and so is its being undone.
func TestAnyMutationIsFound(t *testing.T) {
	for _, s := range subjects() {
		t.Run(s.version+" "+s.kind, func(t *testing.T) {
			r := random{rand.New(rand.NewPCG(5, 6))}
			told := 0
			for range rounds {
				spec := s.make(r)
				is := s.through(t, spec)
				var mutant map[string]any
				remarshal(t, is, &mutant)
				how := mutate(r, mutant)
				if how == "" || !differs(t, s, is, mutant) {
					continue
				}
				told++
				live := object(t, s.version, s.kind, mutant)
				f := found(object(t, s.version, s.kind, spec), live)
				if len(f) != 1 || f[0].Category != Changed || len(f[0].Changes) == 0 {
					t.Fatalf("%s was not found: %v\nwas %s\nis  %s", how, f, encode(is), encode(mutant))
				}
			}
			if told < rounds/2 {
				t.Errorf("only %d mutations of %d said something else", told, rounds)
			}
		})
	}
}

// differs says, by the API's own types, whether two specs say something else.
func differs(t *testing.T, s subject, a, b map[string]any) bool {
	t.Helper()
	defer func() { _ = recover() }()
	if s.version == Networking {
		var x, y networkingv1.NetworkPolicySpec
		remarshal(t, settle(throughNetworking(t, a), never), &x)
		remarshal(t, settle(throughNetworking(t, b), never), &y)
		return !equality.Semantic.DeepEqual(x, y)
	}
	var x, y calico.GlobalNetworkPolicySpec
	remarshal(t, settle(throughCalico(t, a, false), calicoOrdered), &x)
	remarshal(t, settle(throughCalico(t, b, false), calicoOrdered), &y)
	for _, p := range []*calico.GlobalNetworkPolicySpec{&x, &y} {
		if p.Selector == "all()" {
			p.Selector = ""
		}
	}
	return !equality.Semantic.DeepEqual(x, y)
}

// settle sorts the sets of a spec.
func settle(v any, ordered func(string) bool) any {
	var walk func(v any, key string) any
	walk = func(v any, key string) any {
		switch v := v.(type) {
		case map[string]any:
			for k, e := range v {
				v[k] = walk(e, k)
			}
		case []any:
			for i, e := range v {
				v[i] = walk(e, key)
			}
			if !ordered(key) {
				slices.SortFunc(v, func(a, b any) int { return strings.Compare(encode(a), encode(b)) })
			}
		}
		return v
	}
	return walk(v, "")
}

// mutate changes one thing somewhere, and says what; "" where there was nothing to change.
func mutate(r random, spec map[string]any) string {
	type spot struct {
		what string
		do   func()
	}
	var spots []spot
	var walk func(path string, key string, v any, set func(any))
	walk = func(path, key string, v any, set func(any)) {
		switch v := v.(type) {
		case map[string]any:
			for _, k := range sortedNames(v) {
				walk(path+"."+k, k, v[k], func(n any) { v[k] = n })
				spots = append(spots, spot{"without " + path + "." + k, func() { delete(v, k) }})
			}
		case []any:
			for i, e := range v {
				walk(fmt.Sprintf("%s[%d]", path, i), key, e, func(n any) { v[i] = n })
				spots = append(spots, spot{fmt.Sprintf("without %s[%d]", path, i), func() { set(slices.Delete(slices.Clone(v), i, i+1)) }})
			}
		case string:
			if other := otherText(key, v); other != "" {
				spots = append(spots, spot{path + " " + other, func() { set(other) }})
			}
		case float64:
			spots = append(spots, spot{path + " +1", func() { set(v + 1) }})
		case bool:
			spots = append(spots, spot{path + " flipped", func() { set(!v) }})
		}
	}
	walk("spec", "", spec, nil)
	if len(spots) == 0 {
		return ""
	}
	s := spots[r.IntN(len(spots))]
	s.do()
	return s.what
}

// otherText is another value that the API would take.
func otherText(key, v string) string {
	switch key {
	case "cidr", "except", "nets", "notNets":
		return "203.0.113.0/24"
	case "protocol", "notProtocol":
		if v == "SCTP" {
			return "UDP"
		}
		return "SCTP"
	case "selector", "notSelector", "namespaceSelector":
		return `mutant == "yes"`
	case "action":
		if v == "Allow" {
			return "Deny"
		}
		return "Allow"
	case "ports", "notPorts":
		return "mutant"
	case "types", "policyTypes":
		return ""
	}
	return v + "x"
}

// A field that was added where the wish has none is found: Fleet does not tell of it.
func TestAnAddedKeyIsFound(t *testing.T) {
	for _, c := range []struct {
		version, kind, wish, live, path string
	}{
		{Networking, "NetworkPolicy", `{"podSelector":{},"ingress":[{"ports":[{"port":80}]}]}`,
			`{"podSelector":{},"policyTypes":["Ingress"],"ingress":[{"ports":[{"port":80,"protocol":"TCP","endPort":90}]}]}`, "spec.ingress[0].ports[0].endPort"},
		{CalicoStored, "GlobalNetworkPolicy", `{"selector":"app == 'a'","ingress":[{"action":"Allow"}]}`,
			`{"selector":"app == 'a'","order":5,"ingress":[{"action":"Allow"}]}`, "spec.order"},
		{CalicoStored, "GlobalNetworkPolicy", `{"types":["Ingress"]}`, `{"types":["Ingress"],"somethingNew":"x"}`, "spec.somethingNew"},
		{CalicoStored, "GlobalNetworkSet", `{"nets":["10.0.0.0/8"]}`, `{"nets":["10.0.0.0/8","0.0.0.0/0"]}`, "spec.nets[1]"},
		{CalicoStored, "Tier", `{"order":5}`, `{"order":5,"defaultAction":"Pass"}`, "spec.defaultAction"},
		{AdminAlpha1, "AdminNetworkPolicy", `{"priority":5,"subject":{"namespaces":{}}}`,
			`{"priority":5,"subject":{"namespaces":{}},"ingress":[{"action":"Allow"}]}`, "spec.ingress"},
	} {
		var wish, live map[string]any
		remarshal(t, json.RawMessage(c.wish), &wish)
		remarshal(t, json.RawMessage(c.live), &live)
		f := found(object(t, c.version, c.kind, wish), object(t, c.version, c.kind, live))
		if len(f) != 1 || len(f[0].Changes) != 1 || f[0].Changes[0].Path != c.path || f[0].Changes[0].Wished != "" {
			t.Errorf("%s: %+v", c.path, f)
		}
	}
}
