package contract

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"

	"portcullis.dev/portcullis/activities/deliver"
	"portcullis.dev/portcullis/activities/source"
	"portcullis.dev/portcullis/rancher"
)

// DefaultTaskQueue is where the daemon polls unless it is told otherwise.
const DefaultTaskQueue = "portcullis"

// Workflow types, as registered.
const (
	RolloutWorkflow   = "Rollout"
	PromoteWorkflow   = "PromoteEnvironment"
	VerifyWorkflow    = "VerifyClusters"
	PlanWorkflow      = "PlanRollout"
	ProbeWorkflow     = "Probe"
	InventoryWorkflow = "Inventory"
	AgentWorkflow     = "Agent"
	HoldWorkflow      = "Hold"
	PreflightWorkflow = "Preflight"
	// PlanMigrationWorkflow plans a migration to Calico; it changes nothing.
	PlanMigrationWorkflow = "PlanMigration"
	MigrateWorkflow       = "MigrateCluster"
	MigrateNodeWorkflow   = "MigrateNode"
)

// RolloutID is the workflow ID of a pipeline's rollout: a second one is refused by Temporal.
func RolloutID(pipeline string) string { return "rollout/" + pipeline }

// PromoteID is the workflow ID of one environment's promotion.
func PromoteID(pipeline, environment string) string {
	return "promote/" + pipeline + "/" + environment
}

// VerifyID is the workflow ID of one batch of measurements in a promotion.
func VerifyID(pipeline, environment, phase string, batch int) string {
	return fmt.Sprintf("verify/%s/%s/%s/%d", pipeline, environment, phase, batch)
}

// PreflightID is the workflow ID of one batch of the preflights at a gate.
func PreflightID(pipeline, environment string, batch int) string {
	return fmt.Sprintf("preflight/%s/%s/%d", pipeline, environment, batch)
}

// Search attributes that the daemon registers at start.
var (
	AttrPipeline    = temporal.NewSearchAttributeKeyKeyword("PortcullisPipeline")
	AttrEnvironment = temporal.NewSearchAttributeKeyKeyword("PortcullisEnvironment")
	AttrRevision    = temporal.NewSearchAttributeKeyKeyword("PortcullisRevision")
	AttrState       = temporal.NewSearchAttributeKeyKeyword("PortcullisState")
	// AttrCluster is set on migrations.
	AttrCluster = temporal.NewSearchAttributeKeyKeyword("PortcullisCluster")
)

// Messages to a Rollout. Decisions are Updates; reading is a Query.
const (
	// UpdatePlanned waits until the plan is made and returns it (type RolloutPlan), or the error that ended the rollout.
	UpdatePlanned = "planned"
	// UpdateApprove and UpdateReject take a Decision; UpdatePause, UpdateResume and UpdateAbort take an Order.
	UpdateApprove = "approve"
	UpdateReject  = "reject"
	UpdatePause   = "pause"
	UpdateResume  = "resume"
	UpdateAbort   = "abort"
	// QueryStatus returns a RolloutStatus from a Rollout and a PromoteStatus from a PromoteEnvironment.
	QueryStatus = "status"
	// SignalPause and SignalResume go from a Rollout to its PromoteEnvironment.
	SignalPause  = "pause"
	SignalResume = "resume"
	// SignalStop carries the reason (a string) of a cancellation that follows.
	SignalStop = "stop"
	// SignalSoak goes from a PromoteEnvironment to its Rollout, with a Soaking, when a soak begins.
	SignalSoak = "soak"
)

// MinEvidence is how many characters of an evidence hash a vote must give.
const MinEvidence = 12

// Mode of a Rollout.
type Mode string

const (
	ModePromote Mode = "promote"
	// ModeRollback goes back, by hand, to the previous verified revision or to To.
	ModeRollback Mode = "rollback"
)

// RolloutInput starts a Rollout.
type RolloutInput struct {
	Pipeline Pipeline `json:"pipeline"`
	Mode     Mode     `json:"mode,omitempty"`
	// Ref is a full commit, a tag or a branch; empty means the branch's head.
	Ref string `json:"ref,omitempty"`
	// StartedBy is who asked; it is recorded, not authenticated, by the command line.
	StartedBy string `json:"startedBy"`
	// Via and Known are those of StartedBy, as in a Decision.
	Via           Via   `json:"via,omitempty"`
	Known         Known `json:"known,omitempty"`
	AfterRollback bool  `json:"afterRollback,omitempty"`
	// Environments limits a rollback; empty means all.
	Environments []string `json:"environments,omitempty"`
	// Reason is why, for a rollback by hand.
	Reason string `json:"reason,omitempty"`
	// Carried is set by continue-as-new only, and so is Baselines: per
	// environment, what was measured before the change.
	Carried   *RolloutState              `json:"carried,omitempty"`
	Baselines map[string][]BaselineBatch `json:"baselines,omitempty"`
}

