package migrate

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/migrate"
	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/workflows/call"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/options"
	"portcullis.dev/portcullis/workflows/orders"
	"portcullis.dev/portcullis/workflows/story"
)

// Run is the MigrateCluster workflow.
func Run(ctx workflow.Context, in contract.MigrateInput) (contract.MigrateResult, error) {
	m := start(ctx, in)
	if err := m.handle(ctx); err != nil {
		return contract.MigrateResult{}, err
	}
	m.listen(ctx)
	return m.run(ctx)
}

type cluster struct {
	in    contract.MigrateInput
	state contract.MigrateState
	log   log.Logger
	// work is the context of everything that a person may end; cancel ends it.
	work   workflow.Context
	cancel workflow.CancelFunc
	// ending says who ended the migration, once somebody did.
	ending string
	// refused is why the migration was not begun.
	refused error
	// decided is set once the migration was claimed and measured, or refused.
	decided bool
	// restoring is set while the way back is walked, over when nothing can be decided any more.
	restoring, over bool
	// resumed is set by a resume of a migration that has stopped.
	resumed bool
	// running counts the nodes whose children run; alone is true while one of them
	// is of the control plane. ended changes with every one that ends.
	running, ended int
	alone          bool
	// stale is true when the nodes are to be listed again.
	stale bool
}

func start(ctx workflow.Context, in contract.MigrateInput) *cluster {
	m := &cluster{in: in, stale: true}
	if in.Carried != nil {
		m.state, m.decided = *in.Carried, true
	} else {
		m.state = contract.MigrateState{
			State:     contract.StateChecking,
			StartedBy: in.StartedBy,
			StartedAt: workflow.Now(ctx).UTC(),
			Migration: name(ctx),
		}
		m.state.Cluster.Name = in.Cluster
	}
	m.in.Carried = nil
	m.log = log.With(workflow.GetLogger(ctx), "cluster", in.Cluster)
	m.work, m.cancel = workflow.WithCancel(ctx)
	return m
}

func (m *cluster) run(ctx workflow.Context) (contract.MigrateResult, error) {
	if m.state.Plan == nil {
		if err := m.check(ctx); err != nil {
			return m.refuse(ctx, err)
		}
	}
	m.decided = true
	err := m.forward(ctx)
	if errors.Is(err, errBack) {
		err = m.back(ctx)
	}
	if err != nil {
		return contract.MigrateResult{}, err
	}
	return m.finish(ctx), nil
}

// forward goes all the way. The error is errBack, or a continue-as-new.
func (m *cluster) forward(ctx workflow.Context) error {
	switch m.state.State {
	case contract.StateChecking, contract.StatePreparing:
		if err := m.prepare(ctx); err != nil {
			return err
		}
	case contract.StateRestoring:
		return errBack
	case contract.StateStopped:
		if err := m.stopped(ctx); err != nil {
			return err
		}
	}
	for {
		if slices.Contains(m.state.Steps, migration.Clean) {
			return m.clean(ctx)
		}
		if err := m.move(ctx); err != nil {
			return err
		}
		done, err := m.complete(ctx)
		if done || err != nil {
			return err
		}
	}
}

// prepare makes the steps before any node moves.
func (m *cluster) prepare(ctx workflow.Context) error {
	m.enter(ctx, contract.StatePreparing)
	for _, step := range migration.Preparation() {
		if err := m.step(ctx, step); err != nil {
			return m.turnBack(string(step), err)
		}
		if step == migration.Begin {
			// The cluster keeps it from here on.
			m.in.Manifest = nil
		}
	}
	if err := m.compare(ctx, m.work); err != nil {
		return m.turnBack("after the preparation", err)
	}
	m.note(ctx, "", "Calico is beside Canal, and the wire is as before")
	return nil
}

// turnBack keeps why the way back is walked.
func (m *cluster) turnBack(what string, err error) error {
	if !m.isEnded(err) {
		m.state.Reason = what + ": " + story.Reason(err)
	}
	return errBack
}

// step makes one step of the cluster. That it was begun is known before it is.
func (m *cluster) step(ctx workflow.Context, step migration.Step) error {
	if err := m.unpaused(); err != nil {
		return err
	}
	if err := m.work.Err(); err != nil {
		return err
	}
	return m.make(ctx, m.work, step)
}

func (m *cluster) make(ctx, work workflow.Context, step migration.Step) error {
	if !slices.Contains(m.state.Steps, step) {
		m.state.Steps = append(m.state.Steps, step)
	}
	m.state.Step = step
	defer func() { m.state.Step = "" }()
	m.note(ctx, "", "begins "+string(step))
	in := m.input(step)
	if step == migration.Begin {
		in.Manifest = m.in.Manifest
	}
	done, err := call.Do(work, in, len(m.state.Nodes))
	if err != nil {
		return err
	}
	m.note(ctx, "", fmt.Sprintf("%s in %s: %s", step, done.Took.Round(time.Millisecond), changes(done)))
	return nil
}

func (m *cluster) input(step migration.Step) migrate.StepInput {
	return migrate.StepInput{Cluster: m.state.Cluster, Migration: m.state.Migration, Step: step, Target: m.state.Plan.Target}
}

