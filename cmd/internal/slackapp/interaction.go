// Package slackapp takes what people press in Slack and makes decisions of it: the
// same Updates that the command line sends. It decides nothing itself. Who may, and
// whether it counts, is said by the workflow's validators, and what they refuse is
// shown to that person alone.
package slackapp

import (
	"encoding/json"
	"regexp"
	"strings"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/slack"
)

// largest is how much of one interaction is read. Slack sends the message along
// whose button was pressed, which is a few kilobytes.
const largest = 256 << 10

// mostWhyBytes is how many bytes of a reason a decision may have.
const mostWhyBytes = 1000

// Kind is what a person did.
type Kind string

// Kinds of interactions.
const (
	Approve Kind = "approve"
	Reject  Kind = "reject"
	Details Kind = "details"
	// Submit is a rejection with its reason.
	Submit Kind = "submit"
	// Closed is a modal that was closed, which decides nothing.
	Closed Kind = "closed"
	// Unknown is a button or a modal that is not of this version.
	Unknown Kind = "unknown"
)

// Interaction is what of Slack's payload is used. Everything in it was checked.
type Interaction struct {
	Kind Kind
	// User is the ID of who did it, as Slack vouches for it.
	User string
	// Channel is where to answer; empty where Slack does not say.
	Channel string
	Trigger string
	Target  slack.Target
	Why     string
}

// payload is the part of Slack's payloads that is read. The types are as wide as
// what may come: a text that is a number there must not hide the rest.
type payload struct {
	Type      string              `json:"type"`
	User      struct{ ID string } `json:"user"`
	TriggerID string              `json:"trigger_id"`
	Channel   struct{ ID string } `json:"channel"`
	Container struct {
		ChannelID string `json:"channel_id"`
	} `json:"container"`
	Actions []struct {
		ActionID string `json:"action_id"`
		Value    string `json:"value"`
	} `json:"actions"`
	View struct {
		CallbackID      string `json:"callback_id"`
		PrivateMetadata string `json:"private_metadata"`
		State           struct {
			Values map[string]map[string]struct {
				Value string `json:"value"`
			} `json:"values"`
		} `json:"state"`
	} `json:"view"`
}

// What Slack and Portcullis call things by.
var (
	userID    = regexp.MustCompile(`^[UW][A-Z0-9]{2,20}$`)
	channelID = regexp.MustCompile(`^[CGD][A-Z0-9]{2,20}$`)
	triggerID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,200}$`)
	label     = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	runID     = regexp.MustCompile(`^[A-Za-z0-9-]{1,100}$`)
	hash      = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// Parse reads one payload. An error is one line that says what is wrong with it.
func Parse(raw []byte) (Interaction, error) {
	if len(raw) > largest {
		return Interaction{}, errs.Invalid("the interaction is larger than %d KiB", largest>>10)
	}
	var p payload
	if err := json.Unmarshal(raw, &p); err != nil {
		return Interaction{}, errs.Invalid("the interaction is not the JSON that Slack sends")
	}
	if !userID.MatchString(p.User.ID) {
		return Interaction{}, errs.Invalid("the interaction names no Slack user")
	}
	in := Interaction{Kind: Unknown, User: p.User.ID}
	if triggerID.MatchString(p.TriggerID) {
		in.Trigger = p.TriggerID
	}
	for _, c := range []string{p.Channel.ID, p.Container.ChannelID} {
		if in.Channel == "" && channelID.MatchString(c) {
			in.Channel = c
		}
	}
	switch p.Type {
	case "block_actions":
		return pressed(in, p)
	case "view_submission":
		return submitted(in, p)
	case "view_closed":
		in.Kind = Closed
		return in, nil
	case "":
		return Interaction{}, errs.Invalid("the interaction has no type")
	}
	return in, nil
}

func pressed(in Interaction, p payload) (Interaction, error) {
	if len(p.Actions) != 1 {
		return Interaction{}, errs.Invalid("the interaction has %d actions and not one", len(p.Actions))
	}
	a := p.Actions[0]
	kind, known := map[string]Kind{slack.ActionApprove: Approve, slack.ActionReject: Reject, slack.ActionDetails: Details}[a.ActionID]
	if !known {
		return in, nil
	}
	if in.Trigger == "" {
		return Interaction{}, errs.Invalid("the interaction has no trigger")
	}
	target, err := targetOf(a.Value)
	in.Kind, in.Target = kind, target
	return in, err
}

func submitted(in Interaction, p payload) (Interaction, error) {
	if p.View.CallbackID != slack.CallbackReject {
		return in, nil
	}
	target, err := targetOf(p.View.PrivateMetadata)
	if err != nil {
		return Interaction{}, err
	}
	in.Kind, in.Target = Submit, target
	if in.Channel == "" {
		in.Channel = target.Channel
	}
	if in.Trigger == "" {
		return Interaction{}, errs.Invalid("the interaction has no trigger")
	}
	in.Why = strings.Join(strings.Fields(strings.ToValidUTF8(p.View.State.Values[slack.BlockWhy][slack.InputWhy].Value, "")), " ")
	if r := []rune(in.Why); len(r) > slack.MostWhy {
		in.Why = string(r[:slack.MostWhy])
	}
	// The workflow counts in bytes.
	in.Why = strings.ToValidUTF8(in.Why[:min(len(in.Why), mostWhyBytes)], "")
	return in, nil
}

// targetOf reads what a button or a modal is about.
func targetOf(value string) (slack.Target, error) {
	var t slack.Target
	if err := json.Unmarshal([]byte(value), &t); err != nil {
		return t, errs.Invalid("the button does not say what it is about")
	}
	if t.Kind != "" && t.Kind != slack.KindCorrection || !label.MatchString(t.Pipeline) || !label.MatchString(t.Environment) || !runID.MatchString(t.Rollout) || !hash.MatchString(t.Evidence) ||
		t.Channel != "" && !channelID.MatchString(t.Channel) {
		return slack.Target{}, errs.Invalid("the button does not say what it is about")
	}
	return t, nil
}
