package migrations

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"portcullis.dev/portcullis/deploy/lab/internal/flows"
)

// watch watches the lab's flows.
type watch struct{ *flows.Watch }

// watchFlows watches until it is stopped, or the context ends.
func watchFlows(ctx context.Context, t *testing.T) watch {
	t.Helper()
	return watch{now.flows.Follow(ctx, t, p.Client(t, cluster))}
}

// seen is what a watch reports.
type seen struct {
	flows.Totals
	// bad are the flows of which a try went wrong, or that broke.
	bad []flows.Seen
}

// stop ends the watch and tells what was seen.
func (w watch) stop(t *testing.T) seen {
	t.Helper()
	r, err := w.Stop()
	must(t, err)
	s := seen{Totals: r.Totals()}
	for _, f := range r.Flows {
		if len(f.Bad) > 0 || f.Broken != "" {
			s.bad = append(s.bad, f)
		}
	}
	t.Logf("%d flows, %d ticks late: %s (%s)", len(r.Flows), r.Late, s, s.Worst)
	return s
}

// told is how many failures of a flow are told.
const told = 3

// unharmed wants no flow to have failed, and none that policy denies to have been
// open, but for those of nodes that are excused: one that boots loses its connections,
// and starts its pods before Felix, with Canal alone as well.
func (s seen) unharmed(t *testing.T, excused ...string) {
	t.Helper()
	if s.Tries == 0 || s.Held == 0 {
		t.Error("nothing was watched")
	}
	for _, f := range s.bad {
		if slices.Contains(excused, f.From.Node) || slices.Contains(excused, f.To.Node) {
			continue
		}
		t.Error(line(f))
	}
}

// line tells of a flow what went wrong with it.
func line(f flows.Seen) string {
	var tries []string
	for _, b := range f.Bad[:min(len(f.Bad), told)] {
		tries = append(tries, b.At.Format("15:04:05.000 ")+b.Why)
	}
	var spans []string
	for _, s := range f.Spans {
		spans = append(spans, s.From.Format("15:04:05.000")+" to "+s.To.Format("15:04:05.000"))
	}
	return fmt.Sprintf("%s %s (%s) to %s %s (%s), allowed %t, held %t, watched %s: %s %s", f.From.Name, f.From.IP, f.From.Node, f.To.Name, f.To.IP, f.To.Node,
		f.Allowed, f.Held, strings.Join(spans, ", "), strings.Join(tries, ", "), f.Broken)
}

// connected sees by connections of its own that pods reach each other, and are kept
// apart, as policies say. Pods of a node that has booted need a while.
func connected(t *testing.T) {
	t.Helper()
	kube := p.Client(t, cluster)
	for end := time.Now().Add(3 * time.Minute); ; {
		s, err := now.flows.Look(t, kube, 3*time.Second)
		if s.Opened > 0 {
			t.Errorf("%d times a flow that policy denies was open", s.Opened)
		}
		if err == nil && s.Failed+s.HeldLost == 0 && s.Tries > 0 {
			return
		}
		if time.Now().After(end) {
			t.Errorf("pods are not connected as they were: %s %v", s, err)
			return
		}
	}
}
