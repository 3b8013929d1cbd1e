package replay

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/temporalproto"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/internal/harness"
	"portcullis.dev/portcullis/workflows/internal/world"
)

// recorded are the workflow types that must have a recorded history.
var recorded = []string{
	contract.RolloutWorkflow, contract.PromoteWorkflow, contract.VerifyWorkflow, contract.PlanWorkflow,
	contract.ProbeWorkflow, contract.InventoryWorkflow, contract.AgentWorkflow, contract.HoldWorkflow,
	contract.PreflightWorkflow,
	contract.PlanMigrationWorkflow, contract.MigrateWorkflow, contract.MigrateNodeWorkflow,
	contract.SlackWorkflow, contract.NoticeWorkflow,
	contract.DriftWorkflow, contract.CorrectionWorkflow,
}

// limit bounds one scenario.
const limit = 2 * time.Minute

// scenario is one story whose histories are kept.
type scenario struct {
	// id is the workflow's; that of the rollout where it is empty.
	id       string
	workflow string
	// nodes are those of the cluster that is migrated; a star is of the control plane.
	nodes   []string
	input   func(w *world.World) any
	arrange func(s *stage)
	// during runs beside the workflow.
	during func(s *stage)
	// fails: the workflow is to end in an error.
	fails bool
	// only names the types of workflow that are kept; all where it is empty.
	only []string
}

func (sc scenario) keeps(kind string) bool {
	return len(sc.only) == 0 || slices.Contains(sc.only, kind)
}

// stage is where a scenario is played.
type stage struct {
	ctx context.Context
	t   *testing.T
	c   client.Client
	w   *world.World
	run client.WorkflowRun
	// first is the run with which it began.
	first string

	mu    sync.Mutex
	hooks []*hook
}

// hook is something that happens once, in an activity.
type hook struct {
	call string
	f    func(ctx context.Context) error
}

// scenarios are all stories, by name.
func scenarios() map[string]scenario {
	all := rollouts()
	maps.Copy(all, migrations())
	return all
}

