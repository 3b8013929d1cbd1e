package cli

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"google.golang.org/protobuf/types/known/timestamppb"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/source"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/contract"
)

var revision = strings.Repeat("1a", 20)

func plan() contract.RolloutPlan {
	return contract.RolloutPlan{Pipeline: "network-policies", Revision: source.Revision{Commit: revision, Subject: "Let web in"}}
}

func already() error {
	return serviceerror.NewWorkflowExecutionAlreadyStarted("already", "req", "run-1")
}

func runningStatus() *contract.RolloutStatus {
	p := plan()
	return &contract.RolloutStatus{Pipeline: "network-policies", RolloutState: contract.RolloutState{
		State: contract.StateSoaking, StartedBy: "alex", StartedAt: noon.Add(-12 * 60e9), Plan: &p,
	}}
}

func answering(plan any) func(string, []any) (any, error) {
	return func(name string, _ []any) (any, error) {
		if name == contract.UpdatePlanned {
			return plan, nil
		}
		return nil, nil
	}
}

func TestStartShowsThePlan(t *testing.T) {
	f := &fakeTemporal{updates: answering(plan())}
	r := run(t, f, "rollout", "start", "-f", goodPipeline, "--revision", "v1")
	require.Zero(t, r.code, r.errors)
	require.Contains(t, r.out, revision)
	require.Contains(t, r.out, "rollout/network-policies, run run-1")

	o, in := f.started[0], f.inputs[0].(contract.RolloutInput)
	require.Equal(t, "rollout/network-policies", o.ID)
	require.Equal(t, "roll out network-policies: v1", o.StaticSummary)
	require.Contains(t, o.StaticDetails, "dev → staging → prod")
	require.Equal(t, "sam", in.StartedBy)
	require.Equal(t, "v1", in.Ref)
	require.False(t, in.AfterRollback)
	state, _ := o.TypedSearchAttributes.GetKeyword(contract.AttrState)
	require.Equal(t, string(contract.StatePlanning), state)
}

func TestStartAsJSON(t *testing.T) {
	r := run(t, &fakeTemporal{updates: answering(plan())}, "rollout", "start", "-f", goodPipeline, "-o", "json")
	require.Zero(t, r.code)
	var out struct {
		RunID string
		Plan  contract.RolloutPlan
	}
	require.NoError(t, json.Unmarshal([]byte(r.out), &out))
	require.Equal(t, revision, out.Plan.Revision.Commit)
	require.Equal(t, "run-1", out.RunID)
}

func TestSecondStartIsRefusedAndNamesTheFirst(t *testing.T) {
	f := &fakeTemporal{startErrors: []error{already()}, status: runningStatus()}
	r := run(t, f, "rollout", "start", "-f", goodPipeline)
	require.Equal(t, exitConflict, r.code)
	requireOneLine(t, r.errors)
	for _, part := range []string{"run-1", revision[:12], "soaking", "alex", "12m00s ago", "--supersede"} {
		require.Contains(t, r.errors, part)
	}
}

func TestSupersedeEndsTheFirstAndThenStarts(t *testing.T) {
	f := &fakeTemporal{startErrors: []error{already()}, updates: answering(plan())}
	r := run(t, f, "rollout", "start", "-f", goodPipeline, "--supersede")
	require.Zero(t, r.code, r.errors)
	require.Equal(t, []string{"start Rollout", "update abort", "get Rollout", "start Rollout", "update planned"}, f.calls)
	require.True(t, f.inputs[0].(contract.RolloutInput).AfterRollback, "ending the first may have held the pipeline")
}

func TestRefusedPlansEndWithTheirOwnCode(t *testing.T) {
	for want, err := range map[int]error{
		exitInvalid: errs.Invalid("lint"), exitNotFound: errs.NotFound("no such revision"), exitHeld: errs.Held("held"),
		exitDenied: errs.Denied("token"), exitConflict: errs.Conflict("branch and revision are both set"), exitUnavailable: errs.Deadline("git"),
	} {
		f := &fakeTemporal{updates: func(string, []any) (any, error) { return nil, err }}
		r := run(t, f, "rollout", "start", "-f", goodPipeline)
		require.Equal(t, want, r.code)
		require.Equal(t, "portcullis: "+errs.Message(err)+"\n", r.errors)
		require.Empty(t, r.out)
	}
}

