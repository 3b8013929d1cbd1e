// Package preflight holds the activity that checks whether a cluster can take
// Calico: it asks the API server and the node agents, lets the nodes send each
// other packets, and has package probes/preflight judge what was found.
package preflight

import (
	"time"

	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/probes/preflight"
	"portcullis.dev/portcullis/rancher"
)

// Input asks for the preflight of one cluster. Its node agents must be there.
type Input struct {
	Cluster rancher.Cluster  `json:"cluster"`
	Target  preflight.Target `json:"target"`
	// AtOnce bounds the agents that are asked at the same time; 0 means 100.
	AtOnce int `json:"atOnce,omitempty"`
	// PacketTimeout is how long silence is waited for; 0 means one second.
	PacketTimeout time.Duration `json:"packetTimeout,omitempty"`
}

// NodeInput asks for the preflight of one node of a cluster that is half-way to Calico.
type NodeInput struct {
	Input
	Node string `json:"node"`
}

// PlanInput asks for the plan of a migration.
type PlanInput struct {
	Input
	Options migration.Options `json:"options"`
}

// Planned is a plan, and how many checks of the preflight that it is made from
// ended how.
type Planned struct {
	Plan      migration.Plan   `json:"plan"`
	Preflight preflight.Counts `json:"preflight"`
}

// Progress is the heartbeat, for people.
type Progress struct {
	// Phase is cluster, nodes, packets or judging.
	Phase string `json:"phase"`
	// Ready of Total nodes, or rounds of packets, are through.
	Ready     int       `json:"ready"`
	Total     int       `json:"total"`
	Cluster   string    `json:"cluster,omitempty"`
	StartedAt time.Time `json:"startedAt"`
}
