// Package preflight says whether a cluster can take Calico: it judges measured
// facts of nodes, what packets between nodes did, and what the API server says,
// against a closed list of checks (Checks). It is pure; what measures is in
// preflight/node and in the activities.
//
// What was not measured is unknown. A check that needs it is then unknown too,
// and never passes.
package preflight
