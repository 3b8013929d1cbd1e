// Package slackgate is the SlackGate workflow: it keeps one pipeline's gates in
// Slack as its rollout says they are. The rollout hands it views and does not wait
// for it: while Slack is away it tries again without end, with the newest view,
// and tells the rollout, whose status then says so.
package slackgate

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/workflows/call"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/options"
	"portcullis.dev/portcullis/workflows/story"
)

// mostLines is how many lines wait for Slack at most: the latest.
const mostLines = 200

// Run is the workflow.
func Run(ctx workflow.Context, in contract.SlackInput) error {
	g := &gate{in: in, log: log.With(workflow.GetLogger(ctx), "pipeline", in.Pipeline), views: workflow.GetSignalChannel(ctx, contract.SignalViews)}
	if in.Carried != nil {
		g.c = *in.Carried
	}
	return g.run(ctx)
}

type gate struct {
	in    contract.SlackInput
	c     contract.SlackCarried
	log   log.Logger
	views workflow.ReceiveChannel
}

func (g *gate) run(ctx workflow.Context) error {
	for {
		g.receive(ctx)
		now := workflow.Now(ctx)
		if g.finished(now) || g.forgotten(ctx, now) {
			return nil
		}
		if options.LongHistory(ctx) {
			return workflow.NewContinueAsNewError(ctx, contract.SlackWorkflow, contract.SlackInput{Pipeline: g.in.Pipeline, Carried: &g.c})
		}
		if g.due(now) {
			// More may have come meanwhile.
			g.deliver(ctx, now)
			continue
		}
		if err := g.wait(ctx, g.next(now).Sub(now)); err != nil {
			return err
		}
	}
}

// wait ends with a view that came, or after d.
func (g *gate) wait(ctx workflow.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	_, err := workflow.AwaitWithOptions(ctx, workflow.AwaitOptions{
		Timeout: d, TimerOptions: workflow.TimerOptions{Summary: "Slack: look again"},
	}, func() bool { return g.views.Len() > 0 })
	return err
}

// receive takes all views that have come.
func (g *gate) receive(ctx workflow.Context) {
	var s contract.SlackViews
	for g.views.ReceiveAsync(&s) {
		g.c.From, g.c.Run, g.c.Slack = s.From, s.Run, s.Slack
		for _, v := range s.Views {
			g.take(ctx, v)
		}
		s = contract.SlackViews{}
	}
}

// take makes a view the newest one.
func (g *gate) take(ctx workflow.Context, v slack.View) {
	now := workflow.Now(ctx)
	if v.Rollout != g.c.Shown.Rollout {
		// Another rollout of this pipeline: what was still to be said of the last one is said no more.
		g.c = contract.SlackCarried{From: g.c.From, Run: g.c.Run, Slack: g.c.Slack, Asked: now}
		g.c.State.Rollout = v.Rollout
	}
	g.tell(slack.Lines(g.c.Shown, v)...)
	if gate := v.Gate; gate != nil && !slices.ContainsFunc(g.c.Messages, func(m contract.SlackMessage) bool {
		return m.Environment == gate.Environment && !m.Escalation
	}) {
		g.c.Messages = append(g.c.Messages, contract.SlackMessage{
			Posted: slack.Posted{Channel: g.c.Slack.Channel}, Environment: gate.Environment, Since: gate.Since,
		})
		g.c.Reminded = now
	}
	if v.Over && !g.c.Shown.Over {
		g.c.OverAt = now
	}
	g.c.Shown = v
}

func (g *gate) tell(lines ...string) {
	g.c.Lines = append(g.c.Lines, lines...)
	if over := len(g.c.Lines) - mostLines; over > 0 {
		g.c.Lines, g.c.Lost = g.c.Lines[over:], g.c.Lost+over
	}
}

