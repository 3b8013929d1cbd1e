package daemon

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"google.golang.org/grpc"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/cmd/internal/config"
	"portcullis.dev/portcullis/workflows/contract"
)

// fakeRancher fails as often as it is told.
type fakeRancher struct {
	mu             sync.Mutex
	checks, starts []error
	checked        int
}

func (r *fakeRancher) Check(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.checked++
	return pop(&r.checks)
}

func (r *fakeRancher) Start(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return pop(&r.starts)
}

// pop takes the next error; the last one stays.
func pop(list *[]error) error {
	if len(*list) == 0 {
		return nil
	}
	err := (*list)[0]
	*list = (*list)[1:]
	return err
}

// lines is a log that tests can read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newDaemon(t *testing.T, r *fakeRancher, dial func() error) (*Daemon, *lines) {
	t.Helper()
	var cfg config.Server
	config.SetServerDefaults(&cfg)
	log := &lines{}
	d, err := New(Options{
		Config: cfg, Logger: slog.New(slog.NewTextHandler(log, nil)),
		Build: func(config.Server, string) (*Parts, error) {
			return &Parts{Rancher: r, Register: func(worker.Registry) {}}, nil
		},
		Dial:    func(context.Context, client.Options) (client.Client, error) { return nil, dial() },
		Backoff: Backoff{First: time.Millisecond, Most: 2 * time.Millisecond},
	})
	require.NoError(t, err)
	return d, log
}

func TestRefusedCredentialsEndTheDaemonAtStart(t *testing.T) {
	for _, refused := range []error{errs.Denied("token"), errs.Untrusted("ca"), errs.Invalid("url")} {
		d, _ := newDaemon(t, &fakeRancher{checks: []error{refused}}, func() error {
			t.Error("Temporal is not asked before Rancher is known to be right")
			return nil
		})
		require.ErrorIs(t, d.Run(t.Context()), refused)
	}
}

func TestRancherThatIsDownIsWaitedFor(t *testing.T) {
	down := errs.Unavailable("connection refused")
	r := &fakeRancher{checks: []error{down, down, nil}, starts: []error{down, nil}}
	d, log := newDaemon(t, r, func() error { return serviceerror.NewUnavailable("down") })
	done := make(chan error, 1)
	go func() { done <- d.Run(t.Context()) }()
	require.Eventually(t, d.watching.Load, 5*time.Second, time.Millisecond)
	d.Stop()
	require.NoError(t, <-done)
	require.Contains(t, log.String(), "Rancher cannot be used yet")
	require.Contains(t, log.String(), "Temporal cannot be used yet")
}

func TestTemporalThatRefusesEndsTheDaemon(t *testing.T) {
	for kind, err := range map[string]error{
		errs.TypeDenied:   serviceerror.NewPermissionDenied("no", ""),
		errs.TypeNotFound: serviceerror.NewNamespaceNotFound("default"),
	} {
		d, _ := newDaemon(t, &fakeRancher{}, func() error { return err })
		require.Equal(t, kind, errs.TypeOf(d.Run(t.Context())))
	}
}

func TestDaemonEndsInOrderWhileItWaits(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	d, _ := newDaemon(t, &fakeRancher{}, func() error { cancel(); return serviceerror.NewUnavailable("down") })
	require.NoError(t, d.Run(ctx))
}

// fakeOperator is a Temporal that has some search attributes.
type fakeOperator struct {
	client.Client
	operatorservice.OperatorServiceClient
	have  map[string]enumspb.IndexedValueType
	errs  []error
	added map[string]enumspb.IndexedValueType
	// unnoticed is how often it does not know yet what was added.
	unnoticed int
	searched  string
}

func (f *fakeOperator) ListWorkflow(_ context.Context, r *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error) {
	f.searched = r.GetQuery()
	if f.unnoticed--; f.unnoticed >= 0 {
		return nil, serviceerror.NewInvalidArgument("Namespace default has no mapping defined for search attribute PortcullisPipeline")
	}
	return &workflowservice.ListWorkflowExecutionsResponse{}, nil
}

func (f *fakeOperator) OperatorService() operatorservice.OperatorServiceClient { return f }

func (f *fakeOperator) ListSearchAttributes(context.Context, *operatorservice.ListSearchAttributesRequest, ...grpc.CallOption) (*operatorservice.ListSearchAttributesResponse, error) {
	if err := pop(&f.errs); err != nil {
		return nil, err
	}
	return &operatorservice.ListSearchAttributesResponse{CustomAttributes: f.have}, nil
}

func (f *fakeOperator) AddSearchAttributes(_ context.Context, r *operatorservice.AddSearchAttributesRequest, _ ...grpc.CallOption) (*operatorservice.AddSearchAttributesResponse, error) {
	f.added = r.GetSearchAttributes()
	return &operatorservice.AddSearchAttributesResponse{}, nil
}

func TestSearchAttributesAreRegisteredWhereTheyAreMissing(t *testing.T) {
	d, log := newDaemon(t, &fakeRancher{}, nil)
	const keyword = enumspb.INDEXED_VALUE_TYPE_KEYWORD

	f := &fakeOperator{have: map[string]enumspb.IndexedValueType{contract.AttrPipeline.GetName(): keyword}, errs: []error{serviceerror.NewUnavailable("later")}, unnoticed: 2}
	require.NoError(t, d.registerSearchAttributes(t.Context(), f))
	require.Len(t, f.added, len(SearchAttributes())-1)
	require.Equal(t, -1, f.unnoticed, "it waits until Temporal has taken notice")
	for name := range SearchAttributes() {
		require.Contains(t, f.searched, name)
	}

	f = &fakeOperator{have: SearchAttributes()}
	require.NoError(t, d.registerSearchAttributes(t.Context(), f))
	require.Nil(t, f.added)
	require.Empty(t, f.searched, "what was there needs no time")

	f = &fakeOperator{have: map[string]enumspb.IndexedValueType{contract.AttrState.GetName(): enumspb.INDEXED_VALUE_TYPE_INT}}
	require.Equal(t, errs.TypeConflict, errs.TypeOf(d.registerSearchAttributes(t.Context(), f)))

	f = &fakeOperator{errs: []error{serviceerror.NewPermissionDenied("no", "")}}
	require.NoError(t, d.registerSearchAttributes(t.Context(), f))
	require.Contains(t, log.String(), "temporal operator search-attribute create --namespace default")
}

func TestBackoffGrowsToItsMost(t *testing.T) {
	b := Backoff{First: 100 * time.Millisecond, Most: time.Second}
	for n := range 70 {
		d := b.delay(n)
		want := min(b.First<<min(n, 10), b.Most)
		require.LessOrEqual(t, d, want)
		require.GreaterOrEqual(t, d, want*4/5)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.False(t, b.wait(ctx, 0))
}

func TestWhatMayPass(t *testing.T) {
	require.True(t, mayPass(errs.Unavailable("x")))
	require.True(t, mayPass(errors.New("odd")))
	require.False(t, mayPass(errs.Denied("x")))
}
