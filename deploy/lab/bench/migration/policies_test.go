package migration

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"portcullis.dev/portcullis/deploy/lab/policies"
)

// policies applies the sample repository's first commit to the cluster, as Fleet
// would: a deny at the end of all, and what each application may.
func (s *stage) policies(b *testing.B) {
	b.Helper()
	text := s.MustKubectl(b, cluster, "-n", "kube-system", "get", "configmap", "canal-config", "-o", `jsonpath={.data.net-conf\.json}`)
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
	s.MustKubectl(b, cluster, "apply", "-f", file)
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
		for line := range strings.Lines(s.MustInNode(b, node, look)) {
			left = append(left, node+": "+strings.TrimSpace(line))
		}
	}
	return left
}
