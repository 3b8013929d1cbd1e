package preflight

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

var clusterChecks = []Check{
	{
		ID: "agent-answers", Title: "Every node was measured", Severity: Required,
		Why:       "What is not known of a node can stop a migration in its middle.",
		Threshold: "the agent answered on every Linux node", Source: srcJudgement,
		Remedy: "portcullis agent status CLUSTER tells why an agent is not ready",
		node:   func(_ *judging, n *NodeFacts) finding { return pass("answered") },
	},
	{
		ID: "nodes-ready", Title: "Nodes are ready", Severity: Required,
		Why:       "A node that is not ready cannot be moved, and cannot be seen to be well afterwards.",
		Threshold: "all", Source: srcJudgement, Remedy: "mend the nodes that are named, or remove them from the cluster",
		cluster: one(func(j *judging) finding {
			nodes, u := need(j.cluster.Nodes)
			if u != nil {
				return *u
			}
			if len(nodes) == 0 {
				return unsure("the API server lists no nodes")
			}
			f := miss("not ready")
			for _, n := range nodes {
				if !n.Ready {
					f.nodes = append(f.nodes, n.Name)
				}
			}
			if len(f.nodes) == 0 {
				return pass("all %d", len(nodes))
			}
			return f
		}),
	},
	{
		ID: "node-count", Title: "More than one node", Severity: Advised,
		Why:       "On a cluster of one node nothing can be drained to another: what a move interrupts is interrupted for everybody.",
		Threshold: "2 or more", Source: srcJudgement, Remedy: "plan an outage, and acknowledge it when the migration is started",
		cluster: one(func(j *judging) finding {
			nodes, u := need(j.cluster.Nodes)
			switch {
			case u != nil:
				return *u
			case len(nodes) == 0:
				return unsure("the API server lists no nodes")
			case len(nodes) == 1:
				return miss("1 node")
			}
			return pass("%d nodes", len(nodes))
		}),
	},
	{
		ID: "windows-nodes", Title: "No Windows nodes", Severity: Required,
		Why:       "Windows nodes need a VNI of 4096 or more and a network of their own; a shared overlay with VNI 1 leaves them out.",
		Threshold: "Linux only", Source: "felix#1992", Remedy: "remove the Windows nodes, or rebuild the cluster with Calico",
		cluster: one(func(j *judging) finding {
			nodes, u := need(j.cluster.Nodes)
			if u != nil {
				return *u
			}
			f := miss("not Linux")
			var untold []string
			for _, n := range nodes {
				switch n.OS {
				case "linux":
				case "":
					untold = append(untold, n.Name)
				default:
					f.nodes = append(f.nodes, n.Name)
				}
			}
			switch {
			case len(f.nodes) > 0:
				return f
			case len(untold) > 0 || len(nodes) == 0:
				u := unsure("the operating system is not known")
				u.nodes = untold
				return u
			}
			return pass("all %d are Linux", len(nodes))
		}),
	},
	{
		ID: "ip-family", Title: "IPv4 only", Severity: Required,
		Why:       "Portcullis moves IPv4. IPv6 addresses of pods would be lost on the way.",
		Threshold: "no IPv6 podCIDR, pool or flannel network", Source: srcMigration, Remedy: "rebuild the cluster with Calico; a dual-stack cluster is not moved",
		cluster: one(ipFamily),
	},
	{
		ID: "kubernetes-version", Title: "Kubernetes version", Severity: Required,
		Why:       "Calico is tested with these versions only.",
		Threshold: testedList, Source: srcRequirements + " of each version",
		Remedy: "choose a Calico that is tested with this Kubernetes (--calico-version), or update Kubernetes first",
		cluster: one(func(j *judging) finding {
			have, u := need(j.cluster.Kubernetes)
			if u != nil {
				return *u
			}
			k, ok := version(have)
			c, ok2 := version(j.target.Version)
			list, listed := tested[c[1]]
			switch {
			case !ok:
				return unsure("the version " + have + " is not understood")
			case !ok2:
				return unsure("Kubernetes " + have + "; the Calico that is wanted is not known (--calico-version)")
			case c[0] != 3 || !listed:
				return unsure(fmt.Sprintf("Kubernetes %s; nothing is known of Calico %s", have, j.target.Version))
			case k[0] != 1 || k[1] < list[0] || k[1] > list[1]:
				return miss("%s is not tested with Calico %s (1.%d to 1.%d are)", have, j.target.Version, list[0], list[1])
			}
			return pass("%s with Calico %s", have, j.target.Version)
		}),
	},
	{
		ID: "calico-version", Title: "Calico version", Severity: Required,
		Why:       "A Calico that nothing is known of cannot be judged, and one that goes back in versions may not read what is stored.",
		Threshold: "3.27 to 3.32, and not older than what runs", Source: srcRequirements, Remedy: "choose another version with --calico-version",
		cluster: one(calicoVersion),
	},
	{
		ID: "existing-cni", Title: "The pod network that runs", Severity: Required,
		Why:       "The way to Calico depends on where it starts. Two networks at once are an attempt that somebody did not finish.",
		Threshold: "one of canal, rke2-canal, kube-flannel or calico, and the same on every node", Source: srcMigration,
		Remedy:  "finish or take back what was begun by other means first; a cluster with another CNI must be rebuilt",
		cluster: existingCNI,
	},
	{
		ID: "cni-addon", Title: "Who looks after the pod network's manifest", Severity: Required,
		Why:       "An add-on controller puts its own manifest back, or removes everything when the setting changes, in one step on all nodes.",
		Threshold: "a plain manifest; an add-on of RKE2, K3s or the add-on manager must be taken in hand first", Source: srcMigration + "; RKE2, basic network options; rke2#11055",
		Remedy:  "portcullis migrate plan tells what is done with it, and what the vendor's position is",
		cluster: one(cniAddon),
	},
	{
		ID: "cni-healthy", Title: "The pod network is well", Severity: Required,
		Why:       "What does not work before cannot be told from what broke.",
		Threshold: "its pods are ready on all their nodes", Source: srcJudgement, Remedy: "mend the DaemonSet's pods that are not ready first",
		cluster: one(func(j *judging) finding {
			sets, u := need(j.cluster.DaemonSets)
			switch {
			case u != nil:
				return *u
			case len(sets) == 0:
				return unsure("no pod network was found")
			}
			var bad, good []string
			for _, d := range sets {
				text := fmt.Sprintf("%s/%s %d of %d ready", d.Namespace, d.Name, d.Ready, d.Desired)
				if d.Ready < d.Desired || d.Desired == 0 {
					bad = append(bad, text)
				}
				good = append(good, text)
			}
			if len(bad) > 0 {
				return miss("%s", strings.Join(bad, ", "))
			}
			return pass("%s", strings.Join(good, ", "))
		}),
	},
	{
		ID: "flannel-backend", Title: "flannel's backend", Severity: Required,
		Why:       "Only flannel's VXLAN can share the nodes with Calico's. host-gw, WireGuard, IPIP and UDP have no counterpart that both sides understand.",
		Threshold: "vxlan without DirectRouting", Source: srcMigration, Remedy: "rebuild the cluster with Calico, or move flannel to vxlan in a maintenance window first",
		when: func(j *judging) bool { return j.usesFlannel() || !j.cluster.DaemonSets.Known },
		cluster: one(func(j *judging) finding {
			f, u := need(j.cluster.Flannel)
			switch {
			case u != nil:
				return *u
			case !f.Present || f.Backend == "":
				return unsure("flannel's configuration was not found")
			case f.Backend != "vxlan":
				return miss("%s (%s)", f.Backend, f.Source)
			case f.DirectRouting:
				return miss("vxlan with DirectRouting (%s)", f.Source)
			}
			return pass("vxlan, VNI %d, port %d", f.VNI, f.Port)
		}),
	},
	{
		ID: "node-pod-cidr", Title: "podCIDR of each node", Severity: Required,
		Why:       "flannel's nodes own their addresses by podCIDR. Calico's blocks are claimed from it.",
		Threshold: "each node has one, within the pods' network, and no two overlap", Source: srcMigration,
		Remedy:  "start kube-controller-manager with --allocate-node-cidrs and --cluster-cidr, and see why the nodes that are named have none",
		when:    func(j *judging) bool { return j.usesFlannel() || !j.cluster.DaemonSets.Known },
		cluster: one(nodePodCIDR),
	},
	{
		ID: "flannel-annotations", Title: "flannel's annotations on each node", Severity: Required,
		Why:       "Calico's side of a shared overlay takes each node's address and hardware address from them.",
		Threshold: "backend-type vxlan, backend-data with a VtepMAC, public-ip", Source: srcMigration, Remedy: "restart flannel on the nodes that are named",
		when:    func(j *judging) bool { return j.usesFlannel() || !j.cluster.DaemonSets.Known },
		cluster: one(flannelAnnotations),
	},
	{
		ID: "cidr-overlap", Title: "Networks do not overlap", Severity: Required,
		Why:       "An address that is in two networks is reached in one of them only.",
		Threshold: "pods, services, nodes and pools are apart", Source: srcRequirements, Remedy: "choose another network for the pool that is named; Calico's and flannel's network of pods must be one and the same",
		cluster: one(cidrOverlap),
	},
	{
		ID: "ipam-capacity", Title: "Room for addresses", Severity: Required,
		Why:       "Calico gives addresses by blocks. A node that gets none cannot start pods.",
		Threshold: "a block for each node and one to spare, and an address for each pod; below twice the pods warns", Source: "Calico, IP pools (blockSize 26: 64 addresses)",
		Remedy:  "make the pool larger, or its blocks smaller (blockSize)",
		cluster: one(ipamCapacity),
	},
	{
		ID: "calico-api", Title: "How Calico's objects are served", Severity: Advised,
		Why:       "Without the projectcalico.org/v3 API, objects are stored as they come: not validated and not defaulted. A policy with egress rules and no types then also shuts ingress.",
		Threshold: "aggregated or native v3; crd.projectcalico.org alone warns", Source: "calico#6108; rke2-charts#244", Remedy: "install Calico's API server, or check policies before they are stored",
		cluster: one(func(j *judging) finding {
			a, u := need(j.cluster.CalicoAPI)
			if u != nil {
				return *u
			}
			switch a.Mode {
			case "aggregated", "native":
				return pass("projectcalico.org/v3, %s", a.Mode)
			case "crd":
				return miss("crd.projectcalico.org only")
			case "none":
				if j.cluster.DaemonSets.Known && !j.felixRuns() {
					return pass("none yet: Calico brings it")
				}
				return miss("none, although Calico runs")
			}
			return unsure("it cannot be told how they are served")
		}),
	},
	{
		ID: "kube-proxy-mode", Title: "kube-proxy's mode", Severity: Advised,
		Why:       "With nftables, kube-proxy's rules come in another order than Felix expects before 3.29.",
		Threshold: "iptables or ipvs; nftables from Calico 3.29 on", Source: "Calico, nftables data plane", Remedy: "set kube-proxy's mode to iptables",
		cluster: one(func(j *judging) finding {
			mode, u := need(j.cluster.ProxyMode)
			if u != nil {
				return *u
			}
			switch mode {
			case "iptables", "ipvs", "none":
				return pass("%s", mode)
			case "nftables":
				v, ok := version(j.target.Version)
				switch {
				case !ok:
					return unsure("nftables, and the Calico that is wanted is not known")
				case before(v, [4]int{3, 29}):
					return miss("nftables with Calico %s", j.target.Version)
				}
				return pass("nftables with Calico %s", j.target.Version)
			}
			return unsure("the mode " + mode + " is not known")
		}),
	},
}

