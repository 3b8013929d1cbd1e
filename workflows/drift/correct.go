package drift

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/deliver"
	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/rancher/drift"
	"portcullis.dev/portcullis/workflows/approval"
	"portcullis.dev/portcullis/workflows/call"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/evidence"
	"portcullis.dev/portcullis/workflows/options"
	"portcullis.dev/portcullis/workflows/orders"
	"portcullis.dev/portcullis/workflows/slackgate"
	"portcullis.dev/portcullis/workflows/story"
)

// Correct is the DriftCorrection workflow: it finds out what Fleet can put right, waits
// until enough people have agreed to exactly that, has Fleet apply it again GitRepo by
// GitRepo, and compares anew. It deletes nothing, and writes to no object that Fleet
// does not have.
//
// It fails, with a type of errs, only when it could not find out what there is to
// correct. Every other end is a result.
func Correct(ctx workflow.Context, in contract.CorrectionInput) (contract.CorrectionStatus, error) {
	c := newCorrection(ctx, in)
	if err := c.handle(ctx); err != nil {
		return contract.CorrectionStatus{}, err
	}
	c.startCourier(ctx)
	err := c.run(ctx)
	if workflow.IsContinueAsNewError(err) {
		return contract.CorrectionStatus{}, err
	}
	return c.finish(ctx, err)
}

// correction is one of them.
type correction struct {
	in    contract.CorrectionInput
	name  string
	state contract.CorrectionState
	log   log.Logger
	// looks has a signal for each audit that found something else.
	looks workflow.ReceiveChannel
	// work is the context of what a person may end; cancel ends it.
	work   workflow.Context
	cancel workflow.CancelFunc
	// rejected is why a person ended it, or empty.
	rejected string
	// clusters are those that each GitRepo delivers to, as they were compared last.
	clusters map[string][]rancher.Cluster
	// over is set when nothing can be decided any more.
	over    bool
	courier *slackgate.Courier
}

func newCorrection(ctx workflow.Context, in contract.CorrectionInput) *correction {
	c := &correction{in: in, name: in.Pipeline.Metadata.Name, looks: workflow.GetSignalChannel(ctx, contract.SignalLook)}
	c.log = log.With(workflow.GetLogger(ctx), "pipeline", c.name)
	c.work, c.cancel = workflow.WithCancel(ctx)
	if in.Carried != nil {
		c.state = *in.Carried
	} else {
		c.state = contract.CorrectionState{
			State: contract.StateComparing, StartedBy: in.StartedBy, StartedAt: workflow.Now(ctx).UTC(),
			FirstRun: workflow.GetInfo(ctx).WorkflowExecution.RunID,
		}
	}
	c.in.Carried = nil
	return c
}

func (c *correction) run(ctx workflow.Context) error {
	if len(c.state.Units) == 0 {
		if err := c.begin(ctx); err != nil || len(c.state.Units) == 0 {
			return err
		}
	}
	if err := c.gate(ctx); err != nil || len(c.state.Units) == 0 {
		return err
	}
	c.correct(ctx)
	return c.prove(ctx)
}

// begin finds out what there is to correct, and opens the gate.
func (c *correction) begin(ctx workflow.Context) error {
	c.enter(ctx, contract.StateComparing)
	by, _ := approval.Name(c.people(), c.in.StartedBy)
	c.became(ctx, contract.AuditEntry{What: contract.AuditStart, By: by, Via: approval.Via(c.in.Via), Known: approval.Known(c.in.Known)})
	spec := c.in.Pipeline.Spec.Drift
	if spec == nil || spec.Correct == nil {
		return errs.Invalid("pipeline %s has no spec.drift.correct: its drift is not corrected", c.name)
	}
	now := workflow.Now(ctx).UTC()
	gate := &contract.GateState{Environment: contract.GateCorrection, Required: spec.Correct.Approvals, Since: now}
	if d := spec.Correct.Timeout.Duration; d > 0 {
		gate.Deadline = now.Add(d)
	}
	var err error
	gate.Voters, err = approval.Voters(gate.Environment, c.people(), rancher.Approvals{Required: gate.Required}, approval.Origin{})
	if err != nil {
		return err
	}
	if err := c.look(ctx, gate); err != nil || len(c.state.Units) == 0 {
		return err
	}
	c.note(ctx, fmt.Sprintf("%s to put right; waits for %s of evidence %s", story.Count(c.findings(), "finding"),
		story.Count(gate.Required, "approval"), call.Short(gate.Evidence.Hash)))
	return nil
}

