package migrate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"

	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/probes/cni"
	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/probes/migration/manifest"
	"portcullis.dev/portcullis/probes/preflight"
	"portcullis.dev/portcullis/rancher"
)

// world is a cluster with Canal: an API server, the controllers that make pods, and
// nodes with devices, routes, CNI configurations and addresses.
type world struct {
	*apiserver
	nodes map[string]*machine
	// ops counts what nodes were asked to change.
	ops []cni.Op
	// asked is told of every request to a node, and may change the node.
	asked func(node string, op cni.Op)
	sets  map[string]read
	// renewEvery is the time between two pods that a DaemonSet makes anew; zero is all at once.
	renewEvery time.Duration
	renewedAt  time.Time
	// shut keeps the pods of DaemonSets from becoming ready.
	shut map[string]bool
	// silent is the node that does not answer through Calico's overlay.
	silent string
}

// machine is a node as the migrator sees it.
type machine struct {
	files map[string]cni.File
	saved map[string]map[string]cni.File
	// hostLocal has the container of every address that host-local gave.
	hostLocal map[string]string
	// device is flannel's; direct and spare are its routes.
	device        bool
	direct, spare map[netip.Prefix]bool
	chains        bool
	boots         int
}

var (
	canalFile  = cni.File{Name: "10-canal.conflist", Network: hostLocalNetwork, Plugins: []string{"calico", "portmap"}, IPAM: "host-local", SHA256: "canal"}
	calicoFile = cni.File{Name: "10-calico.conflist", Network: hostLocalNetwork, Plugins: []string{"calico", "portmap"}, IPAM: "calico-ipam", SHA256: "calico"}
)

const (
	testMigration = "m-1"
	flannel       = "flannel.1"
	podMTU        = 1450
	// foundMTU is what Felix finds by itself here. It is another one, as on nodes with a bond.
	foundMTU = 1410
)

var testTarget = preflight.Target{Version: "v3.28.5", Encapsulation: preflight.VXLAN, VNI: 4096, Port: 4789, PodCIDR: "10.42.0.0/16", BlockSize: 26, MTU: podMTU}

// load reads the objects of a YAML file.
func load(t testing.TB, file string) []*unstructured.Unstructured {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []*unstructured.Unstructured
	for d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096); ; {
		u := &unstructured.Unstructured{}
		switch err := d.Decode(&u.Object); {
		case errors.Is(err, io.EOF):
			return out
		case err != nil:
			t.Fatal(err)
		case len(u.Object) > 0:
			// Through JSON, for the types of numbers.
			text, _ := json.Marshal(u.Object)
			if err := u.UnmarshalJSON(text); err != nil {
				t.Fatal(err)
			}
			out = append(out, u)
		}
	}
}

func raw(t testing.TB, obj any) *unstructured.Unstructured {
	t.Helper()
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		t.Fatal(err)
	}
	return &unstructured.Unstructured{Object: m}
}

func crd(kindName, name string, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "crd.projectcalico.org/v1", "kind": kindName, "metadata": map[string]any{"name": name}, "spec": spec,
	}}
}

// newWorld is a cluster of that many nodes with Canal.
func newWorld(t testing.TB, n int) *world {
	return worldOf(t, n, load(t, "testdata/canal.yaml"))
}

