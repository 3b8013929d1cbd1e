package daemon

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/workflows/contract"
)

// program finds one of Prometheus's: on the path, or where `make prometheus` unpacks it.
func program(t *testing.T, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	path, err := filepath.Abs(filepath.Join(repo, "bin", name))
	require.NoError(t, err)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("%s is neither on the path nor at bin/%s: `make prometheus` fetches Debian's", name, name)
	}
	return path
}

func TestAlertRules(t *testing.T) {
	promtool := program(t, "promtool")
	for _, args := range [][]string{{"check", "rules", rulesFile}, {"check", "config", "--syntax-only", repo + "/deploy/prometheus/prometheus.yaml"}, {"test", "rules", ruleTestsFile}} {
		out, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput()
		require.NoError(t, err, "%s: %s", args, out)
	}
}

// The names and helps of the metrics are as Prometheus's own linter wants them.
func TestMetricsAreByConvention(t *testing.T) {
	promtool := program(t, "promtool")
	d := newReal(t)
	fill(t, d)
	server := httptest.NewServer(d.routes())
	defer server.Close()
	response, err := http.Get(server.URL + "/metrics")
	require.NoError(t, err)
	defer func() { require.NoError(t, response.Body.Close()) }()
	cmd := exec.CommandContext(t.Context(), promtool, "check", "metrics")
	cmd.Stdin = response.Body
	out, err := cmd.CombinedOutput()
	var found []string
	for line := range strings.Lines(string(out)) {
		// The SDK gives its metrics, and those that workflows write through it, no help.
		if strings.HasPrefix(line, "portcullis_") && !strings.Contains(line, "no help text") {
			found = append(found, line)
		}
	}
	require.Empty(t, found, "%v", err)
}

// fill gives every metric of a daemon a value, as its work would.
func fill(t *testing.T, d *Daemon) {
	t.Helper()
	for _, c := range d.parts.Collectors {
		fillOne(t, c)
	}
	for _, dep := range dependencies {
		d.health.saw(dep, nil)
	}
	d.metrics.activities.count("deliver.Settle", errs.Unavailable("x"))
	now := time.Now()
	d.world.now = time.Now
	require.NoError(t, d.world.read(t.Context(), &fakeIndex{
		running: []*workflowpb.WorkflowExecutionInfo{
			rolloutRun("a", contract.StateApproval), rolloutRun("b", contract.StateSettling), migrateRun("c", contract.StateApproval),
		},
		ended: []*workflowpb.WorkflowExecutionInfo{end(rolloutRun("c", contract.StateRolledBack), enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED, now)},
		gates: map[string]*contract.GateState{
			contract.RolloutID("a"): {Since: now.Add(-time.Hour), Deadline: now.Add(time.Hour)}, contract.MigrateID("c"): {Since: now.Add(-time.Hour), Deadline: now.Add(time.Hour)},
		},
	}))
	// What workflows and the SDK write.
	tags := map[string]string{
		"state": "verified", "kind": "last-verified", "live": "true", "proven": "false", "operation": "x", "worker_type": "x", "poller_type": "x",
		"workflow_type": "Rollout", "what": "approve", "via": "cli", "outcome": "taken", "activity_type": "deliver.Settle", "mode": "promote",
	}
	sdk := d.metrics.sdk.WithTags(tags)
	for _, name := range []string{
		"portcullis_rollouts_total", "portcullis_rollbacks_total", "portcullis_migrations_total", "portcullis_decisions_total",
		"temporal_request", "temporal_request_failure", "temporal_workflow_task_execution_failed",
	} {
		sdk.Counter(name).Inc(1)
	}
	for _, name := range []string{
		"portcullis_rollout_duration", "portcullis_migration_duration", "portcullis_verdict_own_time", "temporal_request_latency",
		"temporal_activity_schedule_to_start_latency", "temporal_workflow_task_schedule_to_start_latency", "temporal_activity_execution_latency", "temporal_workflow_task_execution_latency",
	} {
		sdk.Timer(name).Record(2 * time.Second)
	}
	for _, name := range []string{"temporal_worker_task_slots_used", "temporal_worker_task_slots_available", "temporal_num_pollers"} {
		sdk.Gauge(name).Update(3)
	}
}

var labelsOf = regexp.MustCompile(`variableLabels: \{([^}]*)\}`)

