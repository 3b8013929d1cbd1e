package preflight

import (
	"fmt"
	"testing"
)

// Every ordered pair is tried exactly once, and no round has more nodes than allowed.
func TestScheduleMeetsEveryPairOnce(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3, 7, 10, 11, 50, 99, 101, 237} {
		for _, atOnce := range []int{0, 2, 3, 10, 64, 100} {
			t.Run(fmt.Sprint(n, "/", atOnce), func(t *testing.T) {
				seen := map[[2]int]int{}
				for _, r := range Schedule(n, atOnce) {
					if m := len(r.Members()); m > max(atOnce, 2) {
						t.Errorf("%d nodes at once", m)
					}
					for _, i := range r.Members() {
						for _, j := range r.Peers(i) {
							seen[[2]int{i, j}]++
						}
					}
				}
				if len(seen) != n*max(n-1, 0) {
					t.Errorf("%d pairs of %d", len(seen), n*(n-1))
				}
				for p, times := range seen {
					if times != 1 {
						t.Fatalf("pair %v %d times", p, times)
					}
				}
			})
		}
	}
}

// How it grows: what docs/preflight.md prints.
func TestGrow(t *testing.T) {
	tests := map[int]MeshSize{
		2:   {Nodes: 2, Rounds: 1, AtOnce: 2, Sessions: 2, Pairs: 2, Connections: 6, Datagrams: 32},
		100: {Nodes: 100, Rounds: 1, AtOnce: 100, Sessions: 100, Pairs: 9900, Connections: 29700, Datagrams: 158400},
		500: {Nodes: 500, Rounds: 45, AtOnce: 100, Sessions: 2300, Pairs: 249500, Connections: 748500, Datagrams: 3992000},
	}
	for n, want := range tests {
		if got := Grow(n, DefaultAtOnce, Paths(Target{}), 6); got != want {
			t.Errorf("%d nodes: %+v, want %+v", n, got, want)
		}
	}
}