func worldOf(t testing.TB, n int, canal []*unstructured.Unstructured) *world {
	t.Helper()
	w := &world{apiserver: &apiserver{objects: map[string]*unstructured.Unstructured{}}, nodes: map[string]*machine{}, sets: map[string]read{}, shut: map[string]bool{}}
	w.changed = w.reconcile
	for _, ns := range []string{"kube-system", "default", verify.DefaultNamespace} {
		u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace"}}
		u.SetName(ns)
		if ns == verify.DefaultNamespace {
			u.SetLabels(map[string]string{managedLabel: fieldManager, "pod-security.kubernetes.io/enforce": "privileged", "pod-security.kubernetes.io/audit": "privileged", "pod-security.kubernetes.io/warn": "privileged"})
		}
		w.put(u)
	}
	for _, u := range canal {
		if u.GetKind() == "DaemonSet" {
			// An API server keeps no more than what its types have.
			var ds appsv1.DaemonSet
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &ds); err != nil {
				t.Fatal(err)
			}
			u = raw(t, &ds)
		}
		w.put(u)
	}
	for _, u := range load(t, "../../probes/migration/manifest/testdata/calico.yaml") {
		if u.GetKind() == "CustomResourceDefinition" && w.objects[keyOf(u)] == nil {
			w.put(u)
		}
	}
	w.put(crd("FelixConfiguration", "default", map[string]any{"logSeverityScreen": "Info", "bpfConnectTimeLoadBalancing": "TCP", "vxlanPort": int64(4790)}))
	w.put(crd("IPPool", "default-ipv4-ippool", map[string]any{"cidr": "192.168.0.0/16", "blockSize": int64(26), "ipipMode": "Always", "vxlanMode": "Never", "natOutgoing": true, "nodeSelector": "all()"}))
	w.put(crd("ClusterInformation", "default", map[string]any{"datastoreReady": true, "clusterType": "k8s,canal"}))
	w.reconcile()
	for i := range n {
		w.join(t, i)
	}
	return w
}

func nodeName(i int) string { return fmt.Sprintf("n%d", i) }

// join adds a node, with what flanneld and Canal write on it, and two pods.
func (w *world) join(t testing.TB, i int) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.add(t, i)
}

// add is join in the middle of a request.
func (w *world) add(t testing.TB, i int) {
	t.Helper()
	name := nodeName(i)
	n := &corev1.Node{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: name,
			Labels:      map[string]string{"kubernetes.io/os": "linux", "kubernetes.io/hostname": name, "team": "a"},
			Annotations: map[string]string{"flannel.alpha.coreos.com/public-ip": fmt.Sprintf("192.168.9.%d", i+1), "projectcalico.org/kube-labels": "x"},
		},
		Spec: corev1.NodeSpec{PodCIDR: fmt.Sprintf("10.42.%d.0/24", i)},
		Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("192.168.9.%d", i+1)}},
		},
	}
	if i == 0 {
		n.Labels["node-role.kubernetes.io/control-plane"] = ""
	}
	w.nodes[name] = &machine{
		files: map[string]cni.File{"calico-kubeconfig": {Name: "calico-kubeconfig", SHA256: "k"}}, saved: map[string]map[string]cni.File{},
		hostLocal: map[string]string{}, direct: map[netip.Prefix]bool{}, spare: map[netip.Prefix]bool{}, chains: true,
	}
	w.put(raw(t, n))
	for other, m := range w.nodes {
		if other != name && m.device {
			m.direct[netip.MustParsePrefix(n.Spec.PodCIDR)] = true
		}
	}
	for p := range 2 {
		ip := fmt.Sprintf("10.42.%d.%d", i, 70*p+5)
		w.nodes[name].hostLocal[ip] = fmt.Sprintf("c%d%d", i, p)
		w.put(raw(t, workload(fmt.Sprintf("web-%d-%d", i, p), name, ip)))
	}
	w.reconcile()
}

func workload(name, node, ip string) *corev1.Pod {
	yes := true
	return &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "web"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: "web", Controller: &yes}}},
		Spec:   corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "web", Image: "web:1"}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
}

// activities are those on this cluster.
func (w *world) activities(t testing.TB) *Activities {
	t.Helper()
	a := New(Config{Image: "image:1"}, w, nil)
	a.connect = func(id string) (*cluster, error) {
		c, err := dial(w, id)
		if err == nil {
			c.exec = w
		}
		return c, err
	}
	return a
}

// REST is how to talk to the cluster.
func (w *world) REST(string) (*rest.Config, error) {
	return &rest.Config{Host: "https://cluster.test", Transport: w, QPS: -1, ContentConfig: rest.ContentConfig{ContentType: "application/json", AcceptContentTypes: "application/json"}}, nil
}

