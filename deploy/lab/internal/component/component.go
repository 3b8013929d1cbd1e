// Package component builds the programs that the lab runs, each from a module
// of its own, and keeps them in a cache under the hash of what they were built from.
package component

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"syscall"
)

// Versions of what the lab runs.
const (
	KubernetesVersion = "v1.30.4"
	CalicoVersion     = "v3.28.5"
	FlannelVersion    = "v0.28.4"
	FleetVersion      = "v0.12.0"
	CoreDNSVersion    = "v1.14.7"
)

const (
	calicoModule = "github.com/projectcalico/calico"
	fleetModule  = "github.com/rancher/fleet"
)

// Component is one module of deploy/lab/components with the programs that it gives.
type Component struct {
	// Name is the module's folder.
	Name string
	// Packages are built; Programs are what they are called.
	Packages, Programs []string
	// Output is the name of the only program, when it is not its package's.
	Output  string
	LDFlags string
	// Assets are folders of a module that are kept beside the programs, by name.
	Assets []Asset
}

// Asset is a folder of a module's source.
type Asset struct{ Name, Module, Path string }

// All components in the order in which they are built.
var All = []Component{
	{Name: "kubernetes", Packages: []string{"."}, Programs: []string{"kubernetes"}, Output: "kubernetes", LDFlags: kubernetesVersionFlags()},
	{Name: "etcd", Packages: []string{"go.etcd.io/etcd/server/v3"}, Programs: []string{"etcd"}, Output: "etcd"},
	{
		Name: "calico",
		Packages: []string{
			calicoModule + "/node/cmd/calico-node", calicoModule + "/cni-plugin/cmd/calico", calicoModule + "/cni-plugin/cmd/install",
			calicoModule + "/kube-controllers/cmd/kube-controllers", calicoModule + "/kube-controllers/cmd/check-status",
		},
		Programs: []string{"calico-node", "calico", "install", "kube-controllers", "check-status"},
		Assets:   []Asset{{"manifests", calicoModule, "manifests"}, {"filesystem", calicoModule, "node/filesystem"}},
	},
	{Name: "flannel", Packages: []string{"."}, Programs: []string{"flanneld"}, Output: "flanneld"},
	{Name: "coredns", Packages: []string{"."}, Programs: []string{"coredns"}, Output: "coredns"},
	{
		Name:     "fleet",
		Packages: []string{fleetModule + "/cmd/fleetagent", fleetModule + "/cmd/fleetcli", fleetModule + "/cmd/fleetcontroller", "helm.sh/helm/v3/cmd/helm"},
		Programs: []string{"fleetagent", "fleetcli", "fleetcontroller", "helm"},
		Assets:   []Asset{{"charts", fleetModule, "charts"}, {"package", fleetModule, "package"}},
	},
}

// kubernetesVersionFlags set what the servers report, which is v0.0.0 otherwise.
func kubernetesVersionFlags() string {
	v := strings.Split(strings.TrimPrefix(KubernetesVersion, "v"), ".")
	const p = "k8s.io/component-base/version."
	set := [][2]string{
		{p + "gitVersion", KubernetesVersion}, {p + "gitMajor", v[0]}, {p + "gitMinor", v[1]},
		{p + "gitCommit", "0"}, {p + "gitTreeState", "clean"}, {"k8s.io/client-go/pkg/version.gitVersion", KubernetesVersion},
	}
	var b strings.Builder
	for _, kv := range set {
		fmt.Fprintf(&b, " -X %s=%s", kv[0], kv[1])
	}
	return b.String()
}

// Builder builds components from Source (deploy/lab/components) into Cache.
type Builder struct {
	Source, Cache string
	// Log prints one line of progress.
	Log func(format string, args ...any)

	goVersion string
}

// Ensure builds what the cache does not hold and returns each component's folder.
func (b *Builder) Ensure(ctx context.Context) (map[string]string, error) {
	out := map[string]string{}
	for _, c := range All {
		dir, err := b.ensure(ctx, c)
		if err != nil {
			return nil, fmt.Errorf("component %s: %w", c.Name, err)
		}
		out[c.Name] = dir
	}
	return out, nil
}

