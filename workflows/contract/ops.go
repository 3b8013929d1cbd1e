package contract

import (
	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/probes"
	"portcullis.dev/portcullis/rancher"
)

// The small workflows of the command line. PlanRollout takes a RolloutInput and
// returns a RolloutPlan; it writes nothing.

// ProbeInput starts a Probe: the requirements, measured now, nothing changed but
// the node agents.
type ProbeInput struct {
	Pipeline Pipeline `json:"pipeline"`
	// Environments and Clusters (names or Rancher IDs) narrow it; both empty means all.
	Environments []string `json:"environments,omitempty"`
	Clusters     []string `json:"clusters,omitempty"`
	// Baseline measures what is, without judging it: it passes when all probes
	// ran and agreed.
	Baseline bool `json:"baseline,omitempty"`
}

// ProbeResult is the result of a Probe.
type ProbeResult struct {
	Passed bool `json:"passed"`
	// Clusters maps each cluster's name to its evidence. Above 50 clusters the
	// flows of requirements that passed are left out.
	Clusters map[string]probes.Evidence `json:"clusters"`
	// Environment maps each cluster to its environment.
	Environment map[string]string `json:"environment"`
}

// InventoryInput starts an Inventory.
type InventoryInput struct{}

// InventoryResult is the result of an Inventory.
type InventoryResult struct {
	Clusters []rancher.Cluster `json:"clusters"`
}

// AgentAction is what an Agent workflow does.
type AgentAction string

const (
	AgentInstall AgentAction = "install"
	AgentRemove  AgentAction = "remove"
	AgentStatus  AgentAction = "status"
)

// AgentInput starts an Agent.
type AgentInput struct {
	Action AgentAction `json:"action"`
	// Clusters are names or Rancher IDs; All means every cluster of the inventory.
	Clusters []string `json:"clusters,omitempty"`
	All      bool     `json:"all,omitempty"`
}

// AgentResult is the result of an Agent, by cluster name.
type AgentResult struct {
	Clusters map[string]ClusterAgents `json:"clusters"`
}

// ClusterAgents is one cluster's agents, or why they could not be had.
type ClusterAgents struct {
	verify.Agents
	Error string `json:"error,omitempty"`
	// ErrorType is one of the errs types.
	ErrorType string `json:"errorType,omitempty"`
}

// HoldInput starts a Hold: Reason set holds the pipeline, empty releases it.
type HoldInput struct {
	Pipeline string `json:"pipeline"`
	Reason   string `json:"reason,omitempty"`
	By       string `json:"by"`
}
