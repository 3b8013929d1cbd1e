package contract

import (
	"time"

	"portcullis.dev/portcullis/rancher/drift"
)

// CorrectionWorkflow has Fleet put right what an audit found, once enough people have
// agreed to that.
const CorrectionWorkflow = "DriftCorrection"

// CorrectionID is the workflow ID of a pipeline's correction of drift: a second one is
// refused by Temporal.
func CorrectionID(pipeline string) string { return "correct/" + pipeline }

// SlackCorrectionID is the workflow ID of what shows a pipeline's correction in Slack.
func SlackCorrectionID(pipeline string) string { return "slack/correct/" + pipeline }

// The activities of a correction.
const (
	ActCorrect   = "deliver.Correct"
	ActUncorrect = "deliver.Uncorrect"
)

// SignalLook tells a DriftCorrection that waits that an audit has found something else.
const SignalLook = "look"

// GateCorrection is what the gate of a correction is called by, where that of a rollout
// has its environment.
const GateCorrection = "drift-correction"

// States of a correction, beside StateApproval. All from StateCorrected on end it, and
// so do StateRejected, StateAborted and StateFailed.
const (
	StateComparing  State = "comparing"
	StateCorrecting State = "correcting"

	StateCorrected   State = "corrected"          // end: a comparison found nothing left that Fleet can put right
	StateUncorrected State = "not-corrected"      // end: some of it is still there
	StateNothing     State = "nothing-to-correct" // end: there was nothing that Fleet can put right
)

// CorrectionInput starts a DriftCorrection.
type CorrectionInput struct {
	Pipeline Pipeline `json:"pipeline"`
	// StartedBy is who asked; StartedBySchedule where an audit did. Via and Known are
	// those of StartedBy, as in a Decision.
	StartedBy string `json:"startedBy"`
	Via       Via    `json:"via,omitempty"`
	Known     Known  `json:"known,omitempty"`
	// Carried is set by continue-as-new only.
	Carried *CorrectionState `json:"carried,omitempty"`
}

// CorrectionUnit is a GitRepo with drift that Fleet can put right.
type CorrectionUnit struct {
	Environment string `json:"environment"`
	GitRepo     string `json:"gitRepo"`
	Revision    string `json:"revision"`
	Generation  int64  `json:"generation"`
	// Clusters is how many it delivers to: everything is applied again on all of them.
	Clusters int `json:"clusters"`
	// Fix is what was found.
	Fix drift.Fix `json:"fix"`
	// State is StatePending, and later how far it is; Reason says why it failed.
	State  State  `json:"state"`
	Reason string `json:"reason,omitempty"`
}

// CorrectionState is what of a DriftCorrection survives continue-as-new, and with it what
// a query returns.
type CorrectionState struct {
	State     State     `json:"state"`
	Reason    string    `json:"reason,omitempty"`
	StartedBy string    `json:"startedBy"`
	StartedAt time.Time `json:"startedAt"`
	FirstRun  string    `json:"firstRun"`
	// Units are in the order in which they are corrected.
	Units []CorrectionUnit `json:"units,omitempty"`
	// Left counts the findings that Fleet cannot put right. They are told, and not touched.
	Left int `json:"left,omitempty"`
	// Briefs are some of all findings, MostCorrectionBriefs at most.
	Briefs []drift.Brief `json:"briefs,omitempty"`
	// ComparedAt is when they were found.
	ComparedAt time.Time  `json:"comparedAt,omitzero"`
	Gate       *GateState `json:"gate,omitempty"`
	// Slack is set while Slack does not show how things are, and says why.
	Slack *SlackState `json:"slack,omitempty"`
	Log   []LogEntry  `json:"log,omitempty"`
	Audit Audit       `json:"audit,omitzero"`
}

// MostCorrectionBriefs bounds CorrectionState.Briefs.
const MostCorrectionBriefs = 20

// CorrectionStatus answers QueryStatus of a DriftCorrection, and is its result.
type CorrectionStatus struct {
	Pipeline string `json:"pipeline"`
	CorrectionState
	// FinishedAt is set on a result.
	FinishedAt time.Time `json:"finishedAt,omitzero"`
}