func (b *Builder) ensure(ctx context.Context, c Component) (string, error) {
	key, err := b.key(ctx, c)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(b.Cache, "components", c.Name+"-"+key)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	b.Log("building %s (%s): minutes the first time", c.Name, strings.Join(c.Programs, ", "))
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".new-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", err
	}
	target := tmp + "/"
	if c.Output != "" {
		target = filepath.Join(tmp, c.Output)
	}
	args := append(append([]string{"build"}, c.flags()...), "-o", target)
	if _, err := b.run(ctx, c, append(args, c.Packages...)...); err != nil {
		return "", err
	}
	if err := b.assets(ctx, c, tmp); err != nil {
		return "", err
	}
	if err := os.Rename(tmp, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return dir, b.forgetOthers(c, dir)
}

func (c Component) flags() []string {
	return []string{"-trimpath", "-buildvcs=false", "-ldflags", "-s -w" + c.LDFlags}
}

func (b *Builder) assets(ctx context.Context, c Component, dir string) error {
	for _, a := range c.Assets {
		out, err := b.run(ctx, c, "list", "-m", "-f", "{{.Dir}}", a.Module)
		if err != nil {
			return err
		}
		src := filepath.Join(strings.TrimSpace(out), filepath.FromSlash(a.Path))
		if err := copyTree(src, filepath.Join(dir, a.Name)); err != nil {
			return fmt.Errorf("copy %s: %w", a.Path, err)
		}
	}
	return nil
}

// forgetOthers takes older builds of a component away; each takes up to 300 MB.
func (b *Builder) forgetOthers(c Component, keep string) error {
	olds, err := filepath.Glob(filepath.Join(b.Cache, "components", c.Name+"-*"))
	if err != nil {
		return err
	}
	for _, o := range olds {
		if o != keep {
			// A lab that is up may run from it: what is open stays until it is closed.
			if err := os.RemoveAll(o); err != nil {
				return err
			}
		}
	}
	return nil
}

// key is the hash of everything that decides what the build gives.
func (b *Builder) key(ctx context.Context, c Component) (string, error) {
	if b.goVersion == "" {
		v, err := b.run(ctx, c, "version")
		if err != nil {
			return "", err
		}
		b.goVersion = v
	}
	h := sha256.New()
	fmt.Fprintln(h, b.goVersion, c.flags(), c.Packages, c.Assets)
	if err := hashSources(h, filepath.Join(b.Source, c.Name)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil))[:12], nil
}

func hashSources(h io.Writer, dir string) error {
	var names []string
	for _, pattern := range []string{"go.mod", "go.sum", "*.go"} {
		m, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return err
		}
		names = append(names, m...)
	}
	if len(names) == 0 {
		return fmt.Errorf("%s has no Go module", dir)
	}
	sort.Strings(names)
	for _, n := range names {
		content, err := os.ReadFile(n)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%s %d\n", filepath.Base(n), len(content))
		if _, err := h.Write(content); err != nil {
			return err
		}
	}
	return nil
}

func (b *Builder) run(ctx context.Context, c Component, args ...string) (string, error) {
	return RunGo(ctx, filepath.Join(b.Source, c.Name), args...)
}

// RunGo runs the go command in dir for a static program, free of workspaces and of the user's flags.
func RunGo(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// A build of minutes must not go on when the lab command is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := runOnThread(cmd); err != nil {
		return "", fmt.Errorf("go %s in %s: %w\n%s", args[0], dir, err, lastLines(stderr.String(), 20))
	}
	return stdout.String(), nil
}

// runOnThread runs cmd from a thread that lives as long as this program does
// nothing else on it: the death signal of a child is bound to the thread.
func runOnThread(cmd *exec.Cmd) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		done <- cmd.Run()
	}()
	return <-done
}

func lastLines(s string, n int) string {
	l := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(l[max(0, len(l)-n):], "\n")
}

// copyTree copies files and folders with write permission for the owner, which
// the module cache takes away.
func copyTree(src, dst string) error {
	return filepath.WalkDir(src, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, p)
		if err != nil {
			return err
		}
		to := filepath.Join(dst, rel)
		if d.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		if !d.Type().IsRegular() {
			return nil
		}
		content, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		return os.WriteFile(to, content, 0o644)
	})
}
