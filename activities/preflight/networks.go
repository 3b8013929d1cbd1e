package preflight

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portcullis.dev/portcullis/probes/preflight"
)

// others are DaemonSets of pod networks that cannot be moved, by name.
var others = []string{
	"cilium", "weave-net", "antrea-agent", "kube-router", "ovnkube-node", "kindnet", "aws-node", "kube-ovn-cni", "romana-agent", "contiv-netplugin",
}

// networks finds the DaemonSets of pod networks, and flannel's configuration.
func (r *run) networks(ctx context.Context, all []appsv1.DaemonSet, err error, nodes []corev1.Node) (preflight.Fact[[]preflight.CNISet], preflight.Fact[preflight.FlannelConfig]) {
	if err != nil {
		return fact(r, "listing DaemonSets", []preflight.CNISet(nil), err), fact(r, "listing DaemonSets", preflight.FlannelConfig{}, err)
	}
	charts, chartErr := r.helmCharts(ctx)
	var sets []preflight.CNISet
	var config preflight.FlannelConfig
	var configErr error
	for i := range all {
		d := &all[i]
		flavour, ok := flavourOf(d)
		if !ok {
			continue
		}
		if chartErr != nil && d.Annotations[helmRelease] != "" {
			return fact(r, "listing HelmCharts", sets, chartErr), preflight.Unknown[preflight.FlannelConfig]("the pod network is not known")
		}
		sets = append(sets, setOf(d, flavour, charts))
		if !config.Present && flavour != preflight.FlavourCalico && flavour != preflight.FlavourOther {
			config, configErr = r.flannelConfig(ctx, d)
		}
	}
	if len(sets) == 0 {
		// What a DaemonSet left on the nodes when it went says nothing any more.
		config = annotated(nodes)
	}
	slices.SortFunc(sets, func(a, b preflight.CNISet) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return preflight.Known(sets), fact(r, "reading flannel's configuration", config, configErr)
}

const (
	helmRelease  = "meta.helm.sh/release-name"
	addonMode    = "addonmanager.kubernetes.io/mode"
	wranglerKind = "objectset.rio.cattle.io/owner-gvk"
)

// helmCharts are the names of K3s's and RKE2's HelmChart objects.
func (r *run) helmCharts(ctx context.Context) (map[string]bool, error) {
	var l listOf[struct{}]
	if _, err := r.get(ctx, "/apis/helm.cattle.io/v1/helmcharts", &l); err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for _, c := range l.Items {
		out[c.Metadata.Name] = true
	}
	return out, nil
}

// flavourOf tells what network a DaemonSet brings, if any. Those for Windows are left out.
func flavourOf(d *appsv1.DaemonSet) (preflight.Flavour, bool) {
	if d.Spec.Template.Spec.NodeSelector[corev1.LabelOSStable] == "windows" {
		return "", false
	}
	felix, flannel := false, false
	for _, c := range d.Spec.Template.Spec.Containers {
		felix = felix || c.Name == "calico-node"
		flannel = flannel || c.Name == "kube-flannel"
	}
	switch {
	case felix && flannel && strings.HasPrefix(d.Name, "rke2-"):
		return preflight.FlavourRKE2Canal, true
	case felix && flannel:
		return preflight.FlavourCanal, true
	case felix:
		return preflight.FlavourCalico, true
	case flannel:
		return preflight.FlavourFlannel, true
	}
	return preflight.FlavourOther, slices.ContainsFunc(others, func(name string) bool { return d.Name == name || d.Name == "rke2-"+name })
}

var imageVersion = regexp.MustCompile(`:(v\d+\.\d+\.\d+)`)

func setOf(d *appsv1.DaemonSet, flavour preflight.Flavour, charts map[string]bool) preflight.CNISet {
	out := preflight.CNISet{
		Namespace: d.Namespace, Name: d.Name, Flavour: flavour, Addon: addonOf(d, charts), Selector: map[string]string{},
		Desired: int(d.Status.DesiredNumberScheduled), Ready: int(d.Status.NumberReady),
	}
	for k, v := range d.Spec.Template.Spec.NodeSelector {
		if k != corev1.LabelOSStable {
			out.Selector[k] = v
		}
	}
	for _, c := range d.Spec.Template.Spec.Containers {
		out.Images = append(out.Images, c.Image)
		if m := imageVersion.FindStringSubmatch(c.Image); m != nil && c.Name == "calico-node" {
			out.Calico = m[1]
		}
	}
	return out
}

// addonOf says who would put a DaemonSet back.
func addonOf(d *appsv1.DaemonSet, charts map[string]bool) preflight.Addon {
	release := d.Annotations[helmRelease]
	owner := metav1.GetControllerOf(d)
	switch {
	case d.Labels[addonMode] != "":
		return preflight.AddonManager
	case strings.Contains(d.Annotations[wranglerKind], "Kind=Addon"):
		return preflight.AddonK3s
	case release != "" && (charts[release] || strings.HasPrefix(release, "rke2-")):
		return preflight.AddonHelmChart
	case release != "":
		return preflight.AddonHelm
	case owner != nil && strings.HasPrefix(owner.APIVersion, "operator.tigera.io/"):
		return preflight.AddonOperator
	}
	return preflight.AddonNone
}

// flannelConfig reads net-conf.json from the ConfigMaps that the DaemonSet mounts.
func (r *run) flannelConfig(ctx context.Context, d *appsv1.DaemonSet) (preflight.FlannelConfig, error) {
	for _, v := range d.Spec.Template.Spec.Volumes {
		if v.ConfigMap == nil {
			continue
		}
		call, cancel := context.WithTimeout(ctx, callTimeout)
		m, err := r.conn.kube.CoreV1().ConfigMaps(d.Namespace).Get(call, v.ConfigMap.Name, metav1.GetOptions{})
		cancel()
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return preflight.FlannelConfig{}, err
		}
		if text, ok := m.Data["net-conf.json"]; ok {
			return parseNetConf(text, "ConfigMap "+m.Namespace+"/"+m.Name)
		}
	}
	return preflight.FlannelConfig{}, errors.New("no ConfigMap of the DaemonSet has a net-conf.json")
}

