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
	"k8s.io/apimachinery/pkg/runtime/schema"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/probes/cni"
	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/probes/migration/manifest"
	"portcullis.dev/portcullis/probes/preflight"
)

const (
	// calicoDevice is Felix's VXLAN device.
	calicoDevice = "vxlan.calico"
	// hostLocalNetwork is the one network whose addresses Calico's installer takes
	// over (cni-plugin/pkg/upgrade).
	hostLocalNetwork = "k8s-pod-network"
	// flannelPrefix begins the names of the annotations by which flanneld tells its
	// peers about a node.
	flannelPrefix = "flannel.alpha.coreos.com/"
)

// begin keeps what is there, on the cluster first, and then on every node.
func (r *run) begin(ctx context.Context) error {
	o, _, err := r.stored(ctx)
	if err != nil {
		return err
	}
	if o == nil {
		if o, err = r.describe(ctx); err != nil {
			return err
		}
		if err := r.fresh(ctx); err != nil {
			return err
		}
	}
	if err := r.ensureMigrator(ctx, o.Folder); err != nil {
		return err
	}
	if o.Flannel == "" {
		if err := r.lookAt(ctx, o); err != nil {
			return err
		}
		if o, err = r.store(ctx, o); err != nil {
			return err
		}
		if o == nil {
			return errs.Unavailable("cluster %s: %s/%s went while it was written", r.in.Cluster.Name, stateNamespace, stateName)
		}
		r.changed("kept in ConfigMap %s/%s: Canal's objects, %d pools, Calico's annotations of %d nodes", stateNamespace, stateName, len(o.Pools), len(o.Nodes))
	}
	r.saved = o
	nodes, err := r.nodes(ctx)
	if err != nil {
		return err
	}
	replies, err := r.askAll(ctx, nodes, func(*corev1.Node) (cni.Request, error) { return cni.Request{Op: cni.OpSave}, nil })
	if err != nil {
		return err
	}
	r.proved("the CNI configuration of %d nodes is kept on them", len(replies))
	return nil
}

