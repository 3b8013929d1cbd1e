package e2e

import (
	"strings"
	"testing"
	"time"

	"portcullis.dev/portcullis/deploy/lab/internal/drive"
)

var environments = []string{"dev", "staging", "prod"}

// TestGoodRevision goes through all environments, and kubectl finds it there.
func TestGoodRevision(t *testing.T) {
	file := sample(t)
	pass(t, file, drive.Pipeline, commit(t, "v1"))
	good := commit(t, "good")
	goodCommit = good
	s := pass(t, file, drive.Pipeline, good)
	for _, env := range environments {
		e := s.Environment(env)
		if e.State != "verified" || e.Result == nil || e.Result.Evidence == "" {
			t.Fatalf("%s: %+v", env, e)
		}
		for _, c := range e.Result.Clusters {
			if c.Pairs == 0 || c.Failing != 0 || c.Evidence == "" {
				t.Errorf("%s: cluster %s verified on %d pairs, %d failing, evidence %q", env, c.Cluster, c.Pairs, c.Failing, c.Evidence)
			}
		}
		if _, err := p.Kubectl(t.Context(), env, "get", "globalnetworkpolicies.crd.projectcalico.org", "default.deny-instance-metadata"); err != nil {
			t.Errorf("%s: the new policy is not there: %v", env, err)
		}
		repo := drive.Pipeline + "-" + env
		if got := gitRepo(t, repo, "{.spec.revision} {.spec.branch}"); strings.TrimSpace(got) != good {
			t.Errorf("GitRepo %s: revision and branch are %q, want %s and none", repo, got, good)
		}
		if got := gitRepo(t, repo, `{.metadata.annotations.portcullis\.dev/verified-revision}`); got != good {
			t.Errorf("GitRepo %s: verified revision %q, want %s", repo, got, good)
		}
	}
}

// TestBadInDev is stopped at the first gate; the others are never touched.
func TestBadInDev(t *testing.T) {
	file := sample(t)
	good := goodEverywhere(t)
	before := map[string]string{}
	for _, env := range environments {
		before[env] = source(t, env)
	}
	bad := commit(t, "bad-in-dev")
	start(t, file, bad)
	s := ended(t, drive.Pipeline)
	stopped(t, s, "dev", good)
	for _, env := range []string{"staging", "prod"} {
		if e := s.Environment(env); e.State != "pending" {
			t.Errorf("%s is %s, want pending: it was never to be entered", env, e.State)
		}
	}
	for _, env := range environments {
		if got := source(t, env); got != before[env] {
			t.Errorf("%s: checkout accepts %q, before the bad revision %q", env, got, before[env])
		}
		if got := gitRepo(t, drive.Pipeline+"-"+env, "{.spec.revision}"); got != good {
			t.Errorf("%s: GitRepo is at %.7s, want %.7s", env, got, good)
		}
	}
	held(t, file, good)
}

// held: after a rollback nothing starts until a person says so.
func held(t *testing.T, file, revision string) {
	t.Helper()
	if r := p.Call(t, 6, "rollout", "start", "-f", file, "--revision", revision, "--by", "e2e"); !strings.Contains(r.Stderr, "held") {
		t.Errorf("start on a held pipeline: %s", r.Stderr)
	}
	p.Call(t, 0, "rollout", "release", drive.Pipeline, "--by", "e2e")
	p.Call(t, 0, "rollout", "plan", "-f", file, "--revision", revision)
}

// TestBadOnlyInProd passes dev and staging and is stopped, and put back, in prod.
func TestBadOnlyInProd(t *testing.T) {
	file := sample(t)
	good := goodEverywhere(t)
	before := source(t, "prod")
	start(t, file, commit(t, "bad-only-in-prod"))
	s := finish(t, drive.Pipeline)
	for _, env := range []string{"dev", "staging"} {
		if e := s.Environment(env); e.State != "verified" {
			t.Errorf("%s is %s, want verified", env, e.State)
		}
	}
	stopped(t, s, "prod", good)
	if got := source(t, "prod"); got != before {
		t.Errorf("prod: checkout accepts %q, before the bad revision %q", got, before)
	}
}

