package migrate

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"portcullis.dev/portcullis/probes/migration/manifest"
)

const (
	// keeperName names the DaemonSet that keeps flanneld on nodes that have left Canal.
	keeperName = "portcullis-flannel"
	// labelOwn marks what a migration made and takes away again.
	labelOwn = "portcullis.dev/migration"
	// calicoDaemonSet is Calico's, by every manifest of Calico's.
	calicoDaemonSet = "calico-node"
	calicoNamespace = metav1.NamespaceSystem
	calicoSelector  = "k8s-app=calico-node"
)

// split lets labelCNI choose between Canal and Calico. No pod restarts by it.
func (r *run) split(ctx context.Context) error {
	o, err := r.load(ctx)
	if err != nil {
		return err
	}
	m, err := r.calico(ctx)
	if err != nil {
		return err
	}
	// A pod of Canal's that a changed template would restart is not restarted.
	if err := r.editDaemonSet(ctx, o.Canal.Namespace, o.Canal.Name, func(ds *appsv1.DaemonSet) {
		ds.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType}
		onlyWhere(&ds.Spec.Template.Spec, corev1.NodeSelectorOpNotIn, cniCalico)
	}); err != nil {
		return err
	}
	r.changed("DaemonSet %s/%s: not where %s=%s", o.Canal.Namespace, o.Canal.Name, labelCNI, cniCalico)
	if err := r.beside(ctx, o, m, corev1.NodeSelectorOpIn, cniCalico); err != nil {
		return err
	}
	return r.keeper(ctx, o, corev1.NodeSelectorOpIn, cniCalico)
}

// beside installs Calico beside Canal, on the nodes that the rule chooses.
func (r *run) beside(ctx context.Context, o *original, m *manifest.Manifest, operator corev1.NodeSelectorOperator, value string) error {
	objects, err := m.Beside(labelCNI, cniCalico)
	if err != nil {
		return err
	}
	if err := fixMTU(objects, r.in.Target.MTU); err != nil {
		return err
	}
	for _, u := range objects {
		switch u.GetKind() {
		case "CustomResourceDefinition":
			// Canal's are the same, where its Calico is of this version; an older one gets the newer.
			have, err := r.live(ctx, u)
			if err != nil {
				return err
			}
			if have != nil && imageVersion(o.Canal) == m.Version() {
				continue
			}
		case "DaemonSet":
			if err := r.applyCalico(ctx, u, operator, value); err != nil {
				return err
			}
			continue
		default:
			// What Canal's manifest has as well serves both.
			if o.had(u) {
				continue
			}
			own(u, r.in.Migration)
		}
		if err := r.apply(ctx, u); err != nil {
			return err
		}
	}
	r.changed("%d objects of Calico %s, none of them running yet", len(objects), m.Version())
	return nil
}

// own marks an object as a migration's.
func own(u *unstructured.Unstructured, migration string) {
	labels := u.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[labelOwn] = migration
	u.SetLabels(labels)
}

// applyCalico installs calico-node on the nodes that the rule chooses. Its pods
// are not restarted by changes of the rule.
func (r *run) applyCalico(ctx context.Context, u *unstructured.Unstructured, operator corev1.NodeSelectorOperator, value string) error {
	var ds appsv1.DaemonSet
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &ds); err != nil {
		return err
	}
	ds.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType}
	onlyWhere(&ds.Spec.Template.Spec, operator, value)
	out, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&ds)
	if err != nil {
		return err
	}
	unstructured.RemoveNestedField(out, "status")
	unstructured.RemoveNestedField(out, "metadata", "creationTimestamp")
	unstructured.RemoveNestedField(out, "spec", "template", "metadata", "creationTimestamp")
	object := &unstructured.Unstructured{Object: out}
	own(object, r.in.Migration)
	return r.apply(ctx, object)
}

// keeper installs the DaemonSet that keeps flanneld running, as Canal's pods run it,
// on the nodes that the rule chooses: a node that reboots has flannel's overlay again.
func (r *run) keeper(ctx context.Context, o *original, operator corev1.NodeSelectorOperator, value string) error {
	labels := map[string]string{"app.kubernetes.io/name": keeperName}
	ds := &appsv1.DaemonSet{
		TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "DaemonSet"},
		ObjectMeta: metav1.ObjectMeta{Namespace: o.Canal.Namespace, Name: keeperName, Labels: map[string]string{
			"app.kubernetes.io/name": keeperName, managedLabel: fieldManager, labelOwn: r.in.Migration,
		}},
		Spec: appsv1.DaemonSetSpec{
			Selector:       &metav1.LabelSelector{MatchLabels: labels},
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType},
			Template:       corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: *o.Canal.Spec.Template.Spec.DeepCopy()},
		},
	}
	spec := &ds.Spec.Template.Spec
	spec.InitContainers, spec.Containers = nil, nil
	mounted := map[string]bool{}
	for _, c := range o.Canal.Spec.Template.Spec.Containers {
		if c.Name == "kube-flannel" {
			spec.Containers = append(spec.Containers, c)
			for _, m := range c.VolumeMounts {
				mounted[m.Name] = true
			}
		}
	}
	var volumes []corev1.Volume
	for _, v := range spec.Volumes {
		if mounted[v.Name] {
			volumes = append(volumes, v)
		}
	}
	spec.Volumes = volumes
	onlyWhere(spec, operator, value)
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(ds)
	if err != nil {
		return err
	}
	u := clean(&unstructured.Unstructured{Object: m})
	unstructured.RemoveNestedField(u.Object, "spec", "template", "metadata", "creationTimestamp")
	return r.apply(ctx, u)
}

