package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/probes/preflight"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/migrate"
)

func startOptions() client.StartWorkflowOptions {
	return client.StartWorkflowOptions{ID: contract.MigrateID(name)}
}

var three = []string{"cp*", "w1", "w2"}

func TestInPlace(t *testing.T) {
	r := newRun(t, three...)
	r.on("Do swap w2", r.seen(func(s contract.MigrateStatus) {
		if n := s.Nodes[1]; n.Name != "w2" || n.Step != migration.Swap || n.State != contract.NodeMigrating {
			t.Errorf("node %+v", n)
		}
		if len(s.Baseline.Data) > 0 {
			t.Error("the status carries the evidence itself")
		}
	}))
	out := r.do(migration.Options{})
	r.wantMigrated(out)
	if !out.Proven || out.Reason != "" {
		t.Errorf("proven %v: %s", out.Proven, out.Reason)
	}
	r.wantCalls("Clusters", "EnsureAgent", "PlanMigration", "Claim", "Requirements", "Measure baseline",
		"Do begin", "Do tunnels", "Do addresses", "Do split", "Measure compare", "Nodes",
		"Do check w1", "Do leave w1", "Do swap w1", "Measure compare", "Nodes",
		"Do check w2", "Do leave w2", "Do swap w2", "Measure compare", "Nodes",
		"Do check cp", "Do leave cp", "Do swap cp", "Measure compare", "Nodes",
		"Do turn", "Nodes", "Measure compare", "Do unlink", "Measure compare", "Do adopt", "Measure compare", "Do clean", "Measure compare", "Unclaim")
	if r.count("Undo") != 0 {
		t.Error("something was undone")
	}
	for _, n := range out.Nodes {
		if n.Own != 4*time.Second || n.Evidence == "" || n.StartedAt.IsZero() || n.FinishedAt.IsZero() {
			t.Errorf("node %+v", n)
		}
	}
}

func TestDrain(t *testing.T) {
	r := newRun(t, three...)
	r.c.Drain("w2")
	out := r.do(migration.Options{})
	r.wantMigrated(out)
	r.wantCalls("Do swap w1", "Do check w2", "Do evict w2", "Do leave w2", "Do swap w2", "Measure compare", "Do uncordon w2", "Measure compare", "Do check cp")
	if r.count("Do evict") != 1 {
		t.Error("a node was drained that stays in place")
	}
}

func TestOneNode(t *testing.T) {
	r := newRun(t, "cp*")
	r.wantMigrated(r.do(migration.Options{}))
}

func TestParallel(t *testing.T) {
	r := newRun(t, "cp1*", "cp2*", "w1", "w2", "w3", "w4", "w5", "w6")
	running, most := map[string]bool{}, 0
	for _, n := range []string{"cp1", "cp2", "w1", "w2", "w3", "w4", "w5", "w6"} {
		r.on("Do check "+n, func(context.Context) error {
			r.mu.Lock()
			running[n] = true
			most = max(most, len(running))
			r.mu.Unlock()
			time.Sleep(20 * time.Millisecond)
			return nil
		})
		r.on("Do swap "+n, func(context.Context) error {
			time.Sleep(20 * time.Millisecond)
			r.mu.Lock()
			delete(running, n)
			r.mu.Unlock()
			return nil
		})
	}
	r.wantMigrated(r.do(migration.Options{Parallel: 3}))
	if most != 3 {
		t.Errorf("%d nodes at a time, want 3", most)
	}
}

// steps are all calls that make a migration of one drained worker and one
// control-plane node in place.
func steps() []string {
	var out []string
	for _, s := range migration.Preparation() {
		out = append(out, "Do "+string(s))
	}
	for _, s := range migration.NodeSteps(migration.Drain) {
		out = append(out, "Do "+string(s)+" w1")
	}
	for _, s := range migration.NodeSteps(migration.InPlace) {
		out = append(out, "Do "+string(s)+" cp")
	}
	for _, s := range migration.Completion() {
		out = append(out, "Do "+string(s))
	}
	return out
}

func two(t *testing.T) *run {
	t.Helper()
	r := newRun(t, "cp*", "w1")
	r.c.Drain("w1")
	return r
}

// Where each step can fail, whether its effect came about or not.
func TestEveryStepCanFail(t *testing.T) {
	for _, early := range []bool{false, true} {
		for i, call := range steps() {
			t.Run(fmt.Sprintf("%s %v", call, early), func(t *testing.T) {
				t.Parallel()
				r := two(t)
				r.c.Early = early
				r.on(call, fail(errs.Failed("it broke")))
				if i < len(migration.Preparation()) {
					out := r.do(migration.Options{})
					r.wantOriginal(out, strings.TrimPrefix(call, "Do ")+": it broke")
					if !out.Proven {
						t.Error("the way back was not proven")
					}
					return
				}
				r.at(time.Hour, func(s contract.MigrateStatus) {
					if s.State != contract.StateStopped || !strings.Contains(s.Reason, "it broke") {
						t.Errorf("state %s: %s", s.State, s.Reason)
					}
				})
				r.after(time.Hour+time.Minute, contract.UpdateResume, "resume", by("bob"))
				out := r.do(migration.Options{})
				r.wantUpdate("resume", "")
				r.wantMigrated(out)
				if out.Reason != "" {
					t.Errorf("a reason is left: %s", out.Reason)
				}
			})
		}
	}
}

