package preflight

import (
	"reflect"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portcullis.dev/portcullis/probes/preflight"
)

var metav1Delete = metav1.DeleteOptions{}

func TestFlavour(t *testing.T) {
	set := func(name string, containers ...string) *appsv1.DaemonSet {
		d := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: name}}
		for _, c := range containers {
			d.Spec.Template.Spec.Containers = append(d.Spec.Template.Spec.Containers, corev1.Container{Name: c})
		}
		return d
	}
	windows := set("calico-node-windows", "calico-node")
	windows.Spec.Template.Spec.NodeSelector = map[string]string{"kubernetes.io/os": "windows"}
	for _, c := range []struct {
		set  *appsv1.DaemonSet
		want preflight.Flavour
		ok   bool
	}{
		{set("canal", "calico-node", "kube-flannel"), preflight.FlavourCanal, true},
		{set("rke2-canal", "calico-node", "kube-flannel"), preflight.FlavourRKE2Canal, true},
		{set("calico-node", "calico-node"), preflight.FlavourCalico, true},
		{set("kube-flannel-ds", "kube-flannel"), preflight.FlavourFlannel, true},
		{set("cilium", "cilium-agent"), preflight.FlavourOther, true},
		{set("rke2-cilium", "cilium-agent"), preflight.FlavourOther, true},
		{set("node-exporter", "x"), preflight.FlavourOther, false},
		{windows, "", false},
	} {
		if got, ok := flavourOf(c.set); ok != c.ok || ok && got != c.want {
			t.Errorf("%s: %s %v", c.set.Name, got, ok)
		}
	}
}

func TestAddon(t *testing.T) {
	yes := true
	for want, meta := range map[preflight.Addon]metav1.ObjectMeta{
		preflight.AddonNone:      {},
		preflight.AddonHelm:      {Annotations: map[string]string{helmRelease: "mine"}},
		preflight.AddonHelmChart: {Annotations: map[string]string{helmRelease: "rke2-canal"}},
		preflight.AddonK3s:       {Annotations: map[string]string{wranglerKind: "k3s.cattle.io/v1, Kind=Addon"}},
		preflight.AddonManager:   {Labels: map[string]string{addonMode: "Reconcile"}},
		preflight.AddonOperator:  {OwnerReferences: []metav1.OwnerReference{{APIVersion: "operator.tigera.io/v1", Kind: "Installation", Controller: &yes}}},
	} {
		if got := addonOf(&appsv1.DaemonSet{ObjectMeta: meta}, nil); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := addonOf(&appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{helmRelease: "net"}}}, map[string]bool{"net": true}); got != preflight.AddonHelmChart {
		t.Error(got)
	}
}

func TestParseNetConf(t *testing.T) {
	for text, want := range map[string]preflight.FlannelConfig{
		`{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan"}}`:                                               {Present: true, Source: "s", Network: "10.42.0.0/16", Backend: "vxlan", VNI: 1, Port: 8472},
		`{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan","VNI":7,"Port":4789,"DirectRouting":true}}`:      {Present: true, Source: "s", Network: "10.42.0.0/16", Backend: "vxlan", VNI: 7, Port: 4789, DirectRouting: true},
		`{"Network":"10.42.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/48","Backend":{"Type":"host-gw"}}`: {Present: true, Source: "s", Network: "10.42.0.0/16", IPv6: "fd00::/48", Backend: "host-gw", VNI: 1, Port: 8472},
	} {
		if got, err := parseNetConf(text, "s"); err != nil || got != want {
			t.Errorf("%+v %v", got, err)
		}
	}
	if _, err := parseNetConf("{", "s"); err == nil {
		t.Error("no error")
	}
}

func FuzzNetConf(f *testing.F) {
	f.Add(`{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan"}}`)
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := parseNetConf(text, "s"); err == nil && !c.Present {
			t.Error("read, and not there")
		}
	})
}

func TestPods(t *testing.T) {
	yes, one, three := true, int32(1), int32(3)
	owner := func(kind, name string) []metav1.OwnerReference {
		return []metav1.OwnerReference{{Kind: kind, Name: name, Controller: &yes}}
	}
	pod := func(name string, o []metav1.OwnerReference) corev1.Pod {
		return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, OwnerReferences: o}}
	}
	static := pod("static", nil)
	static.Annotations = map[string]string{mirrorAnnotation: "x"}
	local := pod("db-0", owner("StatefulSet", "db"))
	local.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	done := pod("job-1", owner("Job", "job"))
	done.Status.Phase = corev1.PodSucceeded
	got := podsOf(&objects{
		pods:        []corev1.Pod{pod("web-1", owner("ReplicaSet", "web-x")), static, local, done, pod("lost", owner("ReplicaSet", "gone"))},
		replicaSets: []appsv1.ReplicaSet{{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web-x", OwnerReferences: owner("Deployment", "web")}, Spec: appsv1.ReplicaSetSpec{Replicas: &three}}},
		statefulSet: []appsv1.StatefulSet{{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "db"}, Spec: appsv1.StatefulSetSpec{Replicas: &one}}},
	})
	want := []preflight.Pod{
		{Namespace: "a", Name: "web-1", Controller: "ReplicaSet", Owner: "deployment/web", Replicas: 3},
		{Namespace: "a", Name: "static", Mirror: true},
		{Namespace: "a", Name: "db-0", Controller: "StatefulSet", Owner: "statefulset/db", Replicas: 1, LocalData: true},
		{Namespace: "a", Name: "job-1", Controller: "Job", Owner: "job/job", Done: true},
		{Namespace: "a", Name: "lost", Controller: "ReplicaSet", Owner: "replicaset/gone"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}

func TestServiceRanges(t *testing.T) {
	p := corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "kube-apiserver", Command: []string{"kube-apiserver", "--service-cluster-ip-range=10.43.0.0/16,fd00::/112"}}}}}
	if got := serviceRanges([]corev1.Pod{{}, p, p}); !reflect.DeepEqual(got, []string{"10.43.0.0/16", "fd00::/112"}) {
		t.Errorf("%q", got)
	}
}
