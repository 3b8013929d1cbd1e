package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/migrate"
	"portcullis.dev/portcullis/activities/preflight"
	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/cmd/internal/config"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/contract"
)

// logged is what one line says, by key.
func logged(t *testing.T, line string) map[string]any {
	t.Helper()
	out := map[string]any{}
	require.NoError(t, json.Unmarshal([]byte(line), &out), line)
	// A key that stands twice is lost in a map, and confuses whoever reads the line.
	for _, key := range subjects {
		require.LessOrEqual(t, strings.Count(line, `"`+key+`":`), 1, line)
	}
	return out
}

func TestEachLineSaysWhatItIsAbout(t *testing.T) {
	for name, c := range map[string]struct {
		workflow string
		with     []any
		args     []any
		want     map[string]any
	}{
		"rollout":        {contract.RolloutID("net"), nil, nil, map[string]any{"rollout": "net"}},
		"promotion":      {contract.PromoteID("net", "prod"), nil, nil, map[string]any{"rollout": "net", "environment": "prod"}},
		"measurement":    {contract.VerifyID("net", "prod", "gate", 3), nil, []any{"cluster", "c1"}, map[string]any{"rollout": "net", "environment": "prod", "cluster": "c1"}},
		"gate preflight": {contract.PreflightID("net", "prod", 0), nil, nil, map[string]any{"rollout": "net", "environment": "prod"}},
		"in Slack":       {contract.SlackID("net"), nil, nil, map[string]any{"rollout": "net"}},
		"migration":      {contract.MigrateID("c1"), nil, nil, map[string]any{"cluster": "c1"}},
		"node":           {contract.MigrateNodeID("c1", "n1"), []any{"cluster", "c1"}, nil, map[string]any{"cluster": "c1", "node": "n1"}},
		"said before":    {contract.PromoteID("net", "prod"), []any{"environment", "prod"}, nil, map[string]any{"rollout": "net", "environment": "prod"}},
		"said now":       {contract.RolloutID("net"), nil, []any{"environment", "dev"}, map[string]any{"rollout": "net", "environment": "dev"}},
		"said empty":     {contract.RolloutID("net"), nil, []any{"environment", ""}, map[string]any{"rollout": "net"}},
		"said twice":     {contract.RolloutID("net"), []any{"environment", "dev"}, []any{"environment", "dev"}, map[string]any{"rollout": "net", "environment": "dev"}},
		"by hand":        {"preflight/1700000000", nil, nil, map[string]any{}},
		"of nothing":     {"inventory/1700000000", nil, nil, map[string]any{}},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			// As the SDK does it: the ID by With, then what the workflow adds.
			l := log.With(log.NewStructuredLogger(NewLogger(&out, config.Log{Format: "json"})), keyWorkflowID, c.workflow)
			l = log.With(l, c.with...)
			l.Info("x", c.args...)
			line := logged(t, out.String())
			got := map[string]any{}
			for _, key := range subjects {
				if v, ok := line[key]; ok {
					got[key] = v
				}
			}
			require.Equal(t, c.want, got)
		})
	}
}

// The SDK's own lines give the ID with the line.
func TestLinesOfTheSDKAreCompleted(t *testing.T) {
	var out bytes.Buffer
	l := NewLogger(&out, config.Log{Format: "json"})
	l.Warn("Workflow panic", keyWorkflowID, contract.PromoteID("net", "prod"))
	require.Equal(t, "prod", logged(t, out.String())["environment"])
	out.Reset()
	l.Error(sdkActivityError, keyWorkflowID, contract.PromoteID("net", "prod"))
	require.Empty(t, out.String(), "ours says it, with the cluster")
	out.Reset()
	l.WithGroup("g").Info("x", "a", 1)
	require.Contains(t, out.String(), `"g":{"a":1}`)
}

func TestFailedActivitiesAreCountedAndLoggedWithTheirCluster(t *testing.T) {
	var out bytes.Buffer
	m := newActivityMetrics()
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(log.NewStructuredLogger(NewLogger(&out, config.Log{Format: "json"})))
	env := suite.NewTestActivityEnvironment()
	env.SetWorkerOptions(worker.Options{Interceptors: []interceptor.WorkerInterceptor{&watching{metrics: m}}})

	type input struct{ Cluster rancher.Cluster }
	var fail error
	env.RegisterActivityWithOptions(func(ctx context.Context, _ input) error {
		activity.GetLogger(ctx).Info("inside")
		return fail
	}, activity.RegisterOptions{Name: "x.Do"})
	env.RegisterActivityWithOptions(func(context.Context) error { panic("bug") }, activity.RegisterOptions{Name: "x.Panics"})

	in := input{rancher.Cluster{Name: "c1"}}
	for _, fail = range []error{
		errs.Unavailable("down"), errs.Unavailable("down"), errs.Denied("no"), errors.New("odd"), context.Canceled,
		// What another program made up must not make a series.
		errorOfType("made-up-1"), errorOfType("made-up-2"), nil,
	} {
		_, err := env.ExecuteActivity("x.Do", in)
		require.Equal(t, fail == nil, err == nil)
	}
	_, err := env.ExecuteActivity("x.Panics")
	require.Error(t, err)

	for kind, want := range map[string]float64{errs.TypeUnavailable: 2, errs.TypeDenied: 1, "Other": 3, "Canceled": 1} {
		require.InDelta(t, want, testutil.ToFloat64(m.failures.WithLabelValues("x.Do", kind)), 0, kind)
	}
	require.InDelta(t, 1, testutil.ToFloat64(m.failures.WithLabelValues("x.Panics", "Panic")), 0)
	require.Equal(t, 5, testutil.CollectAndCount(m.failures))

	for line := range strings.Lines(out.String()) {
		if l := logged(t, line); l["msg"] == "inside" || strings.HasPrefix(l["msg"].(string), "activity failed") {
			require.Equal(t, "c1", l["cluster"], line)
		}
	}
	require.Contains(t, out.String(), `"msg":"activity failed; it is tried again"`)
	require.Contains(t, out.String(), `"msg":"activity failed","`)
}

func errorOfType(kind string) error { return temporal.NewApplicationError("x", kind) }

// inputsOfActivities are the inputs that are about one cluster.
func inputsOfActivities(c rancher.Cluster) []any {
	return []any{
		verify.AgentInput{Cluster: c}, verify.Input{Cluster: c}, &verify.Input{Cluster: c},
		preflight.Input{Cluster: c}, preflight.PlanInput{Input: preflight.Input{Cluster: c}},
		migrate.ClaimInput{Cluster: c}, migrate.StepInput{Cluster: c}, migrate.NodesInput{Cluster: c}, migrate.RequirementsInput{Cluster: c},
	}
}

// Every activity whose input names a cluster names it in the field that is looked for.
func TestTheClusterIsFoundInEachInput(t *testing.T) {
	c := rancher.Cluster{Name: "c1"}
	for _, in := range inputsOfActivities(c) {
		require.Equal(t, "c1", clusterOf([]any{in}), "%T", in)
	}
	require.Empty(t, clusterOf(nil))
	require.Empty(t, clusterOf([]any{"x"}))
	require.Empty(t, clusterOf([]any{struct{ Cluster string }{"x"}}))
	require.Empty(t, clusterOf([]any{(*struct{})(nil)}))
}
