// Package deliver holds the activities that plan against and write to Rancher
// and Fleet: which clusters, which GitRepos, stage, release, settle, restore.
// Every activity is idempotent: it compares before it writes.
package deliver

import (
	"time"

	"portcullis.dev/portcullis/rancher"
)

// PlanInput asks which clusters and GitRepos a pipeline means now.
type PlanInput struct {
	Pipeline     string                `json:"pipeline"`
	Source       rancher.Source        `json:"source"`
	Environments []rancher.Environment `json:"environments"`
	// AfterRollback allows a plan on a pipeline that is held.
	AfterRollback bool `json:"afterRollback,omitempty"`
	// MembersOnly asks for the clusters of each environment, in one unit, for those
	// who only look at them: holds, waves and GitRepos that are in the way of a rollout
	// are not in the way of that.
	MembersOnly bool `json:"membersOnly,omitempty"`
}

// Plan is the answer, in the order of the pipeline.
type Plan struct {
	// Namespace is the Fleet workspace.
	Namespace    string            `json:"namespace"`
	Environments []EnvironmentPlan `json:"environments"`
	// Held is the reason why the pipeline is held, or empty.
	Held string `json:"held,omitempty"`
	// Hash identifies which clusters, units and revisions were planned.
	Hash string `json:"hash"`
}

// EnvironmentPlan has the units of one environment, waves in order, and of a
// wave the slices in order.
type EnvironmentPlan struct {
	Name  string         `json:"name"`
	Units []rancher.Unit `json:"units"`
	// Unready are clusters that could not be changed or measured now, with the reason.
	Unready map[string]string `json:"unready,omitempty"`
	// Notes say what a person should know, though nothing is wrong.
	Notes []string `json:"notes,omitempty"`
	// Hash identifies the clusters, units and revisions of this environment.
	Hash string `json:"hash"`
}

// UnitInput names a unit and the revision that it is to have.
type UnitInput struct {
	Pipeline    string         `json:"pipeline"`
	Environment string         `json:"environment"`
	Source      rancher.Source `json:"source"`
	Unit        rancher.Unit   `json:"unit"`
	Commit      string         `json:"commit"`
	// Rollout is the run ID of the rollout, kept on the GitRepo.
	Rollout string `json:"rollout"`
	// Timeout bounds waiting inside the activity, from its first attempt.
	Timeout time.Duration `json:"timeout,omitempty"`
}

// Staged is what Fleet computed while the unit was paused.
type Staged struct {
	Clusters []rancher.ClusterStatus `json:"clusters"`
}

// Settled is returned when the revision is live on all clusters of the unit.
type Settled struct {
	Clusters []rancher.ClusterStatus `json:"clusters"`
	// LiveAt is when the last cluster was seen live.
	LiveAt time.Time `json:"liveAt"`
}

// RestoreInput puts a unit back to Unit.Before.
type RestoreInput struct {
	UnitInput
	// Reason is kept on the GitRepos as the hold; every GitRepo of the pipeline carries it.
	Reason string `json:"reason"`
}

// VerifiedInput records that Commit was proven on the unit.
type VerifiedInput struct {
	UnitInput
	Evidence string `json:"evidence"`
}

// HoldInput holds (Reason set) or releases (Reason empty) a pipeline.
type HoldInput struct {
	Pipeline string `json:"pipeline"`
	Reason   string `json:"reason,omitempty"`
}

// Progress is the heartbeat of what waits for Fleet: what is awaited, for people.
type Progress struct {
	// Phase is staging, settling, restoring or correcting.
	Phase string `json:"phase"`
	// Ready of Total clusters.
	Ready int `json:"ready"`
	Total int `json:"total"`
	// Waiting is one line: what is awaited, and for which clusters (a few are named).
	Waiting string `json:"waiting,omitempty"`
	// StartedAt is when the first attempt began, so that retries keep one deadline.
	StartedAt time.Time `json:"startedAt"`
}
