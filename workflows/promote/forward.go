package promote

import (
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/deliver"
	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/call"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/measure"
	"portcullis.dev/portcullis/workflows/options"
	"portcullis.dev/portcullis/workflows/story"
)

// forward walks the steps that are left. An error ends it; what was touched by
// then is in the state.
func (p *promotion) forward(ctx workflow.Context) error {
	if err := p.baseline(ctx); err != nil {
		return err
	}
	if p.state.Step == 0 {
		if err := p.preflight(ctx); err != nil {
			return err
		}
		p.label(ctx, contract.StatePromoting)
	}
	for ; p.state.Step < len(p.steps); p.state.Step++ {
		if options.LongHistory(ctx) && p.drained(ctx) && ctx.Err() == nil {
			return p.continueAsNew(ctx)
		}
		var err error
		switch s := p.steps[p.state.Step]; s.kind {
		case stepUnit:
			err = p.unit(ctx, s.unit)
		case stepSoak:
			err = p.soak(ctx, s)
		}
		if err != nil {
			return err
		}
	}
	return p.record(ctx)
}

// baseline measures what the wire is before the change, unless the rollout did.
// Without it the way back could not be proven, so nothing is written before it.
func (p *promotion) baseline(ctx workflow.Context) error {
	if len(p.state.Baseline) > 0 {
		return nil
	}
	p.label(ctx, contract.StateBaseline)
	found, err := p.measure(ctx, measure.Request{
		Phase: "baseline", Clusters: clusters(p.in.Plan.Units, ""), Mode: verify.Baseline,
		EnsureAgent: options.AgentTimeout, Keep: true,
	})
	if err != nil {
		return err
	}
	for _, c := range found.Clusters {
		r := &p.state.Clusters[p.row[c.Cluster]]
		r.Pairs, r.Reason = c.Pairs, ""
		if !c.Passed {
			r.State, r.Reason = story.RowFailed, c.Reason
		}
	}
	if bad := measure.Unmeasured(found.Clusters); bad != "" {
		return errs.Failed("no baseline: %s", bad)
	}
	p.state.Baseline = found.Kept
	p.note(ctx, "baseline measured on "+story.Count(len(found.Clusters), "cluster"))
	return nil
}

// unit takes one unit from staged to verified.
func (p *promotion) unit(ctx workflow.Context, i int) error {
	u := p.in.Plan.Units[i]
	p.status.Unit, p.status.Wave = u.GitRepo, u.Wave
	if err := p.unpaused(ctx); err != nil {
		return err
	}
	// The undo is registered before the risky write.
	p.state.Touched = append(p.state.Touched, i)
	if err := p.stage(ctx, u); err != nil {
		return err
	}
	if err := p.unpaused(ctx); err != nil {
		return err
	}
	p.enter(ctx, contract.StateReleasing)
	if err := call.Release(ctx, p.input(u)); err != nil {
		return p.failed(u, "not released", err)
	}
	if err := p.settle(ctx, u); err != nil {
		return err
	}
	return p.verify(ctx, u)
}

// unpaused waits while the rollout is paused.
func (p *promotion) unpaused(ctx workflow.Context) error {
	if p.state.Paused == nil {
		return ctx.Err()
	}
	p.note(ctx, "waits to be resumed before the next step")
	return workflow.Await(ctx, func() bool { return p.state.Paused == nil })
}

func (p *promotion) stage(ctx workflow.Context, u rancher.Unit) error {
	p.enter(ctx, contract.StateStaging)
	staged, err := call.Stage(ctx, p.input(u))
	if err != nil {
		return p.failed(u, "not staged", err)
	}
	if problem := mismatch(u, staged.Clusters); problem != "" {
		return p.failed(u, "staged wrongly", errs.Failed("%s", problem))
	}
	p.mark(u.Clusters, story.RowStaged, "")
	changed := 0
	for _, c := range staged.Clusters {
		if c.Changed {
			changed++
		}
	}
	p.note(ctx, fmt.Sprintf("%s staged: Fleet would change %d of %s", u.GitRepo, changed, story.Count(len(u.Clusters), "cluster")))
	return nil
}

