// Package harness has what the tests of workflows that people decide about have in common.
package harness

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/workflows/contract"
)

// Updates are those that were sent, by their IDs.
type Updates struct {
	mu     sync.Mutex
	errs   map[string]error
	values map[string]any
}

// Send sends an update; nil is no argument.
func (u *Updates) Send(env *testsuite.TestWorkflowEnvironment, name, id string, arg any) {
	args := []any{arg}
	if arg == nil {
		args = nil
	}
	u.set(id, nil, fmt.Errorf("update %s had no answer", id))
	env.UpdateWorkflow(name, id, &testsuite.TestUpdateCallback{
		OnAccept:   func() {},
		OnReject:   func(err error) { u.set(id, nil, err) },
		OnComplete: func(v any, err error) { u.set(id, v, err) },
	}, args...)
}

func (u *Updates) set(id string, value any, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.errs == nil {
		u.errs, u.values = map[string]error{}, map[string]any{}
	}
	u.errs[id], u.values[id] = err, value
}

// Value is what an update returned.
func (u *Updates) Value(id string) any {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.values[id]
}

// Err is how an update ended.
func (u *Updates) Err(id string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.errs[id]
}

// Want checks how an update ended: with an error of this type, or well where it is empty.
func (u *Updates) Want(t *testing.T, id, kind string) {
	t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	err, sent := u.errs[id]
	switch {
	case !sent:
		t.Errorf("update %s was never sent", id)
	case kind == "" && err != nil:
		t.Errorf("update %s: %v", id, err)
	case kind != "" && errs.TypeOf(err) != kind:
		t.Errorf("update %s: %v (type %q), want type %s", id, err, errs.TypeOf(err), kind)
	}
}

// Status is what the workflow says of itself.
func Status[S any](t *testing.T, env *testsuite.TestWorkflowEnvironment) (s S) {
	t.Helper()
	v, err := env.QueryWorkflow(contract.QueryStatus)
	if err == nil {
		err = v.Get(&s)
	}
	if err != nil {
		t.Errorf("query: %v", err)
	}
	return s
}

// Carried reads the input of a continue-as-new; false where err is none.
func Carried[In any](t *testing.T, err error) (in In, again bool) {
	t.Helper()
	var next *workflow.ContinueAsNewError
	if !errors.As(err, &next) {
		return in, false
	}
	if err := converter.GetDefaultDataConverter().FromPayloads(next.Input, &in); err != nil {
		t.Fatal(err)
	}
	return in, true
}

// WantCalls checks that calls that begin like these were made, in this order.
func WantCalls(t *testing.T, calls []string, want ...string) {
	t.Helper()
	i := 0
	for _, c := range calls {
		if i < len(want) && strings.HasPrefix(c, want[i]) {
			i++
		}
	}
	if i < len(want) {
		t.Errorf("no %q (in this order) among\n%s", want[i], strings.Join(calls, "\n"))
	}
}

// Quiet logs nothing.
type Quiet struct{}

func (Quiet) Debug(string, ...any) {}
func (Quiet) Info(string, ...any)  {}
func (Quiet) Warn(string, ...any)  {}
func (Quiet) Error(string, ...any) {}
