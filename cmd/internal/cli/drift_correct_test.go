package cli

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/serviceerror"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/rancher/drift"
	"portcullis.dev/portcullis/workflows/contract"
)

const corrects = `  drift: {schedule: "@daily", correct: {approvals: 2, timeout: 24h}}`

func waitingCorrection() *contract.CorrectionStatus {
	s := &contract.CorrectionStatus{Pipeline: "np"}
	s.State, s.StartedBy, s.StartedAt, s.Left = contract.StateApproval, "schedule", noon, 1
	s.Units = []contract.CorrectionUnit{{
		Environment: "prod", GitRepo: "np-prod", Clusters: 3, State: contract.StatePending, Fix: drift.Fix{Findings: 2, Clusters: []string{"prod-1", "prod-2"}},
	}}
	s.Briefs = []drift.Brief{
		{Cluster: "prod-1", Category: drift.Missing, Kind: "NetworkPolicy", Namespace: "data", Name: "db", Correctable: true},
		{Cluster: "prod-1", Category: drift.Extra, Kind: "GlobalNetworkPolicy", Name: "by-hand"},
	}
	s.Gate = &contract.GateState{
		Environment: contract.GateCorrection, Required: 2, Evidence: contract.Evidence{Hash: strings.Repeat("a", 64)},
		Votes: []contract.Decision{{By: "ann", At: noon}},
	}
	s.Log = []contract.LogEntry{{At: noon, Message: "2 findings to put right"}}
	return s
}

func TestCorrectStart(t *testing.T) {
	s := &scheduling{fakeTemporal: &fakeTemporal{}}
	r := s.run(t, "drift", "correct", "start", "-f", pipelineFile(t, corrects))
	require.Zero(t, r.code, r.errors)
	require.Equal(t, "correct/np: comparing; `portcullis drift correct status np` shows what was found\n", r.out)
	require.Equal(t, "correct/np", s.started[0].ID)
	in := s.inputs[0].(contract.CorrectionInput)
	require.Equal(t, "sam", in.StartedBy)
	require.Equal(t, contract.ViaCLI, in.Via)
	require.Equal(t, 2, in.Pipeline.Spec.Drift.Correct.Approvals)

	// By name, with what the schedule has.
	require.Zero(t, s.run(t, "drift", "schedule", "apply", "-f", pipelineFile(t, corrects)).code)
	require.Contains(t, s.run(t, "drift", "schedule", "show", "np").out, "after 2 approvals")
	require.Zero(t, s.run(t, "drift", "correct", "start", "np").code)
	s.startErrors = []error{serviceerror.NewWorkflowExecutionAlreadyStarted("runs", "", "")}
	r = s.run(t, "drift", "correct", "start", "np")
	require.Equal(t, exitConflict, r.code)
	requireOneLine(t, r.errors)
	r = s.run(t, "drift", "correct", "start", "-f", pipelineFile(t, `  drift: {schedule: "@daily"}`))
	require.Equal(t, exitInvalid, r.code)
	require.Contains(t, r.errors, "no spec.drift.correct")
	require.Equal(t, exitUsage, s.run(t, "drift", "correct", "start").code)
}

func TestCorrectStatus(t *testing.T) {
	f := &fakeTemporal{status: &contract.RolloutStatus{}, correction: waitingCorrection()}
	r := run(t, f, "drift", "correct", "status", "np")
	require.Zero(t, r.code, r.errors)
	require.Equal(t, `np: awaiting-approval (started by schedule at 2026-03-01T12:00:00Z)
  prod: GitRepo np-prod, 2 to put right on prod-1, prod-2: pending
  missing  NetworkPolicy data/db on prod-1
  extra    GlobalNetworkPolicy by-hand on prod-1 (stays)
  1 that Fleet cannot put right stay as they are; `+"`portcullis drift report np`"+` shows all
  waits for 1 of 2 approvals of evidence aaaaaaaaaaaa
  approved by ann at 2026-03-01T12:00:00Z
  portcullis drift correct approve np --evidence aaaaaaaaaaaa
  2026-03-01T12:00:00Z 2 findings to put right
`, r.out)
	var got contract.CorrectionStatus
	require.NoError(t, json.Unmarshal([]byte(run(t, f, "drift", "correct", "status", "np", "-o", "json").out), &got))
	require.Equal(t, *waitingCorrection(), got)

	over := contract.CorrectionStatus{Pipeline: "np", FinishedAt: noon}
	over.State = contract.StateCorrected
	ended := &fakeTemporal{closed: true, results: map[string]any{contract.CorrectionWorkflow: over}}
	require.Equal(t, "np: corrected\n", run(t, ended, "drift", "correct", "status", "np").out)
	failed := &fakeTemporal{closed: true, resultErr: map[string]error{contract.CorrectionWorkflow: errs.Invalid("it could never open")}}
	require.Contains(t, run(t, failed, "drift", "correct", "status", "np").out, "it could never open")
	none := run(t, &fakeTemporal{missing: true}, "drift", "correct", "status", "np")
	require.Equal(t, exitNotFound, none.code)
	requireOneLine(t, none.errors)
}

func TestCorrectDecisions(t *testing.T) {
	f := &fakeTemporal{correction: waitingCorrection()}
	var got contract.Decision
	f.updates = func(name string, args []any) (any, error) {
		got = args[0].(contract.Decision)
		if got.By == "mallory" {
			return nil, errs.NotEntitled("mallory may not")
		}
		return waitingCorrection().Gate, nil
	}
	r := run(t, f, "drift", "correct", "approve", "np", "--evidence", "aaaaaaaaaaaa", "--why", "seen")
	require.Zero(t, r.code, r.errors)
	require.Equal(t, "np: approved, 1 of 2 approvals\n", r.out)
	require.Equal(t, contract.Decision{By: "sam", Why: "seen", Environment: contract.GateCorrection, Evidence: "aaaaaaaaaaaa", Via: contract.ViaCLI, Known: contract.KnownSaid}, got)
	require.Equal(t, "np: rejected\n", run(t, f, "drift", "correct", "reject", "np", "--why", "wanted").out)
	require.Equal(t, exitUsage, run(t, f, "drift", "correct", "approve", "np").code)
	require.Equal(t, exitNotEntitled, run(t, f, "drift", "correct", "approve", "np", "--evidence", "aaaaaaaaaaaa", "--by", "mallory").code)
	over := contract.CorrectionStatus{Pipeline: "np", FinishedAt: noon}
	over.State = contract.StateCorrected
	late := &fakeTemporal{closed: true, results: map[string]any{contract.CorrectionWorkflow: over}}
	late.updates = func(string, []any) (any, error) { return nil, serviceerror.NewNotFound("gone") }
	r = run(t, late, "drift", "correct", "approve", "np", "--evidence", "aaaaaaaaaaaa")
	require.Equal(t, exitLate, r.code, r.errors)
	requireOneLine(t, r.errors)
}