// packed is the manifest that the tests install.
func packed(t testing.TB) []byte {
	t.Helper()
	text, err := os.ReadFile("../../probes/migration/manifest/testdata/calico.yaml")
	if err != nil {
		t.Fatal(err)
	}
	out, err := manifest.Pack(text)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// at is the request for a step.
func at(t testing.TB, step migration.Step, node string) StepInput {
	in := StepInput{Cluster: rancher.Cluster{ID: "c-1", Name: "dev"}, Migration: testMigration, Step: step, Node: node, Target: testTarget, Timeout: time.Minute}
	if step == migration.Begin {
		in.Manifest = packed(t)
	}
	return in
}

// reconcile does what controllers do: pods of DaemonSets come and go, and with them what runs
// on the nodes.
func (w *world) reconcile() {
	wanted := map[string]bool{}
	for _, u := range w.of("DaemonSet") {
		w.daemonSet(u, wanted)
	}
	for _, u := range w.of("Pod") {
		if u.GetLabels()["set"] != "" && !wanted[keyOf(u)] {
			delete(w.objects, keyOf(u))
		}
	}
	for name, m := range w.nodes {
		if w.running(name, "kube-flannel") && !m.device {
			m.device = true
			for _, p := range w.peersOf(name) {
				m.direct[p] = true
			}
		}
	}
}

// daemonSet makes the pods that a DaemonSet is to have, and its status.
func (w *world) daemonSet(u *unstructured.Unstructured, wanted map[string]bool) {
	ds, template := w.set(u)
	status := appsv1.DaemonSetStatus{ObservedGeneration: ds.Generation}
	for _, n := range w.of("Node") {
		if !admits(&ds.Spec.Template.Spec, n.GetLabels()) {
			continue
		}
		name := ds.Name + "-" + n.GetName()
		key := kindOf("v1", "Pod").key(ds.Namespace, name)
		wanted[key] = true
		old := w.objects[key]
		outdated := old != nil && old.GetAnnotations()["template"] != template
		if old == nil || outdated && ds.Spec.UpdateStrategy.Type != appsv1.OnDeleteDaemonSetStrategyType && time.Since(w.renewedAt) >= w.renewEvery {
			w.start(ds, n.GetName(), name, template)
			outdated, w.renewedAt = false, time.Now()
		}
		status.DesiredNumberScheduled++
		if !outdated {
			status.UpdatedNumberScheduled++
		}
		if !w.shut[ds.Name] {
			status.NumberReady++
		}
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&status)
	if err != nil {
		panic(err)
	}
	u.Object["status"] = content
}

// sets are DaemonSets that were read already, by their version.
type read struct {
	version, template string
	ds                *appsv1.DaemonSet
}

func (w *world) set(u *unstructured.Unstructured) (*appsv1.DaemonSet, string) {
	key := keyOf(u)
	if r, ok := w.sets[key]; ok && r.version == u.GetResourceVersion() {
		return r.ds, r.template
	}
	r := read{version: u.GetResourceVersion(), ds: &appsv1.DaemonSet{}}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, r.ds); err != nil {
		panic(err)
	}
	template, _ := json.Marshal(pruned(u.Object["spec"].(map[string]any)["template"]))
	r.template = string(template)
	w.sets[key] = r
	return r.ds, r.template
}