// due is true when there is something to do that need not wait.
func (g *gate) due(now time.Time) bool {
	if now.Before(g.c.State.Retry) {
		return false
	}
	return g.behind() || !now.Before(g.remind()) || !now.Before(g.escalate()) || !now.Before(g.look()) || !now.Before(g.soak())
}

// behind is true while Slack does not show how things are.
func (g *gate) behind() bool {
	if len(g.c.Lines) > 0 && g.thread() != nil {
		return true
	}
	return slices.ContainsFunc(g.c.Messages, g.stale)
}

// stale is true for a message that does not show its environment as it is. What
// changes elsewhere is shown by the last gate's message alone.
func (g *gate) stale(m contract.SlackMessage) bool {
	if m.Told == nil {
		return true
	}
	if last := g.thread(); last != nil && last.Environment == m.Environment {
		return !same(*m.Told, g.c.Shown)
	}
	return m.Told.Over != g.c.Shown.Over || !same(only(*m.Told, m.Environment), only(g.c.Shown, m.Environment))
}

// thread is the message whose thread is the log: that of the last gate.
func (g *gate) thread() *contract.SlackMessage {
	for i := len(g.c.Messages) - 1; i >= 0; i-- {
		if !g.c.Messages[i].Escalation {
			return &g.c.Messages[i]
		}
	}
	return nil
}

// waiting is the gate that waits for people, or nil.
func (g *gate) waiting() *slack.Gate {
	if v := g.c.Shown; v.Over || v.Ended != nil || v.Paused != nil {
		return nil
	}
	return g.c.Shown.Gate
}

// farAway is what is never waited for.
var farAway = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

func (g *gate) remind() time.Time {
	every := g.c.Slack.RemindEvery.Duration
	if g.waiting() == nil || every <= 0 {
		return farAway
	}
	return g.c.Reminded.Add(every)
}

func (g *gate) escalate() time.Time {
	e, w := g.c.Slack.Escalation, g.waiting()
	if e == nil || w == nil || slices.ContainsFunc(g.c.Messages, func(m contract.SlackMessage) bool {
		return m.Environment == w.Environment && m.Escalation
	}) {
		return farAway
	}
	return w.Since.Add(e.After.Duration)
}

func (g *gate) look() time.Time {
	if g.c.Shown.Over || g.c.Asked.IsZero() {
		return farAway
	}
	return g.c.Asked.Add(options.SlackLook)
}

// soak is when a message is to be shown anew although nothing came, because a soak in it
// has gone on.
func (g *gate) soak() time.Time {
	next := farAway
	for _, m := range g.c.Messages {
		if t := g.soaked(m); t.Before(next) {
			next = t
		}
	}
	return next
}

// soaked is soak for one message: now and then while a soak goes on, and once at its end.
func (g *gate) soaked(m contract.SlackMessage) time.Time {
	last := g.thread()
	if m.Told == nil || g.c.Shown.Over || last == nil {
		return farAway
	}
	next := farAway
	for _, e := range g.c.Shown.Environments {
		s := e.Soaking
		if s == nil || !m.ToldAt.Before(s.Until) || e.Name != m.Environment && last.Environment != m.Environment {
			continue
		}
		t := m.ToldAt.Add(options.SlackSoak(s.Until.Sub(s.Since)))
		if s.Until.Before(t) {
			t = s.Until
		}
		if t.Before(next) {
			next = t
		}
	}
	return next
}

// next is when to look again although nothing came.
func (g *gate) next(now time.Time) time.Time {
	next := now.Add(options.SlackGiveUp)
	for _, t := range []time.Time{g.remind(), g.escalate(), g.look(), g.soak()} {
		if t.Before(next) {
			next = t
		}
	}
	if retry := g.c.State.Retry; now.Before(retry) && (g.behind() || next.Before(retry)) {
		next = retry
	}
	return next
}

