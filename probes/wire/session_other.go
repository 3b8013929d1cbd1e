//go:build !linux

package wire

import (
	"context"
	"errors"
	"io"
)

// Serve is of Linux: nodes elsewhere have no agent.
func Serve(context.Context, io.Reader, io.Writer) error {
	return errors.New("probes can only be run on Linux")
}
