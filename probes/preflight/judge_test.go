package preflight

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

type timeDuration = time.Duration

// Nothing is wrong on a good cluster, and every check that applies to it passes.
func TestGoodClusterPasses(t *testing.T) {
	for _, n := range []int{2, 3, 300} {
		r := good(n).judge()
		for _, res := range r.Results {
			if res.Status != Pass {
				t.Errorf("%d nodes: %s %s: %s", n, res.Status, res.ID, res.Measured)
			}
		}
		if r.Status != Pass || r.Nodes != n {
			t.Errorf("status %s, %d nodes", r.Status, r.Nodes)
		}
	}
}

// Each check passes, warns, fails and does not know, where it can.
func TestChecks(t *testing.T) {
	n0 := func(f *facts) *NodeFacts { return &f.nodes[0] }
	bad := func(p Path, a Answer) func(*facts) {
		return func(f *facts) {
			for i := range f.mesh.Paths {
				if f.mesh.Paths[i].Path == p {
					f.mesh.Paths[i].Answers[Open]--
					f.mesh.Add(i, Pair{From: nodeName(0), To: nodeName(1), Answer: a, Detail: "why"})
				}
			}
		}
	}
	with := func(target Target) func(*facts) {
		return func(f *facts) {
			f.target = target
			for _, p := range Paths(target) {
				if !slices.ContainsFunc(f.mesh.Paths, func(have PathFacts) bool { return have.Path == p }) {
					f.mesh.Paths = append(f.mesh.Paths, PathFacts{Path: p, Answers: map[Answer]int{Open: f.mesh.Pairs}})
				}
			}
		}
	}
	both := func(changes ...func(*facts)) func(*facts) {
		return func(f *facts) {
			for _, c := range changes {
				c(f)
			}
		}
	}
	canal := func(f *facts) *CNISet { return &f.cluster.DaemonSets.Value[0] }
	node := func(f *facts) *Node { return &f.cluster.Nodes.Value[0] }
	ipip := Target{Version: "v3.28.5", Encapsulation: IPIP}
	for _, c := range []struct {
		id     string
		want   Status
		change func(*facts)
		// says is in what was measured, or in the lines below it.
		says string
	}{
		{"kernel-version", Fail, func(f *facts) { n0(f).Kernel = Known("3.2.0") }, "3.2.0"},
		{"kernel-version", Warn, func(f *facts) { n0(f).Kernel = Known("4.15.0-20-generic") }, "not from 3.29 on"},
		{"kernel-version", Pass, func(f *facts) { n0(f).Kernel = Known("4.18.0-513.el8.x86_64") }, "el8"},
		{"kernel-version", Fail, both(with(Target{Version: "v3.29.1"}), func(f *facts) { n0(f).Kernel = Known("4.15.0") }), "4.15"},
		{"kernel-version", Unsure, func(f *facts) { n0(f).Kernel = Known("mystery") }, "mystery"},
		{"kernel-checksum-offload", Warn, func(f *facts) { n0(f).Kernel = Known("5.7.0-1") }, "5.7"},
		{"kernel-checksum-offload", Warn, func(f *facts) { n0(f).Kernel = Known("5.4.0-150-generic") }, "5.4"},
		{"kernel-checksum-offload", Pass, func(f *facts) { n0(f).Kernel = Known("5.8.0") }, "5.8"},
		{"kernel-modules", Fail, func(f *facts) { n0(f).Modules.Value["ip_set"] = ModuleMissing }, "missing: ip_set"},
		{"kernel-modules", Fail, func(f *facts) { n0(f).Modules.Value["vxlan"] = ModuleMissing }, "vxlan"},
		{"kernel-modules", Pass, func(f *facts) { n0(f).Modules.Value["ip_vs"] = ModuleMissing }, "loaded"},
		{"kernel-modules", Pass, func(f *facts) { n0(f).Modules.Value["ipt_REJECT"] = ModuleMissing }, "loaded"},
		{"kernel-modules", Fail, func(f *facts) {
			n0(f).Modules.Value["ip_vs"] = ModuleMissing
			f.cluster.ProxyMode = Known("ipvs")
		}, "ip_vs"},
		{"kernel-modules", Unsure, func(f *facts) { delete(n0(f).Modules.Value, "xt_set") }, "xt_set"},
		{"kernel-config", Fail, func(f *facts) { delete(n0(f).KernelConfig.Value, "CONFIG_NET_NS") }, "CONFIG_NET_NS"},
		{"ipset-works", Fail, func(f *facts) { n0(f).IPSet = Known(Trial{Detail: "creating a set: not permitted"}) }, "not permitted"},
		{"conntrack-room", Warn, func(f *facts) { n0(f).Conntrack.Value.Count = 220000 }, "84 %"},
		{"conntrack-room", Fail, func(f *facts) { n0(f).Conntrack.Value.Count = 262000 }, "100 %"},
		{"conntrack-room", Unsure, func(f *facts) { n0(f).Conntrack.Value.Max = 0 }, "cannot be read"},
		{"sysctl-forwarding", Fail, func(f *facts) { n0(f).Sysctls.Value["net.ipv4.ip_forward"] = "0" }, "is 0"},
		{"sysctl-forwarding", Unsure, func(f *facts) { delete(n0(f).Sysctls.Value, "net.ipv4.ip_forward") }, ""},
		{"sysctl-forwarding-kept", Warn, func(f *facts) { n0(f).SysctlFiles.Value["net.ipv4.ip_forward"] = "0" }, "to 0"},
		{"sysctl-rp-filter", Pass, func(f *facts) { n0(f).Sysctls.Value["net.ipv4.conf.all.rp_filter"] = "1" }, "one network"},
		{"sysctl-rp-filter", Warn, func(f *facts) {
			n0(f).Sysctls.Value["net.ipv4.conf.all.rp_filter"] = "1"
			n0(f).Links.Value = append(n0(f).Links.Value, Link{Name: "eth1", Kind: "device", Up: true, Addresses: []string{"10.9.0.1/24"}})
		}, "10.9.0.0/24"},
		{"sysctl-rp-filter", Unsure, func(f *facts) { delete(n0(f).Sysctls.Value, "net.ipv4.conf.all.rp_filter") }, ""},
		{"sysctl-inotify", Warn, func(f *facts) { n0(f).Sysctls.Value["fs.inotify.max_user_instances"] = "128" }, "128"},
		{"sysctl-inotify", Unsure, func(f *facts) { delete(n0(f).Sysctls.Value, "fs.inotify.max_user_watches") }, ""},
		{"iptables-version", Warn, func(f *facts) { n0(f).IPTables = Known(IPTables{}) }, "no iptables"},
		{"iptables-version", Warn, func(f *facts) { n0(f).IPTables.Value.Version = "1.4.21" }, "1.4.21"},
		{"iptables-version", Unsure, func(f *facts) { n0(f).IPTables.Value.Version = "" }, "did not tell"},
		{"iptables-one-backend", Warn, func(f *facts) { n0(f).LegacyTables = Known([]string{"nat"}) }, "legacy tables nat"},
		{"nftables-leftovers", Warn, func(f *facts) {
			n0(f).NFTables.Value = append(n0(f).NFTables.Value, NFTable{Family: "inet", Name: "firewalld"})
		}, "firewalld"},
		{"nftables-leftovers", Warn, func(f *facts) { n0(f).NFTables.Value[0].Chains = []string{"CILIUM_FORWARD"} }, "Cilium"},
		{"nftables-leftovers", Warn, func(f *facts) { canal(f).Flavour = FlavourCalico; f.cluster.Flannel.Value.Present = false }, "FLANNEL-FWD"},
		{"firewalld", Fail, func(f *facts) { n0(f).Services.Value["firewalld"] = ServiceRunning }, "running"},
		{"firewalld", Fail, func(f *facts) { n0(f).Services.Value["firewalld"] = ServiceEnabled }, "enabled"},
		{"firewalld", Pass, func(f *facts) { n0(f).Services.Value["firewalld"] = ServiceInstalled }, "installed"},
		{"firewalld", Unsure, func(f *facts) { delete(n0(f).Services.Value, "firewalld") }, ""},
		{"nm-cloud-setup", Fail, func(f *facts) { n0(f).Services.Value["nm-cloud-setup"] = ServiceEnabled }, "enabled"},
		{"network-manager", Warn, func(f *facts) { n0(f).NetworkManager.Value.Running = true }, "cali*"},
		{"network-manager", Pass, func(f *facts) {
			n0(f).NetworkManager.Value = NetworkManager{Running: true, Unmanaged: []string{"interface-name:cali*", "interface-name:vxlan.calico"}}
		}, "leaves"},
		{"cpu-room", Warn, func(f *facts) { n0(f).CPU.Value.Load5 = 9 }, "9.0"},
		{"cpu-room", Unsure, func(f *facts) { n0(f).CPU.Value.Count = 0 }, ""},
		{"memory-room", Warn, func(f *facts) { n0(f).Memory.Value.Available = 300 << 20 }, "300 MiB"},
		{"memory-room", Fail, func(f *facts) { n0(f).Memory.Value.Available = 100 << 20 }, "100 MiB"},
		{"memory-room", Unsure, func(f *facts) { n0(f).Memory.Value.Total = 0 }, ""},
		{"disk-room", Warn, func(f *facts) { n0(f).Disks.Value[0].Free = 12 << 30 }, "12 %"},
		{"disk-room", Fail, func(f *facts) { n0(f).Disks.Value[0].Free = 5 << 30 }, "5 %"},
		{"disk-room", Fail, func(f *facts) { n0(f).Disks.Value[0].InodesFree = 10 }, "inodes"},
		{"disk-room", Unsure, func(f *facts) { n0(f).Disks.Value = nil }, ""},
		{"clock", Warn, func(f *facts) { n0(f).ClockSkew = Known(-3 * time.Second) }, "3s off"},
		{"clock", Fail, func(f *facts) { n0(f).ClockSkew = Known(time.Minute) }, "1m0s off"},
		{"ports-free", Fail, func(f *facts) {
			n0(f).Ports.Value = []PortUse{{Protocol: "udp", Port: 4789, Owner: "openvswitch"}}
		}, "UDP 4789 by openvswitch"},
		{"ports-free", Unsure, func(f *facts) { n0(f).Ports.Value[0].Owner = "" }, "by whom"},
		{"ports-free", Fail, func(f *facts) {
			n0(f).Ports.Value = []PortUse{{Protocol: "udp", Port: 4789, Owner: "kernel"}}
			n0(f).Links.Value = append(n0(f).Links.Value, Link{Name: "vxlan0", Kind: "vxlan", VNI: 7, Port: 4789})
		}, "not of the pod network"},
		{"images-present", Warn, func(f *facts) { node(f).Images = nil }, "missing: calico/node"},
		{"images-present", Unsure, func(f *facts) { node(f).Images, node(f).ImagesCut = nil, true }, "not all"},
		{"cni-one-active", Fail, func(f *facts) { n0(f).CNI.Value.Configs = nil }, "none"},
		{"cni-one-active", Fail, func(f *facts) {
			n0(f).CNI.Value.Configs = append(n0(f).CNI.Value.Configs, CNIConfig{File: "11-calico.conflist"})
		}, "10-canal.conflist, 11-calico.conflist"},
		{"cni-one-active", Warn, func(f *facts) {
			n0(f).CNI.Value.Configs = append(n0(f).CNI.Value.Configs, CNIConfig{File: "z.conf", Error: "not JSON"})
		}, "not JSON"},
		{"cni-one-active", Fail, func(f *facts) { n0(f).CNI.Value.Configs[0].Error = "not JSON" }, "none that can be used"},
		{"cni-known", Fail, func(f *facts) { n0(f).CNI.Value.Configs[0].Plugins = []string{"cilium-cni"} }, "cilium"},
		{"cni-known", Pass, func(f *facts) { n0(f).CNI.Value.Configs[0].Plugins = []string{"flannel", "portmap"} }, "flannel"},
		{"cni-known", Unsure, func(f *facts) { n0(f).CNI.Value.Configs = nil }, "no configuration"},
		{"cni-writable", Fail, func(f *facts) { n0(f).CNI.Value.ReadOnly = []string{"/etc/cni/net.d"} }, "/etc/cni/net.d"},
		{"flannel-subnet", Pass, func(f *facts) { n0(f).SubnetEnv.Value.Present = false }, "first address of the node's podCIDR"},
		{"flannel-subnet", Fail, func(f *facts) {
			n0(f).SubnetEnv.Value.Present = false
			n0(f).Links.Value[2].Addresses = []string{"fe80::1/64", "10.42.9.0/32"}
		}, "flannel.1 has 10.42.9.0"},
		{"flannel-subnet", Fail, func(f *facts) {
			n0(f).SubnetEnv.Value.Present = false
			n0(f).Links.Value = n0(f).Links.Value[:2]
		}, "no device of flannel's"},
		{"flannel-subnet", Unsure, func(f *facts) { n0(f).SubnetEnv.Value.Present = false; n0(f).Links = Unknown[[]Link]("no answer") }, "no answer"},
		{"flannel-subnet", Fail, func(f *facts) { n0(f).SubnetEnv.Value.Subnet = "10.42.9.1/24" }, "podCIDR is"},
		{"flannel-subnet", Fail, func(f *facts) { n0(f).SubnetEnv.Value.Subnet = "10.99.9.1/24" }, "not within"},
		{"flannel-subnet", Fail, func(f *facts) { n0(f).SubnetEnv.Value.Subnet = "x" }, "subnet.env has"},
		{"flannel-subnet", Unsure, func(f *facts) { node(f).PodCIDRs = nil }, "not known"},
		{"overlay-device", Fail, func(f *facts) { n0(f).Links.Value[2].VNI = 3 }, "VNI 3"},
		{"overlay-device", Fail, func(f *facts) { n0(f).Links.Value[2].Up = false }, "down"},
		{"overlay-device", Fail, func(f *facts) { n0(f).Links.Value = n0(f).Links.Value[:2] }, "no flannel.1"},
		{"overlay-device", Fail, func(f *facts) {
			n0(f).Links.Value = append(n0(f).Links.Value, Link{Name: "vx", Kind: "vxlan", VNI: 4096, Port: 4789, Up: true})
		}, "in the way"},
		{"overlay-device", Unsure, func(f *facts) { f.cluster.Flannel = Unknown[FlannelConfig]("no permission") }, "no permission"},
		{"link-mtu", Fail, func(f *facts) { n0(f).Links.Value[1].MTU = 1400 }, "in 1400 of eth0"},
		{"link-mtu", Fail, func(f *facts) { n0(f).Routes.Value[0].MTU = 1300 }, "in 1300"},
		{"link-mtu", Unsure, func(f *facts) { node(f).Addresses = nil }, "not found"},
		{"reach-tcp-5473", Warn, bad(PathTypha, Filtered), "1 filtered"},
		{"reach-tcp-5473", Fail, both(with(Target{Version: "v3.28.5", Typha: true}), bad(PathTypha, Refused)), "1 refused"},
		{"reach-tcp-9099", Warn, bad(PathHealth, Refused), "node-000 -> node-001: refused (why)"},
		{"reach-tcp-10250", Fail, bad(PathKubelet, Filtered), "1 filtered"},
		{"reach-tcp-10250", Unsure, bad(PathKubelet, Untold), "1 unknown"},
		{"reach-udp-4789", Fail, bad(Path{"udp", 4789}, Filtered), "1 filtered"},
		{"reach-udp-4789", Warn, both(with(Target{Version: "v3.28.5", Port: 8472, VNI: 1}), bad(Path{"udp", 4789}, Filtered)), "1 filtered"},
		{"reach-udp-8472", Fail, bad(PathFlannel, Filtered), "1 filtered"},
		{"reach-udp-8472", Unsure, bad(PathFlannel, Untold), "unknown"},
		{"reach-overlay", Pass, with(Target{Version: "v3.28.5", Port: 4800}), "open"},
		{"reach-overlay", Fail, both(with(Target{Version: "v3.28.5", Port: 4800}), bad(Path{"udp", 4800}, Filtered)), "filtered"},
		{"reach-tcp-179", Pass, with(ipip), "open"},
		{"reach-tcp-179", Fail, both(with(ipip), bad(PathBGP, Refused)), "refused"},
		{"reach-ip-4", Fail, both(with(ipip), bad(PathIPIP, Filtered)), "filtered"},
		{"reach-ip-4", Unsure, both(with(ipip), func(f *facts) { f.mesh.Paths = f.mesh.Paths[:3] }), "not tried"},
		{"reach-udp-8472", Unsure, func(f *facts) { f.mesh = nil }, "not tried"},
		{"reach-udp-8472", Unsure, func(f *facts) { f.mesh.Problem = "broken" }, "broken"},
		{"path-mtu", Fail, func(f *facts) {
			f.mesh.MTU.Sizes = map[int]int{1500: 1}
			f.mesh.AddMTU(Pair{From: nodeName(0), To: nodeName(1), MTU: 1400})
		}, "at most 1400 bytes"},
		{"path-mtu", Unsure, func(f *facts) {
			f.mesh.MTU.Sizes = map[int]int{1500: 1}
			f.mesh.AddMTU(Pair{From: nodeName(0), To: nodeName(1)})
		}, "nothing arrived"},
		{"path-mtu", Unsure, func(f *facts) { f.mesh.MTU.Sizes = nil }, "nothing is known of 2 of 2"},
		{"agent-answers", Unsure, func(f *facts) { n0(f).Problem = "exec failed" }, "exec failed"},
		{"agent-answers", Unsure, func(f *facts) { f.nodes = f.nodes[1:] }, "no agent answered"},
		{"nodes-ready", Fail, func(f *facts) { node(f).Ready = false }, "not ready"},
		{"nodes-ready", Unsure, func(f *facts) { f.cluster.Nodes.Value = nil }, ""},
		{"windows-nodes", Fail, func(f *facts) { node(f).OS = "windows" }, "not Linux"},
		{"windows-nodes", Unsure, func(f *facts) { node(f).OS = "" }, ""},
		{"ip-family", Fail, func(f *facts) { node(f).PodCIDRs = append(node(f).PodCIDRs, "fd00::/64") }, "podCIDRs of node"},
		{"ip-family", Fail, func(f *facts) { f.cluster.Pools.Value[0].CIDR = "fd00::/48" }, "pool default"},
		{"ip-family", Fail, func(f *facts) { f.cluster.Flannel.Value.IPv6 = "fd00::/48" }, "flannel"},
		{"kubernetes-version", Fail, func(f *facts) { f.cluster.Kubernetes = Known("v1.33.1+rke2r1") }, "not tested with Calico v3.28.5"},
		{"kubernetes-version", Unsure, func(f *facts) { f.cluster.Kubernetes = Known("x") }, ""},
		{"kubernetes-version", Unsure, both(with(Target{Version: "v3.99.0"})), "nothing is known"},
		{"kubernetes-version", Unsure, func(f *facts) { f.target.Version, canal(f).Calico = "", "" }, "--calico-version"},
		{"calico-version", Fail, with(Target{Version: "v3.27.0"}), "older than"},
		{"calico-version", Fail, with(Target{Version: "v2.6.0"}), "nothing is known"},
		{"calico-version", Unsure, func(f *facts) { f.target.Version, canal(f).Calico = "", "" }, "none was named"},
		{"existing-cni", Fail, func(f *facts) { f.cluster.DaemonSets.Value = nil }, "flannel without a DaemonSet"},
		{"existing-cni", Fail, func(f *facts) { canal(f).Flavour = FlavourOther }, "not one of those"},
		{"existing-cni", Fail, func(f *facts) {
			f.cluster.DaemonSets.Value = append(f.cluster.DaemonSets.Value, CNISet{Name: "calico-node", Flavour: FlavourCalico, Desired: 1, Ready: 1})
		}, "two at once"},
		{"existing-cni", Fail, func(f *facts) { n0(f).CNI.Value.Configs[0].IPAM = "calico-ipam" }, "calico with calico-ipam: node-000"},
		{"cni-addon", Fail, func(f *facts) { canal(f).Addon = AddonHelmChart }, "HelmChart"},
		{"cni-addon", Warn, func(f *facts) { canal(f).Addon = AddonHelm }, "Helm"},
		{"cni-addon", Unsure, func(f *facts) { f.cluster.DaemonSets.Value = nil }, ""},
		{"cni-healthy", Fail, func(f *facts) { canal(f).Ready = 1 }, "1 of 2 ready"},
		{"cni-healthy", Unsure, func(f *facts) { f.cluster.DaemonSets.Value = nil }, ""},
		{"flannel-backend", Fail, func(f *facts) { f.cluster.Flannel.Value.Backend = "host-gw" }, "host-gw"},
		{"flannel-backend", Fail, func(f *facts) { f.cluster.Flannel.Value.Backend = "wireguard" }, "wireguard"},
		{"flannel-backend", Fail, func(f *facts) { f.cluster.Flannel.Value.DirectRouting = true }, "DirectRouting"},
		{"flannel-backend", Unsure, func(f *facts) { f.cluster.Flannel.Value.Backend = "" }, "not found"},
		{"node-pod-cidr", Fail, func(f *facts) { node(f).PodCIDRs = nil }, "without podCIDR"},
		{"node-pod-cidr", Fail, func(f *facts) { node(f).PodCIDRs[0] = "10.9.0.0/24" }, "outside"},
		{"node-pod-cidr", Fail, func(f *facts) { node(f).PodCIDRs[0] = "10.42.1.0/25" }, "overlap"},
		{"flannel-annotations", Fail, func(f *facts) { delete(node(f).Flannel, "backend-data") }, "missing"},
		{"cidr-overlap", Fail, func(f *facts) { f.cluster.Services.Value.CIDRs[0] = "10.42.128.0/17" }, "pods 10.42.0.0/16 and services"},
		{"cidr-overlap", Fail, func(f *facts) { f.cluster.Pools.Value[0].CIDR = "192.168.0.0/16" }, "eth0 of node"},
		{"cidr-overlap", Pass, func(f *facts) { f.cluster.Services.Value.CIDRs = nil }, "addresses of 1 services"},
		{"cidr-overlap", Fail, func(f *facts) { f.cluster.Services.Value = ServiceNet{Addresses: []string{"10.42.3.4"}} }, "service address"},
		{"cidr-overlap", Unsure, func(f *facts) { f.cluster.Services.Value = ServiceNet{} }, ""},
		{"ipam-capacity", Fail, func(f *facts) { f.target.PodCIDR = "10.42.0.0/25" }, "2 blocks for 2 nodes"},
		{"ipam-capacity", Warn, func(f *facts) {
			f.target.PodCIDR, f.target.BlockSize = "10.42.0.0/29", 31
			f.cluster.Pods.Value = append(f.cluster.Pods.Value, Pod{Name: "a"}, Pod{Name: "b"})
		}, "4 blocks"},
		{"ipam-capacity", Fail, func(f *facts) { f.target.BlockSize = 8 }, "do not fit"},
		{"ipam-capacity", Unsure, func(f *facts) { f.target.PodCIDR = "x" }, ""},
		{"calico-api", Warn, func(f *facts) { f.cluster.CalicoAPI.Value.Mode = "crd" }, "only"},
		{"calico-api", Unsure, func(f *facts) { f.cluster.CalicoAPI.Value.Mode = "" }, ""},
		{"calico-api", Pass, func(f *facts) { f.cluster.CalicoAPI.Value.Mode = "none"; canal(f).Flavour = FlavourFlannel }, "brings it"},
		{"kube-proxy-mode", Warn, func(f *facts) { f.cluster.ProxyMode = Known("nftables") }, "nftables with Calico"},
		{"kube-proxy-mode", Unsure, func(f *facts) { f.cluster.ProxyMode = Known("x") }, ""},
		{"drain-budgets", Warn, func(f *facts) { f.cluster.Budgets.Value[0].Allowed = 0 }, "web/web: 3 healthy, 2 wanted"},
		{"drain-budgets", Unsure, func(f *facts) { f.cluster.Budgets.Value[0].Stale = true }, "not up to date"},
		{"pods-without-controller", Warn, func(f *facts) { f.cluster.Pods.Value[0].Controller = "" }, "web/web-1"},
		{"pods-local-data", Warn, func(f *facts) { f.cluster.Pods.Value[0].LocalData = true }, "web/web-1"},
		{"single-replicas", Warn, func(f *facts) { f.cluster.Pods.Value[0].Replicas = 1 }, "web/deployment/web"},
		{"single-replicas", Unsure, func(f *facts) { f.cluster.Pods.Value[0].Replicas = 0 }, ""},
	} {
		t.Run(fmt.Sprint(c.id, "/", c.want, "/", c.says), func(t *testing.T) {
			f := good(2)
			c.change(f)
			r := f.judge()
			got, res := of(r, c.id)
			if got != c.want {
				t.Fatalf("%s, want %s: %+v", got, c.want, res)
			}
			if text := res.Measured + " " + strings.Join(res.More, " "); !strings.Contains(text, c.says) {
				t.Errorf("%q does not say %q", text, c.says)
			}
			if res.Status != Pass && res.Remedy == "" {
				t.Error("no remedy")
			}
			for _, line := range append(res.More, res.Measured) {
				if strings.ContainsAny(line, "\n\r") || line == "" {
					t.Errorf("line %q", line)
				}
			}
		})
	}
	single := good(1).judge()
	if s, _ := of(single, "node-count"); s != Warn {
		t.Errorf("node-count of one node is %s", s)
	}
	if s, res := of(single, "path-mtu"); s != Pass {
		t.Errorf("path-mtu of one node is %+v", res)
	}
}

