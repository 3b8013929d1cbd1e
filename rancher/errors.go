package rancher

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Kind says what sort of failure an Error is, and so what can be done about it.
type Kind string

const (
	// KindDenied: the token is wrong, expired, or may not do this.
	KindDenied Kind = "denied"
	// KindUntrusted: the server's certificate does not verify against the configured CA.
	KindUntrusted Kind = "untrusted"
	// KindUnavailable: no answer now; it may work later.
	KindUnavailable Kind = "unavailable"
	// KindNotFound: the object, or its whole type, is not there.
	KindNotFound Kind = "not-found"
	// KindConflict: somebody else owns it, or wrote it in between.
	KindConflict Kind = "conflict"
	// KindInvalid: what was given is wrong and stays wrong.
	KindInvalid Kind = "invalid"
	// KindFailed: the other side answered with a lasting failure.
	KindFailed Kind = "failed"
)

// Error is what every exported function of this package that talks to a server
// or decides a plan returns. Its message is one line for people: what is wrong,
// where, and what to do.
type Error struct {
	Kind    Kind
	Message string
	// Err is the cause, where there is one. It is not part of the message.
	Err error
}

// Error returns the line for people.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of err, or "" where it has none.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return ""
}

func problem(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// Wrap names a failure of client-go, net/http or crypto/tls. doing is what was
// tried, such as "reading GitRepo fleet-default/dev"; where is the server's URL;
// tokenFile and caFile (may be empty) are what the person can mend. An Error
// passes through unchanged, as does the end of the caller's own context.
func Wrap(ctx context.Context, err error, doing, where, tokenFile, caFile string) error {
	if err == nil {
		return nil
	}
	var known *Error
	if errors.As(err, &known) {
		return err
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	kind, detail := classify(err)
	e := &Error{Kind: kind, Err: err}
	switch {
	case kind == KindDenied && apierrors.IsForbidden(err):
		e.Message = fmt.Sprintf("%s at %s is forbidden for this token (%s); grant its user that permission", doing, where, detail)
	case kind == KindDenied:
		e.Message = fmt.Sprintf("%s: %s refused the token (401); it is wrong or expired: put a valid one into %s", doing, where, orSome(tokenFile, "the token file"))
	case kind == KindUntrusted:
		e.Message = fmt.Sprintf("%s: the certificate of %s does not verify against %s (%s); configure the CA that signed it", doing, where, orSome(caFile, "the system's CAs"), detail)
	case kind == KindUnavailable:
		e.Message = fmt.Sprintf("%s: %s does not answer (%s)", doing, where, detail)
	default:
		e.Message = fmt.Sprintf("%s at %s: %s", doing, where, detail)
	}
	return e
}

func orSome(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

func classify(err error) (Kind, string) {
	if reason := certificateProblem(err); reason != "" {
		return KindUntrusted, reason
	}
	switch {
	case apierrors.IsUnauthorized(err):
		return KindDenied, "401 Unauthorized"
	case apierrors.IsForbidden(err):
		return KindDenied, oneLine(err.Error())
	case apierrors.IsNotFound(err):
		return KindNotFound, oneLine(err.Error())
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		return KindConflict, oneLine(err.Error())
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsUnsupportedMediaType(err), apierrors.IsMethodNotSupported(err):
		return KindInvalid, oneLine(err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return KindUnavailable, "no answer in time"
	}
	return KindUnavailable, oneLine(networkReason(err))
}

// networkReason drops the method and URL that net/http puts before the reason:
// the caller's line has them already, and a URL may carry user information.
func networkReason(err error) string {
	var ue *url.Error
	if errors.As(err, &ue) && ue.Err != nil {
		return ue.Err.Error()
	}
	return err.Error()
}

func certificateProblem(err error) string {
	var (
		unknown  x509.UnknownAuthorityError
		invalid  x509.CertificateInvalidError
		hostname x509.HostnameError
		roots    x509.SystemRootsError
		verify   *tls.CertificateVerificationError
	)
	switch {
	case errors.As(err, &unknown):
		return "signed by an unknown authority"
	case errors.As(err, &invalid):
		return oneLine(invalid.Error())
	case errors.As(err, &hostname):
		return oneLine(hostname.Error())
	case errors.As(err, &roots):
		return oneLine(roots.Error())
	case errors.As(err, &verify):
		return oneLine(verify.Error())
	}
	return ""
}

const maxDetail = 300

// oneLine makes s fit one line of a terminal or of the Temporal UI.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > maxDetail {
		return string(r[:maxDetail]) + "…"
	}
	return s
}
