package audit

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/rancher/drift"
)

// metrics have labels from closed sets, but for the pipeline on what is told of
// its last audit, of which there are as many as pipelines with audits. A daemon tells of the
// audits whose end it recorded; where several run, the newest timestamp counts.
type metrics struct {
	clusters *prometheus.CounterVec
	duration prometheus.Histogram
	requests prometheus.Counter
	failures *prometheus.CounterVec

	at       *prometheus.GaugeVec
	took     *prometheus.GaugeVec
	states   *prometheus.GaugeVec
	findings *prometheus.GaugeVec
	ignored  *prometheus.GaugeVec
	unmet    *prometheus.GaugeVec
}

var states = []drift.State{drift.Clean, drift.Drifted, drift.Unknown, drift.Moving}

func newMetrics() *metrics {
	last := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "portcullis_drift_last_audit_" + name, Help: help}, append([]string{"pipeline"}, labels...))
	}
	m := &metrics{
		clusters: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "portcullis_drift_clusters_audited_total", Help: "Clusters that were audited, by what they were found to be: clean, drifted, unknown, moving (a rollout is changing it).",
		}, []string{"state"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "portcullis_drift_cluster_seconds", Help: "How long the audit of one cluster took.",
			Buckets: []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 20, 45},
		}),
		requests: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "portcullis_drift_requests_total", Help: "Requests that audits sent to the API servers of clusters.",
		}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "portcullis_drift_errors_total", Help: "Errors of the auditing activities, by activity and error type.",
		}, []string{"activity", "type"}),
		at:       last("timestamp_seconds", "When the last audit of the pipeline ended, in seconds since 1970."),
		took:     last("duration_seconds", "How long the last audit of the pipeline took."),
		states:   last("clusters", "Clusters in the last audit of the pipeline, by state.", "state"),
		findings: last("findings", "Findings in the last audit of the pipeline that are not ignored, by category: missing, changed, extra, setting, release, delivery, gitrepo.", "category"),
		ignored:  last("ignored", "Findings in the last audit of the pipeline that it ignores."),
		unmet:    last("clusters_unmet", "Clusters in the last audit of the pipeline on which requirements were measured and not met."),
	}
	for _, s := range states {
		m.clusters.WithLabelValues(string(s))
	}
	return m
}

// Collectors are the metrics of these activities, to be registered once.
func (a *Activities) Collectors() []prometheus.Collector {
	m := a.metrics
	return []prometheus.Collector{m.clusters, m.duration, m.requests, m.failures, m.at, m.took, m.states, m.findings, m.ignored, m.unmet}
}

func (m *metrics) cluster(c *drift.Cluster, took time.Duration) {
	m.clusters.WithLabelValues(string(c.State)).Inc()
	m.duration.Observe(took.Seconds())
	m.requests.Add(float64(c.Requests))
}

func (m *metrics) record(t Tally) {
	m.at.WithLabelValues(t.Pipeline).Set(float64(t.FinishedAt.Unix()))
	m.took.WithLabelValues(t.Pipeline).Set(t.FinishedAt.Sub(t.StartedAt).Seconds())
	for _, s := range states {
		m.states.WithLabelValues(t.Pipeline, string(s)).Set(float64(t.States[s]))
	}
	for _, c := range drift.Categories {
		m.findings.WithLabelValues(t.Pipeline, string(c)).Set(float64(t.Findings[c]))
	}
	m.ignored.WithLabelValues(t.Pipeline).Set(float64(t.Ignored))
	m.unmet.WithLabelValues(t.Pipeline).Set(float64(t.Unmet))
}

// count names and counts the error with which an activity ends.
func (m *metrics) count(activity string, err *error) {
	if *err == nil {
		return
	}
	*err = errs.FromRancher(*err)
	m.failures.WithLabelValues(activity, errs.Label(*err)).Inc()
}
