package manifest

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Names that Calico gives the objects of its manifest.
const (
	NodeName   = "calico-node"
	ConfigName = "calico-config"
	// KubeControllers and Typha are the Deployments that may be there.
	KubeControllers = "calico-kube-controllers"
	Typha           = "calico-typha"
)

// Manifest is Calico's manifest, read and found usable for a migration.
type Manifest struct {
	text    []byte
	items   []item
	version string
	images  []string
	node    appsv1.DaemonSet
	config  map[string]string
}

// maxText bounds a manifest, in bytes. Calico's are about 250 KiB.
const maxText = 8 << 20

// Read reads Calico's manifest. The error is of type Errors and has everything that
// is wrong, each with its line.
func Read(text []byte) (*Manifest, error) {
	if len(text) > maxText {
		return nil, Errors{{0, "this is larger than 8 MiB, and no manifest of Calico's"}}
	}
	items, errs := parse(text)
	if err := errs.sorted(); err != nil {
		return nil, err
	}
	if err := foreign(items); err != nil {
		return nil, err
	}
	m := &Manifest{text: slices.Clone(text), items: items}
	m.check(&errs)
	if err := errs.sorted(); err != nil {
		return nil, err
	}
	slices.SortStableFunc(m.items, func(a, b item) int { return cmp.Compare(rank(a), rank(b)) })
	return m, nil
}

// Version is the tag of calico-node's image, such as v3.28.5.
func (m *Manifest) Version() string { return m.version }

// Images are those of all containers, sorted, each once.
func (m *Manifest) Images() []string { return slices.Clone(m.images) }

// NodeImages are those that every node needs: of calico-node and what comes before it.
func (m *Manifest) NodeImages() []string {
	var out []string
	spec := &m.node.Spec.Template.Spec
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		out = append(out, c.Image)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Namespace is where calico-node runs.
func (m *Manifest) Namespace() string { return m.node.Namespace }

// Typha says whether Felix reads through Typha.
func (m *Manifest) Typha() bool { return m.find("apps", "Deployment", Typha) != nil }

// MTU of pods and tunnels; 0 means that Calico finds it out.
func (m *Manifest) MTU() int {
	n, _ := strconv.Atoi(m.config[keyMTU])
	return n
}

// NetworkConfig is the CNI configuration with Calico's placeholders in it.
func (m *Manifest) NetworkConfig() string { return m.config[keyNetwork] }

// PodSpec is that of calico-node, as the manifest has it.
func (m *Manifest) PodSpec() *corev1.PodSpec { return m.node.Spec.Template.Spec.DeepCopy() }

// DaemonSet is calico-node's, as the manifest has it.
func (m *Manifest) DaemonSet() *unstructured.Unstructured {
	return m.find("apps", "DaemonSet", NodeName).DeepCopy()
}

// Objects are all objects as they were given, in the order in which they are
// applied: definitions, namespaces, accounts, configuration, rights, workloads.
func (m *Manifest) Objects() []*unstructured.Unstructured {
	out := make([]*unstructured.Unstructured, len(m.items))
	for i, it := range m.items {
		out[i] = it.DeepCopy()
	}
	return out
}

// SHA256 of the text, in hex: what Options.Manifest of a migration has.
func (m *Manifest) SHA256() string { return Hash(m.text) }

// Hash is the SHA-256 of a manifest's text, in hex.
func Hash(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// find gives the object of that name, or nil.
func (m *Manifest) find(group, kind, name string) *unstructured.Unstructured {
	if i := m.index(group, kind, name); i >= 0 {
		return m.items[i].Unstructured
	}
	return nil
}

func (m *Manifest) index(group, kind, name string) int {
	return slices.IndexFunc(m.items, func(it item) bool {
		k := it.key()
		return k.group == group && k.kind == kind && k.name == name
	})
}
