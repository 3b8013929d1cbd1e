package topology

import "fmt"

// Addresses that all labs share.
const (
	// Gateway is the bridge's address, where etcd and the stand-ins listen.
	Gateway = "10.99.0.1"
	// PrefixLen of the lab's network 10.99.0.0/24.
	PrefixLen = 24
	// ServiceCIDR may be the same in every cluster: services never leave one.
	ServiceCIDR = "10.43.0.0/16"
	// ServiceAPI is the kubernetes service, the first address of ServiceCIDR.
	ServiceAPI = "10.43.0.1"
	// ServiceDNS is CoreDNS.
	ServiceDNS = "10.43.0.10"
	// APIPort of every API server.
	APIPort = 6443
)

// firstPodNet skips 10.43, which is ServiceCIDR.
const firstPodNet = 44

// Plan is a topology with every name and address decided.
type Plan struct {
	Clusters []PlannedCluster `json:"clusters"`
	// NoFleet leaves Fleet and the Git server out.
	NoFleet bool `json:"noFleet,omitempty"`
}

// PlannedCluster has the addresses of a cluster.
type PlannedCluster struct {
	Cluster
	// APIAddress is an address of its own on the first node's link, so that the
	// API server can be cut off without cutting off the node.
	APIAddress string `json:"apiAddress"`
	PodCIDR    string `json:"podCIDR"`
	NodeList   []Node `json:"nodeList"`
}

// Node is one machine of a cluster: a network, mount, host name and process namespace.
type Node struct {
	Name    string `json:"name"`
	Cluster string `json:"cluster"`
	Address string `json:"address"`
	// PodCIDR is used by the bridge plugin; Calico has its own blocks, and Canal's
	// come from the controller manager.
	PodCIDR string `json:"podCIDR"`
}

// APIServer is the URL of the cluster's API server.
func (c PlannedCluster) APIServer() string {
	return fmt.Sprintf("https://%s:%d", c.APIAddress, APIPort)
}

// Plan decides names and addresses. The order of clusters decides them alone.
func (t Topology) Plan() Plan {
	p := Plan{NoFleet: t.Fleet != nil && !*t.Fleet}
	for i, c := range t.Clusters {
		base := 20 + 10*i
		pc := PlannedCluster{
			Cluster:    c,
			APIAddress: fmt.Sprintf("10.99.0.%d", base),
			PodCIDR:    fmt.Sprintf("10.%d.0.0/16", firstPodNet+i),
		}
		for j := range c.Nodes {
			pc.NodeList = append(pc.NodeList, Node{
				Name:    fmt.Sprintf("%s-%d", c.Name, j+1),
				Cluster: c.Name,
				Address: fmt.Sprintf("10.99.0.%d", base+1+j),
				PodCIDR: fmt.Sprintf("10.%d.%d.0/24", firstPodNet+i, j),
			})
		}
		p.Clusters = append(p.Clusters, pc)
	}
	return p
}

// Nodes are all nodes in order.
func (p Plan) Nodes() []Node {
	var out []Node
	for _, c := range p.Clusters {
		out = append(out, c.NodeList...)
	}
	return out
}

// Cluster finds a cluster by name.
func (p Plan) Cluster(name string) (PlannedCluster, bool) {
	for _, c := range p.Clusters {
		if c.Name == name {
			return c, true
		}
	}
	return PlannedCluster{}, false
}

// Node finds a node by name.
func (p Plan) Node(name string) (Node, bool) {
	for _, n := range p.Nodes() {
		if n.Name == name {
			return n, true
		}
	}
	return Node{}, false
}

// Names are the names of the clusters in order.
func (p Plan) Names() []string {
	var out []string
	for _, c := range p.Clusters {
		out = append(out, c.Name)
	}
	return out
}
