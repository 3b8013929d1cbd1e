package drift

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
)

// Change is one field that is not as it was wished.
type Change struct {
	// Path is the field, such as spec.egress[0].destination.ports. An index counts in
	// the wished list, or in the live one where the element was added.
	Path string `json:"path"`
	// Wished and Live are the values as JSON, shortened; empty means that there is none.
	Wished string `json:"wished,omitempty"`
	Live   string `json:"live,omitempty"`
}

// String is the change in one line.
func (c Change) String() string {
	switch {
	case c.Wished == "":
		return fmt.Sprintf("%s: %s was added", c.Path, c.Live)
	case c.Live == "":
		return fmt.Sprintf("%s: %s is missing", c.Path, c.Wished)
	}
	return fmt.Sprintf("%s: %s, wished %s", c.Path, c.Live, c.Wished)
}

// differ compares two canonical bodies.
type differ struct {
	rules
	// private is set where values are not shown.
	private bool
	changes []Change
	// paths are those of changes, without indexes, to find out who wrote them.
	paths [][]string
}

// place is where in an object the differ is.
type place struct {
	text string
	path []string
}

func (p place) key(name string) place {
	text := name
	if strings.ContainsAny(name, "./[]") {
		text = `"` + name + `"`
	}
	if p.text != "" {
		text = p.text + "." + text
	}
	return place{text, append(slices.Clone(p.path), name)}
}

func (p place) index(i int) place { return place{fmt.Sprintf("%s[%d]", p.text, i), p.path} }

func (p place) last() string {
	if len(p.path) == 0 {
		return ""
	}
	return p.path[len(p.path)-1]
}

func (d *differ) note(at place, wished, live any) {
	c := Change{Path: at.text}
	if wished != nil {
		c.Wished = d.show(wished)
	}
	if live != nil {
		c.Live = d.show(live)
	}
	d.changes = append(d.changes, c)
	d.paths = append(d.paths, at.path)
}

// maxShown bounds a value that is shown.
const maxShown = 160

func (d *differ) show(v any) string {
	text := encode(v)
	if d.private {
		sum := sha256.Sum256([]byte(text))
		return fmt.Sprintf("(%d bytes, sha256 %s)", len(text), hex.EncodeToString(sum[:6]))
	}
	if r := []rune(text); len(r) > maxShown {
		return string(r[:maxShown]) + "…"
	}
	return text
}

// encode is the one way of writing a value.
func encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil { // values come from JSON
		return fmt.Sprint(v)
	}
	return string(b)
}

// compare notes where live differs from wished.
func (d *differ) compare(at place, wished, live any) {
	if equal(wished, live) {
		return
	}
	switch w := wished.(type) {
	case map[string]any:
		if l, ok := live.(map[string]any); ok {
			d.maps(at, w, l)
			return
		}
	case []any:
		if l, ok := live.([]any); ok {
			d.lists(at, w, l)
			return
		}
	}
	if !d.exact && (live == nil && zero(wished) || sameQuantity(wished, live)) {
		return
	}
	d.note(at, wished, live)
}

func (d *differ) maps(at place, wished, live map[string]any) {
	for _, k := range slices.Sorted(maps.Keys(wished)) {
		l, there := live[k]
		if there {
			d.compare(at.key(k), wished[k], l)
		} else if d.exact || !zero(wished[k]) {
			d.note(at.key(k), wished[k], nil)
		}
	}
	if !d.exact {
		return
	}
	for _, k := range slices.Sorted(maps.Keys(live)) {
		if _, there := wished[k]; !there {
			d.note(at.key(k), nil, live[k])
		}
	}
}

// lists leaves out what is in both, and compares what is left pair by pair: a rule with one
// changed port is told as that port.
func (d *differ) lists(at place, wished, live []any) {
	if !d.exact {
		d.contained(at, wished, live)
		return
	}
	var w, l []int
	if d.ordered(at.last()) {
		w, l = unmatched(wished, live)
	} else {
		w, l = unpaired(wished, live)
	}
	both := min(len(w), len(l))
	for i := range both {
		d.compare(at.index(w[i]), wished[w[i]], live[l[i]])
	}
	for _, i := range w[both:] {
		d.note(at.index(i), wished[i], nil)
	}
	for _, i := range l[both:] {
		d.note(at.index(i), nil, live[i])
	}
}

