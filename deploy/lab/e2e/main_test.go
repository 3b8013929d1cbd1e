// Package e2e runs Portcullis on the lab: real clusters, real Fleet, real
// Calico, real Temporal, and the command line as people type it.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"portcullis.dev/portcullis/deploy/lab/internal/drive"
)

// p is the Portcullis that most tests share: one Temporal, one daemon.
var p *drive.Portcullis

// daemon is the daemon of p that the last test left running.
var daemon *drive.Process

const rolloutLimit = 6 * time.Minute

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

// run starts the lab where it is not up, and takes down what it started.
func run(m *testing.M) (int, error) {
	if os.Geteuid() != 0 {
		return 1, fmt.Errorf("the lab needs root")
	}
	bin, err := filepath.Abs("../../../bin")
	if err != nil {
		return 1, err
	}
	labDir := os.Getenv("PORTCULLIS_LAB_DIR")
	if labDir == "" {
		labDir = "/var/lib/portcullis-lab"
	}
	ctx := context.Background()
	_, before := os.Stat(filepath.Join(labDir, "pipeline.yaml"))
	if err := lab(ctx, bin, "up"); err != nil {
		return 1, err
	}
	if before != nil && os.Getenv("PORTCULLIS_LAB_KEEP") == "" {
		defer func() {
			if err := lab(ctx, bin, "down"); err != nil {
				fmt.Fprintln(os.Stderr, "e2e:", err)
			}
		}()
	}
	dir, err := os.MkdirTemp("", "portcullis-e2e-")
	if err != nil {
		return 1, err
	}
	p, err = drive.Start(ctx, drive.Options{LabDir: labDir, BinDir: bin, Dir: dir})
	if err != nil {
		return 1, err
	}
	defer p.Stop()
	if daemon, err = p.StartDaemon("daemon", nil); err != nil {
		return 1, err
	}
	code := m.Run()
	if code == 0 {
		_ = os.RemoveAll(dir)
	} else {
		fmt.Fprintln(os.Stderr, "e2e: logs are in", dir)
		for _, log := range []string{"daemon.log", "temporal.log"} {
			show(filepath.Join(dir, log))
		}
	}
	return code, nil
}

// show prints the end of a log: on a machine that is gone later, it is all there is.
func show(file string) {
	b, err := os.ReadFile(file)
	if err != nil {
		return
	}
	lines := strings.Split(string(b), "\n")
	fmt.Fprintf(os.Stderr, "--- end of %s\n%s\n", filepath.Base(file), strings.Join(lines[max(0, len(lines)-60):], "\n"))
}

func lab(ctx context.Context, bin string, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "lab"), args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("lab %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// commit makes a commit of a scenario of the policy repository.
func commit(t *testing.T, scenario string) string {
	t.Helper()
	sha, err := p.Lab(t.Context(), "policy", "commit", scenario)
	must(t, err)
	return sha
}

// start begins a rollout and fails the test where that is refused.
func start(t *testing.T, file, revision string, more ...string) {
	t.Helper()
	args := append([]string{"rollout", "start", "-f", file, "--revision", revision, "--after-rollback", "--by", "e2e"}, more...)
	r, err := p.CLI(t.Context(), args...)
	must(t, err)
	if r.Code != 0 {
		t.Fatalf("rollout start: exit %d: %s", r.Code, r.Stderr)
	}
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
	s, err := p.Until(t.Context(), pipeline, rolloutLimit, "at a gate or ended", func(s drive.Status) bool { return s.Gate != nil || !s.Running })
	must(t, err)
	if s.Running {
		approve(t, pipeline, s.Gate.Evidence.Hash)
	}
	s, err = p.Ended(t.Context(), pipeline, rolloutLimit)
	must(t, err)
	return s
}

func approve(t *testing.T, pipeline, evidence string) {
	t.Helper()
	r, err := p.CLI(t.Context(), "rollout", "approve", pipeline, "--evidence", evidence, "--by", "e2e", "--why", "seen in staging")
	must(t, err)
	if r.Code != 0 {
		t.Fatalf("approve: exit %d: %s", r.Code, r.Stderr)
	}
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
	out, err := p.Kubectl(t.Context(), cluster, "get", "globalnetworkpolicies.crd.projectcalico.org", "default.checkout-api",
		"-o", "jsonpath={.spec.ingress[0].source.selector} {.spec.ingress[0].source.nets[0]}")
	must(t, err)
	return out
}

// gitRepo reads one field of a GitRepo.
func gitRepo(t *testing.T, name, jsonpath string) string {
	t.Helper()
	out, err := p.Kubectl(t.Context(), "mgmt", "-n", "fleet-default", "get", "gitrepos.fleet.cattle.io", name, "-o", "jsonpath="+jsonpath)
	must(t, err)
	return out
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
