// Package drift compares what is live on a cluster with what was rolled out to it.
//
// What is wished is what Helm stored on the cluster when Fleet's agent installed
// the revision: the manifest as it was rendered there. What is live comes from lists.
// The comparison knows which fields the API server and Calico fill in by themselves
// and which spellings mean the same, so that nothing is told that nobody changed;
// and it looks at what Fleet does not look at: fields that were added, objects that
// belong to no release, and settings of Felix that change what is enforced.
//
// Everything here is pure: no I/O, no clock.
package drift
