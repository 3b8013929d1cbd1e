// Package e2e runs Portcullis on the lab: real clusters, real Fleet, real
// Calico, real Temporal, and the command line as people type it.
package e2e

import (
	"testing"
	"time"

	"portcullis.dev/portcullis/deploy/lab/internal/drive"
	"portcullis.dev/portcullis/deploy/lab/internal/drive/drivetest"
)

var must = drivetest.Must

// p is the Portcullis that most tests share.
var p *drivetest.Lab

const rolloutLimit = 6 * time.Minute

func TestMain(m *testing.M) {
	drivetest.Main("e2e", func(l *drivetest.Lab) (int, error) {
		p = l
		return m.Run(), nil
	})
}

// commit makes a commit of a scenario of the policy repository.
func commit(t *testing.T, scenario string) string {
	t.Helper()
	return p.MustLab(t, "policy", "commit", scenario)
}

// start begins a rollout and fails the test where that is refused.
func start(t *testing.T, file, revision string, more ...string) {
	t.Helper()
	p.Call(t, 0, append([]string{"rollout", "start", "-f", file, "--revision", revision, "--after-rollback", "--by", "e2e"}, more...)...)
}

// pass takes a revision through all environments, giving every approval that is asked for.
func pass(t *testing.T, file, pipeline, revision string) drive.Status {
	t.Helper()
	start(t, file, revision)
	s := finish(t, pipeline)
	if s.State != "verified" {
		t.Fatalf("%.7s was to be verified: %s", revision, s)
	}
	return s
}

// goodCommit is a commit of the good scenario, once there is one.
var goodCommit string

// goodEverywhere makes sure that the good scenario is verified in every
// environment and returns its commit. Rollbacks leave it there.
func goodEverywhere(t *testing.T) string {
	t.Helper()
	if goodCommit == "" {
		goodCommit = commit(t, "good")
	}
	for _, env := range environments {
		at, err := p.Kubectl(t.Context(), "mgmt", "-n", "fleet-default", "get", "gitrepos.fleet.cattle.io", drive.Pipeline+"-"+env,
			"-o", `jsonpath={.spec.revision} {.metadata.annotations.portcullis\.dev/verified-revision}`)
		if err != nil || at != goodCommit+" "+goodCommit {
			pass(t, sample(t), drive.Pipeline, goodCommit)
			return goodCommit
		}
	}
	return goodCommit
}

// finish waits for the end and approves on the way.
func finish(t *testing.T, pipeline string) drive.Status {
	t.Helper()
	s := until(t, pipeline, "at a gate or ended", func(s drive.Status) bool { return s.Gate != nil || !s.Running })
	if s.Running {
		approve(t, pipeline, s.Gate.Evidence.Hash)
	}
	return ended(t, pipeline)
}

// until waits for a rollout.
func until(t *testing.T, pipeline, what string, ok func(drive.Status) bool) drive.Status {
	t.Helper()
	s, err := p.Until(t.Context(), pipeline, rolloutLimit, what, ok)
	must(t, err)
	return s
}

// ended waits for the end of a rollout.
func ended(t *testing.T, pipeline string) drive.Status {
	t.Helper()
	return until(t, pipeline, "ended", func(s drive.Status) bool { return !s.Running })
}

// now waits until dev is in a state, or the rollout has ended.
func now(t *testing.T, pipeline, state string) {
	t.Helper()
	until(t, pipeline, state, func(s drive.Status) bool { return s.Now("dev") == state || !s.Running })
}

func approve(t *testing.T, pipeline, evidence string) {
	t.Helper()
	p.Call(t, 0, "rollout", "approve", pipeline, "--evidence", evidence, "--by", "e2e", "--why", "seen in staging")
}

// sample is the lab's own pipeline.
func sample(t *testing.T) string {
	t.Helper()
	file, err := p.PipelineFile("pipeline", nil)
	must(t, err)
	return file
}

// source is what checkout accepts on a cluster: where the bad revisions differ.
func source(t *testing.T, cluster string) string {
	t.Helper()
	return p.MustKubectl(t, cluster, "get", "globalnetworkpolicies.crd.projectcalico.org", "default.checkout-api",
		"-o", "jsonpath={.spec.ingress[0].source.selector} {.spec.ingress[0].source.nets[0]}")
}

// gitRepo reads one field of a GitRepo.
func gitRepo(t *testing.T, name, jsonpath string) string {
	t.Helper()
	return p.MustKubectl(t, "mgmt", "-n", "fleet-default", "get", "gitrepos.fleet.cattle.io", name, "-o", "jsonpath="+jsonpath)
}
