package slackgate

import (
	"errors"
	"time"

	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/workflows/call"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/options"
	"portcullis.dev/portcullis/workflows/story"
)

// Notice is the SlackNotice workflow: it says something in a channel, and tries again
// while Slack is away, for a day at most. What it could not say by then is its error.
func Notice(ctx workflow.Context, in contract.NoticeInput) error {
	log := log.With(workflow.GetLogger(ctx), "pipeline", in.Pipeline)
	end := workflow.Now(ctx).Add(options.SlackGiveUp)
	for tries := 0; ; tries++ {
		err := call.SlackLines(ctx, slack.LinesInput{Channel: in.Channel, Lines: in.Lines})
		if err == nil {
			return nil
		}
		wait := retryAfter(tries, err)
		if ctx.Err() != nil || workflow.Now(ctx).Add(wait).After(end) {
			return story.Final(err)
		}
		log.Warn("Slack was not told", "reason", story.Reason(err), "tries", tries+1, "retry", wait)
		if err := workflow.NewTimerWithOptions(ctx, wait, workflow.TimerOptions{Summary: "Slack: try again"}).Get(ctx, nil); err != nil {
			return err
		}
	}
}

// retryAfter is how long Slack is left alone after so many failures in a row before this one.
func retryAfter(tries int, err error) time.Duration {
	wait := min(options.SlackRetry<<min(tries, 10), options.SlackRetryMost)
	var app *temporal.ApplicationError
	if errors.As(err, &app) {
		wait = max(wait, app.NextRetryDelay())
	}
	return wait
}
