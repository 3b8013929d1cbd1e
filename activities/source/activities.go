package source

import (
	"context"
	"net/http"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"portcullis.dev/portcullis/activities/errs"
)

// Config says where clones are kept and whom to trust.
type Config struct {
	// CacheDir holds one bare clone for each repository. It may be emptied at any
	// time; several daemons may share it.
	CacheDir string
	// CAFile holds PEM certificates to trust for Git servers besides the system's.
	// Empty means only the system's.
	CAFile string
}

// SecretReader reads a Secret of the management cluster.
type SecretReader interface {
	ReadSecret(ctx context.Context, namespace, name string) (map[string][]byte, error)
}

// Activities read the policy repository.
type Activities struct {
	cfg     Config
	secrets SecretReader

	trust sync.Once
	via   http.RoundTripper
	trErr error

	locks    sync.Map // directory -> chan struct{}
	failures *prometheus.CounterVec
}

// New makes the activities. It makes no connection and reads no file.
func New(cfg Config, secrets SecretReader) *Activities {
	return &Activities{cfg: cfg, secrets: secrets, failures: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "portcullis_source_errors_total",
		Help: "Errors of the activities that read the policy repository, by activity and error type.",
	}, []string{"activity", "type"})}
}

// Collectors are the metrics of these activities, to be registered once.
func (a *Activities) Collectors() []prometheus.Collector {
	return []prometheus.Collector{a.failures}
}

func (a *Activities) count(activity string, err *error) {
	if *err == nil {
		return
	}
	*err = errs.FromRancher(*err)
	a.failures.WithLabelValues(activity, errs.Label(*err)).Inc()
}

// Resolve finds the full commit that a ref means, and that it is on the branch.
// NotFound: the repository has no such revision. Invalid: it is there, but not on
// the branch, or the name is ambiguous.
func (a *Activities) Resolve(ctx context.Context, in ResolveInput) (_ *Revision, err error) {
	defer a.count("Resolve", &err)
	clone, err := a.open(ctx, in.Source, in.Namespace)
	if err != nil {
		return nil, err
	}
	defer clone.close()
	if err := clone.fetch(ctx); err != nil {
		return nil, err
	}
	return clone.resolve(in.Ref)
}

// Inspect lints a revision and lists what changed.
func (a *Activities) Inspect(ctx context.Context, in InspectInput) (_ *Inspection, err error) {
	defer a.count("Inspect", &err)
	clone, err := a.open(ctx, in.Source, in.Namespace)
	if err != nil {
		return nil, err
	}
	defer clone.close()
	if !clone.has(append([]string{in.Commit}, in.Since...)...) {
		if err := clone.fetch(ctx); err != nil {
			return nil, err
		}
	}
	return clone.inspect(in)
}
