package daemon

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	api "go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/embedded"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/opentelemetry"
)

// seriesMost bounds the series of one metric of the SDK or of a workflow, whatever
// its tags turn out to be; what is above it is counted together.
const seriesMost = 500

// unbounded are the tags of workflows' metrics that name what people make as many
// of as they like. Which pipeline it was is in the log and in Temporal.
var unbounded = []attribute.Key{"pipeline", "environment", "cluster", "node", "client_name"}

// sdkMetrics brings the SDK's metrics, and those that workflows write through it,
// into the registry.
func sdkMetrics(registry *prometheus.Registry, log *slog.Logger) (client.MetricsHandler, error) {
	exporter, err := otelprom.New(otelprom.WithRegisterer(registry), otelprom.WithoutScopeInfo(), otelprom.WithoutTargetInfo())
	if err != nil {
		return nil, fmt.Errorf("registering the SDK's metrics: %w", err)
	}
	provider := metric.NewMeterProvider(metric.WithReader(exporter), metric.WithView(view), metric.WithCardinalityLimit(seriesMost))
	return opentelemetry.NewMetricsHandler(opentelemetry.MetricsHandlerOptions{
		Meter:   counting{provider.Meter("temporal-sdk-go")},
		OnError: func(err error) { log.Warn("a metric of the SDK is not kept", "error", err) },
	}), nil
}

// view drops the unbounded tags, and gives every histogram bounds from a
// millisecond to a day: the default ones are meant for milliseconds, and the SDK
// measures in seconds.
func view(i metric.Instrument) (metric.Stream, bool) {
	s := metric.Stream{Name: i.Name, Description: i.Description, Unit: i.Unit, AttributeFilter: attribute.NewDenyKeysFilter(unbounded...)}
	if i.Kind == metric.InstrumentKindHistogram {
		s.Aggregation = metric.AggregationExplicitBucketHistogram{
			Boundaries: []float64{.001, .005, .01, .05, .1, .5, 1, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400},
		}
	}
	return s, true
}

// counting makes counters of the SDK's counters, which its handler would make
// gauges of: so they are named and typed as Prometheus expects.
type counting struct{ api.Meter }

// Int64UpDownCounter is what the SDK's handler asks for.
func (m counting) Int64UpDownCounter(name string, _ ...api.Int64UpDownCounterOption) (api.Int64UpDownCounter, error) {
	c, err := m.Int64Counter(name)
	return counter{c: c}, err
}

type counter struct {
	embedded.Int64UpDownCounter
	c api.Int64Counter
}

// Add counts up; the SDK never counts down.
func (c counter) Add(ctx context.Context, n int64, o ...api.AddOption) { c.c.Add(ctx, n, o...) }

// Enabled tells whether anybody reads it.
func (c counter) Enabled(ctx context.Context) bool { return c.c.Enabled(ctx) }
