// Package contract is what the parts of Portcullis agree on: workflow names
// and IDs, inputs and results, messages and search attributes. It is a leaf:
// it holds no behaviour beyond building IDs.
package contract

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portcullis.dev/portcullis/probes"
	"portcullis.dev/portcullis/rancher"
)

// APIVersion and Kind of a pipeline file.
const (
	APIVersion = "portcullis.dev/v1alpha1"
	Kind       = "Pipeline"
)

// Pipeline is a pipeline file: one policy repository and its ordered environments.
type Pipeline struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   Metadata `json:"metadata"`
	Spec       Spec     `json:"spec"`
}

// Metadata names a pipeline.
type Metadata struct {
	Name string `json:"name"`
}

// Spec is the body of a pipeline file.
type Spec struct {
	Source       rancher.Source        `json:"source"`
	Environments []rancher.Environment `json:"environments"`
	Probes       []probes.Requirement  `json:"probes"`
	ProbeTimings probes.Settings       `json:"probeSettings,omitzero"`
	Rollback     Rollback              `json:"rollback,omitzero"`
	// People are those who decide; the rest of the file names them by their names.
	People []Person `json:"people,omitempty"`
	// Slack and Drift are nil where the file has none.
	Slack *Slack `json:"slack,omitempty"`
	Drift *Drift `json:"drift,omitempty"`
}

// Person is one person by all the names that they are known by.
type Person struct {
	// Name is what decisions are recorded under, and what --by takes.
	Name string `json:"name"`
	// Slack is the ID of their Slack user.
	Slack string `json:"slack,omitempty"`
	// Git are the e-mail addresses in their commits.
	Git []string `json:"git,omitempty"`
}

// Slack says where the pipeline's gates are shown.
type Slack struct {
	// Channel is the ID of the channel.
	Channel string `json:"channel"`
	// RemindEvery is the time between reminders of a gate that waits; 0 means none.
	RemindEvery metav1.Duration `json:"remindEvery,omitzero"`
	// Escalation is where else a gate is shown that has waited for long; nil means nowhere.
	Escalation *Escalation `json:"escalation,omitempty"`
	Links      Links       `json:"links,omitzero"`
}

// Escalation is a second channel, for a gate that nobody decides.
type Escalation struct {
	Channel string `json:"channel"`
	// After is how long a gate waits before it is shown there.
	After metav1.Duration `json:"after"`
}

// Links that a message offers.
type Links struct {
	// Temporal is the URL of the Temporal UI.
	Temporal string `json:"temporal,omitempty"`
	// Compare is a URL with {from} and {to} where the two commits go.
	Compare string `json:"compare,omitempty"`
}

// Drift audits compare what is live with what was rolled out.
type Drift struct {
	// Schedule has the five fields of cron, or @hourly, @daily, @weekly, @monthly, @yearly, or @every with a duration.
	Schedule string `json:"schedule"`
	// Timezone of the schedule, by its IANA name. Default UTC.
	Timezone string `json:"timezone,omitempty"`
	// Probes asks that the requirements are measured too.
	Probes bool          `json:"probes,omitempty"`
	Ignore []DriftIgnore `json:"ignore,omitempty"`
	// Correct asks that Fleet puts right what a scheduled audit finds, once people have
	// approved that; nil means that nothing is ever corrected.
	Correct *DriftCorrect `json:"correct,omitempty"`
}

// DriftCorrect is the gate of a correction of drift.
type DriftCorrect struct {
	// Approvals is how many people of the pipeline must agree, at least one.
	Approvals int `json:"approvals"`
	// Timeout ends a correction that was not approved by then; 0 means never.
	Timeout metav1.Duration `json:"timeout,omitzero"`
}

// DriftIgnore is drift that is known and not reported. Every field that is given must match.
type DriftIgnore struct {
	Kind string `json:"kind,omitempty"`
	// Namespace and Name may have * for any text.
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	// Clusters narrows it to clusters by their labels; nil means all.
	Clusters *metav1.LabelSelector `json:"clusters,omitempty"`
	// Reason is required; reports show it.
	Reason string `json:"reason"`
	// Until is the last day on which it is ignored, in UTC, as YYYY-MM-DD; empty means without end.
	Until string `json:"until,omitempty"`
}

// RollbackScope says how far a failed gate goes back.
type RollbackScope string

const (
	// ScopeEnvironment: only the environment whose gate failed.
	ScopeEnvironment RollbackScope = "environment"
	// ScopeRollout: every environment that this rollout touched.
	ScopeRollout RollbackScope = "rollout"
)

// Rollback settings.
type Rollback struct {
	// Scope defaults to environment.
	Scope RollbackScope `json:"scope,omitempty"`
}
