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
	Slack Slack `json:"slack"`
	// Shown is the view that the thread tells of, and Newest the latest that came.
	Shown  slack.View  `json:"shown"`
	Newest *slack.View `json:"newest,omitempty"`
	// Lines wait to be written, oldest first; Lost counts those that were left out.
	Lines []string `json:"lines,omitempty"`
	Lost  int      `json:"lost,omitempty"`
	// Messages maps an environment to its message; Thread is the environment whose
	// thread is written to.
	Messages map[string]SlackMessage `json:"messages,omitempty"`
	Thread   string                  `json:"thread,omitempty"`
	// Asked are the gate that waits, by environment and evidence, and what was done
	// about its waiting.
	Asked SlackAsked `json:"asked,omitzero"`
	State SlackState `json:"state,omitzero"`
	// Tries counts failures in a row.
	Tries int `json:"tries,omitempty"`
	// OverAt is when the rollout was seen to be over.
	OverAt time.Time `json:"overAt,omitzero"`
}

// SlackMessage is one environment's message.
type SlackMessage struct {
	slack.Posted
	// Gate is the last gate that was seen there, for what is told of it later.
	Gate *slack.Gate `json:"gate,omitempty"`
}

// SlackAsked is what was done about a gate that waits.
type SlackAsked struct {
	Environment string    `json:"environment,omitempty"`
	Since       time.Time `json:"since,omitzero"`
	Reminded    time.Time `json:"reminded,omitzero"`
	Escalated   bool      `json:"escalated,omitempty"`
}