// finished is true when there will be nothing to say any more. The end of a rollout is
// tried for a day.
func (g *gate) finished(now time.Time) bool {
	if g.c.Shown.Rollout == "" || !g.c.Shown.Over {
		return false
	}
	return !g.behind() || now.Sub(g.c.OverAt) >= options.SlackGiveUp
}

// changeForgotten ended a SlackGate that nobody tells anything.
const changeForgotten = "slack-forgotten-20261124"

// forgotten is true a day after the start, where nothing was told until then: whoever
// started it was terminated before it could.
func (g *gate) forgotten(ctx workflow.Context, now time.Time) bool {
	return g.c.Shown.Rollout == "" && now.Sub(workflow.GetInfo(ctx).WorkflowStartTime) >= options.SlackGiveUp &&
		workflow.GetVersion(ctx, changeForgotten, workflow.DefaultVersion, 1) != workflow.DefaultVersion
}

// deliver does what is due. A failure ends it; what was done is not done again.
func (g *gate) deliver(ctx workflow.Context, now time.Time) {
	if !now.Before(g.look()) || !now.Before(g.remind()) {
		g.alive(ctx)
	}
	if !now.Before(g.escalate()) {
		g.c.Messages = append(g.c.Messages, contract.SlackMessage{
			Posted: slack.Posted{Channel: g.c.Slack.Escalation.Channel}, Environment: g.waiting().Environment, Since: g.waiting().Since, Escalation: true,
		})
		g.tell("nobody has decided yet: shown in the escalation channel too")
	}
	remind := !now.Before(g.remind())
	err := g.messages(ctx)
	// A thread can be written to though a message elsewhere could not.
	if errs.TypeOf(err) != errs.TypeUnavailable {
		err = errors.Join(err, g.lines(ctx))
		if remind {
			err = errors.Join(err, g.reminder(ctx))
		}
	}
	g.after(ctx, err)
}

