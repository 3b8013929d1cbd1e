package verify

import (
	"github.com/prometheus/client_golang/prometheus"

	"portcullis.dev/portcullis/probes"
)

// metrics are what operators see of measurements. Their labels have a bounded
// set of values, but for the cluster's name on waiting, of which there is one series per
// cluster that is being waited for now.
type metrics struct {
	probes   *prometheus.CounterVec
	duration *prometheus.HistogramVec
	rounds   *prometheus.CounterVec
	verdicts *prometheus.CounterVec
	running  *prometheus.GaugeVec
	waiting  *prometheus.GaugeVec
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
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "portcullis_measure_waiting", Help: "1 for a cluster whose measurement waits because something cannot be measured.",
		}, []string{"cluster"}),
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
	if waiting {
		m.waiting.WithLabelValues(cluster).Set(1)
		return
	}
	m.waiting.DeleteLabelValues(cluster)
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
