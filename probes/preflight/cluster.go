package preflight

import "net/netip"

// ClusterFacts are what the API server says.
type ClusterFacts struct {
	Name       string              `json:"name"`
	Kubernetes Fact[string]        `json:"kubernetes"`
	Nodes      Fact[[]Node]        `json:"nodes"`
	DaemonSets Fact[[]CNISet]      `json:"daemonSets"`
	Flannel    Fact[FlannelConfig] `json:"flannel"`
	Pools      Fact[[]Pool]        `json:"pools"`
	Services   Fact[ServiceNet]    `json:"services"`
	CalicoAPI  Fact[CalicoAPI]     `json:"calicoAPI"`
	Budgets    Fact[[]Budget]      `json:"budgets"`
	Pods       Fact[[]Pod]         `json:"pods"`
	// ProxyMode is kube-proxy's: iptables, ipvs, nftables, or none.
	ProxyMode Fact[string] `json:"proxyMode"`
}

// Node is a node as the API server knows it.
type Node struct {
	Name         string            `json:"name"`
	OS           string            `json:"os"`
	Ready        bool              `json:"ready"`
	ControlPlane bool              `json:"controlPlane,omitempty"`
	PodCIDRs     []string          `json:"podCIDRs,omitempty"`
	Addresses    []string          `json:"addresses,omitempty"`
	MaxPods      int               `json:"maxPods,omitempty"`
	Flannel      map[string]string `json:"flannel,omitempty"`
	// Images that the node has. Kubelet lists no more than 50 by default, and
	// ImagesCut is true when it may have left some out.
	Images    []string `json:"images,omitempty"`
	ImagesCut bool     `json:"imagesCut,omitempty"`
}

// Flavour is what kind of network a DaemonSet brings.
type Flavour string

const (
	FlavourCanal     Flavour = "canal"
	FlavourRKE2Canal Flavour = "rke2-canal"
	FlavourFlannel   Flavour = "kube-flannel"
	FlavourCalico    Flavour = "calico"
	FlavourOther     Flavour = "other"
)

// Addon says who brought a DaemonSet, and would bring it back.
type Addon string

const (
	// AddonNone is a plain manifest.
	AddonNone      Addon = ""
	AddonHelm      Addon = "Helm"
	AddonHelmChart Addon = "HelmChart"
	AddonK3s       Addon = "K3s add-on"
	AddonManager   Addon = "add-on manager"
	AddonOperator  Addon = "Tigera operator"
)

// CNISet is a DaemonSet of a pod network.
type CNISet struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Flavour   Flavour  `json:"flavour"`
	Addon     Addon    `json:"addon,omitempty"`
	Images    []string `json:"images,omitempty"`
	// Calico is the version of its calico-node, where it has one.
	Calico string `json:"calico,omitempty"`
	// Selector is its nodeSelector but for the operating system's label.
	Selector map[string]string `json:"selector,omitempty"`
	Desired  int               `json:"desired"`
	Ready    int               `json:"ready"`
}

// FlannelConfig is flannel's net-conf.json. Present is false where there is no flannel.
type FlannelConfig struct {
	Present bool   `json:"present"`
	Source  string `json:"source,omitempty"`
	Network string `json:"network,omitempty"`
	IPv6    string `json:"ipv6,omitempty"`
	Backend string `json:"backend,omitempty"`
	VNI     int    `json:"vni,omitempty"`
	Port    int    `json:"port,omitempty"`
	// DirectRouting leaves the overlay out between nodes of one subnet.
	DirectRouting bool `json:"directRouting,omitempty"`
}

// Pool is a Calico IPPool.
type Pool struct {
	Name      string `json:"name"`
	CIDR      string `json:"cidr"`
	IPIP      string `json:"ipip,omitempty"`
	VXLAN     string `json:"vxlan,omitempty"`
	BlockSize int    `json:"blockSize,omitempty"`
	Disabled  bool   `json:"disabled,omitempty"`
}

// ServiceNet is what is known of the services' addresses.
type ServiceNet struct {
	// CIDRs are the configured networks; empty when the API does not tell.
	CIDRs []string `json:"cidrs,omitempty"`
	// Addresses are those of services.
	Addresses []string `json:"addresses,omitempty"`
}

// CalicoAPI says how Calico's objects are served.
type CalicoAPI struct {
	// Mode is aggregated, native, crd (crd.projectcalico.org only) or none.
	Mode string `json:"mode"`
	// Tiers is true when the version has Tier objects.
	Tiers bool `json:"tiers,omitempty"`
}

// Budget is a PodDisruptionBudget and the running pods that it covers.
type Budget struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Allowed   int    `json:"allowed"`
	Healthy   int    `json:"healthy"`
	Desired   int    `json:"desired"`
	Expected  int    `json:"expected"`
	// Stale is true when the budget's controller has not seen its last change.
	Stale bool `json:"stale,omitempty"`
}

// Pod is what a drain needs to know of a pod.
type Pod struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Node      string `json:"node"`
	// Controller is the kind of its controller, or empty.
	Controller string `json:"controller,omitempty"`
	// Owner is the workload's name, such as deployment/web.
	Owner string `json:"owner,omitempty"`
	// Replicas is how many its workload wants; 0 where that is not known.
	Replicas    int  `json:"replicas,omitempty"`
	LocalData   bool `json:"localData,omitempty"`
	HostNetwork bool `json:"hostNetwork,omitempty"`
	// Mirror is a static pod, which no drain touches.
	Mirror bool `json:"mirror,omitempty"`
	Done   bool `json:"done,omitempty"`
}

// Encapsulation between nodes.
type Encapsulation string

const (
	VXLAN Encapsulation = "vxlan"
	IPIP  Encapsulation = "ipip"
	BGP   Encapsulation = "bgp"
)

// Target is the Calico that is wanted. Empty fields take what the cluster has,
// or Calico's defaults.
type Target struct {
	// Version such as v3.28.5; empty takes that of the Calico that runs, as in Canal.
	Version       string        `json:"version,omitempty"`
	Encapsulation Encapsulation `json:"encapsulation,omitempty"`
	VNI           int           `json:"vni,omitempty"`
	Port          int           `json:"port,omitempty"`
	PodCIDR       string        `json:"podCIDR,omitempty"`
	// BlockSize is the prefix length of a node's blocks of addresses.
	BlockSize int `json:"blockSize,omitempty"`
	// MTU of pods; 0 takes that of the flannel or Calico that runs.
	MTU int `json:"mtu,omitempty"`
	// Typha says that Felix will read through Typha.
	Typha bool `json:"typha,omitempty"`
	// Images must be on every node already.
	Images []string `json:"images,omitempty"`
}

// Calico's own defaults (felix/config/config_params.go, libcalico-go clientv3/ippool.go).
const (
	DefaultVNI       = 4096
	DefaultPort      = 4789
	DefaultBlockSize = 26
)

// IPv4 is the first IPv4 address, or "".
func IPv4(addresses []string) string {
	for _, a := range addresses {
		if addr, err := netip.ParseAddr(a); err == nil && addr.Is4() {
			return a
		}
	}
	return ""
}

// ValidCIDR says whether text is an IPv4 network.
func ValidCIDR(text string) bool {
	p, err := netip.ParsePrefix(text)
	return err == nil && p.Addr().Is4()
}
