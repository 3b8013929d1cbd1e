// Package promote is the PromoteEnvironment workflow: one revision enters one
// environment, wave by wave, or is put back.
//
// The walk is a list of steps, computed from the plan alone: units, soaks,
// marks. Before a unit's first write it is put on the list of touched units;
// whatever ends the walk after that, the way back visits every unit on the list,
// on a context that cancellation does not reach. The workflow never fails: what
// happened is its result.
package promote

import (
	"fmt"

	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/evidence"
	"portcullis.dev/portcullis/workflows/options"
	"portcullis.dev/portcullis/workflows/story"
)

// Run promotes, or with RollbackOnly restores, one environment.
func Run(ctx workflow.Context, in contract.PromoteInput) (contract.PromoteResult, error) {
	p, err := start(ctx, in)
	if err != nil {
		return contract.PromoteResult{}, err
	}
	return p.run(ctx)
}

type promotion struct {
	in    contract.PromoteInput
	state contract.PromoteState
	steps []step
	row   map[string]int
	log   log.Logger
	// wave, unit and soakUntil are for the status only.
	status contract.PromoteStatus
	// stop is why a person, or the rollout, ends this promotion.
	stop string
	// resumed ends a stretch of soaking that a pause made longer than it had to be.
	resumed func()
}

func start(ctx workflow.Context, in contract.PromoteInput) (*promotion, error) {
	p := &promotion{in: in, steps: walk(in), row: map[string]int{}}
	p.log = log.With(workflow.GetLogger(ctx), "pipeline", in.Pipeline.Metadata.Name, "environment", in.Plan.Name)
	if in.Carried != nil {
		p.state = *in.Carried
	} else {
		p.state = contract.PromoteState{State: contract.StatePending, Baseline: in.Baseline, Manifests: map[string]map[string]string{}}
		for _, u := range in.Plan.Units {
			for _, c := range u.Clusters {
				p.state.Clusters = append(p.state.Clusters, contract.ClusterRow{
					Cluster: c.Name, Wave: u.Wave, State: story.RowPending, Reason: in.Plan.Unready[c.Name],
				})
			}
		}
	}
	if p.state.Manifests == nil {
		p.state.Manifests = map[string]map[string]string{}
	}
	// The input's copy would be carried from run to run beside the state's.
	p.in.Baseline, p.in.Carried = nil, nil
	for i, r := range p.state.Clusters {
		p.row[r.Cluster] = i
	}
	if err := workflow.SetQueryHandler(ctx, contract.QueryStatus, p.query); err != nil {
		return nil, fmt.Errorf("setting the status query: %w", err)
	}
	p.listen(ctx)
	return p, nil
}

func (p *promotion) query() (contract.PromoteStatus, error) {
	s := p.status
	s.Environment, s.State, s.Paused = p.in.Plan.Name, p.state.State, p.state.Paused != nil
	s.Clusters, s.Log = p.state.Clusters, p.state.Log
	return s, nil
}

// listen takes the rollout's signals for as long as the workflow runs.
func (p *promotion) listen(ctx workflow.Context) {
	// Signals must still be taken on the way back, after cancellation.
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	pause := workflow.GetSignalChannel(ctx, contract.SignalPause)
	resume := workflow.GetSignalChannel(ctx, contract.SignalResume)
	stop := workflow.GetSignalChannel(ctx, contract.SignalStop)
	workflow.GoNamed(ctx, "signals", func(ctx workflow.Context) {
		selector := workflow.NewNamedSelector(ctx, "signals")
		selector.AddReceive(pause, func(c workflow.ReceiveChannel, _ bool) {
			var order contract.Order
			c.Receive(ctx, &order)
			p.pause(ctx, order)
		})
		selector.AddReceive(resume, func(c workflow.ReceiveChannel, _ bool) {
			var order contract.Order
			c.Receive(ctx, &order)
			p.resume(ctx, order)
		})
		selector.AddReceive(stop, func(c workflow.ReceiveChannel, _ bool) {
			c.Receive(ctx, &p.stop)
		})
		for {
			selector.Select(ctx)
		}
	})
}

func (p *promotion) pause(ctx workflow.Context, order contract.Order) {
	if p.state.Paused != nil {
		return
	}
	p.state.Paused = &order
	p.note(ctx, "paused by "+story.By(order.By, order.Why)+": nothing new is released")
}

func (p *promotion) resume(ctx workflow.Context, order contract.Order) {
	if p.state.Paused == nil {
		return
	}
	p.state.Paused = nil
	if p.resumed != nil {
		p.resumed()
	}
	p.note(ctx, "resumed by "+story.By(order.By, order.Why))
}

