// Package manifest reads Calico's published manifest, the one without the operator
// (calico-vxlan.yaml), and gives the objects of it as a migration needs them:
// as they are, and as they stand beside Canal while some nodes still run it. It is
// pure: it talks to no cluster.
//
// A manifest is read strictly. What would fight the migration (another backend than
// VXLAN, another IPAM than Calico's, settings in calico-node's environment that beat
// FelixConfiguration) is refused with its line, before anything is changed.
package manifest
