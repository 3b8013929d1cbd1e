// Package verify holds the activities that look after the node agent on a
// downstream cluster and measure reachability through it.
package verify

import (
	"time"

	"portcullis.dev/portcullis/probes"
	"portcullis.dev/portcullis/rancher"
)

// AgentInput names a cluster whose node agents are to be there, or to go.
type AgentInput struct {
	Cluster rancher.Cluster `json:"cluster"`
	// Timeout bounds waiting inside the activity, from its first attempt.
	Timeout time.Duration `json:"timeout,omitempty"`
}

// Agents is the state of a cluster's node agents.
type Agents struct {
	Installed bool        `json:"installed"`
	Image     string      `json:"image,omitempty"`
	Nodes     []AgentNode `json:"nodes,omitempty"`
}

// AgentNode is one node's agent.
type AgentNode struct {
	Node  string `json:"node"`
	Ready bool   `json:"ready"`
	// Reason says why it is not ready.
	Reason string `json:"reason,omitempty"`
}

// Mode says what a measurement is for.
type Mode string

const (
	// Baseline measures until two rounds agree and judges nothing: what the wire is before the change.
	Baseline Mode = "baseline"
	// Verify repeats until every requirement held for its window, or the deadline passed.
	Verify Mode = "verify"
	// Soak repeats at the interval for Duration and fails at the first
	// requirement that stays unmet for the deadline.
	Soak Mode = "soak"
	// Compare repeats until the flows equal Want for the settle window, or the
	// deadline passed: is the wire as it was before?
	Compare Mode = "compare"
)

// Input asks for the measurement of one cluster.
type Input struct {
	Cluster      rancher.Cluster      `json:"cluster"`
	Requirements []probes.Requirement `json:"requirements"`
	Settings     probes.Settings      `json:"settings"`
	Mode         Mode                 `json:"mode"`
	// Duration is how long to soak.
	Duration time.Duration `json:"duration,omitempty"`
	// Want is the baseline to compare with.
	Want *probes.Evidence `json:"want,omitempty"`
}

// Progress is the heartbeat of a measurement, for people and for resuming.
type Progress struct {
	Phase   string `json:"phase"`
	Round   int    `json:"round"`
	Passing int    `json:"passing"`
	Total   int    `json:"total"`
	Waiting string `json:"waiting,omitempty"`
	// StartedAt is when the first attempt began: a soak that moves to another
	// worker goes on, it does not begin again.
	StartedAt time.Time `json:"startedAt"`
}
