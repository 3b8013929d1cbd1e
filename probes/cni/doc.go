// Package cni is the node's side of a migration from Canal to Calico: it saves
// and swaps the node's CNI configuration, keeps a second way through flannel's
// overlay while Calico's takes over, and clears away what flannel leaves behind.
//
// Every operation can be repeated, changes nothing that is as it should be
// already, and has a way back that needs no more than the node itself. Nothing
// here talks to an API server.
package cni
