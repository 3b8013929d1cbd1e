package cli

import (
	"context"
	"io"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"portcullis.dev/portcullis/probes/cni"
	"portcullis.dev/portcullis/probes/preflight/node"
	"portcullis.dev/portcullis/probes/wire"
)

// nodeCommand is the side of Portcullis that runs on nodes, in the agent's pod.
// Its verbs are a closed set; none runs a command that it is given.
func (a *app) nodeCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "node",
		Short: "The agent's side: what the daemon runs on a node",
		Long:  "What the daemon runs inside the agent's pod on a node. People do not need these verbs.",
	},
		a.nodeVerb("reach", "Read a request from standard input, probe, and write results to standard output", wire.Serve),
		a.nodeVerb("preflight", "Read requests from standard input, measure the node, and write facts to standard output", node.Serve),
		a.nodeVerb("cni", "Read a request of a migration from standard input, do it, and write the reply to standard output",
			func(ctx context.Context, in io.Reader, out io.Writer) error {
				return cni.Serve(ctx, in, out, cni.Host{})
			}),
		a.nodeIdle())
}

// nodeVerb answers standard input on standard output; a hangup, too, ends it.
func (a *app) nodeVerb(use, short string, serve func(context.Context, io.Reader, io.Writer) error) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			ctx, stop := signal.NotifyContext(ctx, syscall.SIGHUP)
			defer stop()
			return serve(ctx, a.Stdin, a.Stdout)
		}),
	}
}

func (a *app) nodeIdle() *cobra.Command {
	return &cobra.Command{
		Use:   "idle",
		Short: "Do nothing until told to end: the agent's main process",
		Args:  cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			<-ctx.Done()
			return nil
		}),
	}
}
