package daemon

import (
	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/cmd/internal/config"
)

func build(_ config.Server, _ string) (*Parts, error) {
	return nil, errs.Unavailable("not yet")
}