// unmatched leaves out the beginning and the end that two lists share.
func unmatched(wished, live []any) (w, l []int) {
	from, n, m := 0, len(wished), len(live)
	for from < n && from < m && same(wished[from], live[from]) {
		from++
	}
	for n > from && m > from && same(wished[n-1], live[m-1]) {
		n, m = n-1, m-1
	}
	return indexes(from, n), indexes(from, m)
}

// same says whether two rules are one, whatever the order of the sets in them.
func same(a, b any) bool { return equal(a, b) || sorted(a) == sorted(b) }

func indexes(from, to int) []int {
	out := make([]int, 0, to-from)
	for i := from; i < to; i++ {
		out = append(out, i)
	}
	return out
}

// unpaired leaves out the elements that two sets share, each as often as both have it.
func unpaired(wished, live []any) (w, l []int) {
	have := map[string]int{}
	for _, v := range live {
		have[sorted(v)]++
	}
	for i, v := range wished {
		if key := sorted(v); have[key] > 0 {
			have[key]--
		} else {
			w = append(w, i)
		}
	}
	// What is left of have are the elements of live that no wished one took.
	for i, v := range slices.Backward(live) {
		if key := sorted(v); have[key] > 0 {
			have[key]--
			l = append(l, i)
		}
	}
	slices.Reverse(l)
	return w, l
}

// sorted is a value with every list in it sorted: sets inside of elements of sets.
func sorted(v any) string { return encode(sortedValue(v)) }

func sortedValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = sortedValue(e)
		}
		return out
	case []any:
		out := make([]string, len(v))
		for i, e := range v {
			out[i] = sorted(e)
		}
		slices.Sort(out)
		return out
	}
	return v
}

// contained: of a type that is not known well, every wished element must be there. One that
// has a name is compared with its namesake.
func (d *differ) contained(at place, wished, live []any) {
	for i, w := range wished {
		if slices.ContainsFunc(live, func(l any) bool { return d.within(w, l) }) {
			continue
		}
		same := slices.IndexFunc(live, func(l any) bool { return namesake(w, l) })
		switch {
		case same >= 0:
			d.compare(at.index(i), w, live[same])
		case len(wished) == len(live):
			d.compare(at.index(i), w, live[i])
		default:
			d.note(at.index(i), w, nil)
		}
	}
}

// within says whether all that is wished is in live.
func (d *differ) within(wished, live any) bool {
	probe := differ{rules: d.rules}
	probe.compare(place{}, wished, live)
	return len(probe.changes) == 0
}

func namesake(a, b any) bool {
	for _, key := range []string{"name", "key", "containerPort", "port", "mountPath"} {
		if v := field(a, key); v != nil && equal(v, field(b, key)) {
			return true
		}
	}
	return false
}

// zero says whether the API server may leave the value out.
func zero(v any) bool {
	return v == nil || v == false || v == "" || v == float64(0) || size(v) == 0
}

// sameQuantity: 1, "1" and "1000m" are one quantity, and 8080 and "8080" one number or text.
func sameQuantity(a, b any) bool {
	x, okA := quantity(a)
	y, okB := quantity(b)
	return okA && okB && x.Cmp(y) == 0
}

func quantity(v any) (resource.Quantity, bool) {
	switch v.(type) {
	case string, float64:
	default:
		return resource.Quantity{}, false
	}
	text, ok := v.(string)
	if !ok {
		text = encode(v)
	}
	if len(text) > 32 || text == "" {
		return resource.Quantity{}, false
	}
	q, err := resource.ParseQuantity(text)
	return q, err == nil
}

// equal compares values as JSON has them.
func equal(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		m, ok := b.(map[string]any)
		if !ok || len(a) != len(m) {
			return false
		}
		for k, v := range a {
			w, there := m[k]
			if !there || !equal(v, w) {
				return false
			}
		}
		return true
	case []any:
		l, ok := b.([]any)
		if !ok || len(a) != len(l) {
			return false
		}
		for i := range a {
			if !equal(a[i], l[i]) {
				return false
			}
		}
		return true
	}
	switch b.(type) {
	case map[string]any, []any:
		return false
	}
	return a == b
}
