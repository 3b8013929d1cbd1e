package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"portcullis.dev/portcullis/deploy/lab/internal/nsrun"
	"portcullis.dev/portcullis/deploy/lab/internal/substrate"
	"portcullis.dev/portcullis/deploy/lab/internal/topology"
)

func (o *options) build() *cobra.Command {
	return &cobra.Command{
		Use: "build", Short: "Build all that the lab runs, and install the Debian packages it needs", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return errors.New("lab build installs packages and makes images: run it as root")
			}
			b, err := o.built(cmd.Context())
			if err != nil {
				return err
			}
			defer b.Close()
			o.log("everything is built: %s %s", b.Own.Portcullis, b.Own.Workload)
			return nil
		},
	}
}

func (o *options) up() *cobra.Command {
	var file string
	var bare bool
	cmd := &cobra.Command{
		Use: "up", Short: "Start the lab, or repair the one that is up", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t, err := topology.Load(file)
			if err != nil {
				return err
			}
			return o.withLab(func(l *substrate.Lab) error {
				if bare {
					l.World = nil
				}
				b, err := o.built(cmd.Context())
				if err != nil {
					return err
				}
				defer b.Close()
				o.log("everything is built")
				if err := l.Up(cmd.Context(), t, b); err != nil {
					return err
				}
				o.log("the lab is up")
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&file, "topology", "", "name ("+strings.Join(topology.Names(), ", ")+") or file that says which clusters and nodes to start (default: default)")
	cmd.Flags().BoolVar(&o.noBuild, "no-build", false, "take the Portcullis and workload programs as they were built last")
	cmd.Flags().BoolVar(&bare, "bare", false, "start clusters alone: no Rancher, Git server, Fleet or workloads")
	return cmd
}

func (o *options) down() *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "Take everything away that the lab made, also after a crash", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			l, err := substrate.OpenDamaged(o.config())
			if err != nil {
				return err
			}
			defer l.Close()
			if err := l.Down(); err != nil {
				return err
			}
			o.log("nothing of the lab is left")
			return nil
		},
	}
}

func (o *options) status() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show clusters, nodes, pods and what the lab takes of the machine", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return substrate.Status(cmd.Context(), o.stateDir, cmd.OutOrStdout())
		},
	}
}

func (o *options) usage() *cobra.Command {
	var over time.Duration
	cmd := &cobra.Command{
		Use: "usage", Short: "Measure, as JSON, what the lab takes of the machine's memory and processors", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			u, err := substrate.MeasureOver(cmd.Context(), o.stateDir, over)
			if err != nil {
				return err
			}
			return json.NewEncoder(cmd.OutOrStdout()).Encode(u)
		},
	}
	cmd.Flags().DurationVar(&over, "over", 30*time.Second, "time to measure the processors over")
	return cmd
}

func (o *options) kubeconfig() *cobra.Command {
	return &cobra.Command{
		Use: "kubeconfig CLUSTER", Short: "Print the path of an administrator's kubeconfig", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := o.kubeconfigOf(args[0])
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), path)
			return nil
		},
	}
}

func (o *options) kubeconfigOf(cluster string) (string, error) {
	d, err := substrate.Load(o.stateDir)
	if err != nil {
		return "", err
	}
	if _, ok := d.Plan.Cluster(cluster); !ok {
		return "", fmt.Errorf("no cluster %q in the lab; there are %v", cluster, d.Plan.Names())
	}
	return substrate.Kubeconfig(o.stateDir, cluster), nil
}

func (o *options) image() *cobra.Command {
	return &cobra.Command{
		Use: "image", Short: "Build the Portcullis and workload images again, load them into every node, print the Portcullis reference", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.findSource(); err != nil {
				return err
			}
			return o.withLab(func(l *substrate.Lab) error {
				unlock, err := substrate.LockCache(cmd.Context(), o.config())
				if err != nil {
					return err
				}
				defer unlock()
				own, err := substrate.BuildOwn(cmd.Context(), o.config())
				if err != nil {
					return err
				}
				if err := l.Reimport(cmd.Context(), own); err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), own.Portcullis)
				return nil
			})
		},
	}
}

func (o *options) exec() *cobra.Command {
	return &cobra.Command{
		Use: "exec NODE -- COMMAND [ARGUMENT...]", Short: "Run a command in a node's namespaces", Args: cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			pid, err := substrate.NodePID(o.stateDir, args[0])
			if err != nil {
				return err
			}
			var c *exec.Cmd
			err = nsrun.Do(nsrun.Target{PID: pid}, func() error {
				// Looked up here, for the program may be in a folder of the node's own.
				c = exec.Command(args[1], args[2:]...)
				c.Dir, c.Stdin, c.Stdout, c.Stderr = "/", os.Stdin, os.Stdout, os.Stderr
				return c.Start()
			})
			if err != nil {
				return err
			}
			return c.Wait()
		},
	}
}

func (o *options) node() *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "Stop, start, reboot, cut off and join nodes"}
	cmd.AddCommand(
		o.fault("stop NODE", "Stop a node's kubelet: the node becomes NotReady, its pods go on", (*substrate.Lab).StopNode),
		o.fault("start NODE", "Start a node's kubelet again", (*substrate.Lab).StartNode),
		o.fault("disconnect NODE", "Cut a node off from all others", (*substrate.Lab).DisconnectNode),
		o.fault("connect NODE", "Join it again", (*substrate.Lab).ConnectNode),
		o.reboot(),
	)
	return cmd
}

func (o *options) cluster() *cobra.Command {
	cmd := &cobra.Command{Use: "cluster", Short: "Make a cluster's API server unreachable and reachable again"}
	cmd.AddCommand(
		o.fault("disconnect CLUSTER", "Take the API server's address away", (*substrate.Lab).DisconnectCluster),
		o.fault("connect CLUSTER", "Give it back", (*substrate.Lab).ConnectCluster),
	)
	return cmd
}

func (o *options) process() *cobra.Command {
	cmd := &cobra.Command{Use: "process", Short: "List, stop and start the lab's processes (API servers, Git server and so on)"}
	cmd.AddCommand(
		o.fault("stop NAME", "End a process; it stays down until `process start` or `up`", (*substrate.Lab).StopProcess),
		o.fault("start NAME", "Start a process again", (*substrate.Lab).StartProcess),
		&cobra.Command{
			Use: "list", Short: "List them", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				d, err := substrate.Load(o.stateDir)
				if err != nil {
					return err
				}
				t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
				fmt.Fprintln(t, "NAME\tPID\tRUNS")
				for _, n := range slices.Sorted(maps.Keys(d.Processes)) {
					r := d.Processes[n]
					fmt.Fprintf(t, "%s\t%d\t%t\n", n, r.PID, r.Alive())
				}
				return t.Flush()
			},
		},
	)
	return cmd
}

func (o *options) fault(use, short string, f func(*substrate.Lab, string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return o.withLab(func(l *substrate.Lab) error { return f(l, args[0]) })
		},
	}
}

// nodeInit is the first process of a node; `lab up` starts it.
func nodeInit() *cobra.Command {
	return &cobra.Command{
		Use: "node-init NODE FOLDER", Hidden: true, Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error { return substrate.NodeInit(args[0], args[1]) },
	}
}
