package migrate

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/probes/cni"
)

// turn makes Calico the choice of nodes without a label, once no node is left that has Canal.
// One that joined, and has it, is a Conflict: it is to be moved first.
func (r *run) turn(ctx context.Context) error {
	o, err := r.load(ctx)
	if err != nil {
		return err
	}
	// Asked again, it finds nodes that joined since the first time: they have Calico.
	choice, err := r.choice(ctx)
	if err != nil {
		return err
	}
	if _, err := r.allOnCalico(ctx, o, choice); err != nil {
		return err
	}
	if err := r.ensureMigrator(ctx, o.Folder); err != nil {
		return err
	}
	if choice != cniCalico {
		if err := r.shut(ctx, o); err != nil {
			return err
		}
	}
	// No node can get Canal any more; one that got it until now is here.
	nodes, err := r.allOnCalico(ctx, o, choice)
	if err != nil {
		return err
	}
	if err := r.chooseCalico(ctx, o, corev1.NodeSelectorOpNotIn, cniCanal); err != nil {
		return err
	}
	r.changed("a node that joins from here on gets Calico")
	return r.allLeave(ctx, nodes)
}

// allOnCalico lists the nodes; a Conflict where one has Canal, which it then keeps.
func (r *run) allOnCalico(ctx context.Context, o *original, choice string) ([]corev1.Node, error) {
	nodes, err := r.nodes(ctx)
	if err != nil {
		return nil, err
	}
	for i := range nodes {
		if cmp.Or(nodes[i].Labels[labelCNI], choice) == cniCalico {
			continue
		}
		if choice != cniCalico {
			if err := r.chooseCanal(ctx, o, corev1.NodeSelectorOpNotIn, cniCalico); err != nil {
				return nil, err
			}
		}
		return nil, errs.Conflict("node %s is not on Calico yet; it has to be moved first", nodes[i].Name)
	}
	return nodes, nil
}