// messages brings every message up to date.
func (g *gate) messages(ctx workflow.Context) error {
	var failed error
	for i := range g.c.Messages {
		if m := g.c.Messages[i]; !g.stale(m) && workflow.Now(ctx).Before(g.soaked(m)) {
			continue
		}
		err := g.message(ctx, i)
		if errs.TypeOf(err) == errs.TypeUnavailable {
			return err
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

func (g *gate) message(ctx workflow.Context, i int) error {
	m := &g.c.Messages[i]
	view := g.c.Shown
	in := slack.MessageInput{Channel: m.Channel, At: m.At, Environment: m.Environment, View: view, Picture: m.Picture}
	in.View.Now = workflow.Now(ctx)
	at, err := call.SlackMessage(ctx, in)
	if errs.TypeOf(err) == errs.TypeNotFound && m.At != "" {
		// Somebody took it away: it is written anew.
		in.At = ""
		at, err = call.SlackMessage(ctx, in)
	}
	if err != nil {
		return err
	}
	m.At, m.Picture, m.Told, m.ToldAt = at.At, at.Picture, &view, in.View.Now
	return nil
}

// lines writes what waits into the thread.
func (g *gate) lines(ctx workflow.Context) error {
	thread := g.thread()
	if len(g.c.Lines) == 0 || thread == nil || thread.At == "" {
		return nil
	}
	lines, n := g.c.Lines, len(g.c.Lines)
	if g.c.Lost > 0 {
		lines = append([]string{fmt.Sprintf("(%s were left out)", story.Count(g.c.Lost, "line"))}, lines...)
	}
	err := g.say(ctx, thread, slack.LinesInput{Lines: lines})
	if err == nil {
		g.c.Lines, g.c.Lost = g.c.Lines[n:], 0
	}
	return err
}

// say writes into a thread. Where its message was taken away, that is written anew first.
func (g *gate) say(ctx workflow.Context, thread *contract.SlackMessage, in slack.LinesInput) error {
	in.Channel, in.Thread = thread.Channel, thread.At
	err := call.SlackLines(ctx, in)
	if errs.TypeOf(err) == errs.TypeNotFound {
		thread.At, thread.Told = "", nil
	}
	return err
}

// reminder tells the channel that a gate still waits.
func (g *gate) reminder(ctx workflow.Context) error {
	w, thread := g.waiting(), g.thread()
	if w == nil || thread == nil || thread.At == "" {
		return nil
	}
	err := g.say(ctx, thread, slack.LinesInput{Lines: []string{slack.Reminder(*w)}, Broadcast: true})
	if err == nil {
		g.c.Reminded = workflow.Now(ctx)
	}
	return err
}

// after keeps how Slack is doing, and tells the rollout when that changes.
func (g *gate) after(ctx workflow.Context, err error) {
	now := workflow.Now(ctx)
	if err == nil {
		g.c.Tries = 0
		if g.c.State != (contract.SlackState{Rollout: g.c.Shown.Rollout}) {
			g.c.State = contract.SlackState{Rollout: g.c.Shown.Rollout}
			g.report(ctx)
		}
		return
	}
	wait := retryAfter(g.c.Tries, err)
	g.c.Tries++
	s := &g.c.State
	if s.Behind.IsZero() {
		s.Behind = now
	}
	s.Rollout, s.Reason, s.Type, s.Retry = g.c.Shown.Rollout, story.Reason(err), errs.TypeOf(err), now.Add(wait)
	g.log.Warn("Slack does not show how the rollout is", "reason", s.Reason, "tries", g.c.Tries, "retry", s.Retry)
	g.report(ctx)
}

// report tells the rollout how Slack is doing, whichever of its runs goes on.
func (g *gate) report(ctx workflow.Context) { g.reached(ctx, "") }

// reached tells a run of the rollout how Slack is doing, or the one that runs; it is
// false when that is not there.
func (g *gate) reached(ctx workflow.Context, run string) bool {
	g.c.Asked = workflow.Now(ctx)
	return workflow.SignalExternalWorkflow(ctx, g.c.From, run, contract.SignalSlack, g.c.State).Get(ctx, nil) == nil
}

// changeRuns asks for the rollout's own run: the next rollout of the pipeline has the
// same workflow ID, and would be taken for one that was terminated before it.
const changeRuns = "slack-runs-20261124"

// alive sees whether the rollout still runs. One that was terminated says nothing
// itself, and its gate would be asked for without end.
func (g *gate) alive(ctx workflow.Context) {
	if !g.dead(ctx) || g.c.Shown.Over {
		return
	}
	v := g.c.Shown
	v.Gate, v.Over, v.State = nil, true, "ended from outside"
	if i := slices.IndexFunc(v.Environments, func(e slack.Environment) bool { return e.State == string(contract.StateApproval) }); i >= 0 {
		v.Environments = slices.Clone(v.Environments)
		v.Environments[i].State = v.State
	}
	g.take(ctx, v)
}

func (g *gate) dead(ctx workflow.Context) bool {
	run := g.c.Run
	if run != "" && workflow.GetVersion(ctx, changeRuns, workflow.DefaultVersion, 1) == workflow.DefaultVersion {
		run = ""
	}
	if g.reached(ctx, run) || g.views.Len() > 0 {
		return false
	}
	if run == "" {
		return true
	}
	// A run that has continued as new has ended too: the next one tells so at once.
	return g.wait(ctx, options.SlackNextRun) == nil && g.views.Len() == 0
}

// same compares what two views show.
func same(a, b slack.View) bool { return text(a) == text(b) }

// text is a view as it travels; a view always marshals.
func text(v slack.View) string {
	raw, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(raw)
}

// only is what of a view belongs to one environment.
func only(v slack.View, environment string) slack.View {
	out := slack.View{}
	for _, e := range v.Environments {
		if e.Name == environment {
			out.Environments = []slack.Environment{e}
		}
	}
	if v.Gate != nil && v.Gate.Environment == environment {
		out.Gate = v.Gate
	}
	return out
}
