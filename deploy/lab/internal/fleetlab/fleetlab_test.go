package fleetlab

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func TestSplit(t *testing.T) {
	for ref, want := range map[string][2]string{
		"docker.io/rancher/fleet:v0.12.0": {"docker.io/rancher/fleet", "v0.12.0"},
		"registry:5000/fleet":             {"registry:5000/fleet", "latest"},
		"fleet":                           {"fleet", "latest"},
	} {
		if repo, tag := split(ref); repo != want[0] || tag != want[1] {
			t.Errorf("%s: %s and %s, want %v", ref, repo, tag, want)
		}
	}
}

func TestClusterHasTheLabelsThatPortcullisReads(t *testing.T) {
	c := Member{Name: "dev", ID: "c-m-dev00001", Labels: map[string]string{"env": "dev"}}.cluster()
	for k, want := range map[string]string{"env": "dev", "management.cattle.io/cluster-name": "c-m-dev00001"} {
		if got := c.GetLabels()[k]; got != want {
			t.Errorf("%s=%s, want %s", k, got, want)
		}
	}
}

func TestUnregistered(t *testing.T) {
	for _, c := range []struct{ name, status, want string }{
		{"new", `{}`, "has not reported"},
		{"import failed", `{conditions: [{type: Imported, status: "False", message: no route}]}`, "no route"},
		{"seen, not ready", `{namespace: x, agent: {lastSeen: "2026-01-01T00:00:00Z"}, conditions: [{type: Ready, status: "False", message: waiting}]}`, "not ready: waiting"},
		{"ready", `{namespace: x, agent: {lastSeen: "2026-01-01T00:00:00Z"}, conditions: [{type: Ready, status: "True"}]}`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var status map[string]any
			if err := yaml.Unmarshal([]byte(c.status), &status); err != nil {
				t.Fatal(err)
			}
			got := unregistered(&unstructured.Unstructured{Object: map[string]any{"status": status}})
			if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
