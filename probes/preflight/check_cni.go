package preflight

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

var cniChecks = []Check{
	{
		ID: "cni-one-active", Title: "One CNI configuration", Severity: Required, again: true,
		Why:       "The container runtime takes the first file by name. A second one becomes active when the first is removed, and pods then get addresses that nobody routes.",
		Threshold: "exactly one file that the runtime could use in /etc/cni/net.d", Source: srcMigration,
		Remedy: "remove the configurations that are not in use from /etc/cni/net.d",
		node:   cniOne,
	},
	{
		ID: "cni-known", Title: "The CNI plugin in use", Severity: Required, again: true,
		Why:       "Portcullis knows how to move pods of Canal, flannel and Calico. Others it would cut off.",
		Threshold: "calico or flannel, with host-local or calico-ipam", Source: srcMigration,
		Remedy: "rebuild the cluster with the CNI that is wanted; there is no way from this one node by node",
		node:   cniKnown,
	},
	{
		ID: "cni-writable", Title: "CNI folders can be written", Severity: Required, again: true,
		Why:       "Calico's installer writes its plugin and configuration there. When it cannot, the node stays without them.",
		Threshold: "/etc/cni/net.d and /opt/cni/bin are on file systems that can be written", Source: srcRequirements,
		Remedy: "mount the file system for writing, or set the CNI folders of kubelet and the runtime to ones that can be written",
		node: func(_ *judging, n *NodeFacts) finding {
			c, u := need(n.CNI)
			switch {
			case u != nil:
				return *u
			case len(c.ReadOnly) > 0:
				return miss("read-only: %s", strings.Join(c.ReadOnly, ", "))
			}
			return pass("both")
		},
	},
	{
		ID: "flannel-subnet", Title: "flannel's subnet on the node", Severity: Required, again: true,
		Why:       "The addresses that are taken over are those of this subnet. Where it differs from the node's podCIDR, pods have addresses that Calico would give away again.",
		Threshold: "subnet.env, or else the address of flannel's device, agrees with the node's podCIDR", Source: srcMigration,
		Remedy: "restart flannel on the node; where it stays, find out what changed the node's podCIDR",
		when:   func(j *judging) bool { return j.usesFlannel() || !j.cluster.DaemonSets.Known },
		node:   flannelSubnet,
	},
	{
		ID: "overlay-device", Title: "The overlay device", Severity: Required,
		Why:       "Two VXLAN devices with the same VNI and port cannot exist on a node, and a device with other settings than the network's is not reached by the others.",
		Threshold: "flannel.1 with the VNI and port of flannel's configuration; no foreign device with those that are wanted", Source: "Linux, vxlan; " + srcMigration,
		Remedy: "restart flannel on the node; remove the foreign device, or choose another VNI or port for Calico",
		when:   func(j *judging) bool { return j.target.Encapsulation == VXLAN },
		node:   overlayDevice,
	},
	{
		ID: "link-mtu", Title: "MTU of the overlay and the node", Severity: Required, again: true,
		Why:       "A packet that does not fit into the node's own interface with the overlay's header is dropped, and connections hang once they carry data.",
		Threshold: "the pods' MTU and the header (50 bytes for VXLAN, 20 for IP-in-IP) fit into the MTU of the node's interface and its routes", Source: "Calico, configure MTU",
		Remedy: "lower the pods' MTU (veth_mtu, FelixConfiguration vxlanMTU), or raise that of the interface",
		node:   linkMTU,
	},
}

func cniOne(_ *judging, n *NodeFacts) finding {
	c, u := need(n.CNI)
	if u != nil {
		return *u
	}
	var good, bad []string
	for _, f := range c.Configs {
		if f.Error == "" {
			good = append(good, f.File)
		} else {
			bad = append(bad, f.File+": "+f.Error)
		}
	}
	switch {
	case len(good) == 0 && len(bad) == 0:
		return miss("none")
	case len(good) == 0:
		return miss("none that can be used (%s)", strings.Join(bad, "; "))
	case len(good) > 1:
		return miss("%d: %s is active", len(good), strings.Join(good, ", "))
	case len(bad) > 0:
		return warn("%s; beside it %s", good[0], strings.Join(bad, "; "))
	}
	return pass("%s", good[0])
}

