package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"portcullis.dev/portcullis/workflows/contract"
)

const (
	// readEvery is how often the state of the world is read, and readTimeout bounds one reading.
	readEvery   = 15 * time.Second
	readTimeout = 10 * time.Second
	// staleAfter is how old a reading may be and still be told: an old one would be
	// taken for what is.
	staleAfter = 2 * time.Minute
	// pageSize and pagesMost bound what one reading lists.
	pageSize  = 1000
	pagesMost = 10
	// askedMost bounds the gates that are asked in one reading since when they wait,
	// and askedAtOnce those at a time.
	askedMost, askedAtOnce = 50, 8
	// lookBack is how far back the rollouts and migrations that ended are counted.
	lookBack = 24 * time.Hour
)

// lister is what of Temporal's client the world is read with.
type lister interface {
	ListWorkflow(context.Context, *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error)
	QueryWorkflow(ctx context.Context, workflowID, runID, queryType string, args ...any) (converter.EncodedValue, error)
}

var _ lister = client.Client(nil)

// world is the state of rollouts, migrations and gates as gauges. They are read
// from Temporal's index by a bounded query every few seconds, whoever scrapes: so
// every daemon tells the same, also one that has just started.
type world struct {
	namespace string
	log       *slog.Logger
	now       func() time.Time

	mu sync.Mutex
	// seen is the last reading that succeeded.
	seen *reading
	// gates has, by run and environment, what a gate said of itself.
	gates map[gateKey]gate

	errors prometheus.Counter
}

type gateKey struct{ run, environment string }

type gate struct{ Since, Deadline time.Time }

func newWorld(namespace string, log *slog.Logger) *world {
	return &world{namespace: namespace, log: log, now: time.Now, gates: map[gateKey]gate{}, errors: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "portcullis_state_read_errors_total", Help: "Readings of the state of rollouts, migrations and gates that failed.",
	})}
}

// follow reads until ctx ends.
func (w *world) follow(ctx context.Context, from lister) {
	failing := false
	for {
		err := w.read(ctx, from)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !failing {
			w.log.Warn("the state of rollouts cannot be read for the metrics", "reason", err)
		}
		failing = err != nil
		timer := time.NewTimer(readEvery)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// read takes one reading.
func (w *world) read(ctx context.Context, from lister) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	at := w.now()
	running, cut, err := w.list(ctx, from, runningQuery(), pagesMost)
	if err == nil {
		var ended []*workflowpb.WorkflowExecutionInfo
		ended, _, err = w.list(ctx, from, endedQuery(at), 1)
		if err == nil {
			r := count(running, ended)
			r.at, r.cut = at, cut
			w.ask(ctx, from, r)
			w.mu.Lock()
			w.seen = r
			w.mu.Unlock()
			return nil
		}
	}
	w.errors.Inc()
	return err
}

func runningQuery() string {
	return fmt.Sprintf("WorkflowType IN ('%s', '%s', '%s') AND ExecutionStatus = 'Running'",
		contract.RolloutWorkflow, contract.PromoteWorkflow, contract.MigrateWorkflow)
}

// endedQuery leaves out runs that continued as new: they are earlier parts of the same one.
func endedQuery(now time.Time) string {
	return fmt.Sprintf("WorkflowType IN ('%s', '%s') AND ExecutionStatus != 'Running' AND ExecutionStatus != 'ContinuedAsNew' AND CloseTime > '%s'",
		contract.RolloutWorkflow, contract.MigrateWorkflow, now.Add(-lookBack).UTC().Format(time.RFC3339))
}

// list reads pages; cut says that there was more.
func (w *world) list(ctx context.Context, from lister, query string, pages int) (all []*workflowpb.WorkflowExecutionInfo, cut bool, err error) {
	var next []byte
	for range pages {
		page, err := from.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
			Namespace: w.namespace, PageSize: pageSize, Query: query, NextPageToken: next,
		})
		if err != nil {
			return nil, false, err
		}
		all = append(all, page.GetExecutions()...)
		if next = page.GetNextPageToken(); len(next) == 0 {
			return all, false, nil
		}
	}
	return all, true, nil
}

