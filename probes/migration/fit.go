package migration

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"portcullis.dev/portcullis/probes/preflight"
)

// What the steps need of every node, in place or drained: addresses from host-local in
// the one network that Calico's installer takes over (cni-plugin/pkg/upgrade), and a pod
// network of its own that can be claimed whole, in blocks (NewClaim).
const (
	takenNetwork = "k8s-pod-network"
	takenPlugin  = "calico"
	takenIPAM    = "host-local"
)

// Calico's bounds of a block, as prefix lengths of IPv4.
const (
	largestBlock  = 20
	smallestBlock = 32
)

// fit refuses what no migration can be made of. What a preflight check has refused
// already is not said twice.
func (p *Plan) fit(facts *preflight.ClusterFacts, measured map[string]*preflight.NodeFacts, report *preflight.Report) {
	told := failures(report.Results)
	p.refuse(refusedTarget, unfitTarget(p.Target, facts)...)
	p.refuse(refusedCNI, unfitCNI(facts, measured, told)...)
	p.refuse(refusedNetworks, unfitNetworks(p.Target, facts, told)...)
}

// failures are the required checks that failed.
type failures []preflight.Result

// told tells whether a check failed on a node, or for all of the cluster.
func (f failures) told(id, node string) bool {
	return slices.ContainsFunc(f, func(r preflight.Result) bool {
		return r.ID == id && r.Status == preflight.Fail && (len(r.Nodes) == 0 || slices.Contains(r.Nodes, node))
	})
}

// IDs of the preflight checks that refuse part of what is refused here.
const (
	checkOneCNI   = "cni-one-active"
	checkCNI      = "cni-known"
	checkFamily   = "ip-family"
	checkNetworks = "node-pod-cidr"
)

// grouped has the nodes of each reason, so that a reason is one line.
type grouped struct {
	reasons []string
	nodes   map[string][]string
}

func (g *grouped) add(node, format string, args ...any) {
	reason := fmt.Sprintf(format, args...)
	if g.nodes == nil {
		g.nodes = map[string][]string{}
	}
	if g.nodes[reason] == nil {
		g.reasons = append(g.reasons, reason)
	}
	g.nodes[reason] = append(g.nodes[reason], node)
}

func (g *grouped) lines() []string {
	var out []string
	for _, reason := range g.reasons {
		what := "node "
		if len(g.nodes[reason]) > 1 {
			what = "nodes "
		}
		out = append(out, what+few(g.nodes[reason])+": "+reason)
	}
	return out
}

// unfitTarget says what of the target is open, or cannot be.
func unfitTarget(t preflight.Target, facts *preflight.ClusterFacts) []string {
	var out []string
	if t.Encapsulation != "" && t.Encapsulation != preflight.VXLAN {
		out = append(out, fmt.Sprintf("the target is %s, and a migration from Canal brings up vxlan; leave --encapsulation out", t.Encapsulation))
	}
	if t.PodCIDR == "" {
		out = append(out, "the pods' network is not known; name it with --pod-cidr")
	}
	if t.MTU == 0 {
		out = append(out, "the pods' MTU is not known; name it with --mtu")
	}
	if f := facts.Flannel.Value; f.Backend == "vxlan" && f.VNI == t.VNI && f.Port == t.Port {
		out = append(out, fmt.Sprintf("VNI %d and port %d are flannel's, and both overlays run side by side; choose another with --vni or --port", t.VNI, t.Port))
	}
	return out
}

// unfitCNI says whose pods' addresses cannot be taken over, drained or not.
func unfitCNI(facts *preflight.ClusterFacts, measured map[string]*preflight.NodeFacts, told failures) []string {
	const mend = "give the node Canal's CNI configuration, or take it out of the cluster"
	var found grouped
	for _, n := range facts.Nodes.Value {
		m := measured[n.Name]
		if m == nil || !m.CNI.Known {
			continue
		}
		i := slices.IndexFunc(m.CNI.Value.Configs, func(c preflight.CNIConfig) bool { return c.Error == "" })
		if i < 0 {
			if !told.told(checkOneCNI, n.Name) {
				found.add(n.Name, "it has no CNI configuration that can be used; %s", mend)
			}
			continue
		}
		active := m.CNI.Value.Configs[i]
		switch {
		case told.told(checkCNI, n.Name):
		case !slices.Contains(active.Plugins, takenPlugin):
			found.add(n.Name, "its pods hang on %s, and not on Calico's own interfaces; %s", strings.Join(active.Plugins, ", "), mend)
		case active.IPAM != takenIPAM:
			found.add(n.Name, "its pods have their addresses from %s, and Calico takes over those of %s alone; %s", cmp.Or(active.IPAM, "no IPAM"), takenIPAM, mend)
		case active.Name != takenNetwork:
			found.add(n.Name, "its network is called %q, and Calico takes over the addresses of %q alone; %s", active.Name, takenNetwork, mend)
		}
	}
	return found.lines()
}

