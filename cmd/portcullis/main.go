// Command portcullis rolls network policy out across Rancher-managed clusters.
package main

import (
	"context"
	"os"

	"portcullis.dev/portcullis/cmd/internal/cli"
)

func main() {
	os.Exit(cli.Main(context.Background(), cli.Options{
		Program:   "portcullis",
		Args:      os.Args[1:],
		Stdin:     os.Stdin,
		Stdout:    os.Stdout,
		Stderr:    os.Stderr,
		LookupEnv: os.LookupEnv,
	}))
}
