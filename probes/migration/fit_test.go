package migration

import (
	"cmp"
	"net/netip"
	"strings"
	"testing"

	"portcullis.dev/portcullis/probes/preflight"
)

// What no step could do is refused by the plan, in one line that says what to do.
func TestPlanRefusesWhatCannotBeTakenOver(t *testing.T) {
	cidrs := func(a, b string) func(*cluster) {
		return func(c *cluster) {
			c.facts.Nodes.Value[1].PodCIDRs, c.facts.Nodes.Value[2].PodCIDRs = []string{a}, []string{b}
		}
	}
	config := func(change func(*preflight.CNIConfig)) func(*cluster) {
		return func(c *cluster) { change(&c.nodes[1].CNI.Value.Configs[0]) }
	}
	pool := func(size int) func(*cluster) {
		return func(c *cluster) {
			c.facts.Pools = preflight.Known([]preflight.Pool{{Name: "other", CIDR: "192.168.0.0/16", BlockSize: 30}, {Name: "pods", CIDR: "10.42.0.0/16", BlockSize: size}})
		}
	}
	for name, test := range map[string]struct {
		change func(c *cluster)
		want   []string
	}{
		"nothing": {func(*cluster) {}, nil},
		"flannel's plugin": {config(func(f *preflight.CNIConfig) { f.Plugins, f.IPAM, f.Name = []string{"flannel", "portmap"}, "", "cbr0" }),
			[]string{"node a: its pods hang on flannel, portmap, and not on Calico's own interfaces; give the node Canal's CNI configuration, or take it out of the cluster"}},
		"another IPAM": {config(func(f *preflight.CNIConfig) { f.IPAM = "calico-ipam" }),
			[]string{"node a: its pods have their addresses from calico-ipam, and Calico takes over those of host-local alone; give the node Canal's CNI configuration, or take it out of the cluster"}},
		"no IPAM": {config(func(f *preflight.CNIConfig) { f.IPAM = "" }), []string{"node a: its pods have their addresses from no IPAM, and"}},
		"another network": {config(func(f *preflight.CNIConfig) { f.Name = "pods" }),
			[]string{`node a: its network is called "pods", and Calico takes over the addresses of "k8s-pod-network" alone;`}},
		"the first that can be used counts": {func(c *cluster) {
			configs := &c.nodes[1].CNI.Value.Configs
			*configs = append([]preflight.CNIConfig{{File: "00-broken.conf", Error: "not JSON"}}, *configs...)
		}, nil},
		"no configuration on two nodes": {func(c *cluster) { c.nodes[1].CNI.Value.Configs, c.nodes[2].CNI.Value.Configs = nil, nil },
			[]string{"nodes a, b: it has no CNI configuration that can be used;"}},
		"another IPAM, asked to drain": {func(c *cluster) { c.opts.Mode = Drain; c.nodes[1].CNI.Value.Configs[0].IPAM = "dhcp" },
			[]string{"node a: its pods have their addresses from dhcp, and"}},
		"told by preflight": {func(c *cluster) {
			c.nodes[1].CNI.Value.Configs[0].IPAM = "dhcp"
			c.found("cni-known", preflight.Fail, "a")
		},
			[]string{"cni-known on a: it is so; mend it"}},
		"told of another node": {func(c *cluster) {
			c.nodes[1].CNI.Value.Configs[0].IPAM = "dhcp"
			c.found("cni-known", preflight.Fail, "b")
		},
			[]string{"cni-known on b: it is so; mend it", "node a: its pods have their addresses from dhcp, and"}},

		"no podCIDR": {func(c *cluster) { c.facts.Nodes.Value[1].PodCIDRs = nil },
			[]string{"node a: it has no pod network (podCIDR), and none can be claimed for it; see why kube-controller-manager gave it none"}},
		"no podCIDR, told by preflight": {func(c *cluster) { c.facts.Nodes.Value[1].PodCIDRs = nil; c.found("node-pod-cidr", preflight.Fail, "a") },
			[]string{"node-pod-cidr on a: it is so; mend it"}},
		"a podCIDR that is none": {cidrs("10.42.1.0", "10.42.2.0/24"), []string{`node a: its pod network "10.42.1.0" is none`}},
		"IPv6":                   {cidrs("fd00::/64", "10.42.2.0/24"), []string{"node a: its pod network fd00::/64 is not of IPv4, and only IPv4 is moved"}},
		"IPv6, told by preflight": {func(c *cluster) { cidrs("fd00::/64", "10.42.2.0/24")(c); c.found("ip-family", preflight.Fail) },
			[]string{"ip-family: it is so; mend it"}},
		"dual stack": {func(c *cluster) { c.facts.Nodes.Value[1].PodCIDRs = []string{"10.42.1.0/24", "fd00::/64"} },
			[]string{"node a: its pod network fd00::/64 is not of IPv4, and only IPv4 is moved"}},
		"two of IPv4": {func(c *cluster) { c.facts.Nodes.Value[1].PodCIDRs = []string{"10.42.1.0/24", "10.42.7.0/24"} },
			[]string{"node a: it has 2 pod networks, and one is all that can be moved"}},
		"outside":               {cidrs("10.43.1.0/24", "10.42.2.0/24"), []string{"node a: its pod network is not within the pods' network 10.42.0.0/16"}},
		"larger than all":       {cidrs("10.42.0.0/15", "10.42.2.0/24"), []string{"node a: its pod network is not within the pods' network 10.42.0.0/16", "overlap"}},
		"the same":              {cidrs("10.42.1.0/24", "10.42.1.0/24"), []string{"the pod networks 10.42.1.0/24 of node a and 10.42.1.0/24 of node b overlap, and an address can be claimed for one; give one"}},
		"one in the other":      {cidrs("10.42.4.0/22", "10.42.5.0/24"), []string{"the pod networks 10.42.4.0/22 of node a and 10.42.5.0/24 of node b overlap"}},
		"overlap, told already": {func(c *cluster) { cidrs("10.42.4.0/22", "10.42.5.0/24")(c); c.found("node-pod-cidr", preflight.Fail) }, []string{"node-pod-cidr: it is so; mend it"}},
		"not masked":            {cidrs("10.42.1.7/24", "10.42.2.0/24"), nil},

		"smaller than a block":        {cidrs("10.42.1.0/27", "10.42.2.0/24"), []string{"the pod network 10.42.1.0/27 of node a is smaller than a block of /26; use --block-size 27"}},
		"two of them":                 {cidrs("10.42.1.0/27", "10.42.2.0/28"), []string{"the pod network 10.42.2.0/28 of node b is smaller than a block of /26; use --block-size 28"}},
		"with that size":              {func(c *cluster) { cidrs("10.42.1.0/27", "10.42.2.0/28")(c); c.report.Target.BlockSize = 28 }, nil},
		"of no size, which is 26":     {func(c *cluster) { cidrs("10.42.1.0/27", "10.42.2.0/24")(c); c.report.Target.BlockSize = 0 }, []string{"smaller than a block of /26; use --block-size 27"}},
		"exactly a block":             {cidrs("10.42.1.0/26", "10.42.2.0/24"), nil},
		"smaller, and asked to drain": {func(c *cluster) { c.opts.Mode = Drain; cidrs("10.42.1.0/27", "10.42.2.0/24")(c) }, []string{"use --block-size 27"}},
		"too many blocks":             {func(c *cluster) { cidrs("10.42.16.0/20", "10.42.2.0/24")(c); c.report.Target.BlockSize = 32 }, nil},
		"far too many blocks": {func(c *cluster) {
			cidrs("10.43.0.0/16", "10.42.2.0/24")(c)
			c.report.Target.PodCIDR, c.report.Target.BlockSize = "10.42.0.0/15", 30
		}, []string{"the pod network 10.43.0.0/16 of node a has more than 4096 blocks of /30; use --block-size 28"}},
		"no size fits": {func(c *cluster) {
			cidrs("10.64.0.0/14", "10.42.2.0/28")(c)
			c.report.Target.PodCIDR = "10.0.0.0/8"
		}, []string{"no size of blocks fits both the pod network 10.64.0.0/14 of node a and 10.42.2.0/28 of node b; make one"}},
		"a pool of that size":    {pool(26), nil},
		"a pool of another size": {pool(24), []string{"pool pods has blocks of /24, which cannot be changed, and not /26; use --block-size 24"}},
		"a pool that does not fit": {func(c *cluster) { cidrs("10.42.1.0/27", "10.42.2.0/24")(c); pool(26)(c) }, []string{
			"the pod network 10.42.1.0/27 of node a is smaller than a block of /26; use --block-size 27"}},
		"a pool that does not fit, with the size that does": {func(c *cluster) {
			cidrs("10.42.1.0/27", "10.42.2.0/24")(c)
			pool(26)(c)
			c.report.Target.BlockSize = 27
		}, []string{"pool pods has blocks of /26, which cannot be changed and do not fit the nodes' pod networks; replace it with one of the same network with blocks of /27 to /32"}},

		"one node, asked to drain": {func(c *cluster) { c.opts.Mode, c.facts.Nodes.Value = Drain, c.facts.Nodes.Value[:1] },
			[]string{"node cp cannot be drained (it was asked for): it is the only one, and there is nowhere to go; leave the mode open"}},
		"one node that could not be read": {func(c *cluster) { c.nodes, c.facts.Nodes.Value = nil, c.facts.Nodes.Value[:1] },
			[]string{"node cp cannot be drained (its CNI configuration could not be read): it is the only one, and there is nowhere to go; mend that"}},

		"an unknown pods' network": {func(c *cluster) { c.report.Target.PodCIDR = "" }, []string{"the pods' network is not known; name it with --pod-cidr"}},
		"an unknown MTU":           {func(c *cluster) { c.report.Target.MTU = 0 }, []string{"the pods' MTU is not known; name it with --mtu"}},
		"flannel's own VNI":        {func(c *cluster) { c.report.Target.VNI, c.report.Target.Port = 1, 8472 }, []string{"VNI 1 and port 8472 are flannel's, and both overlays run side by side; choose another with --vni or --port"}},
		"flannel's VNI elsewhere":  {func(c *cluster) { c.report.Target.VNI = 1 }, nil},
		"IP-in-IP":                 {func(c *cluster) { c.report.Target.Encapsulation = preflight.IPIP }, []string{"the target is ipip, and a migration from Canal brings up vxlan; leave --encapsulation out"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := canal()
			test.change(c)
			got := c.plan().Refused
			if len(got) != len(test.want) {
				t.Fatalf("refused %q, want %q", got, test.want)
			}
			for i, want := range test.want {
				if !strings.Contains(got[i], want) || strings.Contains(got[i], "\n") {
					t.Errorf("refused %q, want %q", got[i], want)
				}
			}
		})
	}
}