// What has changed on a node since the plan is found before anything is changed there.
func TestANodeIsHeldAgainstTheChecksAgain(t *testing.T) {
	const why = "check: preflight: cni-writable is "
	for name, c := range map[string]struct {
		found       preflight.Status
		acknowledge []string
		wants       string
	}{
		"it fails":                      {preflight.Fail, nil, why + "fail: read-only; mend it"},
		"it fails, unknown is known of": {preflight.Fail, []string{migration.AckUnknown}, why + "fail: read-only; mend it"},
		"it is unknown":                 {preflight.Unsure, nil, why + "unknown: read-only; mend it"},
		"it is unknown, as is known":    {preflight.Unsure, []string{migration.AckUnknown}, ""},
		"it warns":                      {preflight.Warn, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRun(t, three...)
			in := r.input(migration.Options{})
			in.Acknowledge = append(in.Acknowledge, c.acknowledge...)
			r.c.Spoil("w2", c.found, "read-only")
			if c.wants != "" {
				r.at(time.Hour, func(s contract.MigrateStatus) {
					if s.State != contract.StateStopped || !strings.Contains(s.Reason, "w2: "+c.wants) {
						t.Errorf("state %s: %s", s.State, s.Reason)
					}
					if n := r.count("Do check w2") + r.count("Undo"); n > 0 {
						t.Errorf("%d steps were made or undone on what was not touched", n)
					}
					r.c.Spoil("w2", preflight.Pass, "")
				})
				r.after(time.Hour+time.Minute, contract.UpdateResume, "resume", by("bob"))
			}
			out := r.run(in)
			r.wantMigrated(out)
			for _, n := range out.Nodes {
				if n.Own < time.Second {
					t.Errorf("%s: own time %s is without the preflight's", n.Name, n.Own)
				}
			}
		})
	}
}

func TestStoppedAndAborted(t *testing.T) {
	for _, call := range steps()[len(migration.Preparation()):] {
		t.Run(call, func(t *testing.T) {
			t.Parallel()
			r := two(t)
			r.on(call, fail(errs.Failed("it broke")))
			r.after(time.Hour, contract.UpdateAbort, "abort", by("bob"))
			r.after(2*time.Hour, contract.UpdateResume, "resume", by("bob"))
			if call == "Do clean" {
				out := r.do(migration.Options{})
				r.wantUpdate("abort", errs.TypeConflict)
				r.wantMigrated(out)
				return
			}
			out := r.do(migration.Options{})
			r.wantUpdate("abort", "")
			r.wantOriginal(out, "aborted by bob")
			if !out.Proven {
				t.Error("the way back was not proven")
			}
		})
	}
}

func TestAbortedInEveryCall(t *testing.T) {
	calls := append(steps(), "Measure baseline", "Claim", "PlanMigration", "Requirements")
	for _, call := range calls {
		for _, cancel := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s %v", call, cancel), func(t *testing.T) {
				r := two(t)
				r.on(call, func(ctx context.Context) error {
					if !cancel {
						return r.abort()(ctx)
					}
					r.env.RegisterDelayedCallback(r.env.CancelWorkflow, 0)
					time.Sleep(30 * time.Millisecond)
					return ctx.Err()
				})
				out := r.do(migration.Options{})
				switch {
				case call == "Do clean" && !cancel:
					r.wantUpdate("abort", errs.TypeConflict)
					r.wantMigrated(out)
				case call == "Do clean":
					r.wantMigrated(out)
				case cancel:
					r.wantOriginal(out, "the workflow was cancelled")
				default:
					r.wantUpdate("abort", "")
					r.wantOriginal(out, "aborted by bob (smells)")
				}
			})
		}
	}
}

