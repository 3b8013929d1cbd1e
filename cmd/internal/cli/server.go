package cli

import (
	"context"
	"errors"
	"log/slog"

	"github.com/spf13/cobra"

	"portcullis.dev/portcullis/cmd/internal/config"
	"portcullis.dev/portcullis/cmd/internal/daemon"
)

func (a *app) serverCommand() *cobra.Command {
	var logs config.Log
	c := &cobra.Command{
		Use:   "server --config FILE",
		Short: "Run the daemon: the Temporal worker that does the work",
		Long: `Run the daemon. It needs a configuration file with at least rancher and agent sections.
Any number may run against the same task queue; what must survive them is in Temporal, Git and Rancher.`,
		Args: cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error { return a.server(ctx, logs) }),
	}
	if a.DevServer != nil {
		c.Short = "Run Temporal, its UI and the daemon in one process"
		a.DevServer.Flags(c.Flags())
	}
	addLog(c, &logs)
	return c
}

func addLog(c *cobra.Command, l *config.Log) {
	c.Flags().StringVar(&l.Level, "log-level", "", "debug, info, warn or error; info by default")
	c.Flags().StringVar(&l.Format, "log-format", "", "text or json; text by default")
}

func (a *app) server(ctx context.Context, logs config.Log) error {
	cfg, err := a.daemonConfig(&logs)
	if err != nil {
		return err
	}
	log := daemon.NewLogger(a.Stderr, cfg.Log)
	daemon.Adopt(log)
	if a.DevServer != nil {
		dev, err := a.startDevServer(ctx, log)
		if err != nil {
			return err
		}
		defer a.stopDevServer(dev, log)
		cfg.Temporal = config.Temporal{Address: dev.Address, Namespace: dev.Namespace, TaskQueue: cfg.Temporal.TaskQueue}
	}
	d, err := daemon.New(daemon.Options{Config: cfg, APIKey: a.apiKey(), Version: Version(), Commit: commit, Logger: log})
	if err != nil {
		return err
	}
	return d.Run(ctx)
}

// apiKey is for a Temporal elsewhere; the one in this process wants none.
func (a *app) apiKey() string {
	if a.DevServer != nil {
		return ""
	}
	return a.env("TEMPORAL_API_KEY")
}

// daemonConfig is the configuration with what the daemon cannot run without.
func (a *app) daemonConfig(logs *config.Log) (config.Server, error) {
	file := first(a.flags.config, a.env("CONFIG"))
	if file == "" {
		return config.Server{}, usagef("name the configuration file with --config")
	}
	cfg, err := a.serverConfig()
	if err != nil {
		return cfg, err
	}
	cfg.Log.Level = first(logs.Level, cfg.Log.Level)
	cfg.Log.Format = first(logs.Format, cfg.Log.Format)
	return cfg, cfg.Complete(file)
}

// temporalCommand runs the embedded Temporal alone, so that daemons can come and go beside it.
func (a *app) temporalCommand() *cobra.Command {
	var logs config.Log
	c := &cobra.Command{
		Use:   "temporal",
		Short: "Run Temporal and its UI alone",
		Args:  cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			log := daemon.NewLogger(a.Stderr, logs)
			dev, err := a.startDevServer(ctx, log)
			if err != nil {
				return err
			}
			<-ctx.Done()
			a.stopDevServer(dev, log)
			return nil
		}),
	}
	a.DevServer.Flags(c.Flags())
	addLog(c, &logs)
	return c
}

func (a *app) startDevServer(ctx context.Context, log *slog.Logger) (RunningDevServer, error) {
	dev, err := a.DevServer.Start(ctx, log)
	if err == nil {
		log.Info("Temporal is up", "address", dev.Address, "ui", dev.UI)
	}
	return dev, err
}

func (a *app) stopDevServer(dev RunningDevServer, log *slog.Logger) {
	if err := dev.Stop(); err != nil && !errors.Is(err, context.Canceled) {
		log.Warn("Temporal did not end in order; its database is not harmed", "reason", err)
	}
}