// fresh refuses a cluster in which another attempt left something.
func (r *run) fresh(ctx context.Context) error {
	for _, kind := range []schema.GroupVersionResource{ipamBlocks, blockAffinities, ipamHandles} {
		list, err := r.dyn.Resource(kind).List(ctx, metav1.ListOptions{Limit: 1})
		if err != nil {
			return err
		}
		if len(list.Items) > 0 {
			return errs.Conflict("cluster %s has %s of Calico's IPAM (%s) although Canal gives the addresses: they are of an earlier attempt; look at them, and delete them",
				r.in.Cluster.Name, kind.Resource, list.Items[0].GetName())
		}
	}
	m, err := r.given()
	if err != nil {
		return err
	}
	if err := checkMTU(m, r.in.Target.MTU); err != nil {
		return err
	}
	for _, u := range m.Objects() {
		if u.GetKind() != "DaemonSet" {
			continue
		}
		_, err := r.kube.AppsV1().DaemonSets(u.GetNamespace()).Get(ctx, u.GetName(), metav1.GetOptions{})
		if err == nil {
			return errs.Conflict("cluster %s already has a DaemonSet %s/%s, which Calico's manifest would replace; delete it where it is of an earlier attempt",
				r.in.Cluster.Name, u.GetNamespace(), u.GetName())
		}
		if !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

func (r *run) given() (*manifest.Manifest, error) {
	data, err := manifest.Unpack(r.in.Manifest)
	if err != nil {
		return nil, errs.Invalid("Calico's manifest: %v", err)
	}
	m, err := manifest.Read(data)
	if err != nil {
		return nil, errs.Invalid("Calico's manifest: %v", err)
	}
	return m, nil
}

// lookAt asks the nodes what flannel's device and the network are called.
func (r *run) lookAt(ctx context.Context, o *original) error {
	nodes, err := r.nodes(ctx)
	if err != nil {
		return err
	}
	replies, err := r.askAll(ctx, nodes, toPeers(cni.OpLook, nodes))
	if err != nil {
		return err
	}
	for _, n := range nodes {
		s := replies[n.Name].State
		device, active := flannelDevice(s), cni.Active(s.Files)
		switch {
		case device == "":
			return errs.Failed("node %s has no VXLAN device of flannel's; only flannel's VXLAN can be migrated", n.Name)
		case active == nil:
			return errs.Failed("node %s has no CNI configuration", n.Name)
		case active.Network != hostLocalNetwork:
			return errs.Failed("node %s: its network is called %q, and Calico takes over the addresses of %q alone", n.Name, active.Network, hostLocalNetwork)
		case active.IPAM != "host-local":
			return errs.Failed("node %s: its addresses are from %s, and not from host-local", n.Name, active.IPAM)
		case o.Flannel != "" && o.Flannel != device:
			return errs.Failed("node %s: flannel's device is %s, and %s elsewhere", n.Name, device, o.Flannel)
		}
		o.Flannel, o.Network = device, active.Network
	}
	return nil
}

// end takes back what begin made.
func (r *run) end(ctx context.Context) error {
	o, _, err := r.stored(ctx)
	if err != nil {
		return err
	}
	if o == nil {
		return r.removeMigrator(ctx)
	}
	r.saved = o
	if err := r.ensureMigrator(ctx, o.Folder); err != nil {
		return err
	}
	if o.Kind != "" {
		if err := r.mergeSpec(ctx, clusterInformations, "ClusterInformation", "default", map[string]any{"clusterType": o.Kind}); err != nil {
			return err
		}
	}
	if err := r.unlabel(ctx); err != nil {
		return err
	}
	if err := r.forget(ctx); err != nil {
		return err
	}
	return r.dropState(ctx)
}

// unlabel takes the labels of a migration off every node.
func (r *run) unlabel(ctx context.Context) error {
	nodes, err := r.nodes(ctx)
	if err != nil {
		return err
	}
	return each(ctx, nodes, func(ctx context.Context, n corev1.Node) error {
		if n.Labels[labelCNI] == "" {
			return nil
		}
		return r.patchNode(ctx, n.Name, map[string]any{labelCNI: nil}, nil)
	})
}

// forget removes what the nodes keep, and then the migrator. Nodes that are away keep it: a
// copy harms nobody, and another migration makes its own.
func (r *run) forget(ctx context.Context) error {
	all, err := r.nodes(ctx)
	if err != nil {
		return err
	}
	nodes := slices.DeleteFunc(slices.Clone(all), func(n corev1.Node) bool { return !ready(&n) })
	if away := len(all) - len(nodes); away > 0 {
		r.proved("%d nodes are away, and keep the copy of their CNI configuration in /var/lib/portcullis", away)
	}
	if _, err := r.askAll(ctx, nodes, func(*corev1.Node) (cni.Request, error) { return cni.Request{Op: cni.OpForget}, nil }); err != nil {
		return err
	}
	return r.removeMigrator(ctx)
}

func (r *run) dropState(ctx context.Context) error {
	err := r.kube.CoreV1().ConfigMaps(stateNamespace).Delete(ctx, stateName, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	return nil
}

// tunnels brings Calico's overlay up on every node and tries it.
func (r *run) tunnels(ctx context.Context) error {
	o, err := r.load(ctx)
	if err != nil {
		return err
	}
	if err := r.ensureMigrator(ctx, o.Folder); err != nil {
		return err
	}
	// Felix makes the device on nodes that know their tunnel's address: they are told before.
	if err := r.tellTunnels(ctx); err != nil {
		return err
	}
	target := r.in.Target
	if err := r.patchFelix(ctx, map[string]any{
		"vxlanEnabled": true, "vxlanVNI": target.VNI, "vxlanPort": target.Port, "vxlanMTU": target.MTU,
	}); err != nil {
		return err
	}
	if err := r.await(ctx, "Calico's overlay", func(ctx context.Context) (string, error) {
		// A node may have joined since.
		if err := r.tellTunnels(ctx); err != nil {
			return "", err
		}
		return r.overlayUp(ctx)
	}); err != nil {
		return err
	}
	if err := r.await(ctx, "Calico's overlay", r.overlayTried); err != nil {
		return err
	}
	nodes, err := r.nodes(ctx)
	if err != nil {
		return err
	}
	r.proved("every node's %s answered every other node, %d pairs", calicoDevice, len(nodes)*(len(nodes)-1))
	return r.spares(ctx, nodes)
}

// spares writes the spare routes of all nodes.
func (r *run) spares(ctx context.Context, nodes []corev1.Node) error {
	if len(nodes) < 2 {
		return nil
	}
	_, err := r.askAll(ctx, nodes, toPeers(cni.OpSpares, nodes))
	return err
}

// tellTunnels writes on every node which address its tunnel has, and its own.
func (r *run) tellTunnels(ctx context.Context) error {
	nodes, err := r.nodes(ctx)
	if err != nil {
		return err
	}
	return each(ctx, nodes, func(ctx context.Context, n corev1.Node) error {
		pods, err := podNetwork(&n)
		if err != nil {
			return err
		}
		address := internalAddress(&n)
		if !address.IsValid() {
			return errs.Failed("node %s has no internal address of IPv4", n.Name)
		}
		want := map[string]any{}
		if n.Annotations[annotationTunnel] != pods.Addr().String() {
			want[annotationTunnel] = pods.Addr().String()
		}
		// calico-node writes its own with the length of the interface's network.
		if !strings.HasPrefix(n.Annotations[annotationAddress], address.String()+"/") {
			want[annotationAddress] = netip.PrefixFrom(address, 32).String()
		}
		if len(want) == 0 {
			return nil
		}
		r.changed("node %s: tunnel address %s", n.Name, pods.Addr())
		return r.patchNode(ctx, n.Name, nil, want)
	})
}

// patchFelix merges fields into the default FelixConfiguration; nil removes one.
// Every change restarts Felix on all nodes, so what is already so is left alone.
func (r *run) patchFelix(ctx context.Context, spec map[string]any) error {
	return r.mergeSpec(ctx, felixConfigurations, "FelixConfiguration", "default", spec)
}

func (r *run) overlayUp(ctx context.Context) (string, error) {
	nodes, err := r.nodes(ctx)
	if err != nil {
		return "", err
	}
	replies, err := r.askAll(ctx, nodes, toPeers(cni.OpLook, nodes))
	if err != nil {
		return "", err
	}
	for i := range nodes {
		own, err := podNetwork(&nodes[i])
		if err != nil {
			return "", err
		}
		d := deviceOf(replies[nodes[i].Name].State, calicoDevice)
		t := r.in.Target
		switch {
		case d == nil || !d.Up:
			return fmt.Sprintf("%s on %s", calicoDevice, nodes[i].Name), nil
		case d.VNI != t.VNI || d.Port != t.Port:
			return fmt.Sprintf("%s on %s has VNI %d and port %d, and not %d and %d yet", calicoDevice, nodes[i].Name, d.VNI, d.Port, t.VNI, t.Port), nil
		case d.MTU != t.MTU:
			return fmt.Sprintf("%s on %s has the MTU %d, and not %d yet", calicoDevice, nodes[i].Name, d.MTU, t.MTU), nil
		case !has(d.Address, own.Addr()):
			return fmt.Sprintf("%s on %s does not have the address %s yet", calicoDevice, nodes[i].Name, own.Addr()), nil
		}
	}
	return "", nil
}

func (r *run) overlayTried(ctx context.Context) (string, error) {
	nodes, err := r.nodes(ctx)
	if err != nil || len(nodes) < 2 {
		return "", err
	}
	_, err = r.askAll(ctx, nodes, func(n *corev1.Node) (cni.Request, error) {
		req, err := aboutPeers(cni.OpPing, nodes, n)
		req.Device, req.TimeoutMS = calicoDevice, pingTimeoutMS
		return req, err
	})
	// Felix may still be at the neighbours' entries.
	if errs.TypeOf(err) == errs.TypeFailed {
		return errs.Message(err), nil
	}
	return "", err
}

func (r *run) noTunnels(ctx context.Context) error {
	o, err := r.load(ctx)
	if err != nil {
		return err
	}
	if err := r.ensureMigrator(ctx, o.Folder); err != nil {
		return err
	}
	nodes, err := r.nodes(ctx)
	if err != nil {
		return err
	}
	if _, err := r.askAll(ctx, nodes, func(n *corev1.Node) (cni.Request, error) {
		own, err := podNetwork(n)
		return cni.Request{Op: cni.OpSpares, Own: own}, err
	}); err != nil {
		return err
	}
	if err := r.restoreFelix(ctx, o); err != nil {
		return err
	}
	if err := r.restoreAnnotations(ctx, o, nodes); err != nil {
		return err
	}
	if felixBefore(o)["vxlanEnabled"] == true {
		return nil
	}
	return r.overlayGone(ctx, nodes)
}

// overlayGoneWithin is how long Felix may take to start again without its overlay.
// It is not waited for longer: nothing needs it to be gone.
const overlayGoneWithin = 30 * time.Second

// overlayGone waits until Felix has taken its overlay down, and then removes the black
// holes that it may leave: what it withdraws while it starts again stays for ever.
func (r *run) overlayGone(ctx context.Context, nodes []corev1.Node) error {
	err := r.awaitAtMost(ctx, overlayGoneWithin, "Felix to take its overlay down", func(ctx context.Context) (string, error) {
		replies, err := r.askAll(ctx, nodes, toPeers(cni.OpLook, nodes))
		if err != nil {
			return "", err
		}
		for i := range nodes {
			if deviceOf(replies[nodes[i].Name].State, calicoDevice) != nil {
				return fmt.Sprintf("%s on %s to go", calicoDevice, nodes[i].Name), nil
			}
		}
		return "", nil
	})
	if err != nil {
		return err
	}
	_, err = r.askAll(ctx, nodes, func(n *corev1.Node) (cni.Request, error) {
		own, err := podNetwork(n)
		return cni.Request{Op: cni.OpSpares, Own: own}, err
	})
	return err
}

// restoreFelix makes the fields of the FelixConfiguration what they were, and removes one that
// was not there and has nothing else in it.
func (r *run) restoreFelix(ctx context.Context, o *original) error {
	if err := r.patchFelix(ctx, felixBefore(o)); err != nil || o.Felix != nil {
		return err
	}
	have, err := r.get(ctx, felixConfigurations, "default")
	if err != nil || have == nil {
		return err
	}
	if spec, _, _ := unstructured.NestedMap(have.Object, "spec"); len(spec) > 0 {
		return nil
	}
	return r.remove(ctx, felixConfigurations, "default")
}

// felixBefore are the fields that Tunnels changes, as they were.
func felixBefore(o *original) map[string]any {
	out := map[string]any{}
	for _, field := range []string{"vxlanEnabled", "vxlanVNI", "vxlanPort", "vxlanMTU"} {
		out[field] = nil
		if o.Felix == nil {
			continue
		}
		if v, ok, _ := unstructured.NestedFieldNoCopy(o.Felix.Object, "spec", field); ok {
			out[field] = v
		}
	}
	return out
}

// restoreAnnotations makes Calico's annotations of the nodes what they were. A
// node that joined later had none.
func (r *run) restoreAnnotations(ctx context.Context, o *original, nodes []corev1.Node) error {
	return each(ctx, nodes, func(ctx context.Context, n corev1.Node) error {
		want := map[string]any{}
		for k := range calicoAnnotations(&n) {
			if _, was := o.Nodes[n.Name][k]; !was {
				want[k] = nil
			}
		}
		for k, v := range o.Nodes[n.Name] {
			if n.Annotations[k] != v {
				want[k] = v
			}
		}
		if len(want) == 0 {
			return nil
		}
		return r.patchNode(ctx, n.Name, nil, want)
	})
}

// addresses makes Calico's IPAM give what host-local gives, and nothing else.
func (r *run) addresses(ctx context.Context) error {
	o, err := r.load(ctx)
	if err != nil {
		return err
	}
	nat, err := r.masquerades(ctx, o.Canal)
	if err != nil {
		return err
	}
	if err := r.claimAll(ctx); err != nil {
		return err
	}
	if err := r.mergeSpec(ctx, ipamConfigs, "IPAMConfig", "default", map[string]any{"strictAffinity": true, "autoAllocateBlocks": true}); err != nil {
		return err
	}
	return r.pool(ctx, nat)
}

func (r *run) blockSize() int { return cmp.Or(r.in.Target.BlockSize, preflight.DefaultBlockSize) }

// claimAll claims the pod network of every node that has none of its own yet.
func (r *run) claimAll(ctx context.Context) error {
	nodes, err := r.nodes(ctx)
	if err != nil {
		return err
	}
	list, err := r.dyn.Resource(blockAffinities).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	owner := map[string]string{}
	for i := range list.Items {
		cidr, _, _ := unstructured.NestedString(list.Items[i].Object, "spec", "cidr")
		owner[cidr], _, _ = unstructured.NestedString(list.Items[i].Object, "spec", "node")
	}
	return each(ctx, nodes, func(ctx context.Context, n corev1.Node) error {
		claim, err := r.claimOf(&n)
		if err != nil {
			return err
		}
		missing := 0
		for _, a := range claim.Affinities {
			switch have := owner[a.Spec.CIDR]; have {
			case n.Name:
			case "":
				missing++
			default:
				return errs.Conflict("node %s: the block %s of its pod network belongs to node %s in Calico's IPAM", n.Name, a.Spec.CIDR, have)
			}
		}
		if missing == 0 {
			return nil
		}
		r.changed("node %s: %d blocks of %s claimed", n.Name, missing, n.Spec.PodCIDR)
		return r.writeClaim(ctx, claim)
	})
}

func (r *run) claimOf(n *corev1.Node) (migration.Claim, error) {
	pods, err := podNetwork(n)
	if err != nil {
		return migration.Claim{}, err
	}
	claim, err := migration.NewClaim(n.Name, pods, r.blockSize())
	if err != nil {
		return migration.Claim{}, errs.Failed("%v", err)
	}
	return claim, nil
}

// writeClaim creates a claim's objects; the affinities, which make it whole, last.
func (r *run) writeClaim(ctx context.Context, claim migration.Claim) error {
	for i := range claim.Blocks {
		if err := r.create(ctx, ipamBlocks, &claim.Blocks[i]); err != nil {
			return err
		}
	}
	if err := r.create(ctx, ipamHandles, &claim.Handle); err != nil {
		return err
	}
	for i := range claim.Affinities {
		if err := r.create(ctx, blockAffinities, &claim.Affinities[i]); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) create(ctx context.Context, kind schema.GroupVersionResource, obj any) error {
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		return err
	}
	_, err = r.dyn.Resource(kind).Create(ctx, &unstructured.Unstructured{Object: m}, metav1.CreateOptions{FieldManager: fieldManager})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// noAddresses takes Calico's IPAM back to having nothing: Begin saw that it had nothing.
func (r *run) noAddresses(ctx context.Context) error {
	o, err := r.load(ctx)
	if err != nil {
		return err
	}
	if err := r.restorePools(ctx, o); err != nil {
		return err
	}
	for _, kind := range []schema.GroupVersionResource{blockAffinities, ipamBlocks, ipamHandles} {
		list, err := r.dyn.Resource(kind).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if err := each(ctx, list.Items, func(ctx context.Context, u unstructured.Unstructured) error {
			return r.remove(ctx, kind, u.GetName())
		}); err != nil {
			return err
		}
	}
	return r.restoreIPAM(ctx, o)
}

// restoreIPAM makes the IPAMConfig what it was.
func (r *run) restoreIPAM(ctx context.Context, o *original) error {
	if o.IPAM == nil {
		return r.remove(ctx, ipamConfigs, "default")
	}
	spec, _, _ := unstructured.NestedMap(o.IPAM.Object, "spec")
	want := map[string]any{"strictAffinity": nil, "autoAllocateBlocks": nil}
	for k := range want {
		want[k] = spec[k]
	}
	return r.mergeSpec(ctx, ipamConfigs, "IPAMConfig", "default", want)
}

func (r *run) remove(ctx context.Context, kind schema.GroupVersionResource, name string) error {
	err := r.dyn.Resource(kind).Delete(ctx, name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// containsName tells whether an object of the list has the kind and name.
func containsName(list []*unstructured.Unstructured, kind, namespace, name string) bool {
	return slices.ContainsFunc(list, func(u *unstructured.Unstructured) bool {
		return u.GetKind() == kind && u.GetNamespace() == namespace && u.GetName() == name
	})
}
