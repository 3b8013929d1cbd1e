// Package contract is what the parts of Portcullis agree on: workflow names
// and IDs, inputs and results, messages and search attributes. It is a leaf:
// it holds no behaviour beyond building IDs.
package contract

import (
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