func rollouts() map[string]scenario {
	rollout := func(change func(*contract.RolloutInput)) func(*world.World) any {
		return func(w *world.World) any {
			in := contract.RolloutInput{Pipeline: w.Pipeline, StartedBy: "ann"}
			if change != nil {
				change(&in)
			}
			return in
		}
	}
	bad := func(prefix string) func(*stage) {
		return func(s *stage) {
			s.w.Bad = func(cluster, revision string) bool {
				return revision == world.New && strings.HasPrefix(cluster, prefix)
			}
		}
	}
	checked := func(w *world.World) any {
		for i := range w.Pipeline.Spec.Environments {
			w.Pipeline.Spec.Environments[i].Gate.Preflight = true
		}
		return contract.RolloutInput{Pipeline: w.Pipeline, StartedBy: "ann"}
	}
	ruled := func(w *world.World) any {
		w.Pipeline.Spec.People = []contract.Person{{Name: "ann"}, {Name: "bob", Slack: "U0BOB"}, {Name: "dev", Git: []string{"dev@example.com"}}}
		for i := range w.Pipeline.Spec.Environments {
			if gate := &w.Pipeline.Spec.Environments[i].Gate; gate.Approvals.Required > 0 {
				gate.Approvals = rancher.Approvals{
					Required: 2, From: rancher.Approvers{People: []string{"bob", "dev"}, Groups: []string{"S0OPS"}},
					Exclude: []rancher.Exclusion{rancher.ExcludeStarter, rancher.ExcludeAuthor},
				}
			}
		}
		return contract.RolloutInput{Pipeline: w.Pipeline, StartedBy: "ann", Via: contract.ViaCLI, Known: contract.KnownAccount}
	}
	return map[string]scenario{
		"pass": {workflow: contract.RolloutWorkflow, input: rollout(nil), during: func(s *stage) {
			s.update(contract.UpdatePlanned, nil)
			s.approve()
		}},
		"bad-in-dev": {workflow: contract.RolloutWorkflow, input: rollout(nil), arrange: bad("dev")},
		"bad-in-prod-scope-rollout": {workflow: contract.RolloutWorkflow, arrange: bad("prod"), during: (*stage).approve,
			input: func(w *world.World) any {
				w.Pipeline.Spec.Rollback.Scope = contract.ScopeRollout
				return contract.RolloutInput{Pipeline: w.Pipeline, StartedBy: "ann"}
			}},
		"preflight-passes": {workflow: contract.RolloutWorkflow, input: checked, during: (*stage).approve},
		"preflight-fails": {workflow: contract.RolloutWorkflow, input: checked, during: (*stage).approve,
			// The world asks about a preflight with no revision.
			arrange: func(s *stage) {
				s.w.Bad = func(cluster, revision string) bool { return revision == "" && strings.HasPrefix(cluster, "prod") }
			}},
		"rejected": {workflow: contract.RolloutWorkflow, input: rollout(nil), during: func(s *stage) {
			s.gate()
			s.update(contract.UpdateReject, contract.Decision{By: "bob", Why: "not on a Friday"})
		}},
		"approved-by-the-rules": {workflow: contract.RolloutWorkflow, input: ruled, only: []string{contract.RolloutWorkflow},
			arrange: func(s *stage) { s.w.SetGroup("S0OPS", "U0EVE") },
			during: func(s *stage) {
				for _, by := range []string{"bob", "U0EVE"} {
					s.update(contract.UpdateApprove, contract.Decision{By: by, Evidence: s.gate().Evidence.Hash, Via: contract.ViaSlack, Known: contract.KnownSlack})
				}
			}},
		"no-group-known": {workflow: contract.RolloutWorkflow, input: ruled, only: []string{contract.RolloutWorkflow},
			during: func(s *stage) {
				s.gate()
				s.update(contract.UpdateReject, contract.Decision{By: "ann", Why: "nobody answers"})
			}},
		"paused-and-resumed": {workflow: contract.RolloutWorkflow, input: rollout(nil),
			arrange: func(s *stage) { s.hang("Settle", "policies-staging", 2*time.Second) },
			during: func(s *stage) {
				s.await("Settle policies-staging")
				s.update(contract.UpdatePause, contract.Order{By: "bob"})
				time.Sleep(3 * time.Second)
				s.update(contract.UpdateResume, contract.Order{By: "bob"})
				s.approve()
			}},
		"aborted-while-soaking": {workflow: contract.RolloutWorkflow, input: rollout(nil),
			arrange: func(s *stage) { s.hang("Measure soak", "staging", time.Minute) },
			during: func(s *stage) {
				s.await("Measure soak staging")
				s.update(contract.UpdateAbort, contract.Order{By: "bob", Why: "smells"})
			}},
		"refused": {workflow: contract.RolloutWorkflow, fails: true, input: rollout(func(in *contract.RolloutInput) { in.Ref = "nope" })},
		"rollback-by-hand": {workflow: contract.RolloutWorkflow, input: rollout(func(in *contract.RolloutInput) {
			in.Mode, in.Reason = contract.ModeRollback, "users complain"
		})},
		"shown-in-slack": {workflow: contract.RolloutWorkflow, only: []string{contract.RolloutWorkflow, contract.PromoteWorkflow, contract.SlackWorkflow},
			input: func(w *world.World) any {
				w.Pipeline.Spec.Slack = &contract.Slack{Channel: "C0GATES"}
				return contract.RolloutInput{Pipeline: w.Pipeline, StartedBy: "ann"}
			},
			during: func(s *stage) {
				s.approve()
				s.await("SlackLines")
			}},
		"plan": {workflow: contract.PlanWorkflow, input: rollout(nil)},
		"probe": {workflow: contract.ProbeWorkflow, input: func(w *world.World) any {
			return contract.ProbeInput{Pipeline: w.Pipeline}
		}},
		"inventory": {workflow: contract.InventoryWorkflow, input: func(*world.World) any { return contract.InventoryInput{} }},
		"agent": {workflow: contract.AgentWorkflow, input: func(*world.World) any {
			return contract.AgentInput{Action: contract.AgentInstall, All: true}
		}},
		"preflight": {workflow: contract.PreflightWorkflow, input: func(*world.World) any {
			return contract.PreflightInput{All: true}
		}},
		"plan-migration": {workflow: contract.PlanMigrationWorkflow, input: func(*world.World) any {
			return contract.PlanMigrationInput{Cluster: "dev-0-0"}
		}},
		"drift": {workflow: contract.DriftWorkflow,
			input: func(w *world.World) any {
				w.Pipeline.Spec.Drift = &contract.Drift{Probes: true, Ignore: []contract.DriftIgnore{{Name: "known*", Reason: "a test"}}}
				return contract.DriftInput{Pipeline: w.Pipeline, StartedBy: "ann"}
			},
			arrange: func(s *stage) {
				s.w.Drifting = map[string]string{"dev-0-0": "x", "prod-1-1": "known-1"}
				s.w.Moving = map[string]string{"policies-staging-wave0": "a rollout has staged it"}
			}},
		"drift-scheduled": {workflow: contract.DriftWorkflow, only: []string{contract.DriftWorkflow, contract.NoticeWorkflow},
			input: func(w *world.World) any {
				w.Pipeline.Spec.Slack = &contract.Slack{Channel: "C0GATES"}
				w.Pipeline.Spec.Drift = &contract.Drift{Correct: &contract.DriftCorrect{Approvals: 1}}
				return contract.DriftInput{Pipeline: w.Pipeline, StartedBy: contract.StartedBySchedule}
			},
			arrange: func(s *stage) { s.w.Gone = map[string]string{"dev-0-0": "x"} },
			during:  func(s *stage) { s.await("SlackLines") }},
		"drift-corrected": {workflow: contract.CorrectionWorkflow, id: contract.CorrectionID("policies"), only: []string{contract.CorrectionWorkflow},
			input: func(w *world.World) any {
				w.Pipeline.Spec.Slack = &contract.Slack{Channel: "C0GATES"}
				w.Pipeline.Spec.Drift = &contract.Drift{Correct: &contract.DriftCorrect{Approvals: 1, Timeout: metav1.Duration{Duration: time.Hour}}}
				return contract.CorrectionInput{Pipeline: w.Pipeline, StartedBy: "ann"}
			},
			arrange: func(s *stage) { s.w.Gone = map[string]string{"dev-0-0": "x", "prod-0-0": "x"} },
			during:  (*stage).approve},
		"hold": {workflow: contract.HoldWorkflow, input: func(*world.World) any {
			return contract.HoldInput{Pipeline: "policies", Reason: "holiday", By: "ann"}
		}},
	}
}

