package migrate

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/probes/cni"
	"portcullis.dev/portcullis/probes/migration"
)

// here finds the node of the step among all.
func (r *run) here(ctx context.Context) (*corev1.Node, []corev1.Node, error) {
	if r.in.Node == "" {
		return nil, nil, errs.Invalid("the step %s needs a node", r.in.Step)
	}
	nodes, err := r.nodes(ctx)
	if err != nil {
		return nil, nil, err
	}
	n, err := node(nodes, r.in.Node)
	return n, nodes, err
}

// check sees that a node is fit to move. Nodes that joined after the preparation are
// prepared first.
func (r *run) check(ctx context.Context) error {
	o, err := r.load(ctx)
	if err != nil {
		return err
	}
	if err := r.fit(ctx, o); err != nil {
		return err
	}
	if err := r.ensureMigrator(ctx, o.Folder); err != nil {
		return err
	}
	n, nodes, err := r.here(ctx)
	if err != nil {
		return err
	}
	if !prepared(nodes) {
		if err := r.tunnels(ctx); err != nil {
			return err
		}
	}
	// Asked also where all are prepared: this step may have failed between the two.
	if err := r.claimAll(ctx); err != nil {
		return err
	}
	req, err := aboutPeers(cni.OpSave, nodes, n)
	if err != nil {
		return err
	}
	reply, err := r.ask(ctx, n.Name, req)
	if err != nil {
		return err
	}
	active := cni.Active(reply.State.Files)
	if active == nil {
		return errs.Failed("node %s has no CNI configuration", n.Name)
	}
	if len(nodes) > 1 {
		req.Op, req.Device, req.TimeoutMS = cni.OpPing, calicoDevice, pingTimeoutMS
		if _, err := r.ask(ctx, n.Name, req); err != nil {
			return err
		}
		r.proved("node %s: %d nodes answer through %s", n.Name, len(nodes)-1, calicoDevice)
	}
	r.proved("node %s is ready, and so is Canal on it; its CNI configuration %s is kept", n.Name, active.Name)
	return nil
}

// fit sees that a node, and Canal on it, is ready. One that has just joined is given the
// time to become so.
func (r *run) fit(ctx context.Context, o *original) error {
	n, _, err := r.here(ctx)
	if err != nil {
		return err
	}
	if _, was := o.Nodes[n.Name]; !was || n.Annotations[annotationTunnel] == "" {
		return r.await(ctx, "a node that has joined", func(ctx context.Context) (string, error) { return r.unfit(ctx, o) })
	}
	why, err := r.unfit(ctx, o)
	if err == nil && why != "" {
		err = errs.Failed("%s", why)
	}
	return err
}

// unfit says why a node cannot move now, or "".
func (r *run) unfit(ctx context.Context, o *original) (string, error) {
	n, _, err := r.here(ctx)
	switch {
	case err != nil:
		return "", err
	case !ready(n):
		return fmt.Sprintf("node %s is not ready", n.Name), nil
	case n.Labels[labelCNI] == cniCalico:
		return "", nil
	}
	pods, err := r.podsOn(ctx, o.Canal.Namespace, metav1.FormatLabelSelector(o.Canal.Spec.Selector), n.Name)
	if err != nil || slices.ContainsFunc(pods, func(p corev1.Pod) bool { return podReady(&p) }) {
		return "", err
	}
	return fmt.Sprintf("node %s: Canal's pod is not ready", n.Name), nil
}

// prepared tells whether every node was told its tunnel's address: one that joined
// since was not.
func prepared(nodes []corev1.Node) bool {
	for i := range nodes {
		if own, err := podNetwork(&nodes[i]); err != nil || nodes[i].Annotations[annotationTunnel] != own.Addr().String() {
			return false
		}
	}
	return true
}

// leave takes the node's traffic to Calico's overlay.
func (r *run) leave(ctx context.Context) error {
	o, err := r.load(ctx)
	if err != nil {
		return err
	}
	if err := r.ensureMigrator(ctx, o.Folder); err != nil {
		return err
	}
	n, nodes, err := r.here(ctx)
	if err != nil || len(nodes) < 2 {
		return err
	}
	return r.leaveOverlay(ctx, n, nodes)
}

