// Package cli is the command line: one file for each verb. It talks to Temporal
// alone; the daemon is what holds credentials for Rancher and Git.
package cli

import (
	"context"
	"io"
	"log/slog"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.temporal.io/sdk/client"

	"portcullis.dev/portcullis/cmd/internal/connect"
)

// Options of one run of the command line. Tests fill them in; main takes them
// from the process.
type Options struct {
	// Program is the name that people typed: portcullis or portcullis-dev.
	Program   string
	Args      []string
	Stdin     io.Reader
	Stdout    io.Writer
	Stderr    io.Writer
	LookupEnv func(string) (string, bool)
	// DevServer adds a Temporal inside this process, where the program has one.
	DevServer *DevServer

	// Dial connects to Temporal; nil takes the real one.
	Dial func(context.Context, client.Options) (client.Client, error)
	// Now reads the clock; nil takes the real one.
	Now func() time.Time
	// Patience is how long the daemon may take to pick something up before it is
	// asked whether there is one; 0 takes 3 seconds.
	Patience time.Duration
	// Answer is how long a rollout or migration may take to answer an order; 0
	// takes 30 seconds.
	Answer time.Duration
}

// DevServer is a Temporal server and UI inside this process.
type DevServer struct {
	// Flags adds what can be set about it.
	Flags func(*pflag.FlagSet)
	// Start starts it; the flags have been read by then.
	Start func(context.Context, *slog.Logger) (RunningDevServer, error)
}

// RunningDevServer is what the daemon and people need to know of it.
type RunningDevServer struct {
	// Address of the frontend and Namespace in it.
	Address   string
	Namespace string
	// UI is the web interface's URL.
	UI   string
	Stop func() error
}

// Main runs the command line and returns the exit code. The first SIGINT or SIGTERM ends
// the verb in order, the second one the program.
func Main(ctx context.Context, o Options) int {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	if o.Dial == nil {
		o.Dial = connect.Dial
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Patience == 0 {
		o.Patience = 3 * time.Second
	}
	if o.Answer == 0 {
		o.Answer = 30 * time.Second
	}
	a := &app{Options: o}
	root := a.root()
	root.SetArgs(o.Args)
	root.SetIn(o.Stdin)
	root.SetOut(o.Stdout)
	root.SetErr(o.Stderr)
	err := root.ExecuteContext(ctx)
	switch {
	case err != nil && !a.started:
		err = usageError{err}
	case ctx.Err() != nil && cancelled(err):
		err = interrupted{}
	}
	a.tell(err)
	return exitCode(err)
}

// app is one run: its options and the flags that every verb shares.
type app struct {
	Options
	flags  globalFlags
	output string
	// started is set once a verb runs; errors before that are of usage.
	started bool
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   a.Program,
		Short: "Roll network policy out across Rancher-managed clusters, and prove every step on the wire",
		Long: `Portcullis takes one Git revision of network policy through environments of Rancher-managed clusters.
Every gate between them opens on evidence: the exact commit is live, real connections behave as the
pipeline requires, and the people who must agree have agreed. Otherwise the last proven revision is put back.`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.CompletionOptions.HiddenDefaultCmd = false
	a.flags.add(root.PersistentFlags())
	root.PersistentFlags().StringVarP(&a.output, "output", "o", "text", "text or json; junit too where a verb says so")
	root.PersistentPreRunE = a.checkOutput
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	root.AddGroup(&cobra.Group{ID: "use", Title: "For people and CI:"}, &cobra.Group{ID: "run", Title: "To run Portcullis:"})
	grouped(root, "use", a.pipelineCommand(), a.rolloutCommand(), a.probeCommand(), a.preflightCommand(), a.migrateCommand(), a.driftCommand(), a.clustersCommand())
	grouped(root, "run", a.serverCommand(), a.healthCommand(), a.doctorCommand(), a.agentCommand(), a.nodeCommand())
	if a.DevServer != nil {
		grouped(root, "run", a.temporalCommand())
	}
	root.AddCommand(a.versionCommand(), exitCodesTopic())
	return root
}

func grouped(root *cobra.Command, group string, commands ...*cobra.Command) {
	for _, c := range commands {
		c.GroupID = group
		root.AddCommand(c)
	}
}

func (a *app) checkOutput(cmd *cobra.Command, _ []string) error {
	if a.output == "junit" && cmd.Annotations[junitOutput] != "" {
		return nil
	}
	if a.output != "text" && a.output != "json" {
		given := a.output
		a.output = "text"
		return usagef("--output is %q; it is text or json", given)
	}
	return nil
}

// run wraps a verb: from here on errors are not of usage.
func (a *app) run(verb func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		a.started = true
		return verb(cmd.Context(), args)
	}
}

// group is a command that only holds others. Called by itself it shows its
// help; with a word that it does not know it is an error.
func group(c *cobra.Command, verbs ...*cobra.Command) *cobra.Command {
	c.Args = cobra.NoArgs
	c.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	c.AddCommand(verbs...)
	return c
}