// shut takes Canal from the nodes without a label, and returns when its controller knows.
func (r *run) shut(ctx context.Context, o *original) error {
	if err := r.chooseCanal(ctx, o, corev1.NodeSelectorOpIn, cniCanal); err != nil {
		return err
	}
	return r.await(ctx, "Canal's DaemonSet", func(ctx context.Context) (string, error) {
		ds, err := r.kube.AppsV1().DaemonSets(o.Canal.Namespace).Get(ctx, o.Canal.Name, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		return unseen(ds), nil
	})
}

// unseen says that a DaemonSet's controller has not seen its last change yet, or "".
func unseen(ds *appsv1.DaemonSet) string {
	if ds.Status.ObservedGeneration < ds.Generation {
		return "its controller has not seen the change yet"
	}
	return ""
}

// moved are the nodes that came from Canal. One that joined after Turn has no part in
// flannel's overlay: its pods have addresses of Calico's blocks, and not of its own pod network.
func moved(nodes []corev1.Node) []corev1.Node {
	return slices.DeleteFunc(slices.Clone(nodes), func(n corev1.Node) bool { return n.Labels[labelCNI] != cniCalico })
}

// allLeave takes the traffic between the nodes off flannel's overlay. Nodes without flannel's
// device have left it.
func (r *run) allLeave(ctx context.Context, nodes []corev1.Node) error {
	came := moved(nodes)
	replies, err := r.askAll(ctx, nodes, toPeers(cni.OpLook, came))
	if err != nil {
		return err
	}
	for i := range nodes {
		n := &nodes[i]
		others := slices.ContainsFunc(came, func(o corev1.Node) bool { return o.Name != n.Name })
		if !others || deviceOf(replies[n.Name].State, r.saved.Flannel) == nil {
			continue
		}
		if err := r.leaveOverlay(ctx, n, came); err != nil {
			return err
		}
	}
	return nil
}

// lateLeave takes nodes that joined after Turn off the overlay of those that came from Canal.
func (r *run) lateLeave(ctx context.Context, late, came []corev1.Node) error {
	if len(late) == 0 || len(came) == 0 {
		return nil
	}
	_, err := r.askAll(ctx, late, toPeers(cni.OpLeave, came))
	return err
}

// chooseCanal says on which nodes, by their label, Canal runs.
func (r *run) chooseCanal(ctx context.Context, o *original, operator corev1.NodeSelectorOperator, value string) error {
	return r.editDaemonSet(ctx, o.Canal.Namespace, o.Canal.Name, func(ds *appsv1.DaemonSet) {
		onlyWhere(&ds.Spec.Template.Spec, operator, value)
	})
}

// chooseCalico says on which nodes, by their label, Calico runs, and flanneld beside it.
func (r *run) chooseCalico(ctx context.Context, o *original, operator corev1.NodeSelectorOperator, value string) error {
	for _, ds := range []struct{ namespace, name string }{{calicoNamespace, calicoDaemonSet}, {o.Canal.Namespace, keeperName}} {
		if err := r.editDaemonSet(ctx, ds.namespace, ds.name, func(d *appsv1.DaemonSet) {
			onlyWhere(&d.Spec.Template.Spec, operator, value)
		}); err != nil {
			return err
		}
	}
	return nil
}

// turnBack makes Canal the choice again.
func (r *run) turnBack(ctx context.Context) error {
	o, err := r.load(ctx)
	if err != nil {
		return err
	}
	if err := r.keepByName(ctx); err != nil {
		return err
	}
	if err := r.chooseCanal(ctx, o, corev1.NodeSelectorOpNotIn, cniCalico); err != nil {
		return err
	}
	return r.chooseCalico(ctx, o, corev1.NodeSelectorOpIn, cniCalico)
}

// keepByName lets nodes that joined after Turn, and so got Calico, keep it for now. Where Turn
// was not made, a node without a label has Canal, and must not be swapped by its label.
func (r *run) keepByName(ctx context.Context) error {
	choice, err := r.choice(ctx)
	if err != nil || choice != cniCalico {
		return err
	}
	nodes, err := r.nodes(ctx)
	if err != nil {
		return err
	}
	for i := range nodes {
		if nodes[i].Labels[labelCNI] != "" {
			continue
		}
		if err := r.patchNode(ctx, nodes[i].Name, map[string]any{labelCNI: cniCalico}, nil); err != nil {
			return err
		}
		r.changed("node %s joined with Calico: %s=%s", nodes[i].Name, labelCNI, cniCalico)
	}
	return nil
}

// unlink ends flanneld and takes its devices away.
func (r *run) unlink(ctx context.Context) error {
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
	// Asked once more: a node that rebooted since has flannel's routes again.
	if err := r.allLeave(ctx, nodes); err != nil {
		return err
	}
	err = r.kube.AppsV1().DaemonSets(o.Canal.Namespace).Delete(ctx, keeperName, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	if err := r.await(ctx, "flanneld to end", func(ctx context.Context) (string, error) {
		list, err := r.kube.CoreV1().Pods(o.Canal.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=" + keeperName})
		if err != nil || len(list.Items) == 0 {
			return "", err
		}
		return fmt.Sprintf("%d pods of %s", len(list.Items), keeperName), nil
	}); err != nil {
		return err
	}
	// On a node that joined a moment ago flanneld may just have begun.
	late := slices.DeleteFunc(slices.Clone(nodes), func(n corev1.Node) bool { return n.Labels[labelCNI] == cniCalico })
	if err := r.lateLeave(ctx, late, moved(nodes)); err != nil {
		return err
	}
	if _, err := r.askAll(ctx, nodes, toPeers(cni.OpUnlink, moved(nodes))); err != nil {
		return err
	}
	r.proved("%s is gone from %d nodes", o.Flannel, len(nodes))
	return nil
}

// link brings flanneld back, which makes its device and routes again.
func (r *run) link(ctx context.Context) error {
	o, err := r.load(ctx)
	if err != nil {
		return err
	}
	if err := r.keeper(ctx, o, corev1.NodeSelectorOpNotIn, cniCanal); err != nil {
		return err
	}
	if err := r.ensureMigrator(ctx, o.Folder); err != nil {
		return err
	}
	if err := r.await(ctx, "flanneld", func(ctx context.Context) (string, error) {
		nodes, err := r.nodes(ctx)
		if err != nil {
			return "", err
		}
		replies, err := r.askAll(ctx, nodes, toPeers(cni.OpLook, nodes))
		if err != nil {
			return "", err
		}
		for name, reply := range replies {
			if d := deviceOf(reply.State, o.Flannel); d == nil || !d.Up {
				return fmt.Sprintf("%s on %s", o.Flannel, name), nil
			}
		}
		return "", nil
	}); err != nil {
		return err
	}
	nodes, err := r.nodes(ctx)
	if err != nil {
		return err
	}
	return r.spares(ctx, nodes)
}

// adopt deletes Canal and leaves Calico as its manifest says.
func (r *run) adopt(ctx context.Context) error {
	o, err := r.load(ctx)
	if err != nil {
		return err
	}
	m, err := r.calico(ctx)
	if err != nil {
		return err
	}
	background := metav1.DeletePropagationBackground
	err = r.kube.AppsV1().DaemonSets(o.Canal.Namespace).Delete(ctx, o.Canal.Name, metav1.DeleteOptions{PropagationPolicy: &background})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	objects := m.Objects()
	if err := fixMTU(objects, r.in.Target.MTU); err != nil {
		return err
	}
	for _, u := range o.Others {
		if !containsName(objects, u.GetKind(), u.GetNamespace(), u.GetName()) {
			if err := r.drop(ctx, u); err != nil {
				return err
			}
		}
	}
	r.changed("Canal's DaemonSet %s/%s and %d objects of its own deleted", o.Canal.Namespace, o.Canal.Name, len(o.Others))
	if err := r.editDaemonSet(ctx, calicoNamespace, calicoDaemonSet, func(ds *appsv1.DaemonSet) { anywhere(&ds.Spec.Template.Spec) }); err != nil {
		return err
	}
	for _, u := range objects {
		if err := r.apply(ctx, u); err != nil {
			return err
		}
	}
	if err := r.await(ctx, "Calico's DaemonSet", func(ctx context.Context) (string, error) {
		ds, err := r.kube.AppsV1().DaemonSets(calicoNamespace).Get(ctx, calicoDaemonSet, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		s, waiting := &ds.Status, unseen(ds)
		switch {
		case waiting != "":
			return waiting, nil
		case s.UpdatedNumberScheduled < s.DesiredNumberScheduled || s.NumberReady < s.DesiredNumberScheduled:
			return fmt.Sprintf("%d of %d pods are updated, %d ready", s.UpdatedNumberScheduled, s.DesiredNumberScheduled, s.NumberReady), nil
		}
		return "", nil
	}); err != nil {
		return err
	}
	for _, name := range m.Renamed() {
		u := &unstructured.Unstructured{}
		u.SetAPIVersion("rbac.authorization.k8s.io/v1")
		u.SetKind(name.Kind)
		u.SetName(name.Name)
		if err := r.drop(ctx, u); err != nil {
			return err
		}
	}
	r.proved("Calico %s is as its manifest says, and ready on every node", m.Version())
	return nil
}

// giveBack makes Canal's objects again, on no node yet, and Calico's those of beside.
func (r *run) giveBack(ctx context.Context) error {
	o, err := r.load(ctx)
	if err != nil {
		return err
	}
	m, err := r.calico(ctx)
	if err != nil {
		return err
	}
	for _, u := range slices.Concat(o.Others, o.Shared) {
		if err := r.putBack(ctx, u); err != nil {
			return err
		}
	}
	canal := o.Canal.DeepCopy()
	canal.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType}
	onlyWhere(&canal.Spec.Template.Spec, corev1.NodeSelectorOpIn, cniCanal)
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(canal)
	if err != nil {
		return err
	}
	if err := r.putBack(ctx, clean(&unstructured.Unstructured{Object: content})); err != nil {
		return err
	}
	if err := r.beside(ctx, o, m, corev1.NodeSelectorOpNotIn, cniCanal); err != nil {
		return err
	}
	stay, err := m.Beside(labelCNI, cniCalico)
	if err != nil {
		return err
	}
	for _, u := range m.Objects() {
		kept := o.had(u) || u.GetKind() == "Namespace" || containsName(stay, u.GetKind(), u.GetNamespace(), u.GetName())
		if kept {
			continue
		}
		if err := r.drop(ctx, u); err != nil {
			return err
		}
	}
	return nil
}

// clean removes what is left of Canal on the nodes, proves that nothing is, and takes
// away everything that the migration kept.
func (r *run) clean(ctx context.Context) error {
	o, _, err := r.stored(ctx)
	if err != nil {
		return err
	}
	if o == nil {
		// It had ended all but the migrator.
		return r.removeMigrator(ctx)
	}
	r.saved = o
	if err := r.dropDefaultPool(ctx, o); err != nil {
		return err
	}
	if err := r.ensureMigrator(ctx, o.Folder); err != nil {
		return err
	}
	nodes, err := r.nodes(ctx)
	if err != nil {
		return err
	}
	if _, err := r.askAll(ctx, nodes, toPeers(cni.OpClean, nodes)); err != nil {
		return err
	}
	if _, err := r.askAll(ctx, nodes, func(*corev1.Node) (cni.Request, error) { return cni.Request{Op: cni.OpForget}, nil }); err != nil {
		return err
	}
	replies, err := r.askAll(ctx, nodes, toPeers(cni.OpLook, nodes))
	if err != nil {
		return err
	}
	for _, n := range nodes {
		s := replies[n.Name].State
		if len(s.Residue) > 0 {
			return errs.Failed("node %s still has something of Canal's: %s; remove it, and resume", n.Name, strings.Join(s.Residue, "; "))
		}
		for _, u := range s.Unknown {
			r.proved("node %s: could not be looked at: %s", n.Name, u)
		}
	}
	r.proved("%d nodes have no residue: no device, route, rule, chain or file of flannel's or Canal's", len(nodes))
	if err := r.restoreIPAM(ctx, o); err != nil {
		return err
	}
	if err := r.unannotate(ctx, nodes); err != nil {
		return err
	}
	if err := r.unlabel(ctx); err != nil {
		return err
	}
	if err := r.dropState(ctx); err != nil {
		return err
	}
	return r.removeMigrator(ctx)
}

// unannotate takes away what flanneld told its peers about each node. A flannel that
// is installed again would believe it.
func (r *run) unannotate(ctx context.Context, nodes []corev1.Node) error {
	return each(ctx, nodes, func(ctx context.Context, n corev1.Node) error {
		flannels := map[string]any{}
		for key := range n.Annotations {
			if strings.HasPrefix(key, flannelPrefix) {
				flannels[key] = nil
			}
		}
		if len(flannels) == 0 {
			return nil
		}
		return r.patchNode(ctx, n.Name, nil, flannels)
	})
}