func (r *run) leaveOverlay(ctx context.Context, n *corev1.Node, nodes []corev1.Node) error {
	req, err := aboutPeers(cni.OpLeave, nodes, n)
	if err != nil {
		return err
	}
	reply, err := r.ask(ctx, n.Name, req)
	if err != nil {
		return err
	}
	for _, route := range reply.State.Routes {
		if len(route.Through) != 1 || route.Through[0] != calicoDevice {
			return errs.Failed("node %s: the pods of %s are reached through %s, and not through %s alone", n.Name, route.Peer, strings.Join(route.Through, ", "), calicoDevice)
		}
	}
	r.proved("node %s reaches the pods of %d nodes through %s", n.Name, len(reply.State.Routes), calicoDevice)
	return nil
}

// enter takes the node's traffic back to flannel's overlay.
func (r *run) enter(ctx context.Context) error {
	o, err := r.load(ctx)
	if err != nil {
		return err
	}
	if err := r.ensureMigrator(ctx, o.Folder); err != nil {
		return err
	}
	n, nodes, err := r.here(ctx)
	if errs.TypeOf(err) == errs.TypeNotFound {
		return nil
	}
	if err != nil || len(nodes) < 2 {
		return err
	}
	req, err := aboutPeers(cni.OpEnter, nodes, n)
	if err != nil {
		return err
	}
	_, err = r.ask(ctx, n.Name, req)
	return err
}

// seen is what a pod was before its node moved.
type seen struct {
	address  string
	restarts int32
}

// swap lets calico-node take the place of Canal's pod.
func (r *run) swap(ctx context.Context) error {
	o, err := r.load(ctx)
	if err != nil {
		return err
	}
	n, nodes, err := r.here(ctx)
	if err != nil {
		return err
	}
	before, err := r.pods(ctx, n.Name)
	if err != nil {
		return err
	}
	if n.Labels[labelCNI] != cniCalico {
		if err := r.patchNode(ctx, n.Name, map[string]any{labelCNI: cniCalico}, nil); err != nil {
			return err
		}
		r.changed("node %s: %s=%s", n.Name, labelCNI, cniCalico)
	}
	canal := metav1.FormatLabelSelector(o.Canal.Spec.Selector)
	if err := r.await(ctx, "Calico on "+n.Name, func(ctx context.Context) (string, error) {
		if waiting, err := r.gone(ctx, o.Canal.Namespace, canal, n.Name); waiting != "" || err != nil {
			return waiting, err
		}
		if waiting, err := r.there(ctx, calicoNamespace, calicoSelector, n.Name); waiting != "" || err != nil {
			return waiting, err
		}
		return r.there(ctx, o.Canal.Namespace, "app.kubernetes.io/name="+keeperName, n.Name)
	}); err != nil {
		return err
	}
	if err := r.ensureMigrator(ctx, o.Folder); err != nil {
		return err
	}
	req, err := aboutPeers(cni.OpLook, nodes, n)
	if err != nil {
		return err
	}
	reply, err := r.ask(ctx, n.Name, req)
	if err != nil {
		return err
	}
	active := cni.Active(reply.State.Files)
	if active == nil || active.IPAM != "calico-ipam" {
		return errs.Failed("node %s: calico-node is ready, and the CNI configuration is not Calico's: %s", n.Name, names(reply.State.Files))
	}
	r.proved("node %s: calico-node is ready, and new pods get their network from %s", n.Name, active.Name)
	if err := r.connected(ctx, n.Name); err != nil {
		return err
	}
	return r.kept(ctx, n.Name, before)
}

func names(files []cni.File) string {
	var out []string
	for _, f := range files {
		out = append(out, f.Name)
	}
	return strings.Join(out, ", ")
}

// pods are those on a node that have an address of their own and run, by UID.
func (r *run) pods(ctx context.Context, nodeName string) (map[string]seen, error) {
	list, err := r.podsOn(ctx, metav1.NamespaceAll, "", nodeName)
	if err != nil {
		return nil, err
	}
	out := map[string]seen{}
	for i := range list {
		p := &list[i]
		if p.Spec.HostNetwork || !podReady(p) {
			continue
		}
		s := seen{address: p.Status.PodIP}
		for _, c := range p.Status.ContainerStatuses {
			s.restarts += c.RestartCount
		}
		out[string(p.UID)] = s
	}
	return out, nil
}

