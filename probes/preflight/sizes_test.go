package preflight

import (
	"slices"
	"testing"
)

// What the target needs is tried, however many other sizes there are.
func TestSizes(t *testing.T) {
	f := good(40)
	for i := range f.nodes {
		f.nodes[i].Links.Value[1].MTU = 600 + i
	}
	for _, mtu := range []int{0, 1280, 8900} {
		f.target.MTU = mtu
		sizes := Sizes(f.cluster, f.nodes, f.target)
		want := mtu + 50
		if mtu == 0 {
			want = 1500
		}
		if len(sizes) > maxSizes || !slices.IsSorted(sizes) || !slices.Contains(sizes, want) {
			t.Errorf("%d: %v", mtu, sizes)
		}
	}
}
