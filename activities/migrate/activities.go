package migrate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/pace"
	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/probes/migration"
)

const (
	// heartbeatEvery is the time between two heartbeats.
	heartbeatEvery = 2 * time.Second
	// pollEvery is the time between two looks at what is awaited.
	pollEvery = 500 * time.Millisecond
	// callTimeout bounds one look, of a few requests to the API server.
	callTimeout = 30 * time.Second
	// defaultTimeout bounds a step that was given no time.
	defaultTimeout = 5 * time.Minute
	// nodesAtOnce bounds the nodes that are asked at the same time.
	nodesAtOnce = 20
	// maxMessage bounds what an error says.
	maxMessage = 1000
)

// Config says what the migrator is made of: the node agent's image, with more rights.
type Config = verify.Config

// Activities migrate clusters.
type Activities struct {
	config  Config
	connect func(clusterID string) (*cluster, error)
	claims  Claims
	now     func() time.Time
	// running tells whether a workflow of that ID runs.
	running func(ctx context.Context, id string) (bool, error)
}

// cluster is what is needed of one cluster.
type cluster struct {
	kube kubernetes.Interface
	dyn  dynamic.Interface
	maps meta.RESTMapper
	exec verify.Executor
}

// New returns the activities.
func New(config Config, clusters verify.Clusters, claims Claims) *Activities {
	if config.Namespace == "" {
		config.Namespace = verify.DefaultNamespace
	}
	return &Activities{
		config: config, claims: claims, now: time.Now, running: isRunning,
		connect: func(id string) (*cluster, error) { return dial(clusters, id) },
	}
}

func dial(clusters verify.Clusters, id string) (*cluster, error) {
	kube, exec, err := verify.Connect(clusters, id)
	if err != nil {
		return nil, err
	}
	config, err := clusters.REST(id)
	if err != nil {
		return nil, err
	}
	config = rest.CopyConfig(config)
	config.WarningHandler = rest.NoWarnings{}
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	found, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, err
	}
	return &cluster{kube: kube, dyn: dyn, exec: exec, maps: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(found))}, nil
}

// way is how a step is made and undone.
type way struct {
	do, undo func(*run, context.Context) error
}

func nothing(*run, context.Context) error { return nil }

// ways has every step that there is.
var ways = map[migration.Step]way{
	migration.Begin:     {(*run).begin, (*run).end},
	migration.Tunnels:   {(*run).tunnels, (*run).noTunnels},
	migration.Addresses: {(*run).addresses, (*run).noAddresses},
	migration.Split:     {(*run).split, (*run).join},
	migration.Check:     {(*run).check, nothing},
	migration.Evict:     {(*run).evict, (*run).uncordon},
	migration.Leave:     {(*run).leave, (*run).enter},
	migration.Swap:      {(*run).swap, (*run).swapBack},
	migration.Uncordon:  {(*run).uncordon, nothing},
	migration.Turn:      {(*run).turn, (*run).turnBack},
	migration.Unlink:    {(*run).unlink, (*run).link},
	migration.Adopt:     {(*run).adopt, (*run).giveBack},
	migration.Clean:     {(*run).clean, nothing},
}

// Do makes a step, and returns when it is seen to be made. It can be called again
// after any failure. It heartbeats its Progress.
//
// Errors: Invalid, Conflict (something else is in the way), Denied, Untrusted,
// Failed, Deadline (with what is awaited), Unavailable.
func (a *Activities) Do(ctx context.Context, in StepInput) (*StepResult, error) {
	r, err := a.run(ctx, in)
	if err != nil {
		return nil, err
	}
	return r.make(ctx, ways[in.Step].do)
}

// Undo takes a step back, also one that was made in part or not at all. What it
// cannot do yet is Unavailable, whatever the reason: a way back is not given up.
func (a *Activities) Undo(ctx context.Context, in StepInput) (*StepResult, error) {
	r, err := a.run(ctx, in)
	if err != nil {
		return nil, insist(err)
	}
	out, err := r.make(ctx, ways[in.Step].undo)
	return out, insist(err)
}

// insist lets anything be tried again that is not about the request itself.
func insist(err error) error {
	switch errs.TypeOf(err) {
	case "", errs.TypeInvalid, errs.TypeUnavailable:
		return err
	}
	return errs.Persist(errs.Unavailable("%s", errs.Message(err)))
}

// run is one call of Do or Undo.
type run struct {
	*Activities
	*cluster
	in       StepInput
	started  time.Time
	deadline time.Time
	begun    time.Time
	saved    *original

	mu       sync.Mutex
	progress Progress
	waited   time.Duration
	changes  []string
	evidence []string
}