// look compares, and gives the gate what was found. Approvals of anything else are void.
func (c *correction) look(ctx workflow.Context, gate *contract.GateState) error {
	found, err := c.compare(ctx)
	if err != nil {
		return err
	}
	c.state.Units, c.clusters = nil, map[string][]rancher.Cluster{}
	for _, u := range found {
		if u.fix.Findings > 0 {
			c.state.Units = append(c.state.Units, contract.CorrectionUnit{
				Environment: u.unit.Environment, GitRepo: u.unit.GitRepo, Revision: u.unit.Revision, Generation: u.unit.Generation,
				Clusters: len(u.unit.Clusters), Fix: u.fix, State: contract.StatePending,
			})
			c.clusters[u.unit.GitRepo] = u.unit.Clusters
		}
	}
	hash, err := evidence.Correction(c.state.Units)
	if err != nil {
		return err
	}
	if before := gate.Evidence.Hash; before != "" && before != hash {
		c.note(ctx, fmt.Sprintf("what there is to correct has changed from %s to %s", call.Short(before), call.Short(hash)))
	}
	for _, gone := range approval.Renew(gate, c.people(), contract.Evidence{Environment: gate.Environment, Hash: hash}) {
		c.became(ctx, orders.Voided(gate.Environment, gone))
		c.note(ctx, "void: the approval of "+gone.Vote.By+": "+gone.Why)
	}
	c.state.Gate = gate
	if len(c.state.Units) == 0 {
		c.state.Gate = nil
	}
	c.show(ctx)
	return nil
}

// compared is a GitRepo and what was found on its clusters.
type compared struct {
	unit drift.Unit
	fix  drift.Fix
	// unsure is why not all of its clusters could be judged, or empty.
	unsure string
}

// compare audits the pipeline's clusters. What a rollout is changing, and a GitRepo that
// was edited by hand, is nothing for Fleet to put right.
func (c *correction) compare(ctx workflow.Context) ([]compared, error) {
	in := scopeOf(c.in.Pipeline)
	scope, err := call.DriftScope(c.work, in)
	if err != nil {
		return nil, err
	}
	c.state.Briefs, c.state.Left = nil, 0
	var out []compared
	var all []*batch
	parts := map[int][]*batch{}
	for _, u := range scope.Units {
		if u.GitRepo == "" || u.Moving != "" || u.Unknown != "" {
			continue
		}
		edits := slices.DeleteFunc(slices.Clone(u.Findings), func(f drift.Finding) bool { return f.Ignored != nil })
		if len(edits) > 0 {
			c.state.Left += len(edits)
			c.brief(drift.BriefOf("", &edits[0]))
			out = append(out, compared{unit: u, unsure: "GitRepo " + u.GitRepo + " was edited by hand: put that back first"})
			continue
		}
		parts[len(out)] = split([]drift.Unit{u})
		all = append(all, parts[len(out)]...)
		out = append(out, compared{unit: u})
	}
	audited(c.work, in, all, func(int) {})
	if c.work.Err() != nil {
		return nil, c.work.Err()
	}
	for i := range out {
		for _, b := range parts[i] {
			c.take(&out[i], b)
		}
	}
	c.state.ComparedAt = workflow.Now(ctx).UTC()
	return out, nil
}

// take adds a batch to what was found on its GitRepo's clusters.
func (c *correction) take(u *compared, b *batch) {
	if b.err != nil {
		u.unsure = story.Reason(b.err)
		return
	}
	if n := b.out.States[drift.Unknown] + b.out.States[drift.Moving]; n > 0 {
		u.unsure = story.Count(n, "cluster") + " could not be compared"
	}
	u.fix.Join(b.out.Fix)
	c.state.Left += b.out.Fix.Left
	c.brief(b.out.Briefs...)
}

// brief keeps some of what was found.
func (c *correction) brief(more ...drift.Brief) {
	room := contract.MostCorrectionBriefs - len(c.state.Briefs)
	c.state.Briefs = append(c.state.Briefs, more[:min(len(more), room)]...)
}

