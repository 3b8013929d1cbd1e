package cni

import "net/netip"

// Version is the version of the protocol: one JSON Request on standard input, one
// JSON Reply on standard output.
const Version = 1

// Op is what is asked of a node. Every Op can be asked twice.
type Op string

const (
	// OpLook changes nothing.
	OpLook Op = "look"
	// OpSave keeps the CNI configuration for the Migration (Store.Save).
	OpSave Op = "save"
	// OpSpares writes the spare routes to Peers through flannel's device; no Peers removes them.
	OpSpares Op = "spares"
	// OpPing sends echo requests through the Device to every peer's tunnel address,
	// and fails where one does not answer.
	OpPing Op = "ping"
	// OpLeave writes the spares, deletes flannel's own routes to Peers, and waits until every
	// peer is reached through Calico's device.
	OpLeave Op = "leave"
	// OpEnter writes flannel's own routes to Peers again.
	OpEnter Op = "enter"
	// OpRestore puts the saved CNI configuration back, and writes Addresses as
	// host-local keeps them, so that none is given twice.
	OpRestore Op = "restore"
	// OpUnlink deletes flannel's devices, and with them the spares. It is refused
	// while a best route to one of Peers goes through them.
	OpUnlink Op = "unlink"
	// OpClean removes Canal's configuration files and flannel's rules, chains and
	// runtime files.
	OpClean Op = "clean"
	// OpForget removes what was kept for the Migration.
	OpForget Op = "forget"
)

// Request asks a node for one Op.
type Request struct {
	Version   int    `json:"version"`
	Op        Op     `json:"op"`
	Migration string `json:"migration,omitempty"`
	// Device is the VXLAN device that is meant: flannel's for OpSpares, OpEnter,
	// OpLeave and OpUnlink, any for OpPing.
	Device string `json:"device,omitempty"`
	// Calico is Calico's VXLAN device.
	Calico string `json:"calico,omitempty"`
	// Peers are the other nodes' pod networks. The first address of each is its
	// node's tunnel address.
	Peers []netip.Prefix `json:"peers,omitempty"`
	// Own is the node's own pod network.
	Own netip.Prefix `json:"own,omitzero"`
	// Network is the name of the CNI network, under which host-local keeps addresses.
	Network   string    `json:"network,omitempty"`
	Addresses []Address `json:"addresses,omitempty"`
	// TimeoutMS bounds the Op on the node.
	TimeoutMS int `json:"timeoutMS"`
}

// Address is one that a pod on the node has.
type Address struct {
	IP        netip.Addr `json:"ip"`
	Container string     `json:"container"`
	Interface string     `json:"interface"`
}

// Reply is the node's answer: its state after the Op, also when the Op failed.
type Reply struct {
	// Error is one line, or empty.
	Error string `json:"error,omitempty"`
	// Changes are what the Op changed, one line each.
	Changes []string `json:"changes,omitempty"`
	State   State    `json:"state"`
}

// State is what a node has.
type State struct {
	// BootID changes with every boot.
	BootID string `json:"bootID"`
	Files  []File `json:"files"`
	Saved  bool   `json:"saved,omitempty"`
	// Devices are the VXLAN devices.
	Devices []Device `json:"devices,omitempty"`
	// Routes has one entry for each of the Request's Peers.
	Routes []Route `json:"routes,omitempty"`
	// Residue is what of Canal and flannel is there, one line each: devices, routes,
	// chains and rules of both kinds of iptables, nftables tables, files.
	Residue []string `json:"residue,omitempty"`
	// Unknown is what could not be looked at, one line each; it may hide residue.
	Unknown []string `json:"unknown,omitempty"`
}

// Device is a VXLAN device.
type Device struct {
	Name    string       `json:"name"`
	VNI     int          `json:"vni"`
	Port    int          `json:"port"`
	MTU     int          `json:"mtu"`
	Up      bool         `json:"up"`
	MAC     string       `json:"mac"`
	Address []netip.Addr `json:"address,omitempty"`
}

// Route is how a peer's pods are reached.
type Route struct {
	Peer netip.Prefix `json:"peer"`
	// Through are the devices that the peer's addresses are best reached through:
	// one, or several while Calico's blocks are a part of it; none when there is no way.
	Through []string `json:"through,omitempty"`
	// Direct and Spare tell whether flannel's own and the spare route are there.
	Direct bool `json:"direct,omitempty"`
	Spare  bool `json:"spare,omitempty"`
}

// Where the folders of the node are mounted in the migrator's container.
const (
	// MountConf is the folder of CNI configurations.
	MountConf = "/node/cni-conf"
	// MountNetworks is host-local's folder, /var/lib/cni/networks.
	MountNetworks = "/node/cni-networks"
	// MountKeep is where copies are kept, /var/lib/portcullis.
	MountKeep = "/node/keep"
	// MountRun is flannel's runtime folder, /run/flannel.
	MountRun = "/node/flannel"
)