// kept says how many pods are as they were. One that ended meanwhile of its own
// accord is no failure: the probes tell whether anything is amiss.
func (r *run) kept(ctx context.Context, nodeName string, before map[string]seen) error {
	after, err := r.pods(ctx, nodeName)
	if err != nil {
		return err
	}
	same := 0
	for uid, was := range before {
		if after[uid] == was {
			same++
		}
	}
	r.proved("node %s: %d of %d pods kept their address and did not restart", nodeName, same, len(before))
	return nil
}

func (r *run) gone(ctx context.Context, namespace, selector, node string) (string, error) {
	pods, err := r.podsOn(ctx, namespace, selector, node)
	if err != nil || len(pods) == 0 {
		return "", err
	}
	return fmt.Sprintf("pod %s/%s to go", pods[0].Namespace, pods[0].Name), nil
}

func (r *run) there(ctx context.Context, namespace, selector, node string) (string, error) {
	pods, err := r.podsOn(ctx, namespace, selector, node)
	if err != nil {
		return "", err
	}
	for i := range pods {
		if podReady(&pods[i]) {
			return "", nil
		}
	}
	if len(pods) == 0 {
		return fmt.Sprintf("a pod %s on %s", selector, node), nil
	}
	if crashes := podCrashes(&pods[0]); crashes != "" {
		return "", errs.Failed("pod %s/%s on %s: %s", pods[0].Namespace, pods[0].Name, node, crashes)
	}
	return fmt.Sprintf("pod %s/%s: %s", pods[0].Namespace, pods[0].Name, podTrouble(&pods[0])), nil
}

// maxCrashes is how often a container may end before it is not waited for any more:
// with kubelet's pauses between, that is more than a minute of trying.
const maxCrashes = 5

// podCrashes says which container of a pod ends again and again, or "".
func podCrashes(p *corev1.Pod) string {
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for _, c := range list {
			if c.State.Waiting == nil || c.State.Waiting.Reason != "CrashLoopBackOff" || c.RestartCount+1 < maxCrashes {
				continue
			}
			text := fmt.Sprintf("%s ended %d times", c.Name, c.RestartCount+1)
			if last := c.LastTerminationState.Terminated; last != nil {
				text += fmt.Sprintf(", the last time with %d %s", last.ExitCode, last.Message)
			}
			return strings.TrimSpace(text)
		}
	}
	return ""
}

// podTrouble says why a pod is not ready.
func podTrouble(p *corev1.Pod) string {
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for _, c := range list {
			switch {
			case c.State.Waiting != nil && c.State.Waiting.Reason != "PodInitializing":
				return fmt.Sprintf("%s: %s %s", c.Name, c.State.Waiting.Reason, c.State.Waiting.Message)
			case c.State.Terminated != nil && c.State.Terminated.ExitCode != 0:
				return fmt.Sprintf("%s ended with %d: %s", c.Name, c.State.Terminated.ExitCode, c.State.Terminated.Message)
			}
		}
	}
	if p.DeletionTimestamp != nil {
		return "it is going"
	}
	return "not ready yet"
}

// swapBack puts Canal back on the node: its pod, its CNI configuration, and the
// addresses of the pods that run.
func (r *run) swapBack(ctx context.Context) error {
	o, err := r.load(ctx)
	if err != nil {
		return err
	}
	if err := r.ensureMigrator(ctx, o.Folder); err != nil {
		return err
	}
	n, nodes, err := r.here(ctx)
	if errs.TypeOf(err) == errs.TypeNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	if back, err := r.hasWayBack(ctx, n, nodes); err != nil || !back {
		return err
	}
	if n.Labels[labelCNI] != cniCanal {
		if err := r.patchNode(ctx, n.Name, map[string]any{labelCNI: cniCanal}, nil); err != nil {
			return err
		}
		r.changed("node %s: %s=%s", n.Name, labelCNI, cniCanal)
	}
	if err := r.await(ctx, "Canal on "+n.Name, func(ctx context.Context) (string, error) {
		if waiting, err := r.gone(ctx, calicoNamespace, calicoSelector, n.Name); waiting != "" || err != nil {
			return waiting, err
		}
		return r.there(ctx, o.Canal.Namespace, metav1.FormatLabelSelector(o.Canal.Spec.Selector), n.Name)
	}); err != nil {
		return err
	}
	addresses, reply, err := r.giveToHostLocal(ctx, n, nodes)
	if err != nil {
		return err
	}
	active := cni.Active(reply.State.Files)
	if active == nil || active.IPAM != "host-local" {
		return errs.Failed("node %s: the CNI configuration is not Canal's again: %s", n.Name, names(reply.State.Files))
	}
	r.proved("node %s: Canal is ready, new pods get their network from %s, and %d addresses in use are host-local's again", n.Name, active.Name, len(addresses))
	if err := r.emptyClaim(ctx, n); err != nil {
		return err
	}
	return r.connected(ctx, n.Name)
}

