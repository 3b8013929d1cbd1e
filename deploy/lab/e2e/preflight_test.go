package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"portcullis.dev/portcullis/deploy/lab/internal/drive"
	"portcullis.dev/portcullis/deploy/lab/internal/drive/drivetest"
)

// Preflight measures real nodes and every path between them; and a migration of
// a cluster that runs Calico already is refused, for there is nothing to take over.
func TestPreflight(t *testing.T) {
	var result struct {
		Clusters map[string]struct {
			Error  string `json:"error"`
			Report struct {
				Nodes   int `json:"nodes"`
				Results []struct {
					ID       string `json:"id"`
					Status   string `json:"status"`
					Measured string `json:"measured"`
				} `json:"results"`
			} `json:"report"`
		} `json:"clusters"`
	}
	r, err := p.JSON(t.Context(), &result, "preflight", "prod")
	must(t, err)
	// 10 where this machine is short of disk or memory.
	if r.Code != 0 && r.Code != 10 {
		t.Errorf("exit %d: %s", r.Code, r.Stderr)
	}
	prod := result.Clusters["prod"]
	if prod.Report.Nodes != 2 {
		t.Fatalf("%d nodes (%s)", prod.Report.Nodes, prod.Error)
	}
	for id, want := range map[string]string{
		"existing-cni": "pass", "agent-answers": "pass", "ipset-works": "pass", "reach-udp-4789": "pass",
		"reach-tcp-10250": "pass", "path-mtu": "pass", "kubernetes-version": "pass",
	} {
		found := "left out"
		for _, c := range prod.Report.Results {
			if c.ID == id {
				found = c.Status
				if c.Status != want {
					t.Errorf("%s is %s, want %s: %s", id, c.Status, want, c.Measured)
				}
			}
		}
		if found == "left out" {
			t.Errorf("%s is not in the report", id)
		}
	}
	if r := p.Call(t, 10, "migrate", "plan", "prod"); !strings.Contains(r.Stdout, "no Canal in this cluster") {
		t.Errorf("a migration from Calico: %s %s", r.Stdout, r.Stderr)
	}
}

// A preflight that nobody waits for any more is cancelled.
func TestInterruptedPreflight(t *testing.T) {
	begun := time.Now()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := make(chan drive.Run, 1)
	go func() {
		for ; ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
			runs, err := p.Runs(ctx, `WorkflowType="Preflight" AND ExecutionStatus="Running"`)
			if i := slices.IndexFunc(runs, func(r drive.Run) bool { return r.StartTime.After(begun) }); err == nil && i >= 0 {
				seen <- runs[i]
				cancel()
			}
		}
	}()
	r, err := p.CLI(ctx, "preflight", "prod")
	must(t, err)
	if r.Code != 130 || !strings.HasSuffix(r.Stderr, "portcullis: interrupted\n") {
		t.Fatalf("exit %d: %s", r.Code, r.Stderr)
	}
	run := <-seen
	drivetest.Eventually(t, 30*time.Second, "the preflight to be cancelled", func() string {
		runs, err := p.Runs(t.Context(), fmt.Sprintf(`WorkflowId=%q AND ExecutionStatus="Canceled"`, run.Execution.WorkflowID))
		if err != nil {
			return err.Error()
		}
		if len(runs) == 0 {
			return run.Execution.WorkflowID + " was not"
		}
		return ""
	})
}

// A gate that asks for a preflight keeps a rollout out of a cluster that cannot
// take what it brings, before anything is written, and lets it in once that is mended.
func TestGateAsksForPreflight(t *testing.T) {
	pass(t, devOnly(t), drive.Pipeline, commit(t, "v1"))
	file := devOnly(t, withGate("{preflight: true}")...)
	before, good := gitRepo(t, drive.Pipeline+"-dev", "{.spec.revision}"), commit(t, "good")
	mend := p.Inject(t, "cni-readonly", "dev-1")
	start(t, file, good)
	s := finish(t, drive.Pipeline)
	dev := s.Environment("dev")
	if s.State != "failed" || dev.Result == nil || !strings.Contains(dev.Result.Reason, "preflight of 1 cluster: dev: cni-writable is fail") {
		t.Fatal(s)
	}
	if got := gitRepo(t, drive.Pipeline+"-dev", "{.spec.revision}"); got != before {
		t.Errorf("dev is at %.7s, was at %.7s", got, before)
	}
	mend()
	r, err := p.CLI(t.Context(), "preflight", "dev")
	must(t, err)
	if r.Code != 0 {
		t.Skipf("this machine does not pass a preflight: %s", r.Stdout)
	}
	pass(t, file, drive.Pipeline, good)
}
