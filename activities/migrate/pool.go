package migrate

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/probes/preflight"
)

// poolName is what the pool is called when there is none of the pods' network.
const poolName = "portcullis-pods"

// pool makes sure that there is one pool, of the pods' network, that new pods get
// their addresses from. With nat, what they send out of it has the node's address.
func (r *run) pool(ctx context.Context, nat bool) error {
	list, err := r.dyn.Resource(ipPools).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	want := map[string]any{"vxlanMode": "Always", "ipipMode": "Never", "natOutgoing": nat, "disabled": false}
	found := false
	for i := range list.Items {
		p := &list.Items[i]
		if poolCIDR(p) == r.in.Target.PodCIDR {
			found = true
			size, ok, _ := unstructured.NestedInt64(p.Object, "spec", "blockSize")
			if !ok {
				size = preflight.DefaultBlockSize
			}
			if int(size) != r.blockSize() {
				return errs.Conflict("cluster %s: pool %s has blocks of /%d, and the plan has /%d", r.in.Cluster.Name, p.GetName(), size, r.blockSize())
			}
			if err := r.mergeSpec(ctx, ipPools, "IPPool", p.GetName(), want); err != nil {
				return err
			}
			continue
		}
		if err := r.mergeSpec(ctx, ipPools, "IPPool", p.GetName(), map[string]any{"disabled": true}); err != nil {
			return err
		}
	}
	if found {
		return nil
	}
	pool := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": map[string]any{"name": poolName},
		"spec": map[string]any{
			"cidr": r.in.Target.PodCIDR, "blockSize": int64(r.blockSize()), "vxlanMode": "Always", "ipipMode": "Never",
			"natOutgoing": nat, "nodeSelector": "all()", "allowedUses": []any{"Workload", "Tunnel"},
		},
	}}
	r.changed("pool %s of %s", poolName, r.in.Target.PodCIDR)
	_, err = r.dyn.Resource(ipPools).Create(ctx, pool, metav1.CreateOptions{FieldManager: fieldManager})
	return err
}

// restorePools makes the pools what they were, and removes the others.
func (r *run) restorePools(ctx context.Context, o *original) error {
	list, err := r.dyn.Resource(ipPools).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	was := map[string]*unstructured.Unstructured{}
	for _, p := range o.Pools {
		was[p.GetName()] = p
	}
	for i := range list.Items {
		p, ok := was[list.Items[i].GetName()]
		if !ok {
			if err := r.remove(ctx, ipPools, list.Items[i].GetName()); err != nil {
				return err
			}
			continue
		}
		spec, _, _ := unstructured.NestedMap(p.Object, "spec")
		want := map[string]any{}
		for _, field := range []string{"vxlanMode", "ipipMode", "natOutgoing", "disabled"} {
			want[field] = spec[field]
		}
		if err := r.mergeSpec(ctx, ipPools, "IPPool", p.GetName(), want); err != nil {
			return err
		}
	}
	return nil
}

func poolCIDR(p *unstructured.Unstructured) string {
	cidr, _, _ := unstructured.NestedString(p.Object, "spec", "cidr")
	return cidr
}

// defaultPool is what calico-node calls the pool that it makes where there is none, as
// Canal's does; defaultSpec has what it writes into each field of it
// (node/pkg/lifecycle/startup, libcalico-go/lib/clientv3/ippool.go). No pod of Canal's has an
// address of it.
const defaultPool = "default-ipv4-ippool"

var defaultSpec = map[string][]any{
	"cidr": {"192.168.0.0/16"}, "blockSize": {int64(preflight.DefaultBlockSize)}, "natOutgoing": {true, false},
	"ipipMode": {"Never", "CrossSubnet", "Always"}, "vxlanMode": {"Never", "CrossSubnet", "Always"},
	"nodeSelector": {"all()"}, "allowedUses": {[]any{"Workload", "Tunnel"}}, "assignmentMode": {"Automatic"},
	"disabled": {false}, "disableBGPExport": {false},
}

