package verify

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/probes"
)

// Config says what the node agent is made of.
type Config struct {
	// Image is the image of Portcullis that the clusters can pull.
	Image string
	// Namespace is where the agent lives; default portcullis-system.
	Namespace string
	// PullPolicy is Always, IfNotPresent or Never; empty leaves it to Kubernetes.
	PullPolicy string
	// ImagePullSecrets name Secrets that are in the namespace already.
	ImagePullSecrets []string
}

// DefaultNamespace is where the agent lives unless told otherwise.
const DefaultNamespace = "portcullis-system"

// Clusters gives access to downstream clusters.
type Clusters interface {
	// REST returns how to talk to the API server of a cluster, by Rancher's ID.
	REST(clusterID string) (*rest.Config, error)
}

// Activities look after node agents and measure through them.
type Activities struct {
	config  Config
	connect func(clusterID string) (*connection, error)
	metrics *metrics
	now     func() time.Time
	// opening has a place for each session with an agent that may be starting.
	opening chan struct{}
}

// connection is what is needed of one cluster.
type connection struct {
	kube kubernetes.Interface
	exec executor
}

// New returns the activities.
func New(config Config, clusters Clusters) *Activities {
	if config.Namespace == "" {
		config.Namespace = DefaultNamespace
	}
	return &Activities{
		config: config,
		// What these activities read is of Kubernetes' own types; whole lists of pods
		// are several times cheaper to read in this form.
		connect: func(id string) (*connection, error) { return dial(clusters, id, runtime.ContentTypeProtobuf) },
		metrics: newMetrics(),
		now:     time.Now,
		opening: make(chan struct{}, openAtOnce),
	}
}

// dial reaches a cluster. What is sent and asked for has the given form, a content
// type, where the API server knows it, and is JSON elsewhere.
func dial(clusters Clusters, id, form string) (*connection, error) {
	config, err := clusters.REST(id)
	if err != nil {
		return nil, err
	}
	config = rest.CopyConfig(config)
	// The API server warns of the annotation that old versions need, on every write.
	config.WarningHandler = rest.NoWarnings{}
	config.ContentType, config.AcceptContentTypes = form, form+","+runtime.ContentTypeJSON
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return &connection{kube: kube, exec: &remoteExecutor{config: config, client: kube.CoreV1().RESTClient()}}, nil
}

// Measure probes one cluster in the given mode. What it finds is evidence, also
// when it is bad; an error means that the measurement itself was impossible (Invalid
// input, Denied, Untrusted) or was cancelled.
//
// It heartbeats its Progress every two seconds. While something cannot be
// measured (the cluster, a node or an agent does not answer), it waits, says so in
// Progress.Waiting, and ends at the deadline with evidence that is inconclusive.
//
// Baseline passes when everything could be measured and two rounds in a row agree.
// In Compare, a requirement passes when its flows are as in Want.
func (a *Activities) Measure(ctx context.Context, in Input) (*probes.Evidence, error) {
	if err := checkInput(&in); err != nil {
		return nil, err
	}
	m := newMeasurement(a, in, resumed(ctx, a.now()))
	stop := m.beat(ctx)
	defer stop()
	return m.run(ctx)
}

func checkInput(in *Input) error {
	if err := probes.Validate(in.Requirements); err != nil {
		return errs.Invalid("the probes are not valid: %v", err)
	}
	if err := in.Settings.Validate(); err != nil {
		return errs.Invalid("the probe settings are not valid: %v", err)
	}
	if len(in.Requirements) == 0 {
		return errs.Invalid("there are no probes: a cluster cannot be verified by nothing")
	}
	in.Settings = in.Settings.WithDefaults()
	switch in.Mode {
	case Baseline, Verify:
	case Soak:
		if in.Duration < 0 {
			return errs.Invalid("the soak's duration %s is below zero", in.Duration)
		}
	case Compare:
		if in.Want == nil {
			return errs.Invalid("there is no baseline to compare with")
		}
	default:
		return errs.Invalid("mode %q is not one of baseline, verify, soak, compare", in.Mode)
	}
	return nil
}
