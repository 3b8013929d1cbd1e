package migrate

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	appsac "k8s.io/client-go/applyconfigurations/apps/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/probes/cni"
)

const (
	// migratorName names the DaemonSet that changes nodes while a migration runs.
	migratorName = "portcullis-migrator"
	// migratorContainer is what verify.Executor runs commands in.
	migratorContainer = "portcullis-node"
	// nodeTimeout bounds one request to a node.
	nodeTimeout = 30 * time.Second
	// pingTimeoutMS bounds a trial of the overlay from one node to all others.
	pingTimeoutMS = 5000
	// maxReply bounds a node's answer in bytes: the routes to cni.MaxPeers nodes take less
	// than one million, and residue and files little beside them.
	maxReply = 8 << 20
)

var migratorLabels = map[string]string{"app.kubernetes.io/name": migratorName}

// nodeCommand is the node's side of a step.
var nodeCommand = []string{"portcullis", "node", "cni"}

// ensureMigrator installs the migrator, and waits for it on every node that is ready itself.
// It is in the namespace of the node agents, which a person may remove meanwhile: then it
// waits until that is gone, and makes both again.
func (r *run) ensureMigrator(ctx context.Context, folder string) error {
	applied := false
	return r.await(ctx, "migrator", func(ctx context.Context) (string, error) {
		if applied {
			_, err := r.kube.AppsV1().DaemonSets(r.config.Namespace).Get(ctx, migratorName, metav1.GetOptions{})
			applied = !apierrors.IsNotFound(err)
		}
		if !applied {
			if err := r.applyMigrator(ctx, folder); err != nil {
				return "", err
			}
			applied = true
		}
		return r.migratorsBehind(ctx)
	})
}

func (r *run) applyMigrator(ctx context.Context, folder string) error {
	if err := verify.ApplyNamespace(ctx, r.kube, r.config.Namespace); err != nil {
		return err
	}
	ds := appsac.DaemonSet(migratorName, r.config.Namespace).
		WithLabels(map[string]string{"app.kubernetes.io/name": migratorName, managedLabel: fieldManager}).
		WithSpec(appsac.DaemonSetSpec().
			WithSelector(metaac.LabelSelector().WithMatchLabels(migratorLabels)).
			WithUpdateStrategy(appsac.DaemonSetUpdateStrategy().WithType(appsv1.RollingUpdateDaemonSetStrategyType).WithRollingUpdate(
				// What one is asked can be asked of the next again.
				appsac.RollingUpdateDaemonSet().WithMaxUnavailable(intstr.FromString("100%")))).
			WithTemplate(coreac.PodTemplateSpec().WithLabels(migratorLabels).
				WithAnnotations(map[string]string{"container.apparmor.security.beta.kubernetes.io/" + migratorContainer: "unconfined"}).
				WithSpec(r.migratorSpec(folder))))
	_, err := r.kube.AppsV1().DaemonSets(r.config.Namespace).Apply(ctx, ds, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	return err
}

// migratorsBehind says which node has no migrator yet that could be asked, or "".
func (r *run) migratorsBehind(ctx context.Context) (string, error) {
	nodes, err := r.nodes(ctx)
	if err != nil {
		return "", err
	}
	pods, err := r.migrators(ctx)
	if err != nil {
		return "", err
	}
	for i := range nodes {
		p, ok := pods[nodes[i].Name]
		switch {
		case !ready(&nodes[i]):
		case !ok || !podReady(&p):
			return "the migrator on " + nodes[i].Name, nil
		case len(p.Spec.Containers) > 0 && p.Spec.Containers[0].Image != r.config.Image:
			// One of another release may not understand what it is asked.
			return fmt.Sprintf("the migrator on %s, which runs %s still", nodes[i].Name, p.Spec.Containers[0].Image), nil
		}
	}
	return "", nil
}

// migratorSpec has more rights than the node agent: it changes routes and rules
// of the node's network (NET_ADMIN), asks the node's own iptables where it has old
// rules (SYS_CHROOT, SYS_PTRACE, SYS_ADMIN), and writes to four folders of the node, each mounted by itself.
func (r *run) migratorSpec(folder string) *coreac.PodSpecApplyConfiguration {
	container := coreac.Container().
		WithName(migratorContainer).
		WithImage(r.config.Image).
		WithCommand("portcullis", "node", "idle").
		WithSecurityContext(coreac.SecurityContext().
			WithRunAsUser(0).WithRunAsGroup(0).WithRunAsNonRoot(false).
			WithPrivileged(false).WithAllowPrivilegeEscalation(false).WithReadOnlyRootFilesystem(true).
			WithCapabilities(coreac.Capabilities().WithDrop("ALL").
				WithAdd("NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SYS_PTRACE", "SYS_CHROOT", "DAC_OVERRIDE", "FOWNER", "CHOWN")).
			WithSELinuxOptions(coreac.SELinuxOptions().WithType("spc_t")).
			WithSeccompProfile(coreac.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))).
		WithResources(coreac.ResourceRequirements().
			WithRequests(corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("32Mi")}).
			WithLimits(corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("256Mi")}))
	if r.config.PullPolicy != "" {
		container.WithImagePullPolicy(corev1.PullPolicy(r.config.PullPolicy))
	}
	spec := coreac.PodSpec().
		WithAutomountServiceAccountToken(false).
		WithEnableServiceLinks(false).
		WithHostNetwork(true).
		WithHostPID(true).
		WithPriorityClassName("system-node-critical").
		WithTerminationGracePeriodSeconds(2).
		WithTolerations(coreac.Toleration().WithOperator(corev1.TolerationOpExists)).
		WithNodeSelector(map[string]string{"kubernetes.io/os": "linux"})
	for i, m := range []struct{ host, here string }{
		{folder, cni.MountConf}, {"/var/lib/cni/networks", cni.MountNetworks}, {"/var/lib/portcullis", cni.MountKeep}, {"/run/flannel", cni.MountRun},
	} {
		name := fmt.Sprintf("folder-%d", i)
		spec.WithVolumes(coreac.Volume().WithName(name).WithHostPath(
			coreac.HostPathVolumeSource().WithPath(m.host).WithType(corev1.HostPathDirectoryOrCreate)))
		container.WithVolumeMounts(coreac.VolumeMount().WithName(name).WithMountPath(m.here))
	}
	for _, name := range r.config.ImagePullSecrets {
		spec.WithImagePullSecrets(coreac.LocalObjectReference().WithName(name))
	}
	return spec.WithContainers(container)
}

