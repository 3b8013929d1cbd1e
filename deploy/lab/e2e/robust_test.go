package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"portcullis.dev/portcullis/deploy/lab/internal/drive"
)

// devOnly is the lab's pipeline with dev alone, for tests of faults.
func devOnly(t *testing.T, edit ...string) string {
	t.Helper()
	file, err := p.PipelineFile("dev-only", func(text string) string {
		from := strings.Index(text, "  - name: staging\n")
		to := strings.Index(text, "  probeSettings:")
		if from < 0 || to < from {
			t.Fatalf("the lab's pipeline has another shape: %s", text)
		}
		text = text[:from] + text[to:]
		return strings.NewReplacer(edit...).Replace(text)
	})
	must(t, err)
	return file
}

// soaking gives dev a soak, and short settle time-out where one is wanted.
const devEnvironment = "  - name: dev\n    clusters: {matchLabels: {env: dev}}\n"

func withGate(gate string) []string {
	return []string{devEnvironment, devEnvironment + "    gate: " + gate + "\n"}
}

// TestDaemonKilled: killed at each step and started again, a rollout ends as it
// would have, the good one and the bad one.
func TestDaemonKilled(t *testing.T) {
	file := devOnly(t, withGate("{soak: 10s}")...)
	good, v1 := commit(t, "good"), commit(t, "v1")
	pass(t, file, drive.Pipeline, good)
	t.Run("on the way forward, at every step", func(t *testing.T) {
		start(t, file, v1)
		for _, at := range []string{"staging", "settling", "verifying", "soaking"} {
			killAt(t, at)
		}
		if s := finish(t, drive.Pipeline); s.State != "verified" {
			t.Fatal(s)
		}
		if got := gitRepo(t, drive.Pipeline+"-dev", "{.spec.revision}"); got != v1 {
			t.Errorf("dev is at %.7s, want %.7s", got, v1)
		}
	})
	t.Run("rolling-back", func(t *testing.T) {
		before := source(t, "dev")
		start(t, file, commit(t, "bad-in-dev"))
		killAt(t, "rolling-back")
		s := finish(t, drive.Pipeline)
		stopped(t, s, "dev", v1)
		if got := source(t, "dev"); got != before {
			t.Errorf("checkout accepts %q, before the bad revision %q", got, before)
		}
	})
}

// killAt kills the daemon once dev is in the state (or past it: some last a
// moment only) and starts another.
func killAt(t *testing.T, state string) {
	t.Helper()
	order := []string{"pending", "promoting", "preflight", "baseline", "staging", "releasing", "settling", "verifying", "soaking", "rolling-back", "verified", "rolled-back"}
	rank := map[string]int{}
	for i, s := range order {
		rank[s] = i
	}
	until(t, drive.Pipeline, "at "+state, func(s drive.Status) bool { return rank[s.Now("dev")] >= rank[state] || !s.Running })
	p.Kill(t)
	t.Logf("killed at %s", state)
}

// TestTwoDaemons work on one rollout, and one of them may go.
func TestTwoDaemons(t *testing.T) {
	second, err := p.StartDaemon("second", nil)
	must(t, err)
	defer second.Stop()
	file := devOnly(t)
	pass(t, file, drive.Pipeline, commit(t, "v1"))
	start(t, file, commit(t, "good"))
	now(t, drive.Pipeline, "verifying")
	second.Kill()
	if s := finish(t, drive.Pipeline); s.State != "verified" {
		t.Fatal(s)
	}
}

// TestTemporalDown: the server is away for a minute in the middle.
func TestTemporalDown(t *testing.T) {
	file := devOnly(t, withGate("{soak: 10s}")...)
	pass(t, file, drive.Pipeline, commit(t, "v1"))
	start(t, file, commit(t, "good"))
	now(t, drive.Pipeline, "verifying")
	p.StopTemporal()
	time.Sleep(time.Minute)
	must(t, p.StartTemporal(t.Context()))
	if s := finish(t, drive.Pipeline); s.State != "verified" {
		t.Fatal(s)
	}
	select {
	case <-p.Daemon.Done():
		t.Error("the daemon ended while Temporal was away")
	default:
	}
}

// TestLostRevert goes from A to B and back to A so fast that Fleet 0.12 still
// has A's own git job: without a forced sync it would report A and deploy B.
func TestLostRevert(t *testing.T) {
	file := devOnly(t)
	a, b := commit(t, "good"), commit(t, "bad-in-dev")
	pass(t, file, drive.Pipeline, a)
	before := source(t, "dev")
	for round := range 2 {
		pass(t, file, drive.Pipeline, a)
		start(t, file, b)
		now(t, drive.Pipeline, "verifying")
		p.Call(t, 0, "rollout", "abort", drive.Pipeline, "--by", "e2e", "--why", "at once")
		s := ended(t, drive.Pipeline)
		e := s.Environment("dev")
		if e.Result == nil || e.Result.Rollback == nil || !e.Result.Rollback.Live || !e.Result.Rollback.Proven {
			t.Fatalf("round %d: %s", round, s)
		}
		if got := source(t, "dev"); got != before {
			t.Fatalf("round %d: Fleet lost the revert: checkout accepts %q, want %q", round, got, before)
		}
	}
}

