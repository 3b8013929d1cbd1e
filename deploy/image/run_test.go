package image

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// mostSize is what a registry may have to send, in bytes.
const mostSize = 60e6

// bundleOf makes a folder from which runc starts the image as Kubernetes would with
// a restricted pod: not as root, without a capability, with a root that is read-only.
func bundleOf(t *testing.T, o Options, args ...string) string {
	t.Helper()
	img := build(t, o)
	size, err := Size(img)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.1f MB compressed", float64(size)/1e6)
	if size > mostSize {
		t.Errorf("the image has %d bytes compressed, more than %d", size, int(mostSize))
	}
	dir := t.TempDir()
	// runc looks into the folder as the container's user.
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	root := filepath.Join(dir, "rootfs")
	flat := mutate.Extract(img)
	defer flat.Close()
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	unpack(t, tar.NewReader(flat), root)
	if err := os.Mkdir(filepath.Join(root, "proc"), 0o755); err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	var uid, gid int
	if _, err := fmt.Sscanf(c.Config.User, "%d:%d", &uid, &gid); err != nil {
		t.Fatalf("the user %q is not in numbers: %v", c.Config.User, err)
	}
	spec := map[string]any{
		"ociVersion": "1.0.2",
		"process": map[string]any{
			"user": map[string]any{"uid": uid, "gid": gid}, "cwd": c.Config.WorkingDir, "env": c.Config.Env,
			"args": append(c.Config.Entrypoint, args...), "noNewPrivileges": true, "capabilities": map[string]any{},
		},
		"root":   map[string]any{"path": "rootfs", "readonly": true},
		"mounts": []any{map[string]any{"destination": "/proc", "type": "proc", "source": "proc"}},
		"linux":  map[string]any{"namespaces": []any{map[string]any{"type": "pid"}, map[string]any{"type": "mount"}, map[string]any{"type": "ipc"}, map[string]any{"type": "network"}}},
	}
	b, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// run starts a bundle, and returns what was said on both outputs.
func run(t *testing.T, bundle string) (string, error) {
	t.Helper()
	id := fmt.Sprintf("portcullis-image-%d", os.Getpid())
	cmd := exec.CommandContext(t.Context(), "runc", "--root", filepath.Join(bundle, "runc"), "run", "--bundle", bundle, id)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// built is the program of this repository, as the image has it.
func built(t testing.TB, architecture string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "portcullis")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -X portcullis.dev/portcullis/cmd/internal/cli.version=v1.2.3", "-o", program, "./cmd/portcullis")
	build.Dir = filepath.Join("..", "..")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOARCH="+architecture)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return program
}

// BenchmarkSize measures what a registry sends of the image, for each architecture.
func BenchmarkSize(b *testing.B) {
	for _, architecture := range slices.Sorted(maps.Keys(machines)) {
		b.Run(architecture, func(b *testing.B) {
			img, err := Build(Options{Program: built(b, architecture), Architecture: architecture, Version: "v1.2.3"})
			if err != nil {
				b.Fatal(err)
			}
			size, err := Size(img)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(size)/1e6, "MB-compressed")
			b.ReportMetric(0, "ns/op")
			if size > mostSize {
				b.Errorf("the image has %d bytes compressed, more than %d", size, int(mostSize))
			}
		})
	}
}

// The program of this repository, in the image, started from it.
func TestTheImageRuns(t *testing.T) {
	if testing.Short() {
		t.Skip("left out by -short: builds the program")
	}
	o := Options{Program: built(t, runtime.GOARCH), Architecture: runtime.GOARCH, Version: "v1.2.3"}
	bundle := bundleOf(t, o, "version")
	if _, err := exec.LookPath("runc"); err != nil || os.Geteuid() != 0 {
		t.Skip("runc is not installed here, or this is not root: the image is not started")
	}
	out, err := run(t, bundle)
	if err != nil || !strings.HasPrefix(out, "portcullis v1.2.3, ") {
		t.Fatalf("%v: %s", err, out)
	}
	// There is nothing else in it that could be run.
	config := filepath.Join(bundle, "config.json")
	b, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte(strings.Replace(string(b), `"portcullis","version"`, `"sh","-c","id"`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := run(t, bundle); err == nil || !strings.Contains(out, "not found") {
		t.Errorf("a shell runs: %v: %s", err, out)
	}
}
