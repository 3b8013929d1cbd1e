package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/types/known/timestamppb"

	"portcullis.dev/portcullis/workflows/contract"
)

var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

// fakeIndex is a Temporal that lists some runs.
type fakeIndex struct {
	running, ended []*workflowpb.WorkflowExecutionInfo
	gates          map[string]*contract.GateState
	err            error
	lists          int
	asked          atomic.Int32
}

func (f *fakeIndex) ListWorkflow(_ context.Context, r *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error) {
	f.lists++
	if f.err != nil {
		return nil, f.err
	}
	all := f.ended
	if strings.HasSuffix(r.GetQuery(), "ExecutionStatus = 'Running'") {
		all = f.running
	}
	from := 0
	if len(r.GetNextPageToken()) > 0 {
		_, _ = fmt.Sscan(string(r.GetNextPageToken()), &from)
	}
	to := min(from+int(r.GetPageSize()), len(all))
	page := &workflowservice.ListWorkflowExecutionsResponse{Executions: all[from:to]}
	if to < len(all) {
		page.NextPageToken = fmt.Append(nil, to)
	}
	return page, nil
}

type answer struct{ data []byte }

func (a answer) HasValue() bool    { return true }
func (a answer) Get(out any) error { return json.Unmarshal(a.data, out) }

func (f *fakeIndex) QueryWorkflow(_ context.Context, id, _, query string, _ ...any) (converter.EncodedValue, error) {
	f.asked.Add(1)
	g, ok := f.gates[id]
	if !ok || query != contract.QueryStatus {
		return nil, errors.New("no answer")
	}
	data, err := json.Marshal(contract.RolloutStatus{RolloutState: contract.RolloutState{Gate: g}})
	return answer{data}, err
}

func run(kind, id string, attributes map[string]string) *workflowpb.WorkflowExecutionInfo {
	e := &workflowpb.WorkflowExecutionInfo{
		Type: &commonpb.WorkflowType{Name: kind}, Execution: &commonpb.WorkflowExecution{WorkflowId: id, RunId: "run-of-" + id},
		Status: enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, SearchAttributes: &commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{}},
	}
	for k, v := range attributes {
		p, err := converter.GetDefaultDataConverter().ToPayload(v)
		if err != nil {
			panic(err)
		}
		e.SearchAttributes.IndexedFields[k] = p
	}
	return e
}

func rolloutRun(pipeline string, state contract.State) *workflowpb.WorkflowExecutionInfo {
	return run(contract.RolloutWorkflow, contract.RolloutID(pipeline), map[string]string{
		contract.AttrPipeline.GetName(): pipeline, contract.AttrState.GetName(): string(state), contract.AttrEnvironment.GetName(): "prod",
	})
}

func promoteRun(pipeline string, state contract.State) *workflowpb.WorkflowExecutionInfo {
	return run(contract.PromoteWorkflow, contract.PromoteID(pipeline, "prod"), map[string]string{
		contract.AttrPipeline.GetName(): pipeline, contract.AttrState.GetName(): string(state),
	})
}

func migrateRun(cluster string, state contract.State) *workflowpb.WorkflowExecutionInfo {
	return run(contract.MigrateWorkflow, contract.MigrateID(cluster), map[string]string{
		contract.AttrCluster.GetName(): cluster, contract.AttrState.GetName(): string(state),
	})
}

func end(e *workflowpb.WorkflowExecutionInfo, status enumspb.WorkflowExecutionStatus, at time.Time) *workflowpb.WorkflowExecutionInfo {
	e.Status, e.CloseTime = status, timestamppb.New(at)
	return e
}

func worldAt(now *time.Time) *world {
	w := newWorld("default", slog.New(slog.DiscardHandler))
	w.now = func() time.Time { return *now }
	return w
}

