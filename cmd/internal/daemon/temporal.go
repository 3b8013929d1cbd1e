package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/cmd/internal/connect"
	"portcullis.dev/portcullis/workflows/contract"
)

// dialTimeout bounds one attempt to reach Temporal.
const dialTimeout = 10 * time.Second

// openTemporal connects, however long Temporal is away.
func (d *Daemon) openTemporal(ctx context.Context) (client.Client, error) {
	settings := d.opts.Config.Temporal
	o, err := connect.Options(settings, d.opts.APIKey)
	if err != nil {
		return nil, err
	}
	o.Logger = log.NewStructuredLogger(d.opts.Logger)
	o.MetricsHandler = d.metrics.sdk
	o.Identity = identity(d.opts.Version)
	d.polls.options(&o)
	for n := 0; ; n++ {
		c, err := d.dial(ctx, o)
		if err == nil {
			return c, nil
		}
		err = connect.Explain(err, settings)
		if !mayPass(err) || ctx.Err() != nil {
			return nil, err
		}
		d.opts.Logger.Warn("Temporal cannot be used yet", "address", settings.Address, "reason", errs.Message(err))
		if !d.opts.Backoff.wait(ctx, n) {
			return nil, ctx.Err()
		}
	}
}

// identity is what people see in the Temporal UI of who polled and who ran what.
func identity(version string) string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("portcullis/%s@%s:%d", version, host, os.Getpid())
}

func (d *Daemon) dial(ctx context.Context, o client.Options) (client.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return d.opts.Dial(ctx, o)
}

func (d *Daemon) newWorker(c client.Client, broken chan<- error) worker.Worker {
	w := worker.New(c, d.opts.Config.Temporal.TaskQueue, worker.Options{
		// Waiting for a cluster holds a slot and costs next to nothing, and a
		// wave may be a thousand clusters.
		MaxConcurrentActivityExecutionSize: 1000,
		WorkerStopTimeout:                  shutdownTimeout,
		Interceptors:                       []interceptor.WorkerInterceptor{&watching{metrics: d.metrics.activities}},
		OnFatalError: func(err error) {
			select {
			case broken <- connect.Explain(err, d.opts.Config.Temporal):
			default:
			}
		},
	})
	d.parts.Register(w)
	return w
}

// SearchAttributes are what `rollout list` and the Temporal UI filter by.
func SearchAttributes() map[string]enumspb.IndexedValueType {
	const keyword = enumspb.INDEXED_VALUE_TYPE_KEYWORD
	return map[string]enumspb.IndexedValueType{
		contract.AttrPipeline.GetName():    keyword,
		contract.AttrEnvironment.GetName(): keyword,
		contract.AttrRevision.GetName():    keyword,
		contract.AttrState.GetName():       keyword,
		contract.AttrCluster.GetName():     keyword,
	}
}

// registerSearchAttributes adds what is not there. Without the permission (a
// Temporal that others run) it says what an administrator has to do, and the
// daemon goes on: they may be there without its being allowed to list them.
func (d *Daemon) registerSearchAttributes(ctx context.Context, c client.Client) error {
	for n := 0; ; n++ {
		added, err := d.addSearchAttributes(ctx, c)
		var exists *serviceerror.AlreadyExists
		switch {
		case added, errors.As(err, &exists):
			return d.awaitSearchAttributes(ctx, c)
		case err == nil:
			return nil
		case forbidden(err):
			d.opts.Logger.Warn("the search attributes cannot be registered with these credentials; where they are missing, rollouts cannot start",
				"reason", err.Error(), "remedy", Remedy(d.opts.Config.Temporal.Namespace))
			return nil
		case errs.TypeOf(err) != "" && !mayPass(err):
			return err
		}
		d.opts.Logger.Warn("the search attributes cannot be registered yet", "reason", err.Error())
		if !d.opts.Backoff.wait(ctx, n) {
			return ctx.Err()
		}
	}
}

// noticeTimeout is more than Temporal takes to take notice of a new search
// attribute. It keeps what it knows of them for a minute.
const noticeTimeout = 2 * time.Minute

// awaitSearchAttributes waits until Temporal can search by what was registered:
// until then it refuses to start rollouts. One that never says so holds nothing up.
func (d *Daemon) awaitSearchAttributes(ctx context.Context, c client.Client) error {
	d.opts.Logger.Info("search attributes are registered; waiting until Temporal takes notice", "namespace", d.opts.Config.Temporal.Namespace)
	within, cancel := context.WithTimeout(ctx, noticeTimeout)
	defer cancel()
	for n := 0; ; n++ {
		err := d.searches(within, c)
		if !connect.Unindexed(err) && (err == nil || !mayPass(connect.Explain(err, d.opts.Config.Temporal))) {
			return nil
		}
		if !d.opts.Backoff.wait(within, n) {
			return ctx.Err()
		}
	}
}

// searches asks for a rollout by every search attribute.
func (d *Daemon) searches(ctx context.Context, c client.Client) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var query []string
	for _, name := range slices.Sorted(maps.Keys(SearchAttributes())) {
		query = append(query, name+" = 'none'")
	}
	_, err := c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
		Namespace: d.opts.Config.Temporal.Namespace, PageSize: 1, Query: strings.Join(query, " AND "),
	})
	return err
}

// addSearchAttributes tells whether there was something to add.
func (d *Daemon) addSearchAttributes(ctx context.Context, c client.Client) (added bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	namespace := d.opts.Config.Temporal.Namespace
	have, err := c.OperatorService().ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: namespace})
	if err != nil {
		return false, err
	}
	missing := SearchAttributes()
	for name, want := range SearchAttributes() {
		switch got, there := have.GetCustomAttributes()[name]; {
		case there && got != want:
			return false, errs.Conflict("the search attribute %s of Temporal's namespace %s has the type %s and not Keyword: remove it there", name, namespace, got)
		case there:
			delete(missing, name)
		}
	}
	if len(missing) == 0 {
		return false, nil
	}
	_, err = c.OperatorService().AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{
		Namespace: namespace, SearchAttributes: missing,
	})
	return err == nil, err
}

func forbidden(err error) bool {
	var (
		denied  *serviceerror.PermissionDenied
		unknown *serviceerror.Unimplemented
	)
	return errors.As(err, &denied) || errors.As(err, &unknown)
}

// Remedy is what an administrator of Temporal types to register them.
func Remedy(namespace string) string {
	names := slices.Sorted(maps.Keys(SearchAttributes()))
	return fmt.Sprintf("temporal operator search-attribute create --namespace %s --type Keyword --name %s",
		namespace, strings.Join(names, " --name "))
}