func TestAbortedBetween(t *testing.T) {
	// At a pause, at the gate, and after the window is waited for.
	t.Run("paused", func(t *testing.T) {
		r := two(t)
		r.on("Do swap w1", r.update(contract.UpdatePause, "pause", contract.Order{By: "bob"}))
		r.at(time.Hour, func(s contract.MigrateStatus) {
			if s.State != contract.StatePaused {
				t.Errorf("state %s", s.State)
			}
		})
		r.after(2*time.Hour, contract.UpdateAbort, "abort", by("bob"))
		r.wantOriginal(r.do(migration.Options{}), "aborted by bob")
		r.wantUpdate("pause", "")
	})
	t.Run("at the gate", func(t *testing.T) {
		r := two(t)
		r.after(time.Hour, contract.UpdateAbort, "abort", by("bob"))
		r.wantOriginal(r.do(migration.Options{Canary: true}), "aborted by bob")
	})
	t.Run("before the window", func(t *testing.T) {
		r := two(t)
		r.env.SetStartTime(time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC))
		r.after(time.Hour, contract.UpdateAbort, "abort", by("bob"))
		r.wantOriginal(r.do(migration.Options{Windows: []migration.Window{{From: "22:00", Until: "23:00"}}}), "aborted by bob")
	})
}

func TestTheWireIsCompared(t *testing.T) {
	t.Run("after the preparation", func(t *testing.T) {
		r := two(t)
		r.on("Do split", r.disturb("lost"))
		r.on("Undo split", r.disturb(""))
		out := r.do(migration.Options{})
		r.wantOriginal(out, "after the preparation: the wire is not as before")
		if !out.Proven {
			t.Error("not proven")
		}
	})
	t.Run("not as before after the way back", func(t *testing.T) {
		r := two(t)
		r.on("Do split", r.disturb("lost"))
		out := r.do(migration.Options{})
		r.wantOriginal(out, "after the way back: the wire is not as before")
		if out.Proven {
			t.Error("proven")
		}
	})
	for _, step := range []string{"swap", "uncordon"} {
		t.Run("after "+step, func(t *testing.T) {
			r := two(t)
			r.on("Do "+step+" w1", r.disturb("lost"))
			r.on("Undo swap w1", r.disturb(""))
			r.at(time.Hour, func(s contract.MigrateStatus) {
				n := s.Nodes[0]
				if s.State != contract.StateStopped || n.State != contract.NodeCanal || !strings.Contains(n.Reason, "after "+step+": the wire is not as before") {
					t.Errorf("state %s: %+v", s.State, n)
				}
				if !s.Proven {
					t.Error("that it is as before after the way back was not proven")
				}
			})
			r.after(2*time.Hour, contract.UpdateResume, "resume", by("bob"))
			r.wantMigrated(r.do(migration.Options{}))
			if step == "uncordon" {
				r.wantCalls("Do uncordon w1", "Undo swap w1", "Undo leave w1", "Undo evict w1")
			}
		})
	}
	for _, step := range []string{"turn", "unlink", "adopt"} {
		t.Run("after "+step, func(t *testing.T) {
			r := two(t)
			r.on("Do "+step, r.disturb("lost"))
			r.on("Undo "+step, r.disturb(""))
			r.after(2*time.Hour, contract.UpdateResume, "resume", by("bob"))
			out := r.do(migration.Options{})
			r.wantMigrated(out)
			r.wantCalls("Do "+step, "Undo "+step, "Do turn", "Do clean")
			if r.count("Undo turn") != 1 {
				t.Error("turn was not undone")
			}
		})
	}
	t.Run("after clean, and mended", func(t *testing.T) {
		r := two(t)
		r.on("Do clean", r.disturb("lost"))
		r.env.RegisterDelayedCallback(func() { r.w.Disturb(name, "") }, time.Hour)
		r.after(2*time.Hour, contract.UpdateResume, "resume", by("bob"))
		out := r.do(migration.Options{})
		r.wantMigrated(out)
		if !out.Proven || out.Reason != "" {
			t.Errorf("proven %v: %s", out.Proven, out.Reason)
		}
	})
	t.Run("after clean, for good", func(t *testing.T) {
		r := two(t)
		r.on("Do clean", r.disturb("lost"))
		r.after(2*time.Hour, contract.UpdateResume, "resume", by("bob"))
		out := r.do(migration.Options{})
		r.wantMigrated(out)
		if out.Proven || !strings.Contains(out.Reason, "not as before") {
			t.Errorf("proven %v: %s", out.Proven, out.Reason)
		}
	})
}

func TestUndoIsTriedUntilItIsDone(t *testing.T) {
	for name, err := range map[string]error{"may work later": errs.Unavailable("no answer"), "lasting": errs.Failed("it is stuck")} {
		t.Run(name, func(t *testing.T) {
			r := two(t)
			r.on("Do adopt", fail(errs.Failed("it broke")))
			for _, call := range []string{"Undo adopt", "Undo turn", "Undo swap w1", "Undo evict w1", "Undo split", "Undo begin"} {
				r.times(4, call, fail(err))
			}
			r.times(2, "Unclaim", fail(errs.Unavailable("no answer")))
			r.after(3*time.Hour, contract.UpdateAbort, "abort", by("bob"))
			out := r.do(migration.Options{})
			r.wantOriginal(out, "aborted by bob")
			if n := r.count("Undo swap w1"); n != 5 {
				t.Errorf("undone %d times", n)
			}
		})
	}
}