// kind is a rollout or a migration.
type kind string

const (
	ofRollout   kind = "rollout"
	ofMigration kind = "migration"
)

// reading is the state of the world at one time.
type reading struct {
	at  time.Time
	cut bool
	// running counts by kind and state, ended by kind and end; last has when the last of each ended.
	running map[kind]map[contract.State]int
	ended   map[kind]map[contract.State]int
	last    map[kind]map[contract.State]time.Time
	gates   []openGate
}

// openGate is a gate that waits for people.
type openGate struct {
	kind kind
	id   string
	key  gateKey
	// said is empty while the gate has not answered.
	said gate
}

// count is pure: from what Temporal lists to how many there are of what.
func count(running, ended []*workflowpb.WorkflowExecutionInfo) *reading {
	r := &reading{
		running: map[kind]map[contract.State]int{ofRollout: {}, ofMigration: {}},
		ended:   map[kind]map[contract.State]int{ofRollout: {}, ofMigration: {}},
		last:    map[kind]map[contract.State]time.Time{ofRollout: {}, ofMigration: {}},
	}
	promotions := map[string]contract.State{}
	for _, e := range running {
		if e.GetType().GetName() == contract.PromoteWorkflow {
			promotions[text(e, contract.AttrPipeline.GetName())] = stateOf(ofRollout, e)
		}
	}
	for _, e := range running {
		k, s := ofRollout, stateOf(ofRollout, e)
		switch e.GetType().GetName() {
		case contract.MigrateWorkflow:
			k, s = ofMigration, stateOf(ofMigration, e)
		case contract.RolloutWorkflow:
			pipeline := text(e, contract.AttrPipeline.GetName())
			// While an environment is promoted, what that does is the rollout's state.
			if in, promoting := promotions[pipeline]; promoting && s == contract.StatePromoting {
				s = in
			}
			delete(promotions, pipeline)
		default:
			continue
		}
		r.running[k][s]++
		if s == contract.StateApproval {
			id := e.GetExecution()
			r.gates = append(r.gates, openGate{kind: k, id: id.GetWorkflowId(), key: gateKey{id.GetRunId(), text(e, contract.AttrEnvironment.GetName())}})
		}
	}
	// A promotion whose rollout was terminated walks its way back alone.
	for _, s := range promotions {
		r.running[ofRollout][s]++
	}
	for _, e := range ended {
		k := ofRollout
		if e.GetType().GetName() == contract.MigrateWorkflow {
			k = ofMigration
		}
		s := endOf(k, e)
		r.ended[k][s]++
		if at := e.GetCloseTime().AsTime(); at.After(r.last[k][s]) {
			r.last[k][s] = at
		}
	}
	return r
}

// states are all that the label state may be while something runs, with what each
// waits for; ends are all that it may be after. Another one is other.
var (
	states = map[kind]map[contract.State]string{
		ofRollout: {
			contract.StatePlanning: "nothing", contract.StatePending: "nothing", contract.StatePromoting: "nothing",
			contract.StateApproval: "people", contract.StatePaused: "people",
			contract.StatePreflight: "probes", contract.StateBaseline: "probes", contract.StateVerifying: "probes",
			contract.StateStaging: "fleet", contract.StateReleasing: "fleet", contract.StateSettling: "fleet", contract.StateRollingBack: "fleet",
			contract.StateSoaking: "time", stateOther: "nothing",
		},
		ofMigration: {
			contract.StateChecking: "nothing", contract.StateApproval: "people", contract.StatePaused: "people", contract.StateStopped: "people",
			contract.StatePreparing: "cluster", contract.StateMigrating: "cluster", contract.StateFinishing: "cluster", contract.StateRestoring: "cluster",
			stateOther: "nothing",
		},
	}
	first = map[kind]contract.State{ofRollout: contract.StatePlanning, ofMigration: contract.StateChecking}
	ends  = map[kind][]contract.State{
		ofRollout: {
			contract.StateVerified, contract.StateRolledBack, contract.StateRejected, contract.StateAborted, contract.StateFailed, stateTerminated, stateOther,
		},
		ofMigration: {contract.StateMigrated, contract.StateOriginal, contract.StateFailed, stateTerminated, stateOther},
	}
)

