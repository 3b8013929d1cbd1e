package migrate

import (
	"os"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/probes/migration/manifest"
)

// with is Calico's manifest with a text of it replaced.
func with(t testing.TB, from, to string) *manifest.Manifest {
	t.Helper()
	text, err := os.ReadFile("../../probes/migration/manifest/testdata/calico.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), from) {
		t.Fatalf("the manifest has no %q", from)
	}
	m, err := manifest.Read([]byte(strings.Replace(string(text), from, to, 1)))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

const fromConfigMap = "valueFrom: {configMapKeyRef: {name: calico-config, key: veth_mtu}}"

func TestCheckMTU(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, from, to, says string
	}{
		{"left open", `veth_mtu: "0"`, `veth_mtu: "0"`, ""},
		{"the plan's", `veth_mtu: "0"`, `veth_mtu: "1450"`, ""},
		{"another", `veth_mtu: "0"`, `veth_mtu: "1400"`, "Calico's manifest has the MTU 1400 (veth_mtu in calico-config), and the plan 1450"},
		{"the plan's in the environment", fromConfigMap, `value: "1450"`, ""},
		{"another in the environment", fromConfigMap, `value: "1400"`, `FELIX_VXLANMTU is "1400"`},
		{"found by Felix", fromConfigMap, `value: "0"`, `FELIX_VXLANMTU is "0"`},
		{"of another key", fromConfigMap, `valueFrom: {configMapKeyRef: {name: calico-config, key: typha_service_name}}`, `FELIX_VXLANMTU is ""`},
	} {
		err := checkMTU(with(t, tc.from, tc.to), podMTU)
		if (err != nil) != (tc.says != "") || err != nil && (errs.TypeOf(err) != errs.TypeInvalid || !strings.Contains(err.Error(), tc.says)) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestFixMTU(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{"0": "1450", "1400": "1400"} {
		objects := with(t, `veth_mtu: "0"`, `veth_mtu: "`+given+`"`).Objects()
		for range 2 {
			if err := fixMTU(objects, podMTU); err != nil {
				t.Fatal(err)
			}
		}
		found := false
		for _, u := range objects {
			if got, ok, _ := unstructured.NestedString(u.Object, "data", keyMTU); ok {
				found = true
				if got != want {
					t.Errorf("%s becomes %s", given, got)
				}
			}
		}
		if !found {
			t.Error("it is gone")
		}
	}
}