// removeMigrator takes it away, and waits until it is gone.
func (r *run) removeMigrator(ctx context.Context) error {
	err := r.kube.AppsV1().DaemonSets(r.config.Namespace).Delete(ctx, migratorName, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	return r.await(ctx, "migrator", func(ctx context.Context) (string, error) {
		pods, err := r.migrators(ctx)
		if err != nil || len(pods) == 0 {
			return "", err
		}
		return fmt.Sprintf("%d migrators are going", len(pods)), nil
	})
}

// migrators are its pods, by node; of two on a node the one that stays.
func (r *run) migrators(ctx context.Context) (map[string]corev1.Pod, error) {
	list, err := r.kube.CoreV1().Pods(r.config.Namespace).List(ctx, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(migratorLabels).String()})
	if err != nil {
		return nil, err
	}
	out := map[string]corev1.Pod{}
	for _, p := range list.Items {
		if old, ok := out[p.Spec.NodeName]; !ok || old.DeletionTimestamp != nil {
			out[p.Spec.NodeName] = p
		}
	}
	return out, nil
}

// ask lets a node do something, and returns its state after it. A node that is
// away for a moment, such as one that reboots, is Unavailable.
func (r *run) ask(ctx context.Context, nodeName string, req cni.Request) (*cni.Reply, error) {
	pods, err := r.migrators(ctx)
	if err != nil {
		return nil, err
	}
	pod, ok := pods[nodeName]
	if !ok || !podReady(&pod) {
		return nil, errs.Unavailable("node %s: its migrator is not ready", nodeName)
	}
	return r.askPod(ctx, nodeName, pod.Name, req)
}