// flannelPort and flannelVNI are flannel's defaults on Linux.
const (
	flannelPort = 8472
	flannelVNI  = 1
)

func parseNetConf(text, source string) (preflight.FlannelConfig, error) {
	var c struct {
		Network     string
		IPv6Network string
		EnableIPv6  bool
		Backend     struct {
			Type          string
			VNI           int
			Port          int
			DirectRouting bool
		}
	}
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return preflight.FlannelConfig{}, fmt.Errorf("%s has a net-conf.json that cannot be read", source)
	}
	out := preflight.FlannelConfig{
		Present: true, Source: source, Network: c.Network, Backend: strings.ToLower(c.Backend.Type),
		VNI: cmp.Or(c.Backend.VNI, flannelVNI), Port: cmp.Or(c.Backend.Port, flannelPort), DirectRouting: c.Backend.DirectRouting,
	}
	if c.EnableIPv6 || c.IPv6Network != "" {
		out.IPv6 = cmp.Or(c.IPv6Network, "enabled")
	}
	return out, nil
}

// annotated is what the nodes' annotations tell of a flannel that has no
// DaemonSet, such as K3s's own.
func annotated(nodes []corev1.Node) preflight.FlannelConfig {
	for i := range nodes {
		if backend := nodes[i].Annotations[flannelPrefix+"backend-type"]; backend != "" {
			return preflight.FlannelConfig{Present: true, Source: "annotations of node " + nodes[i].Name, Backend: backend, VNI: flannelVNI, Port: flannelPort}
		}
	}
	return preflight.FlannelConfig{}
}
