package verifyclusters_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/workflows"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/evidence"
	"portcullis.dev/portcullis/workflows/internal/harness"
	"portcullis.dev/portcullis/workflows/internal/world"
	"portcullis.dev/portcullis/workflows/options"
)

func run(t *testing.T, w *world.World, in contract.VerifyInput) (contract.VerifyResult, error) {
	t.Helper()
	env := harness.Environment()
	workflows.Register(env)
	w.Register(env)
	in.Pipeline, in.Environment, in.Requirements = "policies", "prod", w.Pipeline.Spec.Probes
	if in.Clusters == nil {
		in.Clusters = w.Units()[0].Clusters
	}
	env.ExecuteWorkflow(contract.VerifyWorkflow, in)
	var out contract.VerifyResult
	if err := env.GetWorkflowError(); err != nil {
		return out, err
	}
	return out, env.GetWorkflowResult(&out)
}

func many(n int) *world.World { return world.Make(world.Env{Name: "prod", Waves: []int{n}}) }

func TestFanOutIsBounded(t *testing.T) {
	w := many(contract.BatchSize)
	var now, most atomic.Int64
	w.Hook = func(_ context.Context, name, _ string) error {
		n := now.Add(1)
		defer now.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		time.Sleep(5 * time.Millisecond)
		return nil
	}
	out, err := run(t, w, contract.VerifyInput{Mode: verify.Verify, EnsureAgent: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Clusters) != contract.BatchSize {
		t.Fatalf("%d clusters", len(out.Clusters))
	}
	for i, c := range out.Clusters {
		if c.Cluster != w.Units()[0].Clusters[i].Name || !c.Passed || c.Hash == "" {
			t.Errorf("cluster %d: %+v", i, c)
		}
	}
	if got := most.Load(); got > options.ClustersAtOnce || got < 2 {
		t.Errorf("%d at a time", got)
	}
}

func TestBaselineAndCompare(t *testing.T) {
	w := many(3)
	base, err := run(t, w, contract.VerifyInput{Mode: verify.Baseline, Keep: true})
	if err != nil || base.Kept == nil {
		t.Fatalf("%+v %v", base, err)
	}
	same, err := run(t, w, contract.VerifyInput{Mode: verify.Compare, Want: base.Kept})
	if err != nil || !same.Clusters[0].Passed || same.Kept != nil {
		t.Errorf("%+v %v", same, err)
	}
	w.Disturb("prod-0-1", "x")
	other, err := run(t, w, contract.VerifyInput{Mode: verify.Compare, Want: base.Kept})
	if err != nil || !other.Clusters[0].Passed || other.Clusters[1].Passed {
		t.Errorf("%+v %v", other, err)
	}
	fewer, err := evidence.Pack(nil)
	if err != nil {
		t.Fatal(err)
	}
	none, err := run(t, w, contract.VerifyInput{Mode: verify.Compare, Want: &fewer})
	if err != nil || none.Clusters[0].Passed || none.Clusters[0].Reason == "" {
		t.Errorf("no baseline passes: %+v %v", none, err)
	}
}

func TestBadInput(t *testing.T) {
	w := many(contract.BatchSize + 1)
	if _, err := run(t, w, contract.VerifyInput{Mode: verify.Verify}); errs.TypeOf(err) != errs.TypeInvalid {
		t.Errorf("too many clusters: %v", err)
	}
	if _, err := run(t, many(1), contract.VerifyInput{Mode: verify.Compare}); errs.TypeOf(err) != errs.TypeInvalid {
		t.Errorf("no baseline: %v", err)
	}
	if _, err := run(t, many(1), contract.VerifyInput{Mode: verify.Compare, Want: &contract.BaselineBatch{Data: []byte("x")}}); errs.TypeOf(err) != errs.TypeInvalid {
		t.Errorf("broken baseline: %v", err)
	}
}

// A soak ends at the first failure: the others are not watched for another hour.
func TestSoakEndsAtTheFirstFailure(t *testing.T) {
	w := many(3)
	w.Hook = func(ctx context.Context, name, subject string) error {
		if subject == "prod-0-1" {
			time.Sleep(20 * time.Millisecond)
			return errs.Failed("path shut")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * time.Second):
			return nil
		}
	}
	begun := time.Now()
	out, err := run(t, w, contract.VerifyInput{Mode: verify.Soak, Duration: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if time.Since(begun) > time.Second {
		t.Errorf("it took %s", time.Since(begun))
	}
	if out.Clusters[1].Reason != "path shut" || out.Clusters[0].Passed || out.Clusters[2].Passed {
		t.Errorf("%+v", out.Clusters)
	}
}
