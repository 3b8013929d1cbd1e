package slackapp

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	slackgo "github.com/slack-go/slack"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/cmd/internal/config"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/slackgate"
)

const (
	// decideTimeout bounds one decision: after it, nobody knows whether it counts, and
	// the person is told so.
	decideTimeout = 15 * time.Second
	// answerWithin is how long Slack's acknowledgement waits for a decision. Slack
	// itself waits for three seconds.
	answerWithin = 2 * time.Second
	// atOnce bounds the interactions that are worked on at a time.
	atOnce = 64
)

// Temporal is what of its client is used.
type Temporal interface {
	UpdateWorkflow(ctx context.Context, options client.UpdateWorkflowOptions) (client.WorkflowUpdateHandle, error)
	QueryWorkflow(ctx context.Context, workflowID, runID, queryType string, args ...any) (converter.EncodedValue, error)
}

// App takes interactions and answers them.
type App struct {
	cfg    config.Slack
	slack  *slack.Client
	log    *slog.Logger
	taken  *prometheus.CounterVec
	waited prometheus.Histogram
	socket prometheus.Gauge

	temporal Temporal
	// address is what the listener listens on.
	address string
	slots   chan struct{}
	work    sync.WaitGroup
	seen    seen
}

// New returns an app that is not connected yet.
func New(cfg config.Slack, client *slack.Client) *App {
	return &App{
		cfg: cfg, slack: client, log: slog.New(slog.DiscardHandler), slots: make(chan struct{}, atOnce),
		taken: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "portcullis_slack_interactions_total", Help: "What people did in Slack, by kind and outcome.",
		}, []string{"kind", "outcome"}),
		waited: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "portcullis_slack_decision_seconds", Help: "From an interaction's arrival to the workflow's answer.",
			Buckets: []float64{.01, .025, .05, .1, .2, .3, .5, 1, 2.5, 5, 15},
		}),
		socket: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "portcullis_slack_socket_connected", Help: "1 while Socket Mode is connected.",
		}),
	}
}

// Collectors are the app's metrics, to be registered once.
func (a *App) Collectors() []prometheus.Collector {
	return []prometheus.Collector{a.taken, a.waited, a.socket}
}

// errBusy is the answer while too many interactions are worked on.
var errBusy = errs.Unavailable("Portcullis is busy: try again in a moment")

// handle takes one interaction. What it returns is the answer that Slack gets at
// once; nil is an empty one. The rest goes on in the background.
func (a *App) handle(ctx context.Context, in Interaction) (any, error) {
	select {
	case a.slots <- struct{}{}:
	default:
		a.count(in.Kind, "busy")
		return nil, errBusy
	}
	release := func() { <-a.slots }
	switch in.Kind {
	case Submit:
		if len([]rune(in.Why)) < 3 {
			release()
			a.count(in.Kind, errs.TypeInvalid)
			return wrong("Say why, in a few words."), nil
		}
		return a.submit(ctx, in, release), nil
	case Approve, Reject, Details:
		a.background(ctx, release, func(ctx context.Context) { a.press(ctx, in) })
		return nil, nil
	case Unknown:
		a.background(ctx, release, func(ctx context.Context) {
			a.tell(ctx, in, "Portcullis does not know this button or form. Is the message from another version?")
		})
		a.count(in.Kind, "ignored")
		return nil, nil
	}
	release()
	a.count(in.Kind, "ignored")
	return nil, nil
}

// background works in the background, past the end of the request that began it.
func (a *App) background(ctx context.Context, release func(), f func(context.Context)) {
	a.work.Go(func() {
		defer release()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), decideTimeout)
		defer cancel()
		f(ctx)
	})
}

// press does what a button is for.
func (a *App) press(ctx context.Context, in Interaction) {
	var err error
	switch in.Kind {
	case Approve:
		err = a.decide(ctx, contract.UpdateApprove, in)
	case Reject:
		in.Target.Channel = in.Channel
		err = a.open(ctx, in.Trigger, slack.RejectModal(in.Target))
	case Details:
		err = a.details(ctx, in)
	}
	a.ended(in, err)
	if err != nil {
		a.tell(ctx, in, refusal(err))
	}
}

// submit rejects. The answer is in the form where it comes in time, and else to
// the person in the channel.
func (a *App) submit(ctx context.Context, in Interaction, release func()) any {
	done := make(chan error, 1)
	a.background(ctx, release, func(ctx context.Context) {
		err := a.decide(ctx, contract.UpdateReject, in)
		a.ended(in, err)
		done <- err
	})
	timer := time.NewTimer(answerWithin)
	defer timer.Stop()
	select {
	case err := <-done:
		if err != nil {
			return wrong(refusal(err))
		}
	case <-timer.C:
		a.work.Go(func() {
			if err := <-done; err != nil {
				a.tell(ctx, in, refusal(err))
			}
		})
	}
	return nil
}

// wrong shows what is wrong below the form's only field.
func wrong(line string) any {
	return slackgo.NewErrorsViewSubmissionResponse(map[string]string{slack.BlockWhy: line})
}

