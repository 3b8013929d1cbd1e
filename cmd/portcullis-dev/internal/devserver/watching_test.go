package devserver

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/cmd/internal/config"
	"portcullis.dev/portcullis/cmd/internal/daemon"
	"portcullis.dev/portcullis/workflows/contract"
)

// wellRancher is a Rancher that is always there.
type wellRancher struct{}

func (wellRancher) Check(context.Context) error { return nil }
func (wellRancher) Start(context.Context) error { return nil }

// stands is a run that is in a state, and stays there until it is told to end in another.
func stands(ctx workflow.Context, pipeline, state string, since time.Time) error {
	status := contract.RolloutStatus{}
	if state == string(contract.StateApproval) {
		status.Gate = &contract.GateState{Since: since, Deadline: since.Add(24 * time.Hour)}
	}
	if err := workflow.SetQueryHandler(ctx, contract.QueryStatus, func() (contract.RolloutStatus, error) { return status, nil }); err != nil {
		return err
	}
	set := func(state string) error {
		return workflow.UpsertTypedSearchAttributes(ctx, contract.AttrPipeline.ValueSet(pipeline), contract.AttrState.ValueSet(state))
	}
	if err := set(state); err != nil {
		return err
	}
	var end string
	workflow.GetSignalChannel(ctx, "end").Receive(ctx, &end)
	if end == "fail" {
		return temporal.NewNonRetryableApplicationError("no", "Invalid", nil)
	}
	workflow.GetMetricsHandler(ctx).WithTags(map[string]string{"pipeline": pipeline, "mode": "promote", "state": end}).Counter("portcullis_rollouts_total").Inc(1)
	return set(end)
}

// startDaemon runs a daemon on the server, and returns where it listens and how to end it.
func startDaemon(t *testing.T, s *Server) (url string, stop func()) {
	t.Helper()
	ports, err := freePorts(1)
	require.NoError(t, err)
	cfg := config.Server{Temporal: config.Temporal{Address: s.Address()}, Metrics: config.Metrics{Listen: hostPort(ports[0])}}
	config.SetServerDefaults(&cfg)
	d, err := daemon.New(daemon.Options{
		Config: cfg, Version: "test", Logger: slog.New(slog.DiscardHandler),
		Build: func(config.Server, string) (*daemon.Parts, error) {
			return &daemon.Parts{Rancher: wellRancher{}, Register: func(r worker.Registry) {
				for _, name := range []string{contract.RolloutWorkflow, contract.PromoteWorkflow, contract.MigrateWorkflow} {
					r.RegisterWorkflowWithOptions(stands, workflow.RegisterOptions{Name: name})
				}
			}}, nil
		},
	})
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- d.Run(context.Background()) }()
	return "http://" + hostPort(ports[0]), func() { d.Stop(); require.NoError(t, <-done) }
}

func fetch(url string) (int, string) {
	response, err := http.Get(url)
	if err != nil {
		return 0, ""
	}
	defer func() { _ = response.Body.Close() }()
	body, _ := io.ReadAll(response.Body)
	return response.StatusCode, string(body)
}

// A real daemon on a real Temporal: it becomes ready by polling, and tells the
// state of rollouts from the index, rightly also when it has just started.
func TestADaemonTellsTheStateOfTheWorld(t *testing.T) {
	if testing.Short() {
		t.Skip("left out by -short: starts a Temporal server")
	}
	ports, err := freePorts(2)
	require.NoError(t, err)
	s, err := Start(Options{
		Database: filepath.Join(t.TempDir(), "temporal.db"), Port: ports[0], UIPort: ports[1],
		Namespace: "default", Retention: Retention, Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Stop()) }()
	url, stop := startDaemon(t, s)
	began := time.Now()
	require.Eventually(t, func() bool { code, _ := fetch(url + "/readyz"); return code == http.StatusOK }, 30*time.Second, 20*time.Millisecond)
	t.Logf("ready after %s", time.Since(began).Round(time.Millisecond))

	c := dial(t, s.Address())
	defer c.Close()
	since := time.Now().Add(-5 * time.Hour).UTC().Truncate(time.Second)
	begin := func(kind, id, pipeline string, state contract.State) {
		_, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: id, TaskQueue: contract.DefaultTaskQueue}, kind, pipeline, string(state), since)
		require.NoError(t, err)
	}
	begin(contract.RolloutWorkflow, contract.RolloutID("a"), "a", contract.StatePromoting)
	begin(contract.PromoteWorkflow, contract.PromoteID("a", "prod"), "a", contract.StateSettling)
	begin(contract.RolloutWorkflow, contract.RolloutID("b"), "b", contract.StateApproval)
	begin(contract.RolloutWorkflow, contract.RolloutID("c"), "c", contract.StateSoaking)
	begin(contract.RolloutWorkflow, contract.RolloutID("d"), "d", contract.StatePlanning)
	begin(contract.MigrateWorkflow, contract.MigrateID("x"), "", contract.StateMigrating)
	require.NoError(t, c.SignalWorkflow(t.Context(), contract.RolloutID("c"), "", "end", string(contract.StateRolledBack)))
	require.NoError(t, c.SignalWorkflow(t.Context(), contract.RolloutID("d"), "", "end", "fail"))

	want := []string{
		`portcullis_rollouts{state="settling",waiting_for="fleet"} 1`,
		`portcullis_rollouts{state="awaiting-approval",waiting_for="people"} 1`,
		`portcullis_rollouts{state="soaking",waiting_for="time"} 0`,
		`portcullis_migrations{state="migrating",waiting_for="cluster"} 1`,
		`portcullis_rollouts_ended_last_day{state="rolled-back"} 1`,
		`portcullis_rollouts_ended_last_day{state="failed"} 1`,
		`portcullis_gates_waiting{kind="rollout"} 1`,
		`portcullis_gate_oldest_timestamp_seconds{kind="rollout"} ` + fmt.Sprintf("%g", float64(since.Unix())),
		`portcullis_dependency_up{dependency="worker"} 1`,
	}
	tells := func(url string) func() bool {
		return func() bool {
			_, body := fetch(url + "/metrics")
			for _, line := range want {
				if !strings.Contains(body, line) {
					return false
				}
			}
			return true
		}
	}
	if !assertEventually(tells(url), time.Minute) {
		_, body := fetch(url + "/metrics")
		t.Fatalf("not told: %v\n%s", want, body)
	}
	_, body := fetch(url + "/metrics")
	for _, name := range []string{
		"temporal_request_total{", "temporal_request_latency_seconds_bucket{", "temporal_worker_task_slots_available{", "temporal_num_pollers{",
		"temporal_workflow_task_execution_latency_seconds_bucket{", "temporal_workflow_task_schedule_to_start_latency_seconds_bucket{", "portcullis_rollouts_total{",
	} {
		require.Contains(t, body, name)
	}
	require.NotContains(t, body, `pipeline="`)
	stop()
	code, _ := fetch(url + "/livez")
	require.Zero(t, code, "nothing listens any more")

	url, stop = startDaemon(t, s)
	defer stop()
	require.True(t, assertEventually(tells(url), time.Minute), "the next daemon tells the same")
}

func assertEventually(ok func() bool, within time.Duration) bool {
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if ok() {
			return true
		}
	}
	return false
}
