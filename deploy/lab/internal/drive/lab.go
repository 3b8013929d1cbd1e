package drive

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"portcullis.dev/portcullis/deploy/lab/internal/component"
	"portcullis.dev/portcullis/deploy/lab/internal/rancherd"
	"portcullis.dev/portcullis/deploy/lab/internal/substrate"
)

// Here are the options of a program that finds the others in bin: the lab is where the
// environment says, or where it usually is.
func Here(bin string) (Options, error) {
	bin, err := filepath.Abs(bin)
	return Options{BinDir: bin, LabDir: cmp.Or(os.Getenv("PORTCULLIS_LAB_DIR"), rancherd.DefaultStateDir)}, err
}

// IsUp tells whether a lab is up, of whatever topology.
func (o Options) IsUp() bool {
	_, err := os.Stat(filepath.Join(o.LabDir, "portcullis.yaml"))
	return err == nil
}

// Show calls the lab's own program with its output on standard error: what takes
// minutes is to be watched.
func (o Options) Show(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(o.BinDir, "lab"), args...)
	cmd.Env = append(os.Environ(), "PORTCULLIS_LAB_DIR="+o.LabDir)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("lab %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// Anew takes down whatever lab is up and makes one of a topology, and once more where
// that fails: a Fleet agent may wait for its registration for ever.
func (o Options) Anew(ctx context.Context, topology string) (err error) {
	for range 2 {
		if err = o.Show(ctx, "down"); err != nil {
			return err
		}
		if err = o.Show(ctx, "up", "--topology", topology); err == nil {
			return nil
		}
	}
	return err
}

// Kubeconfig is the path of an administrator's, of one of the lab's clusters.
func (o Options) Kubeconfig(cluster string) string { return substrate.Kubeconfig(o.LabDir, cluster) }

// InNode runs a shell's words in a node of the lab and gives what they print.
func (p *Portcullis) InNode(ctx context.Context, node, words string) (string, error) {
	return p.Lab(ctx, "exec", node, "--", "sh", "-c", words)
}

// CalicoManifest is the path of one of the manifests that come with Calico, such as
// calico-vxlan.yaml, of the version that the lab is built with.
func (o Options) CalicoManifest(ctx context.Context, file string) (string, error) {
	// The lab's own program is where the repository is.
	module := filepath.Join(o.BinDir, "..", "deploy", "lab", "components", "calico")
	dir, err := component.RunGo(ctx, module, "list", "-m", "-f", "{{.Dir}}", "github.com/projectcalico/calico")
	if err != nil {
		return "", err
	}
	path := filepath.Join(strings.TrimSpace(dir), "manifests", file)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("manifests of Calico: %w", err)
	}
	return path, nil
}
