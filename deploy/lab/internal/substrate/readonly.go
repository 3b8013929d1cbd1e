package substrate

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"portcullis.dev/portcullis/deploy/lab/internal/fault"
	"portcullis.dev/portcullis/deploy/lab/internal/nsrun"
	"portcullis.dev/portcullis/deploy/lab/internal/state"
)

// cniDirs are the mounts of a node that the CNI folders are on.
var cniDirs = map[string]string{"conf": "/etc/cni", "bin": "/opt/cni"}

// setReadOnly makes a CNI folder read-only or writable: for the node, for what
// starts on it later, and for every pod that has it mounted already.
func (l *Lab) setReadOnly(f fault.Fault, readOnly bool) error {
	holder := l.Processes()[holderName(f.Target)].PID
	own, err := mountsOf(holder)
	if err != nil {
		return err
	}
	dir := cniDirs[f.Params["dir"]]
	var source mountPoint
	for _, m := range own {
		if m.path == dir {
			source = m
		}
	}
	if source.path == "" {
		return fmt.Errorf("%s is not mounted in %s", dir, f.Target)
	}
	var errs []error
	for _, pid := range mountNamespaces(holder) {
		// A pod may end meanwhile.
		if err := setAttr(pid, source, readOnly); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// setAttr changes the mounts of source, and of folders in it, that a process sees.
func setAttr(pid int, source mountPoint, readOnly bool) error {
	mounts, err := mountsOf(pid)
	if err != nil {
		return err
	}
	var paths []string
	for _, m := range mounts {
		if m.device == source.device && (m.root == source.root || strings.HasPrefix(m.root, source.root+"/")) {
			paths = append(paths, m.path)
		}
	}
	if len(paths) == 0 {
		return nil
	}
	attr := unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}
	if readOnly {
		attr = unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	}
	return nsrun.Do(nsrun.Target{PID: pid}, func() error {
		for _, p := range paths {
			if err := retryBusy(func() error { return unix.MountSetattr(unix.AT_FDCWD, p, 0, &attr) }); err != nil {
				return fmt.Errorf("set %s read-only: %w", p, err)
			}
		}
		return nil
	})
}

// retryBusy waits for those who are writing.
func retryBusy(do func() error) error {
	var err error
	for range 20 {
		if err = do(); !errors.Is(err, unix.EBUSY) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

// mountNamespaces gives a process of each mount namespace of a node.
func mountNamespaces(holder int) []int {
	seen := map[string]bool{}
	var out []int
	for _, pid := range append([]int{holder}, state.PIDs()...) {
		// Those of pods have process namespaces of their own, and the node's first
		// process above them all the same.
		if !state.Descends(pid, holder) {
			continue
		}
		mnt, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
		if err != nil || seen[mnt] {
			continue
		}
		seen[mnt] = true
		out = append(out, pid)
	}
	return out
}

// mountPoint is a line of /proc/PID/mountinfo.
type mountPoint struct{ device, root, path string }

func mountsOf(pid int) ([]mountPoint, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseMounts(f)
}

func parseMounts(r io.Reader) ([]mountPoint, error) {
	// The kernel writes what would end a field in octal.
	plain := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var out []mountPoint
	s := bufio.NewScanner(r)
	for s.Scan() {
		f := strings.Fields(s.Text())
		if len(f) < 6 {
			return nil, fmt.Errorf("unexpected mount %q", s.Text())
		}
		out = append(out, mountPoint{device: f[2], root: plain.Replace(f[3]), path: plain.Replace(f[4])})
	}
	return out, s.Err()
}
