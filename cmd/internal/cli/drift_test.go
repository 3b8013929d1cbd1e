package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"google.golang.org/protobuf/types/known/timestamppb"

	"portcullis.dev/portcullis/rancher/drift"
	"portcullis.dev/portcullis/workflows/contract"
)

// scheduling is a Temporal that keeps one schedule, and results of audits by their run.
type scheduling struct {
	*fakeTemporal
	schedule *client.Schedule
	created  []client.ScheduleOptions
	did      []string
	byRun    map[string]contract.DriftResult
}

func (s *scheduling) ScheduleClient() client.ScheduleClient { return &fakeSchedules{s: s} }

func (s *scheduling) GetWorkflow(ctx context.Context, id, run string) client.WorkflowRun {
	if r, ok := s.byRun[run]; ok {
		return &auditRun{&fakeRun{s.fakeTemporal, id, contract.DriftWorkflow}, r}
	}
	return s.fakeTemporal.GetWorkflow(ctx, id, run)
}

type auditRun struct {
	*fakeRun
	result contract.DriftResult
}

func (r *auditRun) Get(_ context.Context, into any) error { return assign(r.result, into) }

type fakeSchedules struct {
	client.ScheduleClient
	s *scheduling
}

func (f *fakeSchedules) Create(_ context.Context, o client.ScheduleOptions) (client.ScheduleHandle, error) {
	if f.s.schedule != nil {
		return nil, temporal.ErrScheduleAlreadyRunning
	}
	f.s.did = append(f.s.did, "create")
	f.s.created = append(f.s.created, o)
	f.s.keep(&client.Schedule{Action: o.Action, Spec: &o.Spec, State: &client.ScheduleState{Note: o.Note}})
	return nil, nil
}

// keep stores a schedule as Temporal does: what a workflow gets is payloads.
func (s *scheduling) keep(c *client.Schedule) {
	action := *c.Action.(*client.ScheduleWorkflowAction)
	payload, err := converter.GetDefaultDataConverter().ToPayload(action.Args[0])
	if err != nil {
		panic(err)
	}
	action.Args = []any{payload}
	c.Action = &action
	s.schedule = c
}

func (f *fakeSchedules) GetHandle(context.Context, string) client.ScheduleHandle {
	return &fakeSchedule{s: f.s}
}

type fakeSchedule struct {
	client.ScheduleHandle
	s *scheduling
}

func (f *fakeSchedule) Describe(context.Context) (*client.ScheduleDescription, error) {
	if f.s.schedule == nil {
		return nil, serviceerror.NewNotFound("no such schedule")
	}
	return &client.ScheduleDescription{Schedule: *f.s.schedule, Info: client.ScheduleInfo{
		NextActionTimes: []time.Time{noon.Add(time.Hour)}, RecentActions: []client.ScheduleActionResult{{ActualTime: noon.Add(-time.Hour)}},
	}}, nil
}

func (f *fakeSchedule) Update(_ context.Context, o client.ScheduleUpdateOptions) error {
	f.s.did = append(f.s.did, "update")
	u, err := o.DoUpdate(client.ScheduleUpdateInput{Description: client.ScheduleDescription{Schedule: *f.s.schedule}})
	if err == nil {
		f.s.keep(u.Schedule)
	}
	return err
}

func (f *fakeSchedule) Pause(_ context.Context, o client.SchedulePauseOptions) error {
	f.s.schedule.State = &client.ScheduleState{Paused: true, Note: o.Note}
	return nil
}

func (f *fakeSchedule) Unpause(_ context.Context, o client.ScheduleUnpauseOptions) error {
	f.s.schedule.State = &client.ScheduleState{Note: o.Note}
	return nil
}

func (f *fakeSchedule) Trigger(_ context.Context, o client.ScheduleTriggerOptions) error {
	f.s.did = append(f.s.did, "trigger "+o.Overlap.String())
	return nil
}

