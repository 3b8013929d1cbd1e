// Package story tells people what a workflow does: log lines, one-line reasons
// of errors, and the Markdown that the Temporal UI shows. All of it is pure.
package story

import (
	"errors"
	"fmt"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/workflows/contract"
)

// KeepLog is how many log lines a workflow keeps: the latest.
const KeepLog = 200

// Append adds a line and drops the oldest above KeepLog.
func Append(log []contract.LogEntry, at time.Time, environment, message string) []contract.LogEntry {
	log = append(log, contract.LogEntry{At: at.UTC(), Environment: environment, Message: message})
	if over := len(log) - KeepLog; over > 0 {
		log = append([]contract.LogEntry(nil), log[over:]...)
	}
	return log
}

// Reason is the one line that people get for an error.
func Reason(err error) string {
	if err == nil {
		return ""
	}
	if temporal.IsCanceledError(err) {
		return "cancelled"
	}
	var app *temporal.ApplicationError
	found := errors.As(err, &app)
	var timeout *temporal.TimeoutError
	if errors.As(err, &timeout) {
		what := activityName(err)
		if found {
			return oneLine(fmt.Sprintf("%s did not succeed in time: %s", what, app.Message()))
		}
		return fmt.Sprintf("%s did not %s in time", what, missed(timeout.TimeoutType()))
	}
	if found {
		return oneLine(app.Message())
	}
	return oneLine(err.Error())
}

// Final turns any error into one that says, with its errs type, why the
// workflow was refused. A cancellation stays one, for Temporal to show as such.
func Final(err error) error {
	if temporal.IsCanceledError(err) {
		return temporal.NewCanceledError()
	}
	kind := errs.TypeOf(err)
	if kind == "" {
		kind = errs.TypeFailed
		var timeout *temporal.TimeoutError
		if errors.As(err, &timeout) {
			kind = errs.TypeDeadline
		}
	}
	return temporal.NewNonRetryableApplicationError(Reason(err), kind, nil)
}

func activityName(err error) string {
	var act *temporal.ActivityError
	if errors.As(err, &act) && act.ActivityType() != nil {
		return act.ActivityType().GetName()
	}
	return "the work"
}

func missed(t enumspb.TimeoutType) string {
	if t == enumspb.TIMEOUT_TYPE_HEARTBEAT {
		return "report"
	}
	return "finish"
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// Count puts a number and a noun together: 1 cluster, 2 clusters.
func Count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// Some joins at most most of items and counts the others.
func Some(items []string, most int) string {
	if len(items) <= most {
		return strings.Join(items, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(items[:most], "; "), len(items)-most)
}

// By says who and why, as in "alice (too risky today)".
func By(by, why string) string {
	if why == "" {
		return by
	}
	return by + " (" + oneLine(why) + ")"
}