// join takes split back: Calico and the keeper go, and Canal is what it was. No node
// has the label by now, so that no pod ends by it.
func (r *run) join(ctx context.Context) error {
	o, err := r.load(ctx)
	if err != nil {
		return err
	}
	m, err := r.calico(ctx)
	if err != nil {
		return err
	}
	objects, err := m.Beside(labelCNI, cniCalico)
	if err != nil {
		return err
	}
	for i := len(objects) - 1; i >= 0; i-- {
		u := objects[i]
		if u.GetKind() == "CustomResourceDefinition" {
			continue
		}
		if o.had(u) {
			continue
		}
		if err := r.drop(ctx, u); err != nil {
			return err
		}
	}
	if err := r.kube.AppsV1().DaemonSets(o.Canal.Namespace).Delete(ctx, keeperName, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	if err := r.await(ctx, "Calico and flanneld to go", func(ctx context.Context) (string, error) {
		for _, what := range []struct{ namespace, selector string }{{calicoNamespace, calicoSelector}, {o.Canal.Namespace, "app.kubernetes.io/name=" + keeperName}} {
			list, err := r.kube.CoreV1().Pods(what.namespace).List(ctx, metav1.ListOptions{LabelSelector: what.selector})
			if err != nil {
				return "", err
			}
			if len(list.Items) > 0 {
				return fmt.Sprintf("pod %s/%s", list.Items[0].Namespace, list.Items[0].Name), nil
			}
		}
		return "", nil
	}); err != nil {
		return err
	}
	if err := r.editDaemonSet(ctx, o.Canal.Namespace, o.Canal.Name, func(ds *appsv1.DaemonSet) {
		ds.Spec.Template.Spec.Affinity = o.Canal.Spec.Template.Spec.Affinity.DeepCopy()
		ds.Spec.UpdateStrategy = *o.Canal.Spec.UpdateStrategy.DeepCopy()
	}); err != nil {
		return err
	}
	if err := r.renewed(ctx, o); err != nil {
		return err
	}
	return r.canalReady(ctx, o, "")
}

// renewedStall is after how long without progress it is not waited any more for pods to be
// made anew: while a node is away, a rolling update may stop.
const renewedStall = 45 * time.Second

// renewed waits until the pods that Canal got while the nodes were split are made anew:
// its DaemonSet's template is no longer theirs, and it makes them anew one node after the
// other. Who is told that all is as it was shall not see them go. The pods themselves do not
// tell whose template they are of: the DaemonSet's controller writes a node affinity of its own.
func (r *run) renewed(ctx context.Context, o *original) error {
	if o.Canal.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType {
		return nil
	}
	left, progress := int32(math.MaxInt32), r.now()
	err := r.awaitAtMost(ctx, time.Until(r.deadline), "Canal", func(ctx context.Context) (string, error) {
		ds, err := r.kube.AppsV1().DaemonSets(o.Canal.Namespace).Get(ctx, o.Canal.Name, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		old := ds.Status.DesiredNumberScheduled - ds.Status.UpdatedNumberScheduled
		if ds.Status.ObservedGeneration < ds.Generation {
			old = math.MaxInt32 - 1 // not known yet
		}
		if old < left {
			left, progress = old, r.now()
		}
		if left <= 0 || r.now().Sub(progress) >= renewedStall {
			return "", nil
		}
		return fmt.Sprintf("pods of DaemonSet %s/%s to be made anew, one after the other", ds.Namespace, ds.Name), nil
	})
	if err == nil && left > 0 {
		r.changed("not all of Canal's pods were made anew: its DaemonSet has stopped at one")
	}
	return err
}

// canalReady waits until Canal's pods are ready on every node that is to have them, or on one.
func (r *run) canalReady(ctx context.Context, o *original, only string) error {
	return r.await(ctx, "Canal", func(ctx context.Context) (string, error) {
		nodes, err := r.nodes(ctx)
		if err != nil {
			return "", err
		}
		list, err := r.kube.CoreV1().Pods(o.Canal.Namespace).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(o.Canal.Spec.Selector)})
		if err != nil {
			return "", err
		}
		on := map[string]bool{}
		for i := range list.Items {
			on[list.Items[i].Spec.NodeName] = on[list.Items[i].Spec.NodeName] || podReady(&list.Items[i])
		}
		for i := range nodes {
			n := &nodes[i]
			if only != "" && n.Name != only || only == "" && !ready(n) {
				continue
			}
			if !on[n.Name] {
				return "Canal's pod on " + n.Name, nil
			}
		}
		return "", nil
	})
}

// imageVersion is the tag of Canal's calico-node.
func imageVersion(ds *appsv1.DaemonSet) string {
	for _, c := range ds.Spec.Template.Spec.Containers {
		if c.Name == "calico-node" {
			name := c.Image[strings.LastIndex(c.Image, "/")+1:]
			_, tag, _ := strings.Cut(name, ":")
			tag, _, _ = strings.Cut(tag, "@")
			return tag
		}
	}
	return ""
}