// start makes a pod, and does what its containers do.
func (w *world) start(ds *appsv1.DaemonSet, node, name, template string) {
	ready := corev1.ConditionTrue
	if w.shut[ds.Name] {
		ready = corev1.ConditionFalse
	}
	pod := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{
		Namespace: ds.Namespace, Name: name, Labels: map[string]string{"set": ds.Name}, Annotations: map[string]string{"template": template},
	}, Spec: *ds.Spec.Template.Spec.DeepCopy()}
	maps.Copy(pod.Labels, ds.Spec.Template.Labels)
	yes := true
	pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: ds.Name, UID: ds.UID, Controller: &yes}}
	pod.Spec.NodeName = node
	if pod.Spec.Affinity == nil {
		pod.Spec.Affinity = &corev1.Affinity{}
	}
	// As the controller does: whatever the template requires of nodes is not in its pods.
	pod.Spec.Affinity.NodeAffinity = &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
		{MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}},
	}}}
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(pod)
	if err != nil {
		panic(err)
	}
	w.put(&unstructured.Unstructured{Object: content})
	m := w.nodes[node]
	if m == nil || w.shut[ds.Name] {
		return
	}
	for _, c := range slices.Concat(ds.Spec.Template.Spec.InitContainers, ds.Spec.Template.Spec.Containers) {
		switch {
		case c.Name == "upgrade-ipam":
			w.upgrade(node)
		case c.Name == "install-cni" && ds.Name == calicoDaemonSet:
			m.files[calicoFile.Name] = calicoFile
		case c.Name == "install-cni":
			m.files[canalFile.Name] = canalFile
		case c.Name == "calico-node" && ds.Name == calicoDaemonSet:
			// As every calico-node, it adds what it is, and takes nothing away.
			w.put(crd("ClusterInformation", "default", map[string]any{"datastoreReady": true, "clusterType": "k8s,canal,bgp"}))
		}
	}
}

// upgrade takes host-local's addresses over, as Calico's installer does.
func (w *world) upgrade(node string) {
	m := w.nodes[node]
	for _, ip := range slices.Sorted(maps.Keys(m.hostLocal)) {
		w.assign(netip.MustParseAddr(ip), podHandle+m.hostLocal[ip], node)
		delete(m.hostLocal, ip)
	}
}

// assign gives an address out of Calico's IPAM.
func (w *world) assign(ip netip.Addr, handle, node string) {
	for _, block := range w.of("IPAMBlock") {
		spec := block.Object["spec"].(map[string]any)
		cidr := netip.MustParsePrefix(spec["cidr"].(string))
		if !cidr.Contains(ip) {
			continue
		}
		block = block.DeepCopy()
		spec = block.Object["spec"].(map[string]any)
		ordinal := int(ip.As4()[3] - cidr.Addr().As4()[3])
		attributes, _ := spec["attributes"].([]any)
		spec["allocations"].([]any)[ordinal] = int64(len(attributes))
		spec["attributes"] = append(attributes, map[string]any{"handle_id": handle, "secondary": map[string]any{"node": node}})
		spec["unallocated"] = slices.DeleteFunc(spec["unallocated"].([]any), func(v any) bool { return v == int64(ordinal) })
		w.put(block)
		w.put(crd("IPAMHandle", strings.ToLower(handle), map[string]any{"handleID": handle, "block": map[string]any{cidr.String(): int64(1)}, "deleted": false}))
	}
}

// running tells whether a container runs on a node.
func (w *world) running(node, container string) bool {
	for _, u := range w.objects {
		spec, _ := u.Object["spec"].(map[string]any)
		if u.Object["kind"] != "Pod" || spec["nodeName"] != node || w.shut[u.GetLabels()["set"]] {
			continue
		}
		for _, c := range spec["containers"].([]any) {
			if c.(map[string]any)["name"] == container {
				return true
			}
		}
	}
	return false
}

func (w *world) peersOf(node string) (out []netip.Prefix) {
	for _, n := range w.of("Node") {
		cidr, _, _ := unstructured.NestedString(n.Object, "spec", "podCIDR")
		if n.GetName() != node && n.GetLabels()["kubernetes.io/os"] == "linux" {
			out = append(out, netip.MustParsePrefix(cidr))
		}
	}
	return out
}

