package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"

	"portcullis.dev/portcullis/cmd/internal/connect"
	"portcullis.dev/portcullis/cmd/internal/daemon"
	"portcullis.dev/portcullis/workflows/contract"
)

const (
	// soon is how long before its end a certificate or a token is worth a word.
	soon = 14 * 24 * time.Hour
	// keepLeast is how long ended rollouts should stay to be looked at.
	keepLeast = 3 * 24 * time.Hour
	// temporalLeast is the first minor version of Temporal 1 in which Updates, by which
	// people decide, are on without asking.
	temporalLeast = 25
	// pollerAge is older than any poll of a daemon that lives.
	pollerAge = 75 * time.Second
)

func (d *doctor) temporal(ctx context.Context) {
	var o client.Options
	rest := []string{TemporalNamespace, TemporalSearchAttributes, TemporalList, TemporalDaemons}
	if !d.check(ctx, TemporalTLS, "", func(context.Context) (f finding) { o, f = d.temporalOptions(); return f }) {
		d.skip(ctx, "the settings of the connection are not right", append([]string{TemporalReach}, rest...)...)
		return
	}
	var c client.Client
	if !d.check(ctx, TemporalReach, d.Config.Temporal.Address, func(ctx context.Context) (f finding) { c, f = d.dial(ctx, o); return f }) {
		if c != nil {
			c.Close()
		}
		d.skip(ctx, "Temporal cannot be used", rest...)
		return
	}
	defer c.Close()
	d.check(ctx, TemporalNamespace, d.Config.Temporal.Namespace, func(ctx context.Context) finding { return d.namespace(ctx, c) })
	d.check(ctx, TemporalSearchAttributes, "", func(ctx context.Context) finding { return d.searchAttributes(ctx, c) })
	d.check(ctx, TemporalList, "", func(ctx context.Context) finding { return d.list(ctx, c) })
	d.check(ctx, TemporalDaemons, d.Config.Temporal.TaskQueue, func(ctx context.Context) finding { return d.daemons(ctx, c) })
}

// temporalOptions reads the files that the connection needs.
func (d *doctor) temporalOptions() (client.Options, finding) {
	settings := d.Config.Temporal
	o, err := connect.Options(settings, d.APIKey)
	if err != nil {
		return o, failed(err)
	}
	o.Logger = log.NewStructuredLogger(slog.New(slog.DiscardHandler))
	how := []string{"TLS"}
	if o.ConnectionOptions.TLS == nil {
		return o, fine("no TLS: the connection is plain text")
	}
	if o.Credentials != nil {
		how = append(how, "an API key")
	}
	pairs := o.ConnectionOptions.TLS.Certificates
	if len(pairs) == 0 {
		return o, fine("%s", strings.Join(how, " and "))
	}
	until, err := validUntil(pairs[0])
	if err != nil {
		return o, broken("name a client certificate in temporal.tls.certFile", "%v", err)
	}
	how = append(how, "a client certificate until "+until.UTC().Format(time.DateOnly))
	return o, expiry(d.Now(), until, "renew the client certificate, and put it into "+settings.TLS.CertFile, strings.Join(how, " and "))
}

func validUntil(pair tls.Certificate) (time.Time, error) {
	if len(pair.Certificate) == 0 {
		return time.Time{}, errors.New("the client certificate's file holds no certificate")
	}
	c, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return time.Time{}, fmt.Errorf("the client certificate cannot be read: %w", err)
	}
	return c.NotAfter, nil
}

// expiry judges something that is valid until a time.
func expiry(now, until time.Time, remedy, what string) finding {
	switch left := until.Sub(now); {
	case left <= 0:
		return broken(remedy, "%s: it has expired", what)
	case left < soon:
		return doubt(remedy, "%s: it expires in %s", what, days(left))
	}
	return fine("%s", what)
}

func days(d time.Duration) string {
	if n := int(d.Hours() / 24); n != 1 {
		return fmt.Sprintf("%d days", n)
	}
	return "1 day"
}

func (d *doctor) dial(ctx context.Context, o client.Options) (client.Client, finding) {
	c, err := d.Dial(ctx, o)
	if err != nil {
		return nil, failed(connect.Explain(err, d.Config.Temporal))
	}
	info, err := c.WorkflowService().GetSystemInfo(ctx, &workflowservice.GetSystemInfoRequest{})
	if err != nil {
		return c, failed(connect.Explain(err, d.Config.Temporal))
	}
	version := info.GetServerVersion()
	if minor, ok := minorOf(version); ok && minor < temporalLeast {
		return c, broken(fmt.Sprintf("update Temporal to 1.%d or later", temporalLeast), "Temporal is of version %s, in which people cannot decide on gates", version)
	}
	return c, fine("Temporal %s answers", version)
}

