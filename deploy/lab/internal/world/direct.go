package world

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"portcullis.dev/portcullis/deploy/lab/policies"
)

// bundles of the sample repository, in the order in which they are applied.
var bundles = []string{"infrastructure", "applications"}

// policies applies to a cluster what Fleet would bring it from the sample
// repository's first commit. Namespaces that are not there yet are waited for.
func (w *world) policies(ctx context.Context, c Cluster) error {
	tree, err := policies.Tree(policies.First)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "plab-policies-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for name, content := range tree {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, content, 0o644); err != nil {
			return err
		}
	}
	values, err := policyValues(c)
	if err != nil {
		return err
	}
	for _, b := range bundles {
		manifest, err := renderChart(ctx, filepath.Join(w.BinDir, "helm"), filepath.Join(dir, "bundles", b), values)
		if err != nil {
			return err
		}
		if err := w.clients[c.Name].ApplyYAML(ctx, manifest); err != nil {
			return err
		}
	}
	return nil
}

// policyValues are what an environment's overlay says in the repository.
func policyValues(c Cluster) ([]byte, error) {
	return yaml.Marshal(map[string]any{
		"clusterCIDR":           c.PodCIDR,
		"allowedExternalRanges": []string{"10.100.0.0/16", "192.168.50.0/24"},
	})
}

// renderWithin bounds the rendering of one chart.
const renderWithin = time.Minute

func renderChart(ctx context.Context, helm, chart string, values []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, renderWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, helm, "template", "network-policies-"+filepath.Base(chart), chart, "--values", "-")
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(values), &stdout, &stderr
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("helm template %s: %w: %s", filepath.Base(chart), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.Bytes(), nil
}