func (a *Activities) run(ctx context.Context, in StepInput) (*run, error) {
	if _, ok := ways[in.Step]; !ok {
		return nil, errs.Invalid("%q is no step of a migration", in.Step)
	}
	if in.Migration == "" {
		return nil, errs.Invalid("a step needs the migration's name")
	}
	if t := in.Target; t.VNI == 0 || t.Port == 0 || t.MTU == 0 || t.PodCIDR == "" {
		return nil, errs.Invalid("a step needs the plan's target: VNI %d, port %d, MTU %d, pods %q", t.VNI, t.Port, t.MTU, t.PodCIDR)
	}
	c, err := a.connect(in.Cluster.ID)
	if err != nil {
		return nil, verify.Classify(in.Cluster.Name, err)
	}
	r := &run{Activities: a, cluster: c, in: in, begun: a.now()}
	r.started = resumed(ctx, r.begun)
	timeout := in.Timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	r.deadline = r.started.Add(timeout)
	r.progress = Progress{Phase: string(in.Step), StartedAt: r.started}
	return r, nil
}

func resumed(ctx context.Context, now time.Time) time.Time {
	var last Progress
	if activity.IsActivity(ctx) && activity.HasHeartbeatDetails(ctx) && activity.GetHeartbeatDetails(ctx, &last) == nil && !last.StartedAt.IsZero() {
		return last.StartedAt
	}
	return now
}

func (r *run) make(ctx context.Context, what func(*run, context.Context) error) (*StepResult, error) {
	stop := pace.Heartbeat(ctx, heartbeatEvery, r.soFar)
	defer stop()
	err := what(r, ctx)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, r.classify(err)
	}
	return &StepResult{Changes: r.changes, Evidence: r.evidence, Took: r.now().Sub(r.begun), Waited: r.waited}, nil
}

// classify gives errors of the API server their type. What the cluster refuses for
// good is not worth to be tried again; the rest is.
func (r *run) classify(err error) error {
	switch {
	case errs.TypeOf(err) != "":
		return err
	case apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err), apierrors.IsConflict(err),
		// Forbidden only until the namespace is gone, and made anew.
		apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return errs.Unavailable("cluster %s: %s", r.in.Cluster.Name, oneLine(err.Error()))
	}
	return verify.Classify(r.in.Cluster.Name, err)
}

func (r *run) soFar() Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.progress
}

func (r *run) note(phase string, ready, total int, waiting string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.progress.Phase, r.progress.Ready, r.progress.Total, r.progress.Waiting = phase, ready, total, oneLine(waiting)
}

func (r *run) changed(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changes = append(r.changes, oneLine(fmt.Sprintf(format, args...)))
}

func (r *run) proved(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.evidence = append(r.evidence, oneLine(fmt.Sprintf(format, args...)))
}

// await looks until nothing is awaited any more. What may work later is looked at
// again until the deadline; anything else ends it. Its time counts as waited.
func (r *run) await(ctx context.Context, phase string, look func(context.Context) (waiting string, err error)) error {
	begun := r.now()
	defer func() { r.waited += r.now().Sub(begun) }()
	for {
		waiting, err := r.look(ctx, look)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && errs.TypeOf(err) != errs.TypeUnavailable:
			return err
		case err != nil:
			waiting = errs.Message(err)
		case waiting == "":
			return nil
		}
		r.note(phase, 0, 0, waiting)
		if !r.now().Before(r.deadline) {
			return errs.Deadline("cluster %s: %s: not within %s: %s", r.in.Cluster.Name, phase, r.deadline.Sub(r.started).Round(time.Second), oneLine(waiting))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollEvery):
		}
	}
}

// awaitAtMost is await for no longer than limit, and has no error where it did not come by then.
func (r *run) awaitAtMost(ctx context.Context, limit time.Duration, phase string, look func(context.Context) (waiting string, err error)) error {
	short, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := r.await(short, phase, look)
	if ctx.Err() == nil && (short.Err() != nil || errs.TypeOf(err) == errs.TypeDeadline) {
		return nil
	}
	return err
}

func (r *run) look(ctx context.Context, look func(context.Context) (string, error)) (string, error) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	waiting, err := look(call)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return "", errs.Unavailable("cluster %s: no answer within %s", r.in.Cluster.Name, callTimeout)
	}
	if err != nil {
		err = r.classify(err)
	}
	return waiting, err
}

// each does something for every item, some at once, and returns the first error.
func each[T any](ctx context.Context, items []T, do func(context.Context, T) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(nodesAtOnce)
	for _, item := range items {
		group.Go(func() error { return do(ctx, item) })
	}
	return group.Wait()
}

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "") + "…"
	}
	return s
}
