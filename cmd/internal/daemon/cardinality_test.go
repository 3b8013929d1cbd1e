package daemon

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/cmd/internal/config"
)

// newReal is a daemon of the real parts, with metrics, that talks to nothing.
func newReal(t *testing.T) *Daemon {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte("a:b"), 0o600))
	cfg := config.Server{Rancher: config.Rancher{URL: "https://127.0.0.1:1", TokenFile: file}, Metrics: config.Metrics{Listen: "127.0.0.1:0"}}
	config.SetServerDefaults(&cfg)
	d, err := New(Options{Config: cfg, Version: "v1", Commit: "abc", Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	return d
}

func gather(t *testing.T, d *Daemon) map[string]*dto.MetricFamily {
	t.Helper()
	families, err := d.metrics.registry.Gather()
	require.NoError(t, err)
	out := map[string]*dto.MetricFamily{}
	for _, f := range families {
		out[f.GetName()] = f
	}
	return out
}

func TestCountersOfTheSDKAreCounters(t *testing.T) {
	d := newReal(t)
	sdk := d.metrics.sdk.WithTags(map[string]string{"operation": "x"})
	sdk.Counter("temporal_request").Inc(1)
	sdk.Counter("portcullis_rollouts_total").Inc(2)
	sdk.Gauge("temporal_num_pollers").Update(3)
	sdk.Timer("temporal_request_latency").Record(30 * time.Millisecond)
	got := gather(t, d)
	require.Equal(t, dto.MetricType_COUNTER, got["temporal_request_total"].GetType())
	require.Equal(t, dto.MetricType_COUNTER, got["portcullis_rollouts_total"].GetType())
	require.InDelta(t, 2, got["portcullis_rollouts_total"].GetMetric()[0].GetCounter().GetValue(), 0)
	require.Equal(t, dto.MetricType_GAUGE, got["temporal_num_pollers"].GetType())
	require.InDelta(t, .001, got["temporal_request_latency_seconds"].GetMetric()[0].GetHistogram().GetBucket()[0].GetUpperBound(), 1e-9)
	require.Contains(t, got, "go_goroutines")
	require.Equal(t, "v1", label(got["portcullis_build_info"].GetMetric()[0], "version"))
	require.Equal(t, "abc", label(got["portcullis_build_info"].GetMetric()[0], "commit"))
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// A hundred pipelines of many environments and thousands of clusters add no series
// to what few of them make: no label names what people make as many of as they like.
func TestCardinality(t *testing.T) {
	d := newReal(t)
	series := func() (n int) {
		for _, f := range gather(t, d) {
			if strings.HasPrefix(f.GetName(), "portcullis_") || strings.HasPrefix(f.GetName(), "temporal_") {
				n += len(f.GetMetric())
			}
		}
		return n
	}
	work := func(pipelines, clusters int) {
		for p := range pipelines {
			for _, state := range []string{"verified", "rolled-back", "failed"} {
				m := d.metrics.sdk.WithTags(map[string]string{"pipeline": fmt.Sprint("p", p), "environment": fmt.Sprint("e", p%50), "mode": "promote", "state": state})
				m.Counter("portcullis_rollouts_total").Inc(1)
				m.Timer("portcullis_rollout_duration").Record(time.Hour)
			}
			d.metrics.sdk.WithTags(map[string]string{"pipeline": fmt.Sprint("p", p), "environment": fmt.Sprint("e", p)}).Timer("portcullis_verdict_own_time").Record(time.Second)
		}
		for c := range clusters {
			d.metrics.sdk.WithTags(map[string]string{"cluster": fmt.Sprint("c", c)}).Counter("portcullis_migrations_total").Inc(1)
			d.metrics.activities.count("verify.Measure", errorOfType(fmt.Sprint("made-up-", c)))
			d.metrics.activities.count("verify.Measure", errs.Unavailable("cluster %d", c))
		}
	}
	work(1, 1)
	few := series()
	work(200, 3000)
	require.Equal(t, few, series())
}

// Whatever tag somebody adds, one metric stays small.
func TestTagsThatNobodyThoughtOfAreBounded(t *testing.T) {
	d := newReal(t)
	for i := range 4 * seriesMost {
		d.metrics.sdk.WithTags(map[string]string{"something": fmt.Sprint(i)}).Counter("portcullis_rollouts_total").Inc(1)
	}
	f := gather(t, d)["portcullis_rollouts_total"]
	require.LessOrEqual(t, len(f.GetMetric()), seriesMost)
	total := 0.0
	for _, m := range f.GetMetric() {
		total += m.GetCounter().GetValue()
	}
	require.InDelta(t, 4*seriesMost, total, 0, "what is above the bound is counted together")
}

// No metric that the daemon describes has a label for a thing of which there is no end.
func TestNoLabelNamesAThing(t *testing.T) {
	d := newReal(t)
	described := make(chan *prometheus.Desc, 1000)
	for _, c := range append(d.parts.Collectors, d.world, d.health.up, d.metrics.activities.failures) {
		c.Describe(described)
	}
	close(described)
	seen := 0
	for desc := range described {
		seen++
		for _, bad := range []string{"cluster", "node", "environment", "pod", "namespace", "error", "reason_text", "user", "revision"} {
			require.NotRegexp(t, `variableLabels: \{([^}]*,)?`+bad+`(,[^}]*)?\}`, desc.String())
		}
		// What is told of a pipeline's last audit: one pipeline makes a handful.
		if !strings.Contains(desc.String(), `"portcullis_drift_last_audit_`) {
			require.NotRegexp(t, `variableLabels: \{([^}]*,)?pipeline(,[^}]*)?\}`, desc.String())
		}
	}
	require.Greater(t, seen, 20)
}