func TestPauseAndResume(t *testing.T) {
	for _, call := range []string{"PlanMigration", "Measure baseline", "Do begin", "Do split", "Do swap w1", "Do swap cp", "Do turn", "Do unlink", "Do adopt"} {
		t.Run(call, func(t *testing.T) {
			r := two(t)
			r.on(call, r.update(contract.UpdatePause, "pause", contract.Order{By: "bob", Why: "lunch"}))
			calls := 0
			r.at(time.Hour, func(s contract.MigrateStatus) {
				calls = r.count("Do ")
				if s.State != contract.StatePaused || s.Paused == nil || s.Paused.Why != "lunch" {
					t.Errorf("state %s, %+v", s.State, s.Paused)
				}
			})
			r.at(5*time.Hour, func(contract.MigrateStatus) {
				if n := r.count("Do "); n != calls {
					t.Errorf("%d steps began while it was paused", n-calls)
				}
			})
			r.after(2*time.Hour, contract.UpdatePause, "again", by("bob"))
			r.after(6*time.Hour, contract.UpdateResume, "resume", by("bob"))
			r.after(6*time.Hour+time.Second, contract.UpdateResume, "resume again", by("bob"))
			r.wantMigrated(r.do(migration.Options{}))
			r.wantUpdate("pause", "")
			r.wantUpdate("again", errs.TypeConflict)
			r.wantUpdate("resume", "")
		})
	}
}

func TestANodeThatJoinsDuringAPauseBeforeTurn(t *testing.T) {
	r := two(t)
	r.on("Do swap cp", r.update(contract.UpdatePause, "pause", contract.Order{By: "bob"}))
	r.env.RegisterDelayedCallback(func() { r.c.Add("w9") }, time.Hour)
	r.after(2*time.Hour, contract.UpdateResume, "resume", by("bob"))
	r.wantMigrated(r.do(migration.Options{}))
	r.wantCalls("Do swap cp", "Do swap w9", "Do turn")
}

func TestCanary(t *testing.T) {
	approve := func(by, evidence string) func() any {
		return func() any { return contract.Decision{By: by, Evidence: evidence} }
	}
	t.Run("approved", func(t *testing.T) {
		r := newRun(t, three...)
		r.after(time.Hour, contract.UpdateApprove, "wrong", approve("bob", strings.Repeat("f", 12)))
		r.after(time.Hour, contract.UpdateApprove, "short", approve("bob", "abc"))
		r.after(time.Hour, contract.UpdateApprove, "nobody", func() any {
			d, _ := r.vote("")().(contract.Decision)
			return d
		})
		r.at(90*time.Minute, func(s contract.MigrateStatus) {
			if s.State != contract.StateApproval || s.Gate == nil || s.Gate.Node != "w1" || r.count("Do check") != 1 {
				t.Errorf("state %s, gate %+v, %d nodes began", s.State, s.Gate, r.count("Do check"))
			}
		})
		r.after(2*time.Hour, contract.UpdateApprove, "approve", r.vote("bob"))
		r.wantMigrated(r.do(migration.Options{Canary: true, Parallel: 5}))
		r.wantUpdate("wrong", errs.TypeConflict)
		r.wantUpdate("short", errs.TypeInvalid)
		r.wantUpdate("nobody", errs.TypeInvalid)
		r.wantUpdate("approve", "")
	})
	t.Run("rejected", func(t *testing.T) {
		r := newRun(t, three...)
		r.after(time.Hour, contract.UpdateReject, "reject", func() any { return contract.Decision{By: "bob", Why: "slow"} })
		r.wantOriginal(r.do(migration.Options{Canary: true}), "rejected by bob (slow)")
		r.wantUpdate("reject", "")
	})
	t.Run("no gate", func(t *testing.T) {
		r := newRun(t, three...)
		r.on("Do swap w1", func(ctx context.Context) error {
			_ = r.update(contract.UpdateApprove, "approve", contract.Decision{By: "bob", Evidence: strings.Repeat("f", 12)})(ctx)
			_ = r.update(contract.UpdateReject, "reject", contract.Decision{By: "bob"})(ctx)
			return r.update(contract.UpdateResume, "resume", contract.Order{By: "bob"})(ctx)
		})
		r.wantMigrated(r.do(migration.Options{}))
		for _, id := range []string{"approve", "reject", "resume"} {
			r.wantUpdate(id, errs.TypeConflict)
		}
	})
	t.Run("the first node failed", func(t *testing.T) {
		r := newRun(t, three...)
		r.on("Do swap w1", fail(errs.Failed("it broke")))
		r.at(time.Hour, func(s contract.MigrateStatus) {
			if s.Gate == nil || s.Gate.Node != "w2" {
				t.Errorf("gate %+v", s.Gate)
			}
		})
		r.after(2*time.Hour, contract.UpdateApprove, "approve", r.vote("bob"))
		r.wantMigrated(r.do(migration.Options{Canary: true, MaxFailures: 1}))
	})
}

