package preflight

import (
	"fmt"
	"slices"
)

// facts are everything that Judge gets.
type facts struct {
	cluster *ClusterFacts
	nodes   []NodeFacts
	mesh    *Mesh
	target  Target
}

func (f *facts) judge() *Report { return Judge(f.cluster, f.nodes, f.mesh, f.target) }

// goodNode is a node on which every check passes.
func goodNode(i int) NodeFacts {
	modules := map[string]ModuleState{}
	for _, m := range Modules() {
		modules[m.Name] = ModuleLoaded
	}
	return NodeFacts{
		Node:         nodeName(i),
		Kernel:       Known("6.1.0-13-amd64"),
		KernelConfig: Known(map[string]string{"CONFIG_NET_NS": "y", "CONFIG_NETFILTER": "y", "CONFIG_CGROUPS": "y", "CONFIG_NF_CONNTRACK": "m"}),
		Modules:      Known(modules),
		IPSet:        Known(Trial{OK: true, Detail: "made, filled, read and destroyed"}),
		Conntrack:    Known(Conntrack{Count: 1000, Max: 262144}),
		IPTables:     Known(IPTables{Path: "/usr/sbin/iptables", Flavour: "nft", Version: "1.8.9"}),
		LegacyTables: Known([]string(nil)),
		NFTables:     Known([]NFTable{{Family: "ip", Name: "filter", Chains: []string{"INPUT", "cali-INPUT", "FLANNEL-FWD"}}}),
		Sysctls: Known(map[string]string{
			"net.ipv4.ip_forward": "1", "net.ipv4.conf.all.rp_filter": "0",
			"fs.inotify.max_user_instances": "8192", "fs.inotify.max_user_watches": "524288",
		}),
		SysctlFiles:    Known(map[string]string{"net.ipv4.ip_forward": "1"}),
		NetworkManager: Known(NetworkManager{}),
		Services:       Known(map[string]ServiceState{"firewalld": ServiceAbsent, "nm-cloud-setup": ServiceAbsent}),
		CPU:            Known(CPU{Count: 4, Load5: 1}),
		Memory:         Known(Memory{Total: 16 << 30, Available: 8 << 30}),
		Disks:          Known([]Disk{{Path: "/var/lib/kubelet", Total: 100 << 30, Free: 60 << 30, Inodes: 1000000, InodesFree: 900000}}),
		ClockSkew:      Known[timeDuration](0),
		Ports:          Known([]PortUse{{Protocol: "tcp", Port: 9099, Address: "127.0.0.1", Owner: "calico-node"}, {Protocol: "udp", Port: 8472, Address: "0.0.0.0", Owner: "kernel"}}),
		CNI:            Known(CNIDir{Configs: []CNIConfig{{File: "10-canal.conflist", Name: "k8s-pod-network", Plugins: []string{"calico", "portmap"}, IPAM: "host-local"}}}),
		SubnetEnv:      Known(SubnetEnv{Present: true, Network: "10.42.0.0/16", Subnet: subnet(i, 1), MTU: 1450, IPMasq: true}),
		Links: Known([]Link{
			{Name: "lo", Kind: "device", MTU: 65536, Up: true, Addresses: []string{"127.0.0.1/8"}},
			{Name: "eth0", Kind: "device", MTU: 1500, Up: true, Addresses: []string{hostAddress(i) + "/20"}},
			{Name: "flannel.1", Kind: "vxlan", MTU: 1450, Up: true, Addresses: []string{fmt.Sprintf("10.42.%d.0/32", i)}, VNI: 1, Port: 8472},
		}),
		Routes: Known([]Route{{To: "default", Via: "192.168.0.1", Link: "eth0"}}),
	}
}

func nodeName(i int) string    { return fmt.Sprintf("node-%03d", i) }
func hostAddress(i int) string { return fmt.Sprintf("192.168.%d.%d", i/200, i%200+10) }
func subnet(i, host int) string {
	return fmt.Sprintf("10.%d.%d.%d/24", 42+i/256, i%256, host)
}

// good is a Canal cluster of n nodes on which every check passes.
func good(n int) *facts {
	f := &facts{target: Target{Version: "v3.28.5", Images: []string{"calico/node:v3.28.5"}}}
	network := "10.42.0.0/16"
	if n > 250 {
		network = "10.42.0.0/15"
	}
	var nodes []Node
	for i := range n {
		facts := goodNode(i)
		facts.SubnetEnv.Value.Network = network
		f.nodes = append(f.nodes, facts)
		nodes = append(nodes, Node{
			Name: nodeName(i), OS: "linux", Ready: true, PodCIDRs: []string{subnet(i, 0)}, Addresses: []string{hostAddress(i)}, MaxPods: 110,
			Flannel: map[string]string{"backend-type": "vxlan", "backend-data": `{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}`, "public-ip": hostAddress(i)},
			Images:  []string{"docker.io/calico/node:v3.28.5"},
		})
	}
	f.cluster = &ClusterFacts{
		Name:       "dev",
		Kubernetes: Known("v1.30.4"),
		Nodes:      Known(nodes),
		DaemonSets: Known([]CNISet{{Namespace: "kube-system", Name: "canal", Flavour: FlavourCanal, Calico: "v3.28.5", Desired: n, Ready: n}}),
		Flannel:    Known(FlannelConfig{Present: true, Source: "ConfigMap kube-system/canal-config", Network: network, Backend: "vxlan", VNI: 1, Port: 8472}),
		Pools:      Known([]Pool{{Name: "default-ipv4-ippool", CIDR: "172.16.0.0/16", VXLAN: "Never", BlockSize: 26}}),
		Services:   Known(ServiceNet{CIDRs: []string{"10.96.0.0/16"}, Addresses: []string{"10.96.0.1"}}),
		CalicoAPI:  Known(CalicoAPI{Mode: "aggregated"}),
		Budgets:    Known([]Budget{{Namespace: "web", Name: "web", Allowed: 1, Healthy: 3, Desired: 2, Expected: 3}}),
		Pods: Known([]Pod{
			{Namespace: "web", Name: "web-1", Node: nodeName(0), Controller: "ReplicaSet", Owner: "deployment/web", Replicas: 3},
			{Namespace: "kube-system", Name: "etcd", Node: nodeName(0), Mirror: true, HostNetwork: true},
		}),
		ProxyMode: Known("iptables"),
	}
	f.mesh = NewMesh(n, Paths(f.target))
	f.mesh.MTU.Tried = []int{1280, 1500}
	for i := range f.mesh.Paths {
		f.mesh.Paths[i].Answers[Open] = f.mesh.Pairs
	}
	if n > 1 {
		f.mesh.MTU.Sizes[1500] = f.mesh.Pairs
	}
	return f
}

// of returns the worst status of a check, or "" where it was not made.
func of(r *Report, id string) (Status, *Result) {
	i := slices.IndexFunc(r.Results, func(res Result) bool { return res.ID == id })
	if i < 0 {
		return "", nil
	}
	return r.Results[i].Status, &r.Results[i]
}
