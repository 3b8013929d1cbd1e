package ops_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"go.temporal.io/sdk/temporal"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/source"
	"portcullis.dev/portcullis/probes/preflight"
	"portcullis.dev/portcullis/workflows"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/internal/harness"
	"portcullis.dev/portcullis/workflows/internal/world"
)

func two() *world.World {
	return world.Make(world.Env{Name: "dev"}, world.Env{Name: "prod", Waves: []int{1, 2}})
}

// execute runs one workflow and returns its error.
func execute[T any](t *testing.T, w *world.World, name string, in any) (T, error) {
	t.Helper()
	env := harness.Environment()
	workflows.Register(env)
	w.Register(env)
	env.ExecuteWorkflow(name, in)
	var out T
	if err := env.GetWorkflowError(); err != nil {
		return out, err
	}
	return out, env.GetWorkflowResult(&out)
}

func TestPlanRollout(t *testing.T) {
	w := two()
	plan, err := execute[contract.RolloutPlan](t, w, contract.PlanWorkflow, contract.RolloutInput{Pipeline: w.Pipeline})
	if err != nil {
		t.Fatal(err)
	}
	if plan.Revision.Commit != world.New || len(plan.Plan.Environments) != 2 || len(plan.Inspection.Changes[world.Old]) != 1 || plan.PlannedAt.IsZero() {
		t.Errorf("plan %+v", plan)
	}
	w.Findings = []source.Finding{{Rule: "r", Error: true, Path: "x.yaml", Message: "bad"}}
	_, err = execute[contract.RolloutPlan](t, w, contract.PlanWorkflow, contract.RolloutInput{Pipeline: w.Pipeline})
	if errs.TypeOf(err) != errs.TypeInvalid || !strings.Contains(err.Error(), "x.yaml: bad (r)") {
		t.Errorf("error %v", err)
	}
	if w.Writes() != 0 {
		t.Error("planning wrote")
	}
}

func TestProbe(t *testing.T) {
	tests := map[string]struct {
		in      contract.ProbeInput
		arrange func(w *world.World)
		want    []string
		passed  bool
		kind    string
	}{
		"all":                 {contract.ProbeInput{}, nil, []string{"dev-0-0", "prod-0-0", "prod-1-0", "prod-1-1"}, true, ""},
		"environment":         {contract.ProbeInput{Environments: []string{"dev"}}, nil, []string{"dev-0-0"}, true, ""},
		"cluster by ID":       {contract.ProbeInput{Clusters: []string{"c-prod-1-1"}}, nil, []string{"prod-1-1"}, true, ""},
		"unknown environment": {contract.ProbeInput{Environments: []string{"qa"}}, nil, nil, false, errs.TypeInvalid},
		"unknown cluster":     {contract.ProbeInput{Clusters: []string{"x"}}, nil, nil, false, errs.TypeNotFound},
		"held is no obstacle": {contract.ProbeInput{Environments: []string{"dev"}}, func(w *world.World) { w.SetHeld("x") }, []string{"dev-0-0"}, true, ""},
		"failing": {contract.ProbeInput{Environments: []string{"dev"}}, func(w *world.World) {
			w.Bad = func(string, string) bool { return true }
		}, []string{"dev-0-0"}, false, ""},
		"baseline judges nothing": {contract.ProbeInput{Environments: []string{"dev"}, Baseline: true}, func(w *world.World) {
			w.Bad = func(string, string) bool { return true }
		}, []string{"dev-0-0"}, true, ""},
		"unreachable": {contract.ProbeInput{Environments: []string{"dev"}, Baseline: true}, func(w *world.World) {
			w.Hook = func(_ context.Context, name, _ string) error {
				if name == "EnsureAgent" {
					return errs.Deadline("no tunnel")
				}
				return nil
			}
		}, []string{"dev-0-0"}, false, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := two()
			if test.arrange != nil {
				test.arrange(w)
			}
			test.in.Pipeline = w.Pipeline
			out, err := execute[contract.ProbeResult](t, w, contract.ProbeWorkflow, test.in)
			if test.kind != "" {
				if errs.TypeOf(err) != test.kind {
					t.Errorf("error %v, want %s", err, test.kind)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if out.Passed != test.passed || len(out.Clusters) != len(test.want) {
				t.Errorf("result %+v", out)
			}
			for _, c := range test.want {
				if e, ok := out.Clusters[c]; !ok || e.Cluster != c || out.Environment[c] == "" {
					t.Errorf("cluster %s: %+v", c, e)
				}
			}
		})
	}
}

// The result of a probe of many clusters stays below what a payload may hold.
func TestProbeOfManyClusters(t *testing.T) {
	w := world.Make(world.Env{Name: "prod", Waves: []int{120}})
	w.Bad = func(cluster, _ string) bool { return cluster == "prod-0-7" }
	out, err := execute[contract.ProbeResult](t, w, contract.ProbeWorkflow, contract.ProbeInput{Pipeline: w.Pipeline})
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Clusters) != 120 || out.Passed {
		t.Fatalf("%d clusters, passed %v", len(out.Clusters), out.Passed)
	}
	if r := out.Clusters["prod-0-1"].Requirements[0]; len(r.Flows) != 0 || r.FlowsLeftOut != 1 {
		t.Errorf("passing requirement keeps its flows: %+v", r)
	}
	if r := out.Clusters["prod-0-7"].Requirements[0]; len(r.Flows) != 1 {
		t.Errorf("failing requirement lost its flows: %+v", r)
	}
}

