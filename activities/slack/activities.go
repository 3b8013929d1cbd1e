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

// Message writes an environment's message, or changes the one that is there. Where that
// one is gone, the error's type is NotFound.
func (a *Activities) Message(ctx context.Context, in MessageInput) (*Posted, error) {
	at := &Posted{Channel: in.Channel, At: in.At, Picture: in.Picture}
	if g := in.View.Gate; g != nil && g.Environment == in.Environment {
		at.Picture = a.picture(ctx, g.Matrix, in.Picture)
	}
	err := withPicture(ctx, at.Picture, func(file string) (bool, error) {
		text, blocks := Message(in.View, in.Environment, file)
		return a.write(ctx, at, in.At, slackgo.MsgOptionText(text, false), slackgo.MsgOptionBlocks(blocks...))
	})
	if err != nil {
		return nil, err
	}
	return at, nil
}

// write changes the message ts, or writes a new one where that is empty, and keeps in at
// where it is. refused is Slack's answer to blocks that it does not take.
func (a *Activities) write(ctx context.Context, at *Posted, ts string, options ...slackgo.MsgOption) (refused bool, err error) {
	method := "chat.update"
	if ts == "" {
		method = "chat.postMessage"
	}
	options = append(options, slackgo.MsgOptionDisableLinkUnfurl(), slackgo.MsgOptionDisableMediaUnfurl())
	channel, posted := at.Channel, ""
	err = a.client.Do(ctx, method, at.Channel, func(ctx context.Context, api *slackgo.Client) (err error) {
		if ts == "" {
			channel, posted, err = api.PostMessageContext(ctx, at.Channel, options...)
		} else {
			_, posted, _, err = api.UpdateMessageContext(ctx, at.Channel, ts, options...)
		}
		refused = invalidBlocks(err)
		return taken(posted, err)
	})
	if err != nil {
		return refused, err
	}
	if ts == "" {
		at.At = posted
	}
	if channel != "" {
		at.Channel = channel
	}
	return false, nil
}

// Lines writes lines into a thread, as one message.
func (a *Activities) Lines(ctx context.Context, in LinesInput) (*Posted, error) {
	text := fit(strings.Join(in.Lines, "\n"), mostSection)
	options := []slackgo.MsgOption{slackgo.MsgOptionText(text, false), slackgo.MsgOptionBlocks(section(text))}
	if in.Thread != "" {
		options = append(options, slackgo.MsgOptionTS(in.Thread))
		if in.Broadcast {
			options = append(options, slackgo.MsgOptionBroadcast())
		}
	}
	at := &Posted{Channel: in.Channel}
	if _, err := a.write(ctx, at, "", options...); err != nil {
		return nil, err
	}
	return at, nil
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