// RolloutPlan is what a rollout will do, decided before anything is written.
type RolloutPlan struct {
	Pipeline   string            `json:"pipeline"`
	Revision   source.Revision   `json:"revision"`
	Inspection source.Inspection `json:"inspection"`
	Plan       deliver.Plan      `json:"plan"`
	PlannedAt  time.Time         `json:"plannedAt"`
}

// State of a rollout or of an environment in it.
type State string

const (
	StatePlanning    State = "planning"
	StatePending     State = "pending"
	StateApproval    State = "awaiting-approval"
	StatePaused      State = "paused"
	StatePromoting   State = "promoting" // of a rollout: an environment's PromoteEnvironment runs
	StatePreflight   State = "preflight"
	StateBaseline    State = "baseline"
	StateStaging     State = "staging"
	StateReleasing   State = "releasing"
	StateSettling    State = "settling"
	StateVerifying   State = "verifying"
	StateSoaking     State = "soaking"
	StateRollingBack State = "rolling-back"

	StateVerified   State = "verified"    // end: intent holds on the wire everywhere
	StateRolledBack State = "rolled-back" // end: the gate failed and the way back was walked
	StateRejected   State = "rejected"    // end: a person said no before the environment was entered
	StateAborted    State = "aborted"     // end: a person ended it; what it was in was not written
	StateFailed     State = "failed"      // end: refused or failed before anything was written
)

// RolloutState is what survives continue-as-new, and with it what a query returns.
type RolloutState struct {
	State        State              `json:"state"`
	Reason       string             `json:"reason,omitempty"`
	Mode         Mode               `json:"mode"`
	StartedBy    string             `json:"startedBy"`
	StartedAt    time.Time          `json:"startedAt"`
	FirstRun     string             `json:"firstRun"`
	Plan         *RolloutPlan       `json:"plan,omitempty"`
	Environments []EnvironmentState `json:"environments"`
	Current      int                `json:"current"`
	Paused       *Order             `json:"paused,omitempty"`
	Gate         *GateState         `json:"gate,omitempty"`
	// Slack is set while Slack does not show how things are, and says why.
	Slack *SlackState `json:"slack,omitempty"`
	Log   []LogEntry  `json:"log,omitempty"`
	Audit Audit       `json:"audit,omitzero"`
}

// EnvironmentState is one environment's line in the status.
type EnvironmentState struct {
	Name   string         `json:"name"`
	State  State          `json:"state"`
	Result *PromoteResult `json:"result,omitempty"`
	// Soaking is the last soak that began in it; nil before, and once it has ended.
	Soaking *Soaking `json:"soaking,omitempty"`
}

// Soaking is a soak: since when, and until when unless it fails or is paused.
type Soaking struct {
	Environment string `json:"environment"`
	// Wave is empty for the soak of the whole environment.
	Wave  string    `json:"wave,omitempty"`
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
}

// Evidence is what an approver approves. Hash is over the rest.
type Evidence struct {
	Revision    string `json:"revision"`
	Environment string `json:"environment"`
	PlanHash    string `json:"planHash"`
	// Changes are the files that differ from what the environment has now.
	Changes []source.Change `json:"changes,omitempty"`
	// Passed maps each earlier environment to its evidence hash.
	Passed map[string]string `json:"passed,omitempty"`
	// Baseline maps each cluster of this environment to the hash of its flows before the change.
	Baseline map[string]string `json:"baseline,omitempty"`
	Hash     string            `json:"hash"`
}

// LogEntry is one line of the rollout's story.
type LogEntry struct {
	At          time.Time `json:"at"`
	Environment string    `json:"environment,omitempty"`
	Message     string    `json:"message"`
}

// RolloutStatus answers QueryStatus.
type RolloutStatus struct {
	Pipeline string `json:"pipeline"`
	RolloutState
}

// RolloutResult is the result of a Rollout.
type RolloutResult struct {
	Pipeline     string             `json:"pipeline"`
	Mode         Mode               `json:"mode"`
	Revision     string             `json:"revision"`
	State        State              `json:"state"`
	Reason       string             `json:"reason,omitempty"`
	Environments []EnvironmentState `json:"environments"`
	Log          []LogEntry         `json:"log,omitempty"`
	Audit        Audit              `json:"audit,omitzero"`
	StartedAt    time.Time          `json:"startedAt"`
	FinishedAt   time.Time          `json:"finishedAt"`
}

