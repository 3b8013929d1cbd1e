package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"
	"go.temporal.io/api/serviceerror"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/cmd/internal/config"
	"portcullis.dev/portcullis/probes/preflight"
	"portcullis.dev/portcullis/workflows/contract"
)

// The exit codes. They never change their meaning.
const (
	exitOK          = 0
	exitUnexpected  = 1
	exitUsage       = 2
	exitInvalid     = 3
	exitNotFound    = 4
	exitConflict    = 5
	exitHeld        = 6
	exitDenied      = 7
	exitUnavailable = 8
	exitNotPassed   = 9
	exitPreflight   = 10
	exitUnknown     = 11
	exitApproved    = 12
	exitLate        = 13
	exitNotEntitled = 14
	exitInterrupted = 130
)

var exitTable = []struct {
	code    int
	meaning string
}{
	{exitOK, "done; a rollout that was waited for is verified, a migration is on Calico"},
	{exitUnexpected, "an error that has no code of its own"},
	{exitUsage, "the command line is wrong: unknown verb or flag, missing argument"},
	{exitInvalid, "what was given is wrong: a file, a selector, a revision that fails lint; nothing was changed"},
	{exitNotFound, "what was named is not there: a rollout, a revision, a cluster, a namespace"},
	{exitConflict, "something else is in the way: a rollout or migration runs already, the evidence or the plan has changed, another owner"},
	{exitHeld, "the pipeline is held after a rollback: release it, or start with --after-rollback"},
	{exitDenied, "credentials are refused, or a certificate does not verify"},
	{exitUnavailable, "Temporal, the daemon, Rancher or a cluster did not answer in time"},
	{exitNotPassed, "it ended without success: rolled back, rejected, aborted, failed, on Canal again; or probes did not pass, or an audit found drift"},
	{exitPreflight, "a preflight, or the plan of a migration, found something that must be mended first; nothing was changed"},
	{exitUnknown, "a preflight or an audit could not find out everything that must be known; nothing that it found failed"},
	{exitApproved, "that person has approved the same evidence already; one person has one vote"},
	{exitLate, "what was to be decided is decided: the gate is open or its time is over, or the rollout has ended"},
	{exitNotEntitled, "that person may not decide this: not among those who may, or excluded because they started it or wrote it"},
	{exitInterrupted, "interrupted; a rollout or migration goes on without the command that watched it"},
}

func exitCodesTopic() *cobra.Command {
	var b strings.Builder
	b.WriteString("Every verb ends with one of these codes:\n\n")
	for _, e := range exitTable {
		fmt.Fprintf(&b, "  %3d  %s\n", e.code, e.meaning)
	}
	return &cobra.Command{Use: "exit-codes", Short: "What the exit codes mean", Long: strings.TrimRight(b.String(), "\n")}
}

// usageError is a command line that cannot be run.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// notPassed is the end of a rollout, or of probes, that was no success.
type notPassed struct {
	state  contract.State
	reason string
}

func (e notPassed) Error() string {
	if e.reason == "" {
		return string(e.state)
	}
	return string(e.state) + ": " + e.reason
}

var codeOfType = map[string]int{
	errs.TypeInvalid:     exitInvalid,
	errs.TypeNotFound:    exitNotFound,
	errs.TypeConflict:    exitConflict,
	errs.TypeHeld:        exitHeld,
	errs.TypeDenied:      exitDenied,
	errs.TypeUntrusted:   exitDenied,
	errs.TypeUnavailable: exitUnavailable,
	errs.TypeDeadline:    exitUnavailable,
	errs.TypeFailed:      exitNotPassed,
	errs.TypePreflight:   exitPreflight,
	errs.TypeApproved:    exitApproved,
	errs.TypeLate:        exitLate,
	errs.TypeNotEntitled: exitNotEntitled,
}

// exitCode decides by the error's type.
func exitCode(err error) int {
	code, _ := classify(err)
	return code
}

// classify gives the exit code and the name of the type for machines.
func classify(err error) (int, string) {
	var (
		usage  usageError
		file   config.Errors
		ended  notPassed
		checks preflightEnded
		unseen auditUnknown
		absent *serviceerror.NotFound
		wrong  *serviceerror.InvalidArgument
		path   *fs.PathError
	)
	kind := errs.TypeOf(err)
	if code, known := codeOfType[kind]; known {
		return code, kind
	}
	switch {
	case err == nil:
		return exitOK, ""
	case errors.As(err, &usage):
		return exitUsage, "Usage"
	case errors.As(err, &file), errors.As(err, &wrong):
		return exitInvalid, errs.TypeInvalid
	case errors.As(err, &ended):
		return exitNotPassed, "NotPassed"
	case errors.As(err, &checks) && checks.status == preflight.Fail:
		return exitPreflight, errs.TypePreflight
	case errors.As(err, &checks):
		return exitUnknown, "PreflightUnknown"
	case errors.As(err, &unseen):
		return exitUnknown, "AuditUnknown"
	case errors.As(err, &absent), errors.As(err, &path) && errors.Is(err, fs.ErrNotExist):
		return exitNotFound, errs.TypeNotFound
	case errors.As(err, &path):
		return exitInvalid, errs.TypeInvalid
	case errors.Is(err, context.DeadlineExceeded):
		return exitUnavailable, errs.TypeDeadline
	case errors.Is(err, context.Canceled):
		return exitInterrupted, "Interrupted"
	default:
		return exitUnexpected, "Unexpected"
	}
}

// interrupted is the end of a verb that a signal ended.
type interrupted struct{}

func (interrupted) Error() string { return "interrupted" }

func (interrupted) Unwrap() error { return context.Canceled }

// cancelled tells whether a call ended because its context did. Temporal's client has
// an error of its own for that.
func cancelled(err error) bool {
	var call *serviceerror.Canceled
	return errors.Is(err, context.Canceled) || errors.As(err, &call)
}

// failure is how an error is written with -o json.
type failure struct {
	Type     string         `json:"type"`
	Message  string         `json:"message"`
	ExitCode int            `json:"exitCode"`
	Places   []config.Error `json:"places,omitempty"`
}

// tell writes an error to standard error, one line for each thing that is wrong.
func (a *app) tell(err error) {
	if err == nil {
		return
	}
	var file config.Errors
	errors.As(err, &file)
	if a.output == "json" {
		code, kind := classify(err)
		_ = json.NewEncoder(a.Stderr).Encode(map[string]failure{"error": {kind, errs.Message(err), code, file}})
		return
	}
	var usage usageError
	if errors.As(err, &usage) {
		_, _ = fmt.Fprintf(a.Stderr, "%s: %s; see %s --help\n", a.Program, suggestion(usage.Error()), a.Program)
		return
	}
	for line := range strings.SplitSeq(errs.Message(err), "\n") {
		_, _ = fmt.Fprintf(a.Stderr, "%s: %s\n", a.Program, line)
	}
}

// suggestion makes one line of cobra's several: unknown command "x"; did you mean "y", "z"?
func suggestion(message string) string {
	what, words, found := strings.Cut(message, "Did you mean this?")
	if !found {
		return oneLine(message)
	}
	return fmt.Sprintf("%s; did you mean %s?", oneLine(what), strings.Join(strings.Fields(words), " or "))
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