// vxlan is Calico's device on a node, as the Felix there makes it; nil where there is none.
func (w *world) vxlan(node string) *cni.Device {
	felix := w.objects[kindOf("crd.projectcalico.org/v1", "FelixConfiguration").key("", "default")]
	if felix == nil || !w.running(node, "calico-node") {
		return nil
	}
	if on, _, _ := unstructured.NestedBool(felix.Object, "spec", "vxlanEnabled"); !on {
		return nil
	}
	d := &cni.Device{Name: calicoDevice, Up: true, VNI: 4096, Port: 4789, MTU: foundMTU}
	number := func(field string, into *int) {
		if v, ok, _ := unstructured.NestedInt64(felix.Object, "spec", field); ok {
			*into = int(v)
		}
	}
	number("vxlanVNI", &d.VNI)
	number("vxlanPort", &d.Port)
	number("vxlanMTU", &d.MTU)
	if text, ok := w.env(node, "FELIX_VXLANMTU"); ok {
		// The environment beats the datastore, and 0 has Felix find it out
		// (felix/config/config_params.go, felix/dataplane/linux/int_dataplane.go).
		if d.MTU, _ = strconv.Atoi(text); d.MTU == 0 {
			d.MTU = foundMTU
		}
	}
	n := w.objects[kindOf("v1", "Node").key("", node)]
	if addr, err := netip.ParseAddr(n.GetAnnotations()[annotationTunnel]); err == nil {
		d.Address = []netip.Addr{addr}
	}
	return d
}

// env is what a variable of the Felix on a node has.
func (w *world) env(node, name string) (string, bool) {
	for _, u := range w.of("Pod") {
		var p corev1.Pod
		if runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &p) != nil || p.Spec.NodeName != node {
			continue
		}
		for _, c := range p.Spec.Containers {
			for _, e := range c.Env {
				switch {
				case c.Name != "calico-node" || e.Name != name:
				case e.ValueFrom == nil:
					return e.Value, true
				default:
					ref := e.ValueFrom.ConfigMapKeyRef
					cm := w.objects[kindOf("v1", "ConfigMap").key(p.Namespace, ref.Name)]
					text, ok, _ := unstructured.NestedString(cm.Object, "data", ref.Key)
					return text, ok
				}
			}
		}
	}
	return "", false
}

// carried tells whether Felix has routes of its own to a peer: with a pool that says so, and a
// block of the peer's.
func (w *world) carried(node string, peer netip.Prefix) bool {
	if w.vxlan(node) == nil {
		return false
	}
	on := slices.ContainsFunc(w.of("IPPool"), func(u *unstructured.Unstructured) bool {
		spec := u.Object["spec"].(map[string]any)
		return spec["cidr"] == testTarget.PodCIDR && spec["vxlanMode"] == "Always" && spec["disabled"] != true
	})
	return on && slices.ContainsFunc(w.of("BlockAffinity"), func(u *unstructured.Unstructured) bool {
		cidr, _, _ := unstructured.NestedString(u.Object, "spec", "cidr")
		return peer.Overlaps(netip.MustParsePrefix(cidr))
	})
}

// Exec is the migrator on a node.
func (w *world) Exec(_ context.Context, namespace, pod string, command []string, stdin io.Reader, stdout io.Writer) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	u := w.objects[kindOf("v1", "Pod").key(namespace, pod)]
	if u == nil || u.GetLabels()["set"] != migratorName {
		return fmt.Errorf("exec in %s/%s: there is no such pod", namespace, pod)
	}
	if !reflect.DeepEqual(command, nodeCommand) {
		return fmt.Errorf("exec in %s/%s: unexpected command %v", namespace, pod, command)
	}
	body, err := io.ReadAll(stdin)
	if err != nil {
		return err
	}
	req, err := cni.ParseRequest(body)
	if err != nil {
		return json.NewEncoder(stdout).Encode(cni.Reply{Error: err.Error()})
	}
	node, _, _ := unstructured.NestedString(u.Object, "spec", "nodeName")
	if w.asked != nil {
		w.asked(node, req.Op)
	}
	changes := req.Op != cni.OpLook && req.Op != cni.OpPing
	what := fmt.Sprintf("node %s: %s", node, req.Op)
	if changes {
		w.ops = append(w.ops, req.Op)
		if w.fault != nil {
			if err := w.fault(what, false); err != nil {
				return err
			}
		}
	}
	reply := cni.Reply{}
	if err := w.do(node, req); err != nil {
		reply.Error = fmt.Sprintf("%s: %v", req.Op, err)
	}
	if changes && w.fault != nil {
		if err := w.fault(what, true); err != nil {
			return err
		}
	}
	reply.State = w.state(node, req)
	return json.NewEncoder(stdout).Encode(reply)
}

