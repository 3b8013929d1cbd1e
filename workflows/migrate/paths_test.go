package migrate_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/errs"
	activities "portcullis.dev/portcullis/activities/migrate"
	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/probes/preflight"
	"portcullis.dev/portcullis/workflows/call"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/internal/harness"
	"portcullis.dev/portcullis/workflows/migrate"
)

// calls counts the activities of a run of two nodes in which all goes well.
func calls(t *testing.T) int {
	t.Helper()
	r := two(t)
	r.wantMigrated(r.do(migration.Options{}))
	return len(r.w.Calls())
}

// Wherever it is ended, in a step, a measurement or a listing, it ends original,
// or migrated once there is no way back.
func TestAbortedInEveryActivity(t *testing.T) {
	for n := range calls(t) {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			r := two(t)
			r.nth(n, r.abort())
			out := r.do(migration.Options{})
			if r.count("Do clean") > 0 {
				r.wantMigrated(out)
				return
			}
			r.wantUpdate("abort", "")
			r.wantOriginal(out, "aborted by bob (smells)")
		})
	}
}

// Whatever fails for good, it is refused, goes back, or stops and goes on.
func TestEveryActivityCanFail(t *testing.T) {
	all := calls(t)
	for n := range all {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			r := two(t)
			r.nth(n, fail(errs.Failed("it broke")))
			r.after(time.Hour, contract.UpdateResume, "resume", by("bob"))
			if err := r.execute(r.input(migration.Options{})); err != nil {
				if r.w.Writes() != 0 || r.c.Original() != "" {
					t.Errorf("refused (%v) after changes: %v", err, r.w.Calls())
				}
				return
			}
			var out contract.MigrateResult
			if err := r.env.GetWorkflowResult(&out); err != nil {
				t.Fatal(err)
			}
			switch {
			case out.State == contract.StateOriginal:
				r.wantOriginal(out, "it broke")
			case n == all-1:
				if !strings.Contains(logOf(out), "the cluster could not be given back: it broke") {
					t.Errorf("nothing is said of the claim that is left: %s", logOf(out))
				}
			default:
				r.wantMigrated(out)
			}
		})
	}
}

// What has no answer for long is the same as a failure.
func TestTimeOuts(t *testing.T) {
	for call, says := range map[string]string{
		"Do evict w1": "evict: ", "Do swap w1": "swap: ", "Do turn": "turn: ", "Do clean": "clean: ", "Nodes": "the nodes could not be listed",
	} {
		for kind, err := range map[string]error{"gives up": errs.Deadline("not within 30m0s"), "never answers": errs.Unavailable("no answer")} {
			t.Run(call+" "+kind, func(t *testing.T) {
				t.Parallel()
				r := two(t)
				mended := false
				r.times(-1, call, func(context.Context) error {
					r.mu.Lock()
					defer r.mu.Unlock()
					if mended {
						return nil
					}
					return err
				})
				r.at(5*time.Hour, func(s contract.MigrateStatus) {
					r.mu.Lock()
					defer r.mu.Unlock()
					mended = true
					if s.State != contract.StateStopped || !strings.Contains(s.Reason, says) || !strings.Contains(s.Reason, errs.Message(err)) {
						t.Errorf("state %s: %s", s.State, s.Reason)
					}
				})
				r.after(6*time.Hour, contract.UpdateResume, "resume", by("bob"))
				r.wantMigrated(r.do(migration.Options{}))
			})
		}
	}
}

// A step gets the target that the plan resolved, and not the one that was asked for.
func TestTheTargetIsThePlans(t *testing.T) {
	r := two(t)
	in := r.input(migration.Options{})
	in.Target = preflight.Target{VNI: 4711}
	in.Plan = r.c.Plan(in.Target, in.Options).Hash
	var given preflight.Target
	r.env.OnWorkflow(contract.MigrateNodeWorkflow, mock.Anything, mock.Anything).Return(
		func(ctx workflow.Context, in contract.MigrateNodeInput) (contract.MigrateNodeResult, error) {
			given = in.Target
			return migrate.RunNode(ctx, in)
		})
	// That every step gets it is what the model sees to.
	r.wantMigrated(r.run(in))
	if given.VNI != 4711 || given.Port == 0 || given.MTU == 0 || given.PodCIDR == "" {
		t.Errorf("a node gets the target %+v", given)
	}
}

