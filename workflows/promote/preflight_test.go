package promote_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/internal/world"
)

func TestGateAsksForPreflight(t *testing.T) {
	// The world asks about a preflight with no revision.
	bad := func(cluster, revision string) bool { return revision == "" && cluster == "prod-1-1" }
	for name, c := range map[string]struct {
		asked  bool
		bad    func(cluster, revision string) bool
		hook   func(name, subject string) error
		reason string
	}{
		"nothing in the way":   {asked: true},
		"not asked for":        {bad: bad},
		"something in the way": {asked: true, bad: bad, reason: "preflight of 1 cluster: prod-1-1: kernel-version is fail (6.1)"},
		"not known": {asked: true, hook: func(name, subject string) error {
			if name == "Preflight" && subject == "prod-1-0" {
				return errs.Denied("no rights")
			}
			return nil
		}, reason: "preflight of 1 cluster: prod-1-0: not checked: no rights"},
		"no inventory": {asked: true, hook: func(name, _ string) error {
			if name == "Clusters" {
				return errs.Denied("token is not accepted")
			}
			return nil
		}, reason: "token is not accepted"},
	} {
		t.Run(name, func(t *testing.T) {
			w := world.Make(world.Env{Name: "prod", Waves: []int{1, 2}, Preflight: c.asked})
			w.Bad = c.bad
			w.Hook = func(_ context.Context, name, subject string) error {
				if c.hook == nil {
					return nil
				}
				return c.hook(name, subject)
			}
			env := environment(w)
			env.ExecuteWorkflow(contract.PromoteWorkflow, input(w))
			out := result(t, env)
			checked := slices.ContainsFunc(w.Calls(), func(call string) bool { return strings.HasPrefix(call, "Preflight") })
			if checked != c.asked && c.hook == nil {
				t.Errorf("checked: %t", checked)
			}
			if c.reason == "" {
				if out.State != contract.StateVerified {
					t.Errorf("%s: %s", out.State, out.Reason)
				}
				return
			}
			if out.State != contract.StateFailed || out.Reason != c.reason || w.Writes() != 0 || out.Touched {
				t.Errorf("%s, %d writes: %s", out.State, w.Writes(), out.Reason)
			}
		})
	}
}
