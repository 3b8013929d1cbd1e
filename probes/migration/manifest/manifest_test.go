package manifest

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func fixture(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile("testdata/calico.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestRead(t *testing.T) {
	m, err := Read([]byte(fixture(t)))
	if err != nil {
		t.Fatal(err)
	}
	if m.Version() != "v3.28.5" || m.Namespace() != "kube-system" || m.Typha() || m.MTU() != 0 || len(m.SHA256()) != 64 {
		t.Errorf("version %q, namespace %q, Typha %v, MTU %d", m.Version(), m.Namespace(), m.Typha(), m.MTU())
	}
	if want := []string{"docker.io/calico/cni:v3.28.5", "docker.io/calico/kube-controllers:v3.28.5", "docker.io/calico/node:v3.28.5"}; !slices.Equal(m.Images(), want) {
		t.Errorf("images %v", m.Images())
	}
	if want := []string{"docker.io/calico/cni:v3.28.5", "docker.io/calico/node:v3.28.5"}; !slices.Equal(m.NodeImages(), want) {
		t.Errorf("images of a node %v", m.NodeImages())
	}
	var kinds []string
	for _, o := range m.Objects() {
		kinds = append(kinds, o.GetKind())
	}
	want := []string{"CustomResourceDefinition", "ServiceAccount", "ConfigMap", "ClusterRole", "ClusterRoleBinding", "DaemonSet", "Deployment", "PodDisruptionBudget"}
	if got := slices.Compact(kinds); !slices.Equal(got, want) {
		t.Errorf("order %v", got)
	}
}

// What is given out can be changed without the manifest changing.
func TestObjectsAreCopies(t *testing.T) {
	m, err := Read([]byte(fixture(t)))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range append(m.Objects(), m.DaemonSet()) {
		o.SetName("changed")
	}
	m.PodSpec().Containers[0].Name = "changed"
	if m.DaemonSet().GetName() != NodeName || m.Objects()[0].GetName() == "changed" || m.PodSpec().Containers[0].Name == "changed" {
		t.Error("the manifest changed")
	}
}

func TestReadRefuses(t *testing.T) {
	good := fixture(t)
	env := func(lines string) [2]string {
		return [2]string{"        - name: IP\n", lines + "        - name: IP\n"}
	}
	for name, test := range map[string]struct {
		change [2]string
		at     string // the text of the line that the error is to name
		want   string
	}{
		"no YAML":           {[2]string{"spec:\n  maxUnavailable: 1\n", "spec: [\n"}, "", "no YAML"},
		"a field twice":     {[2]string{"  maxUnavailable: 1\n", "  maxUnavailable: 1\n  maxUnavailable: 2\n"}, "  maxUnavailable: 2", `key "maxUnavailable" already defined`},
		"no kind":           {[2]string{"kind: PodDisruptionBudget\n", ""}, "apiVersion: policy/v1", "no kind"},
		"a list":            {[2]string{"apiVersion: policy/v1\n", "- a\n---\napiVersion: policy/v1\n"}, "- a", "no fields"},
		"an alias":          {[2]string{"  maxUnavailable: 1", "  maxUnavailable: &x 1"}, "  maxUnavailable: &x 1", "anchors"},
		"an unclear word":   {[2]string{`value: "autodetect"`, "value: on"}, "          value: on", "put it in quotes"},
		"an object twice":   {[2]string{"metadata: {name: calico-cni-plugin, namespace: kube-system}", "metadata: {name: calico-node, namespace: kube-system}"}, "", "stands twice; the first is on line"},
		"no namespace":      {[2]string{"metadata: {name: calico-cni-plugin, namespace: kube-system}", "metadata: {name: calico-cni-plugin}"}, "", "has no namespace"},
		"an unknown object": {[2]string{"kind: PodDisruptionBudget", "kind: PodSecurityPolicy"}, "", "no such object"},
		"a secret":          {[2]string{"apiVersion: policy/v1\nkind: PodDisruptionBudget", "apiVersion: v1\nkind: Secret"}, "", "with secrets is not taken"},
		"the operator": {[2]string{"apiVersion: policy/v1\nkind: PodDisruptionBudget", "apiVersion: operator.tigera.io/v1\nkind: Installation"},
			"apiVersion: operator.tigera.io/v1", "Tigera's operator"},
		"Canal":             {[2]string{"kind: DaemonSet\nmetadata:\n  name: calico-node", "kind: DaemonSet\nmetadata:\n  name: canal"}, "", "Canal's own manifest"},
		"Windows":           {[2]string{"kind: DaemonSet\nmetadata:\n  name: calico-node", "kind: DaemonSet\nmetadata:\n  name: calico-node-windows"}, "", "for Windows nodes"},
		"etcd":              {[2]string{"apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: calico-kube-controllers,", "apiVersion: v1\nkind: Secret\nmetadata: {name: calico-etcd-secrets,"}, "", "etcd of its own"},
		"another DaemonSet": {[2]string{"kind: DaemonSet\nmetadata:\n  name: calico-node", "kind: DaemonSet\nmetadata:\n  name: csi-node-driver"}, "", "the only DaemonSet"},
		"another Deployment": {[2]string{"kind: Deployment\nmetadata: {name: calico-kube-controllers", "kind: Deployment\nmetadata: {name: calico-apiserver"},
			"", "only calico-kube-controllers and calico-typha are known"},
		"no definition":    {[2]string{"{name: ippools.crd", "{name: pools.crd"}, "", "no CustomResourceDefinition ippools.crd.projectcalico.org"},
		"no configuration": {[2]string{"name: calico-config\n  namespace", "name: other-config\n  namespace"}, "", "no ConfigMap calico-config"},
		"BGP":              {[2]string{`calico_backend: "vxlan"`, `calico_backend: "bird"`}, `  calico_backend: "bird"`, "calico-vxlan.yaml"},
		"a bad MTU":        {[2]string{`veth_mtu: "0"`, `veth_mtu: "auto"`}, `  veth_mtu: "auto"`, "number of bytes"},
		"no JSON":          {[2]string{`"mtu": __CNI_MTU__,`, `"mtu": ,`}, "  cni_network_config: |-", "is no JSON"},
		"another network":  {[2]string{`"name": "k8s-pod-network"`, `"name": "other"`}, "  cni_network_config: |-", "must be k8s-pod-network"},
		"another plugin":   {[2]string{`"type": "calico",`, `"type": "flannel",`}, "  cni_network_config: |-", `first plugin is "flannel"`},
		"another IPAM":     {[2]string{`"calico-ipam"}`, `"host-local"}`}, "  cni_network_config: |-", `addresses come from "host-local"`},
		"IPv6 addresses":   {[2]string{`"calico-ipam"}`, `"calico-ipam", "assign_ipv6": "true"}`}, "  cni_network_config: |-", "IPv4 only"},
		"no role":          {[2]string{"  kind: ClusterRole\n  name: calico-node", "  kind: ClusterRole\n  name: other"}, "  name: other", "gives ClusterRole other, which is not in the manifest"},
		"no account":       {[2]string{"serviceAccountName: calico-node", "serviceAccountName: other"}, "      serviceAccountName: other", `no ServiceAccount "other"`},
		"another place":    {[2]string{"name: calico-node\n  namespace: kube-system\nspec:", "name: calico-node\n  namespace: calico\nspec:"}, "  namespace: calico", "installed into kube-system"},
		"an unknown field": {[2]string{"hostNetwork: true", "hostNetwerk: true"}, "", `unknown field "spec.template.spec.hostNetwerk"`},
		"no host network":  {[2]string{"hostNetwork: true", "hostNetwork: false"}, "    spec:", "network of the host"},
		"no tag":           {[2]string{"calico/node:v3.28.5", "calico/node"}, "        image: docker.io/calico/node", "no tag of a release"},
		"a registry's port is no tag": {[2]string{"docker.io/calico/node:v3.28.5", "localhost:5000/calico/node"},
			"        image: localhost:5000/calico/node", "no tag of a release"},
		"a moving tag":   {[2]string{"calico/node:v3.28.5", "calico/node:master"}, "        image: docker.io/calico/node:master", "no tag of a release"},
		"no upgrade":     {[2]string{"name: upgrade-ipam", "name: other"}, "      initContainers:", "no init container upgrade-ipam"},
		"no installer":   {[2]string{"name: install-cni", "name: other"}, "      initContainers:", "no init container install-cni"},
		"another order":  {[2]string{"name: upgrade-ipam", "name: install-cni"}, "      initContainers:", "no init container upgrade-ipam"},
		"no -upgrade":    {[2]string{`, "-upgrade"]`, `]`}, "      - name: upgrade-ipam", "-upgrade"},
		"no old leases":  {[2]string{"hostPath: {path: /var/lib/cni/networks}", "hostPath: {path: /var/lib/cni}"}, "      - name: upgrade-ipam", "does not see the node's /var/lib/cni/networks"},
		"no calico-node": {[2]string{"      - name: calico-node\n", "      - name: node\n"}, "      containers:", "no container calico-node"},
		"BIRD is asked":  {[2]string{`"-felix-ready"]`, `"-felix-ready", "-bird-ready"]`}, "        readinessProbe:", "asks for BIRD"},
		"a VNI":          {env("        - name: FELIX_VXLANVNI\n          value: \"1\"\n"), "        - name: FELIX_VXLANVNI", "beats FelixConfiguration"},
		"a port":         {env("        - name: FELIX_VXLANPORT\n          value: \"8472\"\n"), "        - name: FELIX_VXLANPORT", "beats FelixConfiguration"},
		"a setting from elsewhere": {env("        - name: FELIX_BPFENABLED\n          valueFrom: {configMapKeyRef: {name: x, key: z}}\n"),
			"        - name: FELIX_BPFENABLED", "not in the manifest"},
		"eBPF":       {env("        - name: FELIX_BPFENABLED\n          value: \"True\"\n"), "        - name: FELIX_BPFENABLED", "keeps to iptables"},
		"host-local": {env("        - name: USE_POD_CIDR\n          value: \"true\"\n"), "        - name: USE_POD_CIDR", "Calico's IPAM"},
		"IP6":        {env("        - name: IP6\n          value: autodetect\n"), "        - name: IP6", "IPv4 only"},
		"IP-in-IP": {[2]string{"- name: CALICO_IPV4POOL_IPIP\n          value: \"Never\"", "- name: CALICO_IPV4POOL_IPIP\n          value: \"Always\""},
			"        - name: CALICO_IPV4POOL_IPIP", "IP-in-IP"},
		"IPv6": {[2]string{"- name: FELIX_IPV6SUPPORT\n          value: \"false\"", "- name: FELIX_IPV6SUPPORT\n          value: \"true\""},
			"        - name: FELIX_IPV6SUPPORT", "IPv4 only"},
		"etcd by default": {[2]string{"        - name: DATASTORE_TYPE\n          value: \"kubernetes\"\n", ""}, "        env:\n        - name: NODENAME", "would look for etcd"},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(good, test.change[0], test.change[1], 1)
			if text == good {
				t.Fatal("the change changes nothing")
			}
			_, err := Read([]byte(text))
			var errs Errors
			if !errors.As(err, &errs) {
				t.Fatalf("%T: %v", err, err)
			}
			i := slices.IndexFunc(errs, func(e Error) bool { return strings.Contains(e.Message, test.want) })
			if i < 0 {
				t.Fatalf("no %q in\n%v", test.want, err)
			}
			for _, e := range errs {
				if strings.Contains(e.Error(), "\n") {
					t.Errorf("more than a line: %q", e.Error())
				}
			}
			if test.at == "" {
				return
			}
			before, _, found := strings.Cut("\n"+text, "\n"+test.at+"\n")
			if line := strings.Count(before, "\n") + 1; !found || errs[i].Line != line {
				t.Errorf("line %d, want %d (%q): %s", errs[i].Line, line, test.at, errs[i])
			}
		})
	}
}

