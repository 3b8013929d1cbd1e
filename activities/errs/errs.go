// Package errs has the error types that cross Temporal: a name that workflows,
// the command line and metrics can tell apart, and whether retrying can help.
package errs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"
)

// The types, as they stand in workflow history. They never change their meaning.
const (
	// TypeInvalid: what the person gave is wrong; nothing was changed.
	TypeInvalid = "Invalid"
	// TypeNotFound: a revision, cluster or object that was named is not there.
	TypeNotFound = "NotFound"
	// TypeConflict: something else owns or changes what is to be changed.
	TypeConflict = "Conflict"
	// TypeHeld: the pipeline is held after a rollback.
	TypeHeld = "Held"
	// TypeDenied: the credentials are wrong, expired or lack a permission.
	TypeDenied = "Denied"
	// TypeUntrusted: a certificate does not verify against the configured CA.
	TypeUntrusted = "Untrusted"
	// TypeUnavailable: it may work later; retried until a deadline.
	TypeUnavailable = "Unavailable"
	// TypeDeadline: waited as long as allowed; the message says for what.
	TypeDeadline = "Deadline"
	// TypeFailed: the cluster answered with a failure that waiting does not mend.
	TypeFailed = "Failed"
	// TypePreflight: a preflight, or the plan that follows from it, found something
	// that must be mended first; nothing was changed.
	TypePreflight = "PreflightFailed"
	// TypeApproved: the same person has approved the same evidence before.
	TypeApproved = "AlreadyApproved"
	// TypeLate: what was to be decided is decided already.
	TypeLate = "TooLate"
	// TypeNotEntitled: the person may not decide this.
	TypeNotEntitled = "NotEntitled"
)

func final(kind, format string, args ...any) error {
	return temporal.NewNonRetryableApplicationError(fmt.Sprintf(format, args...), kind, nil)
}

// Invalid says that the input is wrong: what, where, and what to do.
func Invalid(format string, args ...any) error { return final(TypeInvalid, format, args...) }

// NotFound says that a thing that was named does not exist.
func NotFound(format string, args ...any) error { return final(TypeNotFound, format, args...) }

// Conflict says that something else owns what was to be changed.
func Conflict(format string, args ...any) error { return final(TypeConflict, format, args...) }

// Held says that the pipeline is held after a rollback.
func Held(format string, args ...any) error { return final(TypeHeld, format, args...) }

// Denied says that credentials are wrong, expired, or lack a permission.
func Denied(format string, args ...any) error { return final(TypeDenied, format, args...) }

// Untrusted says that a certificate does not verify.
func Untrusted(format string, args ...any) error { return final(TypeUntrusted, format, args...) }

// Deadline says that the allowed wait is over.
func Deadline(format string, args ...any) error { return final(TypeDeadline, format, args...) }

// Failed says that the other side answered with a lasting failure.
func Failed(format string, args ...any) error { return final(TypeFailed, format, args...) }

// Preflight says what a preflight found that must be mended first.
func Preflight(format string, args ...any) error { return final(TypePreflight, format, args...) }

// Approved says that a person has approved already.
func Approved(format string, args ...any) error { return final(TypeApproved, format, args...) }

// Late says that there is nothing left to decide.
func Late(format string, args ...any) error { return final(TypeLate, format, args...) }

// NotEntitled says why a person may not decide.
func NotEntitled(format string, args ...any) error {
	return final(TypeNotEntitled, format, args...)
}

// Unavailable says that it may work later. It is the only retryable one.
func Unavailable(format string, args ...any) error {
	return temporal.NewApplicationError(fmt.Sprintf(format, args...), TypeUnavailable)
}

// UnavailableAfter is Unavailable with the delay that the other side asked for.
func UnavailableAfter(after time.Duration, format string, args ...any) error {
	return temporal.NewApplicationErrorWithOptions(fmt.Sprintf(format, args...), TypeUnavailable,
		temporal.ApplicationErrorOptions{NextRetryDelay: after})
}

// Persist lets work that must be done in the end be tried again after credentials
// were refused: a person can mend those, and then it goes on. Other errors stay as they are.
func Persist(err error) error {
	switch kind := TypeOf(err); kind {
	case TypeDenied, TypeUntrusted:
		return temporal.NewApplicationError(Message(err), kind)
	}
	return err
}

// TypeOf returns the type of err, also through activity and workflow errors,
// or "" where it has none.
func TypeOf(err error) string {
	var app *temporal.ApplicationError
	if errors.As(err, &app) {
		return app.Type()
	}
	return ""
}

// Label is what a metric calls err: its type, Canceled, or Other where it has none.
func Label(err error) string {
	if errors.Is(err, context.Canceled) {
		return "Canceled"
	}
	return cmp.Or(TypeOf(err), "Other")
}

// Message returns the innermost message that was meant for people.
func Message(err error) string {
	var app *temporal.ApplicationError
	if errors.As(err, &app) {
		return app.Message()
	}
	if err == nil {
		return ""
	}
	return err.Error()
}
