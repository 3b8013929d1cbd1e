package daemon

import (
	"context"
	"errors"
	"reflect"

	"github.com/prometheus/client_golang/prometheus"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/log"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/rancher"
)

// activityMetrics count what fails, by the type that people and workflows tell
// failures apart by; the SDK's own metrics know only that something failed.
type activityMetrics struct{ failures *prometheus.CounterVec }

func newActivityMetrics() *activityMetrics {
	return &activityMetrics{failures: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "portcullis_activity_failures_total",
		Help: "Attempts of activities that failed, by activity and error type. Unavailable is tried again.",
	}, []string{"activity", "type"})}
}

func (m *activityMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.failures}
}

// errorTypes are all that the label type may be; another one is Other.
var errorTypes = map[string]bool{
	errs.TypeInvalid: true, errs.TypeNotFound: true, errs.TypeConflict: true, errs.TypeHeld: true, errs.TypeDenied: true,
	errs.TypeUntrusted: true, errs.TypeUnavailable: true, errs.TypeDeadline: true, errs.TypeFailed: true, errs.TypePreflight: true,
}

func (m *activityMetrics) count(name string, err error) {
	kind := errs.TypeOf(err)
	switch {
	case err == nil, errors.Is(err, activity.ErrResultPending):
		return
	case errors.Is(err, context.Canceled):
		kind = "Canceled" // a person, or a daemon that stops
	case !errorTypes[kind]:
		kind = "Other"
	}
	m.failures.WithLabelValues(name, kind).Inc()
}

// watching is the interceptor that counts activities' failures and names the
// cluster in what they log.
type watching struct {
	interceptor.WorkerInterceptorBase
	metrics *activityMetrics
}

// InterceptActivity wraps one activity.
func (w *watching) InterceptActivity(_ context.Context, next interceptor.ActivityInboundInterceptor) interceptor.ActivityInboundInterceptor {
	i := &watched{metrics: w.metrics}
	i.Next = next
	return i
}

type watched struct {
	interceptor.ActivityInboundInterceptorBase
	metrics *activityMetrics
}

// Init puts the logger in place.
func (w *watched) Init(next interceptor.ActivityOutboundInterceptor) error {
	l := &clusterLogger{}
	l.Next = next
	return w.Next.Init(l)
}

type clusterKey struct{}

// ExecuteActivity runs it, and counts and logs its failure. The SDK's own line on
// it is left out (see about): it cannot name the cluster.
func (w *watched) ExecuteActivity(ctx context.Context, in *interceptor.ExecuteActivityInput) (out any, err error) {
	if name := clusterOf(in.Args); name != "" {
		ctx = context.WithValue(ctx, clusterKey{}, name)
	}
	name := activity.GetInfo(ctx).ActivityType.Name
	panicked := true
	defer func() {
		if panicked {
			w.metrics.failures.WithLabelValues(name, "Panic").Inc()
		}
	}()
	out, err = w.Next.ExecuteActivity(ctx, in)
	panicked = false
	w.metrics.count(name, err)
	tell(activity.GetLogger(ctx), err)
	return out, err
}

// tell logs how an attempt failed: at Warn where it is tried again, at Error where it is not.
func tell(l log.Logger, err error) {
	switch {
	case err == nil, errors.Is(err, activity.ErrResultPending):
	case errors.Is(err, context.Canceled):
		l.Debug("activity cancelled")
	case mayPass(err):
		l.Warn("activity failed; it is tried again", "type", errs.TypeOf(err), "reason", errs.Message(err))
	default:
		l.Error("activity failed", "type", errs.TypeOf(err), "reason", errs.Message(err))
	}
}

type clusterLogger struct {
	interceptor.ActivityOutboundInterceptorBase
}

// GetLogger names the cluster.
func (l *clusterLogger) GetLogger(ctx context.Context) log.Logger {
	logger := l.Next.GetLogger(ctx)
	if name, ok := ctx.Value(clusterKey{}).(string); ok {
		return log.With(logger, keyCluster, name)
	}
	return logger
}

// clusterOf is the name of the cluster that an activity's input is about: each
// input of one that is about a cluster has it in a field of that name.
func clusterOf(args []any) string {
	if len(args) == 0 {
		return ""
	}
	v := reflect.Indirect(reflect.ValueOf(args[0]))
	if v.Kind() != reflect.Struct {
		return ""
	}
	field := v.FieldByName("Cluster")
	if !field.IsValid() || !field.CanInterface() {
		return ""
	}
	if c, ok := field.Interface().(rancher.Cluster); ok {
		return c.Name
	}
	return ""
}