// connectedWithin is how long pods are waited for that have no network. What they wait
// for may be something else, so that it is no failure.
const connectedWithin = 2 * time.Minute

// connected waits until every pod of a node has its network. After a boot, those that
// were started before the CNI was ready are tried again, and are not there to be measured.
func (r *run) connected(ctx context.Context, node string) error {
	var without []string
	err := r.awaitAtMost(ctx, connectedWithin, "the pods of "+node, func(ctx context.Context) (string, error) {
		pods, err := r.podsOn(ctx, metav1.NamespaceAll, "", node)
		if err != nil {
			return "", err
		}
		without = nil
		for i := range pods {
			if podUnconnected(&pods[i]) {
				without = append(without, pods[i].Namespace+"/"+pods[i].Name)
			}
		}
		if len(without) == 0 {
			return "", nil
		}
		return fmt.Sprintf("%d of them have no network yet, such as %s", len(without), without[0]), nil
	})
	if err == nil && len(without) > 0 {
		r.proved("node %s: %d pods still have no network, such as %s", node, len(without), without[0])
	}
	return err
}

// podUnconnected says whether a pod that is to run has no sandbox, and with it no network,
// as far as its kubelet tells.
func podUnconnected(p *corev1.Pod) bool {
	if p.DeletionTimestamp != nil || p.Spec.HostNetwork || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return false
	}
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReadyToStartContainers && c.Status == corev1.ConditionFalse
	})
}

// hasWayBack tells whether a node left Canal, and has kept what it goes back to.
func (r *run) hasWayBack(ctx context.Context, n *corev1.Node, nodes []corev1.Node) (bool, error) {
	req, err := aboutPeers(cni.OpLook, nodes, n)
	if err != nil {
		return false, err
	}
	reply, err := r.ask(ctx, n.Name, req)
	if err != nil || reply.State.Saved {
		return true, err
	}
	choice, err := r.choice(ctx)
	if err != nil {
		return false, err
	}
	if cmp.Or(n.Labels[labelCNI], choice) != cniCalico {
		return false, nil
	}
	return false, errs.Failed("node %s joined with Calico, and has nothing of Canal's to go back to: drain it, and delete it from the cluster; when it joins again, it gets Canal", n.Name)
}

// giveToHostLocal puts Canal's configuration back on a node, with the addresses that its pods
// have. A pod that is started meanwhile can still get one from Calico's IPAM: it is
// done again until none came.
func (r *run) giveToHostLocal(ctx context.Context, n *corev1.Node, nodes []corev1.Node) ([]cni.Address, *cni.Reply, error) {
	req, err := aboutPeers(cni.OpRestore, nodes, n)
	if err != nil {
		return nil, nil, err
	}
	if req.Addresses, err = r.allocated(ctx, n); err != nil {
		return nil, nil, err
	}
	for {
		reply, err := r.ask(ctx, n.Name, req)
		if err != nil {
			return nil, nil, err
		}
		now, err := r.allocated(ctx, n)
		if err != nil {
			return nil, nil, err
		}
		if slices.Equal(now, req.Addresses) {
			return now, reply, nil
		}
		req.Addresses = now
	}
}

