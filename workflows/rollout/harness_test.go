package rollout_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/testsuite"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/workflows"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/internal/harness"
	"portcullis.dev/portcullis/workflows/internal/world"
)

// run is one rollout against a world, with the real child workflows.
type run struct {
	t   *testing.T
	w   *world.World
	env *testsuite.TestWorkflowEnvironment

	mu      sync.Mutex
	hooks   []*hook
	updates harness.Updates
}

type hook struct {
	name, subject string
	times         int
	f             func(ctx context.Context) error
}

func newRun(t *testing.T, w *world.World) *run {
	t.Helper()
	return newRunWith(t, w, harness.Quiet{})
}

func newRunWith(t *testing.T, w *world.World, logger log.Logger) *run {
	t.Helper()
	r := &run{t: t, w: w, env: harness.EnvironmentWith(logger)}
	workflows.Register(r.env)
	w.Register(r.env)
	w.Hook = r.hook
	w.Later = func(d time.Duration, f func()) { r.env.RegisterDelayedCallback(f, d) }
	w.Complete = r.complete
	return r
}

// complete ends a pending activity, also of a child: the environment wakes only
// its own workflow, so that the child is woken by a signal that it ignores. One
// that has ended meanwhile has nobody to tell.
func (r *run) complete(workflowID string, token []byte, result any) {
	if err := r.env.CompleteActivity(token, result, nil); err != nil {
		r.t.Errorf("completing: %v", err)
	}
	_ = r.env.SignalWorkflowByID(workflowID, "wake", nil)
}

// on runs f after the named activity had its effect on a subject that contains
// the given text, once.
func (r *run) on(name, subject string, f func(ctx context.Context) error) {
	r.hooks = append(r.hooks, &hook{name: name, subject: subject, times: 1, f: f})
}

// always is on, every time.
func (r *run) always(name, subject string, f func(ctx context.Context) error) {
	r.hooks = append(r.hooks, &hook{name: name, subject: subject, times: -1, f: f})
}

func (r *run) hook(ctx context.Context, name, subject string) error {
	r.mu.Lock()
	var found *hook
	for _, h := range r.hooks {
		if h.times != 0 && h.name == name && strings.Contains(subject, h.subject) {
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

// fail is a hook that fails.
func fail(err error) func(context.Context) error {
	return func(context.Context) error { return err }
}

// update sends an update from the environment's own loop, and from an activity
// gives the workflow time to act on it before the activity ends.
func (r *run) update(name, id string, arg any) func(context.Context) error {
	return func(context.Context) error {
		r.env.RegisterDelayedCallback(func() { r.send(name, id, arg) }, 0)
		time.Sleep(30 * time.Millisecond)
		return nil
	}
}

func (r *run) send(name, id string, arg any) { r.updates.Send(r.env, name, id, arg) }

// after sends an update at a time of the workflow's clock.
func (r *run) after(d time.Duration, name, id string, arg func() any) {
	r.env.RegisterDelayedCallback(func() { r.send(name, id, arg()) }, d)
}

func (r *run) status() contract.RolloutStatus {
	return harness.Status[contract.RolloutStatus](r.t, r.env)
}

// vote approves what the gate shows now.
func (r *run) vote(by string) func() any {
	return func() any {
		s := r.status()
		if s.Gate == nil {
			r.t.Errorf("no gate is open: state %s", s.State)
			return contract.Decision{By: by}
		}
		return contract.Decision{By: by, Evidence: s.Gate.Evidence.Hash[:contract.MinEvidence]}
	}
}

func always(v any) func() any { return func() any { return v } }

func (r *run) input() contract.RolloutInput {
	return contract.RolloutInput{Pipeline: r.w.Pipeline, StartedBy: "ann"}
}

// do executes the rollout and returns its result.
func (r *run) do(in contract.RolloutInput) contract.RolloutResult {
	r.t.Helper()
	r.env.ExecuteWorkflow(contract.RolloutWorkflow, in)
	if !r.env.IsWorkflowCompleted() {
		r.t.Fatal("the workflow did not end")
	}
	if err := r.env.GetWorkflowError(); err != nil {
		r.t.Fatalf("the workflow failed: %v", err)
	}
	var out contract.RolloutResult
	if err := r.env.GetWorkflowResult(&out); err != nil {
		r.t.Fatal(err)
	}
	return out
}

// refused executes the rollout and returns its error.
func (r *run) refused(in contract.RolloutInput, kind string) error {
	r.t.Helper()
	r.env.ExecuteWorkflow(contract.RolloutWorkflow, in)
	err := r.env.GetWorkflowError()
	if err == nil {
		r.t.Fatal("the workflow did not fail")
	}
	if got := errs.TypeOf(err); got != kind {
		r.t.Errorf("type %q, want %q: %v", got, kind, err)
	}
	if n := r.w.Writes(); n != 0 {
		r.t.Errorf("%d writes before the refusal: %v", n, r.w.Calls())
	}
	return err
}

func (r *run) wantState(out contract.RolloutResult, state contract.State, envs ...contract.State) {
	r.t.Helper()
	if out.State != state {
		r.t.Errorf("state %s (%s), want %s\n%s", out.State, out.Reason, state, logOf(out))
	}
	for i, want := range envs {
		if got := out.Environments[i].State; got != want {
			r.t.Errorf("environment %s is %s, want %s", out.Environments[i].Name, got, want)
		}
	}
}

// wantLive checks what is live in an environment.
func (r *run) wantLive(env, revision string) {
	r.t.Helper()
	for _, u := range r.w.Units() {
		if !strings.HasPrefix(u.GitRepo, "policies-"+env) {
			continue
		}
		if got := r.w.Live(u.GitRepo); got != revision {
			r.t.Errorf("%s has %.4s live, want %.4s", u.GitRepo, got, revision)
		}
		if got := r.w.Staged(u.GitRepo); got != "" {
			r.t.Errorf("%s still has %.4s staged", u.GitRepo, got)
		}
	}
}

func (r *run) wantCalls(want ...string) {
	r.t.Helper()
	harness.WantCalls(r.t, r.w.Calls(), want...)
}

func (r *run) wantNoCall(prefix string) {
	r.t.Helper()
	for _, c := range r.w.Calls() {
		if strings.HasPrefix(c, prefix) {
			r.t.Errorf("%q was called", c)
		}
	}
}

func (r *run) wantUpdate(id, kind string) {
	r.t.Helper()
	r.updates.Want(r.t, id, kind)
}

func logOf(out contract.RolloutResult) string {
	var b strings.Builder
	for _, l := range out.Log {
		fmt.Fprintf(&b, "%s %s %s\n", l.At.Format("15:04:05"), l.Environment, l.Message)
	}
	for _, e := range out.Environments {
		if e.Result != nil {
			for _, l := range e.Result.Log {
				fmt.Fprintf(&b, "  %s %s %s\n", l.At.Format("15:04:05"), l.Environment, l.Message)
			}
		}
	}
	return b.String()
}
