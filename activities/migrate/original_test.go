package migrate

import (
	"crypto/rand"
	"encoding/hex"

	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/probes/migration/manifest"
)

func TestConfFolder(t *testing.T) {
	t.Parallel()
	host := func(name, path string) corev1.Volume {
		return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path}}}
	}
	mount := func(name, path string) []corev1.VolumeMount {
		return []corev1.VolumeMount{{Name: name, MountPath: path}}
	}
	for _, tc := range []struct {
		name string
		spec corev1.PodSpec
		want string
	}{
		{"nothing", corev1.PodSpec{}, ""},
		{"the installer's", corev1.PodSpec{
			InitContainers: []corev1.Container{{VolumeMounts: mount("bin", "/host/opt/cni/bin")}, {VolumeMounts: mount("conf", "/host/etc/cni/net.d")}},
			Volumes:        []corev1.Volume{host("bin", "/opt/cni/bin"), host("conf", "/etc/cni/net.d")},
		}, "/etc/cni/net.d"},
		{"elsewhere on the node", corev1.PodSpec{
			Containers: []corev1.Container{{VolumeMounts: mount("conf", "/host/etc/cni/net.d")}}, Volumes: []corev1.Volume{host("conf", "/var/lib/rancher/k3s/agent/etc/cni/net.d")},
		}, "/var/lib/rancher/k3s/agent/etc/cni/net.d"},
		{"not of the node", corev1.PodSpec{
			Containers: []corev1.Container{{VolumeMounts: mount("conf", "/etc/cni/net.d")}}, Volumes: []corev1.Volume{{Name: "conf"}},
		}, ""},
		{"a name that ends alike", corev1.PodSpec{
			Containers: []corev1.Container{{VolumeMounts: mount("conf", "/mycni/net.d")}}, Volumes: []corev1.Volume{host("conf", "/x")},
		}, ""},
	} {
		if got := confFolder(&appsv1.DaemonSet{Spec: appsv1.DaemonSetSpec{Template: corev1.PodTemplateSpec{Spec: tc.spec}}}); got != tc.want {
			t.Errorf("%s: %q", tc.name, got)
		}
	}
}

func kindsOf(list []*unstructured.Unstructured) []string {
	var out []string
	for _, u := range list {
		out = append(out, u.GetKind()+" "+u.GetName())
	}
	slices.Sort(out)
	return out
}

// Only what nobody else uses is Canal's own; Kubernetes' roles, and roles that are given in a
// namespace too, are not.
func TestCanalsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		r := w.run(t, migration.Begin, "")
		o, err := r.describe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		bindings := []string{"ClusterRoleBinding canal-calico", "ClusterRoleBinding canal-flannel", "ClusterRoleBinding canal-shared", "ClusterRoleBinding canal-view"}
		want := append([]string{"ClusterRole calico-node", "ClusterRole flannel"}, append(bindings, "ConfigMap canal-config", "ServiceAccount canal")...)
		if got := kindsOf(o.Others); !slices.Equal(got, want) {
			t.Errorf("%v", got)
		}
		want = []string{"ClusterRole calico-cni-plugin", "ClusterRole calico-kube-controllers", "ClusterRole calico-node", "ClusterRoleBinding calico-cni-plugin",
			"ClusterRoleBinding calico-kube-controllers", "Deployment calico-kube-controllers", "ServiceAccount calico-cni-plugin", "ServiceAccount calico-kube-controllers"}
		if got := kindsOf(o.Shared); !slices.Equal(got, want) {
			t.Errorf("%v", got)
		}
		// Somebody else's binding keeps a role.
		w.put(&unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": map[string]any{"name": "other"},
			"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "flannel"},
			"subjects": []any{map[string]any{"kind": "ServiceAccount", "name": "other", "namespace": "kube-system"}},
		}})
		if o, err = r.describe(t.Context()); err != nil || slices.Contains(kindsOf(o.Others), "ClusterRole flannel") {
			t.Errorf("%v %v", kindsOf(o.Others), err)
		}
		// The account of all is nobody's own.
		canal := o.Canal.DeepCopy()
		for _, account := range []string{"", "default"} {
			canal.Spec.Template.Spec.ServiceAccountName = account
			own, err := r.canalsOwn(t.Context(), canal)
			if got := kindsOf(own); err != nil || !slices.Equal(got, []string{"ConfigMap canal-config"}) {
				t.Errorf("%q: %v %v", account, got, err)
			}
		}
	})
}