// Everything that is wrong is told at once, in order.
func TestReadTellsAll(t *testing.T) {
	text := strings.NewReplacer(`veth_mtu: "0"`, `veth_mtu: "x"`, `calico_backend: "vxlan"`, `calico_backend: "bird"`, "hostNetwork: true", "hostNetwork: false").Replace(fixture(t))
	_, err := Read([]byte(text))
	var errs Errors
	if !errors.As(err, &errs) || len(errs) != 4 || !slices.IsSortedFunc(errs, func(a, b Error) int { return a.Line - b.Line }) {
		t.Errorf("%v", err)
	}
}

func TestBeside(t *testing.T) {
	text := strings.Replace(fixture(t), `typha_service_name: "none"`, `typha_service_name: "calico-typha"`, 1) + `---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: calico-auth}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:auth-delegator"}
---
apiVersion: v1
kind: Service
metadata: {name: calico-typha, namespace: kube-system}
`
	m, err := Read([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	objects, err := m.Beside("portcullis.dev/cni", "calico")
	if err != nil {
		t.Fatal(err)
	}
	renamed := map[string]bool{}
	for _, o := range m.Renamed() {
		renamed[o.Kind+" "+o.Name] = true
	}
	for _, o := range objects {
		name := o.GetKind() + " " + o.GetName()
		switch o.GetKind() {
		case "Deployment", "PodDisruptionBudget", "Service":
			t.Errorf("%s is there beside Canal", name)
		case "ClusterRole", "ClusterRoleBinding":
			if !strings.HasPrefix(o.GetName(), Prefix) || !renamed[name] {
				t.Errorf("%s", name)
			}
			delete(renamed, name)
		case "ConfigMap":
			if v, _, _ := unstructured.NestedString(o.Object, "data", "typha_service_name"); v != "none" {
				t.Errorf("Felix asks Typha at %q, which is not there", v)
			}
		case "DaemonSet":
			terms, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "affinity", "nodeAffinity",
				"requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
			if len(terms) != 1 {
				t.Errorf("terms %v", terms)
			}
		}
		if ref, _, _ := unstructured.NestedString(o.Object, "roleRef", "name"); ref != "" && ref != "system:auth-delegator" && ref != o.GetName() {
			t.Errorf("%s gives %s", name, ref)
		}
	}
	if len(renamed) > 0 {
		t.Errorf("renamed but not there: %v", renamed)
	}
	if ref, _, _ := unstructured.NestedString(m.find("rbac.authorization.k8s.io", "ClusterRoleBinding", "calico-node").Object, "roleRef", "name"); ref != "calico-node" {
		t.Errorf("the manifest itself has changed: %s", ref)
	}
}

func TestRequire(t *testing.T) {
	const key = "example.com/cni"
	has := func(r corev1.NodeSelectorRequirement) string { return r.Key + " " + string(r.Operator) }
	want := key + " NotIn"
	arch := corev1.NodeSelectorRequirement{Key: "arch", Operator: corev1.NodeSelectorOpIn, Values: []string{"amd64"}}
	name := corev1.NodeSelectorRequirement{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"a"}}
	term := func(expressions, fields []corev1.NodeSelectorRequirement) corev1.NodeSelectorTerm {
		return corev1.NodeSelectorTerm{MatchExpressions: expressions, MatchFields: fields}
	}
	some := []corev1.NodeSelectorRequirement{arch}
	field := []corev1.NodeSelectorRequirement{name}
	for test, c := range map[string]struct {
		given []corev1.NodeSelectorTerm
		want  [][]string
	}{
		"no affinity":       {nil, [][]string{{want}}},
		"one term":          {[]corev1.NodeSelectorTerm{term(some, nil)}, [][]string{{"arch In", want}}},
		"several terms":     {[]corev1.NodeSelectorTerm{term(some, nil), term(some, field)}, [][]string{{"arch In", want}, {"arch In", want}}},
		"only fields":       {[]corev1.NodeSelectorTerm{term(nil, field)}, [][]string{{want}}},
		"one matches none":  {[]corev1.NodeSelectorTerm{term(nil, nil), term(some, nil)}, [][]string{{}, {"arch In", want}}},
		"all match nothing": {[]corev1.NodeSelectorTerm{term(nil, nil)}, [][]string{{}}},
	} {
		t.Run(test, func(t *testing.T) {
			set := workload(t, c.given)
			before := set.DeepCopy()
			for range 2 {
				if err := Require(set, key, corev1.NodeSelectorOpNotIn, "calico"); err != nil {
					t.Fatal(err)
				}
			}
			got, _, err := unstructured.NestedSlice(set.Object, "spec", "template", "spec", "affinity", "nodeAffinity",
				"requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
			if err != nil || len(got) != len(c.want) {
				t.Fatalf("terms %v (%v)", got, err)
			}
			for i, term := range got {
				expressions, _, _ := unstructured.NestedSlice(term.(map[string]any), "matchExpressions")
				var keys []string
				for _, e := range expressions {
					r := e.(map[string]any)
					keys = append(keys, has(corev1.NodeSelectorRequirement{Key: r["key"].(string), Operator: corev1.NodeSelectorOperator(r["operator"].(string))}))
				}
				if !slices.Equal(keys, c.want[i]) {
					t.Errorf("term %d: %v, want %v", i, keys, c.want[i])
				}
			}
			// Everything else stays.
			pods, _, _ := unstructured.NestedFieldNoCopy(set.Object, "spec", "template", "spec", "affinity", "podAffinity")
			was, _, _ := unstructured.NestedFieldNoCopy(before.Object, "spec", "template", "spec", "affinity", "podAffinity")
			if (pods == nil) != (was == nil) || set.Object["spec"].(map[string]any)["other"] != "kept" {
				t.Errorf("what else there was: %v", set.Object)
			}
		})
	}
	broken := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"template": map[string]any{"spec": map[string]any{"affinity": "x"}}}}}
	if err := Require(broken, key, corev1.NodeSelectorOpIn, "a"); err == nil {
		t.Error("an affinity that is none is taken")
	}
}