// TestFaults: what is down is waited for with a reason that people see; past
// the deadline the gate fails, it never passes.
func TestFaults(t *testing.T) {
	good := commit(t, "good")
	pass(t, devOnly(t), drive.Pipeline, good)
	for _, c := range []struct {
		name       string
		breakIt    func(t *testing.T)
		mend       func(t *testing.T)
		gate       string
		waiting    string // in the reason that is shown while it waits
		goesOnWhen string // "mended": it goes on; "never": it fails at the deadline
	}{
		{
			name:       "Fleet agent stopped",
			breakIt:    func(t *testing.T) { scaleFleetAgent(t, 0) },
			mend:       func(t *testing.T) { scaleFleetAgent(t, 1) },
			gate:       "{settleTimeout: 20s}",
			goesOnWhen: "never",
		},
		{
			name:       "Git server down",
			breakIt:    func(t *testing.T) { labDo(t, "process", "stop", "gitd") },
			mend:       func(t *testing.T) { labDo(t, "process", "start", "gitd") },
			waiting:    "git",
			goesOnWhen: "mended",
		},
		{
			name:       "cluster unreachable",
			breakIt:    func(t *testing.T) { labDo(t, "cluster", "disconnect", "dev") },
			mend:       func(t *testing.T) { labDo(t, "cluster", "connect", "dev") },
			waiting:    "dev",
			goesOnWhen: "mended",
		},
		{
			name:       "node not ready",
			breakIt:    func(t *testing.T) { labDo(t, "node", "disconnect", "dev-1") },
			mend:       func(t *testing.T) { labDo(t, "node", "connect", "dev-1") },
			waiting:    "dev",
			goesOnWhen: "mended",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := devOnly(t)
			if c.gate != "" {
				file = devOnly(t, withGate(c.gate)...)
			}
			before := source(t, "dev")
			revision := commit(t, "v1")
			c.breakIt(t)
			mended := false
			defer func() {
				if !mended {
					c.mend(t)
				}
			}()
			began := make(chan error, 1)
			go func() {
				r, err := p.CLI(t.Context(), "rollout", "start", "-f", file, "--revision", revision, "--after-rollback", "--by", "e2e")
				if err == nil && r.Code != 0 {
					err = fmt.Errorf("exit %d: %s", r.Code, r.Stderr)
				}
				began <- err
			}()
			if c.goesOnWhen == "never" {
				must(t, <-began)
				now(t, drive.Pipeline, "rolling-back")
				c.mend(t)
				mended = true
				s := finish(t, drive.Pipeline)
				if s.State != "rolled-back" {
					t.Fatal(s)
				}
				if got := source(t, "dev"); got != before {
					t.Errorf("checkout accepts %q, want %q", got, before)
				}
				return
			}
			s, err := p.Until(t.Context(), drive.Pipeline, 3*time.Minute, "waiting with a reason", func(s drive.Status) bool {
				return s.Running && s.State != "verified" && waits(s, c.waiting)
			})
			must(t, err)
			t.Log(s)
			c.mend(t)
			mended = true
			must(t, <-began)
			if s := finish(t, drive.Pipeline); s.State != "verified" {
				t.Fatal(s)
			}
			start(t, devOnly(t), good)
			finish(t, drive.Pipeline)
		})
	}
}

func waits(s drive.Status, what string) bool {
	for _, w := range s.Waiting {
		if strings.Contains(strings.ToLower(w.For+" "+w.LastFailure), what) {
			return true
		}
	}
	return false
}

func labDo(t *testing.T, args ...string) {
	t.Helper()
	if _, err := p.Lab(t.Context(), args...); err != nil {
		t.Error(err)
	}
}

func scaleFleetAgent(t *testing.T, replicas int) {
	t.Helper()
	kind := p.MustKubectl(t, "dev", "-n", "cattle-fleet-system", "get", "deployments,statefulsets", "-o", "name")
	p.MustKubectl(t, "dev", "-n", "cattle-fleet-system", "scale", strings.Fields(kind)[0], fmt.Sprintf("--replicas=%d", replicas))
}

