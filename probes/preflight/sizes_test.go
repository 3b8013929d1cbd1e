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

// The pods' MTU is flannel's where flannel has the overlay, also while a Felix has not taken
// down its own yet.
func TestTheOverlayOfAnotherAttemptSaysNothing(t *testing.T) {
	f := good(2)
	want := Resolve(f.cluster, f.nodes, f.target).MTU
	for i := range f.nodes {
		f.nodes[i].Links.Value = append(f.nodes[i].Links.Value, Link{Name: calicoOverlay, Kind: "vxlan", MTU: want - 100})
	}
	if got := Resolve(f.cluster, f.nodes, f.target).MTU; got != want || want == 0 {
		t.Errorf("%d, want %d", got, want)
	}
}