const (
	// stateTerminated is the end of what was terminated, cancelled or timed out from outside.
	stateTerminated contract.State = "terminated"
	stateOther      contract.State = "other"
)

// stateOf is where a run is. One that no daemon has looked at yet has no state.
func stateOf(k kind, e *workflowpb.WorkflowExecutionInfo) contract.State {
	s := contract.State(text(e, contract.AttrState.GetName()))
	if s == "" {
		s = first[k]
	}
	if _, known := states[k][s]; known {
		return s
	}
	return stateOther
}

func endOf(k kind, e *workflowpb.WorkflowExecutionInfo) contract.State {
	switch e.GetStatus() {
	case enumspb.WORKFLOW_EXECUTION_STATUS_FAILED:
		return contract.StateFailed
	case enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED:
	default:
		return stateTerminated
	}
	if s := contract.State(text(e, contract.AttrState.GetName())); slices.Contains(ends[k], s) {
		return s
	}
	return stateOther
}

// text is a search attribute's value.
func text(e *workflowpb.WorkflowExecutionInfo, name string) string {
	var value string
	payload := e.GetSearchAttributes().GetIndexedFields()[name]
	if payload == nil || converter.GetDefaultDataConverter().FromPayload(payload, &value) != nil {
		return ""
	}
	return value
}

// ask finds out since when each gate waits; that is not in Temporal's index. A gate
// is asked once and then known, also by the next daemon that starts.
func (w *world) ask(ctx context.Context, from lister, r *reading) {
	var unknown []*openGate
	for i := range r.gates {
		g := &r.gates[i]
		said, known := w.gates[g.key]
		if g.said = said; !known && len(unknown) < askedMost {
			unknown = append(unknown, g)
		}
	}
	slots := make(chan struct{}, askedAtOnce)
	var all sync.WaitGroup
	for _, g := range unknown {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			var err error
			if g.said, err = askGate(ctx, from, g); err != nil {
				w.log.Debug("a gate does not say since when it waits", keyWorkflowID, g.id, "reason", err)
			}
		})
	}
	all.Wait()
	w.gates = map[gateKey]gate{}
	for _, g := range r.gates {
		if !g.said.Since.IsZero() {
			w.gates[g.key] = g.said
		}
	}
}

var errNoGate = errors.New("the gate is not open any more")

func askGate(ctx context.Context, from lister, g *openGate) (gate, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	answer, err := from.QueryWorkflow(ctx, g.id, g.key.run, contract.QueryStatus)
	if err != nil {
		return gate{}, err
	}
	var status struct {
		Gate *struct {
			Since    time.Time `json:"since"`
			Deadline time.Time `json:"deadline"`
		} `json:"gate"`
	}
	if err := answer.Get(&status); err != nil {
		return gate{}, err
	}
	if status.Gate == nil {
		return gate{}, errNoGate
	}
	return gate{Since: status.Gate.Since, Deadline: status.Gate.Deadline}, nil
}