// minorOf reads 25 from 1.25.2; another major version is not judged.
func minorOf(version string) (int, bool) {
	rest, one := strings.CutPrefix(version, "1.")
	if !one {
		return 0, false
	}
	minor, _, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(minor)
	return n, err == nil
}

func (d *doctor) namespace(ctx context.Context, c client.Client) finding {
	name := d.Config.Temporal.Namespace
	answer, err := c.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: name})
	if forbidden(err) {
		return skip("these credentials may not describe the namespace; they may well work in it")
	}
	if err != nil {
		return failed(connect.Explain(err, d.Config.Temporal))
	}
	keep := answer.GetConfig().GetWorkflowExecutionRetentionTtl().AsDuration()
	if keep < keepLeast {
		return doubt(fmt.Sprintf("temporal operator namespace update --namespace %s --retention %s", name, "30d"), "it keeps what ended for %s: after that nobody can look at how a rollout went", keep)
	}
	return fine("it keeps what ended for %s", days(keep))
}

func (d *doctor) searchAttributes(ctx context.Context, c client.Client) finding {
	have, err := c.OperatorService().ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: d.Config.Temporal.Namespace})
	if forbidden(err) {
		return skip("these credentials may not list the search attributes; %s tells whether they are there", TemporalList)
	}
	if err != nil {
		return failed(connect.Explain(err, d.Config.Temporal))
	}
	var missing, wrong []string
	for name, want := range daemon.SearchAttributes() {
		switch got, there := have.GetCustomAttributes()[name]; {
		case !there:
			missing = append(missing, name)
		case got != want:
			wrong = append(wrong, name)
		}
	}
	slices.Sort(missing)
	slices.Sort(wrong)
	switch {
	case len(wrong) > 0:
		return broken("remove them there, and have the daemon register them anew", "of another type than Keyword: %s", strings.Join(wrong, ", "))
	case len(missing) > 0:
		return doubt("start the daemon, which registers them, or: "+daemon.Remedy(d.Config.Temporal.Namespace), "not registered yet: %s", strings.Join(missing, ", "))
	}
	return fine("%s", strings.Join(slices.Sorted(maps.Keys(daemon.SearchAttributes())), ", "))
}

// list asks the index as the daemon and the command line do.
func (d *doctor) list(ctx context.Context, c client.Client) finding {
	query := fmt.Sprintf("WorkflowType = '%s' AND ExecutionStatus = 'Running'", contract.RolloutWorkflow)
	page, err := c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{Namespace: d.Config.Temporal.Namespace, PageSize: 100, Query: query})
	if err != nil {
		return failed(connect.Explain(err, d.Config.Temporal))
	}
	attribute := contract.AttrState.GetName()
	_, err = c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{Namespace: d.Config.Temporal.Namespace, PageSize: 1, Query: attribute + " = 'none'"})
	var invalid *serviceerror.InvalidArgument
	if errors.As(err, &invalid) {
		return doubt("start the daemon, which registers it, or: "+daemon.Remedy(d.Config.Temporal.Namespace), "rollouts cannot be listed by %s: it is not registered", attribute)
	}
	if err != nil {
		return failed(connect.Explain(err, d.Config.Temporal))
	}
	return fine("%s", plural(len(page.GetExecutions()), "rollout runs", "rollouts run"))
}

func (d *doctor) daemons(ctx context.Context, c client.Client) finding {
	queue, err := c.DescribeTaskQueue(ctx, d.Config.Temporal.TaskQueue, enumspb.TASK_QUEUE_TYPE_WORKFLOW)
	if forbidden(err) {
		return skip("these credentials may not describe the task queue")
	}
	if err != nil {
		return failed(connect.Explain(err, d.Config.Temporal))
	}
	live := map[string]bool{}
	for _, p := range queue.GetPollers() {
		if d.Now().Sub(p.GetLastAccessTime().AsTime()) < pollerAge {
			live[p.GetIdentity()] = true
		}
	}
	if len(live) == 0 {
		return doubt("start one: portcullis server --config FILE", "no daemon polls it now")
	}
	return fine("%s: %s", plural(len(live), "daemon polls it", "daemons poll it"), strings.Join(slices.Sorted(maps.Keys(live)), ", "))
}

func forbidden(err error) bool {
	var (
		denied  *serviceerror.PermissionDenied
		unknown *serviceerror.Unimplemented
	)
	return errors.As(err, &denied) || errors.As(err, &unknown)
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