// dropDefaultPool deletes the pool that Canal's calico-node made for nobody. Disabled, it is not
// without effect: Felix leaves what is sent to the addresses of any pool its own address, and
// flannel gave it the node's. So it goes while flannel's rules are there. Another pool, and one
// that may be somebody's, stays.
func (r *run) dropDefaultPool(ctx context.Context, o *original) error {
	list, err := r.dyn.Resource(ipPools).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range list.Items {
		p := &list.Items[i]
		if poolCIDR(p) == r.in.Target.PodCIDR {
			continue
		}
		why := somebodys(o.pool(p.GetName()), p)
		if why == "" {
			why, err = r.poolUse(ctx, poolCIDR(p))
		}
		if err != nil {
			return err
		}
		if why != "" {
			how := "stays"
			if off, _, _ := unstructured.NestedBool(p.Object, "spec", "disabled"); off {
				how = "stays, disabled"
			}
			r.changed("pool %s of %s %s: %s", p.GetName(), poolCIDR(p), how, why)
			continue
		}
		version := p.GetResourceVersion()
		err := r.dyn.Resource(ipPools).Delete(ctx, p.GetName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &version}})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		r.changed("pool %s of %s, which Canal made and nobody used, deleted", p.GetName(), poolCIDR(p))
	}
	return nil
}

// pool is one as it was; nil where there was none.
func (o *original) pool(name string) *unstructured.Unstructured {
	for _, p := range o.Pools {
		if p.GetName() == name {
			return p
		}
	}
	return nil
}

// somebodys says why a pool may be somebody's, or "": was is how Begin found it.
func somebodys(was, is *unstructured.Unstructured) string {
	switch {
	case was == nil:
		return "it was made while the migration ran"
	case is.GetName() != defaultPool:
		return "it is none that calico-node makes by itself"
	case len(is.GetLabels())+len(is.GetOwnerReferences())+len(is.GetFinalizers()) > 0 || !onlyCalicos(is.GetAnnotations()):
		return "it has labels, annotations, owners or finalizers"
	}
	before, _, _ := unstructured.NestedMap(was.Object, "spec")
	for field, value := range before {
		if !slices.ContainsFunc(defaultSpec[field], func(v any) bool { return reflect.DeepEqual(v, value) }) {
			return fmt.Sprintf("calico-node does not make one with %s %v", field, value)
		}
	}
	after, _, _ := unstructured.NestedMap(is.Object, "spec")
	if before["disabled"] = true; !reflect.DeepEqual(before, after) {
		return "it was changed while the migration ran"
	}
	return ""
}

// onlyCalicos tells whether an object has no annotations but the one in which Calico keeps the
// metadata of its own API, and none in there.
func onlyCalicos(annotations map[string]string) bool {
	for key, value := range annotations {
		var kept metav1.ObjectMeta
		if key != calicoDomain+"metadata" || json.Unmarshal([]byte(value), &kept) != nil || len(kept.Labels)+len(kept.Annotations) > 0 {
			return false
		}
	}
	return true
}

// poolUse says what uses the addresses of a pool, or "": the pods' network, or a block.
func (r *run) poolUse(ctx context.Context, cidr string) (string, error) {
	pool, err := netip.ParsePrefix(cidr)
	if err != nil {
		return "its network cannot be read", nil
	}
	if pods, err := netip.ParsePrefix(r.in.Target.PodCIDR); err != nil || pods.Overlaps(pool) {
		return "it overlaps the pods' network", nil
	}
	for _, kind := range []schema.GroupVersionResource{ipamBlocks, blockAffinities} {
		list, err := r.dyn.Resource(kind).List(ctx, metav1.ListOptions{})
		if err != nil {
			return "", err
		}
		for i := range list.Items {
			if block, err := netip.ParsePrefix(poolCIDR(&list.Items[i])); err != nil || block.Overlaps(pool) {
				return fmt.Sprintf("%s %s is of it", list.Items[i].GetKind(), list.Items[i].GetName()), nil
			}
		}
	}
	return "", nil
}