// Wherever the history becomes long, the migration goes on in a new one, however
// it ends.
func TestContinuesAsNewFromAnywhere(t *testing.T) {
	all, continued := calls(t), 0
	for n := range all {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			r := two(t)
			// It is aborted at the last moment, so that the way back is walked from there.
			aborts := n%2 == 0
			if aborts {
				r.on("Do adopt", r.abort())
			}
			r.nth(n, r.long())
			out := r.do(migration.Options{})
			continued += r.runs
			if aborts {
				r.wantOriginal(out, "aborted by bob (smells)")
				return
			}
			r.wantMigrated(out)
		})
	}
	if continued == 0 {
		t.Error("it never continued as new")
	}
}

func TestContinuesAsNewWhileItWaits(t *testing.T) {
	order := contract.Order{By: "bob"}
	for name, tc := range map[string]struct {
		opts    migration.Options
		arrange func(r *run)
		state   contract.State
		// back says that it ends original.
		back string
	}{
		"at the gate, approved": {opts: migration.Options{Canary: true}, state: contract.StateApproval, arrange: func(r *run) {
			r.after(2*time.Hour, contract.UpdateApprove, "approve", r.vote("bob"))
		}},
		"at the gate, rejected": {opts: migration.Options{Canary: true}, state: contract.StateApproval, back: "rejected by bob", arrange: func(r *run) {
			r.after(2*time.Hour, contract.UpdateReject, "reject", func() any { return contract.Decision{By: "bob"} })
		}},
		"paused, resumed": {state: contract.StatePaused, arrange: func(r *run) {
			r.on("Do swap w1", r.update(contract.UpdatePause, "pause", order))
			r.after(2*time.Hour, contract.UpdateResume, "resume", by("bob"))
		}},
		"paused, aborted": {state: contract.StatePaused, back: "aborted by bob", arrange: func(r *run) {
			r.on("Do swap w1", r.update(contract.UpdatePause, "pause", order))
			r.after(2*time.Hour, contract.UpdateAbort, "abort", by("bob"))
		}},
		"paused after the last node": {state: contract.StatePaused, arrange: func(r *run) {
			r.on("Do swap cp", r.update(contract.UpdatePause, "pause", order))
			r.after(2*time.Hour, contract.UpdateResume, "resume", by("bob"))
		}},
		"stopped, resumed": {state: contract.StateStopped, arrange: func(r *run) {
			r.on("Do swap w1", fail(errs.Failed("it broke")))
			r.after(2*time.Hour, contract.UpdateResume, "resume", by("bob"))
		}},
		"stopped, aborted": {state: contract.StateStopped, back: "aborted by bob", arrange: func(r *run) {
			r.on("Do swap cp", fail(errs.Failed("it broke")))
			r.after(2*time.Hour, contract.UpdateAbort, "abort", by("bob"))
		}},
		"stopped while finishing, aborted": {state: contract.StateStopped, back: "aborted by bob", arrange: func(r *run) {
			r.on("Do adopt", fail(errs.Failed("it broke")))
			r.after(2*time.Hour, contract.UpdateAbort, "abort", by("bob"))
		}},
		"stopped in clean, resumed": {state: contract.StateStopped, arrange: func(r *run) {
			r.on("Do clean", fail(errs.Failed("it broke")))
			r.after(2*time.Hour, contract.UpdateResume, "resume", by("bob"))
		}},
		// A cancellation after Clean has begun ends nothing, whatever history it is in.
		"stopped in clean, cancelled, resumed": {state: contract.StateStopped, arrange: func(r *run) {
			r.on("Do clean", fail(errs.Failed("it broke")))
			r.later(30*time.Minute, func() { r.env.CancelWorkflow() })
			r.after(2*time.Hour, contract.UpdateResume, "resume", by("bob"))
		}},
		"before a window": {state: contract.StateMigrating, opts: migration.Options{Windows: []migration.Window{{From: "22:00", Until: "23:00"}}}, arrange: func(r *run) {
			r.env.SetStartTime(time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := two(t)
			tc.arrange(r)
			r.later(time.Hour, func() {
				r.env.SetContinueAsNewSuggested(true)
				// A wait looks again when something happens; a query is nothing.
				r.env.SignalWorkflow(contract.SignalStep, contract.NodeStep{})
			})
			r.at(90*time.Minute, func(s contract.MigrateStatus) {
				if r.runs != 1 || s.State != tc.state {
					t.Errorf("in run %d it is %s, want %s", r.runs, s.State, tc.state)
				}
			})
			out := r.do(tc.opts)
			if tc.back != "" {
				r.wantOriginal(out, tc.back)
				return
			}
			r.wantMigrated(out)
		})
	}
}

// What is decided in the first moment of a new run counts.
func TestDecidedAsItContinuesAsNew(t *testing.T) {
	order := contract.Order{By: "bob"}
	for name, tc := range map[string]struct {
		opts   migration.Options
		fails  string
		update string
		back   string
	}{
		"approved":              {opts: migration.Options{Canary: true}, update: contract.UpdateApprove},
		"aborted at the gate":   {opts: migration.Options{Canary: true}, update: contract.UpdateAbort, back: "aborted by bob"},
		"resumed":               {fails: "Do swap w1", update: contract.UpdateResume},
		"resumed while it ends": {fails: "Do clean", update: contract.UpdateResume},
		"aborted":               {fails: "Do swap w1", update: contract.UpdateAbort, back: "aborted by bob"},
	} {
		t.Run(name, func(t *testing.T) {
			r := two(t)
			if tc.fails != "" {
				r.on(tc.fails, fail(errs.Failed("it broke")))
			}
			var gate *contract.MigrateGate
			r.at(time.Hour, func(s contract.MigrateStatus) {
				gate = s.Gate
				r.env.SetContinueAsNewSuggested(true)
				r.env.SignalWorkflow(contract.SignalStep, contract.NodeStep{})
			})
			r.anew = func() {
				if tc.update == contract.UpdateApprove {
					r.send(tc.update, "update", contract.Decision{By: "bob", Evidence: gate.Evidence})
					return
				}
				r.send(tc.update, "update", order)
			}
			r.on("Do turn", r.seen(func(s contract.MigrateStatus) {
				if s.Gate != nil {
					t.Errorf("the gate is still there: %+v", s.Gate)
				}
			}))
			out := r.do(tc.opts)
			r.wantUpdate("update", "")
			if r.runs != 1 {
				t.Errorf("%d times as new", r.runs)
			}
			if tc.back != "" {
				r.wantOriginal(out, tc.back)
				return
			}
			r.wantMigrated(out)
		})
	}
}

// With several nodes at a time there is always one that runs: those are waited for.
func TestContinuesAsNewBetweenParallelNodes(t *testing.T) {
	nodes := []string{"cp*", "w1", "w2", "w3", "w4", "w5", "w6", "w7", "w8"}
	for _, end := range []string{"", "Do turn"} {
		t.Run(end, func(t *testing.T) {
			r := newRun(t, nodes...)
			// Those beside it must not be done before it is even looked at, as on a busy machine.
			first := func(what string, beside ...string) {
				long, told := r.long(), make(chan struct{})
				tell := sync.OnceFunc(func() { close(told) })
				r.on(what, func(ctx context.Context) error { defer tell(); return long(ctx) })
				for _, other := range beside {
					r.on(other, func(context.Context) error { <-told; return nil })
				}
			}
			first("Do check w4", "Do check w5", "Do check w6")
			r.on("Do swap w7", func(context.Context) error {
				if r.runs != 1 {
					t.Error("it did not continue as new while nodes were left")
				}
				return nil
			})
			if end == "" {
				r.wantMigrated(r.do(migration.Options{Parallel: 3}))
				return
			}
			r.on(end, r.abort())
			// And on the way back, once more.
			first("Undo swap w5", "Undo swap w4", "Undo swap w3")
			r.wantOriginal(r.do(migration.Options{Parallel: 3}), "aborted")
			if r.runs != 2 {
				t.Errorf("%d times as new", r.runs)
			}
		})
	}
}

// What is of no use any more does not go from history to history.
func TestWhatIsCarried(t *testing.T) {
	r := two(t)
	r.on("Do check w1", r.long())
	in := r.input(migration.Options{Mode: migration.Drain})
	planned := r.c.Plan(in.Target, in.Options)
	if len(planned.Disturbed) == 0 {
		t.Fatal("a drain disturbs nothing")
	}
	in.Plan = planned.Hash
	r.env.ExecuteWorkflow(contract.MigrateWorkflow, in)
	next, again := harness.Carried[contract.MigrateInput](t, r.env.GetWorkflowError())
	switch {
	case !again:
		t.Fatal("it did not continue as new")
	case next.Manifest != nil || next.Probes != nil || len(next.Carried.Plan.Disturbed) > 0:
		t.Errorf("carried: %+v", next)
	case next.Carried.Baseline == nil || len(next.Carried.Requirements) == 0 || next.Carried.Migration == "" || !next.Carried.Claimed:
		t.Errorf("not carried: %+v", next.Carried)
	}
}

func TestStopCoversAPause(t *testing.T) {
	r := two(t)
	r.on("Do leave w1", r.update(contract.UpdatePause, "pause", contract.Order{By: "bob"}))
	r.on("Do swap w1", fail(errs.Failed("it broke")))
	r.at(time.Hour, func(s contract.MigrateStatus) {
		if s.State != contract.StateStopped || s.Paused != nil {
			t.Errorf("state %s, paused %+v", s.State, s.Paused)
		}
	})
	r.after(2*time.Hour, contract.UpdateResume, "resume", by("bob"))
	r.wantMigrated(r.do(migration.Options{}))
	r.wantUpdate("pause", "")
	r.wantUpdate("resume", "")
}

func TestTheGateKeepsToItsEvidence(t *testing.T) {
	t.Run("of another node, and twice", func(t *testing.T) {
		r := newRun(t, three...)
		var status contract.MigrateStatus
		r.at(time.Hour, func(s contract.MigrateStatus) { status = s })
		// What the node has measured is part of it, and is not it.
		r.after(2*time.Hour, contract.UpdateApprove, "node's", func() any {
			return contract.Decision{By: "bob", Evidence: status.Nodes[0].Evidence}
		})
		r.after(3*time.Hour, contract.UpdateApprove, "more", func() any {
			return contract.Decision{By: "bob", Evidence: status.Gate.Evidence + "0"}
		})
		r.after(4*time.Hour, contract.UpdateApprove, "approve", func() any {
			return contract.Decision{By: "bob", Evidence: strings.ToUpper(status.Gate.Evidence)}
		})
		r.on("Do check w2", r.update(contract.UpdateApprove, "again", contract.Decision{By: "eve", Evidence: strings.Repeat("a", 12)}))
		r.wantMigrated(r.do(migration.Options{Canary: true}))
		r.wantUpdate("node's", errs.TypeConflict)
		r.wantUpdate("more", errs.TypeInvalid)
		r.wantUpdate("approve", "")
		r.wantUpdate("again", errs.TypeConflict)
	})
	t.Run("approved while paused", func(t *testing.T) {
		r := newRun(t, three...)
		r.after(time.Hour, contract.UpdatePause, "pause", by("bob"))
		r.after(2*time.Hour, contract.UpdateApprove, "approve", r.vote("bob"))
		r.at(3*time.Hour, func(s contract.MigrateStatus) {
			if s.State != contract.StatePaused || r.count("Do check") != 1 {
				t.Errorf("state %s, %d nodes began", s.State, r.count("Do check"))
			}
		})
		r.after(4*time.Hour, contract.UpdateResume, "resume", by("bob"))
		r.wantMigrated(r.do(migration.Options{Canary: true}))
	})
	// The only node is the canary, and another joins while somebody thinks.
	t.Run("a node joins", func(t *testing.T) {
		r := newRun(t, "cp*")
		r.later(time.Hour, func() { r.c.Add("w9") })
		r.after(2*time.Hour, contract.UpdateApprove, "approve", r.vote("bob"))
		r.wantMigrated(r.do(migration.Options{Canary: true}))
		r.wantCalls("Do swap w9", "Do turn")
		if r.count("Do turn") != 1 {
			t.Error("turn was tried before the new node had moved")
		}
	})
	t.Run("the canary is gone", func(t *testing.T) {
		r := newRun(t, three...)
		r.later(time.Hour, func() { r.c.Drop("w1") })
		r.after(2*time.Hour, contract.UpdateApprove, "approve", r.vote("bob"))
		out := r.do(migration.Options{Canary: true})
		r.wantMigrated(out)
		if len(out.Nodes) != 2 {
			t.Errorf("nodes %+v", out.Nodes)
		}
	})
}

// A node that was lost half-way, and whose way back was lost, is not forgotten.
func TestALostNodeIsNotForgotten(t *testing.T) {
	half := func(r *run, lost int) {
		times := 0
		r.env.OnWorkflow(contract.MigrateNodeWorkflow, mock.Anything, mock.Anything).Return(
			func(ctx workflow.Context, in contract.MigrateNodeInput) (contract.MigrateNodeResult, error) {
				times++
				switch {
				case times > lost:
					return migrate.RunNode(ctx, in)
				case in.Back:
					return contract.MigrateNodeResult{}, errs.Failed("terminated again")
				}
				r.c.Lose(in.Node)
				for _, step := range []migration.Step{migration.Check, migration.Evict, migration.Leave} {
					s := activities.StepInput{Cluster: in.Cluster, Migration: in.Migration, Node: in.Node, Step: step, Target: in.Target}
					if _, err := call.Do(ctx, s, 0); err != nil {
						return contract.MigrateNodeResult{}, err
					}
				}
				return contract.MigrateNodeResult{}, errs.Failed("terminated")
			})
	}
	t.Run("resumed, and then aborted", func(t *testing.T) {
		r := two(t)
		half(r, 2)
		r.at(time.Hour, func(s contract.MigrateStatus) {
			want := "node w1 is between Canal and Calico: it was lost: terminated; its way back was lost, too: terminated again"
			if s.State != contract.StateStopped || s.Reason != want || s.Nodes[0].State != contract.NodeRestoring {
				t.Errorf("state %s: %s", s.State, s.Reason)
			}
		})
		// The listing comes before the node begins again.
		resumed := false
		r.times(-1, "Nodes", func(ctx context.Context) error {
			r.mu.Lock()
			now := resumed
			r.mu.Unlock()
			if !now {
				return nil
			}
			return r.abort()(ctx)
		})
		r.later(2*time.Hour, func() {
			r.mu.Lock()
			resumed = true
			r.mu.Unlock()
			r.send(contract.UpdateResume, "resume", contract.Order{By: "bob"})
		})
		r.wantOriginal(r.do(migration.Options{MaxFailures: 1}), "aborted by bob")
		r.wantCalls("Undo leave w1", "Undo evict w1")
	})
	t.Run("resumed, and goes first", func(t *testing.T) {
		r := newRun(t, "cp*", "w1", "w2", "w3")
		r.c.Drain("w1")
		half(r, 2)
		r.after(2*time.Hour, contract.UpdateResume, "resume", by("bob"))
		r.wantMigrated(r.do(migration.Options{MaxFailures: 1, First: []string{"w1"}}))
		r.wantCalls("Do leave w1", "Do check w1", "Do swap w1", "Do check w2")
	})
	t.Run("taken back, and tried again at the end", func(t *testing.T) {
		r := two(t)
		half(r, 1)
		out := r.do(migration.Options{MaxFailures: 1})
		r.wantMigrated(out)
		r.wantCalls("Do leave w1", "Undo leave w1", "Undo evict w1", "Do check cp", "Do check w1")
		if out.Nodes[0].Lost || out.Nodes[0].Failures != 1 {
			t.Errorf("%+v", out.Nodes[0])
		}
	})
}

func TestNodesThatGoOnTheWayBack(t *testing.T) {
	for _, call := range []string{"Undo swap w1", "Undo leave w1", "Undo evict w1"} {
		t.Run(call, func(t *testing.T) {
			r := two(t)
			r.on("Do turn", r.abort())
			r.on(call, func(context.Context) error { r.c.Drop("w1"); return errs.Unavailable("no answer") })
			r.wantOriginal(r.do(migration.Options{}), "aborted")
		})
	}
}

func TestAFailureWithinTheLimitStopsInTheEnd(t *testing.T) {
	r := newRun(t, "cp*", "w1", "w2", "w3", "w4")
	r.times(2, "Do swap w1", fail(errs.Failed("it broke")))
	r.on("Do swap w3", fail(errs.Failed("it broke, too")))
	r.at(time.Hour, func(s contract.MigrateStatus) {
		if s.State != contract.StateStopped || s.Reason != "nodes failed 3 times, and at most 2 may: w1: swap: it broke; w3: swap: it broke, too" {
			t.Errorf("state %s: %s", s.State, s.Reason)
		}
	})
	r.after(2*time.Hour, contract.UpdateResume, "resume", by("bob"))
	out := r.do(migration.Options{MaxFailures: 2})
	r.wantMigrated(out)
	for _, n := range out.Nodes {
		if want := map[string]int{"w1": 2, "w3": 1}[n.Name]; n.Failures != want {
			t.Errorf("%s failed %d times, want %d", n.Name, n.Failures, want)
		}
	}
}

func TestARefusalIsToldBeforeTheClusterIsGivenBack(t *testing.T) {
	r := two(t)
	r.on("Requirements", func(ctx context.Context) error {
		_ = r.update(contract.UpdatePlanned, "planned", nil)(ctx)
		return errs.Failed("broken")
	})
	r.times(5, "Unclaim", fail(errs.Unavailable("no answer")))
	r.on("Unclaim", func(ctx context.Context) error {
		r.wantUpdate("planned", errs.TypeFailed)
		return r.abort()(ctx)
	})
	r.refused(r.input(migration.Options{}), errs.TypeFailed, "broken")
	r.wantUpdate("abort", errs.TypeConflict)
}
