package migrate_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/workflows/contract"
)

// FuzzMigration lets anything happen at any moment: steps fail, nodes come and go,
// the wire is disturbed, histories are long, and people pause, abort, cancel. Whatever
// it is, the model notes no harm, and the cluster ends migrated or original.
func FuzzMigration(f *testing.F) {
	for seed := range uint64(60) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 1))
		r, opts := anyCluster(t, rng)
		var story []string
		for range 1 + rng.IntN(4) {
			n := rng.IntN(45)
			what, f := r.anything(rng)
			story = append(story, fmt.Sprintf("%s at %d", what, n))
			r.at1(n, f)
		}
		r.operate(rng, 200)
		err := r.execute(r.input(opts))
		if err != nil {
			if r.w.Writes() != 0 || r.c.Original() != "" {
				t.Errorf("refused (%v) after changes", err)
			}
		} else {
			r.ends()
		}
		if t.Failed() {
			t.Logf("%+v: %s\n%s", opts, strings.Join(story, ", "), strings.Join(r.w.Calls(), "\n"))
		}
	})
}

// anyCluster is one of up to seven nodes, to be migrated in some way.
func anyCluster(t *testing.T, rng *rand.Rand) (*run, migration.Options) {
	nodes := []string{"cp*"}
	for i := range rng.IntN(6) {
		nodes = append(nodes, fmt.Sprintf("w%d", i))
	}
	if rng.IntN(4) == 0 {
		nodes = append(nodes, "cp2*")
	}
	r := newRun(t, nodes...)
	for _, n := range nodes {
		if rng.IntN(3) == 0 {
			r.c.Drain(strings.TrimSuffix(n, "*"))
		}
	}
	r.c.Early = rng.IntN(2) == 0
	opts := migration.Options{Mode: []migration.Mode{"", "", migration.Drain}[rng.IntN(3)], Parallel: rng.IntN(4), MaxFailures: rng.IntN(3), Canary: rng.IntN(3) == 0}
	if rng.IntN(4) == 0 {
		opts.Windows = []migration.Window{{From: "22:00", Until: "03:00"}, {Days: []string{"sat"}, From: "00:00", Until: "24:00"}}
	}
	return r, opts
}

// at1 does something in the nth activity; several of these can be set.
func (r *run) at1(n int, f func(context.Context) error) {
	old := r.w.Hook
	seen := 0
	r.w.Hook = func(ctx context.Context, name, subject string) error {
		r.mu.Lock()
		now := seen == n
		seen++
		r.mu.Unlock()
		if now {
			// A claim that cannot be taken off for good is told, and left.
			if err := f(ctx); err != nil && name != "Unclaim" {
				return err
			}
		}
		return old(ctx, name, subject)
	}
}

// anything is something that happens in the middle of an activity.
func (r *run) anything(rng *rand.Rand) (string, func(context.Context) error) {
	node := fmt.Sprintf("w%d", rng.IntN(6))
	order := contract.Order{By: "bob"}
	switch rng.IntN(9) {
	case 0:
		return "failure", fail(errs.Failed("it broke"))
	case 1:
		return "no answer", fail(errs.Unavailable("no answer"))
	case 2:
		return "abort", r.abort()
	case 3:
		return "pause", r.update(contract.UpdatePause, "pause", order)
	case 4:
		return "cancellation", func(context.Context) error {
			r.env.RegisterDelayedCallback(r.env.CancelWorkflow, 0)
			time.Sleep(10 * time.Millisecond)
			return nil
		}
	case 5:
		return "disturbance", r.disturb("lost")
	case 6:
		return "long history", r.long()
	case 7:
		name := fmt.Sprintf("j%d", rng.IntN(100))
		return name + " joins", func(context.Context) error { r.c.Add(name); return nil }
	}
	return node + " goes", func(context.Context) error { r.c.Drop(node); return nil }
}

// operate lets somebody look every hour, mend the wire, and decide.
func (r *run) operate(rng *rand.Rand, hours int) {
	r.later(time.Hour, func() {
		r.w.Disturb(name, "")
		s := r.status()
		order := contract.Order{By: "bob"}
		// An update of the same ID would be the same update.
		id := func(what string) string { return fmt.Sprint(what, hours) }
		switch {
		case s.State == contract.StatePaused:
			r.send(contract.UpdateResume, id("resume"), order)
		case s.State == contract.StateApproval && rng.IntN(3) > 0:
			r.send(contract.UpdateApprove, id("approve"), contract.Decision{By: "bob", Evidence: s.Gate.Evidence})
		case s.State == contract.StateApproval:
			r.send(contract.UpdateReject, id("reject"), contract.Decision{By: "bob"})
		case s.State == contract.StateStopped && rng.IntN(3) > 0:
			r.send(contract.UpdateResume, id("resume"), order)
		case s.State == contract.StateStopped:
			r.send(contract.UpdateAbort, id("abort"), order)
		}
		if hours > 0 {
			r.operate(rng, hours-1)
		}
	})
}

// ends checks that the cluster is on one side, all of it, and was never harmed.
func (r *run) ends() {
	r.t.Helper()
	var out contract.MigrateResult
	if err := r.env.GetWorkflowResult(&out); err != nil {
		r.t.Fatal(err)
	}
	if out.State == contract.StateMigrated {
		r.wantMigrated(out)
		return
	}
	r.wantOriginal(out, "")
}
