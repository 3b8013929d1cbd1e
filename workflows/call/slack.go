package call

import (
	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/options"
)

// SlackMessage writes or changes a gate's message.
func SlackMessage(ctx workflow.Context, in slack.MessageInput) (slack.Posted, error) {
	what := "show "
	if in.At == "" {
		what = "announce "
	}
	return get[slack.Posted](options.Slack(ctx, what+in.Environment+" in "+in.Channel), contract.ActSlackMessage, in)
}

// SlackLines writes lines into a thread.
func SlackLines(ctx workflow.Context, in slack.LinesInput) error {
	return do(options.Slack(ctx, "tell "+in.Channel), contract.ActSlackLines, in)
}
