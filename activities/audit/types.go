// Package audit holds the activities that compare what is live on clusters with
// what was rolled out to them. They read, and write nothing anywhere.
package audit

import (
	"time"

	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/rancher/drift"
)

// ScopeInput asks what an audit of a pipeline looks at.
type ScopeInput struct {
	Pipeline     string                `json:"pipeline"`
	Source       rancher.Source        `json:"source"`
	Environments []rancher.Environment `json:"environments"`
	Ignores      []drift.Ignore        `json:"ignores,omitempty"`
}

// Scope is the answer: every cluster once, by environment and GitRepo.
type Scope struct {
	Units []drift.Unit `json:"units"`
	// Expired are the ignores that no longer hold, one line each.
	Expired []string `json:"expired,omitempty"`
}

// BatchInput asks for the audit of some clusters of one unit.
type BatchInput struct {
	Pipeline string `json:"pipeline"`
	// Unit has the clusters of the batch and no others.
	Unit    drift.Unit     `json:"unit"`
	Ignores []drift.Ignore `json:"ignores,omitempty"`
	// Budget is how many bytes Batch.Data may have; findings are left out to fit.
	Budget int `json:"budget"`
}

// Batch is what was found on the clusters of a batch.
type Batch struct {
	// States and Findings count clusters by state, and findings that are not ignored by category.
	States   map[drift.State]int    `json:"states,omitempty"`
	Findings map[drift.Category]int `json:"findings,omitempty"`
	Ignored  int                    `json:"ignored,omitempty"`
	// Digest changes with every finding that comes, goes or is another one.
	Digest drift.Digest `json:"digest"`
	// Measurable names the clusters on which requirements can be measured: they answer, and
	// no rollout is changing them.
	Measurable []string `json:"measurable,omitempty"`
	// Fix is what of the findings Fleet can put right, and Briefs are some of them all, MostBriefs at most.
	Fix    drift.Fix     `json:"fix,omitzero"`
	Briefs []drift.Brief `json:"briefs,omitempty"`
	// Requests is the most that one cluster's API server was sent.
	Requests int `json:"requests,omitempty"`
	// Data has the clusters, packed (drift.Unpack).
	Data []byte `json:"data"`
}

// MostBriefs bounds Batch.Briefs.
const MostBriefs = 5

// Tally is what is told as metrics of an audit that has ended.
type Tally struct {
	Pipeline   string                 `json:"pipeline"`
	States     map[drift.State]int    `json:"states,omitempty"`
	Findings   map[drift.Category]int `json:"findings,omitempty"`
	Ignored    int                    `json:"ignored,omitempty"`
	Unmet      int                    `json:"unmet,omitempty"`
	StartedAt  time.Time              `json:"startedAt"`
	FinishedAt time.Time              `json:"finishedAt"`
}

// Progress is the heartbeat of Clusters.
type Progress struct {
	Phase string `json:"phase"`
	// Ready of Total clusters.
	Ready   int    `json:"ready"`
	Total   int    `json:"total"`
	Waiting string `json:"waiting,omitempty"`
}