// TestRecord plays every scenario on a server and keeps the histories.
func TestRecord(t *testing.T) {
	if *record == "" {
		t.Skip("no server given with -record")
	}
	c := dial(t)
	for name, sc := range scenarios() {
		t.Run(name, func(t *testing.T) {
			w := world.Make(
				world.Env{Name: "dev"},
				world.Env{Name: "staging", Soak: 2 * time.Second},
				world.Env{Name: "prod", Waves: []int{1, 2}, Approval: 1},
			)
			histories := play(t, c, w, sc)
			stamp := time.Now().UTC().Format("20060102")
			forget(t, stamp+"."+name)
			for i, h := range histories {
				kind := h.Events[0].GetWorkflowExecutionStartedEventAttributes().GetWorkflowType().GetName()
				if !sc.keeps(kind) {
					continue
				}
				write(t, fmt.Sprintf("testdata/%s.%s.%02d.%s.json.gz", stamp, name, i, kind), h)
			}
		})
	}
}

// TestScale rolls out to a thousand clusters and counts events.
func TestScale(t *testing.T) {
	if *record == "" {
		t.Skip("no server given with -record")
	}
	const clusters = 1000
	for name, waves := range map[string][]int{"one unit": {clusters}, "units of fifty": slices.Repeat([]int{50}, 20)} {
		t.Run(name, func(t *testing.T) {
			w := world.Make(world.Env{Name: "all", Waves: waves, Approval: 1})
			sc := scenario{
				workflow: contract.RolloutWorkflow,
				input: func(w *world.World) any {
					return contract.RolloutInput{Pipeline: w.Pipeline, StartedBy: "ann"}
				},
				during: (*stage).approve,
			}
			begun := time.Now()
			for _, h := range play(t, dial(t), w, sc) {
				start := h.Events[0].GetWorkflowExecutionStartedEventAttributes()
				n, size := len(h.Events), 0
				for _, e := range h.Events {
					size += e.Size()
				}
				t.Logf("%s: %d events, %d bytes", start.GetWorkflowType().GetName(), n, size)
				of := clusters
				if start.GetWorkflowType().GetName() == contract.VerifyWorkflow {
					of = strings.Count(start.GetInput().GetPayloads()[0].String(), "c-all-")
				}
				if n > mostEvents || n > mostPerCluster*of {
					t.Errorf("%d events for %d clusters", n, of)
				}
			}
			t.Logf("took %s", time.Since(begun))
		})
	}
}

func dial(t *testing.T) client.Client {
	t.Helper()
	c, err := client.Dial(client.Options{HostPort: *record, Identity: "recorder", Logger: harness.Quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	// One by one: of several, none is added where one is there.
	for _, key := range []interface{ GetName() string }{
		contract.AttrPipeline, contract.AttrEnvironment, contract.AttrRevision, contract.AttrState, contract.AttrCluster,
	} {
		_, err = c.OperatorService().AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{
			Namespace:        client.DefaultNamespace,
			SearchAttributes: map[string]enumspb.IndexedValueType{key.GetName(): enumspb.INDEXED_VALUE_TYPE_KEYWORD},
		})
		var exists *serviceerror.AlreadyExists
		if err != nil && !errors.As(err, &exists) {
			t.Fatal(err)
		}
	}
	return c
}

// play runs a scenario with a worker of its own and returns the histories of
// its workflow and all children.
func play(t *testing.T, c client.Client, w *world.World, sc scenario) []*historypb.History {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	queue := fmt.Sprintf("record-%d", time.Now().UnixNano())
	// A cancellation comes with the answer to a heartbeat.
	wk := worker.New(c, queue, worker.Options{MaxHeartbeatThrottleInterval: 500 * time.Millisecond})
	workflows.Register(wk)
	w.Register(wk)
	if err := wk.Start(); err != nil {
		t.Fatal(err)
	}
	defer wk.Stop()
	s := &stage{ctx: ctx, t: t, c: c, w: w}
	if len(sc.nodes) > 0 {
		w.MakeCanal(migrated, sc.nodes...)
	}
	if sc.arrange != nil {
		sc.arrange(s)
	}
	var err error
	s.run, err = c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: cmp.Or(sc.id, contract.RolloutID("policies")), TaskQueue: queue, WorkflowExecutionTimeout: limit,
	}, sc.workflow, sc.input(w))
	if err != nil {
		t.Fatal(err)
	}
	s.first = s.run.GetRunID()
	if sc.during != nil {
		sc.during(s)
	}
	if err := s.run.Get(ctx, nil); (err != nil) != sc.fails {
		t.Fatalf("ended with %v", err)
	}
	return s.histories(s.run.GetID(), s.first)
}

