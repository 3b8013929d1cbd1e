package migrate_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.temporal.io/sdk/testsuite"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/probes/preflight"
	"portcullis.dev/portcullis/workflows"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/internal/harness"
	"portcullis.dev/portcullis/workflows/internal/world"
)

const name = "prod"

// run is one migration of a cluster of the model, with the real child workflows.
type run struct {
	t   *testing.T
	w   *world.World
	c   *world.Canal
	env *testsuite.TestWorkflowEnvironment

	mu      sync.Mutex
	hooks   []*hook
	updates harness.Updates
	// runs counts the continue-as-new.
	runs  int
	timed []*timed
	// anew, where it is set, happens as soon as a new run begins.
	anew func()
}

// timed is something that happens at a time of the workflow's clock, also when
// the workflow goes on in a new run before.
type timed struct {
	at   time.Time
	f    func()
	done bool
}

type hook struct {
	call  string
	times int
	f     func(ctx context.Context) error
}

func newRun(t *testing.T, nodes ...string) *run {
	t.Helper()
	w := world.Make()
	return attach(t, w, w.MakeCanal(name, nodes...))
}

// attach makes a run on a world that is there, as after a continue-as-new.
func attach(t *testing.T, w *world.World, c *world.Canal) *run {
	t.Helper()
	r := &run{t: t, w: w, c: c}
	r.renew()
	w.Hook = r.hook
	return r
}

// renew makes the environment of another run, at the time at which the last ended.
func (r *run) renew() {
	old := r.env
	r.env = harness.Environment()
	if old != nil {
		r.env.SetStartTime(old.Now())
	}
	r.env.SetStartWorkflowOptions(startOptions())
	workflows.Register(r.env)
	r.w.Register(r.env)
	r.c.NewRun()
	if old != nil && r.anew != nil {
		r.env.RegisterDelayedCallback(r.anew, 0)
	}
	for _, what := range r.timed {
		if !what.done {
			r.schedule(what)
		}
	}
}

func (r *run) schedule(what *timed) {
	r.env.RegisterDelayedCallback(func() { what.done = true; what.f() }, max(0, what.at.Sub(r.env.Now())))
}

// later does something at a time of the workflow's clock.
func (r *run) later(d time.Duration, f func()) {
	what := &timed{at: r.env.Now().Add(d), f: f}
	r.timed = append(r.timed, what)
	r.schedule(what)
}

// long makes the history one that is to be ended soon.
func (r *run) long() func(context.Context) error {
	return func(context.Context) error {
		set := make(chan struct{})
		r.env.RegisterDelayedCallback(func() { defer close(set); r.env.SetContinueAsNewSuggested(true) }, 0)
		<-set
		return nil
	}
}

// nth does something in the nth activity of the run, from 0.
func (r *run) nth(n int, f func(context.Context) error) {
	seen := 0
	r.times(-1, "", func(ctx context.Context) error {
		r.mu.Lock()
		now := seen == n
		seen++
		r.mu.Unlock()
		if !now {
			return nil
		}
		return f(ctx)
	})
}

// on runs f after calls that begin with the given text ("Do swap w1"), once.
func (r *run) on(call string, f func(ctx context.Context) error) { r.times(1, call, f) }

// times is on, n times; below zero, always.
func (r *run) times(n int, call string, f func(ctx context.Context) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hooks = append(r.hooks, &hook{call: call, times: n, f: f})
}

func (r *run) hook(ctx context.Context, name, subject string) error {
	r.mu.Lock()
	var found *hook
	for _, h := range r.hooks {
		if h.times != 0 && strings.HasPrefix(name+" "+subject, h.call) {
			h.times--
			found = h
			break
		}
	}
	r.mu.Unlock()
	if found == nil {
		return nil
	}
	return found.f(ctx)
}

func fail(err error) func(context.Context) error {
	return func(context.Context) error { return err }
}

// disturb changes the wire, or mends it.
func (r *run) disturb(noise string) func(context.Context) error {
	return func(context.Context) error {
		r.w.Disturb(name, noise)
		return nil
	}
}

// update sends an update from the environment's own loop, and from an activity
// gives the workflow time to act on it before the activity ends.
func (r *run) update(update, id string, arg any) func(context.Context) error {
	return func(ctx context.Context) error {
		r.env.RegisterDelayedCallback(func() { r.send(update, id, arg) }, 0)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(30 * time.Millisecond):
		}
		return ctx.Err()
	}
}

// seen looks at the status in the middle of an activity.
func (r *run) seen(f func(s contract.MigrateStatus)) func(context.Context) error {
	return func(context.Context) error {
		looked := make(chan struct{})
		r.env.RegisterDelayedCallback(func() {
			defer close(looked)
			f(r.status())
		}, 0)
		<-looked
		return nil
	}
}

// abort is an abort in the middle of an activity.
func (r *run) abort() func(context.Context) error {
	return r.update(contract.UpdateAbort, "abort", contract.Order{By: "bob", Why: "smells"})
}

func (r *run) send(update, id string, arg any) { r.updates.Send(r.env, update, id, arg) }

// after sends an update at a time of the workflow's clock.
func (r *run) after(d time.Duration, update, id string, arg func() any) {
	r.later(d, func() { r.send(update, id, arg()) })
}

// at looks at the status at a time of the workflow's clock.
func (r *run) at(d time.Duration, f func(s contract.MigrateStatus)) {
	r.later(d, func() { f(r.status()) })
}