// What is not known never passes: with no facts at all, nothing does; and taking
// one fact away turns passes into unknown, never a check that looked at it into a pass.
func TestUnknownNeverPasses(t *testing.T) {
	nothing := Judge(&ClusterFacts{Name: "x"}, []NodeFacts{{Node: "a"}, {Node: "b", Problem: "gone"}}, nil, Target{})
	for _, res := range nothing.Results {
		// That the agent answered is known: it did so with nothing.
		if res.Status == Pass && res.ID != "agent-answers" {
			t.Errorf("%s passes without any facts: %s", res.ID, res.Measured)
		}
	}
	if nothing.Status == Pass || Judge(&ClusterFacts{}, nil, nil, Target{}).Status == Pass {
		t.Error("nothing is known, and the report passes")
	}
	for _, where := range []string{"nodes", "cluster"} {
		base := good(2)
		was := map[string]Status{}
		for _, res := range base.judge().Results {
			was[res.ID] = res.Status
		}
		holder := func(f *facts) reflect.Value {
			if where == "nodes" {
				return reflect.ValueOf(&f.nodes[1]).Elem()
			}
			return reflect.ValueOf(f.cluster).Elem()
		}
		kind := holder(base).Type()
		for i := range kind.NumField() {
			if !strings.HasPrefix(kind.Field(i).Type.Name(), "Fact[") {
				continue
			}
			f := good(2)
			holder(f).Field(i).SetZero()
			r := f.judge()
			unknown := 0
			for _, res := range r.Results {
				if res.Status == Unsure {
					unknown++
				}
				if was[res.ID] == Pass && (res.Status == Fail || res.Status == Warn) {
					t.Errorf("%s: without %s, %s says %s: %s", where, kind.Field(i).Name, res.ID, res.Status, res.Measured)
				}
			}
			if unknown == 0 {
				t.Errorf("%s: without %s nothing is unknown", where, kind.Field(i).Name)
			}
		}
	}
}

