// Package wire finds out what packets really do. It is the node side of a
// probe: it enters the network namespaces of the node's pods and makes
// connections from there, so a connection has the pod's true identity: its
// address, its labels, its node, its policy. No pod is created, and no image
// is pulled.
//
// # How a pod is found
//
// No container runtime socket is mounted: whoever holds that socket holds the
// node, and its path and protocol differ between RKE2, K3s and plain containerd.
// Instead, /proc/*/cgroup is searched for the pod's UID, which kubelet puts into
// the path whatever the runtime, the cgroup driver or the cgroup version is. A
// namespace is used only when it has one of the pod's addresses, so a container
// inside the pod with a network of its own, or a namespace left over from a
// sandbox that was replaced, is never mistaken for the pod.
//
// # What a result means
//
// TCP: a completed handshake is allowed, a reset is refused, silence is dropped.
// A connection that is answered by an ICMP message instead was turned away on
// the way: that says neither that the path is open nor that packets are dropped,
// so it is an error that says who sent the message.
//
// UDP: an answer is allowed; a port unreachable that the destination itself sent
// is refused. Silence says nothing by itself. Such a result is marked Silent, and
// Settle decides it by what a witness saw arrive in the destination pod: allowed
// or dropped, and without a witness an error.
//
// DNS: a question to the pod's own resolver (its /etc/resolv.conf, search list
// and ndots included). An address is allowed, another answer (no such name, server failure)
// is unresolved, silence is dropped.
//
// HTTP: any HTTP response is allowed; the detail has its status.
//
// Whatever has not been answered at half the time-out is tried once more (TCP
// from another port), so one lost packet is not taken for a policy. Whatever could
// not be run is an error with the reason, never left out.
//
// # Protocol
//
// Serve reads requests, one JSON object per line, and answers each with lines
// of JSON: progress and results, then one line of type done or error. A session
// ends with the input, with a bye, or after five minutes without a request.
package wire