// told is every series that is told, without those that are 0.
func told(t *testing.T, w *world) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(w)
	families, err := registry.Gather()
	require.NoError(t, err)
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			name := f.GetName()
			if len(labels) > 0 {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			if v := m.GetGauge().GetValue() + m.GetCounter().GetValue(); v != 0 {
				out[name] = v
			}
		}
	}
	return out
}

func TestTheStateOfTheWorld(t *testing.T) {
	const done = enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED
	now := noon
	index := &fakeIndex{
		running: []*workflowpb.WorkflowExecutionInfo{
			rolloutRun("a", contract.StatePromoting), promoteRun("a", contract.StateSettling),
			rolloutRun("b", contract.StateApproval),
			rolloutRun("c", contract.StateApproval),
			rolloutRun("d", contract.StatePaused), promoteRun("d", contract.StateSoaking), // a pause covers it
			rolloutRun("e", ""),
			rolloutRun("f", "a state of the future"),
			promoteRun("orphan", contract.StateRollingBack),
			migrateRun("c1", contract.StateMigrating), migrateRun("c2", contract.StateStopped), migrateRun("c3", contract.StateApproval), migrateRun("c4", ""),
			run("SomethingElse", "x", nil),
		},
		ended: []*workflowpb.WorkflowExecutionInfo{
			end(rolloutRun("a", contract.StateVerified), done, noon.Add(-time.Hour)),
			end(rolloutRun("a", contract.StateVerified), done, noon.Add(-2*time.Hour)),
			end(rolloutRun("b", contract.StateRolledBack), done, noon.Add(-time.Minute)),
			end(rolloutRun("c", contract.StatePlanning), enumspb.WORKFLOW_EXECUTION_STATUS_FAILED, noon.Add(-time.Minute)),
			end(rolloutRun("d", contract.StateSoaking), enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED, noon.Add(-time.Minute)),
			end(migrateRun("c9", contract.StateOriginal), done, noon.Add(-time.Minute)),
		},
		gates: map[string]*contract.GateState{
			contract.RolloutID("b"):  {Since: noon.Add(-3 * time.Hour), Deadline: noon.Add(time.Hour)},
			contract.RolloutID("c"):  {Since: noon.Add(-time.Hour)},
			contract.MigrateID("c3"): {Since: noon.Add(-time.Minute)},
		},
	}
	w := worldAt(&now)
	require.Empty(t, told(t, w), "nothing is told before it was read")
	require.NoError(t, w.read(t.Context(), index))
	at := func(d time.Duration) float64 { return float64(noon.Add(d).Unix()) }
	want := map[string]float64{
		`portcullis_rollouts{state="settling",waiting_for="fleet"}`:           1,
		`portcullis_rollouts{state="awaiting-approval",waiting_for="people"}`: 2,
		`portcullis_rollouts{state="paused",waiting_for="people"}`:            1,
		`portcullis_rollouts{state="planning",waiting_for="nothing"}`:         1,
		`portcullis_rollouts{state="other",waiting_for="nothing"}`:            1,
		`portcullis_rollouts{state="rolling-back",waiting_for="fleet"}`:       1,

		`portcullis_migrations{state="migrating",waiting_for="cluster"}`:        1,
		`portcullis_migrations{state="stopped",waiting_for="people"}`:           1,
		`portcullis_migrations{state="awaiting-approval",waiting_for="people"}`: 1,
		`portcullis_migrations{state="checking",waiting_for="nothing"}`:         1,

		`portcullis_rollouts_ended_last_day{state="verified"}`:    2,
		`portcullis_rollouts_ended_last_day{state="rolled-back"}`: 1,
		`portcullis_rollouts_ended_last_day{state="failed"}`:      1,
		`portcullis_rollouts_ended_last_day{state="terminated"}`:  1,
		`portcullis_migrations_ended_last_day{state="original"}`:  1,

		`portcullis_rollout_last_end_timestamp_seconds{state="verified"}`:    at(-time.Hour),
		`portcullis_rollout_last_end_timestamp_seconds{state="rolled-back"}`: at(-time.Minute),
		`portcullis_rollout_last_end_timestamp_seconds{state="failed"}`:      at(-time.Minute),
		`portcullis_rollout_last_end_timestamp_seconds{state="terminated"}`:  at(-time.Minute),
		`portcullis_migration_last_end_timestamp_seconds{state="original"}`:  at(-time.Minute),

		`portcullis_gates_waiting{kind="rollout"}`:                   2,
		`portcullis_gates_waiting{kind="migration"}`:                 1,
		`portcullis_gate_oldest_timestamp_seconds{kind="rollout"}`:   at(-3 * time.Hour),
		`portcullis_gate_oldest_timestamp_seconds{kind="migration"}`: at(-time.Minute),
		`portcullis_gate_deadline_timestamp_seconds{kind="rollout"}`: at(time.Hour),
		`portcullis_state_read_timestamp_seconds`:                    at(0),
	}
	require.Equal(t, want, told(t, w))

	// Another daemon, or this one after a restart, tells the same.
	other := worldAt(&now)
	require.NoError(t, other.read(t.Context(), index))
	require.Equal(t, want, told(t, other))

	// Gates that are known are not asked again, whoever scrapes how often.
	index.asked.Store(0)
	index.lists = 0
	require.NoError(t, w.read(t.Context(), index))
	told(t, w)
	told(t, w)
	require.Zero(t, index.asked.Load())
	require.Equal(t, 2, index.lists)

	// A reading that fails leaves what was read, for a while.
	index.err = errors.New("down")
	require.Error(t, w.read(t.Context(), index))
	require.InDelta(t, 2, told(t, w)[`portcullis_gates_waiting{kind="rollout"}`], 0)
	now = now.Add(staleAfter + time.Second)
	require.Equal(t, map[string]float64{
		`portcullis_state_read_timestamp_seconds`: at(0), `portcullis_state_read_errors_total`: 1,
	}, told(t, w))
}