// mismatch says how what Fleet computed differs from what was planned, or "".
func mismatch(u rancher.Unit, staged []rancher.ClusterStatus) string {
	var problems []string
	seen := map[string]bool{}
	for _, s := range staged {
		seen[s.Cluster] = true
		switch {
		case !slices.ContainsFunc(u.Clusters, func(c rancher.Cluster) bool { return c.Name == s.Cluster }):
			problems = append(problems, "cluster "+s.Cluster+" is targeted but not planned")
		case s.Failed:
			problems = append(problems, "cluster "+s.Cluster+": "+s.Reason)
		}
	}
	for _, c := range u.Clusters {
		if !seen[c.Name] {
			problems = append(problems, "cluster "+c.Name+" is planned but Fleet has nothing for it")
		}
	}
	return story.Some(problems, 3)
}

func (p *promotion) settle(ctx workflow.Context, u rancher.Unit) error {
	p.enter(ctx, contract.StateSettling)
	settled, err := call.Settle(ctx, p.input(u), p.in.Environment.Gate.SettleTimeout.Duration)
	if err != nil {
		return p.failed(u, "not live", err)
	}
	for _, c := range settled.Clusters {
		p.state.Manifests[c.Cluster] = c.Manifests
	}
	p.state.LiveAt = settled.LiveAt.UTC()
	p.mark(u.Clusters, story.RowLive, "")
	p.note(ctx, u.GitRepo+" is live on "+story.Count(len(u.Clusters), "cluster"))
	return nil
}

func (p *promotion) verify(ctx workflow.Context, u rancher.Unit) error {
	p.enter(ctx, contract.StateVerifying)
	found, err := p.measure(ctx, measure.Request{Phase: "verify", Clusters: u.Clusters, Mode: verify.Verify})
	if err != nil {
		return err
	}
	p.state.VerdictAt = workflow.Now(ctx).UTC()
	p.state.ProbeTime = 0
	for _, c := range found.Clusters {
		p.state.ProbeTime = max(p.state.ProbeTime, c.ProbeTime)
	}
	p.judge(found.Clusters)
	if bad := measure.Failures(found.Clusters); bad != "" {
		return errs.Failed("probes of %s failed on %s", u.GitRepo, bad)
	}
	p.note(ctx, u.GitRepo+" verified on "+story.Count(len(u.Clusters), "cluster"))
	return nil
}

// judge writes verdicts into the rows.
func (p *promotion) judge(found []contract.ClusterEvidence) {
	for _, c := range found {
		r := &p.state.Clusters[p.row[c.Cluster]]
		r.State, r.Reason = story.RowVerified, ""
		if !c.Passed {
			r.State, r.Reason = story.RowFailed, c.Reason
		}
		r.Pairs, r.Failing, r.Evidence = c.Pairs, c.Failing, c.Hash
	}
}

// soak keeps probing for the step's time. While the rollout is paused it goes
// on probing and does not end.
func (p *promotion) soak(ctx workflow.Context, s step) error {
	p.label(ctx, contract.StateSoaking)
	what := "environment"
	if s.wave != "" {
		what = "wave " + s.wave
	}
	p.status.SoakUntil = workflow.Now(ctx).Add(s.soak).UTC()
	defer func() { p.status.SoakUntil = time.Time{} }()
	p.note(ctx, fmt.Sprintf("soaking %s for %s", what, s.soak))
	p.tellSoak(ctx, s.wave, p.status.SoakUntil)
	if err := p.stretch(ctx, s, s.soak); err != nil {
		p.tellSoak(ctx, s.wave, time.Time{})
		return err
	}
	for p.state.Paused != nil {
		p.note(ctx, "the soak is over and goes on until the rollout is resumed")
		inner, cancel := workflow.WithCancel(ctx)
		p.resumed = cancel
		err := p.stretch(inner, s, options.SoakWhilePaused)
		// Resuming cuts the stretch short. A failure that it saw by then counts.
		cut := inner.Err() != nil && ctx.Err() == nil
		p.resumed = nil
		cancel()
		if err != nil && !(cut && isCanceled(err)) {
			return err
		}
		if options.LongHistory(ctx) && p.drained(ctx) {
			// The soak is begun again in the next run: longer than asked, never shorter.
			return p.continueAsNew(ctx)
		}
	}
	return nil
}