func (s *stage) histories(id, run string) []*historypb.History {
	h := &historypb.History{}
	out := []*historypb.History{h}
	it := s.c.GetWorkflowHistory(s.ctx, id, run, false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for it.HasNext() {
		e, err := it.Next()
		if err != nil {
			s.t.Fatal(err)
		}
		h.Events = append(h.Events, e)
		if child := e.GetChildWorkflowExecutionStartedEventAttributes(); child != nil {
			out = append(out, s.histories(child.GetWorkflowExecution().GetWorkflowId(), child.GetWorkflowExecution().GetRunId())...)
		}
		if next := e.GetWorkflowExecutionContinuedAsNewEventAttributes(); next != nil {
			out = append(out, s.histories(id, next.GetNewExecutionRunId())...)
		}
	}
	return out
}

func (s *stage) update(name string, arg any) {
	args := []any{arg}
	if arg == nil {
		args = nil
	}
	h, err := s.c.UpdateWorkflow(s.ctx, client.UpdateWorkflowOptions{
		WorkflowID: s.run.GetID(), UpdateName: name, Args: args, WaitForStage: client.WorkflowUpdateStageCompleted,
	})
	if err == nil {
		err = h.Get(s.ctx, nil)
	}
	if err != nil {
		s.t.Errorf("update %s: %v", name, err)
	}
}

// gate waits for the gate to open its vote, and returns it.
func (s *stage) gate() contract.GateState {
	for {
		v, err := s.c.QueryWorkflow(s.ctx, s.run.GetID(), s.run.GetRunID(), contract.QueryStatus)
		if err != nil {
			s.t.Fatal(err)
		}
		var status contract.RolloutStatus
		if err := v.Get(&status); err != nil {
			s.t.Fatal(err)
		}
		if status.Gate != nil {
			return *status.Gate
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (s *stage) approve() {
	s.update(contract.UpdateApprove, contract.Decision{By: "bob", Evidence: s.gate().Evidence.Hash})
}

// await waits until the world saw the call.
func (s *stage) await(call string) {
	for s.ctx.Err() == nil {
		for _, c := range s.w.Calls() {
			if strings.HasPrefix(c, call) {
				return
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.t.Fatalf("%s was never called", call)
}

// hang makes an activity take its time, heartbeating, unless it is cancelled.
func (s *stage) hang(name, subject string, d time.Duration) {
	s.on(name+" "+subject, func(ctx context.Context) error {
		end := time.After(d)
		for {
			activity.RecordHeartbeat(ctx, "waiting")
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-end:
				return nil
			case <-time.After(200 * time.Millisecond):
			}
		}
	})
}

// on runs f in the first activity whose name and subject begin with call.
func (s *stage) on(call string, f func(ctx context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hooks = append(s.hooks, &hook{call, f})
	s.w.Hook = s.hook
}

func (s *stage) hook(ctx context.Context, name, subject string) error {
	s.mu.Lock()
	i := slices.IndexFunc(s.hooks, func(h *hook) bool { return strings.HasPrefix(name+" "+subject, h.call) })
	if i < 0 {
		s.mu.Unlock()
		return nil
	}
	found := s.hooks[i]
	s.hooks = slices.Delete(s.hooks, i, i+1)
	s.mu.Unlock()
	return found.f(ctx)
}

// forget removes what was recorded of a scenario earlier on the same day.
func forget(t *testing.T, prefix string) {
	t.Helper()
	old, err := filepath.Glob("testdata/" + prefix + ".*.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range old {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
}

func write(t *testing.T, file string, h *historypb.History) {
	t.Helper()
	raw, err := temporalproto.CustomJSONMarshalOptions{}.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	if _, err := z.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, buf.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
