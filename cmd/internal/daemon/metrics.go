package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/opentelemetry"

	"portcullis.dev/portcullis/activities/errs"
)

// metrics is the daemon's own registry, and the way of the SDK's metrics into it.
type metrics struct {
	registry *prometheus.Registry
	sdk      client.MetricsHandler
}

// newMetrics registers everything. Without a listener nothing is collected.
func newMetrics(on bool, own []prometheus.Collector) (*metrics, error) {
	if !on {
		return &metrics{sdk: client.MetricsNopHandler}, nil
	}
	m := &metrics{registry: prometheus.NewRegistry()}
	for _, c := range append([]prometheus.Collector{
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	}, own...) {
		if err := m.registry.Register(c); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	exporter, err := otelprom.New(otelprom.WithRegisterer(m.registry), otelprom.WithoutScopeInfo(), otelprom.WithoutTargetInfo())
	if err != nil {
		return nil, fmt.Errorf("registering the SDK's metrics: %w", err)
	}
	provider := metric.NewMeterProvider(metric.WithReader(exporter), metric.WithView(seconds()))
	m.sdk = opentelemetry.NewMetricsHandler(opentelemetry.MetricsHandlerOptions{Meter: provider.Meter("temporal-sdk-go")})
	return m, nil
}

// seconds gives every histogram bounds from a millisecond to an hour: the
// default ones are meant for milliseconds, and the SDK measures in seconds.
func seconds() metric.View {
	return metric.NewView(
		metric.Instrument{Kind: metric.InstrumentKindHistogram},
		metric.Stream{Aggregation: metric.AggregationExplicitBucketHistogram{
			Boundaries: []float64{.001, .005, .01, .05, .1, .5, 1, 5, 10, 30, 60, 300, 600, 3600},
		}},
	)
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
	server := &http.Server{Handler: d.routes(), ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second}
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
	mux.Handle("GET /metrics", promhttp.HandlerFor(d.metrics.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", d.readyz)
	return mux
}

// readyz is 200 when rollouts can make progress through this daemon.
func (d *Daemon) readyz(w http.ResponseWriter, _ *http.Request) {
	rancher, temporal := d.ready.rancher.Load(), d.ready.temporal.Load()
	if !rancher || !temporal {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = fmt.Fprintf(w, "rancher: %s\ntemporal: %s\n", word(rancher), word(temporal))
}

func word(ready bool) string {
	if ready {
		return "ready"
	}
	return "waiting"
}