// A workflow that nobody picks up must not lie in wait: it is taken back.
func TestWithoutADaemonNothingIsLeftBehind(t *testing.T) {
	for name, args := range map[string][]string{
		"start": {"rollout", "start", "-f", goodPipeline}, "plan": {"rollout", "plan", "-f", goodPipeline},
		"clusters": {"clusters"}, "probe": {"probe", "-f", goodPipeline}, "agent": {"agent", "status"}, "release": {"rollout", "release", "x"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fakeTemporal{unattended: true}
			r := run(t, f, args...)
			require.Equal(t, exitUnavailable, r.code)
			requireOneLine(t, r.errors)
			require.Contains(t, r.errors, `no Portcullis server is polling task queue "portcullis" at 127.0.0.1:7233`)
			require.Contains(t, f.calls, "terminate "+f.started[0].ID)
		})
	}
}

// What an interrupted command has started is cancelled, also where the interruption comes
// before Temporal's answer to the start. Temporal's client has a Canceled of its own.
func TestInterruptedOperationIsCancelled(t *testing.T) {
	for name, c := range map[string]struct {
		starting func(ctx context.Context, interrupt func()) error
		started  bool
	}{
		"while it runs": {func(_ context.Context, interrupt func()) error {
			time.AfterFunc(20*time.Millisecond, interrupt)
			return nil
		}, true},
		"before the answer to the start": {func(ctx context.Context, interrupt func()) error {
			interrupt()
			time.Sleep(20 * time.Millisecond)
			return ctx.Err()
		}, true},
		"with no answer to the start": {func(ctx context.Context, interrupt func()) error {
			interrupt()
			<-ctx.Done()
			return serviceerror.NewCanceled("context canceled")
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, interrupt := context.WithCancel(t.Context())
			f := &fakeTemporal{deaf: true, starting: func(ctx context.Context) error { return c.starting(ctx, interrupt) }}
			r := runIn(ctx, t, f, "preflight", "prod")
			require.Equal(t, exitInterrupted, r.code, r.errors)
			require.Equal(t, "portcullis: interrupted\n", r.errors)
			cancelled := slices.ContainsFunc(f.calls, func(call string) bool { return strings.HasPrefix(call, "cancel preflight/") })
			require.Equal(t, c.started, cancelled, f.calls)
		})
	}
}

// An order that nobody answers may be carried out when a daemon comes back: whoever
// gave it is told so, and not that nothing came of it.
func TestOrdersWithoutAnAnswerMayBeCarriedOut(t *testing.T) {
	for why, f := range map[string]*fakeTemporal{
		`no Portcullis server is polling task queue "portcullis" at 127.0.0.1:7233: start one with ` + "`portcullis server`": {unattended: true},
		"did not answer within 500ms": {deaf: true},
	} {
		for group, name := range map[string]string{"rollout": "x", "migrate": "prod"} {
			for _, order := range []string{contract.UpdateAbort, contract.UpdateApprove} {
				args := []string{group, order, name}
				if order == contract.UpdateApprove {
					args = append(args, "--evidence", "0123456789ab")
				}
				t.Run(strings.Join(args, " "), func(t *testing.T) {
					t.Parallel()
					r := run(t, f, args...)
					require.Equal(t, exitUnavailable, r.code)
					requireOneLine(t, r.errors)
					require.Contains(t, r.errors, why+"; the order to "+order+" may have been delivered all the same, and is then carried out once a server runs: `portcullis "+
						group+" status "+name+"` shows whether it was")
				})
			}
		}
	}
}

// What was refused was not taken: nothing is said of what may come.
func TestOrdersThatAreRefusedAreNotOpen(t *testing.T) {
	f := &fakeTemporal{updates: func(string, []any) (any, error) { return nil, errs.Conflict("it is over") }}
	require.Equal(t, "portcullis: it is over\n", run(t, f, "migrate", "abort", "prod").errors)
}

func TestOrdersCarryWhoAndWhy(t *testing.T) {
	for _, verb := range []string{"pause", "resume", "abort"} {
		var got any
		f := &fakeTemporal{status: runningStatus(), updates: func(_ string, args []any) (any, error) { got = args[0]; return nil, nil }}
		r := run(t, f, "rollout", verb, "network-policies", "--why", "lunch", "--by", "kim")
		require.Zero(t, r.code, r.errors)
		require.Equal(t, contract.Order{By: "kim", Why: "lunch", Via: contract.ViaCLI, Known: contract.KnownSaid}, got)
		require.Equal(t, []string{"update " + verb}, f.calls)
	}
}