// PromoteInput starts a PromoteEnvironment.
type PromoteInput struct {
	Pipeline    Pipeline                `json:"pipeline"`
	Environment rancher.Environment     `json:"environment"`
	Plan        deliver.EnvironmentPlan `json:"plan"`
	Namespace   string                  `json:"namespace"`
	Commit      string                  `json:"commit"`
	Rollout     string                  `json:"rollout"`
	// RollbackOnly skips the way forward: the units are restored and compared.
	RollbackOnly bool   `json:"rollbackOnly,omitempty"`
	Reason       string `json:"reason,omitempty"`
	// Target is, for a rollback by hand, the revision that is gone back to. It is
	// recorded as verified once the requirements were seen to hold on it.
	Target string `json:"target,omitempty"`
	// Baseline is what was measured before, where the rollout already did.
	Baseline []BaselineBatch `json:"baseline,omitempty"`
	// KeepBaseline asks for the baseline in the result, for a later rollback.
	KeepBaseline bool `json:"keepBaseline,omitempty"`
	// Carried is set by continue-as-new only.
	Carried *PromoteState `json:"carried,omitempty"`
}

// PromoteState is what of a PromoteEnvironment survives continue-as-new.
type PromoteState struct {
	State State `json:"state"`
	// Step is the next step of the walk (units, soaks, marks).
	Step int `json:"step"`
	// Touched are the indexes of the units that were, or may have been, written, in order.
	Touched []int  `json:"touched,omitempty"`
	Paused  *Order `json:"paused,omitempty"`
	// Ending is the reason of the rollback that has begun, or empty.
	Ending    string                       `json:"ending,omitempty"`
	Clusters  []ClusterRow                 `json:"clusters"`
	Manifests map[string]map[string]string `json:"manifests,omitempty"`
	Baseline  []BaselineBatch              `json:"baseline,omitempty"`
	Log       []LogEntry                   `json:"log,omitempty"`
	LiveAt    time.Time                    `json:"liveAt,omitzero"`
	VerdictAt time.Time                    `json:"verdictAt,omitzero"`
	ProbeTime time.Duration                `json:"probeTime,omitempty"`
}

// PromoteStatus answers QueryStatus of a PromoteEnvironment.
type PromoteStatus struct {
	Environment string       `json:"environment"`
	State       State        `json:"state"`
	Wave        string       `json:"wave,omitempty"`
	Unit        string       `json:"unit,omitempty"`
	Paused      bool         `json:"paused,omitempty"`
	SoakUntil   time.Time    `json:"soakUntil,omitzero"`
	Clusters    []ClusterRow `json:"clusters"`
	Log         []LogEntry   `json:"log,omitempty"`
}

// ClusterRow is one cluster's line.
type ClusterRow struct {
	Cluster string `json:"cluster"`
	Wave    string `json:"wave,omitempty"`
	// State is pending, staged, live, verified, failed, rolled-back.
	State    string `json:"state"`
	Pairs    int    `json:"pairs,omitempty"`
	Failing  int    `json:"failing,omitempty"`
	Evidence string `json:"evidence,omitempty"`
	Reason   string `json:"reason,omitempty"`
}

// PromoteResult is the result of a PromoteEnvironment.
type PromoteResult struct {
	Environment string `json:"environment"`
	// State is verified, rolled-back, aborted or failed.
	State  State  `json:"state"`
	Reason string `json:"reason,omitempty"`
	// Evidence is the hash over the clusters' evidence and manifests.
	Evidence string          `json:"evidence,omitempty"`
	Clusters []ClusterRow    `json:"clusters"`
	Rollback *RollbackResult `json:"rollback,omitempty"`
	// Touched is true when any GitRepo was, or may have been, written.
	Touched bool       `json:"touched"`
	Log     []LogEntry `json:"log,omitempty"`
	// Baseline is there only when PromoteInput.KeepBaseline asked for it.
	Baseline []BaselineBatch `json:"baseline,omitempty"`
	// LiveAt and VerdictAt frame the orchestration's own time; ProbeTime is what probes took of it.
	LiveAt    time.Time     `json:"liveAt,omitzero"`
	VerdictAt time.Time     `json:"verdictAt,omitzero"`
	ProbeTime time.Duration `json:"probeTime,omitempty"`
}

// RollbackResult says what was put back, and what of it was proven.
type RollbackResult struct {
	// Kind is last-verified, before-portcullis or absent; the weakest where units differ.
	Kind     rancher.RestoreKind `json:"kind"`
	Revision string              `json:"revision,omitempty"`
	// Live is true when Fleet has it live everywhere; Proven when the probes
	// found the same flows as before the change or, for a rollback by hand, that
	// the pipeline's requirements hold.
	Live   bool   `json:"live"`
	Proven bool   `json:"proven"`
	Detail string `json:"detail,omitempty"`
}
