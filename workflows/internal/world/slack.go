package world

import (
	"context"
	"strings"

	"go.temporal.io/sdk/activity"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/slack"
)

// Groups model Slack's user groups.
type Groups struct{ w *World }

// SetGroup says who is in a group from now on; nobody at all means that Slack does
// not know it.
func (w *World) SetGroup(id string, users ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.groups == nil {
		w.groups = map[string][]string{}
	}
	w.groups[id] = users
}

// SetSlack says from now on why Slack does not answer; empty means that it does.
func (w *World) SetSlack(down string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.slackDown = down
}

// ResolveGroups answers with what SetGroup said.
func (g *Groups) ResolveGroups(ctx context.Context, in slack.GroupsInput) (slack.Groups, error) {
	g.w.mu.Lock()
	down := g.w.slackDown
	out := slack.Groups{At: activity.GetInfo(ctx).StartedTime}
	for _, id := range in.Groups {
		group := slack.Group{ID: id, Users: g.w.groups[id]}
		if len(group.Users) == 0 {
			group.Error = "Slack knows no user group " + id
		}
		out.Groups = append(out.Groups, group)
	}
	g.w.mu.Unlock()
	if err := g.w.did(ctx, "ResolveGroups", strings.Join(in.Groups, " "), false); err != nil {
		return out, err
	}
	if down != "" {
		return out, errs.Failed("%s", down)
	}
	return out, nil
}