// changeSoakTells brought the soak to the rollout's message in Slack.
const changeSoakTells = "soak-tells-20261124"

// tellSoak tells the rollout, which shows it in Slack, that a soak has begun and until when
// it goes on, or with the zero time that it was cut short.
func (p *promotion) tellSoak(ctx workflow.Context, wave string, until time.Time) {
	parent := workflow.GetInfo(ctx).ParentWorkflowExecution
	if parent == nil || p.in.Pipeline.Spec.Slack == nil ||
		workflow.GetVersion(ctx, changeSoakTells, workflow.DefaultVersion, 1) == workflow.DefaultVersion {
		return
	}
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	soak := contract.Soaking{Environment: p.in.Plan.Name, Wave: wave, Since: workflow.Now(ctx).UTC(), Until: until}
	if err := workflow.SignalExternalWorkflow(ctx, parent.ID, "", contract.SignalSoak, soak).Get(ctx, nil); err != nil {
		p.log.Warn("the rollout was not told of the soak", "error", err)
	}
}

func (p *promotion) stretch(ctx workflow.Context, s step, d time.Duration) error {
	found, err := p.measure(ctx, measure.Request{
		Phase: "soak", Clusters: clusters(p.in.Plan.Units, s.wave), Mode: verify.Soak, Duration: d,
	})
	if err != nil {
		return err
	}
	p.judge(found.Clusters)
	if bad := measure.Failures(found.Clusters); bad != "" {
		return errs.Failed("probes failed while soaking on %s", bad)
	}
	return nil
}

// record marks every unit as verified, so that the next rollout knows what to
// go back to. By now everything is proven, so that a cancellation is too late:
// half of the units recorded would be worse than either end.
func (p *promotion) record(ctx workflow.Context) error {
	hash, err := p.evidence()
	if err != nil {
		return err
	}
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	return p.markVerified(ctx, p.in.Commit, hash)
}

func (p *promotion) markVerified(ctx workflow.Context, commit, hash string) error {
	errors := make([]error, len(p.in.Plan.Units))
	each(ctx, len(p.in.Plan.Units), func(ctx workflow.Context, i int) {
		in := p.input(p.in.Plan.Units[i])
		in.Commit = commit
		errors[i] = call.MarkVerified(ctx, deliver.VerifiedInput{UnitInput: in, Evidence: hash})
	})
	for i, err := range errors {
		if err != nil {
			return p.failed(p.in.Plan.Units[i], "not recorded as verified", err)
		}
	}
	return nil
}

func (p *promotion) measure(ctx workflow.Context, req measure.Request) (measure.Result, error) {
	req.Pipeline, req.Environment = p.in.Pipeline, p.in.Plan.Name
	return measure.Clusters(ctx, req)
}

func (p *promotion) input(u rancher.Unit) deliver.UnitInput {
	return deliver.UnitInput{
		Pipeline:    p.in.Pipeline.Metadata.Name,
		Environment: p.in.Plan.Name,
		Source:      p.in.Pipeline.Spec.Source,
		Unit:        u,
		Commit:      p.in.Commit,
		Rollout:     p.in.Rollout,
	}
}

// failed marks the unit's rows and names the unit in the error. Cancellation
// stays as it is.
func (p *promotion) failed(u rancher.Unit, what string, err error) error {
	if isCanceled(err) {
		return err
	}
	reason := story.Reason(err)
	p.mark(u.Clusters, story.RowFailed, what+": "+reason)
	return errs.Failed("%s %s: %s", u.GitRepo, what, reason)
}
