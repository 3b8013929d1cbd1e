// Package migrate holds the activities that take a cluster from Canal to Calico
// and back, step by step (see package probes/migration for the steps and why they
// come in that order). What was there before is kept on the cluster itself, so
// that the way back needs nothing else.
package migrate

import (
	"time"

	"portcullis.dev/portcullis/probes"
	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/probes/preflight"
	"portcullis.dev/portcullis/rancher"
)

// ClaimInput takes or gives back a cluster for a migration: while it is claimed
// no rollout touches it, and while a rollout touches it it cannot be claimed.
type ClaimInput struct {
	Cluster rancher.Cluster `json:"cluster"`
	// Migration is the ID of the workflow that claims it.
	Migration string `json:"migration"`
}

// StepInput asks for a step, or for its undoing.
type StepInput struct {
	Cluster rancher.Cluster `json:"cluster"`
	// Migration names what is kept on the cluster and its nodes: lower case
	// letters, digits, dots and hyphens, at most 63.
	Migration string         `json:"migration"`
	Step      migration.Step `json:"step"`
	// Node is the node of a node's step; empty for a step of the cluster.
	Node   string           `json:"node,omitempty"`
	Target preflight.Target `json:"target"`
	// Manifest is Calico's manifest, compressed with gzip; only Begin needs it, and
	// keeps it on the cluster.
	Manifest []byte `json:"manifest,omitempty"`
	// Timeout bounds waiting inside the activity, from its first attempt.
	Timeout time.Duration `json:"timeout,omitempty"`
}

// StepResult is what a step found and did.
type StepResult struct {
	// Changes are what was changed, one line each, for people; empty where all was
	// as it must be.
	Changes []string `json:"changes,omitempty"`
	// Evidence are what proves it, one line each.
	Evidence []string `json:"evidence,omitempty"`
	// Took is the step's time in its last attempt; Waited is what of it went into
	// waiting for kubelet, Calico or evictions.
	Took   time.Duration `json:"took"`
	Waited time.Duration `json:"waited,omitempty"`
}

// Progress is the heartbeat of a step: what is awaited, for people.
type Progress struct {
	Phase   string `json:"phase"`
	Ready   int    `json:"ready"`
	Total   int    `json:"total"`
	Waiting string `json:"waiting,omitempty"`
	// StartedAt is when the first attempt began, so that retries keep one deadline.
	StartedAt time.Time `json:"startedAt"`
}

// NodesInput asks for the nodes of a cluster as they are now.
type NodesInput struct {
	Cluster rancher.Cluster `json:"cluster"`
}

// Node is one node as a migration sees it.
type Node struct {
	Name         string `json:"name"`
	ControlPlane bool   `json:"controlPlane,omitempty"`
	Ready        bool   `json:"ready"`
	// CNI is canal or calico: what the node is to have now.
	CNI string `json:"cni"`
}

// RequirementsInput asks what of a cluster can be probed.
type RequirementsInput struct {
	Cluster rancher.Cluster `json:"cluster"`
	// Given are the requirements of a pipeline, where there is one.
	Given []probes.Requirement `json:"given,omitempty"`
}