// stopped: the environment was rolled back to the revision, live and proven.
func stopped(t *testing.T, s drive.Status, env, to string) {
	t.Helper()
	e := s.Environment(env)
	if s.State != "rolled-back" || e.State != "rolled-back" || e.Result == nil || e.Result.Rollback == nil {
		t.Fatalf("%s was to be rolled back: %s", env, s)
	}
	b := e.Result.Rollback
	if b.Kind != "last-verified" || b.Revision != to || !b.Live || !b.Proven {
		t.Errorf("%s: back to %s %.7s, live %t, proven %t (%s); want last-verified %.7s, live and proven", env, b.Kind, b.Revision, b.Live, b.Proven, b.Detail, to)
	}
	if !strings.Contains(e.Result.Reason, "gateway reaches checkout") {
		t.Errorf("%s: the reason does not name the requirement that broke: %s", env, e.Result.Reason)
	}
}

// TestSecondRolloutIsRefused names the one that runs; --supersede ends it first.
func TestSecondRolloutIsRefused(t *testing.T) {
	second := goodEverywhere(t)
	file, first := devOnly(t), commit(t, "v1")
	start(t, file, first)
	running := until(t, drive.Pipeline, "settled in dev", func(s drive.Status) bool { return s.Now("dev") == "verifying" })
	if r := p.Call(t, 5, "rollout", "start", "-f", file, "--revision", second, "--by", "e2e"); !strings.Contains(r.Stderr, running.RunID) {
		t.Errorf("a second start does not name run %s: %s", running.RunID, r.Stderr)
	}
	start(t, file, second, "--supersede")
	s := finish(t, drive.Pipeline)
	if s.RunID == running.RunID || s.State != "verified" {
		t.Errorf("the superseding rollout: %s", s)
	}
	if got := gitRepo(t, drive.Pipeline+"-dev", "{.spec.revision}"); got != second {
		t.Errorf("dev is at %.7s, want %.7s", got, second)
	}
}

// TestPeople: pause holds, the wrong evidence is refused, and a rejection while
// soaking takes the same way back as a failed probe.
func TestPeople(t *testing.T) {
	file := sample(t)
	good := goodEverywhere(t)
	start(t, file, commit(t, "v1"))
	p.Call(t, 0, "rollout", "pause", drive.Pipeline, "--by", "e2e", "--why", "lunch")
	time.Sleep(20 * time.Second)
	s, err := p.Status(t.Context(), drive.Pipeline)
	must(t, err)
	if s.State != "paused" || s.Environment("staging").State != "pending" {
		t.Fatalf("not paused: %s", s)
	}
	p.Call(t, 0, "rollout", "resume", drive.Pipeline, "--by", "e2e")
	until(t, drive.Pipeline, "at prod's gate", func(s drive.Status) bool { return s.Gate != nil })
	other := p.Call(t, 5, "rollout", "approve", drive.Pipeline, "--evidence", strings.Repeat("0", 64), "--by", "e2e", "--why", "no idea")
	if !strings.Contains(other.Stderr, "evidence has changed") {
		t.Errorf("approval of other evidence: %s", other.Stderr)
	}
	s, err = p.Status(t.Context(), drive.Pipeline)
	must(t, err)
	approve(t, drive.Pipeline, s.Gate.Evidence.Hash)
	until(t, drive.Pipeline, "soaking in prod", func(s drive.Status) bool { return s.Now("prod") == "soaking" })
	p.Call(t, 0, "rollout", "reject", drive.Pipeline, "--by", "e2e", "--why", "users complain")
	s = ended(t, drive.Pipeline)
	e := s.Environment("prod")
	if e.Result == nil || e.Result.Rollback == nil || !e.Result.Rollback.Proven || e.Result.Rollback.Revision != good {
		t.Fatalf("prod was to be put back to %.7s and proven: %s", good, s)
	}
	if !strings.Contains(s.String(), "users complain") {
		t.Errorf("the reason is not told: %s", s)
	}
}
