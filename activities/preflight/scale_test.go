package preflight

import (
	"runtime"
	"testing"
	"time"

	"portcullis.dev/portcullis/probes/preflight"
)

// Five hundred simulated nodes: every pair is told, no more sessions are open than
// allowed, and the daemon's share of it, all but waiting for packets, is bounded.
func TestFiveHundredNodes(t *testing.T) {
	if testing.Short() {
		t.Skip("left out by -short: a large simulation")
	}
	l := newLab(t, 500)
	start := time.Now()
	r, err := l.check(Input{})
	if err != nil {
		t.Fatal(err)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	t.Logf("%s; %d execs, %d at once; %d MiB from the system; %+v", time.Since(start), l.execs, l.most, m.Sys>>20, r.Mesh)
	if res := result(t, r, "reach-udp-4789"); res.Status != preflight.Pass || res.Measured != "249500 of 249500 directions open" {
		t.Errorf("%+v", res)
	}
	if l.most > preflight.DefaultAtOnce {
		t.Errorf("%d sessions at once", l.most)
	}
}
