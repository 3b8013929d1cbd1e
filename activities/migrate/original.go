package migrate

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/probes/migration/manifest"
)

const (
	// fieldManager owns the fields that are applied.
	fieldManager = "portcullis"
	managedLabel = "app.kubernetes.io/managed-by"
	// stateNamespace and stateName name the ConfigMap in which a cluster keeps what
	// was there before its migration. It is not where the agent lives, which can
	// be removed at any time.
	stateNamespace = metav1.NamespaceSystem
	stateName      = "portcullis-migration"
	// keyOriginal and keyManifest are its entries.
	keyOriginal = "original"
	keyManifest = "calico"
	// maxOriginal bounds the JSON of an original, and maxState both entries as they are kept: a
	// ConfigMap holds 1 MiB.
	maxOriginal = 16 << 20
	maxState    = 1<<20 - 4<<10
)

// original is what a cluster was before its migration.
type original struct {
	// Migration is whose it is.
	Migration string `json:"migration"`
	// Canal is its DaemonSet, and Others what else is Canal's alone.
	Canal  *appsv1.DaemonSet            `json:"canal"`
	Others []*unstructured.Unstructured `json:"others,omitempty"`
	// Shared are the objects of Calico's manifest that were there before, such as
	// those that Canal's manifest has too. CustomResourceDefinitions are left out.
	Shared []*unstructured.Unstructured `json:"shared,omitempty"`
	// Felix and IPAM are the default FelixConfiguration and IPAMConfig; nil where there was none.
	Felix *unstructured.Unstructured   `json:"felix,omitempty"`
	IPAM  *unstructured.Unstructured   `json:"ipam,omitempty"`
	Pools []*unstructured.Unstructured `json:"pools,omitempty"`
	// Kind is the clusterType of Calico's ClusterInformation, to which every
	// calico-node that starts adds what it is; empty where there was none.
	Kind string `json:"kind,omitempty"`
	// Nodes are the annotations of Calico's that each node had.
	Nodes map[string]map[string]string `json:"nodes"`
	// Flannel is the name of flannel's device, Network that of the CNI network.
	Flannel string `json:"flannel"`
	Network string `json:"network"`
	// Folder is where the nodes keep their CNI configurations.
	Folder string `json:"folder"`
}

// Resources of Calico's own API group, in which it keeps its data.
func calicoResource(plural string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "crd.projectcalico.org", Version: "v1", Resource: plural}
}

var (
	felixConfigurations = calicoResource("felixconfigurations")
	clusterInformations = calicoResource("clusterinformations")
	ipPools             = calicoResource("ippools")
	ipamConfigs         = calicoResource("ipamconfigs")
	ipamBlocks          = calicoResource("ipamblocks")
	ipamHandles         = calicoResource("ipamhandles")
	blockAffinities     = calicoResource("blockaffinities")
)

// load reads what was saved. It is an error where nothing was, or where it is
// another migration's.
func (r *run) load(ctx context.Context) (*original, error) {
	if r.saved != nil {
		return r.saved, nil
	}
	o, _, err := r.stored(ctx)
	if err != nil {
		return nil, err
	}
	if o == nil {
		return nil, errs.Failed("cluster %s: %s/%s, which has what was there before the migration, is gone", r.in.Cluster.Name, stateNamespace, stateName)
	}
	r.saved = o
	return o, nil
}