func by(who string) func() any { return func() any { return contract.Order{By: who} } }

func (r *run) status() contract.MigrateStatus {
	return harness.Status[contract.MigrateStatus](r.t, r.env)
}

// vote approves what the gate shows.
func (r *run) vote(who string) func() any {
	return func() any {
		s := r.status()
		if s.Gate == nil {
			r.t.Errorf("no gate is open: %s", s.State)
			return contract.Decision{By: who}
		}
		return contract.Decision{By: who, Evidence: s.Gate.Evidence[:contract.MinEvidence]}
	}
}

func manifest() []byte {
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	_, _ = z.Write([]byte("kind: List\n"))
	_ = z.Close()
	return buf.Bytes()
}

func (r *run) input(opts migration.Options) contract.MigrateInput {
	return contract.MigrateInput{
		Cluster: name, Options: opts, StartedBy: "ann", Manifest: manifest(), Acknowledge: []string{migration.AckOneNode},
		Plan: r.c.Plan(preflight.Target{}, opts).Hash,
	}
}

// do executes a migration and returns its result.
func (r *run) do(opts migration.Options) contract.MigrateResult {
	r.t.Helper()
	return r.run(r.input(opts))
}

func (r *run) run(in contract.MigrateInput) contract.MigrateResult {
	r.t.Helper()
	if err := r.execute(in); err != nil {
		r.t.Fatalf("the workflow failed: %v\n%s", err, strings.Join(r.w.Calls(), "\n"))
	}
	var out contract.MigrateResult
	if err := r.env.GetWorkflowResult(&out); err != nil {
		r.t.Fatal(err)
	}
	return out
}

// execute runs a migration through every continue-as-new to its end.
func (r *run) execute(in contract.MigrateInput) error {
	r.t.Helper()
	for {
		r.env.ExecuteWorkflow(contract.MigrateWorkflow, in)
		if !r.env.IsWorkflowCompleted() {
			r.t.Fatal("the workflow did not end")
		}
		next, again := harness.Carried[contract.MigrateInput](r.t, r.env.GetWorkflowError())
		if !again {
			return r.env.GetWorkflowError()
		}
		if r.runs++; r.runs > 20 {
			r.t.Fatal("it continues as new without end")
		}
		in = next
		r.renew()
	}
}

// refused executes a migration that must fail before anything is changed.
func (r *run) refused(in contract.MigrateInput, kind, says string) {
	r.t.Helper()
	r.env.ExecuteWorkflow(contract.MigrateWorkflow, in)
	err := r.env.GetWorkflowError()
	if got := errs.TypeOf(err); got != kind || !strings.Contains(errs.Message(err), says) {
		r.t.Errorf("type %q: %v; want %s with %q", got, err, kind, says)
	}
	if strings.Contains(errs.Message(err), "\n") {
		r.t.Errorf("not one line: %q", errs.Message(err))
	}
	if n := r.w.Writes(); n != 0 {
		r.t.Errorf("%d writes before the refusal: %v", n, r.w.Calls())
	}
	if left := r.c.Original(); left != "" {
		r.t.Errorf("after the refusal %s", left)
	}
}

// wantMigrated checks that all of the cluster is on Calico, and nothing was harmed.
func (r *run) wantMigrated(out contract.MigrateResult) {
	r.t.Helper()
	r.want(out, contract.StateMigrated, r.c.Migrated())
	for _, n := range out.Nodes {
		if n.State != contract.NodeCalico {
			r.t.Errorf("node %s is %s", n.Name, n.State)
		}
	}
}

// wantOriginal checks that nothing of the migration is left.
func (r *run) wantOriginal(out contract.MigrateResult, says string) {
	r.t.Helper()
	r.want(out, contract.StateOriginal, r.c.Original())
	if !strings.Contains(out.Reason, says) {
		r.t.Errorf("the reason is %q, without %q", out.Reason, says)
	}
	for _, n := range out.Nodes {
		if n.State != contract.NodeCanal && n.State != contract.NodePending {
			r.t.Errorf("node %s is %s", n.Name, n.State)
		}
	}
}

func (r *run) want(out contract.MigrateResult, state contract.State, left string) {
	r.t.Helper()
	if out.State != state || left != "" {
		r.t.Errorf("state %s (%s), want %s; %s\n%s\n%s", out.State, out.Reason, state, left, logOf(out), strings.Join(r.w.Calls(), "\n"))
	}
	for _, v := range r.c.Violations() {
		r.t.Errorf("harm: %s", v)
	}
	if r.t.Failed() {
		r.t.Log(strings.Join(r.w.Calls(), "\n"))
	}
}

func (r *run) wantCalls(want ...string) {
	r.t.Helper()
	harness.WantCalls(r.t, r.w.Calls(), want...)
}

func (r *run) count(prefix string) int {
	n := 0
	for _, c := range r.w.Calls() {
		if strings.HasPrefix(c, prefix) {
			n++
		}
	}
	return n
}

func (r *run) wantUpdate(id, kind string) {
	r.t.Helper()
	r.updates.Want(r.t, id, kind)
}

func logOf(out contract.MigrateResult) string {
	var b strings.Builder
	for _, l := range out.Log {
		fmt.Fprintf(&b, "%s %s %s\n", l.At.Format("15:04:05"), l.Environment, l.Message)
	}
	return b.String()
}
