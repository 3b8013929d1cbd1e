package migrate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/rancher"
)

// marks are the marks of one cluster, and the rollouts that run.
type marks struct {
	migration string
	rollouts  map[string]bool
	pipelines []string
	// broken are the errors of set, clear, pipelines and running.
	broken map[string]error
}

func (m *marks) SetMigration(_ context.Context, cluster, id string) error {
	switch {
	case m.broken["set"] != nil:
		return m.broken["set"]
	case m.migration != "" && m.migration != id:
		return &rancher.Error{Kind: rancher.KindConflict, Message: fmt.Sprintf("cluster %s is being migrated by %s", cluster, m.migration)}
	}
	m.migration = id
	return nil
}

func (m *marks) ClearMigration(_ context.Context, _, id string) error {
	if m.broken["clear"] != nil {
		return m.broken["clear"]
	}
	if m.migration == id {
		m.migration = ""
	}
	return nil
}

func (m *marks) PipelinesOf(context.Context, string) ([]string, error) {
	return m.pipelines, m.broken["pipelines"]
}

func (m *marks) activities() *Activities {
	a := New(Config{}, nil, m)
	a.running = func(_ context.Context, id string) (bool, error) { return m.rollouts[id], m.broken["running"] }
	return a
}

var claimIn = ClaimInput{Cluster: rancher.Cluster{ID: "c-1", Name: "dev"}, Migration: "migrate/dev"}

func TestClaim(t *testing.T) {
	t.Parallel()
	denied := &rancher.Error{Kind: rancher.KindDenied, Message: "the token has expired"}
	for _, tc := range []struct {
		name  string
		with  marks
		kind  string
		says  string
		after string
	}{
		{"free", marks{}, "", "", "migrate/dev"},
		{"ours already", marks{migration: "migrate/dev"}, "", "", "migrate/dev"},
		{"another's", marks{migration: "migrate/x"}, errs.TypeConflict, "dev is being migrated by migrate/x", "migrate/x"},
		{"a rollout elsewhere", marks{rollouts: map[string]bool{"rollout/b": true}, pipelines: []string{"a"}}, "", "", "migrate/dev"},
		{"a rollout", marks{rollouts: map[string]bool{"rollout/b": true}, pipelines: []string{"a", "b"}}, errs.TypeConflict, "cluster dev: the rollout rollout/b is running", ""},
		{"no answer of Temporal", marks{pipelines: []string{"a"}, broken: map[string]error{"running": errors.New("no\nanswer")}}, errs.TypeUnavailable, "cluster dev: cannot see whether rollout/a runs: no answer", "migrate/dev"},
		{"denied", marks{broken: map[string]error{"set": denied}}, errs.TypeDenied, "expired", ""},
		{"pipelines denied", marks{broken: map[string]error{"pipelines": denied}}, errs.TypeDenied, "expired", "migrate/dev"},
		{"a rollout, and no way to give back", marks{rollouts: map[string]bool{"rollout/a": true}, pipelines: []string{"a"}, broken: map[string]error{"clear": denied}}, errs.TypeDenied, "expired", "migrate/dev"},
	} {
		err := tc.with.activities().Claim(t.Context(), claimIn)
		if errs.TypeOf(err) != tc.kind || err != nil && (!strings.Contains(errs.Message(err), tc.says) || strings.Contains(errs.Message(err), "\n")) {
			t.Errorf("%s: %v", tc.name, err)
		}
		if tc.with.migration != tc.after {
			t.Errorf("%s: the mark is %q", tc.name, tc.with.migration)
		}
	}
}

func TestUnclaim(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ before, after string }{{"", ""}, {"migrate/dev", ""}, {"migrate/x", "migrate/x"}} {
		m := &marks{migration: tc.before}
		for range 2 {
			if err := m.activities().Unclaim(t.Context(), claimIn); err != nil || m.migration != tc.after {
				t.Errorf("%q: %q %v", tc.before, m.migration, err)
			}
		}
	}
	// It is tried again, whatever the answer: a cluster must not stay marked.
	m := &marks{broken: map[string]error{"clear": &rancher.Error{Kind: rancher.KindDenied, Message: "the token has expired"}}}
	err := m.activities().Unclaim(t.Context(), claimIn)
	if errs.TypeOf(err) != errs.TypeDenied || !strings.Contains(err.Error(), "retryable: true") {
		t.Errorf("%v", err)
	}
}

// A rollout starts, and looks for the mark then; a migration marks, and looks for rollouts then.
// In whatever order that happens, at most one goes on.
func TestAMigrationAndARolloutExcludeEachOther(t *testing.T) {
	t.Parallel()
	// The migration's two parts stay in order, and so do the rollout's: three places for the
	// rollout's first part, and from there on for its second.
	for first := range 3 {
		for second := first; second < 3; second++ {
			m := &marks{rollouts: map[string]bool{}, pipelines: []string{"p"}}
			rollout := true
			events := func(now int) {
				if now == first {
					m.rollouts["rollout/p"] = true
				}
				if now == second && m.migration != "" {
					rollout = false
				}
			}
			a := m.activities()
			looked := false
			a.running = func(_ context.Context, id string) (bool, error) {
				events(1)
				looked = true
				return m.rollouts[id], nil
			}
			events(0)
			err := a.Claim(t.Context(), claimIn)
			events(2)
			if migration := err == nil; !looked || migration && rollout {
				t.Errorf("%d %d: both go on", first, second)
			}
		}
	}
}