// The descriptions of what is told.
var (
	descRunning = map[kind]*prometheus.Desc{
		ofRollout: prometheus.NewDesc("portcullis_rollouts", "Rollouts that run, by state and by what that waits for: people, fleet, probes, time (a soak), or nothing. Every daemon tells the same: take the maximum, not the sum.",
			[]string{"state", "waiting_for"}, nil),
		ofMigration: prometheus.NewDesc("portcullis_migrations", "Migrations to Calico that run, by state and by what that waits for: people, cluster, or nothing. Every daemon tells the same.",
			[]string{"state", "waiting_for"}, nil),
	}
	descEnded = map[kind]*prometheus.Desc{
		ofRollout:   prometheus.NewDesc("portcullis_rollouts_ended_last_day", "Rollouts that ended in the last 24 hours, by end, of the newest 1000. Every daemon tells the same.", []string{"state"}, nil),
		ofMigration: prometheus.NewDesc("portcullis_migrations_ended_last_day", "Migrations that ended in the last 24 hours, by end, of the newest 1000. Every daemon tells the same.", []string{"state"}, nil),
	}
	descLast = map[kind]*prometheus.Desc{
		ofRollout:   prometheus.NewDesc("portcullis_rollout_last_end_timestamp_seconds", "When a rollout last ended so, within the last 24 hours.", []string{"state"}, nil),
		ofMigration: prometheus.NewDesc("portcullis_migration_last_end_timestamp_seconds", "When a migration last ended so, within the last 24 hours.", []string{"state"}, nil),
	}
	descGates    = prometheus.NewDesc("portcullis_gates_waiting", "Gates that wait for people, of rollouts and of migrations. Every daemon tells the same.", []string{"kind"}, nil)
	descSince    = prometheus.NewDesc("portcullis_gate_oldest_timestamp_seconds", "Since when the gate waits that has waited longest; absent while none waits.", []string{"kind"}, nil)
	descDeadline = prometheus.NewDesc("portcullis_gate_deadline_timestamp_seconds", "When the next gate's time for approvals is over; absent while no gate has a deadline.", []string{"kind"}, nil)
	descRead     = prometheus.NewDesc("portcullis_state_read_timestamp_seconds", "When the state of rollouts, migrations and gates was last read from Temporal. Two minutes later it is not told any more.", nil, nil)
	descCut      = prometheus.NewDesc("portcullis_state_incomplete", "1 while more runs than one reading lists (10000 workflows), so that the counts of what runs are too low.", nil, nil)
)

// Describe tells what there is.
func (w *world) Describe(to chan<- *prometheus.Desc) {
	w.errors.Describe(to)
	for _, k := range []kind{ofRollout, ofMigration} {
		to <- descRunning[k]
		to <- descEnded[k]
		to <- descLast[k]
	}
	for _, d := range []*prometheus.Desc{descGates, descSince, descDeadline, descRead, descCut} {
		to <- d
	}
}

// Collect tells the last reading, unless it is old.
func (w *world) Collect(to chan<- prometheus.Metric) {
	w.errors.Collect(to)
	w.mu.Lock()
	r := w.seen
	w.mu.Unlock()
	if r == nil {
		return
	}
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	gauge(descRead, seconds(r.at))
	if w.now().Sub(r.at) > staleAfter {
		return
	}
	gauge(descCut, number(r.cut))
	for _, k := range []kind{ofRollout, ofMigration} {
		for s, waits := range states[k] {
			gauge(descRunning[k], float64(r.running[k][s]), string(s), waits)
		}
		for _, s := range ends[k] {
			gauge(descEnded[k], float64(r.ended[k][s]), string(s))
			if at, ok := r.last[k][s]; ok {
				gauge(descLast[k], seconds(at), string(s))
			}
		}
		r.collectGates(k, gauge)
	}
}

func (r *reading) collectGates(k kind, gauge func(*prometheus.Desc, float64, ...string)) {
	var oldest, deadline time.Time
	n := 0
	for _, g := range r.gates {
		if g.kind != k {
			continue
		}
		n++
		oldest = earlier(oldest, g.said.Since)
		deadline = earlier(deadline, g.said.Deadline)
	}
	gauge(descGates, float64(n), string(k))
	if !oldest.IsZero() {
		gauge(descSince, seconds(oldest), string(k))
	}
	if !deadline.IsZero() {
		gauge(descDeadline, seconds(deadline), string(k))
	}
}

// earlier is the earlier of two times that are known.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
