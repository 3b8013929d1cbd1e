// Package cni is the node's side of a migration from Canal to Calico: it saves
// and swaps the node's CNI configuration, keeps a second way through flannel's
// overlay while Calico's takes over, and clears away what flannel leaves behind.
//
// Every operation can be repeated, changes nothing that is as it should be
// already, and has a way back that needs no more than the node itself. Nothing
// here talks to an API server. One operation changes the node at a time.
//
// # How it is asked
//
// Serve reads one Request and writes one Reply; each Request is a process of its
// own, so that one that was killed leaves nothing running. A Reply has the node's
// state after the operation, also when that failed.
//
// # What it needs
//
// The node's network and process namespaces, the folders of the Mount constants,
// and the capabilities NET_ADMIN for routes, devices and rules, NET_RAW for echo
// requests and the tables of the old iptables, and SYS_PTRACE, SYS_CHROOT and
// SYS_ADMIN to run the node's own iptables-legacy. That is the one program of the
// node that is run, and only to remove flannel's rules from the old tables.
//
// # What is reached through which device
//
// The kernel is asked, for one address of every part of a peer's network inside of
// which all addresses have the same routes. So neither a more specific route nor a
// rule that chooses another table is overlooked.
//
// # What counts as residue
//
//   - flannel's VXLAN devices and the routes through them; a bridge cni0 without ports;
//   - the spare routes, and flannel's black hole of the node's own pod network, but
//     not Calico's, which has a routing protocol of its own;
//   - chains FLANNEL-*, rules that jump to them, and rules with flannel's comments,
//     in the tables nat and filter of both kinds of iptables; of IPv6 where
//     iptables-nft wrote them;
//   - nftables tables flannel-ipv4 and flannel-ipv6, but not arp calico-arp, which is
//     Felix's;
//   - Canal's configuration, what Portcullis left beside it, /run/flannel/subnet.env,
//     and host-local's folder of the network once another plugin gives the addresses.
package cni
