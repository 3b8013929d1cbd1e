package preflight

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"portcullis.dev/portcullis/probes/preflight"
)

// More simulated nodes than may be asked at once: every pair is told, no more
// sessions are open than allowed, and the daemon's share of it, all but waiting for
// packets, is bounded.
func TestManyNodes(t *testing.T) {
	if testing.Short() {
		t.Skip("left out by -short: a large simulation")
	}
	const nodes = preflight.DefaultAtOnce + 60
	l := newLab(t, nodes)
	start := time.Now()
	r, err := l.check(Input{})
	if err != nil {
		t.Fatal(err)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	t.Logf("%s; %d execs, %d at once; %d MiB from the system; %+v", time.Since(start), l.execs, l.most, m.Sys>>20, r.Mesh)
	want := fmt.Sprintf("%d of %[1]d directions open", nodes*(nodes-1))
	if res := result(t, r, "reach-udp-4789"); res.Status != preflight.Pass || res.Measured != want {
		t.Errorf("%+v; want %s", res, want)
	}
	if l.most > preflight.DefaultAtOnce {
		t.Errorf("%d sessions at once", l.most)
	}
}