func (j *judging) felixRuns() bool {
	return slices.ContainsFunc(j.cluster.DaemonSets.Value, func(d CNISet) bool {
		return d.Flavour == FlavourCanal || d.Flavour == FlavourRKE2Canal || d.Flavour == FlavourCalico
	})
}

func ipFamily(j *judging) finding {
	nodes, u := need(j.cluster.Nodes)
	if u != nil {
		return *u
	}
	pools, u := need(j.cluster.Pools)
	if u != nil {
		return *u
	}
	flannel, u := need(j.cluster.Flannel)
	if u != nil {
		return *u
	}
	var found []string
	is6 := func(cidr string) bool { return strings.Contains(cidr, ":") }
	for _, n := range nodes {
		if slices.ContainsFunc(n.PodCIDRs, is6) {
			found = append(found, "podCIDRs of node "+n.Name)
		}
	}
	for _, p := range pools {
		if is6(p.CIDR) && !p.Disabled {
			found = append(found, "pool "+p.Name)
		}
	}
	if flannel.IPv6 != "" {
		found = append(found, "flannel's network "+flannel.IPv6)
	}
	if len(found) > 0 {
		return miss("IPv6 in %s", summary(found))
	}
	if len(nodes) == 0 {
		return unsure("the API server lists no nodes")
	}
	return pass("IPv4 only")
}

