package preflight

import "time"

// Fact is something that was measured, or not. The zero Fact was not measured.
type Fact[T any] struct {
	Known bool `json:"known,omitempty"`
	Value T    `json:"value,omitempty"`
	// Why says, in one line, why it is not known.
	Why string `json:"why,omitempty"`
}

// Known is a Fact with a value.
func Known[T any](v T) Fact[T] { return Fact[T]{Known: true, Value: v} }

// Unknown is a Fact that could not be measured, and why.
func Unknown[T any](why string) Fact[T] { return Fact[T]{Why: why} }

// NodeFacts are what the agent measured on one node.
type NodeFacts struct {
	Node string `json:"node"`
	// Problem says why nothing could be measured there; all facts are unknown then.
	Problem string `json:"problem,omitempty"`

	Kernel       Fact[string]                 `json:"kernel"`
	KernelConfig Fact[map[string]string]      `json:"kernelConfig"`
	Modules      Fact[map[string]ModuleState] `json:"modules"`
	IPSet        Fact[Trial]                  `json:"ipset"`
	Conntrack    Fact[Conntrack]              `json:"conntrack"`
	IPTables     Fact[IPTables]               `json:"iptables"`
	// LegacyTables are the tables of the old iptables that hold rules' tables in the kernel.
	LegacyTables Fact[[]string]  `json:"legacyTables"`
	NFTables     Fact[[]NFTable] `json:"nftables"`
	// Sysctls maps names, with dots, to values; those that the kernel does not have are left out.
	Sysctls Fact[map[string]string] `json:"sysctls"`
	// SysctlFiles are the settings of /etc/sysctl.d and its like, the last one first to win.
	SysctlFiles    Fact[map[string]string] `json:"sysctlFiles"`
	NetworkManager Fact[NetworkManager]    `json:"networkManager"`
	// Services maps firewalld and nm-cloud-setup to what the node does with them.
	Services  Fact[map[string]ServiceState] `json:"services"`
	CPU       Fact[CPU]                     `json:"cpu"`
	Memory    Fact[Memory]                  `json:"memory"`
	Disks     Fact[[]Disk]                  `json:"disks"`
	ClockSkew Fact[time.Duration]           `json:"clockSkew"`
	Ports     Fact[[]PortUse]               `json:"ports"`
	CNI       Fact[CNIDir]                  `json:"cni"`
	SubnetEnv Fact[SubnetEnv]               `json:"subnetEnv"`
	Links     Fact[[]Link]                  `json:"links"`
	Routes    Fact[[]Route]                 `json:"routes"`
	// KubeProxy is the mode that kube-proxy on the node tells, or empty.
	KubeProxy  string        `json:"kubeProxy,omitempty"`
	MeasuredIn time.Duration `json:"measuredIn,omitempty"`
}

// ModuleState says where a kernel module is.
type ModuleState string

const (
	ModuleLoaded   ModuleState = "loaded"
	ModuleBuiltin  ModuleState = "built in"
	ModuleLoadable ModuleState = "loadable"
	ModuleMissing  ModuleState = "missing"
)

// Trial is something that was tried.
type Trial struct {
	OK bool `json:"ok"`
	// Detail says what was done, or what failed.
	Detail string `json:"detail,omitempty"`
}

// Conntrack is the connection tracking table.
type Conntrack struct {
	Count int64 `json:"count"`
	Max   int64 `json:"max"`
}

// IPTables is the node's own iptables program, which CNI plugins such as portmap run.
type IPTables struct {
	// Path is empty where there is none.
	Path string `json:"path,omitempty"`
	// Flavour is nft or legacy.
	Flavour string `json:"flavour,omitempty"`
	// Version such as 1.8.9; empty where the program could not be asked.
	Version string `json:"version,omitempty"`
}

// NFTable is a table of nftables with its chains.
type NFTable struct {
	Family string   `json:"family"`
	Name   string   `json:"name"`
	Chains []string `json:"chains,omitempty"`
}

// NetworkManager says whether it runs and keeps its hands off.
type NetworkManager struct {
	Running bool `json:"running"`
	// Unmanaged are the device patterns of its unmanaged-devices settings.
	Unmanaged []string `json:"unmanaged,omitempty"`
}

// ServiceState is what a node does with a service.
type ServiceState string

const (
	ServiceAbsent    ServiceState = "absent"
	ServiceInstalled ServiceState = "installed"
	ServiceEnabled   ServiceState = "enabled"
	ServiceRunning   ServiceState = "running"
)

// CPU is how busy a node is.
type CPU struct {
	Count int     `json:"count"`
	Load5 float64 `json:"load5"`
}

// Memory is in bytes.
type Memory struct {
	Total     int64 `json:"total"`
	Available int64 `json:"available"`
}

// Disk is a file system, by a path on it; in bytes and inodes.
type Disk struct {
	Path       string `json:"path"`
	Total      int64  `json:"total"`
	Free       int64  `json:"free"`
	Inodes     int64  `json:"inodes,omitempty"`
	InodesFree int64  `json:"inodesFree,omitempty"`
}

// PortUse is a port that is taken on a node.
type PortUse struct {
	Protocol string `json:"protocol"`
	Port     int    `json:"port"`
	Address  string `json:"address"`
	// Owner is the program, kernel for a port of the kernel's own, or empty when it was not found.
	Owner string `json:"owner,omitempty"`
}

// CNIDir is the CNI configuration of a node.
type CNIDir struct {
	// Configs are sorted by file name: the runtime takes the first.
	Configs []CNIConfig `json:"configs,omitempty"`
	// ReadOnly are the CNI folders that cannot be written.
	ReadOnly []string `json:"readOnly,omitempty"`
}

// CNIConfig is one configuration file.
type CNIConfig struct {
	File    string   `json:"file"`
	Name    string   `json:"name,omitempty"`
	Plugins []string `json:"plugins,omitempty"`
	IPAM    string   `json:"ipam,omitempty"`
	MTU     int      `json:"mtu,omitempty"`
	// Error says why the runtime could not use it.
	Error string `json:"error,omitempty"`
}

// SubnetEnv is what flanneld wrote to subnet.env. Present is false when there is no such file.
type SubnetEnv struct {
	Present bool   `json:"present"`
	Network string `json:"network,omitempty"`
	Subnet  string `json:"subnet,omitempty"`
	MTU     int    `json:"mtu,omitempty"`
	IPMasq  bool   `json:"ipMasq,omitempty"`
	// IPv6 is true when flannel has an IPv6 network too.
	IPv6 bool `json:"ipv6,omitempty"`
}

// Link is a network interface.
type Link struct {
	Name      string   `json:"name"`
	Kind      string   `json:"kind"`
	MTU       int      `json:"mtu"`
	Up        bool     `json:"up"`
	Addresses []string `json:"addresses,omitempty"`
	// VNI and Port are of VXLAN devices.
	VNI  int    `json:"vni,omitempty"`
	Port int    `json:"port,omitempty"`
	MAC  string `json:"mac,omitempty"`
}

// Route is an entry of the main routing table.
type Route struct {
	To   string `json:"to"`
	Via  string `json:"via,omitempty"`
	Link string `json:"link,omitempty"`
	// MTU is that of the route, where it has one of its own.
	MTU  int    `json:"mtu,omitempty"`
	Kind string `json:"kind,omitempty"`
}