// do is one operation on a node.
func (w *world) do(node string, req *cni.Request) error {
	m := w.nodes[node]
	saved := m.saved[req.Migration]
	switch req.Op {
	case cni.OpSave:
		if saved == nil {
			m.saved[req.Migration] = maps.Clone(m.files)
		}
	case cni.OpSpares:
		if !m.device && len(req.Peers) > 0 {
			return fmt.Errorf("device %s: not found", req.Device)
		}
		clear(m.spare)
		for _, p := range req.Peers {
			m.spare[p] = true
		}
	case cni.OpPing:
		return w.ping(node, req)
	case cni.OpLeave:
		if m.device {
			clear(m.spare)
			for _, p := range req.Peers {
				m.spare[p] = true
			}
		}
		for _, p := range req.Peers {
			if !w.carried(node, p) {
				return fmt.Errorf("the way to %s was not taken over by Felix", p)
			}
		}
		for _, p := range req.Peers {
			delete(m.direct, p)
		}
	case cni.OpEnter:
		if !m.device {
			return fmt.Errorf("device %s: not found", req.Device)
		}
		for _, p := range req.Peers {
			m.direct[p] = true
		}
	case cni.OpRestore:
		return m.restore(req, saved)
	case cni.OpUnlink:
		for _, p := range req.Peers {
			if m.device && m.direct[p] {
				return fmt.Errorf("%s is reached through %s still", p, req.Device)
			}
		}
		m.device = false
		clear(m.direct)
		clear(m.spare)
	case cni.OpClean:
		if saved == nil {
			if _, there := m.files[canalFile.Name]; there {
				return fmt.Errorf("the CNI configuration was not saved for %s", req.Migration)
			}
		}
		delete(m.files, canalFile.Name)
		m.chains = false
		clear(m.hostLocal)
	case cni.OpForget:
		delete(m.saved, req.Migration)
	}
	return nil
}

func (w *world) ping(node string, req *cni.Request) error {
	for _, n := range append(w.of("Node"), w.objects[kindOf("v1", "Node").key("", node)]) {
		if n.GetLabels()["kubernetes.io/os"] != "linux" {
			continue
		}
		if d := w.vxlan(n.GetName()); d == nil || len(d.Address) == 0 || n.GetName() == w.silent {
			cidr, _, _ := unstructured.NestedString(n.Object, "spec", "podCIDR")
			return fmt.Errorf("1 of %d peers do not answer through %s: %s", len(req.Peers), req.Device, cidr)
		}
	}
	return nil
}

func (m *machine) restore(req *cni.Request, saved map[string]cni.File) error {
	if saved == nil {
		return fmt.Errorf("no CNI configuration was saved for %s", req.Migration)
	}
	for _, a := range req.Addresses {
		if has, there := m.hostLocal[a.IP.String()]; there && has != a.Container {
			return fmt.Errorf("host-local has given %s to container %s", a.IP, has)
		}
	}
	for _, a := range req.Addresses {
		m.hostLocal[a.IP.String()] = a.Container
	}
	m.files = maps.Clone(saved)
	return nil
}

// state is what a node has.
func (w *world) state(node string, req *cni.Request) cni.State {
	m := w.nodes[node]
	s := cni.State{BootID: fmt.Sprint(m.boots), Saved: m.saved[req.Migration] != nil}
	for _, name := range slices.Sorted(maps.Keys(m.files)) {
		s.Files = append(s.Files, m.files[name])
	}
	if m.device {
		s.Devices = append(s.Devices, cni.Device{Name: flannel, VNI: 1, Port: 8472, MTU: podMTU, Up: true})
		s.Residue = append(s.Residue, "device "+flannel)
	}
	if d := w.vxlan(node); d != nil {
		s.Devices = append(s.Devices, *d)
	}
	for _, p := range req.Peers {
		r := cni.Route{Peer: p, Direct: m.direct[p], Spare: m.spare[p]}
		switch {
		case r.Direct, r.Spare && !w.carried(node, p):
			r.Through = []string{flannel}
		case w.carried(node, p):
			r.Through = []string{calicoDevice}
		}
		s.Routes = append(s.Routes, r)
	}
	if m.chains {
		s.Residue = append(s.Residue, "chain FLANNEL-POSTRTG")
	}
	if _, there := m.files[canalFile.Name]; there {
		s.Residue = append(s.Residue, "file "+canalFile.Name)
	}
	return s
}