// Without Canal nothing else needs to be said.
func TestPlanWithoutCanalSaysOneThing(t *testing.T) {
	c := canal()
	c.facts.DaemonSets.Value, c.report.Target.MTU, c.facts.Nodes.Value[1].PodCIDRs = nil, 0, nil
	if got := c.plan().Refused; len(got) != 1 || !strings.Contains(got[0], "no Canal") {
		t.Errorf("refused %q", got)
	}
}

// FuzzPodNetworks: what a plan lets through can be claimed, node by node, and no
// address of it for two.
func FuzzPodNetworks(f *testing.F) {
	f.Add("10.42.1.0/24", "10.42.2.0/24", "10.42.0.0/16", 26)
	f.Add("10.42.1.0/27", "10.42.2.9/24", "10.42.0.0/16", 27)
	f.Add("fd00::/64", "", "10.42.0.0/15", 0)
	f.Add("10.0.0.0/8", "10.42.2.0/28", "10.0.0.0/8", 20)
	f.Fuzz(func(t *testing.T, a, b, all string, size int) {
		c := canal()
		c.facts.Nodes.Value = c.facts.Nodes.Value[1:]
		c.facts.Nodes.Value[0].PodCIDRs, c.facts.Nodes.Value[1].PodCIDRs = []string{a}, []string{b}
		c.report.Target.PodCIDR, c.report.Target.BlockSize = all, size
		p := c.plan()
		if len(p.Refused) > 0 {
			return
		}
		owner := map[string]string{}
		for _, n := range c.facts.Nodes.Value {
			net, err := netip.ParsePrefix(n.PodCIDRs[0])
			if err != nil {
				t.Fatalf("%q is let through", n.PodCIDRs[0])
			}
			claim, err := NewClaim(n.Name, net, cmp.Or(size, preflight.DefaultBlockSize))
			if err != nil {
				t.Fatal(err)
			}
			for _, block := range claim.Blocks {
				if other, taken := owner[block.Spec.CIDR]; taken {
					t.Fatalf("%s is of %s and %s", block.Spec.CIDR, other, n.Name)
				}
				owner[block.Spec.CIDR] = n.Name
			}
		}
	})
}
