package manifest

import (
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Paths in a workload.
func podPath(path ...any) []any { return append([]any{"spec", "template", "spec"}, path...) }

// release is the tag of a released image; vendors append to it.
var release = regexp.MustCompile(`^v\d+\.\d+\.\d+([-+._][A-Za-z0-9._-]+)?$`)

// Tag is the part of an image behind the colon, or "".
func Tag(image string) string {
	image, _, _ = strings.Cut(image, "@")
	_, after, _ := strings.Cut(image[strings.LastIndex(image, "/")+1:], ":")
	return after
}

// containers notes the images of a pod, and refuses those whose version is not told.
func (m *Manifest) containers(it item, spec *corev1.PodSpec, errs *Errors) {
	each := func(list string, containers []corev1.Container) {
		for i, c := range containers {
			m.images = append(m.images, c.Image)
			if t := Tag(c.Image); !release.MatchString(t) {
				errs.add(it.line(podPath(list, i, "image")...), "container %s: the image %q has no tag of a release, such as v3.28.5", c.Name, c.Image)
			}
		}
	}
	each("initContainers", spec.InitContainers)
	each("containers", spec.Containers)
}

// Directories on the node.
const (
	addressDir = "/var/lib/cni/networks"
	upgrade    = "upgrade-ipam"
	install    = "install-cni"
)

// nodeSet checks the DaemonSet calico-node.
func (m *Manifest) nodeSet(it item, errs *Errors) {
	if !typed(it, &m.node, errs) {
		return
	}
	spec := &m.node.Spec.Template.Spec
	m.containers(it, spec, errs)
	if !spec.HostNetwork {
		errs.add(it.line(podPath()...), "%s does not use the network of the host", it)
	}
	if it.GetNamespace() != metav1.NamespaceSystem {
		errs.add(it.line("metadata", "namespace"), "%s: Calico is installed into %s, where its published manifest has it", it, metav1.NamespaceSystem)
	}
	if config := m.find("", "ConfigMap", ConfigName); config != nil && config.GetNamespace() != it.GetNamespace() {
		errs.add(it.line("metadata", "namespace"), "%s is not in the namespace of ConfigMap %s (%s)", it, ConfigName, config.GetNamespace())
	}
	m.installers(it, spec, errs)
	i := slices.IndexFunc(spec.Containers, func(c corev1.Container) bool { return c.Name == NodeName })
	if i < 0 {
		errs.add(it.line(podPath("containers")...), "%s has no container %s", it, NodeName)
		return
	}
	c := &spec.Containers[i]
	m.version = Tag(c.Image)
	m.environment(it, i, c, errs)
	for name, probe := range map[string]*corev1.Probe{"livenessProbe": c.LivenessProbe, "readinessProbe": c.ReadinessProbe} {
		if probe != nil && probe.Exec != nil && slices.ContainsFunc(probe.Exec.Command, func(arg string) bool { return strings.HasPrefix(arg, "-bird") }) {
			errs.add(it.line(podPath("containers", i, name)...), "the %s asks for BIRD, which does not run with VXLAN; give Calico's calico-vxlan.yaml", name)
		}
	}
}

// installers are what takes the pods' addresses over and installs the CNI plugin,
// in this order.
func (m *Manifest) installers(it item, spec *corev1.PodSpec, errs *Errors) {
	at := func(name string) int {
		return slices.IndexFunc(spec.InitContainers, func(c corev1.Container) bool { return c.Name == name })
	}
	first, second := at(upgrade), at(install)
	line := it.line(podPath("initContainers")...)
	switch {
	case first < 0:
		errs.add(line, "%s has no init container %s, which takes the pods' addresses over from host-local", it, upgrade)
		return
	case second < 0:
		errs.add(line, "%s has no init container %s", it, install)
		return
	case second < first:
		errs.add(line, "%s must stand before %s", upgrade, install)
	}
	c := spec.InitContainers[first]
	line = it.line(podPath("initContainers", first)...)
	if !slices.Contains(slices.Concat(c.Command, c.Args), "-upgrade") {
		errs.add(line, "%s does not run calico-ipam -upgrade", upgrade)
	}
	if !mounts(spec, c, addressDir) {
		errs.add(line, "%s does not see the node's %s, where host-local keeps the pods' addresses", upgrade, addressDir)
	}
}

// mounts says whether a container sees a directory of the node at its own place.
func mounts(spec *corev1.PodSpec, c corev1.Container, dir string) bool {
	return slices.ContainsFunc(c.VolumeMounts, func(mount corev1.VolumeMount) bool {
		return mount.MountPath == dir && mount.SubPath == "" && slices.ContainsFunc(spec.Volumes, func(v corev1.Volume) bool {
			return v.Name == mount.Name && v.HostPath != nil && strings.TrimSuffix(v.HostPath.Path, "/") == dir
		})
	})
}

// fights has the settings of calico-node that a migration cannot live with: given
// a value, each says why, or "".
var fights = map[string]func(value string) string{
	// In the environment these beat FelixConfiguration, where the migration sets them.
	"FELIX_VXLANVNI":     beats,
	"FELIX_VXLANPORT":    beats,
	"FELIX_VXLANENABLED": beats,
	"CALICO_IPV4POOL_IPIP": func(v string) string {
		if off(v) {
			return ""
		}
		return "the pool is VXLAN's, and IP-in-IP has no part in it; set it to \"Never\""
	},
	"FELIX_IPINIPENABLED":    only("", "false", "IP-in-IP has no part in a migration"),
	"FELIX_BPFENABLED":       only("", "false", "a migration keeps to iptables; turn eBPF on when it has ended"),
	"FELIX_WIREGUARDENABLED": only("", "false", "turn WireGuard on when the migration has ended"),
	"USE_POD_CIDR":           only("", "false", "addresses come from Calico's IPAM"),
	"DATASTORE_TYPE":         only("kubernetes", "kubernetes", "Calico keeps its data in Kubernetes"),
	"IP6":                    only("", "none", "migrations are for IPv4 only"),
	"FELIX_IPV6SUPPORT":      only("", "false", "migrations are for IPv4 only"),
	"CALICO_IPV6POOL_CIDR":   only("", "", "migrations are for IPv4 only"),
	"CALICO_NETWORKING_BACKEND": only("vxlan", "vxlan",
		"a migration from Canal brings up VXLAN"),
}

func beats(string) string {
	return "in the environment it beats FelixConfiguration, in which the migration sets it; take it out of the manifest"
}

func only(a, b, why string) func(string) string {
	return func(v string) string {
		if v = strings.ToLower(v); v == a || v == b {
			return ""
		}
		return why
	}
}

func off(v string) bool { return slices.Contains([]string{"", "never", "off"}, strings.ToLower(v)) }

// environment looks at the settings of the container calico-node.
func (m *Manifest) environment(it item, container int, c *corev1.Container, errs *Errors) {
	stores := false
	for i, e := range c.Env {
		value, told := m.value(e)
		stores = stores || e.Name == "DATASTORE_TYPE"
		why, listed := fights[e.Name]
		if !listed {
			continue
		}
		line := it.line(podPath("containers", container, "env", i)...)
		if !told {
			errs.add(line, "%s: its value is not in the manifest", e.Name)
			continue
		}
		if reason := why(value); reason != "" {
			errs.add(line, "%s is %q: %s", e.Name, value, reason)
		}
	}
	if !stores {
		errs.add(it.line(podPath("containers", container, "env")...), "DATASTORE_TYPE is not set; Calico would look for etcd: set it to \"kubernetes\"")
	}
}

// value of a setting that the manifest itself has, in place or in calico-config.
func (m *Manifest) value(e corev1.EnvVar) (value string, told bool) {
	if e.ValueFrom == nil {
		return e.Value, true
	}
	ref := e.ValueFrom.ConfigMapKeyRef
	if ref == nil || ref.Name != ConfigName {
		return "", false
	}
	value, told = m.config[ref.Key]
	return value, told
}
