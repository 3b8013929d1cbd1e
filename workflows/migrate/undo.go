package migrate

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/migrate"
	"portcullis.dev/portcullis/workflows/call"
	"portcullis.dev/portcullis/workflows/options"
	"portcullis.dev/portcullis/workflows/story"
)

// firstPause is the wait after the first undo that failed; it doubles up to options.UndoAgain.
const firstPause = 30 * time.Second

// persist does something until it succeeds. Activities on the way back are
// retried without end already; what still fails (a lasting error, a worker that knows
// no such activity) is tried again here, in sight of everyone.
func persist(ctx workflow.Context, what string, note func(string), do func() error) {
	pause := firstPause
	for {
		err := do()
		if err == nil {
			return
		}
		note(fmt.Sprintf("%s: %s; tried again in %s", what, story.Reason(err), pause))
		// The context is a disconnected one: this sleep is not cut short.
		if err := workflow.NewTimerWithOptions(ctx, pause, workflow.TimerOptions{Summary: what + " again"}).Get(ctx, nil); err != nil {
			note(fmt.Sprintf("%s: waiting to try again: %s", what, story.Reason(err)))
		}
		pause = min(2*pause, options.UndoAgain)
	}
}

// undo takes a step back, however long that takes.
func undo(ctx workflow.Context, in migrate.StepInput, nodes int, note func(string)) migrate.StepResult {
	var out migrate.StepResult
	what := "undo " + string(in.Step)
	persist(ctx, what, note, func() (err error) {
		out, err = call.Undo(ctx, in, nodes)
		return err
	})
	return out
}

// changes is one line about what a step changed.
func changes(r migrate.StepResult) string {
	if len(r.Changes) == 0 {
		return "nothing to change"
	}
	return story.Some(r.Changes, 3)
}