func workload(t *testing.T, terms []corev1.NodeSelectorTerm) *unstructured.Unstructured {
	t.Helper()
	set := &unstructured.Unstructured{Object: map[string]any{"kind": "DaemonSet", "spec": map[string]any{"other": "kept", "template": map[string]any{"spec": map[string]any{}}}}}
	if terms == nil {
		return set
	}
	var list []any
	for _, term := range terms {
		m := map[string]any{}
		for name, rs := range map[string][]corev1.NodeSelectorRequirement{"matchExpressions": term.MatchExpressions, "matchFields": term.MatchFields} {
			var out []any
			for _, r := range rs {
				out = append(out, map[string]any{"key": r.Key, "operator": string(r.Operator), "values": []any{r.Values[0]}})
			}
			if out != nil {
				m[name] = out
			}
		}
		list = append(list, m)
	}
	affinity := map[string]any{
		"nodeAffinity": map[string]any{"requiredDuringSchedulingIgnoredDuringExecution": map[string]any{"nodeSelectorTerms": list}},
		"podAffinity":  map[string]any{},
	}
	if err := unstructured.SetNestedMap(set.Object, affinity, "spec", "template", "spec", "affinity"); err != nil {
		t.Fatal(err)
	}
	return set
}

func TestPack(t *testing.T) {
	text := []byte(fixture(t))
	packed, err := Pack(text)
	if err != nil {
		t.Fatal(err)
	}
	m, err := Open(packed)
	if err != nil || m.SHA256() != Hash(text) {
		t.Fatalf("%v", err)
	}
	bomb, err := Pack(make([]byte, maxText))
	if err != nil {
		t.Fatal(err)
	}
	// Members of gzip follow one another, so that two small ones make a large text.
	for name, bad := range map[string][]byte{
		"no gzip": []byte("x"), "cut off": packed[:len(packed)-4], "empty": nil,
		"too large": make([]byte, maxPacked+1), "a bomb": append(slices.Clone(bomb), bomb...),
	} {
		if _, err := Unpack(bad); err == nil {
			t.Errorf("%s is unpacked", name)
		}
	}
	if _, err := Pack(make([]byte, maxText+1)); err == nil {
		t.Error("a text that is too large is packed")
	}
	if _, err := Read(make([]byte, maxText+1)); err == nil {
		t.Error("a text that is too large is read")
	}
}

