// Package node is the node side of a preflight: it measures what package
// preflight judges, and sends and awaits the packets between nodes.
//
// # Where the node is
//
// The agent is in the node's network and process namespaces, but sees the files
// of its image. The node's files are those of the container runtime: the nearest
// ancestor of the agent's process that is in another mount namespace. So nothing
// of the node is mounted into the agent. Paths are resolved inside that root, so
// that a symbolic link in it cannot lead to a file of the agent.
//
// # What is changed
//
// Nothing. IP sets are tried in a network namespace made for that alone, which
// ends with the trial. The one program of the node that is run is its iptables,
// with --version. While packets are awaited, ports that are free are listened on.
//
// # How packets are awaited
//
// UDP and IP protocols are awaited on raw sockets, which see a packet after the
// node's own filter let it in, bind no port, and take nothing from whoever has
// it. A TCP port that is free gets a listener for as long as it is tried; for one
// that is taken, whoever listens there answers.
package node