// snapshot is the whole cluster, without what is of no matter: versions, the pods of
// DaemonSets themselves, and a label that says what is so anyway.
func (w *world) snapshot() map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[string]string{}
	for key, u := range w.objects {
		if u.GetLabels()["set"] != "" {
			node, _, _ := unstructured.NestedString(u.Object, "spec", "nodeName")
			out["pod of "+u.GetLabels()["set"]+" on "+node] = "runs"
			continue
		}
		u = clean(u)
		if u.GetKind() == "Node" {
			if l := u.GetLabels(); l[labelCNI] == cniCanal {
				delete(l, labelCNI)
				u.SetLabels(l)
			}
		}
		if u.GetKind() == "IPAMBlock" {
			unstructured.RemoveNestedField(u.Object, "spec", "sequenceNumber")
			unstructured.RemoveNestedField(u.Object, "spec", "sequenceNumberForAllocation")
		}
		text, _ := json.Marshal(pruned(u.Object))
		out[key] = string(text)
	}
	for name, m := range w.nodes {
		out["machine "+name] = fmt.Sprintf("files %v saved %v host-local %v device %v spare %v chains %v",
			slices.Sorted(maps.Keys(m.files)), slices.Sorted(maps.Keys(m.saved)), m.hostLocal, m.device, m.spare, m.chains)
		out["flannel's routes of "+name] = fmt.Sprint(m.direct)
	}
	return out
}

// differ says what is different in two snapshots, or "".
func differ(before, after map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(before)) {
		switch now, there := after[k]; {
		case !there:
			out = append(out, "gone: "+k)
		case now != before[k]:
			out = append(out, fmt.Sprintf("%s\n  was %s\n  is  %s", k, before[k], now))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(after)) {
		if _, there := before[k]; !there {
			out = append(out, "new: "+k+" "+after[k])
		}
	}
	return strings.Join(out, "\n")
}

// clone is a copy of the cluster as it stands.
func (w *world) clone() *world {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := &world{apiserver: &apiserver{version: w.version, objects: map[string]*unstructured.Unstructured{}}, nodes: map[string]*machine{}, sets: map[string]read{}, shut: maps.Clone(w.shut)}
	c.changed = c.reconcile
	for k, u := range w.objects {
		c.objects[k] = u.DeepCopy()
	}
	for name, m := range w.nodes {
		n := *m
		n.files, n.hostLocal, n.direct, n.spare, n.saved = maps.Clone(m.files), maps.Clone(m.hostLocal), maps.Clone(m.direct), maps.Clone(m.spare), maps.Clone(m.saved)
		c.nodes[name] = &n
	}
	return c
}

// admits tells whether a pod may run on a node with the labels.
func admits(spec *corev1.PodSpec, has map[string]string) bool {
	for k, v := range spec.NodeSelector {
		if has[k] != v {
			return false
		}
	}
	if spec.Affinity == nil || spec.Affinity.NodeAffinity == nil || spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return true
	}
	return slices.ContainsFunc(spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms, func(t corev1.NodeSelectorTerm) bool {
		// A term without a requirement matches nothing.
		return len(t.MatchExpressions) > 0 && !slices.ContainsFunc(t.MatchExpressions, func(e corev1.NodeSelectorRequirement) bool { return !meets(e, has) })
	})
}

func meets(e corev1.NodeSelectorRequirement, has map[string]string) bool {
	v, there := has[e.Key]
	switch e.Operator {
	case corev1.NodeSelectorOpIn:
		return there && slices.Contains(e.Values, v)
	case corev1.NodeSelectorOpNotIn:
		return !there || !slices.Contains(e.Values, v)
	case corev1.NodeSelectorOpExists:
		return there
	case corev1.NodeSelectorOpDoesNotExist:
		return !there
	}
	return false
}
