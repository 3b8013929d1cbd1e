// Package migration plans how a cluster goes from Canal to Calico: which nodes in
// which order, in place or with a drain, what could be disturbed, what the
// vendor says, and what a person must acknowledge first. It is pure: the same
// facts give the same plan and the same hash.
//
// # The way in place
//
// Canal's Felix is Calico's own, and can bring up Calico's overlay beside flannel's
// before anything else changes. In this order no step takes a way away before
// another is there, and each can be undone by itself:
//
//  1. Every node is told its tunnel's address and its own: annotations
//     projectcalico.org/IPv4VXLANTunnelAddr, the first address of its podCIDR, which
//     Felix takes with USE_POD_CIDR anyway, and projectcalico.org/IPv4Address,
//     without which Felix makes no VTEP (felix/calc/vxlan_resolver.go).
//  2. FelixConfiguration vxlanEnabled true, with a VNI and port that are not flannel's:
//     Felix makes vxlan.calico, its neighbours and forwarding entries on all nodes.
//     No route uses it yet, so that it can be tried first.
//  3. A spare route to every peer through flannel's device (package cni), with a metric
//     that loses against every other.
//  4. The pool of the pods' network becomes vxlanMode Always. Felix does not replace
//     flannel's route of the same prefix; it adds its own once that one is deleted, and
//     until then the spare carries. Node by node, this moves the traffic over.
//  5. Claims of every node's pod network (NewClaim), and strict affinity: from here
//     on Calico's IPAM gives no address that another node looks for elsewhere.
//  6. flanneld keeps running on nodes that have left Canal, in a DaemonSet of its own:
//     a node that reboots has both overlays again, whichever side it is on.
//  7. Node by node the Canal pod makes room for calico-node, chosen by a node label.
//     Its installer takes the host-local addresses over (calico-ipam -upgrade) and
//     writes 10-calico.conflist, which is read before 10-canal.conflist. Pods keep
//     their interfaces, which are Calico's already, and their addresses.
//  8. At the end: Canal, the flannel DaemonSet, flannel's device and with it the
//     spares, Canal's configuration, and the FLANNEL chains of iptables.
//
// Canal's ClusterRole calico-node must not be replaced by Calico's of the same name:
// it is what lets Canal's pods on the other nodes start.
package migration
