package daemon

import (
	"context"
	"strings"
	"sync"
	"time"

	"go.temporal.io/sdk/client"
	"google.golang.org/grpc"

	"portcullis.dev/portcullis/activities/errs"
)

// pollMost is longer than any poll of the task queue takes: Temporal answers with
// nothing after a minute.
const pollMost = 90 * time.Second

// polls sees, from the calls that the SDK makes, whether this process polls the
// task queue. Asking Temporal who polls would answer for one partition of the queue
// alone, and for the last minutes.
type polls struct {
	now func() time.Time

	mu sync.Mutex
	// waiting has when each poll began that is still out.
	waiting map[int]time.Time
	next    int
	// answered and failed are when a poll last ended so.
	answered, failed time.Time
}

func newPolls(now func() time.Time) *polls { return &polls{now: now, waiting: map[int]time.Time{}} }

// settled is how long a poll must be out, after one that failed, to be taken for
// one that Temporal holds: a call that cannot be made fails sooner.
const settled = 3 * time.Second

// working is nil while workflow tasks are polled for.
func (p *polls) working() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if p.answered.After(p.failed) && now.Sub(p.answered) < pollMost {
		return nil
	}
	for _, began := range p.waiting {
		out := now.Sub(began)
		if out < pollMost && (p.failed.IsZero() || began.After(p.failed) && out >= settled) {
			return nil
		}
	}
	if p.answered.IsZero() && p.failed.IsZero() {
		return errs.Unavailable(notYet)
	}
	return errs.Unavailable("polls of the task queue fail or are not made")
}

func (p *polls) begin() (done func(error)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next++
	id := p.next
	p.waiting[id] = p.now()
	return func(err error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.waiting, id)
		if err != nil {
			p.failed = p.now()
		} else {
			p.answered = p.now()
		}
	}
}

// options adds the eye on the calls to a connection's options.
func (p *polls) options(o *client.Options) {
	o.ConnectionOptions.DialOptions = append(o.ConnectionOptions.DialOptions, grpc.WithChainUnaryInterceptor(
		func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			if !strings.HasSuffix(method, "/PollWorkflowTaskQueue") {
				return invoke(ctx, method, req, reply, cc, opts...)
			}
			done := p.begin()
			err := invoke(ctx, method, req, reply, cc, opts...)
			done(err)
			return err
		}))
}
