package migration

// Step is one change on the way from Canal to Calico, of the whole cluster or of
// one node. Every step can be made twice, and every step can be undone, also when
// it was made in part.
type Step string

// The cluster's steps before any node moves. None of them moves traffic.
const (
	// Begin saves what is there, on the cluster and on every node, and installs
	// the migrator on the nodes.
	Begin Step = "begin"
	// Tunnels brings Calico's overlay up beside flannel's, tries it between all
	// nodes, and writes the spare routes.
	Tunnels Step = "tunnels"
	// Addresses makes the pool, and claims every node's pod network in Calico's IPAM.
	Addresses Step = "addresses"
	// Split lets a label choose between Canal and Calico on each node, and
	// installs Calico and the DaemonSet that keeps flanneld; no node has the label yet.
	Split Step = "split"
)

// The steps of one node.
const (
	// Check sees that the node and its pods are well, and changes nothing.
	Check Step = "check"
	// Evict cordons the node and moves its pods away through the eviction API; its
	// undoing uncordons. It is made only where the node is drained.
	Evict Step = "evict"
	// Leave takes the node's traffic from flannel's overlay to Calico's.
	Leave Step = "leave"
	// Swap lets calico-node take the place of the Canal pod.
	Swap Step = "swap"
	// Uncordon ends what Evict began.
	Uncordon Step = "uncordon"
)

// The cluster's steps when every node has moved.
const (
	// Turn makes Calico the choice for nodes without a label, so that a node that
	// joins from here on gets it, and takes every node's traffic off flannel's overlay.
	Turn Step = "turn"
	// Unlink ends flanneld and takes its devices away, node by node.
	Unlink Step = "unlink"
	// Adopt deletes Canal, and leaves Calico exactly as its manifest says.
	Adopt Step = "adopt"
	// Clean removes every residue, proves that none is left, and takes the
	// migrator away. It is the only step without a way back.
	Clean Step = "clean"
)

// Preparation, NodeSteps and Completion give the steps in their order.
func Preparation() []Step { return []Step{Begin, Tunnels, Addresses, Split} }

// NodeSteps are those of one node in the given mode.
func NodeSteps(mode Mode) []Step {
	if mode == Drain {
		return []Step{Check, Evict, Leave, Swap, Uncordon}
	}
	return []Step{Check, Leave, Swap}
}

// Completion are the steps after the last node. All but the last can be undone.
func Completion() []Step { return []Step{Turn, Unlink, Adopt, Clean} }
