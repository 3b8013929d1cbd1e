package migrate

import (
	"slices"

	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/story"
)

// cleaning is true once the only step without a way back has begun.
func (m *cluster) cleaning() bool { return slices.Contains(m.state.Steps, migration.Clean) }

// complete takes Canal away. When a step fails, those made are taken back, and it
// stops; resumed, it is not done, and the nodes are looked at again. The error is
// errBack, or a continue-as-new.
func (m *cluster) complete(ctx workflow.Context) (done bool, err error) {
	if m.state.Paused != nil {
		// A node may join during the pause: it is moved before Canal goes.
		m.stale = true
		return false, m.asBack(m.wait(ctx, m.work, func() bool { return m.state.Paused == nil }))
	}
	m.enter(ctx, contract.StateFinishing)
	for _, step := range migration.Completion() {
		if step == migration.Clean {
			break
		}
		if err := m.completing(ctx, step); err != nil {
			return false, m.incomplete(ctx, step, err)
		}
	}
	if err := m.unpaused(); err != nil {
		return false, errBack
	}
	return true, m.clean(ctx)
}

// completing makes one step, and proves it.
func (m *cluster) completing(ctx workflow.Context, step migration.Step) error {
	var err error
	if step == migration.Turn {
		err = m.turn(ctx)
	} else {
		err = m.step(ctx, step)
	}
	if err != nil {
		return err
	}
	return m.compare(ctx, m.work)
}

// turnAfterLate is the change by which nodes that joined since the last one moved are moved
// before Turn is made. Until then, Turn was taken back, and the migration stopped.
const turnAfterLate = "turn-after-late-nodes-20261123"

// turn makes Turn, and takes up the nodes that have come since. One that still has Canal
// is in its way: it is moved as the others were, and Turn is made again.
func (m *cluster) turn(ctx workflow.Context) error {
	for idle := false; ; {
		err := m.step(ctx, migration.Turn)
		if err == nil {
			return m.moveLate(ctx)
		}
		if errs.TypeOf(err) != errs.TypeConflict || workflow.GetVersion(ctx, turnAfterLate, workflow.DefaultVersion, 1) == workflow.DefaultVersion {
			return err
		}
		ended := m.ended
		m.note(ctx, "", "turn has to wait: "+story.Reason(err))
		m.enter(ctx, contract.StateMigrating)
		if err := m.moveLate(ctx); err != nil {
			return err
		}
		m.enter(ctx, contract.StateFinishing)
		if idle && m.ended == ended {
			// Twice, what was in its way was no node that could be moved.
			return err
		}
		idle = m.ended == ended
	}
}

// moveLate takes all nodes to Calico that are not on it.
func (m *cluster) moveLate(ctx workflow.Context) error {
	m.stale = true
	why, err := m.round(ctx)
	if err == nil && why != "" {
		err = errs.Failed("%s", why)
	}
	return err
}

// incomplete takes the steps of the completion back, and stops.
func (m *cluster) incomplete(ctx workflow.Context, step migration.Step, err error) error {
	if m.work.Err() != nil || workflow.IsContinueAsNewError(err) {
		return m.asBack(err)
	}
	why := string(step) + ": " + story.Reason(err)
	m.note(ctx, "", "not finished: "+why)
	m.undo(ctx, migration.Completion())
	if err := m.stop(ctx, why); err != nil {
		return err
	}
	return nil
}

// clean makes the step that has no way back, and the last proof. Nothing ends it
// but its success: a failure stops the migration until it is resumed. When the
// wire was not as before twice, the migration ends all the same, and says so.
func (m *cluster) clean(ctx workflow.Context) error {
	if !m.cleaning() && m.work.Err() != nil {
		return errBack
	}
	free, _ := workflow.NewDisconnectedContext(ctx)
	for looks := 0; ; {
		m.enter(free, contract.StateFinishing)
		err := m.make(free, free, migration.Clean)
		if err == nil {
			looks++
			err = m.compare(free, free)
		}
		if err == nil || looks > 1 {
			m.state.State, m.state.Reason = contract.StateMigrated, story.Reason(err)
			return nil
		}
		if err := m.stop(free, string(migration.Clean)+": "+story.Reason(err)); err != nil {
			return err
		}
	}
}

// undo takes back those of the steps that were begun, last first.
func (m *cluster) undo(ctx workflow.Context, steps []migration.Step) {
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	defer func() { m.state.Step = "" }()
	for _, step := range slices.Backward(steps) {
		if !slices.Contains(m.state.Steps, step) {
			continue
		}
		m.state.Step = step
		m.note(ctx, "", "undoes "+string(step))
		done := undo(ctx, m.input(step), len(m.state.Nodes), func(line string) { m.note(ctx, "", line) })
		m.state.Steps = slices.DeleteFunc(slices.Clone(m.state.Steps), func(s migration.Step) bool { return s == step })
		m.note(ctx, "", "undid "+string(step)+": "+changes(done))
	}
}
