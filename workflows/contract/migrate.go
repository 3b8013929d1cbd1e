package contract

import (
	"time"

	"portcullis.dev/portcullis/probes"
	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/probes/preflight"
	"portcullis.dev/portcullis/rancher"
)

// MigrateID is the workflow ID of a cluster's migration, by the cluster's name: a
// second one is refused by Temporal.
func MigrateID(cluster string) string { return "migrate/" + cluster }

// MigrateNodeID is the workflow ID of one node's migration.
func MigrateNodeID(cluster, node string) string { return "migrate/" + cluster + "/" + node }

// Migration states. The last three end it.
const (
	StateChecking  State = "checking"  // preflight and plan; nothing is changed
	StatePreparing State = "preparing" // Calico comes up beside Canal; no node has moved
	StateMigrating State = "migrating" // nodes move; both are supported side by side
	StateStopped   State = "stopped"   // a node failed and was put back; resume or abort
	StateFinishing State = "finishing" // all nodes have moved; Canal goes
	StateRestoring State = "restoring" // the way back is walked

	StateMigrated State = "migrated" // end: Calico everywhere, no residue
	StateOriginal State = "original" // end: Canal everywhere, as it was
)

// MigrateInput starts a MigrateCluster.
type MigrateInput struct {
	// Cluster is the Fleet cluster's name.
	Cluster string            `json:"cluster"`
	Target  preflight.Target  `json:"target"`
	Options migration.Options `json:"options"`
	// Plan is the hash of the plan that was read; it is refused where the plan made
	// now has another one.
	Plan        string   `json:"plan"`
	Acknowledge []string `json:"acknowledge,omitempty"`
	// Manifest is Calico's manifest, compressed with gzip.
	Manifest []byte `json:"manifest"`
	// Probes are a pipeline's requirements, measured besides what the cluster's own
	// Services offer.
	Probes    []probes.Requirement `json:"probes,omitempty"`
	Settings  probes.Settings      `json:"settings,omitzero"`
	StartedBy string               `json:"startedBy"`
	// Carried is set by continue-as-new only.
	Carried *MigrateState `json:"carried,omitempty"`
}

// MigrateState is what of a MigrateCluster survives continue-as-new.
type MigrateState struct {
	State     State     `json:"state"`
	Reason    string    `json:"reason,omitempty"`
	StartedBy string    `json:"startedBy"`
	StartedAt time.Time `json:"startedAt"`
	// Migration names what is kept on the cluster (migrate.StepInput).
	Migration string          `json:"migration"`
	Cluster   rancher.Cluster `json:"cluster"`
	Plan      *migration.Plan `json:"plan,omitempty"`
	Claimed   bool            `json:"claimed,omitempty"`
	// Steps are those of the cluster that were begun, in order: the way back walks
	// them from the last.
	Steps []migration.Step `json:"steps,omitempty"`
	// Step is the one of the cluster that is being made or undone, if any.
	Step         migration.Step       `json:"step,omitempty"`
	Nodes        []NodeState          `json:"nodes,omitempty"`
	Requirements []probes.Requirement `json:"requirements,omitempty"`
	Baseline     *BaselineBatch       `json:"baseline,omitempty"`
	Paused       *Order               `json:"paused,omitempty"`
	Gate         *MigrateGate         `json:"gate,omitempty"`
	// Approved is true once the canary's evidence was approved.
	Approved bool `json:"approved,omitempty"`
	// Failures counts the nodes that failed since the start, or the last resume.
	Failures int `json:"failures,omitempty"`
	// OpensAt is when the next window opens, while that is waited for.
	OpensAt time.Time `json:"opensAt,omitzero"`
	// Proven is true when the last measurement found the wire as it was before.
	Proven bool       `json:"proven,omitempty"`
	Log    []LogEntry `json:"log,omitempty"`
}