// active is the configuration that the runtime uses, or nil.
func active(c CNIDir) *CNIConfig {
	i := slices.IndexFunc(c.Configs, func(f CNIConfig) bool { return f.Error == "" })
	if i < 0 {
		return nil
	}
	return &c.Configs[i]
}

func cniKnown(_ *judging, n *NodeFacts) finding {
	c, u := need(n.CNI)
	if u != nil {
		return *u
	}
	f := active(c)
	if f == nil {
		return unsure("no configuration is active")
	}
	what := strings.Join(f.Plugins, ", ") + " with " + orNone(f.IPAM)
	switch main := first(f.Plugins); {
	case main == "calico" && (f.IPAM == "calico-ipam" || f.IPAM == "host-local"):
		return pass("%s", what)
	case main == "flannel":
		return pass("%s", strings.Join(f.Plugins, ", "))
	}
	return miss("%s", what)
}

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}

func orNone(s string) string {
	if s == "" {
		return "no IPAM"
	}
	return s
}

func (j *judging) usesFlannel() bool {
	return slices.ContainsFunc(j.cluster.DaemonSets.Value, func(d CNISet) bool {
		return d.Flavour == FlavourCanal || d.Flavour == FlavourRKE2Canal || d.Flavour == FlavourFlannel
	}) || j.cluster.Flannel.Value.Present
}

func flannelSubnet(j *judging, n *NodeFacts) finding {
	e, u := need(n.SubnetEnv)
	if u != nil {
		return *u
	}
	if !e.Present {
		return subnetOfDevice(j, n)
	}
	subnet, err := netip.ParsePrefix(e.Subnet)
	network, err2 := netip.ParsePrefix(e.Network)
	if err != nil || err2 != nil {
		return miss("subnet.env has the network %q and the subnet %q", e.Network, e.Subnet)
	}
	if !network.Contains(subnet.Addr()) || subnet.Bits() < network.Bits() {
		return miss("%s is not within %s", subnet, network)
	}
	node := j.byName[n.Node]
	if node == nil || len(node.PodCIDRs) == 0 {
		return unsure("the node's podCIDR is not known")
	}
	if pod, err := netip.ParsePrefix(node.PodCIDRs[0]); err != nil || pod.Masked() != subnet.Masked() {
		return miss("subnet.env has %s, the node's podCIDR is %s", subnet.Masked(), node.PodCIDRs[0])
	}
	return pass("as the node's podCIDR")
}

// subnetOfDevice judges by flannel's device where there is no subnet.env on the
// node: Canal's own manifest keeps it inside its pod. The device has the first address of
// the node's subnet (flannel, backend/vxlan).
func subnetOfDevice(j *judging, n *NodeFacts) finding {
	links, u := need(n.Links)
	if u != nil {
		return *u
	}
	node := j.byName[n.Node]
	if node == nil || len(node.PodCIDRs) == 0 {
		return unsure("the node's podCIDR is not known")
	}
	pod, err := netip.ParsePrefix(node.PodCIDRs[0])
	if err != nil {
		return unsure("the node's podCIDR " + node.PodCIDRs[0] + " cannot be read")
	}
	for _, l := range links {
		if l.Kind != "vxlan" || !strings.HasPrefix(l.Name, "flannel.") {
			continue
		}
		for _, a := range l.Addresses {
			have, err := netip.ParsePrefix(a)
			switch {
			case err != nil || !have.Addr().Is4():
			case have.Addr() == pod.Masked().Addr():
				return pass("%s has the first address of the node's podCIDR", l.Name)
			default:
				return miss("%s has %s, the node's podCIDR is %s", l.Name, have.Addr(), pod)
			}
		}
	}
	return miss("there is no subnet.env, and no device of flannel's with an address")
}