const (
	// podHandle begins the handle of a pod's address in Calico's IPAM, before the container's ID.
	podHandle = hostLocalNetwork + "."
	// ipipHandle begins that of an address that Calico's installer takes for a tunnel which
	// is not used, before the node's name.
	ipipHandle = "ipip-tunnel-addr-"
)

// allocated are the addresses of pods that Calico's IPAM has on a node.
func (r *run) allocated(ctx context.Context, n *corev1.Node) ([]cni.Address, error) {
	claim, err := r.claimOf(n)
	if err != nil {
		return nil, err
	}
	var out []cni.Address
	for _, b := range claim.Blocks {
		u, err := r.get(ctx, ipamBlocks, b.Name)
		if err != nil {
			return nil, err
		}
		if u == nil {
			continue
		}
		found, err := addressesIn(u)
		if err != nil {
			return nil, errs.Failed("IPAMBlock %s: %v", b.Name, err)
		}
		out = append(out, found...)
	}
	return out, nil
}

// addressesIn reads which container has which address of a block.
func addressesIn(block *unstructured.Unstructured) ([]cni.Address, error) {
	text, _, _ := unstructured.NestedString(block.Object, "spec", "cidr")
	cidr, err := netip.ParsePrefix(text)
	if err != nil {
		return nil, err
	}
	allocations, _, err := unstructured.NestedSlice(block.Object, "spec", "allocations")
	if err != nil {
		return nil, err
	}
	attributes, _, err := unstructured.NestedSlice(block.Object, "spec", "attributes")
	if err != nil {
		return nil, err
	}
	var out []cni.Address
	ip := cidr.Masked().Addr()
	for _, a := range allocations {
		if !cidr.Contains(ip) {
			return nil, fmt.Errorf("it has more allocations than %s has addresses", cidr)
		}
		if i, ok := a.(int64); ok && i >= 0 && int(i) < len(attributes) {
			owner, _ := attributes[i].(map[string]any)
			handle, _ := owner["handle_id"].(string)
			if container, ok := strings.CutPrefix(handle, podHandle); ok {
				out = append(out, cni.Address{IP: ip, Container: container, Interface: "eth0"})
			}
		}
		ip = ip.Next()
	}
	return out, nil
}

// emptyClaim takes the pods' addresses of a node out of Calico's IPAM: host-local
// has them again, and what Calico still had would never be given back.
func (r *run) emptyClaim(ctx context.Context, n *corev1.Node) error {
	claim, err := r.claimOf(n)
	if err != nil {
		return err
	}
	for i := range claim.Blocks {
		u, err := r.dyn.Resource(ipamBlocks).Get(ctx, claim.Blocks[i].Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		if err := r.emptyBlock(ctx, u, &claim.Blocks[i]); err != nil {
			return err
		}
	}
	return nil
}

// emptyBlock makes a block what it is in a claim. The handles go first: the block is what
// names them, should this have to be done again.
func (r *run) emptyBlock(ctx context.Context, block *unstructured.Unstructured, want *migration.IPAMBlock) error {
	attributes, _, err := unstructured.NestedSlice(block.Object, "spec", "attributes")
	if err != nil {
		return errs.Failed("IPAMBlock %s: %v", want.Name, err)
	}
	given := 0
	for _, a := range attributes {
		owner, _ := a.(map[string]any)
		handle, _ := owner["handle_id"].(string)
		if slices.ContainsFunc(want.Spec.Attributes, func(a migration.IPAMAttribute) bool { return a.Handle == handle }) {
			continue
		}
		given++
		if !strings.HasPrefix(handle, podHandle) && !strings.HasPrefix(handle, ipipHandle) {
			continue
		}
		if err := r.remove(ctx, ipamHandles, strings.ToLower(handle)); err != nil {
			return err
		}
	}
	if given == 0 {
		return nil
	}
	fresh, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&want.Spec)
	if err != nil {
		return err
	}
	// Calico tells what it gave at which number: none may come twice.
	if last, ok, _ := unstructured.NestedInt64(block.Object, "spec", "sequenceNumber"); ok {
		fresh["sequenceNumber"] = last + 1
	}
	block.Object["spec"] = fresh
	_, err = r.dyn.Resource(ipamBlocks).Update(ctx, block, metav1.UpdateOptions{FieldManager: fieldManager})
	return err
}
