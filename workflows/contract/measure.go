package contract

import (
	"time"

	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/probes"
	"portcullis.dev/portcullis/rancher"
)

// BaselineBatch is the evidence of up to BatchSize clusters, compressed: what
// passes between workflows stays far below Temporal's payload limit.
type BaselineBatch struct {
	// Hashes maps each cluster to the hash of its evidence.
	Hashes map[string]string `json:"hashes"`
	// Data is gzip over the JSON of map[cluster]probes.Evidence.
	Data []byte `json:"data"`
}

// BatchSize bounds the clusters of one VerifyClusters.
const BatchSize = 100

// VerifyInput starts a VerifyClusters: one measurement of up to BatchSize clusters.
type VerifyInput struct {
	Pipeline     string               `json:"pipeline"`
	Environment  string               `json:"environment"`
	Phase        string               `json:"phase"`
	Clusters     []rancher.Cluster    `json:"clusters"`
	Requirements []probes.Requirement `json:"requirements"`
	Settings     probes.Settings      `json:"settings,omitzero"`
	Mode         verify.Mode          `json:"mode"`
	// Duration is how long to soak.
	Duration time.Duration `json:"duration,omitempty"`
	// EnsureAgent, when above zero, installs the node agents first and waits so
	// long for all clusters of the batch together.
	EnsureAgent time.Duration `json:"ensureAgent,omitempty"`
	// Want is the baseline to compare with.
	Want *BaselineBatch `json:"want,omitempty"`
	// Keep asks for the evidence itself in the result.
	Keep bool `json:"keep,omitempty"`
}

// VerifyResult is the result of a VerifyClusters, in the order of the input.
type VerifyResult struct {
	Clusters []ClusterEvidence `json:"clusters"`
	Kept     *BaselineBatch    `json:"kept,omitempty"`
}

// ClusterEvidence is what a promotion keeps of one cluster's evidence.
type ClusterEvidence struct {
	Cluster      string        `json:"cluster"`
	Passed       bool          `json:"passed"`
	Inconclusive bool          `json:"inconclusive,omitempty"`
	Reason       string        `json:"reason,omitempty"`
	Pairs        int           `json:"pairs,omitempty"`
	Failing      int           `json:"failing,omitempty"`
	Hash         string        `json:"hash,omitempty"`
	ProbeTime    time.Duration `json:"probeTime,omitempty"`
}