// gate waits until enough people have approved what a comparison finds just then. With
// no units left and without an error, there is nothing to correct any more.
func (c *correction) gate(ctx workflow.Context) error {
	c.enter(ctx, contract.StateApproval)
	gate := c.state.Gate
	for again := time.Duration(0); ; {
		if err := c.await(again); err != nil {
			return err
		}
		if now := workflow.Now(ctx); !gate.Deadline.IsZero() && !now.Before(gate.Deadline) && !c.agreed() {
			line := fmt.Sprintf("only %d of %s came in time", c.counted(), story.Count(gate.Required, "approval"))
			c.became(ctx, contract.AuditEntry{What: contract.AuditExpired, Environment: gate.Environment, Why: line, Evidence: gate.Evidence.Hash})
			return &ended{contract.StateRejected, line}
		}
		for c.looks.ReceiveAsync(nil) { // all that have come are answered by one comparison
		}
		if !c.agreed() && options.LongHistory(ctx) && workflow.AllHandlersFinished(ctx) {
			state := c.state
			next := c.in
			next.Carried = &state
			return workflow.NewContinueAsNewError(ctx, contract.CorrectionWorkflow, next)
		}
		err := c.look(ctx, gate)
		switch {
		case c.work.Err() != nil:
			return c.work.Err()
		case err != nil:
			c.note(ctx, "it could not be compared again: "+story.Reason(err))
			again = options.GateRetry
			continue
		case len(c.state.Units) == 0:
			return nil
		case c.agreed():
			c.opened(ctx)
			return nil
		}
		again = 0
	}
}

// await waits for again, and then for enough votes, an audit that found something
// else, or the deadline.
func (c *correction) await(again time.Duration) error {
	if again > 0 {
		if err := workflow.Sleep(c.work, again); err != nil {
			return err
		}
	}
	wait := options.CorrectionLook
	if deadline := c.state.Gate.Deadline; !deadline.IsZero() {
		wait = min(wait, deadline.Sub(workflow.Now(c.work)))
	}
	if wait <= 0 {
		return c.work.Err()
	}
	_, err := workflow.AwaitWithOptions(c.work, workflow.AwaitOptions{
		Timeout: wait, TimerOptions: workflow.TimerOptions{Summary: "gate of the correction: compare again"},
	}, func() bool { return c.agreed() || c.looks.Len() > 0 })
	return err
}

// ended is an end that is no failure.
type ended struct {
	state contract.State
	line  string
}

func (e *ended) Error() string { return e.line }

func (c *correction) opened(ctx workflow.Context) {
	gate := c.state.Gate
	c.became(ctx, orders.Opened(gate, c.counted()))
	c.state.Gate = nil
	c.note(ctx, "gate open, evidence "+call.Short(gate.Evidence.Hash))
}

// correct has Fleet apply the GitRepos again, one after the other in the order of the
// environments. The first that fails ends it: what comes after it stays as it is.
func (c *correction) correct(ctx workflow.Context) {
	c.enter(ctx, contract.StateCorrecting)
	for i := range c.state.Units {
		u := &c.state.Units[i]
		if c.work.Err() != nil {
			return
		}
		u.State = contract.StateCorrecting
		c.note(ctx, fmt.Sprintf("%s: Fleet applies %s again on %s", u.Environment, u.GitRepo, story.Count(u.Clusters, "cluster")))
		if err := c.apply(ctx, *u); err != nil {
			u.State, u.Reason = contract.StateFailed, story.Reason(err)
			c.note(ctx, u.Environment+": "+u.GitRepo+" was not corrected: "+u.Reason)
			return
		}
		u.State = contract.StateComparing
	}
}

