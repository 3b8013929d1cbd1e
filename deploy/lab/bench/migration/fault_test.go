package migration

import (
	"fmt"
	"testing"
	"time"
)

// breakNode has calico-node not start on the second node that is moved; Canal does.
func (s *stage) breakNode(b *testing.B) {
	b.Helper()
	s.MustLab(b, "fault", "inject", "calico", nodes[1], "how=crash")
}

// BenchmarkFault measures what each notices when Calico does not come up on the second
// node, and how it leaves the cluster.
func BenchmarkFault(b *testing.B) {
	b.Run("portcullis", func(b *testing.B) {
		s := fresh(b, true)
		manifest, err := s.CalicoManifest(b.Context(), "calico-vxlan.yaml")
		must(b, err)
		s.breakNode(b)
		r := s.record(b)
		s.start(b, manifest, "--mode", "in-place")
		last := s.until(b, stopped)
		moved, own := r.moves(last)
		f, report := r.finish(moved)
		f.Own, f.Result, f.Noticed = own, last.State, []string{last.Reason}
		for _, n := range last.Nodes {
			f.Noticed = append(f.Noticed, fmt.Sprintf("%s: %s %s", n.Name, n.State, n.Reason))
		}
		tell(b, "portcullis migrate, in place, where Calico does not come up on "+nodes[1], f, report)
		if last.State != "stopped" {
			b.Errorf("it is %s (%s), and was to stop", last.State, last.Reason)
		}
		if len(f.Failing)+len(f.NotReady)+len(f.Cordoned) > 0 {
			b.Errorf("failing: %v; not ready: %v; cordoned: %v", f.Failing, f.NotReady, f.Cordoned)
		}
		s.Call(b, 0, "migrate", "abort", cluster, "--by", by, "--why", "a node cannot be moved")
		if last = s.until(b, ended); last.State != "original" {
			b.Errorf("after the abort it is %s (%s)", last.State, last.Reason)
		}
		s.sound(b)
	})
	b.Run("controller", func(b *testing.B) {
		s := fresh(b, false)
		s.breakNode(b)
		r := s.record(b)
		r.watch.Mark("controller starts")
		s.startController(b)
		result := s.untilController(b, faultLimit, 1)
		r.watch.Mark("%s", result)
		time.Sleep(afterwards)
		f, report := r.finish(map[string]span{})
		f.Result, f.Noticed = result, s.controllerSaid(b)
		tell(b, "Calico's flannel-migration controller, where Calico does not come up on "+nodes[1], f, report)
	})
}