// drained is true when no signal waits that a continue-as-new would lose.
func (p *promotion) drained(ctx workflow.Context) bool {
	for _, name := range []string{contract.SignalPause, contract.SignalResume, contract.SignalStop} {
		if workflow.GetSignalChannel(ctx, name).Len() > 0 {
			return false
		}
	}
	return true
}

// run walks forward and, when that ends badly, back.
func (p *promotion) run(ctx workflow.Context) (contract.PromoteResult, error) {
	var reason string
	switch {
	case p.state.Ending != "":
		reason = p.state.Ending
	case p.in.RollbackOnly:
		if reason = p.in.Reason; reason == "" {
			reason = "rolled back by hand"
		}
		for i := range p.in.Plan.Units {
			p.state.Touched = append(p.state.Touched, i)
		}
	default:
		err := p.forward(ctx)
		if err == nil {
			return p.verified(ctx)
		}
		if workflow.IsContinueAsNewError(err) {
			return contract.PromoteResult{}, err
		}
		reason = p.why(err)
		if len(p.state.Touched) == 0 {
			return p.untouched(ctx, err, reason), nil
		}
	}
	p.state.Ending = reason
	// From here cancellation is too late: the way back is walked to its end.
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	if options.LongHistory(ctx) && len(p.state.Touched) > options.RestoresAtOnce && p.drained(ctx) {
		return contract.PromoteResult{}, p.continueAsNew(ctx)
	}
	return p.back(ctx), nil
}

// why is the reason of what ended the walk: for a cancellation, the one that
// the rollout gave with it.
func (p *promotion) why(err error) string {
	if !temporal.IsCanceledError(err) {
		return story.Reason(err)
	}
	if p.stop != "" {
		return p.stop
	}
	return "cancelled"
}

func (p *promotion) untouched(ctx workflow.Context, err error, reason string) contract.PromoteResult {
	state := contract.StateFailed
	if temporal.IsCanceledError(err) {
		state = contract.StateAborted
	}
	p.enter(ctx, state)
	p.note(ctx, string(state)+" before anything was written: "+reason)
	return p.result(state, reason)
}

func (p *promotion) verified(ctx workflow.Context) (contract.PromoteResult, error) {
	p.enter(ctx, contract.StateVerified)
	result := p.result(contract.StateVerified, "")
	hash, err := p.evidence()
	if err != nil {
		return result, err
	}
	result.Evidence = hash
	p.show(ctx)
	result.Log = p.state.Log
	return result, nil
}

func (p *promotion) evidence() (string, error) {
	return evidence.Environment(p.in.Commit, p.state.Clusters, p.state.Manifests)
}

func (p *promotion) result(state contract.State, reason string) contract.PromoteResult {
	r := contract.PromoteResult{
		Environment: p.in.Plan.Name,
		State:       state,
		Reason:      reason,
		Clusters:    p.state.Clusters,
		Touched:     len(p.state.Touched) > 0,
		Log:         p.state.Log,
		LiveAt:      p.state.LiveAt,
		VerdictAt:   p.state.VerdictAt,
		ProbeTime:   p.state.ProbeTime,
	}
	if p.in.KeepBaseline {
		r.Baseline = p.state.Baseline
	}
	return r
}

// enter moves to a state and shows it.
func (p *promotion) enter(ctx workflow.Context, state contract.State) {
	p.state.State = state
	p.show(ctx)
}

// label writes the state where it can be searched for. It costs an event, so
// it is done once per part of the walk, not per unit.
func (p *promotion) label(ctx workflow.Context, state contract.State) {
	p.enter(ctx, state)
	if err := workflow.UpsertTypedSearchAttributes(ctx, contract.AttrState.ValueSet(string(state))); err != nil {
		p.log.Warn("search attribute not set", "error", err)
	}
}

func (p *promotion) note(ctx workflow.Context, message string) {
	p.log.Info(message, "state", p.state.State)
	p.state.Log = story.Append(p.state.Log, workflow.Now(ctx), p.in.Plan.Name, message)
	p.show(ctx)
}

func (p *promotion) show(ctx workflow.Context) {
	if s, err := p.query(); err == nil {
		workflow.SetCurrentDetails(ctx, story.Promotion(s))
	}
}

// mark sets the state of clusters' rows.
func (p *promotion) mark(clusters []rancher.Cluster, state, reason string) {
	for _, c := range clusters {
		r := &p.state.Clusters[p.row[c.Name]]
		r.State, r.Reason = state, reason
	}
}

func (p *promotion) continueAsNew(ctx workflow.Context) error {
	next := p.in
	state := p.state
	next.Carried = &state
	return workflow.NewContinueAsNewError(ctx, contract.PromoteWorkflow, next)
}
