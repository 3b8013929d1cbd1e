package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"portcullis.dev/portcullis/deploy/lab/internal/fault"
	"portcullis.dev/portcullis/deploy/lab/internal/substrate"
)

func (o *options) faults() *cobra.Command {
	cmd := &cobra.Command{Use: "fault", Short: "Break things that a migration must cope with, and repair them"}
	cmd.AddCommand(o.faultKinds(), o.faultList(), o.faultInject(), o.faultClear())
	return cmd
}

func (o *options) faultKinds() *cobra.Command {
	return &cobra.Command{
		Use: "kinds", Short: "List what can be injected, with its parameters", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return writeKinds(cmd.OutOrStdout()) },
	}
}

func writeKinds(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, k := range fault.Kinds {
		fmt.Fprintf(t, "%s\t%s\t%s\n", k.Name, strings.ToUpper(string(k.On)), k.What)
		for _, p := range k.Params {
			fmt.Fprintf(t, "\t  %s=%s\t%s\n", p.Name, p.Default, p.What)
		}
	}
	return t.Flush()
}

func (o *options) faultList() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the faults in force", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := substrate.Load(o.stateDir)
			if err != nil {
				return err
			}
			if asJSON {
				// An empty list, not null.
				return json.NewEncoder(cmd.OutOrStdout()).Encode(append([]fault.Fault{}, d.Faults...))
			}
			for _, f := range d.Faults {
				fmt.Fprintln(cmd.OutOrStdout(), f)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

func (o *options) faultInject() *cobra.Command {
	return &cobra.Command{
		Use: "inject KIND TARGET [NAME=VALUE...]", Short: "Break something on a node or cluster and print the fault's ID", Args: cobra.MinimumNArgs(2),
		Example: `  lab fault inject block canal-2 proto=udp port=8472
  lab fault inject mtu canal-3 value=1300 where=path
  lab fault inject calico canal-2 how=hang`,
		RunE: func(cmd *cobra.Command, args []string) error {
			params, err := fault.ParseParams(args[2:])
			if err != nil {
				return err
			}
			f, err := fault.New(args[0], args[1], params)
			if err != nil {
				return err
			}
			return o.withLab(func(l *substrate.Lab) error {
				if err := l.Inject(cmd.Context(), f); err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), f.ID())
				return nil
			})
		},
	}
}

func (o *options) faultClear() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "clear [ID...]", Short: "Repair faults by ID, by kind, or by KIND/TARGET; those not in force are fine",
		Args: func(_ *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return fmt.Errorf("say which faults to clear, or --all")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if all {
				args = []string{""}
			}
			return o.withLab(func(l *substrate.Lab) error { return clearFaults(cmd.Context(), l, args, cmd.OutOrStdout()) })
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "clear all")
	return cmd
}

func clearFaults(ctx context.Context, l *substrate.Lab, ids []string, w io.Writer) error {
	for _, id := range ids {
		found, err := l.ClearMatching(ctx, id)
		if err != nil {
			return err
		}
		for _, f := range found {
			fmt.Fprintln(w, "cleared", f.ID())
		}
	}
	return nil
}

func (o *options) reboot() *cobra.Command {
	return &cobra.Command{
		Use: "reboot NODE", Short: "Turn a node off and on: all but its disk is lost", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.withLab(func(l *substrate.Lab) error { return l.RebootNode(cmd.Context(), args[0]) })
		},
	}
}

// nodeListen is what takes a port on a node; a fault starts it.
func nodeListen() *cobra.Command {
	return &cobra.Command{
		Use: "node-listen NETWORK PORT", Hidden: true, Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			closer, err := listen(args[0], ":"+args[1])
			if err != nil {
				return err
			}
			defer closer.Close()
			<-cmd.Context().Done()
			return nil
		},
	}
}

func listen(network, address string) (io.Closer, error) {
	if network == "udp" {
		return net.ListenPacket("udp4", address)
	}
	return net.Listen("tcp4", address)
}
