package preflight

import "time"

// Status of a check.
type Status string

const (
	Pass   Status = "pass"
	Warn   Status = "warn"
	Fail   Status = "fail"
	Unsure Status = "unknown"
)

// Severity says what a check that is not met means.
type Severity string

const (
	// Required: Calico would not work, or traffic would be lost.
	Required Severity = "required"
	// Advised: it would work, with a risk that a person should know.
	Advised Severity = "advised"
)

// Result is what one check found, for all nodes where it found the same.
type Result struct {
	ID       string   `json:"id"`
	Title    string   `json:"title"`
	Severity Severity `json:"severity"`
	Status   Status   `json:"status"`
	// Nodes that this is about, sorted; empty for the cluster as a whole.
	Nodes []string `json:"nodes,omitempty"`
	// Measured is what was found, Threshold what it is held against.
	Measured  string `json:"measured"`
	Threshold string `json:"threshold"`
	Source    string `json:"source"`
	// Remedy is what to do; only where something is to be done.
	Remedy string `json:"remedy,omitempty"`
	// Doc is where the check is documented.
	Doc string `json:"doc"`
	// More are further lines, such as the pairs of nodes that do not reach each other.
	More []string `json:"more,omitempty"`
}

// Report is what a preflight found of one cluster.
type Report struct {
	Cluster string `json:"cluster"`
	// Status is the worst: fail, unknown, warn, pass, in this order.
	Status Status `json:"status"`
	Target Target `json:"target"`
	Nodes  int    `json:"nodes"`
	Counts Counts `json:"counts"`
	// Results are those that are not met first, by check.
	Results []Result `json:"results"`
	// LeftOut counts results that passed and were left out of a large answer.
	LeftOut   int           `json:"leftOut,omitempty"`
	Mesh      MeshSize      `json:"mesh"`
	StartedAt time.Time     `json:"startedAt,omitzero"`
	Took      time.Duration `json:"took,omitempty"`
}

// Counts are checks by status; a check of several nodes counts once for each.
type Counts struct {
	Pass    int `json:"pass"`
	Warn    int `json:"warn"`
	Fail    int `json:"fail"`
	Unknown int `json:"unknown"`
}
