package substrate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"portcullis.dev/portcullis/deploy/lab/internal/component"
	"portcullis.dev/portcullis/deploy/lab/internal/image"
)

// packages of Debian that the lab runs or builds with.
var packages = []string{
	"ca-certificates", "conntrack", "containerd", "containernetworking-plugins", "git", "iproute2", "ipset", "iptables",
	"jq", "mmdebstrap", "nftables", "runc", "tini",
}

// Built is what a lab is started from.
type Built struct {
	// Components are folders by component.
	Components map[string]string
	// Store is a containerd root with the cluster images in it.
	Store string
	// Own are the images of the repository's own programs, with their archives.
	Own Own

	lock *os.File
}

// Close lets others take away what this was built of.
func (b Built) Close() {
	if b.lock != nil {
		b.lock.Close()
	}
}

// lockCache lets one program build at a time, and none while a lab is started
// from what another has built.
func lockCache(ctx context.Context, cfg Config) (*os.File, error) {
	if err := os.MkdirAll(cfg.CacheDir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(cfg.CacheDir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for first := true; ; first = false {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if first && errors.Is(err, unix.EWOULDBLOCK) {
			cfg.Log("another lab command uses %s, waiting for it", cfg.CacheDir)
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("%s is in use by another lab command: %w", cfg.CacheDir, ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Own images change with the repository.
type Own struct {
	Portcullis, Workload string
	// Archives are the files to import.
	Archives []string
}

// Build makes everything that is not in the cache yet. It stays there until the
// result is closed.
func Build(ctx context.Context, cfg Config) (Built, error) {
	lock, err := lockCache(ctx, cfg)
	if err != nil {
		return Built{}, err
	}
	built, err := buildLocked(ctx, cfg)
	if err == nil {
		// From here on others may use the cache, but not change it.
		err = unix.Flock(int(lock.Fd()), unix.LOCK_SH)
	}
	if err != nil {
		lock.Close()
		return Built{}, err
	}
	built.lock = lock
	return built, nil
}

func buildLocked(ctx context.Context, cfg Config) (Built, error) {
	if err := installPackages(ctx, cfg.Log); err != nil {
		return Built{}, err
	}
	lab := filepath.Join(cfg.SourceDir, "deploy", "lab")
	b := &component.Builder{Source: filepath.Join(lab, "components"), Cache: cfg.CacheDir, Log: cfg.Log}
	built := Built{}
	var err error
	if built.Components, err = b.Ensure(ctx); err != nil {
		return Built{}, err
	}
	pause, err := program(ctx, cfg, lab, "pause")
	if err != nil {
		return Built{}, err
	}
	base, err := image.BaseLayer(ctx, cfg.CacheDir, cfg.Log)
	if err != nil {
		return Built{}, err
	}
	set, err := image.ClusterSet(cfg.CacheDir, base, built.Components, pause)
	if err != nil {
		return Built{}, err
	}
	if built.Store, err = image.EnsureStore(ctx, cfg.CacheDir, set, cfg.Log); err != nil {
		return Built{}, err
	}
	if built.Own, err = BuildOwn(ctx, cfg); err != nil {
		return Built{}, err
	}
	return built, image.Prune(cfg.CacheDir, built.Store, append(set, image.Image{Layers: []image.Layer{base}}))
}

// LockCache keeps others from changing the cache until unlock is called.
func LockCache(ctx context.Context, cfg Config) (unlock func(), err error) {
	f, err := lockCache(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil
}

// BuildOwn builds the repository's own programs into images.
func BuildOwn(ctx context.Context, cfg Config) (Own, error) {
	lab := filepath.Join(cfg.SourceDir, "deploy", "lab")
	workload, err := program(ctx, cfg, lab, "workload")
	if err != nil {
		return Own{}, err
	}
	portcullis, err := program(ctx, cfg, cfg.SourceDir, "cmd/portcullis")
	if err != nil {
		return Own{}, err
	}
	var own Own
	var files [2]string
	if own.Portcullis, files[0], err = image.Portcullis(cfg.CacheDir, portcullis); err != nil {
		return Own{}, err
	}
	if own.Workload, files[1], err = image.Workload(cfg.CacheDir, workload); err != nil {
		return Own{}, err
	}
	own.Archives = files[:]
	return own, nil
}

// program builds one of the repository's programs, in module, for an image.
func program(ctx context.Context, cfg Config, module, pkg string) (string, error) {
	out := filepath.Join(cfg.CacheDir, "programs", filepath.Base(pkg))
	if _, err := os.Stat(out); err == nil && cfg.NoBuild {
		return out, nil
	}
	_, err := component.RunGo(ctx, module, "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", out, "./"+pkg)
	return out, err
}

// installPackages installs what is missing with apt-get.
func installPackages(ctx context.Context, log func(string, ...any)) error {
	missing, err := missingPackages(ctx)
	if err != nil || len(missing) == 0 {
		return err
	}
	log("installing %s", strings.Join(missing, " "))
	for _, args := range [][]string{{"update", "-qq"}, append([]string{"install", "-y", "-qq", "--no-install-recommends"}, missing...)} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		// runlevel 1: services that come with a package are not started.
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w\n%s", args[0], err, out)
		}
	}
	return stopNewContainerd(ctx, missing)
}

// stopNewContainerd stops the service that came with a package of ours. One
// that was there before stays: it is somebody's.
func stopNewContainerd(ctx context.Context, installed []string) error {
	if !slices.Contains(installed, "containerd") {
		return nil
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return nil //nolint:nilerr // no systemd, so nothing was started
	}
	if out, err := exec.CommandContext(ctx, "systemctl", "disable", "--now", "containerd").CombinedOutput(); err != nil {
		return fmt.Errorf("systemctl disable containerd: %w: %s", err, out)
	}
	return nil
}

func missingPackages(ctx context.Context) ([]string, error) {
	out, err := exec.CommandContext(ctx, "dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n").Output()
	if err != nil {
		return nil, fmt.Errorf("dpkg-query: %w (the lab needs Debian 12)", err)
	}
	have := strings.Split(string(out), "\n")
	var missing []string
	for _, p := range packages {
		if !slices.Contains(have, p+" installed") {
			missing = append(missing, p)
		}
	}
	return missing, nil
}
