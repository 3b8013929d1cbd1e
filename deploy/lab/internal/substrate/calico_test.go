package substrate

import (
	"strings"
	"testing"
)

const calicoSource = `
# Source: calico/templates/calico-kube-controllers.yaml
apiVersion: v1
kind: ServiceAccount
metadata: {name: calico-kube-controllers}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: calico-config}
---
kind: DaemonSet
apiVersion: apps/v1
metadata: {name: calico-node}
spec:
  template:
    spec:
      containers:
      - name: calico-node
        image: docker.io/calico/node:v3.28.5
        env:
        - {name: DATASTORE_TYPE, value: kubernetes}
        - {name: CALICO_IPV4POOL_VXLAN, value: CrossSubnet}
        livenessProbe: {exec: {command: [/bin/calico-node, -felix-live]}, periodSeconds: 10}
        readinessProbe: {exec: {command: [/bin/calico-node, -felix-ready]}, periodSeconds: 10}
---
kind: Deployment
metadata: {name: calico-kube-controllers}
`

func TestCalicoManifest(t *testing.T) {
	out, err := calicoManifest([]byte(calicoSource), "10.45.0.0/16")
	if err != nil {
		t.Fatal(err)
	}
	got := string(out)
	for _, want := range []string{
		"name: calico-config", "value: kubernetes", "value: 10.45.0.0/16", "value: Always", "value: kubernetes-internal-ip",
		"path: /liveness", "path: /readiness", "image: docker.io/calico/node:v3.28.5",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	for _, no := range []string{"kube-controllers", "CrossSubnet", "exec:"} {
		if strings.Contains(got, no) {
			t.Errorf("%q is left in\n%s", no, got)
		}
	}
	if n := strings.Count(got, "CALICO_IPV4POOL_VXLAN"); n != 1 {
		t.Errorf("the pool's mode is set %d times", n)
	}
}

// A later Calico may look different; then `lab up` must not go on with half of the changes.
func TestCalicoManifestRefuses(t *testing.T) {
	for want, in := range map[string]string{
		"no DaemonSet":             strings.ReplaceAll(calicoSource, "DaemonSet", "Job"),
		"no container calico-node": strings.ReplaceAll(calicoSource, "- name: calico-node", "- name: node"),
		"no livenessProbe":         strings.ReplaceAll(calicoSource, "livenessProbe", "startupProbe"),
	} {
		if _, err := calicoManifest([]byte(in), "10.45.0.0/16"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