// Calico's own manifests, where its module is at hand.
func TestPublished(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/projectcalico/calico").Output()
	dir := filepath.Join(strings.TrimSpace(string(out)), "manifests")
	if _, serr := os.Stat(dir); err != nil || serr != nil {
		t.Skip("the module with Calico's manifests is not at hand")
	}
	for file, want := range map[string]string{
		"calico-vxlan.yaml":       "",
		"calico.yaml":             "calico_backend",
		"calico-typha.yaml":       "calico_backend",
		"calico-bpf.yaml":         "FELIX_BPFENABLED",
		"calico-policy-only.yaml": "host-local",
		"calico-etcd.yaml":        "etcd of its own",
		"canal.yaml":              "Canal's own manifest",
		"tigera-operator.yaml":    "Tigera's operator",
		"custom-resources.yaml":   "Tigera's operator",
		"crds.yaml":               "no DaemonSet calico-node",
		"apiserver.yaml":          "no DaemonSet calico-node",
	} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Error(err)
			continue
		}
		m, err := Read(text)
		if want != "" {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", file, err, want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		packed, err := Pack(text)
		if err != nil || len(packed) > 100<<10 || !release.MatchString(m.Version()) || len(m.Images()) != 3 || len(m.Renamed()) != 6 {
			t.Errorf("%s: %s, %d bytes packed (%v), images %v, renamed %v", file, m.Version(), len(packed), err, m.Images(), m.Renamed())
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(fixture(f)))
	f.Add([]byte("kind: A\nmetadata: {name: 3}\n---\n- x\n"))
	f.Add([]byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: calico-config}\ndata: [a]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := Read(text)
		if err != nil {
			var errs Errors
			if !errors.As(err, &errs) || len(errs) == 0 {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		if _, err := m.Beside("a", "b"); err != nil {
			t.Fatal(err)
		}
	})
}

// What is unpacked is bounded, whatever it is packed from, and packs again.
func FuzzUnpack(f *testing.F) {
	packed, err := Pack([]byte(fixture(f)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed)
	f.Add(packed[:len(packed)/2])
	f.Add([]byte{0x1f, 0x8b})
	f.Fuzz(func(t *testing.T, packed []byte) {
		text, err := Unpack(packed)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("not one line: %q", err)
			}
			return
		}
		if len(text) > maxText {
			t.Fatalf("%d bytes", len(text))
		}
		again, err := Pack(text)
		if err != nil {
			return // what packs badly may be too large
		}
		if back, err := Unpack(again); err != nil || !bytes.Equal(back, text) {
			t.Errorf("%d bytes come back as %d (%v)", len(text), len(back), err)
		}
	})
}
