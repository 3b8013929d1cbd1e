package deliver

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"portcullis.dev/portcullis/activities/errs"
)

// metrics have labels from closed sets only: never a cluster or a pipeline.
type metrics struct {
	waiting  *prometheus.GaugeVec
	waited   *prometheus.HistogramVec
	lost     prometheus.Counter
	jobs     prometheus.Counter
	failures *prometheus.CounterVec
}

// reason is what a unit waits for.
type reason string

const (
	onManagement reason = "management"
	onGit        reason = "git"
	onFleet      reason = "fleet"
	onClusters   reason = "clusters"
)

func newMetrics() *metrics {
	m := &metrics{
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "portcullis_deliver_waiting",
			Help: "Units that wait now, by phase (staging, settling, restoring, correcting) and by what they wait for: management (its API server), git (the fetch of the repository), fleet (its controllers), clusters (their agents).",
		}, []string{"phase", "reason"}),
		waited: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "portcullis_deliver_wait_seconds",
			Help:    "How long units waited for Fleet, from the first attempt, by phase and outcome (done, or the error's type).",
			Buckets: []float64{0.5, 1, 2, 3, 5, 8, 13, 21, 34, 60, 120, 300, 600, 1800},
		}, []string{"phase", "outcome"}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "portcullis_fleet_lost_revisions_recovered_total",
			Help: "Times that Fleet said it was done with a revision that its Bundles did not carry, and was made to sync again.",
		}),
		jobs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "portcullis_fleet_git_jobs_retried_total",
			Help: "Times that a failed Fleet git job was made to run again.",
		}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "portcullis_deliver_errors_total",
			Help: "Errors of the delivering activities, by activity and error type.",
		}, []string{"activity", "type"}),
	}
	for _, phase := range []string{"staging", "settling", "restoring", "correcting"} {
		for _, on := range []reason{onManagement, onGit, onFleet, onClusters} {
			m.waiting.WithLabelValues(phase, string(on))
		}
	}
	return m
}

// Collectors are the metrics of these activities, to be registered once.
func (a *Activities) Collectors() []prometheus.Collector {
	m := a.metrics
	return []prometheus.Collector{m.waiting, m.waited, m.lost, m.jobs, m.failures}
}

// count names and counts the error with which an activity ends.
func (m *metrics) count(activity string, err *error) {
	if *err == nil {
		return
	}
	*err = errs.FromRancher(*err)
	m.failures.WithLabelValues(activity, outcome(*err)).Inc()
}

func (m *metrics) observe(phase string, since time.Time, err error) {
	m.waited.WithLabelValues(phase, outcome(err)).Observe(time.Since(since).Seconds())
}

func outcome(err error) string {
	if err == nil {
		return "done"
	}
	return errs.Label(err)
}