// What people say stands in the log, which goes into the result and from run to run.
func TestDecisionsThatAreNotWellFormedAreRefused(t *testing.T) {
	r := newRun(t, three...)
	giant := strings.Repeat("a", 1<<20)
	ids := []string{"by", "line", "why", "pause", "abort", "evidence"}
	r.after(time.Hour, contract.UpdateApprove, ids[0], func() any { return contract.Decision{By: giant, Evidence: strings.Repeat("f", 12)} })
	r.after(time.Hour, contract.UpdateReject, ids[1], func() any { return contract.Decision{By: "bob\neve"} })
	r.after(time.Hour, contract.UpdateReject, ids[2], func() any { return contract.Decision{By: "bob", Why: giant} })
	r.after(time.Hour, contract.UpdatePause, ids[3], func() any { return contract.Order{By: "bob", Why: giant} })
	r.after(time.Hour, contract.UpdateAbort, ids[4], func() any { return contract.Order{By: "bob", Why: giant} })
	r.after(time.Hour, contract.UpdateReject, ids[5], func() any { return contract.Decision{By: "bob", Evidence: strings.Repeat("f", 12)} })
	r.after(2*time.Hour, contract.UpdateApprove, "approve", r.vote("bob"))
	r.wantMigrated(r.do(migration.Options{Canary: true}))
	for _, id := range ids[:5] {
		r.wantUpdate(id, errs.TypeInvalid)
	}
	r.wantUpdate(ids[5], errs.TypeConflict)
}

func TestNobodyDecidesAfterTheEnd(t *testing.T) {
	r := two(t)
	r.on("Do split", fail(errs.Failed("it broke")))
	r.on("Undo split", func(ctx context.Context) error {
		for _, what := range []string{contract.UpdateAbort, contract.UpdatePause, contract.UpdateResume} {
			_ = r.update(what, what, contract.Order{By: "bob"})(ctx)
		}
		return nil
	})
	r.wantOriginal(r.do(migration.Options{}), "it broke")
	for _, what := range []string{contract.UpdateAbort, contract.UpdatePause, contract.UpdateResume} {
		r.wantUpdate(what, errs.TypeConflict)
	}
}

func TestFailuresWithinTheLimit(t *testing.T) {
	t.Run("tried once more at the end", func(t *testing.T) {
		r := newRun(t, "cp*", "w1", "w2", "w3")
		r.on("Do swap w1", fail(errs.Failed("it broke")))
		out := r.do(migration.Options{MaxFailures: 1})
		r.wantMigrated(out)
		r.wantCalls("Do swap w1", "Undo swap w1", "Do swap w2", "Do swap w3", "Do swap cp", "Do swap w1", "Do turn")
		for _, n := range out.Nodes {
			if want := 0; n.Name == "w1" && n.Failures != 1 || n.Name != "w1" && n.Failures != want {
				t.Errorf("%+v", n)
			}
		}
	})
	t.Run("failed twice", func(t *testing.T) {
		r := newRun(t, "cp*", "w1", "w2")
		r.times(2, "Do swap w1", fail(errs.Failed("it broke")))
		r.at(time.Hour, func(s contract.MigrateStatus) {
			if s.State != contract.StateStopped || !strings.Contains(s.Reason, "1 node could not be moved: w1: swap: it broke") {
				t.Errorf("state %s: %s", s.State, s.Reason)
			}
		})
		r.after(2*time.Hour, contract.UpdateResume, "resume", by("bob"))
		r.wantMigrated(r.do(migration.Options{MaxFailures: 5}))
	})
	t.Run("too many at a time", func(t *testing.T) {
		r := newRun(t, "cp*", "w1", "w2", "w3", "w4", "w5", "w6")
		for _, n := range []string{"w1", "w2", "w3"} {
			r.on("Do swap "+n, fail(errs.Failed("it broke")))
		}
		r.at(time.Hour, func(s contract.MigrateStatus) {
			if s.State != contract.StateStopped || r.count("Do check") > 5 || r.count("Do check cp") > 0 {
				t.Errorf("state %s: %s, %d began", s.State, s.Reason, r.count("Do check"))
			}
		})
		r.after(2*time.Hour, contract.UpdateResume, "resume", by("bob"))
		r.wantMigrated(r.do(migration.Options{MaxFailures: 1, Parallel: 2}))
	})
}