// NodeState is one node's line.
type NodeState struct {
	Name         string         `json:"name"`
	ControlPlane bool           `json:"controlPlane,omitempty"`
	Mode         migration.Mode `json:"mode"`
	// State is pending, migrating, calico, canal (it was put back) or restoring.
	State string `json:"state"`
	// Step is what is being done, while it migrates.
	Step migration.Step `json:"step,omitempty"`
	// Evidence is the hash of what was measured after it moved.
	Evidence string `json:"evidence,omitempty"`
	// Reason says why it failed, when it did.
	Reason   string `json:"reason,omitempty"`
	Failures int    `json:"failures,omitempty"`
	// Attempts counts the failures since the last resume: a node that failed once
	// is tried once more at the end.
	Attempts int `json:"attempts,omitempty"`
	// Lost is true from when its workflow was lost (terminated by hand) until the node
	// is on one side again: it may be anywhere between, whatever State says.
	Lost       bool      `json:"lost,omitempty"`
	StartedAt  time.Time `json:"startedAt,omitzero"`
	FinishedAt time.Time `json:"finishedAt,omitzero"`
	// Own is the node's time without evictions, kubelet and Calico's start.
	Own time.Duration `json:"own,omitempty"`
}

// States of a node.
const (
	NodePending   = "pending"
	NodeMigrating = "migrating"
	NodeCalico    = "calico"
	NodeCanal     = "canal"
	NodeRestoring = "restoring"
)

// SignalStep goes from a MigrateNode to its MigrateCluster, with a NodeStep.
const SignalStep = "step"

// NodeStep says what a MigrateNode does now.
type NodeStep struct {
	Node string         `json:"node"`
	Step migration.Step `json:"step"`
}

// MigrateGate waits for one approval after the canary node.
type MigrateGate struct {
	Node string `json:"node"`
	// Evidence is what is approved: a prefix of at least 12 characters is accepted.
	Evidence string     `json:"evidence"`
	Since    time.Time  `json:"since"`
	Votes    []Decision `json:"votes,omitempty"`
}

// MigrateStatus answers QueryStatus of a MigrateCluster.
type MigrateStatus struct {
	MigrateState
}

// MigrateResult is the result of a MigrateCluster.
type MigrateResult struct {
	Cluster string `json:"cluster"`
	// State is migrated, original or failed (refused before anything was changed).
	State  State  `json:"state"`
	Reason string `json:"reason,omitempty"`
	// Proven is true when the last measurement found the wire as it was before.
	Proven     bool        `json:"proven"`
	Nodes      []NodeState `json:"nodes,omitempty"`
	Log        []LogEntry  `json:"log,omitempty"`
	StartedAt  time.Time   `json:"startedAt"`
	FinishedAt time.Time   `json:"finishedAt"`
}

// MigrateNodeInput starts a MigrateNode.
type MigrateNodeInput struct {
	Cluster   rancher.Cluster  `json:"cluster"`
	Migration string           `json:"migration"`
	Node      string           `json:"node"`
	Mode      migration.Mode   `json:"mode"`
	Target    preflight.Target `json:"target"`
	// Unknown accepts that preflight cannot find out everything about the node.
	Unknown bool `json:"unknown,omitempty"`
	// Back takes the node back to Canal; it was on Calico, or on the way.
	Back         bool                 `json:"back,omitempty"`
	Requirements []probes.Requirement `json:"requirements"`
	Settings     probes.Settings      `json:"settings,omitzero"`
	Baseline     *BaselineBatch       `json:"baseline,omitempty"`
}

// MigrateNodeResult is the result of a MigrateNode.
type MigrateNodeResult struct {
	Node string `json:"node"`
	// CNI is canal or calico: what the node has now.
	CNI string `json:"cni"`
	// Reason says why it is not what was wanted.
	Reason string `json:"reason,omitempty"`
	// Proven is true when the wire was measured to be as before, after the last change.
	Proven   bool          `json:"proven"`
	Evidence string        `json:"evidence,omitempty"`
	Own      time.Duration `json:"own,omitempty"`
	Log      []LogEntry    `json:"log,omitempty"`
}
