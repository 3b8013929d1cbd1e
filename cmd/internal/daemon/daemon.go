// Package daemon is `portcullis server`: it connects Rancher, Temporal and the
// worker, tells whether it is ready, and ends in order. What must survive it is
// in Temporal, Git or the management cluster.
package daemon

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"portcullis.dev/portcullis/cmd/internal/config"
	"portcullis.dev/portcullis/cmd/internal/connect"
	"portcullis.dev/portcullis/cmd/internal/slackapp"
)

// Rancher is what the daemon itself does with Rancher; the activities do the rest.
type Rancher interface {
	// Check sees that Rancher is there and that the token and the CA are right.
	Check(ctx context.Context) error
	// Start starts the shared caches and waits until they are in step. It can be tried again.
	Start(ctx context.Context) error
}

// Slack takes interactions and makes decisions of them.
type Slack interface {
	// Start takes them until ctx ends; wait returns when the last one was answered.
	Start(ctx context.Context, temporal slackapp.Temporal, log *slog.Logger) (wait func(), err error)
}

// Parts are what the daemon is put together from.
type Parts struct {
	Rancher Rancher
	// Register puts workflows and activities on the worker.
	Register func(worker.Registry)
	// Slack takes what people press there; nil where there is none.
	Slack Slack
	// Collectors are the activities' own metrics.
	Collectors []prometheus.Collector
}

// Options of a daemon.
type Options struct {
	Config config.Server
	// APIKey for Temporal goes before the configuration's file.
	APIKey string
	// Version is told in the User-Agent, the worker's identity and the metrics;
	// Commit, where it is known, in the metrics.
	Version string
	Commit  string
	Logger  *slog.Logger

	// Injected dependencies; nil takes the real one.

	// Build makes the parts; it must not talk to anything.
	Build func(cfg config.Server, version string) (*Parts, error)
	// Dial connects to Temporal.
	Dial func(ctx context.Context, o client.Options) (client.Client, error)
	// Backoff between attempts to reach what is down.
	Backoff Backoff
}

// Daemon is one process of `portcullis server`.
type Daemon struct {
	opts    Options
	parts   *Parts
	metrics *metrics
	health  *health
	polls   *polls
	world   *world
	stop    context.CancelFunc
	stopped context.Context

	// temporal is set once it is connected, and watching once Rancher's caches are filled.
	temporal atomic.Pointer[client.Client]
	watching atomic.Bool
	// news has something in it once one of the dependencies has come.
	news chan struct{}
}

// shutdownTimeout is how long activities may take to end when the daemon stops.
// They are told at once; what does not end is tried again by another worker.
const shutdownTimeout = 20 * time.Second

// New puts a daemon together. It reads files and talks to nothing.
func New(o Options) (*Daemon, error) {
	if o.Build == nil {
		o.Build = build
	}
	if o.Dial == nil {
		o.Dial = connect.Dial
	}
	if o.Backoff == (Backoff{}) {
		o.Backoff = Backoff{First: 500 * time.Millisecond, Most: 10 * time.Second}
	}
	parts, err := o.Build(o.Config, o.Version)
	if err != nil {
		return nil, err
	}
	d := &Daemon{opts: o, parts: parts, health: newHealth(time.Now), polls: newPolls(time.Now), world: newWorld(o.Config.Temporal.Namespace, o.Logger), news: make(chan struct{}, 1)}
	if d.metrics, err = newMetrics(o, slices.Concat(parts.Collectors, []prometheus.Collector{d.health.up, d.world})...); err != nil {
		return nil, err
	}
	d.stopped, d.stop = context.WithCancel(context.Background())
	return d, nil
}

// Stop makes Run end in order and return nil. It does not wait for that.
func (d *Daemon) Stop() { d.stop() }

// Run works until ctx ends or Stop is called, and then returns nil. It returns
// an error when the daemon cannot do its work until a person changes something:
// credentials that are refused, a certificate that does not verify, a port that
// is taken. What is merely down is waited for.
func (d *Daemon) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.stopped, cancel)()

	listener, err := d.listen(ctx)
	if err != nil {
		return err
	}
	defer listener.close()
	go d.watch(ctx)

	broken := make(chan error, 2)
	if err := d.openRancher(ctx, broken); err != nil {
		return ended(ctx, err)
	}
	temporal, err := d.openTemporal(ctx)
	if err != nil {
		return ended(ctx, err)
	}
	defer temporal.Close()
	d.temporal.Store(&temporal)
	d.came()
	if err := d.registerSearchAttributes(ctx, temporal); err != nil {
		return ended(ctx, err)
	}
	return d.work(ctx, temporal, broken)
}

// work runs the worker until ctx ends or something breaks for good.
func (d *Daemon) work(ctx context.Context, temporal client.Client, broken chan error) error {
	w := d.newWorker(temporal, broken)
	if err := w.Start(); err != nil {
		return ended(ctx, connect.Explain(err, d.opts.Config.Temporal))
	}
	d.came()
	if d.opts.Config.Metrics.Listen != "" {
		go d.world.follow(ctx, temporal)
	}
	wait, err := d.startSlack(ctx, temporal)
	if err != nil {
		w.Stop()
		return err
	}
	defer wait()
	d.opts.Logger.Info("working", "taskQueue", d.opts.Config.Temporal.TaskQueue, "temporal", d.opts.Config.Temporal.Address)
	select {
	case <-ctx.Done():
	case err = <-broken:
	}
	d.health.stops()
	d.opts.Logger.Info("stopping", "within", shutdownTimeout)
	w.Stop()
	d.opts.Logger.Info("stopped")
	return err
}

// startSlack takes interactions where Slack is configured.
func (d *Daemon) startSlack(ctx context.Context, temporal client.Client) (stop func(), err error) {
	if d.parts.Slack == nil || !d.opts.Config.Slack.On() {
		return func() {}, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	wait, err := d.parts.Slack.Start(ctx, temporal, d.opts.Logger)
	if err != nil {
		cancel()
		return nil, err
	}
	return func() { cancel(); wait() }, nil
}

// ended turns an error that only came because ctx ended, or that would have been
// waited for, into the orderly end that it is.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && (mayPass(err) || errors.Is(err, context.Canceled)) {
		return nil
	}
	return err
}
