// Package migration plans how a cluster goes from Canal to Calico: which nodes in
// which order, in place or with a drain, what could be disturbed, what the
// vendor says, and what a person must acknowledge first. It is pure: the same
// facts give the same plan and the same hash.
package migration