func (m *cluster) wire() wire {
	return wire{
		cluster: m.state.Cluster, requirements: m.state.Requirements, settings: m.in.Settings,
		baseline: m.state.Baseline, subject: "cluster",
	}
}

// compare proves that the wire is as before.
func (m *cluster) compare(ctx, work workflow.Context) error {
	found, err := m.wire().compare(work)
	m.state.Proven = err == nil
	if err == nil {
		m.note(ctx, "", "the wire is as before, evidence "+call.Short(found))
	}
	return err
}

// unpaused waits while the migration is paused.
func (m *cluster) unpaused() error {
	if m.state.Paused == nil {
		return m.work.Err()
	}
	return workflow.Await(m.work, func() bool { return m.state.Paused == nil })
}

// isEnded is true when err is the end that a person wanted.
func (m *cluster) isEnded(err error) bool {
	return m.ending != "" || m.work.Err() != nil && temporal.IsCanceledError(err)
}

func (m *cluster) endingLine() string {
	if m.ending != "" {
		return m.ending
	}
	return "the workflow was cancelled"
}

// wait waits until done, or until the migration is ended. A wait can be long: when
// the history is, too, and nothing runs, it goes on in a new one.
func (m *cluster) wait(ctx, work workflow.Context, done func() bool) error {
	long := func() bool { return m.running == 0 && m.mayContinueAsNew(ctx) }
	if err := workflow.Await(work, func() bool { return done() || long() }); err != nil {
		return err
	}
	if done() || work.Err() != nil {
		return work.Err()
	}
	return m.continueAsNew(ctx)
}

// mayContinueAsNew is true when the history is long and no message is lost by
// starting a new one.
func (m *cluster) mayContinueAsNew(ctx workflow.Context) bool {
	return options.LongHistory(ctx) && workflow.AllHandlersFinished(ctx)
}

func (m *cluster) continueAsNew(ctx workflow.Context) error {
	next, state := m.in, m.state
	if state.Plan != nil {
		// Long in a large cluster, and of no use any more.
		plan := *state.Plan
		plan.Disturbed, state.Plan = nil, &plan
	}
	next.Carried = &state
	return workflow.NewContinueAsNewError(ctx, contract.MigrateWorkflow, next)
}

// unclaim lets rollouts touch the cluster again.
func (m *cluster) unclaim(ctx workflow.Context) {
	if !m.state.Claimed {
		return
	}
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	if err := call.Unclaim(ctx, m.claim(ctx)); err != nil {
		m.note(ctx, "", fmt.Sprintf("the cluster could not be given back: %s; take its annotation away by hand", story.Reason(err)))
		return
	}
	m.state.Claimed = false
}

func (m *cluster) claim(ctx workflow.Context) migrate.ClaimInput {
	return migrate.ClaimInput{Cluster: m.state.Cluster, Migration: workflow.GetInfo(ctx).WorkflowExecution.ID}
}

// finish shows the end, waits for those who still ask, and returns the result.
func (m *cluster) finish(ctx workflow.Context) contract.MigrateResult {
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	m.unclaim(ctx)
	m.over = true
	line := string(m.state.State)
	if m.state.Reason != "" {
		line += ": " + m.state.Reason
	}
	m.note(ctx, "", line)
	m.enter(ctx, m.state.State)
	m.count(ctx)
	orders.Drain(ctx, m.log)
	return contract.MigrateResult{
		Cluster:    m.state.Cluster.Name,
		State:      m.state.State,
		Reason:     m.state.Reason,
		Proven:     m.state.Proven,
		Nodes:      m.state.Nodes,
		Log:        m.state.Log,
		StartedAt:  m.state.StartedAt,
		FinishedAt: workflow.Now(ctx).UTC(),
	}
}

func (m *cluster) enter(ctx workflow.Context, state contract.State) {
	m.state.State = state
	err := workflow.UpsertTypedSearchAttributes(ctx, contract.AttrState.ValueSet(string(m.status().State)))
	if err != nil {
		m.log.Warn("search attributes not set", "error", err)
	}
	m.show(ctx)
}

// status is what a query returns: a pause covers the state that it holds. What
// was measured is left out; it is large.
func (m *cluster) status() contract.MigrateStatus {
	s := contract.MigrateStatus{MigrateState: m.state}
	if s.Paused != nil && !m.over {
		s.State = contract.StatePaused
	}
	if s.Baseline != nil {
		s.Baseline = &contract.BaselineBatch{Hashes: s.Baseline.Hashes}
	}
	return s
}

func (m *cluster) show(ctx workflow.Context) {
	workflow.SetCurrentDetails(ctx, story.Migration(m.status()))
}

func (m *cluster) note(ctx workflow.Context, node, message string) {
	m.log.Info(message, "node", node, "state", m.state.State)
	m.state.Log = story.Append(m.state.Log, workflow.Now(ctx), node, message)
	m.show(ctx)
}

// count writes the end of the migration into the metrics.
func (m *cluster) count(ctx workflow.Context) {
	h := workflow.GetMetricsHandler(ctx).WithTags(map[string]string{"state": string(m.state.State)})
	h.Counter("portcullis_migrations_total").Inc(1)
	h.Timer("portcullis_migration_duration").Record(workflow.Now(ctx).Sub(m.state.StartedAt).Round(time.Millisecond))
}
