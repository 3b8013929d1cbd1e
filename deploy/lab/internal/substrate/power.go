package substrate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"portcullis.dev/portcullis/deploy/lab/internal/cgroup"
	"portcullis.dev/portcullis/deploy/lab/internal/fault"
	"portcullis.dev/portcullis/deploy/lab/internal/netw"
	"portcullis.dev/portcullis/deploy/lab/internal/state"
	"portcullis.dev/portcullis/deploy/lab/internal/topology"
)

// RebootNode turns a node off and on.
func (l *Lab) RebootNode(ctx context.Context, name string) error {
	f, err := fault.New(fault.Power, name, nil)
	if err != nil {
		return err
	}
	if err := l.Inject(ctx, f); err != nil {
		return err
	}
	return l.Clear(ctx, f)
}

// powerOff takes from a node all that a machine loses with its power: every
// process, of its pods too and of the control plane where it is on this node,
// its devices, addresses, routes, rules and sets, and what it had in memory. Its
// disk stays.
func (l *Lab) powerOff(name string) error {
	var processes []state.Process
	for _, r := range l.Processes() {
		if r.Node == name || r.NetNS == name {
			processes = append(processes, r.Process)
		}
	}
	if err := state.End(processes, 0); err != nil {
		return err
	}
	return errors.Join(netw.RemoveNode(name), cgroup.Remove(scope(l.StateDir), name, 10*time.Second))
}

// powerOn starts what a node starts with: its network, the control plane where
// it is on this node, containerd, kubelet and kube-proxy. It does not wait for pods.
func (l *Lab) powerOn(ctx context.Context, name string) error {
	n, err := l.Node(name)
	if err != nil {
		return err
	}
	c, err := l.Cluster(n.Cluster)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(c.NodeList, func(o topology.Node) bool { return o.Name == name })
	if err := upNodeNet(c, i); err != nil {
		return err
	}
	if err := bridgeRoutes(c); err != nil {
		return err
	}
	if err := l.upHolder(n); err != nil {
		return err
	}
	// The store is on the disk, so it needs nothing of what the lab was built from.
	if err := l.upRuntime(ctx, n, Built{}); err != nil {
		return err
	}
	if err := l.upKubelet(c, n); err != nil {
		return err
	}
	if err := l.breakAgain(ctx, name); err != nil {
		return err
	}
	if i != 0 {
		return nil
	}
	// The controllers end where there is no API server, and nobody would start them again.
	if err := l.upAPI(ctx, c); err != nil {
		return err
	}
	return l.upControllers(c)
}

// hasNetwork says that a node's network namespace is there, which it is not
// while the node is off.
func hasNetwork(node string) (bool, error) {
	_, err := os.Stat(netw.NSPath(node))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("network namespace of %s: %w", node, err)
	}
	return true, nil
}
