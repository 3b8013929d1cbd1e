package substrate

import (
	"portcullis.dev/portcullis/deploy/lab/internal/netw"
	"portcullis.dev/portcullis/deploy/lab/internal/topology"
)

// StopNode stops a node's kubelet, so that the node becomes NotReady after a
// while. Its pods go on.
func (l *Lab) StopNode(name string) error {
	if _, err := l.Node(name); err != nil {
		return err
	}
	return l.StopProcess(name + "-kubelet")
}

// StartNode starts it again.
func (l *Lab) StartNode(name string) error {
	if _, err := l.Node(name); err != nil {
		return err
	}
	return l.StartProcess(name + "-kubelet")
}

// DisconnectNode takes a node's link to all others down.
func (l *Lab) DisconnectNode(name string) error { return l.setLink(name, false) }

// ConnectNode takes it up again.
func (l *Lab) ConnectNode(name string) error { return l.setLink(name, true) }

func (l *Lab) setLink(name string, up bool) error {
	if _, err := l.Node(name); err != nil {
		return err
	}
	return netw.SetLink(name, up)
}

// DisconnectCluster makes a cluster's API server unreachable for everybody,
// without stopping it or a pod: its address is gone, as behind a dead balancer.
func (l *Lab) DisconnectCluster(name string) error {
	c, err := l.Cluster(name)
	if err != nil {
		return err
	}
	return netw.RemoveAddress(c.NodeList[0].Name, c.APIAddress, topology.PrefixLen)
}

// ConnectCluster gives it its address back.
func (l *Lab) ConnectCluster(name string) error {
	c, err := l.Cluster(name)
	if err != nil {
		return err
	}
	return netw.AddAddress(c.NodeList[0].Name, c.APIAddress, topology.PrefixLen)
}