func (f *fakeSchedule) Delete(context.Context) error {
	f.s.did = append(f.s.did, "delete")
	f.s.schedule = nil
	return nil
}

func (s *scheduling) run(t *testing.T, args ...string) ran {
	t.Helper()
	var out, errors bytes.Buffer
	code := Main(t.Context(), Options{
		Program: "portcullis", Args: args, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errors,
		LookupEnv: func(name string) (string, bool) {
			return map[string]string{"PORTCULLIS_BY": "sam"}[name], name == "PORTCULLIS_BY"
		},
		Dial:     func(context.Context, client.Options) (client.Client, error) { return s, nil },
		Now:      func() time.Time { return noon },
		Patience: 20 * time.Millisecond, Answer: 500 * time.Millisecond,
	})
	return ran{code, out.String(), errors.String()}
}

// pipelineFile is a pipeline without people and Slack, and with this as its spec.drift.
func pipelineFile(t *testing.T, spec string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "pipeline.yaml")
	text := `
apiVersion: portcullis.dev/v1alpha1
kind: Pipeline
metadata: {name: np}
spec:
  source: {repo: "https://git.example.com/np", branch: main}
  environments:
  - {name: dev, clusters: {matchLabels: {env: dev}}}
  probes:
  - {name: a, from: {namespace: x, selector: "app == 'a'"}, to: {namespace: y, selector: "app == 'b'", port: 80}, expect: allow}
` + spec
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

func TestScheduleApply(t *testing.T) {
	s := &scheduling{fakeTemporal: &fakeTemporal{}}
	daily := pipelineFile(t, `  drift: {schedule: "0 6 * * *", timezone: Europe/Berlin, probes: true}`)
	r := s.run(t, "drift", "schedule", "apply", "-f", daily)
	require.Zero(t, r.code, r.errors)
	require.Equal(t, "drift/np: created\n", r.out)
	o := s.created[0]
	require.Equal(t, "drift/np", o.ID)
	require.Equal(t, []string{"0 6 * * *"}, o.Spec.CronExpressions)
	require.Equal(t, "Europe/Berlin", o.Spec.TimeZoneName)
	require.Equal(t, enumspb.SCHEDULE_OVERLAP_POLICY_SKIP, o.Overlap)

	// Applying again changes nothing, and puts back what was edited beside it; a pause stays.
	require.Equal(t, "drift/np: paused\n", s.run(t, "drift", "schedule", "pause", "np", "--why", "a holiday").out)
	r = s.run(t, "drift", "schedule", "apply", "-f", daily)
	require.Equal(t, "drift/np: unchanged\n", r.out, r.errors)
	require.True(t, s.schedule.State.Paused)
	weekly := pipelineFile(t, `  drift: {schedule: "@weekly"}`)
	require.Equal(t, "drift/np: changed\n", s.run(t, "drift", "schedule", "apply", "-f", weekly).out)
	require.Equal(t, []string{"@weekly"}, s.schedule.Spec.CronExpressions)

	r = s.run(t, "drift", "schedule", "show", "np")
	require.Zero(t, r.code, r.errors)
	require.Contains(t, r.out, "@weekly (UTC)")
	require.Contains(t, r.out, "paused (paused by sam: a holiday)")
	require.Equal(t, "drift/np: resumed\n", s.run(t, "drift", "schedule", "resume", "np").out)
	r = s.run(t, "drift", "schedule", "show", "np", "-o", "json")
	var shown shownSchedule
	require.NoError(t, json.Unmarshal([]byte(r.out), &shown))
	require.Equal(t, "@weekly", shown.Schedule)
	require.False(t, shown.Paused)
	require.Len(t, shown.Next, 1)

	require.Equal(t, "drift/np: triggered\n", s.run(t, "drift", "schedule", "trigger", "np").out)
	// A file without spec.drift removes it.
	none := pipelineFile(t, "")
	require.Equal(t, "drift/np: removed\n", s.run(t, "drift", "schedule", "apply", "-f", none).out)
	require.Contains(t, s.run(t, "drift", "schedule", "apply", "-f", none).out, "there is no schedule")
	for _, verb := range []string{"show", "pause", "resume", "trigger", "remove"} {
		r := s.run(t, "drift", "schedule", verb, "np")
		require.Equal(t, exitNotFound, r.code, verb)
		requireOneLine(t, r.errors)
	}
	require.Equal(t, []string{"create", "update", "update", "trigger BufferOne", "delete"}, s.did)
}