func calicoVersion(j *judging) finding {
	sets, u := need(j.cluster.DaemonSets)
	if u != nil {
		return *u
	}
	want, ok := version(j.target.Version)
	if !ok {
		return unsure("no Calico runs, and none was named (--calico-version)")
	}
	if _, listed := tested[want[1]]; want[0] != 3 || !listed {
		return miss("%s: nothing is known of it", j.target.Version)
	}
	for _, d := range sets {
		if have, ok := version(d.Calico); ok && before(want, have) {
			return miss("%s is older than the %s of %s/%s", j.target.Version, d.Calico, d.Namespace, d.Name)
		}
	}
	return pass("%s", j.target.Version)
}

func existingCNI(j *judging) []finding {
	sets, u := need(j.cluster.DaemonSets)
	if u != nil {
		return []finding{*u}
	}
	var names []string
	kinds := map[Flavour]bool{}
	for _, d := range sets {
		kinds[d.Flavour] = true
		names = append(names, fmt.Sprintf("%s (DaemonSet %s/%s)", d.Flavour, d.Namespace, d.Name))
	}
	text := strings.Join(names, ", ")
	var out []finding
	switch {
	case len(sets) == 0:
		// A network without a DaemonSet, such as K3s's own flannel, is told by its configuration.
		if j.cluster.Flannel.Known && j.cluster.Flannel.Value.Present {
			return []finding{miss("flannel without a DaemonSet (%s)", j.cluster.Flannel.Value.Source)}
		}
		return []finding{miss("no pod network that is known")}
	case kinds[FlavourOther]:
		out = append(out, miss("%s: not one of those that can be moved", text))
	case len(kinds) > 1:
		out = append(out, miss("two at once: %s", text))
	default:
		out = append(out, pass("%s", text))
	}
	if f := mixedNodes(j); f != nil {
		out = append(out, *f)
	}
	return out
}