// owned is a node's pod network.
type owned struct {
	net  netip.Prefix
	node string
}

// unfitNetworks says which pod networks cannot be claimed.
func unfitNetworks(t preflight.Target, facts *preflight.ClusterFacts, told failures) []string {
	all, err := netip.ParsePrefix(t.PodCIDR)
	known := err == nil
	var (
		found grouped
		good  []owned
	)
	for _, n := range facts.Nodes.Value {
		net, family, why := podNetwork(n.PodCIDRs)
		switch {
		case why != "" && family && told.told(checkFamily, n.Name), why != "" && !family && told.told(checkNetworks, n.Name):
			continue
		case why != "":
			found.add(n.Name, "%s", why)
			continue
		case known && (!all.Contains(net.Addr()) || net.Bits() < all.Bits()) && !told.told(checkNetworks, n.Name):
			found.add(n.Name, "its pod network is not within the pods' network %s", all)
		}
		good = append(good, owned{net, n.Name})
	}
	out := found.lines()
	if line := overlap(good); line != "" && !told.told(checkNetworks, "") {
		out = append(out, line)
	}
	return append(out, unfitBlocks(t, good, facts.Pools.Value)...)
}

// podNetwork reads a node's pod network, or says why it has none that can be moved;
// family is true when that is for the family of its addresses.
func podNetwork(cidrs []string) (net netip.Prefix, family bool, why string) {
	if len(cidrs) == 0 {
		return net, false, "it has no pod network (podCIDR), and none can be claimed for it; see why kube-controller-manager gave it none"
	}
	for _, c := range cidrs {
		var err error
		if net, err = netip.ParsePrefix(c); err != nil {
			return net, false, fmt.Sprintf("its pod network %q is none", c)
		}
		if !net.Addr().Is4() {
			return net, true, fmt.Sprintf("its pod network %s is not of IPv4, and only IPv4 is moved", c)
		}
	}
	if len(cidrs) > 1 {
		return net, false, fmt.Sprintf("it has %d pod networks, and one is all that can be moved", len(cidrs))
	}
	return net.Masked(), false, ""
}

// overlap names two pod networks that have addresses in common, or is "".
func overlap(all []owned) string {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b owned) int { return cmp.Or(a.net.Compare(b.net), strings.Compare(a.node, b.node)) })
	for i := 1; i < len(all); i++ {
		a, b := all[i-1], all[i]
		if a.net.Overlaps(b.net) {
			return fmt.Sprintf("the pod networks %s of node %s and %s of node %s overlap, and an address can be claimed for one; give one of the nodes another podCIDR by making it anew", a.net, a.node, b.net, b.node)
		}
	}
	return ""
}

// unfitBlocks says why the pod networks cannot be cut into blocks, and which size can be.
func unfitBlocks(t preflight.Target, all []owned, pools []preflight.Pool) []string {
	if len(all) == 0 {
		return nil
	}
	size := cmp.Or(t.BlockSize, preflight.DefaultBlockSize)
	bits := func(a, b owned) int { return cmp.Compare(a.net.Bits(), b.net.Bits()) }
	small, large := slices.MaxFunc(all, bits), slices.MinFunc(all, bits)
	least, most := max(small.net.Bits(), largestBlock), min(large.net.Bits()+maxBlockBits, smallestBlock)
	if least > most {
		return []string{fmt.Sprintf("no size of blocks fits both the pod network %s of node %s and %s of node %s; make one of the nodes anew with a podCIDR of another size",
			large.net, large.node, small.net, small.node)}
	}
	var out []string
	switch {
	case size < least:
		out = append(out, fmt.Sprintf("the pod network %s of node %s is smaller than a block of /%d; use --block-size %d", small.net, small.node, size, least))
	case size > most:
		out = append(out, fmt.Sprintf("the pod network %s of node %s has more than %d blocks of /%d; use --block-size %d", large.net, large.node, 1<<maxBlockBits, size, most))
	}
	for _, pool := range pools {
		switch have := pool.BlockSize; {
		case pool.CIDR != t.PodCIDR || have == 0 || have == size:
		case have < least || have > most:
			out = append(out, fmt.Sprintf("pool %s has blocks of /%d, which cannot be changed and do not fit the nodes' pod networks; replace it with one of the same network with blocks of /%d to /%d", pool.Name, have, least, most))
		default:
			out = append(out, fmt.Sprintf("pool %s has blocks of /%d, which cannot be changed, and not /%d; use --block-size %d", pool.Name, have, size, have))
		}
	}
	return out
}