func TestScheduleThatIsNoneOfOurs(t *testing.T) {
	s := &scheduling{fakeTemporal: &fakeTemporal{}}
	s.keep(&client.Schedule{Action: &client.ScheduleWorkflowAction{Workflow: "Other", Args: []any{"x"}}})
	for _, args := range [][]string{{"show", "np"}, {"remove", "np"}, {"apply", "-f", pipelineFile(t, `  drift: {schedule: "@daily"}`)}} {
		r := s.run(t, append([]string{"drift", "schedule"}, args...)...)
		require.Equal(t, exitConflict, r.code, r.errors)
	}
	require.NotNil(t, s.schedule)
}

func auditResult(t *testing.T, state contract.State, names ...string) contract.DriftResult {
	t.Helper()
	c := drift.Cluster{Cluster: "dev-1", Environment: "dev"}
	for _, n := range names {
		c.Findings = append(c.Findings, drift.Finding{Category: drift.Extra, Key: drift.Key{APIVersion: drift.Networking, Kind: "NetworkPolicy", Namespace: "lab", Name: n}})
	}
	c.Settle()
	data, err := drift.Pack([]drift.Cluster{c}, 0)
	require.NoError(t, err)
	return contract.DriftResult{
		Pipeline: "np", State: state, StartedBy: "sam", StartedAt: noon, FinishedAt: noon.Add(time.Second),
		Clusters: map[drift.State]int{c.State: 1}, Findings: c.Counts, Batches: [][]byte{data},
	}
}

func TestAuditEnds(t *testing.T) {
	file := pipelineFile(t, "")
	for state, want := range map[contract.State]int{contract.StateClean: exitOK, contract.StateDrifted: exitNotPassed, contract.StateUnknown: exitUnknown} {
		s := &scheduling{fakeTemporal: &fakeTemporal{results: map[string]any{contract.DriftWorkflow: auditResult(t, state, "x")}}}
		page := filepath.Join(t.TempDir(), "audit.html")
		r := s.run(t, "drift", "audit", "-f", file, "--html", page)
		require.Equal(t, want, r.code, r.errors)
		require.Contains(t, r.out, "extra     NetworkPolicy lab/x")
		require.Equal(t, contract.DriftID("np"), s.started[0].ID)
		require.Equal(t, "sam", s.inputs[0].(contract.DriftInput).StartedBy)
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		require.Contains(t, string(text), "NetworkPolicy lab/x")
	}
}

// A name alone takes the pipeline that its schedule has.
func TestAuditByName(t *testing.T) {
	s := &scheduling{fakeTemporal: &fakeTemporal{results: map[string]any{contract.DriftWorkflow: auditResult(t, contract.StateClean)}}}
	r := s.run(t, "drift", "audit", "np")
	require.Equal(t, exitNotFound, r.code)
	require.Contains(t, r.errors, "drift schedule apply")
	require.Zero(t, s.run(t, "drift", "schedule", "apply", "-f", pipelineFile(t, `  drift: {schedule: "@daily", ignore: [{name: "x*", reason: known}]}`)).code)
	r = s.run(t, "drift", "audit", "np")
	require.Zero(t, r.code, r.errors)
	in := s.inputs[0].(contract.DriftInput)
	require.Equal(t, "known", in.Pipeline.Spec.Drift.Ignore[0].Reason)
	require.Equal(t, "sam", in.StartedBy)
	for _, args := range [][]string{{}, {"np", "-f", "x.yaml"}} {
		require.Equal(t, exitUsage, s.run(t, append([]string{"drift", "audit"}, args...)...).code)
	}
}