func TestNodesThatComeAndGo(t *testing.T) {
	joins := func(r *run, name string) func(context.Context) error {
		return func(context.Context) error { r.c.Add(name); return nil }
	}
	t.Run("joins while nodes move", func(t *testing.T) {
		r := newRun(t, three...)
		r.on("Do swap w1", joins(r, "w9"))
		r.wantMigrated(r.do(migration.Options{}))
		r.wantCalls("Do swap w9", "Do swap cp")
	})
	t.Run("joins at the last node", func(t *testing.T) {
		r := newRun(t, three...)
		r.on("Do swap cp", joins(r, "w9"))
		r.wantMigrated(r.do(migration.Options{}))
	})
	t.Run("joins after turn", func(t *testing.T) {
		r := newRun(t, three...)
		r.on("Do turn", joins(r, "w9"))
		r.wantMigrated(r.do(migration.Options{}))
		r.wantCalls("Do turn", "Do unlink")
		if r.count("Do swap w9") != 0 {
			t.Error("a node that joined with Calico was moved")
		}
	})
	// Turn cannot be made while a node has Canal: it is moved first, as the others were.
	t.Run("joins while turn is tried again", func(t *testing.T) {
		r := newRun(t, three...)
		r.on("Do turn", func(context.Context) error { r.c.Add("w9"); return errs.Unavailable("no answer") })
		out := r.do(migration.Options{})
		r.wantMigrated(out)
		r.wantCalls("Do turn", "Do swap w9", "Do turn", "Do unlink")
		if r.count("Undo") != 0 || strings.Contains(logOf(out), "stopped") {
			t.Errorf("it stopped:\n%s", logOf(out))
		}
	})
	t.Run("joins while turn waits for another that did", func(t *testing.T) {
		r := newRun(t, three...)
		r.on("Do turn", func(context.Context) error { r.c.Add("w8"); return errs.Unavailable("no answer") })
		r.on("Do uncordon w8", joins(r, "w9"))
		r.on("Do swap w8", joins(r, "cp9*"))
		r.wantMigrated(r.do(migration.Options{Mode: migration.Drain}))
		r.wantCalls("Do turn", "Do swap w8", "Do swap w9", "Do turn", "Do unlink")
	})
	t.Run("joins while turn is tried again, and goes", func(t *testing.T) {
		r := newRun(t, three...)
		r.on("Do turn", func(context.Context) error {
			r.c.Add("w9")
			r.on("Nodes", func(context.Context) error { r.c.Drop("w9"); return nil })
			return errs.Unavailable("no answer")
		})
		out := r.do(migration.Options{})
		r.wantMigrated(out)
		if strings.Contains(logOf(out), "stopped") {
			t.Errorf("it stopped:\n%s", logOf(out))
		}
	})
	t.Run("joins while turn is tried again, and fails", func(t *testing.T) {
		r := newRun(t, three...)
		r.on("Do turn", func(context.Context) error { r.c.Add("w9"); return errs.Unavailable("no answer") })
		r.on("Do swap w9", fail(errs.Failed("it broke")))
		r.at(time.Hour, func(s contract.MigrateStatus) {
			if s.State != contract.StateStopped || !strings.Contains(s.Reason, "w9: swap: it broke") {
				t.Errorf("%s: %s", s.State, s.Reason)
			}
		})
		r.after(time.Hour, contract.UpdateResume, "resume", by("bob"))
		r.wantMigrated(r.do(migration.Options{}))
		r.wantCalls("Undo swap w9", "Undo turn", "Do swap w9", "Do turn", "Do unlink")
	})
	t.Run("joins while turn is tried again, and it is paused", func(t *testing.T) {
		r := newRun(t, three...)
		r.on("Do turn", func(context.Context) error { r.c.Add("w9"); return errs.Unavailable("no answer") })
		r.on("Do swap w9", r.update(contract.UpdatePause, "pause", contract.Order{By: "bob"}))
		r.after(time.Hour, contract.UpdateResume, "resume", by("bob"))
		r.wantMigrated(r.do(migration.Options{}))
	})
	t.Run("joins while turn is tried again, and it is aborted", func(t *testing.T) {
		r := newRun(t, three...)
		r.on("Do turn", func(context.Context) error { r.c.Add("w9"); return errs.Unavailable("no answer") })
		r.on("Do swap w9", r.abort())
		r.wantOriginal(r.do(migration.Options{}), "aborted")
	})
	t.Run("joins while turn is tried again, and the history is long", func(t *testing.T) {
		r := newRun(t, three...)
		r.on("Do turn", func(context.Context) error { r.c.Add("w9"); return errs.Unavailable("no answer") })
		r.on("Do swap w9", r.long())
		r.wantMigrated(r.do(migration.Options{}))
		if r.runs == 0 {
			t.Error("it did not continue as new")
		}
	})
	t.Run("joins late, and all goes back", func(t *testing.T) {
		r := newRun(t, three...)
		r.on("Do unlink", joins(r, "w9"))
		r.on("Do adopt", r.abort())
		r.wantOriginal(r.do(migration.Options{}), "aborted")
		r.wantCalls("Undo turn", "Undo swap w9")
	})
	t.Run("is gone before it moves", func(t *testing.T) {
		r := newRun(t, three...)
		r.on("Do swap w1", func(context.Context) error { r.c.Drop("w2"); return nil })
		out := r.do(migration.Options{})
		r.wantMigrated(out)
		if len(out.Nodes) != 2 || !strings.Contains(logOf(out), "w2 is gone") {
			t.Errorf("nodes %v\n%s", out.Nodes, logOf(out))
		}
	})
	t.Run("is gone while it moves", func(t *testing.T) {
		r := newRun(t, three...)
		r.on("Do leave w1", func(context.Context) error { r.c.Drop("w1"); return nil })
		out := r.do(migration.Options{})
		r.wantMigrated(out)
		if len(out.Nodes) != 2 {
			t.Errorf("nodes %v", out.Nodes)
		}
	})
	t.Run("is gone before the way back", func(t *testing.T) {
		r := newRun(t, three...)
		r.on("Do swap w2", func(ctx context.Context) error { r.c.Drop("w1"); return r.abort()(ctx) })
		r.wantOriginal(r.do(migration.Options{}), "aborted")
		if r.count("Undo swap w1") != 0 {
			t.Error("a node that is gone was taken back")
		}
	})
	t.Run("is made anew", func(t *testing.T) {
		r := newRun(t, three...)
		r.on("Do swap w2", func(context.Context) error { r.c.Drop("w1"); r.c.Add("w1"); return nil })
		r.wantMigrated(r.do(migration.Options{}))
	})
	t.Run("nodes cannot be listed", func(t *testing.T) {
		r := newRun(t, three...)
		r.on("Nodes", fail(errs.Denied("no permission")))
		r.after(time.Hour, contract.UpdateResume, "resume", by("bob"))
		r.wantMigrated(r.do(migration.Options{}))
	})
}

