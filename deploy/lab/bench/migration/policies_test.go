package migration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"portcullis.dev/portcullis/deploy/lab/policies"
)

// policies applies the sample repository's first commit to the cluster, as Fleet
// would: a deny at the end of all, and what each application may.
func (s *stage) policies(b *testing.B) {
	b.Helper()
	text, err := s.Kubectl(b.Context(), cluster, "-n", "kube-system", "get", "configmap", "canal-config", "-o", `jsonpath={.data.net-conf\.json}`)
	must(b, err)
	var net struct{ Network string }
	must(b, json.Unmarshal([]byte(text), &net))
	tree, err := policies.Tree(policies.First)
	must(b, err)
	dir := b.TempDir()
	for name, content := range tree {
		file := filepath.Join(dir, filepath.FromSlash(name))
		must(b, os.MkdirAll(filepath.Dir(file), 0o755))
		must(b, os.WriteFile(file, content, 0o644))
	}
	for _, bundle := range []string{"infrastructure", "applications"} {
		helm := exec.CommandContext(b.Context(), filepath.Join(s.LabDir, "bin", "helm"), "template", "network-policies-"+bundle,
			filepath.Join(dir, "bundles", bundle), "--set", "clusterCIDR="+net.Network, "--set", "allowedExternalRanges={10.100.0.0/16}")
		var complaint bytes.Buffer
		helm.Stderr = &complaint
		manifest, err := helm.Output()
		if err != nil {
			b.Fatalf("helm template %s: %v: %s", bundle, err, &complaint)
		}
		s.apply(b, bundle+".yaml", string(manifest))
	}
}

// apply applies a manifest to the cluster.
func (s *stage) apply(b *testing.B, name, manifest string) {
	b.Helper()
	file := filepath.Join(b.TempDir(), name)
	must(b, os.WriteFile(file, []byte(manifest), 0o600))
	_, err := s.Kubectl(b.Context(), cluster, "apply", "-f", file)
	must(b, err)
}

// residue is what flannel and Canal have left on the nodes, a line for each thing.
func (s *stage) residue(b *testing.B) (left []string) {
	b.Helper()
	const look = `ls /etc/cni/net.d | grep -E 'canal|flannel|dummy'
for save in iptables-nft-save iptables-legacy-save; do $save 2>/dev/null | grep -E '^-A.*FLANNEL|^:FLANNEL|--comment "?flanneld'; done
ip -o link show flannel.1 2>/dev/null | cut -c1-60
ip route show table all | grep flannel
test -e /run/flannel/subnet.env && echo /run/flannel/subnet.env
true`
	for _, node := range nodes {
		text, err := s.InNode(b.Context(), node, look)
		must(b, err)
		for line := range bytes.Lines([]byte(text)) {
			left = append(left, fmt.Sprintf("%s: %s", node, bytes.TrimSpace(line)))
		}
	}
	return left
}
