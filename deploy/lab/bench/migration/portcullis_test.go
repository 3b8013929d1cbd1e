package migration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"portcullis.dev/portcullis/deploy/lab/internal/drive"
	"portcullis.dev/portcullis/deploy/lab/internal/flows"
)

const (
	migrationLimit = 20 * time.Minute
	// ownLimit is what Portcullis itself may take for a node.
	ownLimit = 5 * time.Second
	// acrossLimit is the longest gap between a moved node and others after a drain.
	acrossLimit = time.Second
)

// follower reads states as they are written, and ends the watch when it is done.
type follower struct {
	mu   sync.Mutex
	rest bytes.Buffer
	last drive.Migration
	done func(drive.Migration) bool
	end  context.CancelFunc
}

func (f *follower) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rest.Write(p)
	for {
		line, err := f.rest.ReadBytes('\n')
		if err != nil {
			f.rest.Write(line)
			return len(p), nil
		}
		var s drive.Migration
		if json.Unmarshal(line, &s) == nil && s.State != "" {
			if f.last = s; f.done(s) {
				f.end()
			}
		}
	}
}

// until follows the migration until it ends, or until done says so.
func (s *stage) until(b *testing.B, done func(drive.Migration) bool) drive.Migration {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), migrationLimit)
	defer cancel()
	f := &follower{done: done, end: cancel}
	_, err := s.Stream(ctx, f, "migrate", "watch", cluster, "-o", "json")
	if err != nil && ctx.Err() == nil {
		b.Fatal(err)
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		b.Fatalf("the migration did not end within %s: %+v", migrationLimit, f.last)
	}
	return f.last
}

func ended(s drive.Migration) bool   { return !s.Running }
func stopped(s drive.Migration) bool { return !s.Running || s.State == "stopped" }

// start plans and starts a migration.
func (s *stage) start(b *testing.B, manifest string, flags ...string) {
	b.Helper()
	flags = append(flags, "--first", strings.Join(nodes, ","))
	s.Begin(b, cluster, s.Planned(b, cluster, manifest, flags...), by, manifest, flags...)
}

// moves are when each node was moved, and marks what was done, for the picture.
func (r *recording) moves(s drive.Migration) (moved map[string]span, own map[string]time.Duration) {
	moved, own = map[string]span{}, map[string]time.Duration{}
	for _, n := range s.Nodes {
		if !n.StartedAt.IsZero() {
			moved[n.Name] = span{n.StartedAt, n.FinishedAt}
			own[n.Name] = n.Own
		}
	}
	for _, l := range s.Log {
		if step, is := strings.CutPrefix(l.Message, "begins "); is && l.Environment == "" {
			r.watch.MarkAt(l.At, "%s", step)
		}
	}
	if last := len(s.Log) - 1; last >= 0 {
		r.watch.MarkAt(s.Log[last].At, "%s", s.State)
	}
	return moved, own
}

// migrate measures one migration to its end.
func migrate(b *testing.B, title string, flags ...string) (figures, flows.Report) {
	s := fresh(b, true)
	manifest, err := s.CalicoManifest(b.Context(), "calico-vxlan.yaml")
	must(b, err)
	r := s.record(b)
	s.start(b, manifest, flags...)
	last := s.until(b, ended)
	moved, own := r.moves(last)
	f, report := r.finish(moved)
	f.Own, f.Result = own, last.State
	if last.Reason != "" {
		f.Noticed = append(f.Noticed, last.Reason)
	}
	for _, l := range last.Log {
		f.Noticed = append(f.Noticed, l.At.Format("15:04:05.0 ")+l.Environment+" "+l.Message[:min(len(l.Message), 160)])
	}
	tell(b, title, f, report)
	if last.State != "migrated" || !last.Proven {
		b.Errorf("it ended %s (%s), proven %t", last.State, last.Reason, last.Proven)
	}
	for node, took := range own {
		if took >= ownLimit {
			b.Errorf("%s took %s of Portcullis' own, limit %s", node, took, ownLimit)
		}
	}
	if len(f.Residue)+len(f.Failing)+len(f.NotReady)+len(f.Cordoned) > 0 {
		b.Errorf("left behind: %v; failing: %v; not ready: %v; cordoned: %v", f.Residue, f.Failing, f.NotReady, f.Cordoned)
	}
	return f, report
}

// BenchmarkMigration measures Portcullis, in place and with drains.
func BenchmarkMigration(b *testing.B) {
	b.Run("in-place", func(b *testing.B) {
		f, _ := migrate(b, "portcullis migrate, in place", "--mode", "in-place")
		if t := f.Flows; t.Failed+t.HeldLost > 0 {
			b.Errorf("%d tries failed and %d connections broke; the limit is none", t.Failed, t.HeldLost)
		}
		if !f.Pods.None() {
			b.Errorf("pods that are not what they were: %+v", f.Pods)
		}
	})
	b.Run("drain", func(b *testing.B) {
		f, _ := migrate(b, "portcullis migrate, with drains", "--mode", "drain")
		if f.Still > 0 {
			b.Errorf("%d tries failed between pods of nodes that were not being moved; the limit is none", f.Still)
		}
		if f.Across > acrossLimit {
			b.Errorf("a gap of %s between a moved node and another, limit %s", f.Across, acrossLimit)
		}
	})
}