// The end of a migration leaves what is not Canal's, and Calico's as its manifest has it.
func TestWhatAMigrationLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		mustDo(t, w, course(2)...)
		for kindName, want := range map[string][]string{
			"ClusterRole":        {"calico-cni-plugin", "calico-kube-controllers", "calico-node", "shared-in-a-namespace", "view"},
			"ClusterRoleBinding": {"calico-cni-plugin", "calico-kube-controllers", "calico-node"},
			"ServiceAccount":     {"calico-cni-plugin", "calico-kube-controllers", "calico-node"},
			"ConfigMap":          {"calico-config"},
			"DaemonSet":          {"calico-node"},
			"RoleBinding":        {"somebody"},
		} {
			var got []string
			for _, u := range w.of(kindName) {
				got = append(got, u.GetName())
				if u.GetLabels()[labelOwn] != "" {
					t.Errorf("%s %s has the migration's label still", kindName, u.GetName())
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: %v", kindName, got)
			}
		}
		m := given(t)
		for _, want := range m.Objects() {
			if want.GetKind() == "CustomResourceDefinition" || want.GetName() == manifest.ConfigName {
				continue
			}
			is := clean(w.objects[keyOf(want)])
			switch want.GetKind() {
			case "ServiceAccount", "ClusterRole":
				// Labels and annotations that others gave them stay.
				is.SetLabels(nil)
				is.SetAnnotations(nil)
			case "Deployment":
				continue // Canal's had fields that Calico's does not set
			}
			if !same(is.Object, want.Object) {
				a, _ := is.MarshalJSON()
				b, _ := want.MarshalJSON()
				t.Errorf("%s %s is\n%s and not\n%s", want.GetKind(), want.GetName(), a, b)
			}
		}
		for name, m := range w.nodes {
			if len(m.saved) > 0 || m.device || m.chains || !slices.Equal(slices.Sorted(maps.Keys(m.files)), []string{"10-calico.conflist", "calico-kubeconfig"}) {
				t.Errorf("%s: %+v", name, m)
			}
		}
	})
}

func given(t testing.TB) *manifest.Manifest {
	t.Helper()
	m, err := manifest.Open(packed(t))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// What was there is kept once, comes back as it was, and is nobody else's.
func TestStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		r := w.run(t, migration.Begin, "")
		o, err := r.describe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		o.Flannel, o.Network = flannel, hostLocalNetwork
		kept, err := r.store(t.Context(), o)
		if err != nil || !reflect.DeepEqual(kept, o) {
			t.Fatalf("%v\n%+v\n%+v", err, kept, o)
		}
		// Written again, it stays: what is there later may be half changed.
		later := *o
		later.Flannel = "flannel.9"
		if kept, err = r.store(t.Context(), &later); err != nil || kept.Flannel != flannel {
			t.Errorf("%v %+v", err, kept)
		}
		if m, err := r.calico(t.Context()); err != nil || m.SHA256() != given(t).SHA256() {
			t.Errorf("%v", err)
		}
		other := at(t, migration.Begin, "")
		other.Migration = "m-2"
		for name, call := range map[string]func() (*StepResult, error){
			"do":   func() (*StepResult, error) { return w.activities(t).Do(t.Context(), other) },
			"undo": func() (*StepResult, error) { return w.activities(t).Undo(t.Context(), other) },
		} {
			before := w.snapshot()
			_, err := call()
			want := map[string]string{"do": errs.TypeConflict, "undo": errs.TypeUnavailable}[name]
			if errs.TypeOf(err) != want || !strings.Contains(errs.Message(err), "belongs to migration "+testMigration) {
				t.Errorf("%s: %v", name, err)
			}
			mustBe(t, name+" of another migration", before, w)
		}
	})
}

func TestStoredThatCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		big, err := pack(make([]byte, maxOriginal+2))
		if err != nil {
			t.Fatal(err)
		}
		text, err := pack([]byte("{"))
		if err != nil {
			t.Fatal(err)
		}
		for name, data := range map[string][]byte{"nothing": nil, "no gzip": []byte("x"), "no JSON": text, "too large": big} {
			w := newWorld(t, 1)
			w.put(raw(t, &corev1.ConfigMap{
				TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Namespace: stateNamespace, Name: stateName}, BinaryData: map[string][]byte{keyOriginal: data},
			}))
			_, err := do(t, w, deed{migration.Split, ""})
			if errs.TypeOf(err) != errs.TypeFailed || !strings.Contains(err.Error(), "cluster dev: kube-system/portcullis-migration cannot be read") {
				t.Errorf("%s: %v", name, err)
			}
		}
		_, err = do(t, newWorld(t, 1), deed{migration.Split, ""})
		if errs.TypeOf(err) != errs.TypeFailed || !strings.Contains(err.Error(), "is gone") {
			t.Errorf("%v", err)
		}
	})
}

// What does not fit into a ConfigMap is told with its parts, before anything is kept.
func TestStoreTooMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		noise := make([]byte, 600<<10)
		if _, err := rand.Read(noise); err != nil {
			t.Fatal(err)
		}
		config := w.objects[kindOf("v1", "ConfigMap").key("kube-system", "canal-config")]
		config.Object["data"].(map[string]any)["noise"] = hex.EncodeToString(noise)
		r := w.run(t, migration.Begin, "")
		r.in.Manifest = append(r.in.Manifest, make([]byte, 500<<10)...)
		_, err := r.store(t.Context(), &original{Migration: testMigration, Others: []*unstructured.Unstructured{config}})
		if errs.TypeOf(err) != errs.TypeFailed || !strings.Contains(err.Error(), "a ConfigMap holds 1020") || !strings.Contains(err.Error(), "cluster dev") {
			t.Errorf("%v", err)
		}
		if w.objects[kindOf("v1", "ConfigMap").key(stateNamespace, stateName)] != nil {
			t.Error("something was kept")
		}
	})
}

func TestFelixBefore(t *testing.T) {
	t.Parallel()
	absent := map[string]any{"vxlanEnabled": nil, "vxlanVNI": nil, "vxlanPort": nil, "vxlanMTU": nil}
	for _, tc := range []struct {
		name string
		spec map[string]any
		set  map[string]any
	}{
		{"none", nil, nil},
		{"others", map[string]any{"logSeverityScreen": "Info"}, nil},
		{"some", map[string]any{"vxlanEnabled": false, "vxlanPort": int64(4790)}, map[string]any{"vxlanEnabled": false, "vxlanPort": int64(4790)}},
		{"all", map[string]any{"vxlanEnabled": true, "vxlanPort": int64(1), "vxlanVNI": int64(2), "vxlanMTU": int64(3)},
			map[string]any{"vxlanEnabled": true, "vxlanPort": int64(1), "vxlanVNI": int64(2), "vxlanMTU": int64(3)}},
	} {
		o := &original{}
		if tc.spec != nil {
			o.Felix = crd("FelixConfiguration", "default", tc.spec)
		}
		want := maps.Clone(absent)
		maps.Copy(want, tc.set)
		if got := felixBefore(o); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

// Without a FelixConfiguration, an IPAMConfig or a pool before, there is none after.
func TestNothingOfCalicosBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		for key, u := range w.objects {
			if k := u.GetKind(); k == "FelixConfiguration" || k == "IPPool" {
				delete(w.objects, key)
			}
		}
		before := w.snapshot()
		all := reversible(course(2))[:5]
		mustDo(t, w, all...)
		mustUndo(t, w, all...)
		mustBe(t, "there and back", before, w)
	})
}

