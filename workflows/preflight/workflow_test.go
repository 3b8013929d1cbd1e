package preflight_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/probes/preflight"
	"portcullis.dev/portcullis/workflows"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/internal/harness"
	"portcullis.dev/portcullis/workflows/internal/world"
)

func execute(t *testing.T, w *world.World, in contract.PreflightInput) (out contract.PreflightResult, err error) {
	t.Helper()
	env := harness.Environment()
	workflows.Register(env)
	w.Register(env)
	env.ExecuteWorkflow(contract.PreflightWorkflow, in)
	if err := env.GetWorkflowError(); err != nil {
		return out, err
	}
	return out, env.GetWorkflowResult(&out)
}

func TestPreflight(t *testing.T) {
	deny := func(what string, err error) func(*world.World) {
		return func(w *world.World) {
			w.Hook = func(_ context.Context, name, _ string) error {
				if name == what {
					return err
				}
				return nil
			}
		}
	}
	for name, c := range map[string]struct {
		in      contract.PreflightInput
		arrange func(*world.World)
		want    []string
		status  preflight.Status
		kind    string
	}{
		"all":             {contract.PreflightInput{All: true}, nil, []string{"dev-0-0", "prod-0-0", "prod-1-0", "prod-1-1"}, preflight.Pass, ""},
		"one, twice":      {contract.PreflightInput{Clusters: []string{"dev-0-0", "c-dev-0-0"}}, nil, []string{"dev-0-0"}, preflight.Pass, ""},
		"unknown cluster": {contract.PreflightInput{Clusters: []string{"x"}}, nil, nil, "", errs.TypeNotFound},
		"none":            {contract.PreflightInput{}, nil, nil, "", errs.TypeInvalid},
		"failing": {contract.PreflightInput{Clusters: []string{"dev-0-0"}}, func(w *world.World) {
			w.Bad = func(string, string) bool { return true }
		}, []string{"dev-0-0"}, preflight.Fail, ""},
		"no agent in time":  {contract.PreflightInput{Clusters: []string{"dev-0-0"}}, deny("EnsureAgent", errs.Deadline("late")), []string{"dev-0-0"}, preflight.Pass, ""},
		"agent not allowed": {contract.PreflightInput{Clusters: []string{"dev-0-0"}}, deny("EnsureAgent", errs.Denied("no")), []string{"dev-0-0"}, preflight.Unsure, ""},
		"cannot be checked": {contract.PreflightInput{Clusters: []string{"dev-0-0"}}, deny("Preflight", errs.Denied("no")), []string{"dev-0-0"}, preflight.Unsure, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := world.Make(world.Env{Name: "dev"}, world.Env{Name: "prod", Waves: []int{1, 2}})
			if c.arrange != nil {
				c.arrange(w)
			}
			got, err := execute(t, w, c.in)
			if c.kind != "" {
				if errs.TypeOf(err) != c.kind {
					t.Fatalf("error %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for n, r := range got.Clusters {
				names = append(names, n)
				if (r.Report == nil) != (r.Error != "") {
					t.Errorf("%s: %+v", n, r)
				}
			}
			slices.Sort(names)
			if !slices.Equal(names, c.want) || got.Status != c.status {
				t.Errorf("%v %s", names, got.Status)
			}
			if w.Writes() != 0 {
				t.Error("a preflight wrote")
			}
		})
	}
}

// A result of many clusters that would not fit leaves out what passed.
func TestLargeResults(t *testing.T) {
	w := world.Make(world.Env{Name: "dev", Waves: []int{40}})
	w.Hook = nil
	got, err := execute(t, w, contract.PreflightInput{All: true, Target: preflight.Target{Images: []string{strings.Repeat("x", 60_000)}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range got.Clusters {
		if c.Report.LeftOut != 1 || len(c.Report.Results) != 0 {
			t.Fatalf("%s: %+v", name, c.Report.Results)
		}
	}
}

func TestPlanMigration(t *testing.T) {
	for name, c := range map[string]struct {
		cluster string
		arrange func(*world.World)
		kind    string
	}{
		"by name":         {"dev-0-0", nil, ""},
		"by ID":           {"c-dev-0-0", nil, ""},
		"unknown cluster": {"x", nil, errs.TypeNotFound},
		"no cluster":      {"", nil, errs.TypeNotFound},
		"not allowed": {"dev-0-0", func(w *world.World) {
			w.Hook = func(_ context.Context, name, _ string) error {
				if name == "PlanMigration" {
					return errs.Denied("no")
				}
				return nil
			}
		}, errs.TypeDenied},
	} {
		t.Run(name, func(t *testing.T) {
			w := world.Make(world.Env{Name: "dev"})
			if c.arrange != nil {
				c.arrange(w)
			}
			env := harness.Environment()
			workflows.Register(env)
			w.Register(env)
			env.ExecuteWorkflow(contract.PlanMigrationWorkflow, contract.PlanMigrationInput{
				Cluster: c.cluster, Target: preflight.Target{Version: "v3.28.5"}, Options: migration.Options{Mode: migration.Drain},
			})
			if err := env.GetWorkflowError(); errs.TypeOf(err) != c.kind {
				t.Fatalf("error %v, want %q", err, c.kind)
			}
			if c.kind != "" {
				return
			}
			var out contract.PlanMigrationResult
			if err := env.GetWorkflowResult(&out); err != nil {
				t.Fatal(err)
			}
			if out.Plan.Cluster != "dev-0-0" || out.Plan.Target.Version != "v3.28.5" || len(out.Plan.Hash) != 64 || out.Preflight.Pass != 1 {
				t.Errorf("result %+v", out)
			}
		})
	}
}
