package contract

import (
	"time"

	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/probes/preflight"
)

// PreflightInput starts a Preflight: it changes nothing but the node agents.
type PreflightInput struct {
	// Clusters are names or Rancher IDs; All means every cluster of the inventory.
	Clusters []string         `json:"clusters,omitempty"`
	All      bool             `json:"all,omitempty"`
	Target   preflight.Target `json:"target"`
	// AtOnce bounds the agents of one cluster that are asked at the same time; 0 means 100.
	AtOnce int `json:"atOnce,omitempty"`
	// PacketTimeout is how long silence is waited for; 0 means one second.
	PacketTimeout time.Duration `json:"packetTimeout,omitempty"`
	// Brief leaves out of the result what passed.
	Brief bool `json:"brief,omitempty"`
}

// PreflightResult is the result of a Preflight, by cluster name.
type PreflightResult struct {
	// Status is the worst of all clusters; a cluster that could not be checked is unknown.
	Status   preflight.Status            `json:"status"`
	Clusters map[string]ClusterPreflight `json:"clusters"`
}

// ClusterPreflight is one cluster's report, or why there is none.
type ClusterPreflight struct {
	Report *preflight.Report `json:"report,omitempty"`
	Error  string            `json:"error,omitempty"`
	// ErrorType is one of the errs types.
	ErrorType string `json:"errorType,omitempty"`
}

// PlanMigrationInput starts a PlanMigration: it changes nothing but the node agents.
type PlanMigrationInput struct {
	// Cluster is a name or a Rancher ID.
	Cluster string            `json:"cluster"`
	Target  preflight.Target  `json:"target"`
	Options migration.Options `json:"options"`
}

// PlanMigrationResult is the plan of a cluster, and how the preflight that it
// rests on ended.
type PlanMigrationResult struct {
	Plan      migration.Plan   `json:"plan"`
	Preflight preflight.Counts `json:"preflight"`
}