// fillOne gives a collector a value. Of probes there is one that failed, which an alert counts.
func fillOne(t *testing.T, c prometheus.Collector) {
	t.Helper()
	found := make(chan *prometheus.Desc, 10)
	c.Describe(found)
	values := prometheus.Labels{}
	if m := labelsOf.FindStringSubmatch((<-found).String()); m != nil && m[1] != "" {
		for name := range strings.SplitSeq(m[1], ",") {
			values[name] = map[string]string{"outcome": "error", "phase": "settling", "reason": "clusters"}[name]
			if values[name] == "" {
				values[name] = "x"
			}
		}
	}
	switch c := c.(type) {
	case *prometheus.CounterVec:
		c.With(values).Inc()
	case *prometheus.GaugeVec:
		c.With(values).Inc()
	case *prometheus.HistogramVec:
		c.With(values).Observe(1)
	case prometheus.Histogram:
		c.Observe(1)
	case prometheus.Gauge:
		c.Inc()
	case prometheus.Counter:
		c.Inc()
	default:
		t.Fatalf("a collector of type %T is not filled", c)
	}
}

// fakeFelix exports what the dashboard asks of Felix, under the names of its source.
func fakeFelix(t *testing.T) *httptest.Server {
	t.Helper()
	registry := prometheus.NewRegistry()
	names := map[string]bool{}
	for _, expr := range queries(t) {
		for _, name := range metricsIn(expr) {
			if strings.HasPrefix(name, "felix_") {
				names[name] = true
			}
		}
	}
	for name := range names {
		if name == "felix_int_dataplane_apply_time_seconds" {
			s := prometheus.NewSummary(prometheus.SummaryOpts{Name: name, Help: "x", Objectives: map[float64]float64{.5: .05, .99: .001}})
			s.Observe(1)
			registry.MustRegister(s)
			continue
		}
		registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: "x"}))
	}
	return httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
}

// A real Prometheus scrapes a real daemon's endpoint, and every query of the
// dashboard and of the alerts is run against it: each is understood, and each of
// the dashboard's finds something.
func TestEveryQueryRunsAgainstPrometheus(t *testing.T) {
	if testing.Short() {
		t.Skip("left out by -short: starts a Prometheus")
	}
	binary := program(t, "prometheus")
	d := newReal(t)
	fill(t, d)
	daemon := httptest.NewServer(d.routes())
	defer daemon.Close()
	calico := fakeFelix(t)
	defer calico.Close()
	prom := startPrometheus(t, binary, strings.TrimPrefix(daemon.URL, "http://"), strings.TrimPrefix(calico.URL, "http://"))

	// rate() needs two samples, and counters that move.
	require.Eventually(t, func() bool {
		fill(t, d)
		n := len(prom.query(t, `rate(portcullis_probe_results_total[1m]) > 0 and on () count_over_time(felix_int_dataplane_failures[1m]) > 1 and on () rate(temporal_request_latency_seconds_count[1m]) > 0`))
		return n > 0
	}, time.Minute, 300*time.Millisecond)

	for _, p := range panels(t) {
		for _, target := range p.Targets {
			expr := strings.ReplaceAll(target.Expr, "$__rate_interval", "1m")
			require.NotEmpty(t, prom.query(t, expr), "panel %s finds nothing: %s", p.Title, expr)
		}
	}
	for _, r := range rules(t) {
		prom.query(t, r.Expr)
	}
	require.Empty(t, prom.query(t, "portcullis_made_up"))
}

type server struct{ url string }

// query runs an instant query; one that is not understood fails the test.
func (s server) query(t *testing.T, expr string) []json.RawMessage {
	t.Helper()
	response, err := http.Get(s.url + "/api/v1/query?query=" + url.QueryEscape(expr))
	require.NoError(t, err)
	defer func() { require.NoError(t, response.Body.Close()) }()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	var answer struct {
		Status, Error string
		Data          struct{ Result []json.RawMessage }
	}
	require.NoError(t, json.Unmarshal(body, &answer))
	require.Equal(t, "success", answer.Status, "%s: %s", expr, answer.Error)
	return answer.Data.Result
}

func startPrometheus(t *testing.T, binary, daemon, calico string) server {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "prometheus.yaml")
	rulesPath, err := filepath.Abs(rulesFile)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `
global: {scrape_interval: 500ms, scrape_timeout: 450ms, evaluation_interval: 1s}
rule_files: [%q]
scrape_configs:
- {job_name: portcullis, static_configs: [{targets: [%q]}]}
- {job_name: calico, static_configs: [{targets: [%q]}]}
`, rulesPath, daemon, calico), 0o600))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	logFile, err := os.Create(filepath.Join(dir, "log"))
	require.NoError(t, err)
	cmd := exec.Command(binary, "--config.file", file, "--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", address)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	// It ends with this process, also when that is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = logFile.Close()
		if t.Failed() {
			data, _ := os.ReadFile(logFile.Name())
			slog.Info("Prometheus said", "log", string(data))
		}
	})
	s := server{url: "http://" + address}
	require.Eventually(t, func() bool {
		response, err := http.Get(s.url + "/-/ready")
		if err != nil {
			return false
		}
		defer func() { _ = response.Body.Close() }()
		return response.StatusCode == http.StatusOK
	}, time.Minute, 100*time.Millisecond)
	return s
}
