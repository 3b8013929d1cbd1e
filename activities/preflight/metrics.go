package preflight

import (
	"github.com/prometheus/client_golang/prometheus"

	"portcullis.dev/portcullis/probes/preflight"
)

// metrics are what operators see of preflights. Their labels have a bounded set of values.
type metrics struct {
	ended    *prometheus.CounterVec
	duration prometheus.Histogram
	paths    *prometheus.CounterVec
}

func newMetrics() *metrics {
	return &metrics{
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "portcullis_preflights_total", Help: "Preflights of clusters that ended, by status (pass, warn, fail, unknown, error).",
		}, []string{"status"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "portcullis_preflight_duration_seconds", Help: "How long the preflight of a cluster took.",
			Buckets: []float64{1, 2.5, 5, 10, 30, 60, 120, 300, 600},
		}),
		paths: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "portcullis_preflight_paths_total", Help: "Paths between nodes that were tried, by answer (open, refused, filtered, unknown).",
		}, []string{"answer"}),
	}
}

// Collectors returns the metrics of preflights, for the daemon to register. It is
// no activity.
func (a *Activities) Collectors() []prometheus.Collector {
	return []prometheus.Collector{a.metrics.ended, a.metrics.duration, a.metrics.paths}
}

func (m *metrics) observe(r *preflight.Report, mesh *preflight.Mesh) {
	m.ended.WithLabelValues(string(r.Status)).Inc()
	m.duration.Observe(r.Took.Seconds())
	for _, p := range mesh.Paths {
		for answer, n := range p.Answers {
			m.paths.WithLabelValues(string(answer)).Add(float64(n))
		}
	}
}