// Whenever a node joins before Clean, also while the step of the moment is tried again, it
// comes to Calico without a stop.
func TestANodeJoinsAtAnyMoment(t *testing.T) {
	for _, name := range []string{"w9", "cp9*"} {
		for _, how := range []struct{ again, early bool }{{}, {again: true}, {again: true, early: true}} {
			for n, last := 0, false; !last; n++ {
				r := newRun(t, "cp*", "w1")
				r.c.Early = how.early
				seen := 0
				r.w.Hook = func(_ context.Context, call, subject string) error {
					r.mu.Lock()
					defer r.mu.Unlock()
					if call == "Claim" || seen > 0 {
						seen++
					}
					if seen != n+1 {
						return nil
					}
					r.c.Add(name)
					last = call+" "+subject == "Do clean"
					if how.again {
						return errs.Unavailable("no answer")
					}
					return nil
				}
				out := r.do(migration.Options{})
				r.wantMigrated(out)
				if told := logOf(out); strings.Contains(told, "stopped") || strings.Contains(told, "failed") {
					t.Errorf("%s at %d, %+v:\n%s", name, n, how, told)
				}
				if t.Failed() {
					return
				}
			}
		}
	}
}

func TestWindows(t *testing.T) {
	r := newRun(t, three...)
	r.env.SetStartTime(time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC))
	var at []time.Time
	for _, n := range []string{"w1", "w2", "cp"} {
		r.on("Do check "+n, func(context.Context) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			at = append(at, r.env.Now().UTC())
			return nil
		})
	}
	// The window shuts while the second node moves.
	r.on("Do swap w2", func(context.Context) error { return nil })
	r.at(time.Hour, func(s contract.MigrateStatus) {
		if !s.OpensAt.Equal(time.Date(2026, 11, 23, 22, 0, 0, 0, time.UTC)) || s.State != contract.StateMigrating {
			t.Errorf("state %s, opens at %s", s.State, s.OpensAt)
		}
	})
	r.wantMigrated(r.do(migration.Options{Windows: []migration.Window{{From: "22:00", Until: "22:30"}}}))
	for _, a := range at {
		if a.Hour() != 22 {
			t.Errorf("a node began at %s", a)
		}
	}
	if len(at) != 3 {
		t.Errorf("%d nodes began", len(at))
	}
}

