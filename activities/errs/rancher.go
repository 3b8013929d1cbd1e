package errs

import (
	"errors"

	"portcullis.dev/portcullis/rancher"
)

// FromRancher gives an error of package rancher the type that it has across
// Temporal. Other errors pass unchanged.
func FromRancher(err error) error {
	var e *rancher.Error
	if !errors.As(err, &e) || TypeOf(err) != "" {
		return err
	}
	switch e.Kind {
	case rancher.KindDenied:
		return Denied("%s", e.Message)
	case rancher.KindUntrusted:
		return Untrusted("%s", e.Message)
	case rancher.KindNotFound:
		return NotFound("%s", e.Message)
	case rancher.KindConflict:
		return Conflict("%s", e.Message)
	case rancher.KindInvalid:
		return Invalid("%s", e.Message)
	case rancher.KindFailed:
		return Failed("%s", e.Message)
	}
	return Unavailable("%s", e.Message)
}