func overlayDevice(j *judging, n *NodeFacts) finding {
	links, u := need(n.Links)
	if u != nil {
		return *u
	}
	var have []string
	flannel := false
	for _, l := range links {
		if l.Kind != "vxlan" {
			continue
		}
		what := fmt.Sprintf("%s VNI %d port %d", l.Name, l.VNI, l.Port)
		have = append(have, what)
		if !ownDevice(l.Name) && l.VNI == j.target.VNI && l.Port == j.target.Port {
			return miss("%s is in the way", what)
		}
		if l.Name != "flannel.1" {
			continue
		}
		flannel = true
		if !l.Up {
			return miss("%s is down", what)
		}
		if c := j.cluster.Flannel; c.Known && c.Value.Backend == "vxlan" && (l.VNI != c.Value.VNI || l.Port != c.Value.Port) {
			return miss("%s, but the configuration says VNI %d port %d", what, c.Value.VNI, c.Value.Port)
		}
	}
	if j.usesFlannel() && !flannel {
		if b := j.cluster.Flannel.Value.Backend; b == "vxlan" {
			return miss("there is no flannel.1")
		}
		return unsure("there is no flannel.1, and flannel's backend is not known to be vxlan")
	}
	switch {
	case !j.cluster.DaemonSets.Known:
		return unsure("it is not known which pod network runs")
	case flannel && !j.cluster.Flannel.Known:
		return unsure("flannel's configuration is not known: " + j.cluster.Flannel.Why)
	}
	if len(have) == 0 {
		return pass("no VXLAN device is in the way")
	}
	return pass("%s", strings.Join(have, ", "))
}

// overhead is what an encapsulation adds to a packet, in bytes.
func overhead(e Encapsulation) int {
	switch e {
	case VXLAN:
		return 50
	case IPIP:
		return 20
	}
	return 0
}

// underlay is the interface of the node's own address.
func (j *judging) underlay(n *NodeFacts, links []Link) *Link {
	node := j.byName[n.Node]
	if node == nil {
		return nil
	}
	for i := range links {
		for _, a := range links[i].Addresses {
			if p, err := netip.ParsePrefix(a); err == nil && slices.Contains(node.Addresses, p.Addr().String()) {
				return &links[i]
			}
		}
	}
	return nil
}

func linkMTU(j *judging, n *NodeFacts) finding {
	links, u := need(n.Links)
	if u != nil {
		return *u
	}
	routes, u := need(n.Routes)
	if u != nil {
		return *u
	}
	under := j.underlay(n, links)
	if under == nil {
		return unsure("the interface with the node's address was not found")
	}
	if j.target.MTU == 0 {
		return unsure("the pods' MTU is not known")
	}
	room := under.MTU
	for _, r := range routes {
		if r.Link == under.Name && r.MTU > 0 {
			room = min(room, r.MTU)
		}
	}
	want := j.target.MTU + overhead(j.target.Encapsulation)
	text := fmt.Sprintf("pods' %d and %d for %s in %d of %s", j.target.MTU, overhead(j.target.Encapsulation), j.target.Encapsulation, room, under.Name)
	if want > room {
		return miss("%s", text)
	}
	return pass("%s", text)
}

// underlays are the networks of a node's own interfaces, without those of pods and overlays.
func underlays(links []Link) []string {
	var out []string
	for _, l := range links {
		if l.Kind == "vxlan" || l.Kind == "veth" && strings.HasPrefix(l.Name, "cali") || l.Kind == "ipip" ||
			l.Kind == "dummy" || l.Kind == "wireguard" || strings.HasPrefix(l.Name, "cni") || l.Name == "docker0" || !l.Up {
			continue
		}
		for _, a := range l.Addresses {
			p, err := netip.ParsePrefix(a)
			if err != nil || !p.Addr().Is4() || p.Addr().IsLoopback() || p.Addr().IsLinkLocalUnicast() || p.Bits() == 32 {
				continue
			}
			if m := p.Masked().String(); !slices.Contains(out, m) {
				out = append(out, m)
			}
		}
	}
	return out
}

// hostNet is a network that nodes are in themselves.
type hostNet struct {
	prefix netip.Prefix
	node   string
	link   string
}

func (j *judging) hostNetworks() []hostNet {
	var out []hostNet
	for i := range j.nodes {
		n := &j.nodes[i]
		for _, l := range n.Links.Value {
			for _, net := range underlays([]Link{l}) {
				out = append(out, hostNet{netip.MustParsePrefix(net), n.Node, l.Name})
			}
		}
	}
	return out
}