// A cluster in which something is in the way is refused by name, and left as it was.
func TestBeginRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tc := range []struct {
			name string
			with func(*world)
			kind string
			want string
		}{
			{"a block", func(w *world) { w.put(crd("IPAMBlock", "10-1", map[string]any{})) }, errs.TypeConflict, "ipamblocks of Calico's IPAM (10-1)"},
			{"an affinity", func(w *world) { w.put(crd("BlockAffinity", "n9-10-1", map[string]any{})) }, errs.TypeConflict, "blockaffinities of Calico's IPAM"},
			{"a handle", func(w *world) { w.put(crd("IPAMHandle", "h", map[string]any{})) }, errs.TypeConflict, "ipamhandles of Calico's IPAM (h)"},
			{"Calico", func(w *world) {
				ds := w.objects[kindOf("apps/v1", "DaemonSet").key("kube-system", "canal")].DeepCopy()
				ds.SetName("calico-node")
				_ = unstructured.SetNestedSlice(ds.Object, []any{map[string]any{"name": "calico-node"}}, "spec", "template", "spec", "containers")
				w.put(ds)
			}, errs.TypeConflict, "already has a DaemonSet kube-system/calico-node"},
			{"no Canal", func(w *world) { delete(w.objects, kindOf("apps/v1", "DaemonSet").key("kube-system", "canal")) }, errs.TypeConflict, "has 0 DaemonSets that run Felix and flanneld"},
			{"another network", func(w *world) {
				f := canalFile
				f.Network = "cbr0"
				w.nodes["n1"].files[f.Name] = f
			}, errs.TypeFailed, `node n1: its network is called "cbr0"`},
			{"another IPAM", func(w *world) {
				f := canalFile
				f.IPAM = "dhcp"
				w.nodes["n1"].files[f.Name] = f
			}, errs.TypeFailed, "node n1: its addresses are from dhcp"},
			{"no configuration", func(w *world) { delete(w.nodes["n0"].files, canalFile.Name) }, errs.TypeFailed, "node n0 has no CNI configuration"},
			{"no device", func(w *world) { w.nodes["n0"].device = false; w.shut["canal"] = true }, errs.TypeFailed, "node n0 has no VXLAN device of flannel's"},
		} {
			w := newWorld(t, 2)
			tc.with(w)
			before := w.snapshot()
			_, err := do(t, w, deed{migration.Begin, ""})
			if errs.TypeOf(err) != tc.kind || !strings.Contains(errs.Message(err), tc.want) {
				t.Errorf("%s: %v", tc.name, err)
			}
			mustUndo(t, w, deed{migration.Begin, ""})
			mustBe(t, tc.name, before, w)
		}
	})
}

// Requests that cannot be meant change nothing.
func TestStepsThatCannotBeMeant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		before := w.snapshot()
		for name, change := range map[string]func(*StepInput){
			"no step":      func(in *StepInput) { in.Step = "dance" },
			"no migration": func(in *StepInput) { in.Migration = "" },
			"no target":    func(in *StepInput) { in.Target.MTU = 0 },
			"no node":      func(in *StepInput) { in.Step = migration.Evict },
			"no manifest":  func(in *StepInput) { in.Manifest = nil },
			"bad manifest": func(in *StepInput) { in.Manifest = []byte("x") },
		} {
			in := at(t, migration.Begin, "")
			change(&in)
			if _, err := w.activities(t).Do(t.Context(), in); errs.TypeOf(err) != errs.TypeInvalid {
				t.Errorf("%s: %v", name, err)
			}
		}
		mustBe(t, "refused", before, w)
	})
}

// The objects that Calico's manifest has in common with Canal's come back exactly, those that
// only Calico's manifest brought go, and the namespaces that were there stay.
func TestGiveBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		all := reversible(course(2))
		before := map[string]string{}
		for k, v := range w.snapshot() {
			if strings.Contains(k, "rbac") || strings.Contains(k, "Deployment") || strings.Contains(k, "ServiceAccount") || strings.Contains(k, "ConfigMap") || strings.Contains(k, "PodDisruptionBudget") {
				before[k] = v
			}
		}
		mustDo(t, w, all...)
		if w.objects[kindOf("rbac.authorization.k8s.io/v1", "ClusterRole").key("", "flannel")] != nil {
			t.Error("Canal's role is there still")
		}
		mustUndo(t, w, deed{migration.Adopt, ""})
		after := w.snapshot()
		for k, v := range before {
			if after[k] != v {
				t.Errorf("%s\n was %s\n is  %s", k, v, after[k])
			}
		}
		for k := range after {
			if strings.HasPrefix(k, "rbac") && before[k] == "" && !strings.Contains(k, manifest.Prefix) {
				t.Errorf("%s is left", k)
			}
		}
	})
}
