package slackgate

import (
	"encoding/json"
	"slices"

	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/options"
)

// mostViews is how many views wait to be handed over at most.
const mostViews = 50

// Courier hands views of a workflow to the SlackGate that shows it, from the first
// gate on. It has a coroutine of its own, so that nothing waits for it. A nil Courier
// tells nobody.
type Courier struct {
	// ID is the SlackGate's workflow ID, and Summary what Temporal shows of it.
	ID, Summary, Pipeline string
	Slack                 contract.Slack
	Log                   log.Logger

	queue []slack.View
	// last is the view that was queued last, as it travels.
	last string
	// begun is set at the first gate: before, there is no message to show a view in.
	begun bool
	busy  bool
}

// Start begins to hand over. ctx is not to end with the work: the end is told too.
func (c *Courier) Start(ctx workflow.Context) { workflow.GoNamed(ctx, "to slack", c.carry) }

// Tell queues a view, where that is new.
func (c *Courier) Tell(v slack.View) {
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
func (c *Courier) carry(ctx workflow.Context) {
	for started := false; ; {
		if err := workflow.Await(ctx, func() bool { return c.begun && len(c.queue) > 0 }); err != nil {
			return
		}
		c.busy = true
		me := workflow.GetInfo(ctx).WorkflowExecution
		views := contract.SlackViews{From: me.ID, Run: me.RunID, Slack: c.Slack, Views: c.queue}
		c.queue = nil
		started = c.handOver(ctx, views, started)
		c.busy = false
	}
}

// handOver starts the SlackGate, where this run has not done so, and signals it. One
// that has just ended is started again.
func (c *Courier) handOver(ctx workflow.Context, views contract.SlackViews, started bool) bool {
	for range 3 {
		if !started && !c.start(ctx) {
			return false
		}
		err := workflow.SignalExternalWorkflow(ctx, c.ID, "", contract.SignalViews, views).Get(ctx, nil)
		if err == nil {
			return true
		}
		c.Log.Warn("Slack's workflow was not signalled", "error", err)
		started = false
	}
	return false
}

func (c *Courier) start(ctx workflow.Context) bool {
	opts := options.AbandonedChild(c.ID, c.Summary)
	opts.TypedSearchAttributes = temporal.NewSearchAttributes(contract.AttrPipeline.ValueSet(c.Pipeline))
	child := workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, opts), contract.SlackWorkflow, contract.SlackInput{Pipeline: c.Pipeline})
	err := child.GetChildWorkflowExecution().Get(ctx, nil)
	if err != nil && !temporal.IsWorkflowExecutionAlreadyStartedError(err) {
		c.Log.Warn("Slack's workflow was not started", "error", err)
		return false
	}
	return true
}

// Hear calls take with what the SlackGate says of Slack in this rollout or correction,
// by its first run: nil while all is well.
func Hear(ctx workflow.Context, first string, take func(*contract.SlackState)) {
	workflow.GoNamed(ctx, "from slack", func(ctx workflow.Context) {
		for ch := workflow.GetSignalChannel(ctx, contract.SignalSlack); ; {
			var s contract.SlackState
			if !ch.Receive(ctx, &s) {
				return
			}
			switch {
			case s.Rollout != first:
			case s.Behind.IsZero():
				take(nil)
			default:
				take(&s)
			}
		}
	})
}

// Farewell waits, for a moment, until the last view is handed over.
func (c *Courier) Farewell(ctx workflow.Context) {
	if c == nil || !c.begun {
		return
	}
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	if _, err := workflow.AwaitWithTimeout(ctx, options.SlackFarewell, func() bool { return len(c.queue) == 0 && !c.busy }); err != nil {
		c.Log.Warn("the last view was not handed over", "error", err)
	}
}
