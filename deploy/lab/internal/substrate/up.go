package substrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"portcullis.dev/portcullis/deploy/lab/internal/fault"
	"portcullis.dev/portcullis/deploy/lab/internal/netw"
	"portcullis.dev/portcullis/deploy/lab/internal/state"
	"portcullis.dev/portcullis/deploy/lab/internal/topology"
	"portcullis.dev/portcullis/deploy/lab/internal/world"
)

// ErrOtherTopology says that a lab of another shape is up.
var ErrOtherTopology = errors.New("a lab with another topology is up here; `lab down` it first")

// kubernetesPrograms are the names that the one Kubernetes program is called by.
var kubernetesPrograms = []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"}

// Up starts the lab. What runs already is left alone, so it repairs a lab that
// has lost a part of itself. Faults are cleared.
func (l *Lab) Up(ctx context.Context, t topology.Topology, b Built) error {
	plan := t.Plan()
	if len(l.plan.Clusters) > 0 && !reflect.DeepEqual(l.plan, plan) {
		return ErrOtherTopology
	}
	if err := l.checkAlone(); err != nil {
		return err
	}
	l.plan = plan
	if err := l.store.Update(func(d *state.Data) {
		d.Plan, d.BootID, d.Ready = plan, state.BootID(), false
		d.Images = state.Images{Portcullis: b.Own.Portcullis, Workload: b.Own.Workload}
	}); err != nil {
		return err
	}
	if err := l.endStrays(); err != nil {
		return err
	}
	if err := l.prepare(b); err != nil {
		return err
	}
	if err := netw.EnsureBridge(l.StateDir, topology.Gateway, topology.PrefixLen); err != nil {
		return err
	}
	if err := l.upEtcd(ctx); err != nil {
		return err
	}
	l.Log("network and etcd are up")
	// A node that is off is started below, like one that was killed.
	if err := l.store.Update(func(d *state.Data) {
		d.Faults = slices.DeleteFunc(d.Faults, func(f fault.Fault) bool { return f.Kind == fault.Power })
	}); err != nil {
		return err
	}
	if err := l.clearOf(ctx, "", fault.Block, fault.MTU, fault.Module, fault.Port, fault.CNIReadOnly); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, c := range plan.Clusters {
		g.Go(func() error {
			if err := l.upCluster(gctx, c, b); err != nil {
				return fmt.Errorf("cluster %s: %w", c.Name, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if l.World != nil {
		if err := l.World(ctx, l.worldEnv(b)); err != nil {
			return err
		}
	}
	return l.store.Update(func(d *state.Data) { d.Ready = true })
}

// checkAlone refuses to start beside another lab, or over the remains of one
// whose record is lost.
func (l *Lab) checkAlone() error {
	if err := checkOwner(l.StateDir); err != nil {
		return err
	}
	if len(l.plan.Clusters) > 0 {
		return nil
	}
	left := Leftovers(l.StateDir)
	// The folder itself is there: this program holds its lock.
	left = slices.DeleteFunc(left, func(s string) bool { return s == "folder "+l.StateDir })
	if len(left) > 0 {
		return fmt.Errorf("remains of a lab without its record are here (%s, %d in all); `lab down` takes them away", left[0], len(left))
	}
	return nil
}

// checkOwner refuses to touch the network of a lab with another state directory that still runs.
func checkOwner(stateDir string) error {
	owner, err := netw.Owner()
	if err != nil {
		return err
	}
	if owner == "" || owner == stateDir || len(state.Marked(owner)) == 0 {
		return nil
	}
	return fmt.Errorf("the lab of %s is up on this machine, and there is room for one; `lab --state %s down` takes it away", owner, owner)
}

// endStrays ends processes that a killed `lab up` started and did not record.
func (l *Lab) endStrays() error {
	known := map[int]bool{}
	for _, r := range l.store.Get().Processes {
		if r.Alive() {
			known[r.PID] = true
		}
	}
	return state.End(state.Strays(l.StateDir, known), stopGrace)
}

// prepare makes the state directory and the programs in it.
func (l *Lab) prepare(b Built) error {
	for dir, mode := range map[string]os.FileMode{"bin": 0o755, "log": 0o755, "kubeconfig": 0o700, "pki": 0o700, "nodes": 0o755} {
		if err := os.MkdirAll(l.path(dir), mode); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	programs := map[string]string{"etcd": filepath.Join(b.Components["etcd"], "etcd"), "helm": filepath.Join(b.Components["fleet"], "helm")}
	for _, p := range kubernetesPrograms {
		programs[p] = filepath.Join(b.Components["kubernetes"], "kubernetes")
	}
	for name, from := range programs {
		if err := linkOrCopy(from, l.bin(name)); err != nil {
			return err
		}
	}
	if self == l.bin("lab") {
		return nil
	}
	// A copy, for a program that is built again is written in place.
	return replaceByCopy(self, l.bin("lab"))
}

func replaceByCopy(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		return err
	}
	if err := dst.Close(); err != nil {
		return err
	}
	return os.Rename(to+".new", to)
}

// upCluster starts one cluster and waits until its nodes and pods are ready.
func (l *Lab) upCluster(ctx context.Context, c topology.PlannedCluster, b Built) error {
	for i := range c.NodeList {
		if err := upNodeNet(c, i); err != nil {
			return err
		}
	}
	if err := bridgeRoutes(c); err != nil {
		return err
	}
	if err := l.issue(c); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := l.upAPI(gctx, c); err != nil {
			return err
		}
		l.Log("%s: API server is ready", c.Name)
		if err := l.upControllers(c); err != nil {
			return err
		}
		if err := l.applyAddons(gctx, c, b); err != nil {
			return err
		}
		return l.clearOf(gctx, c.Name, fault.Budget)
	})
	for _, n := range c.NodeList {
		g.Go(func() error { return l.upNode(gctx, n, b) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, n := range c.NodeList {
		if err := l.upKubelet(c, n); err != nil {
			return err
		}
	}
	if err := l.waitReady(ctx, c); err != nil {
		return err
	}
	l.Log("%s: nodes and pods are ready", c.Name)
	return nil
}

func (l *Lab) upNode(ctx context.Context, n topology.Node, b Built) error {
	if err := l.upHolder(n); err != nil {
		return err
	}
	if err := l.upRuntime(ctx, n, b); err != nil {
		return err
	}
	if err := l.importOwn(ctx, n, b.Own); err != nil {
		return err
	}
	return l.clearOf(ctx, n.Name, fault.Calico)
}

// waitReady waits for all nodes, and for all pods of the system's own namespace.
func (l *Lab) waitReady(ctx context.Context, c topology.PlannedCluster) error {
	client, err := l.client(c)
	if err != nil {
		return err
	}
	// CoreDNS; an agent on each node; and Canal's controllers.
	want := map[topology.CNI]int{topology.Bridge: 1, topology.Calico: 1 + len(c.NodeList), topology.Canal: 2 + len(c.NodeList)}[c.CNI]
	return poll(ctx, "nodes and pods", 4*time.Minute, 500*time.Millisecond, func(ctx context.Context) error {
		nodes, err := client.Nodes(ctx)
		if err != nil {
			return err
		}
		if len(nodes) < len(c.NodeList) {
			return fmt.Errorf("%d of %d nodes have registered", len(nodes), len(c.NodeList))
		}
		for _, n := range nodes {
			if !n.Ready {
				return fmt.Errorf("node %s is not ready: %s", n.Name, n.Why)
			}
		}
		pods, err := client.Pods(ctx)
		if err != nil {
			return err
		}
		ready := 0
		for _, p := range pods {
			if p.Namespace != "kube-system" {
				continue
			}
			if !p.OK {
				return fmt.Errorf("pod %s/%s is not ready: %s", p.Namespace, p.Name, p.Why)
			}
			ready++
		}
		if ready < want {
			return fmt.Errorf("%d of %d system pods are ready", ready, want)
		}
		return nil
	})
}

// worldEnv is what the clusters' content is made from.
func (l *Lab) worldEnv(b Built) world.Env {
	env := world.Env{
		StateDir: l.StateDir, BinDir: l.path("bin"), FleetChartsDir: filepath.Join(b.Components["fleet"], "charts"),
		Fleet:           !l.plan.NoFleet,
		PortcullisImage: b.Own.Portcullis, WorkloadImage: b.Own.Workload, Log: l.Log,
		Start: func(name string, cmd []string) error { return l.ensure(name, state.Record{Command: cmd}) },
	}
	for _, c := range l.plan.Clusters {
		env.Clusters = append(env.Clusters, world.Cluster{
			Name: c.Name, ID: c.ID, Kubeconfig: Kubeconfig(l.StateDir, c.Name), APIServer: c.APIServer(),
			CAFile: l.pki(c.Name, "ca.crt"), Labels: c.Labels, PodCIDR: c.PodCIDR, Enforces: c.CNI.Enforces(),
		})
	}
	return env
}

// Reimport loads the repository's own images as they are now into every node.
func (l *Lab) Reimport(ctx context.Context, o Own) error {
	if len(l.plan.Clusters) == 0 {
		return errors.New("the lab is not up")
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, n := range l.plan.Nodes() {
		g.Go(func() error { return l.importOwn(gctx, n, o) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	// The daemon installs the agent from the image that its configuration names.
	if err := world.WriteConfig(l.StateDir, o.Portcullis); err != nil {
		return err
	}
	return l.store.Update(func(d *state.Data) {
		d.Images = state.Images{Portcullis: o.Portcullis, Workload: o.Workload}
	})
}

// Node finds a node of the running lab.
func (l *Lab) Node(name string) (topology.Node, error) {
	n, ok := l.plan.Node(name)
	if !ok {
		return n, fmt.Errorf("no node %q in the lab; there are %v", name, nodeNames(l.plan))
	}
	return n, nil
}

// Cluster finds a cluster of the running lab.
func (l *Lab) Cluster(name string) (topology.PlannedCluster, error) {
	c, ok := l.plan.Cluster(name)
	if !ok {
		return c, fmt.Errorf("no cluster %q in the lab; there are %v", name, l.plan.Names())
	}
	return c, nil
}

func nodeNames(p topology.Plan) []string {
	var out []string
	for _, n := range p.Nodes() {
		out = append(out, n.Name)
	}
	slices.Sort(out)
	return out
}