// mixedNodes says whether nodes use different CNI configurations.
func mixedNodes(j *judging) *finding {
	by := map[string][]string{}
	for i := range j.nodes {
		n := &j.nodes[i]
		if f := active(n.CNI.Value); f != nil {
			kind := first(f.Plugins) + " with " + orNone(f.IPAM)
			by[kind] = append(by[kind], n.Node)
		}
	}
	if len(by) < 2 {
		return nil
	}
	f := miss("nodes differ in what their CNI configuration calls")
	for _, kind := range slices.Sorted(maps.Keys(by)) {
		f.more = append(f.more, fmt.Sprintf("%s: %s", kind, nameList(by[kind])))
	}
	return &f
}

// nameList names at most five.
func nameList(names []string) string {
	if len(names) <= 5 {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:5], ", "), len(names)-5)
}

func cniAddon(j *judging) finding {
	sets, u := need(j.cluster.DaemonSets)
	if u != nil {
		return *u
	}
	if len(sets) == 0 {
		return unsure("no pod network was found")
	}
	var held []string
	hard := false
	for _, d := range sets {
		if d.Addon == AddonNone {
			continue
		}
		held = append(held, fmt.Sprintf("%s/%s: %s", d.Namespace, d.Name, d.Addon))
		// A plain Helm release does nothing by itself.
		hard = hard || d.Addon != AddonHelm
	}
	switch {
	case len(held) == 0:
		return pass("a plain manifest")
	case hard:
		return miss("%s", strings.Join(held, ", "))
	}
	return warn("%s", strings.Join(held, ", "))
}

func nodePodCIDR(j *judging) finding {
	nodes, u := need(j.cluster.Nodes)
	if u != nil {
		return *u
	}
	if len(nodes) == 0 {
		return unsure("the API server lists no nodes")
	}
	network, netErr := netip.ParsePrefix(j.target.PodCIDR)
	none := miss("without podCIDR")
	outside := miss("podCIDR outside %s", j.target.PodCIDR)
	type own struct {
		p    netip.Prefix
		node string
	}
	var all []own
	for _, n := range nodes {
		if len(n.PodCIDRs) == 0 {
			none.nodes = append(none.nodes, n.Name)
			continue
		}
		p, err := netip.ParsePrefix(n.PodCIDRs[0])
		if err != nil || netErr == nil && (!network.Contains(p.Addr()) || p.Bits() < network.Bits()) {
			outside.nodes = append(outside.nodes, n.Name)
			continue
		}
		all = append(all, own{p.Masked(), n.Name})
	}
	switch {
	case len(none.nodes) > 0:
		return none
	case len(outside.nodes) > 0:
		return outside
	}
	slices.SortFunc(all, func(a, b own) int { return a.p.Addr().Compare(b.p.Addr()) })
	for i := 1; i < len(all); i++ {
		if all[i].p.Overlaps(all[i-1].p) {
			return miss("%s of %s and %s of %s overlap", all[i-1].p, all[i-1].node, all[i].p, all[i].node)
		}
	}
	if netErr != nil {
		return unsure("the pods' network is not known, so it cannot be told whether the nodes' are within it")
	}
	return pass("all %d within %s", len(nodes), network)
}

