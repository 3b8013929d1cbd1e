package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"portcullis.dev/portcullis/deploy/lab/internal/drive"
	"portcullis.dev/portcullis/deploy/lab/internal/drive/drivetest"
)

// noGitRepos takes away every GitRepo of the lab, and what it delivered: two that
// deliver the same repository to one cluster are refused.
func noGitRepos(t *testing.T) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context()) // it also cleans up after a test
	_, err := p.Kubectl(ctx, "mgmt", "-n", "fleet-default", "delete", "gitrepos.fleet.cattle.io", "--all", "--wait=true", "--timeout=90s")
	must(t, err)
	_, err = p.Kubectl(ctx, "mgmt", "-n", "fleet-default", "delete", "configmaps", "-l", "portcullis.dev/pipeline", "--ignore-not-found")
	must(t, err)
	drivetest.Eventually(t, time.Minute, "all BundleDeployments of policies to be gone", func() string {
		out, err := p.Kubectl(ctx, "mgmt", "get", "bundledeployments.fleet.cattle.io", "-A", "-l", "fleet.cattle.io/repo-name", "-o", "name")
		if err != nil {
			return err.Error()
		}
		return out
	})
}

// only writes a pipeline with the lab's source and probes, and environments of its own.
func only(t *testing.T, name, environments string) string {
	t.Helper()
	file, err := p.PipelineFile(name, func(text string) string {
		from, to := strings.Index(text, "  environments:\n"), strings.Index(text, "  probeSettings:")
		if from < 0 || to < from {
			t.Fatalf("the lab's pipeline has another shape: %s", text)
		}
		text = text[:from] + "  environments:\n" + environments + text[to:]
		return strings.Replace(text, "name: "+drive.Pipeline, "name: "+name, 1)
	})
	must(t, err)
	return file
}

// The first rollout ever has nothing to return to but to the absence of policy.
func TestFirstRolloutIsTakenBack(t *testing.T) {
	noGitRepos(t)
	t.Cleanup(func() { noGitRepos(t) })
	file := only(t, "first", devEnvironment)
	start(t, file, commit(t, "bad-in-dev"))
	s := finish(t, "first")
	e := s.Environment("dev")
	if e.Result == nil || e.Result.Rollback == nil {
		t.Fatalf("dev was to be rolled back: %s", s)
	}
	if b := e.Result.Rollback; b.Kind != "absent" || !b.Live || !b.Proven {
		t.Errorf("back to %s, live %t, proven %t (%s); want absent, live and proven", b.Kind, b.Live, b.Proven, b.Detail)
	}
	if left, err := p.Kubectl(t.Context(), "mgmt", "-n", "fleet-default", "get", "gitrepos.fleet.cattle.io", "-o", "name"); err != nil || left != "" {
		t.Errorf("left: %s, %v", left, err)
	}
	out := p.MustKubectl(t, "dev", "get", "globalnetworkpolicies.crd.projectcalico.org", "-o", "name")
	if strings.Contains(out, "checkout") {
		t.Errorf("policies are left on dev: %s", out)
	}
	good := commit(t, "good")
	p.Call(t, 6, "rollout", "start", "-f", file, "--revision", good, "--by", "e2e") // held, also without GitRepos
	pass(t, file, "first", good)
}

const followsBranch = `{"apiVersion":"fleet.cattle.io/v1alpha1","kind":"GitRepo","metadata":{"name":"by-branch","namespace":"fleet-default"},
"spec":{"repo":"REPO","branch":"main","paths":["bundles/infrastructure","bundles/applications"],"pollingInterval":"15s",
"targets":[{"name":"dev","clusterSelector":{"matchLabels":{"env":"dev"}}}]}}`

// A GitRepo that followed a branch before Portcullis follows that branch again
// when the first rollout on it is taken back, and is pinned once one is verified.
func TestAdoptedBranchIsRestored(t *testing.T) {
	noGitRepos(t)
	t.Cleanup(func() { noGitRepos(t) })
	old, head := commit(t, "v1"), commit(t, "good")
	file := only(t, "adopting", strings.Replace(devEnvironment, "\n    clusters", "\n    gitRepo: by-branch\n    clusters", 1))
	applyMgmt(t, strings.Replace(followsBranch, "REPO", repoOf(t, file), 1))
	const added = "default.deny-instance-metadata"
	lacks := func() string {
		if _, err := p.Kubectl(t.Context(), "dev", "get", "globalnetworkpolicies.crd.projectcalico.org", added); err != nil {
			return err.Error()
		}
		return ""
	}
	drivetest.Eventually(t, 2*time.Minute, "the branch to be on dev", lacks)
	start(t, file, old)
	now(t, "adopting", "verifying")
	if got := gitRepo(t, "by-branch", "{.spec.revision},{.spec.branch}"); got != old+"," {
		t.Errorf("while verifying, revision and branch are %q", got)
	}
	p.Call(t, 0, "rollout", "abort", "adopting", "--by", "e2e", "--why", "not today")
	s := ended(t, "adopting")
	e := s.Environment("dev")
	if e.Result == nil || e.Result.Rollback == nil {
		t.Fatalf("dev was to be rolled back: %s", s)
	}
	if b := e.Result.Rollback; b.Kind != "before-portcullis" || !b.Live || !b.Proven {
		t.Errorf("back to %s, live %t, proven %t (%s)", b.Kind, b.Live, b.Proven, b.Detail)
	}
	if got := gitRepo(t, "by-branch", "{.spec.revision},{.spec.branch},{.spec.paused},{.spec.pollingInterval}"); got != ",main,,15s" && got != ",main,false,15s" {
		t.Errorf("the GitRepo is not as it was: %q", got)
	}
	if why := lacks(); why != "" {
		t.Errorf("dev does not have what the branch has: %s", why)
	}
	pass(t, file, "adopting", head)
	if got := gitRepo(t, "by-branch", "{.spec.revision},{.spec.branch}"); got != head+"," {
		t.Errorf("verified, revision and branch are %q", got)
	}
}

