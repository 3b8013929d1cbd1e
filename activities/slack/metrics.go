package slack

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"portcullis.dev/portcullis/activities/errs"
)

type metrics struct {
	calls *prometheus.HistogramVec
	up    prometheus.Gauge
}

func newMetrics() *metrics {
	return &metrics{
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "portcullis_slack_call_seconds",
			Help:    "Calls of Slack's Web API by method and outcome, repetitions included.",
			Buckets: []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 20},
		}, []string{"method", "outcome"}),
		up: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "portcullis_slack_up", Help: "1 when the last call of Slack's Web API was taken, 0 when it was not.",
		}),
	}
}

func (m *metrics) observe(method string, began time.Time, err error) {
	outcome, up := "done", 1.0
	if err != nil {
		outcome = errs.TypeOf(err)
		switch outcome {
		case "":
			outcome = "cancelled"
		case errs.TypeNotFound: // Slack took the call; what it was about is gone
		default:
			up = 0
		}
	}
	m.calls.WithLabelValues(method, outcome).Observe(time.Since(began).Seconds())
	if outcome != "cancelled" {
		m.up.Set(up)
	}
}

// Collectors are the metrics of the client, to be registered once.
func (c *Client) Collectors() []prometheus.Collector {
	return []prometheus.Collector{c.metrics.calls, c.metrics.up}
}