func TestRefusals(t *testing.T) {
	good := func(r *run) contract.MigrateInput { return r.input(migration.Options{}) }
	for name, tc := range map[string]struct {
		change     func(r *run, in *contract.MigrateInput)
		kind, says string
	}{
		"nobody":        {func(_ *run, in *contract.MigrateInput) { in.StartedBy = " " }, errs.TypeInvalid, "startedBy"},
		"no plan":       {func(_ *run, in *contract.MigrateInput) { in.Plan = "" }, errs.TypeInvalid, "migrate plan prod"},
		"other plan":    {func(_ *run, in *contract.MigrateInput) { in.Plan = strings.Repeat("0", 64) }, errs.TypeConflict, "migrate plan prod again"},
		"no manifest":   {func(_ *run, in *contract.MigrateInput) { in.Manifest = nil }, errs.TypeInvalid, "manifest"},
		"bad manifest":  {func(_ *run, in *contract.MigrateInput) { in.Manifest = []byte("kind: List") }, errs.TypeInvalid, "cannot be read"},
		"other one":     {func(_ *run, in *contract.MigrateInput) { in.Options.Manifest = strings.Repeat("0", 64) }, errs.TypeInvalid, "not the one that was planned"},
		"no cluster":    {func(_ *run, in *contract.MigrateInput) { in.Cluster = "nowhere" }, errs.TypeNotFound, "nowhere"},
		"bad window":    {func(_ *run, in *contract.MigrateInput) { in.Options.Windows = []migration.Window{{From: "x"}} }, errs.TypeInvalid, "no time of day"},
		"no such node":  {func(_ *run, in *contract.MigrateInput) { in.Options.First = []string{"w7"} }, errs.TypePreflight, "there is no node w7"},
		"not told":      {func(r *run, in *contract.MigrateInput) { r.c.Drop("w1"); in.Plan = good(r).Plan; in.Acknowledge = nil }, errs.TypeInvalid, migration.AckOneNode},
		"claimed":       {func(r *run, _ *contract.MigrateInput) { r.on("Claim", fail(errs.Conflict("rollout/p runs"))) }, errs.TypeConflict, "rollout/p runs"},
		"nothing there": {func(r *run, _ *contract.MigrateInput) { r.c.Nothing = true }, errs.TypeFailed, "nothing on cluster prod that could be probed"},
		"not measured":  {func(r *run, _ *contract.MigrateInput) { r.on("Measure baseline", fail(errs.Failed("agents are down"))) }, errs.TypeFailed, "agents are down"},
		"no agents":     {func(r *run, _ *contract.MigrateInput) { r.on("EnsureAgent", fail(errs.Denied("no permission"))) }, errs.TypeDenied, "no permission"},
		"no plan made":  {func(r *run, _ *contract.MigrateInput) { r.on("PlanMigration", fail(errs.Failed("broken"))) }, errs.TypeFailed, "broken"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := two(t)
			in := good(r)
			tc.change(r, &in)
			r.refused(in, tc.kind, tc.says)
			if slices.Contains(r.w.Calls(), "Claim prod") != slices.Contains(r.w.Calls(), "Unclaim prod") {
				t.Errorf("claimed and not given back: %v", r.w.Calls())
			}
		})
	}
}

func TestPlannedAnswers(t *testing.T) {
	r := two(t)
	r.on("PlanMigration", r.update(contract.UpdatePlanned, "planned", nil))
	r.wantMigrated(r.do(migration.Options{}))
	r.wantUpdate("planned", "")

	r = two(t)
	r.on("PlanMigration", func(ctx context.Context) error {
		_ = r.update(contract.UpdatePlanned, "planned", nil)(ctx)
		return errs.Failed("broken")
	})
	r.refused(r.input(migration.Options{}), errs.TypeFailed, "broken")
	r.wantUpdate("planned", errs.TypeFailed)
}

// A node whose workflow was lost is somewhere between, and is taken back at once.
func TestALostNode(t *testing.T) {
	for _, end := range []string{contract.UpdateResume, contract.UpdateAbort} {
		t.Run(end, func(t *testing.T) {
			r := two(t)
			times := 0
			r.env.OnWorkflow(contract.MigrateNodeWorkflow, mock.Anything, mock.Anything).Return(
				func(ctx workflow.Context, in contract.MigrateNodeInput) (contract.MigrateNodeResult, error) {
					if times++; times == 1 {
						r.c.Lose(in.Node)
						return contract.MigrateNodeResult{}, errors.New("terminated")
					}
					return migrate.RunNode(ctx, in)
				})
			r.at(30*time.Minute, func(s contract.MigrateStatus) {
				if n := s.Nodes[0]; s.State != contract.StateStopped || n.State != contract.NodeCanal || n.Lost || !strings.Contains(n.Reason, "it was lost: terminated") {
					t.Errorf("state %s: %+v", s.State, n)
				}
			})
			r.after(time.Hour, end, "end", by("bob"))
			out := r.do(migration.Options{})
			if end == contract.UpdateResume {
				r.wantMigrated(out)
				return
			}
			r.wantOriginal(out, "aborted by bob")
			if r.count("Undo swap w1") != 1 {
				t.Errorf("%v", r.w.Calls())
			}
		})
	}
}
