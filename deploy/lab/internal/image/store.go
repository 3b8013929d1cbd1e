package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Namespace of containerd that kubelet's containers and images are in.
const Namespace = "k8s.io"

// EnsureStore makes a containerd root folder that holds images, unpacked, and
// keeps it in cache. Nodes start from links to it instead of importing each image.
func EnsureStore(ctx context.Context, cache string, images []Image, log func(string, ...any)) (string, error) {
	h := sha256.New()
	for _, i := range images {
		id, err := i.ID()
		if err != nil {
			return "", err
		}
		fmt.Fprintln(h, i.Ref, id)
	}
	root := filepath.Join(cache, "stores", hex.EncodeToString(h.Sum(nil))[:12])
	if _, err := os.Stat(root); err == nil {
		return root, nil
	}
	log("unpacking %d images", len(images))
	tmp := root + ".new"
	if err := os.RemoveAll(tmp); err != nil {
		return "", err
	}
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return "", err
	}
	run, err := os.MkdirTemp("", "plab-store-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(run)
	if err := fillStore(ctx, tmp, run, images); err != nil {
		return "", err
	}
	return root, os.Rename(tmp, root)
}

// fillStore runs a containerd of its own on root and imports images.
func fillStore(ctx context.Context, root, run string, images []Image) (err error) {
	config := fmt.Sprintf(`version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = %q
`, root, filepath.Join(run, "state"), socket(run))
	configFile := filepath.Join(run, "config.toml")
	if err := os.WriteFile(configFile, []byte(config), 0o644); err != nil {
		return err
	}
	logFile, err := os.Create(filepath.Join(run, "log"))
	if err != nil {
		return err
	}
	defer logFile.Close()
	daemon := exec.Command("containerd", "--config", configFile)
	daemon.Stdout, daemon.Stderr = logFile, logFile
	// It must not outlive a `lab build` that is killed.
	daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := daemon.Start(); err != nil {
		return fmt.Errorf("containerd: %w", err)
	}
	defer func() {
		_ = daemon.Process.Signal(unix.SIGTERM)
		if werr := daemon.Wait(); werr != nil && err == nil {
			err = fmt.Errorf("containerd: %w", werr)
		}
	}()
	if err := WaitContainerd(ctx, func() error { return ctr(ctx, run, nil, "version") }); err != nil {
		text, _ := os.ReadFile(logFile.Name())
		return fmt.Errorf("%w: %s", err, tail(string(text)))
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(WriteArchive(w, images)) }()
	return ctr(ctx, run, r, "-n", Namespace, "images", "import", "--digests=false", "-")
}

// WaitContainerd asks until containerd answers, for at most 20 seconds.
func WaitContainerd(ctx context.Context, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("containerd does not answer: %w", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func socket(run string) string { return filepath.Join(run, "containerd.sock") }

func ctr(ctx context.Context, run string, stdin io.Reader, args ...string) error {
	cmd := exec.CommandContext(ctx, "ctr", append([]string{"--address", socket(run)}, args...)...)
	cmd.Stdin = stdin
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("ctr %s: %w: %s", args[len(args)-1], err, tail(string(out)))
	}
	return nil
}

// CloneStore gives a node a containerd root of its own with what is in store.
// Layers and blobs never change, so the two share them by hard links; databases are copied.
func CloneStore(store, root string) error {
	return filepath.WalkDir(store, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(store, p)
		if err != nil {
			return err
		}
		return cloneEntry(p, filepath.Join(root, rel), d)
	})
}

func cloneEntry(from, to string, d fs.DirEntry) error {
	fi, err := d.Info()
	if err != nil {
		return err
	}
	switch {
	case d.IsDir():
		st, ok := fi.Sys().(*syscall.Stat_t)
		if err := os.Mkdir(to, 0o700); err != nil && !os.IsExist(err) {
			return err
		}
		if ok {
			if err := os.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
				return err
			}
			return unix.Chmod(to, st.Mode&0o7777)
		}
		return nil
	case filepath.Ext(from) == ".db":
		return copyFile(from, to, fi.Mode())
	}
	err = os.Link(from, to)
	switch {
	case err == nil || os.IsExist(err):
		return nil
	case fi.Mode().IsRegular():
		// The cache may be on another file system than the lab.
		return copyFile(from, to, fi.Mode())
	case fi.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	default:
		return err
	}
}

func copyFile(from, to string, mode fs.FileMode) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode.Perm())
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		return err
	}
	return dst.Close()
}

func hashReader(r io.Reader) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
