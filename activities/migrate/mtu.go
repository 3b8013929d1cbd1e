package migrate

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/probes/migration/manifest"
)

const (
	// keyMTU is where Calico's manifest keeps the MTU of pods and tunnels. "0" lets
	// Calico find it out.
	keyMTU = "veth_mtu"
	// envMTU is the variable by which the manifest hands it to Felix. In the environment it beats
	// FelixConfiguration, also when it is "0": then Felix takes what is left of the smallest interface whose
	// name it knows, and of 1460 where it knows none, such as a bond (felix/config/config_params.go,
	// felix/dataplane/linux/int_dataplane.go).
	envMTU = "FELIX_VXLANMTU"
)

// fixMTU lets Calico have the planned MTU where its manifest leaves that open: the tunnels and
// the pods of a node that moves keep what they have. The objects are changed.
func fixMTU(objects []*unstructured.Unstructured, mtu int) error {
	for _, u := range objects {
		if u.GetKind() != "ConfigMap" || u.GetName() != manifest.ConfigName {
			continue
		}
		if given, ok, _ := unstructured.NestedString(u.Object, "data", keyMTU); ok && given == "0" {
			return unstructured.SetNestedField(u.Object, strconv.Itoa(mtu), "data", keyMTU)
		}
	}
	return nil
}

// checkMTU refuses a manifest that says otherwise than the plan.
func checkMTU(m *manifest.Manifest, mtu int) error {
	if has := m.MTU(); has != 0 && has != mtu {
		return errs.Invalid("Calico's manifest has the MTU %d (%s in %s), and the plan %d; make a plan with this manifest", has, keyMTU, manifest.ConfigName, mtu)
	}
	for _, c := range m.PodSpec().Containers {
		if c.Name != manifest.NodeName {
			continue
		}
		for _, e := range c.Env {
			if e.Name == envMTU && !fromConfig(e) && e.Value != strconv.Itoa(mtu) {
				return errs.Invalid("%s is %q in Calico's manifest, and beats the plan's MTU of %d; take it from %s in %s, as Calico's published manifest does",
					envMTU, e.Value, mtu, keyMTU, manifest.ConfigName)
			}
		}
	}
	return nil
}

func fromConfig(e corev1.EnvVar) bool {
	ref := e.ValueFrom
	return ref != nil && ref.ConfigMapKeyRef != nil && ref.ConfigMapKeyRef.Name == manifest.ConfigName && ref.ConfigMapKeyRef.Key == keyMTU
}