// decide sends a decision to the rollout that the person saw, and to no other.
func (a *App) decide(ctx context.Context, update string, in Interaction) error {
	began := time.Now()
	defer func() { a.waited.Observe(time.Since(began).Seconds()) }()
	handle, err := a.temporal.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{
		// One press is one update, however often it is delivered.
		UpdateID:            updateID(in),
		WorkflowID:          workflowID(in.Target),
		FirstExecutionRunID: in.Target.Rollout,
		UpdateName:          update,
		WaitForStage:        client.WorkflowUpdateStageCompleted,
		Args: []any{contract.Decision{
			By: in.User, Why: in.Why, Environment: in.Target.Environment, Evidence: in.Target.Evidence,
			Via: contract.ViaSlack, Known: contract.KnownSlack,
		}},
	})
	if err == nil {
		err = handle.Get(ctx, nil)
	}
	return explain(err, in)
}

// workflowID is what decides about a target.
func workflowID(t slack.Target) string {
	if t.Kind == slack.KindCorrection {
		return contract.CorrectionID(t.Pipeline)
	}
	return contract.RolloutID(t.Pipeline)
}

// this names it to people.
func this(t slack.Target) string {
	if t.Kind == slack.KindCorrection {
		return "this correction of drift of " + t.Pipeline
	}
	return "this rollout of " + t.Pipeline
}

func updateID(in Interaction) string {
	sum := sha256.Sum256([]byte(string(in.Kind) + "|" + in.User + "|" + in.Trigger))
	return "slack-" + hex.EncodeToString(sum[:16])
}

// explain gives what Temporal says a type and one line for the person who pressed.
func explain(err error, in Interaction) error {
	var (
		app     *temporal.ApplicationError
		missing *serviceerror.NotFound
		invalid *serviceerror.InvalidArgument
		before  *serviceerror.FailedPrecondition
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &app):
		return err
	case errors.As(err, &missing), errors.As(err, &before), errors.As(err, &invalid):
		return errs.Late("%s no longer runs: there is nothing left to decide", this(in.Target))
	case errors.Is(err, context.DeadlineExceeded):
		return errs.Unavailable("there was no answer in time, and it may count all the same: see the message, or portcullis %s status %s", verbs(in.Target), in.Target.Pipeline)
	}
	return errs.Unavailable("Temporal cannot be reached: try again, or decide with portcullis %s on the command line", verbs(in.Target))
}

// verbs is the command that decides about it.
func verbs(t slack.Target) string {
	if t.Kind == slack.KindCorrection {
		return "drift correct"
	}
	return "rollout"
}

// details shows what does not fit into the message.
func (a *App) details(ctx context.Context, in Interaction) error {
	value, err := a.temporal.QueryWorkflow(ctx, workflowID(in.Target), "", contract.QueryStatus)
	if err != nil {
		return explain(err, in)
	}
	view, err := viewOf(in.Target.Kind, value)
	if err != nil {
		return errs.Failed("the status of %s cannot be read", this(in.Target))
	}
	if view.Rollout != in.Target.Rollout {
		return errs.Late("%s no longer runs", this(in.Target))
	}
	return a.open(ctx, in.Trigger, slack.DetailsModal(view, in.Target))
}

// viewOf reads a status.
func viewOf(kind slack.Kind, value converter.EncodedValue) (slack.View, error) {
	if kind == slack.KindCorrection {
		var status contract.CorrectionStatus
		err := value.Get(&status)
		return slackgate.CorrectionView(contract.Pipeline{}, status, false, ""), err
	}
	var status contract.RolloutStatus
	err := value.Get(&status)
	return slackgate.View(slackgate.Of{Status: status}), err
}

func (a *App) open(ctx context.Context, trigger string, view slackgo.ModalViewRequest) error {
	return a.slack.Do(ctx, "views.open", "", func(ctx context.Context, api *slackgo.Client) error {
		_, err := api.OpenViewContext(ctx, trigger, view)
		return err
	})
}

// tell answers in a way that only that person sees.
func (a *App) tell(ctx context.Context, in Interaction, line string) {
	if in.Channel == "" {
		a.log.Warn("nobody was told", "kind", in.Kind, "user", in.User, "line", line)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), decideTimeout)
	defer cancel()
	err := a.slack.Do(ctx, "chat.postEphemeral", in.Channel, func(ctx context.Context, api *slackgo.Client) error {
		_, err := api.PostEphemeralContext(ctx, in.Channel, in.User, slackgo.MsgOptionText(slack.Free(line), false))
		return err
	})
	if err != nil {
		a.log.Warn("nobody was told", "kind", in.Kind, "user", in.User, "line", line, "reason", errs.Message(err))
	}
}

// refusal is what a person gets to read.
func refusal(err error) string { return "Not taken: " + errs.Message(err) }

func (a *App) ended(in Interaction, err error) {
	outcome := "done"
	if err != nil {
		outcome = errs.TypeOf(err)
	}
	a.count(in.Kind, outcome)
	a.log.Info("interaction", "kind", in.Kind, "user", in.User, "pipeline", in.Target.Pipeline, "environment", in.Target.Environment,
		"evidence", in.Target.Evidence[:contract.MinEvidence], "outcome", outcome)
}

func (a *App) count(kind Kind, outcome string) {
	a.taken.WithLabelValues(string(kind), outcome).Inc()
}
