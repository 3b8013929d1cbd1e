// Package probes is about reachability: what a pipeline requires of it
// (Requirement) and, in its subpackages, what packets really do. It knows
// nothing of Rancher, Fleet or Temporal.
package probes

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Expect is the required answer of a requirement.
type Expect string

const (
	Allow Expect = "allow"
	Deny  Expect = "deny"
)

// Protocol of a probe.
type Protocol string

const (
	TCP  Protocol = "tcp"
	UDP  Protocol = "udp"
	DNS  Protocol = "dns"
	HTTP Protocol = "http"
)

// Requirement is one line of a pipeline's probes: between whom, and whether
// the path must be open or shut.
type Requirement struct {
	Name   string `json:"name"`
	From   From   `json:"from"`
	To     To     `json:"to"`
	Expect Expect `json:"expect"`
	// Sample, when above zero, bounds how many (source pod, destination) pairs
	// are probed; they are chosen evenly and the report says how many were left out.
	Sample int `json:"sample,omitempty"`
	// Optional requirements may match no pods on a cluster. All others must.
	Optional bool `json:"optional,omitempty"`
}

// From selects source pods. Exactly one of Namespace and Namespaces is set.
type From struct {
	Namespace  string     `json:"namespace,omitempty"`
	Namespaces Namespaces `json:"namespaces,omitzero"`
	Except     []string   `json:"except,omitempty"`
	// Selector is a Calico selector over pod labels (app == 'web'); empty means all pods.
	Selector string `json:"selector,omitempty"`
}

// Namespaces is the string "all" or a list of names.
type Namespaces struct {
	All   bool     `json:"-"`
	Names []string `json:"-"`
}

// To is the destination: exactly one of Selector (pods), Service, Address,
// DNS or URL form is used.
type To struct {
	// Namespace and Selector choose pods; Namespace and Service a ClusterIP service.
	Namespace string `json:"namespace,omitempty"`
	Selector  string `json:"selector,omitempty"`
	Service   string `json:"service,omitempty"`
	// Address is an IP literal or a host name (then resolved in the source pod's
	// network namespace with the pod's DNS).
	Address string `json:"address,omitempty"`
	// DNS is a name that must resolve through the cluster's DNS.
	DNS string `json:"dns,omitempty"`
	// Port and Protocol; Protocol defaults to tcp, or http when HTTPPath is set.
	Port     int      `json:"port,omitempty"`
	Protocol Protocol `json:"protocol,omitempty"`
	HTTPPath string   `json:"httpPath,omitempty"`
}

// Settings are the pipeline-wide probe timings. Zero values take the defaults.
type Settings struct {
	// Timeout of one connection attempt; a deny costs all of it. Default 1s.
	Timeout metav1.Duration `json:"timeout,omitzero"`
	// Settle is how long every deny must hold without a break. Default 5s.
	Settle metav1.Duration `json:"settle,omitzero"`
	// Consecutive is how many rounds in a row every allow must succeed. Default 3.
	Consecutive int `json:"consecutive,omitempty"`
	// Deadline is how long a requirement may be unmet before the cluster fails. Default 30s.
	Deadline metav1.Duration `json:"deadline,omitzero"`
	// Interval between rounds while soaking. Default 30s.
	Interval metav1.Duration `json:"interval,omitzero"`
}

// Defaults for Settings.
const (
	DefaultTimeout     = time.Second
	DefaultSettle      = 5 * time.Second
	DefaultConsecutive = 3
	DefaultDeadline    = 30 * time.Second
	DefaultInterval    = 30 * time.Second
)

// Outcome is what one probe found. Nothing is guessed: what could not be run
// or told is an Error.
type Outcome string

const (
	// Allowed: a completed handshake, an answer, or a datagram seen arriving.
	Allowed Outcome = "allowed"
	// Refused: a reset or port unreachable came back; the path is open, nobody listens.
	Refused Outcome = "refused"
	// Dropped: silence until the deadline.
	Dropped Outcome = "dropped"
	// Unresolved: the name had no answer.
	Unresolved Outcome = "unresolved"
	// Error: the probe could not be run, or its result could not be told.
	Error Outcome = "error"
)

// Evidence is what verification of one cluster found. It is stored in workflow
// history, so it is grouped by workload and bounded in size.
type Evidence struct {
	Cluster string `json:"cluster"`
	// Passed is true when every requirement held for its window.
	Passed bool `json:"passed"`
	// Inconclusive is true when it did not pass and no requirement was seen to
	// be violated either: something could not be measured.
	Inconclusive bool `json:"inconclusive,omitempty"`
	// Reason is one line for people when Passed is false.
	Reason string `json:"reason,omitempty"`
	// Pairs is the number of probes in one round; Rounds how many rounds ran.
	Pairs  int `json:"pairs"`
	Rounds int `json:"rounds"`
	// Skipped is how many pairs sampling left out.
	Skipped int `json:"skipped,omitempty"`
	// Requirements has one entry per requirement, in the pipeline's order.
	Requirements []RequirementResult `json:"requirements"`
	StartedAt    time.Time           `json:"startedAt"`
	FinishedAt   time.Time           `json:"finishedAt"`
	// ProbeTime is the time that was spent inside probe rounds.
	ProbeTime metav1.Duration `json:"probeTime"`
	// Hash is the SHA-256, in hex, over the canonical JSON of the requirements'
	// names, expectations and flows: the same measured reachability gives the same hash.
	Hash string `json:"hash"`
}

// RequirementResult is one requirement's last round, grouped by workload.
type RequirementResult struct {
	Name   string `json:"name"`
	Expect Expect `json:"expect"`
	Passed bool   `json:"passed"`
	// Flows has one entry per pair of workloads, sorted.
	Flows []Flow `json:"flows,omitempty"`
	// FlowsLeftOut counts flows that were dropped from Flows to bound its size;
	// failing flows are kept first.
	FlowsLeftOut int `json:"flowsLeftOut,omitempty"`
}

// Flow is what was measured between two workloads.
type Flow struct {
	// From is namespace/kind/name of the source workload, To the same or an address or name.
	From string `json:"from"`
	To   string `json:"to"`
	// Outcomes counts pairs by outcome.
	Outcomes map[Outcome]int `json:"outcomes"`
	// Detail is one failing pair's story, when the flow failed.
	Detail string `json:"detail,omitempty"`
}