func TestReportOrderAndTrim(t *testing.T) {
	f := good(3)
	f.nodes[1].Kernel = Known("3.2.0")
	f.nodes[2].Memory = Fact[Memory]{Why: "no meminfo"}
	r := f.judge()
	if r.Status != Fail || r.Results[0].ID != "kernel-version" || !slices.Equal(r.Results[0].Nodes, []string{"node-001"}) || r.Results[1].Status != Unsure {
		t.Errorf("%s: %+v, %+v", r.Status, r.Results[0], r.Results[1])
	}
	passed := 0
	for _, res := range r.Results {
		if res.Status == Pass {
			passed++
		}
	}
	r.Trim()
	if r.LeftOut != passed || slices.ContainsFunc(r.Results, func(res Result) bool { return res.Status == Pass }) {
		t.Errorf("%d left out of %d", r.LeftOut, passed)
	}
}

// A node that nobody reaches is one line, not one for each pair.
func TestPairLines(t *testing.T) {
	f := good(10)
	m := f.mesh
	at := slices.IndexFunc(m.Paths, func(p PathFacts) bool { return p.Path == PathKubelet })
	for i := range 10 {
		if i != 4 {
			m.Paths[at].Answers[Open]--
			m.Add(at, Pair{From: nodeName(i), To: nodeName(4), Answer: Filtered})
		}
	}
	m.Paths[at].Answers[Open]--
	m.Add(at, Pair{From: nodeName(1), To: nodeName(2), Answer: Refused})
	_, res := of(f.judge(), "reach-tcp-10250")
	want := []string{"all nodes -> node-004: filtered", "node-001 -> node-002: refused"}
	if !slices.Equal(res.More, want) || res.Measured != "80 of 90 directions open, 1 refused, 9 filtered" {
		t.Errorf("%q %q", res.Measured, res.More)
	}
}