func TestReport(t *testing.T) {
	s := &scheduling{fakeTemporal: &fakeTemporal{}, byRun: map[string]contract.DriftResult{
		"run-2": auditResult(t, contract.StateDrifted, "x", "new"), "run-1": auditResult(t, contract.StateDrifted, "x", "old"),
	}}
	r := s.run(t, "drift", "report", "np")
	require.Equal(t, exitNotFound, r.code)
	requireOneLine(t, r.errors)
	entry := func(run string, at time.Time, status enumspb.WorkflowExecutionStatus) *workflowpb.WorkflowExecutionInfo {
		return &workflowpb.WorkflowExecutionInfo{
			Execution: &commonpb.WorkflowExecution{WorkflowId: "drift/np-" + run, RunId: run}, Status: status,
			StartTime: timestamppb.New(at), CloseTime: timestamppb.New(at.Add(time.Second)),
		}
	}
	s.listed = []*workflowpb.WorkflowExecutionInfo{
		entry("run-1", noon.Add(-time.Hour), enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED),
		entry("run-3", noon, enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING),
		entry("run-2", noon.Add(-time.Minute), enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED),
	}
	r = s.run(t, "drift", "report", "np")
	require.Zero(t, r.code, r.errors)
	require.Contains(t, r.out, "run run-2")
	require.Contains(t, s.query, "WorkflowType = 'DriftAudit' AND PortcullisPipeline = 'np'")
	r = s.run(t, "drift", "report", "np", "--since", "previous")
	require.Contains(t, r.out, "since run run-1: 1 new, 0 changed, 1 gone, 1 as they were")
	r = s.run(t, "drift", "report", "np", "--run", "run-1", "--since", "run-2", "-o", "json")
	var d struct {
		RunID string     `json:"runId"`
		News  drift.News `json:"news"`
	}
	require.NoError(t, json.Unmarshal([]byte(r.out), &d))
	require.Equal(t, "run-1", d.RunID)
	require.Equal(t, "old", d.News.New[0].Finding.Name)
	for _, args := range [][]string{{"--run", "run-9"}, {"--run", "run-3"}, {"--since", "run-9"}, {"--run", "run-1", "--since", "previous"}} {
		require.Equal(t, exitNotFound, s.run(t, append([]string{"drift", "report", "np"}, args...)...).code, args)
	}
	r = s.run(t, "drift", "list", "np")
	require.Equal(t, 4, strings.Count(r.out, "\n"), r.out)
}

// A rollout's status says how the last audit of its pipeline ended.
func TestRolloutStatusShowsTheLastAudit(t *testing.T) {
	state, err := converter.GetDefaultDataConverter().ToPayload(string(contract.StateDrifted))
	require.NoError(t, err)
	s := &scheduling{fakeTemporal: &fakeTemporal{status: &contract.RolloutStatus{Pipeline: "np"}}}
	s.status.State = contract.StatePromoting
	require.NotContains(t, s.run(t, "rollout", "status", "np").out, "last audit")
	s.listed = []*workflowpb.WorkflowExecutionInfo{{
		Execution: &commonpb.WorkflowExecution{RunId: "run-1"}, Status: enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED,
		CloseTime:        timestamppb.New(noon.Add(-2 * time.Hour)),
		SearchAttributes: &commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{contract.AttrState.GetName(): state}},
	}}
	require.Contains(t, s.run(t, "rollout", "status", "np").out, "last audit: drifted, 2h00m ago; portcullis drift report np")
	require.Contains(t, s.run(t, "rollout", "status", "np", "-o", "json").out, `"runId": "run-1"`)
}