// apply corrects one GitRepo. What was changed of it for that is put back in any case.
func (c *correction) apply(ctx workflow.Context, u contract.CorrectionUnit) error {
	in := deliver.CorrectInput{
		UnitInput: deliver.UnitInput{
			Pipeline: c.name, Environment: u.Environment, Source: c.in.Pipeline.Spec.Source,
			Unit: rancher.Unit{GitRepo: u.GitRepo, Clusters: c.clusters[u.GitRepo]}, Commit: u.Revision, Rollout: c.state.FirstRun,
		},
		Generation: u.Generation, Drifted: u.Fix.Clusters,
	}
	defer func() {
		undo, _ := workflow.NewDisconnectedContext(ctx)
		if err := call.Uncorrect(undo, in); err != nil {
			c.note(ctx, u.GitRepo+": what was changed of it could not be put back: "+story.Reason(err))
		}
	}()
	return call.Correct(c.work, in, c.settle(u.Environment))
}

// settle is how long Fleet gets: as in a rollout, and never so long that the correction
// counts as one that was cut short.
func (c *correction) settle(environment string) time.Duration {
	d := rancher.DefaultSettleTimeout
	for _, env := range c.in.Pipeline.Spec.Environments {
		if t := env.Gate.SettleTimeout.Duration; env.Name == environment && t > 0 {
			d = t
		}
	}
	return min(d, options.CorrectionTime)
}

// prove compares anew, and says of each GitRepo what is left.
func (c *correction) prove(ctx workflow.Context) error {
	stopped := c.work.Err() != nil
	// What was written is looked at, also where a person has ended the correction meanwhile.
	c.work, _ = workflow.NewDisconnectedContext(ctx)
	c.enter(ctx, contract.StateComparing)
	found, err := c.compare(ctx)
	if err != nil {
		return &ended{contract.StateUncorrected, "Fleet was asked to, and it could not be compared again: " + story.Reason(err)}
	}
	var left []string
	for i := range c.state.Units {
		u := &c.state.Units[i]
		c.judge(u, found)
		if u.State != contract.StateCorrected {
			left = append(left, u.GitRepo+": "+u.Reason)
		}
	}
	switch {
	case len(left) > 0:
		return &ended{contract.StateUncorrected, story.Some(left, 3)}
	case stopped:
		return &ended{contract.StateAborted, "the workflow was cancelled"}
	}
	return &ended{contract.StateCorrected, ""}
}

func (c *correction) judge(u *contract.CorrectionUnit, found []compared) {
	i := slices.IndexFunc(found, func(f compared) bool { return f.unit.GitRepo == u.GitRepo })
	had := u.Reason
	switch {
	case i < 0:
		u.State, u.Reason = contract.StateUncorrected, "a rollout is changing it now"
	case found[i].fix.Findings > 0:
		u.State, u.Reason = contract.StateUncorrected, story.Count(found[i].fix.Findings, "finding")+" still there"
	case found[i].unsure != "":
		u.State, u.Reason = contract.StateUncorrected, found[i].unsure
	default:
		u.State, u.Reason = contract.StateCorrected, ""
		return
	}
	if had != "" {
		u.Reason += " (" + had + ")"
	}
}

// finish shows the end, waits for those who still ask, and returns the result.
func (c *correction) finish(ctx workflow.Context, err error) (contract.CorrectionStatus, error) {
	c.over = true
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	var end *ended
	var failed error
	switch {
	case errors.As(err, &end):
		c.state.Reason = end.line
	case c.rejected != "":
		end = &ended{contract.StateRejected, c.rejected}
	case c.work.Err() != nil:
		end = &ended{contract.StateAborted, "the workflow was cancelled"}
	case err != nil:
		failed = story.Final(err)
		end = &ended{contract.StateFailed, story.Reason(err)}
	default:
		end = &ended{contract.StateNothing, "there is nothing that Fleet can put right"}
	}
	c.state.Gate, c.state.Reason, c.state.State = nil, end.line, end.state
	line := string(end.state)
	if end.line != "" {
		line += ": " + end.line
	}
	if c.state.Left > 0 {
		line += fmt.Sprintf("; %s left, which Fleet cannot put right", story.Count(c.state.Left, "finding"))
	}
	c.note(ctx, line)
	c.enter(ctx, end.state)
	workflow.GetMetricsHandler(ctx).WithTags(map[string]string{"state": string(end.state)}).Counter("portcullis_drift_corrections_total").Inc(1)
	c.courier.Farewell(ctx)
	orders.Drain(ctx, c.log)
	out := c.status()
	out.FinishedAt = workflow.Now(ctx).UTC()
	return out, failed
}
