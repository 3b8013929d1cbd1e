package contract

import (
	"time"

	"portcullis.dev/portcullis/rancher/drift"
)

// DriftWorkflow audits a pipeline: what is live against what was rolled out. It
// changes nothing.
const DriftWorkflow = "DriftAudit"

// DriftID is the ID of a pipeline's schedule of audits, of an audit that was started by hand,
// and, with the time behind it, of those that the schedule starts.
func DriftID(pipeline string) string { return "drift/" + pipeline }

// The activities of an audit.
const (
	ActDriftScope    = "audit.Scope"
	ActDriftClusters = "audit.Clusters"
	ActDriftRecord   = "audit.Record"
)

// States of an audit. All but the first two end it.
const (
	StateAuditing  State = "auditing"
	StateMeasuring State = "measuring"

	StateClean   State = "clean"   // everything that was compared is as it was rolled out
	StateDrifted State = "drifted" // something is not
	StateUnknown State = "unknown" // nothing was found, but not everything could be looked at
)

// DriftBatch bounds the clusters of one activity of an audit.
const DriftBatch = 25

// DriftInput starts a DriftAudit. A schedule keeps it.
type DriftInput struct {
	Pipeline Pipeline `json:"pipeline"`
	// StartedBy is who asked; "schedule" where nobody did.
	StartedBy string `json:"startedBy"`
}

// StartedBySchedule is DriftInput.StartedBy of a scheduled audit.
const StartedBySchedule = "schedule"

// DriftStatus answers QueryStatus of a DriftAudit.
type DriftStatus struct {
	Pipeline  string    `json:"pipeline"`
	State     State     `json:"state"`
	StartedAt time.Time `json:"startedAt"`
	// Done of Total clusters.
	Done  int `json:"done"`
	Total int `json:"total"`
}

// DriftResult is the result of a DriftAudit.
type DriftResult struct {
	Pipeline   string    `json:"pipeline"`
	State      State     `json:"state"`
	Reason     string    `json:"reason,omitempty"`
	StartedBy  string    `json:"startedBy"`
	StartedAt  time.Time `json:"startedAt"`
	FinishedAt time.Time `json:"finishedAt"`
	// Clusters counts them by state; Findings counts what is not ignored by category.
	Clusters map[drift.State]int    `json:"clusters"`
	Findings map[drift.Category]int `json:"findings,omitempty"`
	Ignored  int                    `json:"ignored,omitempty"`
	// GitRepos are the findings about the GitRepos themselves.
	GitRepos []drift.Finding `json:"gitRepos,omitempty"`
	// Expired are the ignores that no longer hold, one line each.
	Expired []string `json:"expired,omitempty"`
	// Wire is what was measured; nil where that was not asked for.
	Wire *DriftWire `json:"wire,omitempty"`
	// Requests is the most that one cluster's API server was sent.
	Requests int `json:"requests,omitempty"`
	// Digest changes with every finding that comes, goes or becomes another one.
	Digest drift.Digest `json:"digest,omitempty"`
	// Since is the audit before in the same schedule, and Changed whether this one found
	// something else. An audit that was started by hand has none.
	Since   time.Time `json:"since,omitzero"`
	Changed bool      `json:"changed,omitempty"`
	// Batches have the clusters, packed (drift.Unpack).
	Batches [][]byte `json:"batches,omitempty"`
}

// DriftWire is what measuring the requirements gave.
type DriftWire struct {
	Met        int `json:"met"`
	Unmet      int `json:"unmet"`
	Unmeasured int `json:"unmeasured"`
	// Clusters are those that are not met or could not be measured, DriftWireRows at most.
	Clusters []ClusterEvidence `json:"clusters,omitempty"`
}

// DriftWireRows bounds the clusters in DriftWire.
const DriftWireRows = 200

// Drifts counts the findings that are not ignored.
func (r *DriftResult) Drifts() int {
	n := 0
	for _, count := range r.Findings {
		n += count
	}
	return n
}