func TestApprovalNamesTheEvidence(t *testing.T) {
	var got any
	f := &fakeTemporal{status: runningStatus(), updates: func(_ string, args []any) (any, error) { got = args[0]; return nil, nil }}
	require.Zero(t, run(t, f, "rollout", "approve", "network-policies", "--evidence", "0123456789ab", "--why", "seen").code)
	require.Equal(t, contract.Decision{By: "sam", Why: "seen", Evidence: "0123456789ab", Via: contract.ViaCLI, Known: contract.KnownSaid}, got)
	require.Zero(t, run(t, f, "rollout", "approve", "network-policies", "--environment", "prod", "--evidence", "0123456789ab").code)
	require.Equal(t, "prod", got.(contract.Decision).Environment)

	f.updates = func(string, []any) (any, error) { return nil, errs.Conflict("the evidence has changed") }
	require.Equal(t, exitConflict, run(t, f, "rollout", "approve", "network-policies", "--evidence", "0123456789ab").code)
	f.updates = func(string, []any) (any, error) { return nil, serviceerror.NewNotFound("workflow has ended") }
	require.Equal(t, exitNotFound, run(t, f, "rollout", "approve", "network-policies", "--evidence", "0123456789ab").code)
}

func TestRefusedApprovalsHaveCodesOfTheirOwn(t *testing.T) {
	for want, err := range map[int]error{
		exitApproved: errs.Approved("sam has approved prod already"), exitLate: errs.Late("the gate of prod was opened"),
		exitNotEntitled: errs.NotEntitled("sam may not approve prod"), exitInvalid: errs.Invalid("by is empty"),
	} {
		f := &fakeTemporal{updates: func(string, []any) (any, error) { return nil, err }}
		r := run(t, f, "rollout", "approve", "x", "--evidence", "0123456789ab")
		require.Equal(t, want, r.code)
		require.Equal(t, "portcullis: "+errs.Message(err)+"\n", r.errors)
	}
}

// Who votes when all is over is told how it ended, and not that there never was anything.
func TestVotesAfterTheEndAreLate(t *testing.T) {
	f := &fakeTemporal{
		closed:  true,
		updates: func(string, []any) (any, error) { return nil, serviceerror.NewNotFound("workflow has ended") },
		results: map[string]any{contract.RolloutWorkflow: contract.RolloutResult{State: contract.StateRejected, Reason: "rejected by kim"}},
	}
	r := run(t, f, "rollout", "approve", "x", "--evidence", "0123456789ab")
	require.Equal(t, exitLate, r.code)
	require.Equal(t, "portcullis: the rollout of x is over since 2026-03-01T12:00:00Z: rejected: rejected by kim\n", r.errors)
	require.Equal(t, exitNotFound, run(t, f, "rollout", "abort", "x").code)
}

func auditLog() contract.Audit {
	return contract.Audit{Dropped: 3, Entries: []contract.AuditEntry{
		{At: noon, What: contract.AuditStart, By: "alex", Via: contract.ViaCLI, Known: contract.KnownAccount},
		{At: noon.Add(time.Minute), What: contract.UpdateApprove, Environment: "prod", By: "sam", Via: contract.ViaSlack, Known: contract.KnownSlack,
			Why: "seen in\nstaging", Evidence: strings.Repeat("50ce69b5ca6d", 5)},
		{At: noon.Add(2 * time.Minute), What: contract.UpdateApprove, Environment: "prod", By: "kim", Via: contract.ViaUnknown, Known: contract.KnownSaid,
			Refused: "kim may not approve prod", Type: errs.TypeNotEntitled},
	}}
}

func TestAuditLog(t *testing.T) {
	listed := func(status enumspb.WorkflowExecutionStatus, id string) *workflowpb.WorkflowExecutionInfo {
		return &workflowpb.WorkflowExecutionInfo{
			Execution: &commonpb.WorkflowExecution{WorkflowId: "rollout/x", RunId: id}, Status: status,
			StartTime: timestamppb.New(noon), CloseTime: timestamppb.New(noon),
		}
	}
	f := &fakeTemporal{
		listed: []*workflowpb.WorkflowExecutionInfo{
			listed(enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, "run-3"), listed(enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED, "run-2"),
		},
		status:  &contract.RolloutStatus{RolloutState: contract.RolloutState{State: contract.StateSoaking, Audit: auditLog()}},
		results: map[string]any{contract.RolloutWorkflow: contract.RolloutResult{State: contract.StateVerified}},
	}
	r := run(t, f, "rollout", "audit", "x")
	require.Zero(t, r.code, r.errors)
	require.Equal(t, "WorkflowType = 'Rollout' AND ExecutionStatus != 'ContinuedAsNew' AND PortcullisPipeline = 'x'", f.query)
	require.Equal(t, `x: run run-3, soaking
  3 older decisions are left out
  AT                    WHAT     ENVIRONMENT  BY    VIA      KNOWN BY  EVIDENCE      WHY
  2026-03-01T12:00:00Z  start    -            alex  cli      account   -             
  2026-03-01T12:01:00Z  approve  prod         sam   slack    slack     50ce69b5ca6d  seen in staging
  2026-03-01T12:02:00Z  approve  prod         kim   unknown  said      -             refused: kim may not approve prod

x: run run-2, verified
  not known: it began under a Portcullis that kept no audit log
`, r.out)

	r = run(t, f, "rollout", "audit", "x", "-o", "json")
	var out struct {
		Pipeline string
		Rollouts []audited
	}
	require.NoError(t, json.Unmarshal([]byte(r.out), &out))
	require.Equal(t, auditLog(), out.Rollouts[0].Audit)
	require.NotEmpty(t, out.Rollouts[1].Unknown)

	f.status = nil
	require.Contains(t, run(t, f, "rollout", "audit", "x").out, "  not known: ")
	f.listed = nil
	r = run(t, f, "rollout", "audit", "x")
	require.Equal(t, exitNotFound, r.code)
	requireOneLine(t, r.errors)
	require.Equal(t, exitUsage, run(t, nil, "rollout", "audit", "x", "--limit", "0").code)
}

