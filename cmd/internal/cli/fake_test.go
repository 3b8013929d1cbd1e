package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/types/known/timestamppb"

	"portcullis.dev/portcullis/workflows/contract"
)

// fakeTemporal answers what the command line asks. Its embedded interface is
// nil: a call that no test expects ends the test.
type fakeTemporal struct {
	client.Client

	mu    sync.Mutex
	calls []string
	// started has the options and inputs of workflows that were started.
	started []client.StartWorkflowOptions
	inputs  []any

	startErrors []error
	// starting, where it is set, is called while a start is in flight.
	starting   func(context.Context) error
	results    map[string]any
	resultErr  map[string]error
	updates    func(name string, args []any) (any, error)
	status     *contract.RolloutStatus
	migration  *contract.MigrateStatus
	correction *contract.CorrectionStatus
	closed     bool
	missing    bool
	// unattended means that nobody polls.
	unattended bool
	// deaf means that orders get no answer, though somebody polls.
	deaf   bool
	query  string
	listed []*workflowpb.WorkflowExecutionInfo
}

func (f *fakeTemporal) did(call string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, call)
}

func (f *fakeTemporal) Close() {}

func (f *fakeTemporal) ExecuteWorkflow(ctx context.Context, o client.StartWorkflowOptions, workflow any, args ...any) (client.WorkflowRun, error) {
	name, _ := workflow.(string)
	f.did("start " + name)
	if len(f.startErrors) > 0 {
		err := f.startErrors[0]
		f.startErrors = f.startErrors[1:]
		if err != nil {
			return nil, err
		}
	}
	if f.starting != nil {
		if err := f.starting(ctx); err != nil {
			return nil, err
		}
	}
	f.started, f.inputs = append(f.started, o), append(f.inputs, args[0])
	return &fakeRun{f, o.ID, name}, nil
}

func (f *fakeTemporal) GetWorkflow(_ context.Context, id, _ string) client.WorkflowRun {
	name := contract.RolloutWorkflow
	if strings.HasPrefix(id, contract.MigrateID("")) {
		name = contract.MigrateWorkflow
	}
	if strings.HasPrefix(id, contract.CorrectionID("")) {
		name = contract.CorrectionWorkflow
	}
	return &fakeRun{f, id, name}
}

type fakeRun struct {
	f        *fakeTemporal
	id, name string
}

func (r *fakeRun) GetID() string    { return r.id }
func (r *fakeRun) GetRunID() string { return "run-1" }
func (r *fakeRun) Get(ctx context.Context, into any) error {
	r.f.did("get " + r.name)
	if r.f.unattended || r.f.deaf {
		<-ctx.Done()
		return ctx.Err()
	}
	if err := r.f.resultErr[r.name]; err != nil {
		return err
	}
	return assign(r.f.results[r.name], into)
}
func (r *fakeRun) GetWithOptions(ctx context.Context, into any, _ client.WorkflowRunGetOptions) error {
	return r.Get(ctx, into)
}

// assign goes through JSON as Temporal's payloads do.
func assign(from, into any) error {
	if into == nil || from == nil || reflect.ValueOf(into).IsNil() {
		return nil
	}
	raw, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}

func (f *fakeTemporal) UpdateWorkflow(ctx context.Context, o client.UpdateWorkflowOptions) (client.WorkflowUpdateHandle, error) {
	f.did("update " + o.UpdateName)
	if f.unattended || f.deaf {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	result, err := f.updates(o.UpdateName, o.Args)
	if err != nil {
		return nil, err
	}
	return &fakeUpdate{result: result}, nil
}

type fakeUpdate struct {
	client.WorkflowUpdateHandle
	result any
}

func (u *fakeUpdate) Get(_ context.Context, into any) error { return assign(u.result, into) }

func (f *fakeTemporal) QueryWorkflow(_ context.Context, id, _, _ string, _ ...any) (converter.EncodedValue, error) {
	var status any = f.status
	switch {
	case strings.HasPrefix(id, contract.MigrateID("")) && f.migration != nil:
		status = f.migration
	case id == contract.CorrectionID("np"):
		status = f.correction
	case f.status == nil:
		return nil, serviceerror.NewDeadlineExceeded("nobody answers")
	}
	payloads, err := converter.GetDefaultDataConverter().ToPayloads(status)
	if err != nil {
		return nil, err
	}
	return client.NewValue(payloads), nil
}

func (f *fakeTemporal) DescribeWorkflowExecution(_ context.Context, id, _ string) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	if f.missing {
		return nil, serviceerror.NewNotFound("no such workflow")
	}
	info := &workflowpb.WorkflowExecutionInfo{
		Execution: &commonpb.WorkflowExecution{WorkflowId: id, RunId: "run-1"},
		Status:    enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING,
		StartTime: timestamppb.New(noon.Add(-time.Minute)),
	}
	if f.closed {
		info.Status, info.CloseTime = enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED, timestamppb.New(noon)
	}
	d := &workflowservice.DescribeWorkflowExecutionResponse{WorkflowExecutionInfo: info}
	if f.unattended {
		info.HistoryLength = 2
		d.PendingWorkflowTask = &workflowpb.PendingWorkflowTaskInfo{State: enumspb.PENDING_WORKFLOW_TASK_STATE_SCHEDULED}
	}
	return d, nil
}

func (f *fakeTemporal) DescribeTaskQueue(context.Context, string, enumspb.TaskQueueType) (*workflowservice.DescribeTaskQueueResponse, error) {
	if f.unattended {
		return &workflowservice.DescribeTaskQueueResponse{}, nil
	}
	return &workflowservice.DescribeTaskQueueResponse{Pollers: []*taskqueuepb.PollerInfo{{LastAccessTime: timestamppb.Now()}}}, nil
}

func (f *fakeTemporal) ListWorkflow(_ context.Context, r *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error) {
	f.query = r.GetQuery()
	return &workflowservice.ListWorkflowExecutionsResponse{Executions: f.listed}, nil
}

func (f *fakeTemporal) TerminateWorkflow(_ context.Context, id, _, _ string, _ ...any) error {
	f.did("terminate " + id)
	return nil
}

func (f *fakeTemporal) CancelWorkflow(_ context.Context, id, _ string) error {
	f.did("cancel " + id)
	return nil
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// ran is how one run of the command line ended.
type ran struct {
	code        int
	out, errors string
}

// run runs the command line in this process, with f as Temporal.
func run(t *testing.T, f *fakeTemporal, args ...string) ran {
	t.Helper()
	return runIn(t.Context(), t, f, args...)
}

// runIn is run in a context that a test may end, as a signal does.
func runIn(ctx context.Context, t *testing.T, f *fakeTemporal, args ...string) ran {
	t.Helper()
	var out, errors bytes.Buffer
	code := Main(ctx, Options{
		Program: "portcullis", Args: args, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errors,
		LookupEnv: func(name string) (string, bool) {
			return map[string]string{"PORTCULLIS_BY": "sam"}[name], name == "PORTCULLIS_BY"
		},
		Dial: func(context.Context, client.Options) (client.Client, error) {
			if f == nil {
				t.Error("this verb has no business with Temporal")
			}
			return f, nil
		},
		Now:      func() time.Time { return noon },
		Patience: 20 * time.Millisecond,
		Answer:   500 * time.Millisecond,
	})
	return ran{code, out.String(), errors.String()}
}

const goodPipeline = "../config/testdata/good.yaml"

func requireOneLine(t *testing.T, text string) {
	t.Helper()
	require.Equal(t, 1, strings.Count(text, "\n"), "%q is not one line", text)
	require.True(t, strings.HasPrefix(text, "portcullis: "), text)
}