func (r *run) askPod(ctx context.Context, nodeName, pod string, req cni.Request) (*cni.Reply, error) {
	req.Version, req.Migration = cni.Version, r.in.Migration
	if req.TimeoutMS == 0 {
		req.TimeoutMS = int(nodeTimeout.Milliseconds())
	}
	if r.saved != nil {
		req.Network = r.saved.Network
		if req.Device == "" {
			req.Device = r.saved.Flannel
		}
	}
	req.Calico = calicoDevice
	body, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(req.TimeoutMS)*time.Millisecond+10*time.Second)
	defer cancel()
	var out bounded
	if err := r.exec.Exec(ctx, r.config.Namespace, pod, nodeCommand, bytes.NewReader(append(body, '\n')), &out); err != nil {
		return nil, errs.Unavailable("node %s: %s: %s", nodeName, req.Op, oneLine(err.Error()))
	}
	var reply cni.Reply
	if err := json.Unmarshal(out.buf.Bytes(), &reply); err != nil {
		return nil, errs.Unavailable("node %s: %s: the answer cannot be read: %.80q", nodeName, req.Op, out.buf.String())
	}
	for _, c := range reply.Changes {
		r.changed("%s: %s", nodeName, c)
	}
	if reply.Error != "" {
		return &reply, errs.Failed("node %s: %s", nodeName, r.withNames(ctx, reply.Error, req.Peers))
	}
	return &reply, nil
}

// bounded keeps what is written up to maxReply bytes, and refuses more. The buffer is no
// embedded one: io.Copy would use its ReadFrom, which knows no bound.
type bounded struct{ buf bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.buf.Len()+len(p) > maxReply {
		return 0, fmt.Errorf("the answer is longer than %d bytes", maxReply)
	}
	return b.buf.Write(p)
}

// withNames has the names of nodes beside their pod networks: a migrator knows only
// these of its peers, and a person would have to look them up.
func (r *run) withNames(ctx context.Context, text string, peers []netip.Prefix) string {
	if !slices.ContainsFunc(peers, func(p netip.Prefix) bool { return strings.Contains(text, p.String()) }) {
		return text
	}
	nodes, err := r.nodes(ctx)
	if err != nil {
		return text // what went wrong is to be told, with or without names
	}
	var pairs []string
	for i := range nodes {
		if net, err := podNetwork(&nodes[i]); err == nil && slices.Contains(peers, net) {
			pairs = append(pairs, net.String(), fmt.Sprintf("node %s (%s)", nodes[i].Name, net))
		}
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// askAll asks every node of the cluster for the same, some at once. request makes what is
// asked of one.
func (r *run) askAll(ctx context.Context, nodes []corev1.Node, request func(*corev1.Node) (cni.Request, error)) (map[string]*cni.Reply, error) {
	pods, err := r.migrators(ctx)
	if err != nil {
		return nil, err
	}
	replies := make([]*cni.Reply, len(nodes))
	index := make([]int, len(nodes))
	for i := range index {
		index[i] = i
	}
	done := 0
	r.note(string(r.in.Step), 0, len(nodes), "")
	err = each(ctx, index, func(ctx context.Context, i int) error {
		pod, ok := pods[nodes[i].Name]
		if !ok || !podReady(&pod) {
			return errs.Unavailable("node %s: its migrator is not ready", nodes[i].Name)
		}
		req, err := request(&nodes[i])
		if err != nil {
			return err
		}
		if replies[i], err = r.askPod(ctx, nodes[i].Name, pod.Name, req); err != nil {
			return err
		}
		r.mu.Lock()
		done++
		ready := done
		r.mu.Unlock()
		r.note(string(r.in.Step), ready, len(nodes), "")
		return nil
	})
	out := make(map[string]*cni.Reply, len(nodes))
	for i := range nodes {
		out[nodes[i].Name] = replies[i]
	}
	return out, err
}

// toPeers is a request about a node's peers.
func toPeers(op cni.Op, nodes []corev1.Node) func(*corev1.Node) (cni.Request, error) {
	return func(n *corev1.Node) (cni.Request, error) { return aboutPeers(op, nodes, n) }
}

func aboutPeers(op cni.Op, nodes []corev1.Node, n *corev1.Node) (cni.Request, error) {
	own, err := podNetwork(n)
	if err != nil {
		return cni.Request{}, err
	}
	others, err := peers(nodes, n.Name)
	return cni.Request{Op: op, Peers: others, Own: own}, err
}

// flannelDevice is flannel's VXLAN device.
func flannelDevice(s cni.State) string {
	for _, d := range s.Devices {
		if strings.HasPrefix(d.Name, "flannel") {
			return d.Name
		}
	}
	return ""
}

func deviceOf(s cni.State, name string) *cni.Device {
	for i := range s.Devices {
		if s.Devices[i].Name == name {
			return &s.Devices[i]
		}
	}
	return nil
}

func has(list []netip.Addr, addr netip.Addr) bool {
	for _, a := range list {
		if a == addr {
			return true
		}
	}
	return false
}
