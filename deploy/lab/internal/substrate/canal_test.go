package substrate

import (
	"strings"
	"testing"

	"portcullis.dev/portcullis/deploy/lab/internal/image"
)

const canalSource = `kind: ConfigMap
data:
  net-conf.json: |
    {
      "Network": "10.244.0.0/16",
      "Backend": {
        "Type": "vxlan"
      }
    }
---
kind: DaemonSet
spec:
  # This comment stays.
  image: docker.io/calico/node:v3.28.5
  image: docker.io/flannel/flannel:v0.24.3
`

func TestCanalManifest(t *testing.T) {
	out, err := canalManifest([]byte(canalSource), "10.45.0.0/16")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.NewReplacer("10.244.0.0/16", "10.45.0.0/16", "docker.io/flannel/flannel:v0.24.3", image.Flannel).Replace(canalSource)
	if string(out) != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
}

func TestCanalManifestRefuses(t *testing.T) {
	for want, in := range map[string]string{
		"0 times, want once":                  strings.ReplaceAll(canalSource, "10.244", "10.245"),
		"2 times, want once":                  canalSource + canalSource,
		"flannel's image is in it 0 times, w": strings.ReplaceAll(canalSource, "flannel/flannel", "somebody/flannel"),
	} {
		if _, err := canalManifest([]byte(in), "10.45.0.0/16"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
