package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.temporal.io/sdk/client"

	"portcullis.dev/portcullis/activities/errs"
)

// metrics is the daemon's own registry, and the way of the SDK's metrics into it.
type metrics struct {
	registry   *prometheus.Registry
	sdk        client.MetricsHandler
	activities *activityMetrics
}

// newMetrics registers everything. Without a listener nothing is collected.
func newMetrics(o Options, own ...prometheus.Collector) (*metrics, error) {
	m := &metrics{sdk: client.MetricsNopHandler, activities: newActivityMetrics()}
	if o.Config.Metrics.Listen == "" {
		return m, nil
	}
	m.registry = prometheus.NewRegistry()
	for _, c := range slices.Concat([]prometheus.Collector{
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		buildInfo(o),
	}, m.activities.collectors(), own) {
		if err := m.registry.Register(c); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	var err error
	m.sdk, err = sdkMetrics(m.registry, o.Logger)
	return m, err
}

func buildInfo(o Options) prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "portcullis_build_info", Help: "1, with the version of this daemon, its commit and the Go that built it.",
		ConstLabels: prometheus.Labels{"version": o.Version, "commit": o.Commit, "goversion": runtime.Version()},
	})
	g.Set(1)
	return g
}

// listener is the daemon's HTTP side, or nothing.
type listener struct{ server *http.Server }

// listen opens the listener where one is configured.
func (d *Daemon) listen(ctx context.Context) (listener, error) {
	address := d.opts.Config.Metrics.Listen
	if address == "" {
		return listener{}, nil
	}
	socket, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return listener{}, errs.Invalid("metrics.listen: cannot listen on %s: %v", address, err)
	}
	server := &http.Server{
		Handler: d.routes(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(d.opts.Logger.Handler(), slog.LevelDebug),
	}
	go func() {
		if err := server.Serve(socket); !errors.Is(err, http.ErrServerClosed) {
			d.opts.Logger.Error("the metrics listener ended", "error", err)
		}
	}()
	d.opts.Logger.Info("metrics and health", "listen", socket.Addr().String())
	return listener{server}, nil
}

func (l listener) close() {
	if l.server != nil {
		_ = l.server.Close()
	}
}

func (d *Daemon) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(d.metrics.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 20 * time.Second}))
	// /healthz is /livez under its older name.
	mux.HandleFunc("GET /livez", d.health.livez)
	mux.HandleFunc("GET /healthz", d.health.livez)
	mux.HandleFunc("GET /readyz", d.health.readyz)
	return mux
}