// stored reads the ConfigMap; nil where there is none.
func (r *run) stored(ctx context.Context) (*original, []byte, error) {
	cm, err := r.kube.CoreV1().ConfigMaps(stateNamespace).Get(ctx, stateName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	data, err := unpack(cm.BinaryData[keyOriginal])
	if err != nil {
		return nil, nil, errs.Failed("cluster %s: %s/%s cannot be read: %v", r.in.Cluster.Name, stateNamespace, stateName, err)
	}
	var o original
	if err := json.Unmarshal(data, &o); err != nil {
		return nil, nil, errs.Failed("cluster %s: %s/%s cannot be read: %v", r.in.Cluster.Name, stateNamespace, stateName, err)
	}
	if o.Migration != r.in.Migration {
		return nil, nil, errs.Conflict("cluster %s: %s/%s belongs to migration %s, which did not end; abort that one, or look at the cluster and delete the ConfigMap",
			r.in.Cluster.Name, stateNamespace, stateName, o.Migration)
	}
	return &o, cm.BinaryData[keyManifest], nil
}

// calico reads the manifest that Begin kept on the cluster.
func (r *run) calico(ctx context.Context) (*manifest.Manifest, error) {
	_, packed, err := r.stored(ctx)
	if err != nil {
		return nil, err
	}
	data, err := manifest.Unpack(packed)
	if err != nil {
		return nil, errs.Failed("cluster %s: Calico's manifest in %s/%s: %v", r.in.Cluster.Name, stateNamespace, stateName, err)
	}
	m, err := manifest.Read(data)
	if err != nil {
		return nil, errs.Failed("cluster %s: Calico's manifest in %s/%s: %v", r.in.Cluster.Name, stateNamespace, stateName, err)
	}
	return m, nil
}

// store writes the ConfigMap, and returns what it has: one that is there stays as it is.
func (r *run) store(ctx context.Context, o *original) (*original, error) {
	data, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	packed, err := pack(data)
	if err != nil {
		return nil, err
	}
	if size := len(packed) + len(r.in.Manifest); size > maxState {
		return nil, errs.Failed("cluster %s: what is to be kept of it takes %d KiB, and a ConfigMap holds %d: Canal's objects and the nodes' annotations take %d KiB, Calico's manifest %d KiB; give a manifest without what is not needed",
			r.in.Cluster.Name, size>>10, maxState>>10, len(packed)>>10, len(r.in.Manifest)>>10)
	}
	cm := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: stateNamespace, Name: stateName, Labels: map[string]string{managedLabel: fieldManager},
			Annotations: map[string]string{"portcullis.dev/purpose": "what this cluster was before its migration to Calico; the way back needs it"},
		},
		BinaryData: map[string][]byte{keyOriginal: packed, keyManifest: r.in.Manifest},
	}
	_, err = r.kube.CoreV1().ConfigMaps(stateNamespace).Create(ctx, cm, metav1.CreateOptions{FieldManager: fieldManager})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return nil, err
	}
	kept, _, err := r.stored(ctx)
	return kept, err
}

func pack(data []byte) ([]byte, error) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func unpack(data []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	out, err := io.ReadAll(io.LimitReader(z, maxOriginal+1))
	if err == nil && len(out) > maxOriginal {
		err = fmt.Errorf("it is larger than %d bytes", maxOriginal)
	}
	return out, err
}

// describe reads everything of a cluster that a migration changes.
func (r *run) describe(ctx context.Context) (*original, error) {
	canal, err := r.findCanal(ctx)
	if err != nil {
		return nil, err
	}
	o := &original{Migration: r.in.Migration, Canal: cleanDaemonSet(canal), Nodes: map[string]map[string]string{}}
	if o.Folder = confFolder(canal); o.Folder == "" {
		return nil, errs.Failed("cluster %s: DaemonSet %s/%s mounts no folder of CNI configurations", r.in.Cluster.Name, canal.Namespace, canal.Name)
	}
	if o.Others, err = r.canalsOwn(ctx, canal); err != nil {
		return nil, err
	}
	if o.Shared, err = r.shared(ctx); err != nil {
		return nil, err
	}
	if o.Felix, err = r.get(ctx, felixConfigurations, "default"); err != nil {
		return nil, err
	}
	if o.IPAM, err = r.get(ctx, ipamConfigs, "default"); err != nil {
		return nil, err
	}
	info, err := r.get(ctx, clusterInformations, "default")
	if err != nil {
		return nil, err
	}
	if info != nil {
		o.Kind, _, _ = unstructured.NestedString(info.Object, "spec", "clusterType")
	}
	pools, err := r.dyn.Resource(ipPools).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for i := range pools.Items {
		o.Pools = append(o.Pools, clean(&pools.Items[i]))
	}
	nodes, err := r.nodes(ctx)
	if err != nil {
		return nil, err
	}
	for i := range nodes {
		o.Nodes[nodes[i].Name] = calicoAnnotations(&nodes[i])
	}
	return o, nil
}

