//go:build !linux

package node

import (
	"context"
	"errors"
	"io"
)

// Serve is of Linux: nodes elsewhere have no agent.
func Serve(context.Context, io.Reader, io.Writer) error {
	return errors.New("the node's side of a preflight runs on Linux only")
}