func TestRegistry(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range Checks() {
		if seen[c.ID] || c.ID != strings.ToLower(c.ID) || strings.ContainsAny(c.ID, " _") {
			t.Errorf("ID %q", c.ID)
		}
		seen[c.ID] = true
		if c.Title == "" || c.Why == "" || c.Threshold == "" || c.Source == "" || c.Remedy == "" || c.Severity == "" {
			t.Errorf("%s lacks something", c.ID)
		}
		if (c.node == nil) == (c.cluster == nil) {
			t.Errorf("%s has not exactly one of node and cluster", c.ID)
		}
	}
}

// The report of 500 nodes on which a lot differs still fits into a workflow's history.
func TestReportOf500NodesIsSmall(t *testing.T) {
	f := good(500)
	for i := range f.nodes {
		n := &f.nodes[i]
		n.Memory.Value.Available = int64(i) << 20
		n.Kernel = Known(fmt.Sprintf("5.%d.%d", i%10, i))
		n.Disks.Value[0].Free = int64(i) << 27
		n.Conntrack.Value.Count = int64(i) * 500
		if i%3 == 0 {
			n.Services.Value["firewalld"] = ServiceRunning
		}
		if i%7 == 0 {
			f.nodes[i] = NodeFacts{Node: n.Node, Problem: "the session broke: " + strings.Repeat("x", 100)}
		}
	}
	r := f.judge()
	b, err := json.Marshal(r)
	if err != nil || len(b) > 1<<20 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	t.Logf("%d results, %d bytes", len(r.Results), len(b))
}