// shared reads the objects of Calico's manifest that are there already.
func (r *run) shared(ctx context.Context) ([]*unstructured.Unstructured, error) {
	m, err := r.given()
	if err != nil {
		return nil, err
	}
	var out []*unstructured.Unstructured
	for _, u := range m.Objects() {
		if u.GetKind() == "CustomResourceDefinition" {
			continue
		}
		have, err := r.live(ctx, u)
		if err != nil {
			return nil, err
		}
		if have != nil {
			out = append(out, clean(have))
		}
	}
	return out, nil
}

// had tells whether an object was there before the migration.
func (o *original) had(u *unstructured.Unstructured) bool {
	return containsName(o.Shared, u.GetKind(), u.GetNamespace(), u.GetName()) || containsName(o.Others, u.GetKind(), u.GetNamespace(), u.GetName())
}

// findCanal finds Canal: the DaemonSet that runs both Felix and flanneld.
func (r *run) findCanal(ctx context.Context) (*appsv1.DaemonSet, error) {
	list, err := r.kube.AppsV1().DaemonSets(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var found []*appsv1.DaemonSet
	for i := range list.Items {
		names := map[string]bool{}
		for _, c := range list.Items[i].Spec.Template.Spec.Containers {
			names[c.Name] = true
		}
		if names["calico-node"] && names["kube-flannel"] {
			found = append(found, &list.Items[i])
		}
	}
	if len(found) != 1 {
		return nil, errs.Conflict("cluster %s has %d DaemonSets that run Felix and flanneld; a migration from Canal needs one", r.in.Cluster.Name, len(found))
	}
	return found[0], nil
}

func cleanDaemonSet(ds *appsv1.DaemonSet) *appsv1.DaemonSet {
	out := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: ds.Namespace, Name: ds.Name, Labels: ds.Labels, Annotations: ds.Annotations}, Spec: *ds.Spec.DeepCopy()}
	out.APIVersion, out.Kind = "apps/v1", "DaemonSet"
	return out
}

// clean takes out of an object what the API server put in.
func clean(u *unstructured.Unstructured) *unstructured.Unstructured {
	out := u.DeepCopy()
	for _, field := range []string{"resourceVersion", "uid", "generation", "creationTimestamp", "managedFields", "selfLink"} {
		unstructured.RemoveNestedField(out.Object, "metadata", field)
	}
	unstructured.RemoveNestedField(out.Object, "status")
	return out
}

// confFolder is the folder of the node that holds CNI configurations, by Canal's own mounts.
func confFolder(ds *appsv1.DaemonSet) string {
	for _, c := range slices.Concat(ds.Spec.Template.Spec.InitContainers, ds.Spec.Template.Spec.Containers) {
		for _, m := range c.VolumeMounts {
			if !strings.HasSuffix(m.MountPath, "/cni/net.d") {
				continue
			}
			for _, v := range ds.Spec.Template.Spec.Volumes {
				if v.Name == m.Name && v.HostPath != nil {
					return v.HostPath.Path
				}
			}
		}
	}
	return ""
}

