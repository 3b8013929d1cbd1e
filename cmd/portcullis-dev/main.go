// Command portcullis-dev is portcullis with Temporal's server and UI inside, for
// trying and developing. It needs no other set-up.
package main

import (
	"context"
	"os"

	"portcullis.dev/portcullis/cmd/internal/cli"
	"portcullis.dev/portcullis/cmd/portcullis-dev/internal/devserver"
)

func main() {
	os.Exit(cli.Main(context.Background(), cli.Options{
		Program:   "portcullis-dev",
		Args:      os.Args[1:],
		Stdin:     os.Stdin,
		Stdout:    os.Stdout,
		Stderr:    os.Stderr,
		LookupEnv: os.LookupEnv,
		DevServer: devserver.New(os.LookupEnv),
	}))
}
