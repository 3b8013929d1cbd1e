package call

import (
	"strings"

	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/options"
)

// ResolveGroups asks who is in Slack user groups. It returns at once: a Slack that is
// away must hold nothing up.
func ResolveGroups(ctx workflow.Context, groups []string) workflow.Future {
	ctx = options.Ask(ctx, "who is in "+strings.Join(groups, ", "))
	return workflow.ExecuteActivity(ctx, contract.ActResolveGroups, slack.GroupsInput{Groups: groups})
}
