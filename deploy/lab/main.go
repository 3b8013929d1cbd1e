// Command lab starts real clusters on this machine, for trying and testing Portcullis.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"portcullis.dev/portcullis/deploy/lab/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := cli.Command().ExecuteContext(ctx)
	stop()
	if err == nil {
		return
	}
	// A command that was run in a node has said itself what went wrong; one that failed in
	// something else, which wraps it, has not.
	if exit, ok := err.(*exec.ExitError); ok { //nolint:errorlint // see above
		os.Exit(exit.ExitCode())
	}
	fmt.Fprintln(os.Stderr, "lab:", err)
	os.Exit(1)
}
