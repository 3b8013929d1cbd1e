package slack

import (
	"context"
	"slices"
	"strings"
	"time"

	slackgo "github.com/slack-go/slack"

	"portcullis.dev/portcullis/activities/errs"
)

// Activities write to Slack, and read who is in its user groups. None of them
// repeats what a call has failed with: whoever asked knows what is newest by then.
type Activities struct{ client *Client }

// New returns the activities.
func New(client *Client) *Activities { return &Activities{client: client} }

// Message writes an environment's message, or changes the one that is there. Where
// that one is gone, the error's type is NotFound.
func (a *Activities) Message(ctx context.Context, in MessageInput) (*Posted, error) {
	text, blocks := Message(in.View, in.Environment)
	options := []slackgo.MsgOption{
		slackgo.MsgOptionText(text, false), slackgo.MsgOptionBlocks(blocks...),
		slackgo.MsgOptionDisableLinkUnfurl(), slackgo.MsgOptionDisableMediaUnfurl(),
	}
	if in.At == "" {
		return a.post(ctx, in.Channel, options...)
	}
	at := &Posted{Channel: in.Channel, At: in.At}
	err := a.client.Do(ctx, "chat.update", in.Channel, func(ctx context.Context, api *slackgo.Client) error {
		_, ts, _, err := api.UpdateMessageContext(ctx, in.Channel, in.At, options...)
		return taken(ts, err)
	})
	if err != nil {
		return nil, err
	}
	return at, nil
}

// Lines writes lines into a thread, as one message.
func (a *Activities) Lines(ctx context.Context, in LinesInput) (*Posted, error) {
	text := fit(strings.Join(in.Lines, "\n"), mostSection)
	options := []slackgo.MsgOption{
		slackgo.MsgOptionText(text, false), slackgo.MsgOptionBlocks(section(text)),
		slackgo.MsgOptionDisableLinkUnfurl(), slackgo.MsgOptionDisableMediaUnfurl(),
	}
	if in.Thread != "" {
		options = append(options, slackgo.MsgOptionTS(in.Thread))
		if in.Broadcast {
			options = append(options, slackgo.MsgOptionBroadcast())
		}
	}
	return a.post(ctx, in.Channel, options...)
}

func (a *Activities) post(ctx context.Context, channel string, options ...slackgo.MsgOption) (*Posted, error) {
	var at Posted
	err := a.client.Do(ctx, "chat.postMessage", channel, func(ctx context.Context, api *slackgo.Client) (err error) {
		at.Channel, at.At, err = api.PostMessageContext(ctx, channel, options...)
		return taken(at.At, err)
	})
	if err != nil {
		return nil, err
	}
	if at.Channel == "" {
		at.Channel = channel
	}
	return &at, nil
}

// taken doubts an answer that names no message: Slack's client takes an answer
// without an error code for success.
func taken(ts string, err error) error {
	if err == nil && ts == "" {
		return errs.Unavailable("Slack answered without saying which message it wrote")
	}
	return err
}

// ResolveGroups reads who is in user groups now. A group that Slack does not tell
// of is said so, and the others count.
func (a *Activities) ResolveGroups(ctx context.Context, in GroupsInput) (*Groups, error) {
	out := &Groups{At: time.Now().UTC(), Groups: make([]Group, len(in.Groups))}
	for i, id := range in.Groups {
		g := &out.Groups[i]
		g.ID = id
		err := a.client.Do(ctx, "usergroups.users.list", id, func(ctx context.Context, api *slackgo.Client) (err error) {
			g.Users, err = api.GetUserGroupMembersContext(ctx, id)
			return err
		})
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			g.Users, g.Error = nil, errs.Message(err)
			continue
		}
		slices.Sort(g.Users)
	}
	return out, nil
}