// Gates that do not answer are counted all the same; only since when is not known.
func TestGatesThatDoNotAnswerCount(t *testing.T) {
	now := noon
	index := &fakeIndex{}
	for i := range 3 * askedMost {
		index.running = append(index.running, rolloutRun(fmt.Sprint("p", i), contract.StateApproval))
	}
	w := worldAt(&now)
	require.NoError(t, w.read(t.Context(), index))
	got := told(t, w)
	require.InDelta(t, 3*askedMost, got[`portcullis_gates_waiting{kind="rollout"}`], 0)
	require.NotContains(t, got, `portcullis_gate_oldest_timestamp_seconds{kind="rollout"}`)
	require.EqualValues(t, askedMost, index.asked.Load())
}

// However many there are: the query is bounded, and so are the series.
func TestTheWorldIsBounded(t *testing.T) {
	now := noon
	w := worldAt(&now)
	require.NoError(t, w.read(t.Context(), &fakeIndex{}))
	empty := testutil.CollectAndCount(w)

	index := &fakeIndex{}
	for i := range pageSize*pagesMost + 500 {
		index.running = append(index.running, rolloutRun(fmt.Sprint("p", i), contract.State(fmt.Sprint("made-up-", i))))
		index.ended = append(index.ended, end(migrateRun(fmt.Sprint("c", i), contract.State(fmt.Sprint("made-up-", i))), enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED, noon))
	}
	require.NoError(t, w.read(t.Context(), index))
	require.Equal(t, pagesMost+1, index.lists)
	got := told(t, w)
	require.InDelta(t, 1, got[`portcullis_state_incomplete`], 0)
	require.InDelta(t, pageSize*pagesMost, got[`portcullis_rollouts{state="other",waiting_for="nothing"}`], 0)
	require.Equal(t, empty+1, testutil.CollectAndCount(w), "one more: when the last migration ended so")
}
