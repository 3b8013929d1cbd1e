package drift_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/rancher/drift"
	"portcullis.dev/portcullis/workflows"
	"portcullis.dev/portcullis/workflows/contract"
	flow "portcullis.dev/portcullis/workflows/drift"
	"portcullis.dev/portcullis/workflows/internal/harness"
	"portcullis.dev/portcullis/workflows/internal/world"
)

func execute(t *testing.T, w *world.World, last *contract.DriftResult) (out contract.DriftResult, err error) {
	t.Helper()
	env := harness.Environment()
	workflows.Register(env)
	w.Register(env)
	if last != nil {
		env.SetLastCompletionResult(*last)
	}
	env.ExecuteWorkflow(contract.DriftWorkflow, contract.DriftInput{Pipeline: w.Pipeline, StartedBy: "ann"})
	if err := env.GetWorkflowError(); err != nil {
		return out, err
	}
	return out, env.GetWorkflowResult(&out)
}

func make3() *world.World {
	w := world.Make(world.Env{Name: "dev"}, world.Env{Name: "prod", Waves: []int{1, 60}})
	w.Drifting, w.Moving = map[string]string{}, map[string]string{}
	return w
}

func clusters(t *testing.T, r contract.DriftResult) map[string]drift.Cluster {
	t.Helper()
	out := map[string]drift.Cluster{}
	for _, data := range r.Batches {
		found, err := drift.Unpack(data)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range found {
			out[c.Cluster] = c
		}
	}
	return out
}

func TestAudit(t *testing.T) {
	for name, c := range map[string]struct {
		arrange func(*world.World)
		state   contract.State
		reason  string
	}{
		"clean":   {func(*world.World) {}, contract.StateClean, ""},
		"drifted": {func(w *world.World) { w.Drifting["prod-1-7"] = "x" }, contract.StateDrifted, "1 extra"},
		"ignored": {func(w *world.World) {
			w.Drifting["prod-1-7"] = "x1"
			w.Pipeline.Spec.Drift = &contract.Drift{Ignore: []contract.DriftIgnore{{Name: "x*", Reason: "known"}}}
		}, contract.StateClean, ""},
		"a batch that fails": {func(w *world.World) {
			w.Hook = func(_ context.Context, name, subject string) error {
				if name == "Audit" && strings.HasPrefix(subject, "dev") {
					return errs.Denied("the token is refused")
				}
				return nil
			}
		}, contract.StateUnknown, "1 cluster unknown"},
		"in motion": {func(w *world.World) { w.Moving["policies-prod-wave1"] = "a rollout has staged it" }, contract.StateClean, "60 clusters left out, which a rollout is changing"},
		"not met": {func(w *world.World) {
			w.Pipeline.Spec.Drift = &contract.Drift{Probes: true}
			w.Bad = func(cluster, _ string) bool { return cluster == "prod-1-3" }
		}, contract.StateDrifted, "requirements not met on 1 cluster"},
	} {
		t.Run(name, func(t *testing.T) {
			w := make3()
			c.arrange(w)
			r, err := execute(t, w, nil)
			if err != nil {
				t.Fatal(err)
			}
			if r.State != c.state || r.Reason != c.reason {
				t.Errorf("%s: %s", r.State, r.Reason)
			}
			if found := clusters(t, r); len(found) != 62 || r.Clusters[drift.Clean]+r.Clusters[drift.Drifted]+r.Clusters[drift.Unknown]+r.Clusters[drift.Moving] != 62 {
				t.Errorf("%d clusters, %v", len(found), r.Clusters)
			}
			switch name {
			case "drifted":
				if got := clusters(t, r)["prod-1-7"]; got.State != drift.Drifted || got.Findings[0].Name != "x" {
					t.Errorf("%+v", got)
				}
			case "not met":
				if r.Wire == nil || r.Wire.Unmet != 1 || r.Wire.Met != 61 || len(r.Wire.Clusters) != 1 || r.Wire.Clusters[0].Cluster != "prod-1-3" {
					t.Errorf("%+v", r.Wire)
				}
			case "in motion":
				if r.Clusters[drift.Moving] != 60 || clusters(t, r)["prod-1-0"].Reason != "a rollout has staged it" {
					t.Errorf("%v", r.Clusters)
				}
			case "ignored":
				if r.Ignored != 1 {
					t.Errorf("%d ignored", r.Ignored)
				}
			}
			if slices.ContainsFunc(w.Calls(), func(c string) bool { return strings.HasPrefix(c, "EnsureAgent") }) || w.Writes() > 0 {
				t.Error("an audit wrote something")
			}
			if n := strings.Count(strings.Join(w.Calls(), "\n"), "Audit "); n != 5 {
				t.Errorf("%d batches", n)
			}
		})
	}
}

// A scheduled audit says whether it found something else than the one before.
func TestSince(t *testing.T) {
	w := make3()
	w.Drifting["dev-0-0"] = "x"
	first, err := execute(t, w, nil)
	if err != nil || !first.Since.IsZero() || first.Changed {
		t.Fatalf("%v, %v %t", err, first.Since, first.Changed)
	}
	same, err := execute(t, w, &first)
	if err != nil || same.Since.IsZero() || same.Changed {
		t.Errorf("%v, %v %t", err, same.Since, same.Changed)
	}
	w.Drifting["dev-0-0"] = "y"
	other, err := execute(t, w, &first)
	if err != nil || !other.Changed {
		t.Errorf("%v, %t", err, other.Changed)
	}
	for _, r := range []contract.DriftResult{first, same, other} {
		if text := flow.Markdown(r); !strings.Contains(text, "drifted") || !strings.Contains(text, "portcullis drift report policies") {
			t.Error(text)
		}
	}
}

func TestRefused(t *testing.T) {
	w := make3()
	w.Hook = func(_ context.Context, name, _ string) error {
		if name == "Scope" {
			return errs.Invalid("the ignore has no reason")
		}
		return nil
	}
	if _, err := execute(t, w, nil); errs.TypeOf(err) != errs.TypeInvalid {
		t.Error(err)
	}
}

// A result fits into a history, however much is wrong on however many clusters.
func TestResultIsBounded(t *testing.T) {
	var all []byte
	const batches = 1000 / contract.DriftBatch
	for n := range batches {
		found := make([]drift.Cluster, contract.DriftBatch)
		for i := range found {
			found[i] = drift.Cluster{Cluster: fmt.Sprintf("c-%d-%d", n, i), Environment: "prod", GitRepo: "policies-prod", Revision: world.Old}
			for j := range 200 {
				found[i].Findings = append(found[i].Findings, drift.Finding{
					Category: drift.Changed, Key: drift.Key{APIVersion: drift.Networking, Kind: "NetworkPolicy", Namespace: fmt.Sprintf("ns-%x", rand.Uint64()), Name: fmt.Sprint(j)},
					Changes: []drift.Change{{Path: "spec.ingress", Wished: fmt.Sprintf("%x", rand.Uint64()), Live: fmt.Sprintf("%x", rand.Uint64())}},
				})
			}
			found[i].Settle()
		}
		data, err := drift.Pack(found, 1<<20/batches)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data...)
		if n == 0 {
			back, err := drift.Unpack(data)
			if err != nil || len(back) != contract.DriftBatch || back[0].Counts[drift.Changed] != 200 || len(back[0].Findings)+back[0].LeftOut != 200 {
				t.Fatalf("%v %+v", err, back[0])
			}
		}
	}
	if len(all) > 1<<20 {
		t.Errorf("%d bytes", len(all))
	}
}