func flannelAnnotations(j *judging) finding {
	nodes, u := need(j.cluster.Nodes)
	if u != nil {
		return *u
	}
	if len(nodes) == 0 {
		return unsure("the API server lists no nodes")
	}
	f := miss("missing or not of vxlan")
	for _, n := range nodes {
		_, err := netip.ParseAddr(n.Flannel["public-ip"])
		if n.Flannel["backend-type"] != "vxlan" || !strings.Contains(n.Flannel["backend-data"], "VtepMAC") || err != nil {
			f.nodes = append(f.nodes, n.Name)
		}
	}
	if len(f.nodes) > 0 {
		return f
	}
	return pass("all %d", len(nodes))
}

// named is a network and what it is.
type named struct {
	prefix netip.Prefix
	what   string
}

func cidrOverlap(j *judging) finding {
	services, u := need(j.cluster.Services)
	if u != nil {
		return *u
	}
	pools, u := need(j.cluster.Pools)
	if u != nil {
		return *u
	}
	pods, err := netip.ParsePrefix(j.target.PodCIDR)
	if err != nil {
		return unsure("the pods' network is not known")
	}
	nets := []named{{pods.Masked(), "pods"}}
	for _, p := range pools {
		prefix, err := netip.ParsePrefix(p.CIDR)
		// The default pool that Canal leaves, and never uses, is in nobody's way unless it overlaps.
		if err == nil && !p.Disabled && prefix.Masked() != pods.Masked() && prefix.Addr().Is4() {
			nets = append(nets, named{prefix.Masked(), "pool " + p.Name})
		}
	}
	for _, c := range services.CIDRs {
		if prefix, err := netip.ParsePrefix(c); err == nil {
			nets = append(nets, named{prefix.Masked(), "services"})
		}
	}
	hosts := map[netip.Prefix]string{}
	for _, h := range j.hostNets {
		hosts[h.prefix] = h.link + " of " + h.node
	}
	var found []string
	for i, a := range nets {
		for _, b := range nets[i+1:] {
			if a.prefix.Overlaps(b.prefix) {
				found = append(found, fmt.Sprintf("%s %s and %s %s", a.what, a.prefix, b.what, b.prefix))
			}
		}
		for _, h := range slices.SortedFunc(maps.Keys(hosts), comparePrefix) {
			if a.prefix.Overlaps(h) {
				found = append(found, fmt.Sprintf("%s %s and %s %s", a.what, a.prefix, hosts[h], h))
			}
		}
	}
	for _, s := range services.Addresses {
		if addr, err := netip.ParseAddr(s); err == nil && pods.Contains(addr) {
			found = append(found, fmt.Sprintf("pods %s and the service address %s", pods, addr))
			break
		}
	}
	if len(found) > 0 {
		return miss("%s", summary(found))
	}
	known := 0
	for i := range j.nodes {
		if j.nodes[i].Links.Known && j.nodes[i].Problem == "" {
			known++
		}
	}
	switch {
	case known < len(j.nodes) || known == 0:
		return unsure(fmt.Sprintf("none found, but the networks of %d of %d nodes are not known", len(j.nodes)-known, len(j.nodes)))
	case len(services.CIDRs) == 0 && len(services.Addresses) == 0:
		return unsure("the services' network is not known")
	case len(services.CIDRs) == 0:
		return pass("%d networks of pods and nodes and the addresses of %d services are apart", len(nets)+len(hosts), len(services.Addresses))
	}
	return pass("%d networks are apart", len(nets)+len(hosts))
}

func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

func ipamCapacity(j *judging) finding {
	nodes, u := need(j.cluster.Nodes)
	if u != nil {
		return *u
	}
	pods, u := need(j.cluster.Pods)
	if u != nil {
		return *u
	}
	network, err := netip.ParsePrefix(j.target.PodCIDR)
	if err != nil || !network.Addr().Is4() {
		return unsure("the pods' network is not known")
	}
	if j.target.BlockSize < network.Bits() || j.target.BlockSize > 32 {
		return miss("blocks of /%d do not fit into %s", j.target.BlockSize, network)
	}
	blocks := 1 << (j.target.BlockSize - network.Bits())
	addresses := 1 << (32 - network.Bits())
	need := 0
	for _, p := range pods {
		if !p.HostNetwork && !p.Done {
			need++
		}
	}
	text := fmt.Sprintf("%s: %d blocks for %d nodes, %d addresses for %d pods", network, blocks, len(nodes), addresses, need)
	// Each node has at least a block, and a new node that joins needs one too.
	room := blocks * (1 << (32 - j.target.BlockSize))
	switch {
	case len(nodes) == 0:
		return unsure("the API server lists no nodes")
	case blocks < len(nodes)+1 || room < need+len(nodes):
		return miss("%s", text)
	case room < 2*(need+len(nodes)):
		return warn("%s", text)
	}
	return pass("%s", text)
}