// TestBadInput: one clear line with the place, an exit code of its own, and
// nothing changed on any cluster.
func TestBadInput(t *testing.T) {
	good := commit(t, "good")
	pass(t, devOnly(t), drive.Pipeline, good)
	before := fingerprint(t)
	offBranch := offMain(t)
	overrides, malformed := commit(t, "override-targets"), commit(t, "malformed")
	commit(t, "good")
	for _, c := range []struct {
		name     string
		edit     []string
		revision string
		code     int
		says     []string
	}{
		{"unknown field", []string{"rollback: {scope:", "rollback: {scopes:"}, good, 3, []string{"unknown field", ".yaml:"}},
		{"no environments", []string{devEnvironment, ""}, good, 3, []string{"environments", ".yaml:"}},
		{"selector matches nothing", []string{"env: dev", "env: nowhere"}, good, 3, []string{"dev", "no cluster"}},
		{"cluster in two environments", []string{devEnvironment, devEnvironment + strings.ReplaceAll(devEnvironment, "name: dev", "name: again")}, good, 3, []string{"dev", "again"}},
		{"revision is not there", nil, strings.Repeat("d", 40), 4, []string{strings.Repeat("d", 40), "network-policies.git"}},
		{"revision is not on the branch", nil, offBranch, 3, []string{offBranch, "main"}},
		{"overrideTargets in the revision", nil, overrides, 3, []string{"overrideTargets", "bundles/applications/fleet.yaml"}},
		{"malformed manifest", nil, malformed, 3, []string{"bundles/applications/templates/payments.yaml"}},
		{"branch that is not there", []string{"branch: main", "branch: nowhere"}, "", 4, []string{"nowhere"}},
		{"bad selector", []string{"from: {namespace: data, selector: \"app == 'db'\"}", "from: {namespace: data, selector: \"app = 'db'\"}"}, good, 3, []string{"selector", ".yaml:"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			refused(t, devOnly(t, c.edit...), c.revision, c.code, c.says)
		})
	}
	t.Run("branch and revision set by someone else", func(t *testing.T) {
		repo := drive.Pipeline + "-dev"
		patch := func(branch string) {
			p.MustKubectl(t, "mgmt", "-n", "fleet-default", "patch", "gitrepos.fleet.cattle.io", repo, "--type=merge", "-p", `{"spec":{"branch":"`+branch+`"}}`)
		}
		patch("main")
		defer patch("")
		refused(t, devOnly(t), good, 5, []string{repo, "branch"})
	})
	if after := fingerprint(t); after != before {
		t.Errorf("something was changed:\n%s\nwant\n%s", after, before)
	}
}

// refused: the start ends with the code and one line that says all of says.
func refused(t *testing.T, file, revision string, code int, says []string) {
	t.Helper()
	args := []string{"rollout", "start", "-f", file, "--after-rollback", "--by", "e2e"}
	if revision != "" {
		args = append(args, "--revision", revision)
	}
	r, err := p.CLI(t.Context(), args...)
	must(t, err)
	line := strings.TrimSpace(r.Stderr)
	t.Logf("exit %d: %s", r.Code, line)
	if r.Code != code {
		t.Errorf("exit %d, want %d", r.Code, code)
	}
	if n := strings.Count(line, "\n"); n > 0 {
		t.Errorf("%d lines, want one", n+1)
	}
	for _, s := range says {
		if !strings.Contains(line, s) {
			t.Errorf("does not say %q", s)
		}
	}
}

// TestBadCredentials: a daemon with a wrong token or CA says so and ends with a code of its own.
func TestBadCredentials(t *testing.T) {
	wrong := filepath.Join(p.Dir, "wrong-token")
	must(t, os.WriteFile(wrong, []byte("token-abcde:not-the-secret"), 0o600))
	otherCA := filepath.Join(p.LabDir, "pki", "mgmt", "ca.crt")
	for _, c := range []struct {
		name, from, to, says string
	}{
		{"wrong token", filepath.Join(p.LabDir, "rancher", "token"), wrong, "token"},
		{"other CA", filepath.Join(p.LabDir, "rancher", "ca.crt"), otherCA, "certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := p.StartDaemon(strings.ReplaceAll(c.name, " ", "-"), func(s string) string { return strings.ReplaceAll(s, c.from, c.to) })
			must(t, err)
			defer d.Stop()
			select {
			case <-d.Done():
			case <-time.After(30 * time.Second):
				t.Fatal("the daemon goes on")
			}
			log, err := os.ReadFile(d.Log)
			must(t, err)
			if d.Code() != 7 || !strings.Contains(string(log), c.says) {
				t.Errorf("exit %d, want 7, and %q said: %s", d.Code(), c.says, log)
			}
			if strings.Contains(string(log), "not-the-secret") {
				t.Error("the token is in the log")
			}
		})
	}
}

// offMain makes a commit in the policy repository that is on another branch than main.
func offMain(t *testing.T) string {
	t.Helper()
	sha := git(t, "commit-tree", "main^{tree}", "-m", "not on main")
	git(t, "branch", "--force", "side", sha)
	t.Cleanup(func() { git(t, "branch", "-D", "side") })
	return sha
}

// fingerprint is all that a rollout could change on dev and in Fleet.
func fingerprint(t *testing.T) string {
	t.Helper()
	live := p.MustKubectl(t, "dev", "get", "globalnetworkpolicies.crd.projectcalico.org,networkpolicies.networking.k8s.io", "-A",
		"-o", `jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.uid} {.spec}{"\n"}{end}`)
	repos := p.MustKubectl(t, "mgmt", "-n", "fleet-default", "get", "gitrepos.fleet.cattle.io",
		"-o", `jsonpath={range .items[*]}{.metadata.name} {.spec.revision} {.spec.paused} {.spec.targets}{"\n"}{end}`)
	return live + "\n" + repos
}