// canalsOwn are the objects that only Canal uses: its ServiceAccount, the
// ConfigMaps that it reads, and its bindings with the roles that nothing else is bound to.
func (r *run) canalsOwn(ctx context.Context, ds *appsv1.DaemonSet) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	add := func(obj any, apiVersion, kind string) error {
		m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
		if err != nil {
			return err
		}
		u := &unstructured.Unstructured{Object: m}
		u.SetAPIVersion(apiVersion)
		u.SetKind(kind)
		out = append(out, clean(u))
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(configMaps(&ds.Spec.Template.Spec))) {
		cm, err := r.kube.CoreV1().ConfigMaps(ds.Namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err == nil {
			err = add(cm, "v1", "ConfigMap")
		}
		if err != nil {
			return nil, err
		}
	}
	account := ds.Spec.Template.Spec.ServiceAccountName
	if account == "" || account == "default" {
		// Every pod of the namespace without an account of its own has this one.
		return out, nil
	}
	sa, err := r.kube.CoreV1().ServiceAccounts(ds.Namespace).Get(ctx, account, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if err := add(sa, "v1", "ServiceAccount"); err != nil {
		return nil, err
	}
	bindings, err := r.kube.RbacV1().ClusterRoleBindings().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	others, err := r.otherUses(ctx, bindings.Items, ds.Namespace, account)
	if err != nil {
		return nil, err
	}
	roles := map[string]bool{}
	for i := range bindings.Items {
		if b := &bindings.Items[i]; ownBinding(b, ds.Namespace, account) {
			roles[b.RoleRef.Name] = !others[b.RoleRef.Name]
			if err := add(b, "rbac.authorization.k8s.io/v1", "ClusterRoleBinding"); err != nil {
				return nil, err
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(roles)) {
		role, err := r.kube.RbacV1().ClusterRoles().Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && (!roles[name] || builtIn(role)) {
			continue
		}
		if err == nil {
			err = add(role, "rbac.authorization.k8s.io/v1", "ClusterRole")
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// ownBinding tells whether a binding gives a ClusterRole to the account alone.
func ownBinding(b *rbacv1.ClusterRoleBinding, namespace, account string) bool {
	return b.RoleRef.Kind == "ClusterRole" && len(b.Subjects) == 1 && isAccount(b.Subjects[0], namespace, account)
}

// otherUses are the ClusterRoles that somebody else has, in the whole cluster or in a namespace.
func (r *run) otherUses(ctx context.Context, bindings []rbacv1.ClusterRoleBinding, namespace, account string) (map[string]bool, error) {
	out := map[string]bool{}
	for i := range bindings {
		if b := &bindings[i]; !ownBinding(b, namespace, account) && b.RoleRef.Kind == "ClusterRole" {
			out[b.RoleRef.Name] = true
		}
	}
	inside, err := r.kube.RbacV1().RoleBindings(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for i := range inside.Items {
		if ref := inside.Items[i].RoleRef; ref.Kind == "ClusterRole" {
			out[ref.Name] = true
		}
	}
	return out, nil
}

// builtIn tells whether a role is Kubernetes' own, or made of others for people to be given.
func builtIn(role *rbacv1.ClusterRole) bool {
	return strings.HasPrefix(role.Name, "system:") || role.Labels["kubernetes.io/bootstrapping"] != "" || role.AggregationRule != nil
}

func isAccount(s rbacv1.Subject, namespace, name string) bool {
	return s.Kind == rbacv1.ServiceAccountKind && s.Namespace == namespace && s.Name == name
}

// configMaps are those that a pod must have.
func configMaps(spec *corev1.PodSpec) map[string]bool {
	out := map[string]bool{}
	for _, v := range spec.Volumes {
		if v.ConfigMap != nil {
			out[v.ConfigMap.Name] = true
		}
	}
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		for _, e := range c.Env {
			if e.ValueFrom != nil && e.ValueFrom.ConfigMapKeyRef != nil {
				out[e.ValueFrom.ConfigMapKeyRef.Name] = true
			}
		}
	}
	return out
}

// get reads an object of the cluster; nil where there is none.
func (r *run) get(ctx context.Context, kind schema.GroupVersionResource, name string) (*unstructured.Unstructured, error) {
	u, err := r.dyn.Resource(kind).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return clean(u), nil
}
