package contract

import (
	"time"

	"portcullis.dev/portcullis/activities/slack"
)

// SlackWorkflow shows the gates of a pipeline's rollout in Slack. A rollout starts
// it and does not wait for it.
const SlackWorkflow = "SlackGate"

// SlackID is the workflow ID of what shows a pipeline in Slack.
func SlackID(pipeline string) string { return "slack/" + pipeline }

// Messages between a Rollout and its SlackGate.
const (
	// SignalViews goes to a SlackGate, with a SlackViews.
	SignalViews = "views"
	// SignalSlack goes to a Rollout, with a SlackState. It cannot be delivered once
	// the rollout is over, by which a SlackGate knows that it is.
	SignalSlack = "slack"
)

// NoticeWorkflow says something in a channel, however long Slack is away. Whoever has
// something to say starts it and does not wait for it.
const NoticeWorkflow = "SlackNotice"

// NoticeID is the workflow ID of what says how an audit of a pipeline ended.
func NoticeID(pipeline, run string) string { return "slack/drift/" + pipeline + "/" + run }

// NoticeInput starts a SlackNotice.
type NoticeInput struct {
	Pipeline string `json:"pipeline"`
	Channel  string `json:"channel"`
	// Lines are mrkdwn, as slack.LinesInput has them.
	Lines []string `json:"lines"`
}

// Activities of a SlackGate.
const (
	ActSlackMessage = "slack.Message"
	ActSlackLines   = "slack.Lines"
)

// SlackInput starts a SlackGate.
type SlackInput struct {
	Pipeline string `json:"pipeline"`
	// Carried is set by continue-as-new only.
	Carried *SlackCarried `json:"carried,omitempty"`
}

// SlackViews are how a rollout looked, oldest first, and where it is shown.
type SlackViews struct {
	// From is the rollout's workflow ID, and Run which of its runs says so.
	From  string       `json:"from"`
	Run   string       `json:"run,omitempty"`
	Slack Slack        `json:"slack"`
	Views []slack.View `json:"views"`
}

// SlackState is how Slack is doing for one rollout.
type SlackState struct {
	// Behind is since when Slack does not show how things are; zero while it does.
	Behind time.Time `json:"behind,omitzero"`
	// Reason is why, and Type one of errs; Retry is when it is tried again.
	Reason string    `json:"reason,omitempty"`
	Type   string    `json:"type,omitempty"`
	Retry  time.Time `json:"retry,omitzero"`
	// Rollout is the first run of the rollout that it is about.
	Rollout string `json:"rollout"`
}

// SlackCarried is what of a SlackGate survives continue-as-new.
type SlackCarried struct {
	From  string `json:"from"`
	Run   string `json:"run,omitempty"`
	Slack Slack  `json:"slack"`
	// Shown is the newest view that came.
	Shown slack.View `json:"shown"`
	// Lines wait to be written into the thread, oldest first; Lost counts those
	// that were left out because they waited for too long.
	Lines []string `json:"lines,omitempty"`
	Lost  int      `json:"lost,omitempty"`
	// Messages are the gates that were seen, oldest first. The thread of the last
	// one is the rollout's log.
	Messages []SlackMessage `json:"messages,omitempty"`
	// Reminded is when people were last told that the gate waits.
	Reminded time.Time `json:"reminded,omitzero"`
	// Asked is when the rollout was last seen to run.
	Asked time.Time  `json:"asked,omitzero"`
	State SlackState `json:"state,omitzero"`
	// Tries counts failures in a row.
	Tries int `json:"tries,omitempty"`
	// OverAt is when the rollout was seen to be over.
	OverAt time.Time `json:"overAt,omitzero"`
}

// SlackMessage is one gate's message in one channel.
type SlackMessage struct {
	slack.Posted
	Environment string `json:"environment"`
	// Since is when its gate began to wait; an environment has one gate in a rollout.
	Since time.Time `json:"since"`
	// Escalation is set on the message in the escalation channel.
	Escalation bool `json:"escalation,omitempty"`
	// Told is the view that it shows, nil before the first time, and ToldAt since when.
	Told   *slack.View `json:"told,omitempty"`
	ToldAt time.Time   `json:"toldAt,omitzero"`
}