func TestWatchEndsWithTheRolloutsResult(t *testing.T) {
	for _, c := range []struct {
		mode  contract.Mode
		state contract.State
		want  int
	}{
		{contract.ModePromote, contract.StateVerified, exitOK},
		{contract.ModePromote, contract.StateRolledBack, exitNotPassed},
		{contract.ModePromote, contract.StateRejected, exitNotPassed},
		{contract.ModePromote, contract.StateAborted, exitNotPassed},
		{contract.ModePromote, contract.StateFailed, exitNotPassed},
		{contract.ModeRollback, contract.StateRolledBack, exitOK},
	} {
		f := &fakeTemporal{closed: true, results: map[string]any{contract.RolloutWorkflow: contract.RolloutResult{
			Pipeline: "x", Mode: c.mode, State: c.state, Revision: revision, Reason: "because",
		}}}
		r := run(t, f, "rollout", "watch", "x")
		require.Equal(t, c.want, r.code, "%+v", c)
		require.Contains(t, r.out, string(c.state))
	}
}

func TestStatusOfWhatIsNotThere(t *testing.T) {
	r := run(t, &fakeTemporal{missing: true}, "rollout", "status", "x")
	require.Equal(t, exitNotFound, r.code)
	requireOneLine(t, r.errors)
}

func TestStatusWithoutAnAnswerShowsWhatTemporalKnows(t *testing.T) {
	r := run(t, &fakeTemporal{}, "rollout", "status", "x")
	require.Zero(t, r.code)
	require.Contains(t, r.out, "no Portcullis server answers")
}

func TestListAsksTheIndex(t *testing.T) {
	f := &fakeTemporal{}
	require.Zero(t, run(t, f, "rollout", "list", "--pipeline", "o'neil", "--running").code)
	require.Equal(t, "WorkflowType = 'Rollout' AND ExecutionStatus != 'ContinuedAsNew' AND PortcullisPipeline = 'o''neil' AND ExecutionStatus = 'Running'", f.query)
}

func TestProbesThatFailAreNoSuccess(t *testing.T) {
	f := &fakeTemporal{results: map[string]any{contract.ProbeWorkflow: contract.ProbeResult{}}}
	require.Equal(t, exitNotPassed, run(t, f, "probe", "-f", goodPipeline).code)
	require.Zero(t, run(t, f, "probe", "-f", goodPipeline, "--baseline").code)
}

func TestAgentErrorsHaveTheirType(t *testing.T) {
	f := &fakeTemporal{results: map[string]any{contract.AgentWorkflow: contract.AgentResult{Clusters: map[string]contract.ClusterAgents{
		"dev": {}, "prod": {Error: "no permission", ErrorType: errs.TypeDenied},
	}}}}
	r := run(t, f, "agent", "install", "--all")
	require.Equal(t, exitDenied, r.code)
	require.Contains(t, r.errors, "prod: no permission")
	require.Contains(t, r.out, "not installed")
}

func TestClusters(t *testing.T) {
	f := &fakeTemporal{results: map[string]any{contract.InventoryWorkflow: contract.InventoryResult{Clusters: []rancher.Cluster{
		{Name: "dev", ID: "c-1", Connected: true, Labels: map[string]string{"env": "dev", "management.cattle.io/cluster-name": "c-1"}, AgentLastSeen: noon.Add(-90e9)},
	}}}}
	r := run(t, f, "clusters")
	require.Zero(t, r.code)
	require.Contains(t, r.out, "dev   c-1  yes        1m30s ago   env=dev")
}
