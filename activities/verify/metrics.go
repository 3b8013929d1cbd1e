package verify

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"portcullis.dev/portcullis/probes"
)

// metrics are what operators see of measurements. Their labels have a bounded
// set of values: never a cluster.
type metrics struct {
	probes   *prometheus.CounterVec
	duration *prometheus.HistogramVec
	rounds   *prometheus.CounterVec
	verdicts *prometheus.CounterVec
	running  *prometheus.GaugeVec
	waiting  prometheus.Gauge

	mu sync.Mutex
	// waits has the clusters that waiting counts.
	waits map[string]bool
}

func newMetrics() *metrics {
	return &metrics{
		probes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "portcullis_probe_results_total", Help: "Probes by outcome.",
		}, []string{"outcome"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "portcullis_probe_duration_seconds", Help: "How long a probe took to be answered, or how long silence was waited for.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"outcome"}),
		rounds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "portcullis_measure_rounds_total", Help: "Rounds of probes by mode.",
		}, []string{"mode"}),
		verdicts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "portcullis_measurements_total", Help: "Measurements that ended, by mode and verdict (passed, failed, inconclusive).",
		}, []string{"mode", "verdict"}),
		running: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "portcullis_measurements_running", Help: "Measurements under way, by mode.",
		}, []string{"mode"}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "portcullis_measurements_waiting", Help: "Clusters whose measurement waits now because something (the cluster, a node, an agent) cannot be measured.",
		}),
		waits: map[string]bool{},
	}
}

// Collectors returns the metrics of measurements, for the daemon to register. It is
// no activity.
func (a *Activities) Collectors() []prometheus.Collector {
	m := a.metrics
	return []prometheus.Collector{m.probes, m.duration, m.rounds, m.verdicts, m.running, m.waiting}
}

func (m *metrics) observe(o outcome) {
	m.probes.WithLabelValues(string(o.Outcome)).Inc()
	if !o.unrun {
		m.duration.WithLabelValues(string(o.Outcome)).Observe(o.duration.Seconds())
	}
}

func (m *metrics) setWaiting(cluster string, waiting bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if waiting {
		m.waits[cluster] = true
	} else {
		delete(m.waits, cluster)
	}
	m.waiting.Set(float64(len(m.waits)))
}

func (m *metrics) finished(mode Mode, e *probes.Evidence) {
	verdict := "failed"
	switch {
	case e.Passed:
		verdict = "passed"
	case e.Inconclusive:
		verdict = "inconclusive"
	}
	m.verdicts.WithLabelValues(string(mode), verdict).Inc()
}