func BenchmarkJudge(b *testing.B) {
	for _, n := range []int{100, 500} {
		f := good(n)
		for i := range f.nodes {
			f.nodes[i].Memory.Value.Available += int64(i) << 21
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				f.judge()
			}
		})
	}
}

// Where Calico runs, a target is what its pools have; where flannel does, VXLAN.
func TestResolveEncapsulation(t *testing.T) {
	calico := func(pools ...Pool) *ClusterFacts {
		return &ClusterFacts{Flannel: Known(FlannelConfig{}), Pools: Known(pools), DaemonSets: Known([]CNISet{{Flavour: "calico", Name: "calico-node"}})}
	}
	canal := good(1).cluster
	for name, c := range map[string]struct {
		cluster *ClusterFacts
		given   Encapsulation
		want    Encapsulation
	}{
		"given":              {calico(Pool{IPIP: "Always"}), BGP, BGP},
		"vxlan":              {calico(Pool{VXLAN: "CrossSubnet", IPIP: "Never"}), "", VXLAN},
		"ipip":               {calico(Pool{IPIP: "Always"}), "", IPIP},
		"neither":            {calico(Pool{IPIP: "Never", VXLAN: "Never"}), "", BGP},
		"disabled ones":      {calico(Pool{IPIP: "Always", Disabled: true}, Pool{VXLAN: "Always"}), "", VXLAN},
		"no pools":           {calico(), "", VXLAN},
		"Canal's spare pool": {canal, "", VXLAN},
		"flannel not known":  {&ClusterFacts{Pools: Known([]Pool{{IPIP: "Always"}})}, "", VXLAN},
	} {
		if got := Resolve(c.cluster, nil, Target{Encapsulation: c.given}).Encapsulation; got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// A node that is about to be moved is held against the checks that docs/migration.md
// names. What is true by then, Calico's overlay beside flannel's, is not in the way.
func TestJudgeNode(t *testing.T) {
	text, err := os.ReadFile("../../docs/migration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ = bytes.Cut(text, []byte("### Before a node moves"))
	text, _, _ = bytes.Cut(text, []byte("makes the node fail"))
	f := good(3)
	n := f.nodes[1]
	n.Links.Value = append(slices.Clone(n.Links.Value), Link{Name: "vxlan.calico", Kind: "vxlan", MTU: 1450, Up: true, VNI: DefaultVNI, Port: DefaultPort})
	r := JudgeNode(f.cluster, n, f.target)
	if r.Status != Pass || r.Nodes != 1 {
		t.Errorf("%s of %d nodes", r.Status, r.Nodes)
	}
	for _, res := range r.Results {
		if !slices.Equal(res.Nodes, []string{n.Node}) || res.Status != Pass {
			t.Errorf("%s: %s on %v: %s", res.ID, res.Status, res.Nodes, res.Measured)
		}
	}
	for _, c := range Checks() {
		judged := slices.ContainsFunc(r.Results, func(res Result) bool { return res.ID == c.ID })
		if named := bytes.Contains(text, []byte("`"+c.ID+"`")); named != judged || judged && !c.PerNode() {
			t.Errorf("%s: judged %t, in docs/migration.md %t, looks at a node %t", c.ID, judged, named, c.PerNode())
		}
	}
	n.CNI.Value.ReadOnly = []string{"/etc/cni/net.d"}
	r = JudgeNode(f.cluster, n, f.target)
	if way := r.InTheWay(true); len(way) != 1 || way[0].ID != "cni-writable" {
		t.Errorf("%+v", way)
	}
	// Of a node that does not answer nothing is known; that is in the way until it is accepted.
	r = JudgeNode(f.cluster, NodeFacts{Node: n.Node, Problem: "no answer"}, f.target)
	if r.Status != Unsure || len(r.InTheWay(false)) == 0 || len(r.InTheWay(true)) != 0 {
		t.Errorf("%s: %+v", r.Status, r.InTheWay(false))
	}
}