func TestInventory(t *testing.T) {
	out, err := execute[contract.InventoryResult](t, two(), contract.InventoryWorkflow, contract.InventoryInput{})
	if err != nil || len(out.Clusters) != 4 {
		t.Errorf("%+v, %v", out, err)
	}
}

func TestAgent(t *testing.T) {
	for _, action := range []contract.AgentAction{contract.AgentInstall, contract.AgentRemove, contract.AgentStatus} {
		w := two()
		w.Hook = func(_ context.Context, _, subject string) error {
			if subject == "prod-1-1" {
				return errs.Denied("no right")
			}
			return nil
		}
		out, err := execute[contract.AgentResult](t, w, contract.AgentWorkflow, contract.AgentInput{Action: action, All: true})
		if err != nil || len(out.Clusters) != 4 {
			t.Fatalf("%s: %+v, %v", action, out, err)
		}
		if bad := out.Clusters["prod-1-1"]; bad.Error != "no right" || bad.ErrorType != errs.TypeDenied {
			t.Errorf("%s: %+v", action, bad)
		}
		if good := out.Clusters["dev-0-0"]; good.Error != "" || good.ErrorType != "" {
			t.Errorf("%s: %+v", action, good)
		}
	}
	for _, bad := range []contract.AgentInput{{Action: "explode", All: true}, {Action: contract.AgentInstall}, {Action: contract.AgentStatus, Clusters: []string{"x"}}} {
		if _, err := execute[contract.AgentResult](t, two(), contract.AgentWorkflow, bad); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}

func TestHold(t *testing.T) {
	w := two()
	if _, err := execute[struct{}](t, w, contract.HoldWorkflow, contract.HoldInput{Pipeline: "policies", By: " "}); errs.TypeOf(err) != errs.TypeInvalid {
		t.Errorf("nobody may hold: %v", err)
	}
	hold(t, w, contract.HoldInput{Pipeline: "policies", Reason: "holiday", By: "ann"})
	if w.Held() != "held by ann (holiday)" {
		t.Errorf("held %q", w.Held())
	}
	hold(t, w, contract.HoldInput{Pipeline: "policies", By: "ann"})
	if w.Held() != "" {
		t.Errorf("held %q", w.Held())
	}
}

func hold(t *testing.T, w *world.World, in contract.HoldInput) {
	t.Helper()
	env := harness.Environment()
	workflows.Register(env)
	w.Register(env)
	env.ExecuteWorkflow(contract.HoldWorkflow, in)
	if err := env.GetWorkflowError(); err != nil {
		t.Fatal(err)
	}
}

// Whoever cancels an operation, at whatever activity, finds it cancelled and not failed.
func TestCancelled(t *testing.T) {
	for name, in := range map[string]func(*world.World) any{
		contract.PlanWorkflow:      func(w *world.World) any { return contract.RolloutInput{Pipeline: w.Pipeline} },
		contract.InventoryWorkflow: func(*world.World) any { return contract.InventoryInput{} },
		contract.ProbeWorkflow:     func(w *world.World) any { return contract.ProbeInput{Pipeline: w.Pipeline} },
		contract.AgentWorkflow:     func(*world.World) any { return contract.AgentInput{Action: contract.AgentInstall, All: true} },
		contract.PreflightWorkflow: func(*world.World) any { return contract.PreflightInput{All: true} },
		contract.PlanMigrationWorkflow: func(*world.World) any {
			return contract.PlanMigrationInput{Cluster: "dev-0-0", Target: preflight.Target{Version: "v3.28.5"}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			for n := 0; ; n++ {
				w, env := two(), harness.Environment()
				var asked atomic.Int64
				w.Hook = func(ctx context.Context, _, _ string) error {
					if asked.Add(1) == int64(n)+1 {
						env.CancelWorkflow()
						<-ctx.Done()
					}
					return ctx.Err()
				}
				workflows.Register(env)
				w.Register(env)
				env.ExecuteWorkflow(name, in(w))
				err := env.GetWorkflowError()
				if asked.Load() <= int64(n) {
					if n == 0 || err != nil {
						t.Errorf("after %d activities: %v", n, err)
					}
					return
				}
				if !temporal.IsCanceledError(err) {
					t.Errorf("cancelled at activity %d: %v", n, err)
				}
			}
		})
	}
}
