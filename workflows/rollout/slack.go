package rollout

import (
	"encoding/json"
	"slices"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/options"
	"portcullis.dev/portcullis/workflows/slackgate"
)

// mostViews is how many views wait to be handed over at most.
const mostViews = 50

// courier hands views of the rollout to the pipeline's SlackGate, from the first
// gate on. It has a coroutine of its own, so that nothing waits for it.
type courier struct {
	queue []slack.View
	// last is the view that was queued last, as it travels.
	last string
	// begun is set at the first gate: before, there is no message to show a view in.
	begun bool
	busy  bool
}

// startCourier begins to tell Slack, where the pipeline has it.
func (r *rollout) startCourier(ctx workflow.Context) {
	if r.in.Pipeline.Spec.Slack == nil ||
		workflow.GetVersion(ctx, "slack-20261123", workflow.DefaultVersion, 1) == workflow.DefaultVersion {
		return
	}
	r.courier = &courier{}
	// The end of the rollout is told too.
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	workflow.GoNamed(ctx, "to slack", r.carry)
	workflow.GoNamed(ctx, "from slack", r.hear)
}

// tellSlack queues how the rollout is now, where that is new.
func (r *rollout) tellSlack(ctx workflow.Context) {
	c := r.courier
	if c == nil {
		return
	}
	info := workflow.GetInfo(ctx)
	v := slackgate.View(slackgate.Of{
		Pipeline: r.in.Pipeline, Status: r.status(), Over: r.over,
		Namespace: info.Namespace, Workflow: info.WorkflowExecution.ID, Run: info.WorkflowExecution.RunID,
	})
	raw, err := json.Marshal(v)
	if err != nil || string(raw) == c.last {
		return
	}
	c.last = string(raw)
	c.queue = append(c.queue, v)
	c.begun = c.begun || v.Gate != nil
	if over := len(c.queue) - mostViews; over > 0 {
		c.queue = slices.Delete(c.queue, 1, 1+over)
	}
}

// carry hands over what is queued, as long as the workflow runs.
func (r *rollout) carry(ctx workflow.Context) {
	c := r.courier
	for started := false; ; {
		if err := workflow.Await(ctx, func() bool { return c.begun && len(c.queue) > 0 }); err != nil {
			return
		}
		c.busy = true
		views := contract.SlackViews{
			From: workflow.GetInfo(ctx).WorkflowExecution.ID, Slack: *r.in.Pipeline.Spec.Slack, Views: c.queue,
		}
		c.queue = nil
		started = r.handOver(ctx, views, started)
		c.busy = false
	}
}

// handOver starts the SlackGate, where this run has not done so, and signals it. One
// that has just ended is started again.
func (r *rollout) handOver(ctx workflow.Context, views contract.SlackViews, started bool) bool {
	for range 3 {
		if !started && !r.startSlackGate(ctx) {
			return false
		}
		err := workflow.SignalExternalWorkflow(ctx, contract.SlackID(r.name), "", contract.SignalViews, views).Get(ctx, nil)
		if err == nil {
			return true
		}
		r.log.Warn("Slack's workflow was not signalled", "error", err)
		started = false
	}
	return false
}

func (r *rollout) startSlackGate(ctx workflow.Context) bool {
	opts := options.AbandonedChild(contract.SlackID(r.name), "show the gates of "+r.name+" in Slack")
	opts.TypedSearchAttributes = temporal.NewSearchAttributes(contract.AttrPipeline.ValueSet(r.name))
	child := workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, opts), contract.SlackWorkflow, contract.SlackInput{Pipeline: r.name})
	err := child.GetChildWorkflowExecution().Get(ctx, nil)
	if err != nil && !temporal.IsWorkflowExecutionAlreadyStartedError(err) {
		r.log.Warn("Slack's workflow was not started", "error", err)
		return false
	}
	return true
}

// hear keeps what the SlackGate says of Slack.
func (r *rollout) hear(ctx workflow.Context) {
	for ch := workflow.GetSignalChannel(ctx, contract.SignalSlack); ; {
		var s contract.SlackState
		if !ch.Receive(ctx, &s) {
			return
		}
		if s.Rollout != r.state.FirstRun {
			continue
		}
		r.state.Slack = nil
		if !s.Behind.IsZero() {
			r.state.Slack = &s
		}
		r.show(ctx)
	}
}

// farewell waits, for a moment, until the last view is handed over.
func (r *rollout) farewell(ctx workflow.Context) {
	c := r.courier
	if c == nil || !c.begun {
		return
	}
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	if _, err := workflow.AwaitWithTimeout(ctx, options.SlackFarewell, func() bool { return len(c.queue) == 0 && !c.busy }); err != nil {
		r.log.Warn("the last view was not handed over", "error", err)
	}
}
