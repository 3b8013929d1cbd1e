package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/cmd/internal/config"
	"portcullis.dev/portcullis/cmd/internal/connect"
)

// session is a connection to Temporal and where the daemon is expected on it.
type session struct {
	client.Client
	settings config.Temporal
	// patience and answer are those of Options.
	patience, answer time.Duration
	// audited is the last audit that was read, by its pipeline, and when that was.
	audited lastAudits
}

const (
	// dialTimeout bounds connecting, and callTimeout one short call.
	dialTimeout = 10 * time.Second
	callTimeout = 15 * time.Second
	// startGrace is what a start in flight is given to come back after an interruption.
	startGrace = 2 * time.Second
	// pollerAge is older than any poll of a daemon that lives: they last a minute.
	pollerAge = 75 * time.Second
)

func (a *app) connect(ctx context.Context) (*session, error) {
	cfg, err := a.serverConfig()
	if err != nil {
		return nil, err
	}
	o, err := connect.Options(cfg.Temporal, a.env("TEMPORAL_API_KEY"))
	if err != nil {
		return nil, err
	}
	o.Logger = log.NewStructuredLogger(slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, err := a.Dial(ctx, o)
	if err != nil {
		return nil, connect.Explain(err, cfg.Temporal)
	}
	return &session{Client: c, settings: cfg.Temporal, patience: a.Patience, answer: a.Answer}, nil
}

// withSession runs do with a connection.
func (a *app) withSession(ctx context.Context, do func(context.Context, *session) error) error {
	s, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	return s.explain(do(ctx, s))
}

// explain gives errors of the connection their place. What a workflow answered
// has its type already.
func (s *session) explain(err error) error { return connect.Explain(err, s.settings) }

// noServer says that nobody does the work.
func (s *session) noServer() error {
	return errs.Unavailable("no Portcullis server is polling task queue %q at %s: start one with `portcullis server`",
		s.settings.TaskQueue, s.settings.Address)
}

// lastPoll is when a daemon last polled the task queue; zero means that none
// has for minutes.
func (s *session) lastPoll(ctx context.Context) (last time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	queue, err := s.DescribeTaskQueue(ctx, s.settings.TaskQueue, enumspb.TASK_QUEUE_TYPE_WORKFLOW)
	if err != nil {
		return last, err
	}
	for _, p := range queue.GetPollers() {
		if at := p.GetLastAccessTime().AsTime(); at.After(last) {
			last = at
		}
	}
	return last, nil
}

// untouched tells whether nobody has picked the workflow's first task up yet.
func (s *session) untouched(ctx context.Context, run client.WorkflowRun) bool {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	d, err := s.DescribeWorkflowExecution(ctx, run.GetID(), run.GetRunID())
	if err != nil {
		return false
	}
	return d.GetWorkflowExecutionInfo().GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING &&
		d.GetWorkflowExecutionInfo().GetHistoryLength() <= 2 &&
		d.GetPendingWorkflowTask().GetState() == enumspb.PENDING_WORKFLOW_TASK_STATE_SCHEDULED
}

// attended runs do, which needs the daemon, and ends it with a clear error when
// there is no daemon. With run, a workflow that nobody has touched is taken back.
func (s *session) attended(ctx context.Context, run client.WorkflowRun, do func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go s.watchdog(ctx, run, cancel)
	err := do(ctx)
	if cause := context.Cause(ctx); err != nil && errs.TypeOf(cause) != "" {
		return cause
	}
	return err
}

// watchdog cancels with noServer when nobody polls; it looks once and again,
// because a daemon may be starting.
func (s *session) watchdog(ctx context.Context, run client.WorkflowRun, cancel context.CancelCauseFunc) {
	ticker := time.NewTicker(s.patience)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if run != nil && !s.untouched(ctx, run) {
			continue
		}
		if seen, err := s.lastPoll(ctx); err != nil || time.Since(seen) < pollerAge {
			continue
		}
		if run != nil {
			s.takeBack(ctx, run)
		}
		cancel(s.noServer())
		return
	}
}

// takeBack ends a workflow that nobody has begun, so that it does not run when
// nobody expects it any more.
func (s *session) takeBack(ctx context.Context, run client.WorkflowRun) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_ = s.TerminateWorkflow(ctx, run.GetID(), run.GetRunID(), "no Portcullis server picked it up; nothing was changed")
}

// operation runs a small workflow and waits for its result. When the command is
// interrupted, the workflow is cancelled.
func (s *session) operation(ctx context.Context, id, name, summary string, limit time.Duration, in, out any) error {
	// An interruption must not hide from the command what it has started: the call may still come back.
	starting, stop := outlive(ctx, startGrace)
	defer stop()
	run, err := s.ExecuteWorkflow(starting, client.StartWorkflowOptions{
		ID:                                       id,
		TaskQueue:                                s.settings.TaskQueue,
		WorkflowExecutionTimeout:                 limit,
		WorkflowIDConflictPolicy:                 enumspb.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
		StaticSummary:                            summary,
	}, name, in)
	var already *serviceerror.WorkflowExecutionAlreadyStarted
	if errors.As(err, &already) {
		return errs.Conflict("%s runs already (%s): wait for it to end", name, id)
	}
	if err != nil {
		return cmp.Or(ctx.Err(), err)
	}
	err = s.attended(ctx, run, func(ctx context.Context) error { return run.Get(ctx, out) })
	if err != nil && ctx.Err() != nil {
		s.cancelQuietly(ctx, run)
		return ctx.Err()
	}
	if timedOut(err) {
		return errs.Deadline("%s did not end within %s", name, limit)
	}
	return err
}

// outlive is ctx for a call that has grace to come back once ctx has ended.
func outlive(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })
	return out, func() { stop(); cancel() }
}

func timedOut(err error) bool {
	var late *temporal.TimeoutError
	return errors.As(err, &late)
}

func (s *session) cancelQuietly(ctx context.Context, run client.WorkflowRun) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	_ = s.CancelWorkflow(ctx, run.GetID(), run.GetRunID())
}

// order gives an order to a running workflow and waits for the answer. Temporal
// keeps what nobody has answered yet, and a daemon that comes back carries it out:
// whoever gets no answer is told so, and that status is the command that shows it.
func (s *session) order(ctx context.Context, id, order, status string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, s.answer)
	defer cancel()
	err := s.attended(ctx, nil, func(ctx context.Context) error {
		handle, err := s.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{
			WorkflowID: id, UpdateName: order, Args: []any{in}, WaitForStage: client.WorkflowUpdateStageCompleted,
		})
		if err == nil {
			err = handle.Get(ctx, out)
		}
		if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return errs.Deadline("%s did not answer within %s", id, s.answer)
		}
		return err
	})
	err = s.explain(err)
	const open = "%s; the order to %s may have been delivered all the same, and is then carried out once a server runs: `%s` shows whether it was"
	switch errs.TypeOf(err) {
	case errs.TypeDeadline:
		return errs.Deadline(open, errs.Message(err), order, status)
	case errs.TypeUnavailable:
		return errs.Unavailable(open, errs.Message(err), order, status)
	}
	return err
}

// opID is the ID of a small workflow; no two are the same.
func (a *app) opID(verb string) string {
	return fmt.Sprintf("%s/%d", verb, a.Now().UnixNano())
}