// repoOf reads where the pipeline's repository is.
func repoOf(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	_, rest, found := strings.Cut(string(text), "repo: ")
	if !found {
		t.Fatalf("no repository in %s", text)
	}
	repo, _, _ := strings.Cut(rest, "\n")
	return repo
}

func applyMgmt(t *testing.T, manifest string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "manifest.json")
	must(t, os.WriteFile(file, []byte(manifest), 0o600))
	p.MustKubectl(t, "mgmt", "apply", "-f", file)
}

// Waves are taken in their order, and a wave in slices of at most maxConcurrent;
// one that fails takes back all that were touched.
func TestWaves(t *testing.T) {
	noGitRepos(t)
	t.Cleanup(func() { noGitRepos(t) })
	file := only(t, "waves", `  - name: all
    clusters: {matchExpressions: [{key: env, operator: In, values: [dev, staging, prod]}]}
    waves:
    - {name: canary, clusters: {matchLabels: {env: dev}}, soak: 2s}
    - {name: rest, maxConcurrent: 1}
`)
	good := commit(t, "good")
	s := pass(t, file, "waves", good)
	if n := len(s.Environment("all").Result.Clusters); n != 3 {
		t.Fatalf("%d clusters: %s", n, s)
	}
	units := map[string]string{}
	for _, name := range []string{"waves-all-canary", "waves-all-rest-1", "waves-all-rest-2"} {
		units[name] = gitRepo(t, name, `{.spec.revision},{.metadata.annotations.portcullis\.dev/verified-revision}`)
		if units[name] != good+","+good {
			t.Errorf("%s: revision and verified revision are %q", name, units[name])
		}
	}
	start(t, file, commit(t, "bad-only-in-prod"))
	s = finish(t, "waves")
	e := s.Environment("all")
	if e.Result == nil || e.Result.Rollback == nil {
		t.Fatalf("it was to be rolled back: %s", s)
	}
	if b := e.Result.Rollback; b.Revision != good || !b.Live || !b.Proven {
		t.Errorf("back to %s %.7s, live %t, proven %t (%s)", b.Kind, b.Revision, b.Live, b.Proven, b.Detail)
	}
	for name, want := range units {
		if got := gitRepo(t, name, `{.spec.revision},{.metadata.annotations.portcullis\.dev/verified-revision}`); got != want {
			t.Errorf("%s: revision and verified revision are %q, want %q", name, got, want)
		}
	}
	order(t, e.Result.Log)
}

// order: the canary is verified before a slice of the rest is staged.
func order(t *testing.T, log []drive.LogEntry) {
	t.Helper()
	verified := -1
	for i, l := range log {
		switch {
		case strings.HasPrefix(l.Message, "waves-all-canary verified"):
			verified = i
		case strings.Contains(l.Message, "-rest-1 staged") && verified < 0:
			t.Errorf("the rest was staged before the canary was verified: %v", log)
		}
	}
	if verified < 0 {
		t.Errorf("the log does not tell that the canary was verified: %v", log)
	}
}

// A person goes back to the revision that was verified before, and forward again.
func TestRollbackByHand(t *testing.T) {
	file := devOnly(t)
	older, newer := commit(t, "v1"), commit(t, "good")
	pass(t, file, drive.Pipeline, older)
	pass(t, file, drive.Pipeline, newer)
	for _, to := range []string{older, newer} {
		p.Call(t, 0, "rollout", "rollback", "-f", file, "--by", "e2e", "--why", "users complain")
		s := ended(t, drive.Pipeline)
		b := s.Environment("dev").Result.Rollback
		if b == nil || b.Revision != to || !b.Live || !b.Proven {
			t.Fatalf("back by hand to %.7s: %+v: %s", to, b, s)
		}
		if got := gitRepo(t, drive.Pipeline+"-dev", `{.spec.revision},{.metadata.annotations.portcullis\.dev/verified-revision}`); got != to+","+to {
			t.Errorf("revision and verified revision are %q, want %.7s", got, to)
		}
	}
}
