package substrate

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// nodeReady is what a node's first process reports when its mounts are in place.
const nodeReady = "ready"

// reportFD is the pipe that NodeInit reports to.
const reportFD = 3

// NodeInit is the first process of a node: it lays out the node's file system
// in its mount namespace and becomes an init that reaps what is left to it.
func NodeInit(node, dir string) error {
	report := os.NewFile(reportFD, "report")
	unix.CloseOnExec(reportFD)
	tini, err := exec.LookPath("tini")
	if err == nil {
		err = layOut(node, dir)
	}
	if err != nil {
		fmt.Fprint(report, err)
		return err
	}
	if _, err := report.WriteString(nodeReady); err != nil {
		return err
	}
	return unix.Exec(tini, []string{"tini", "--", "sleep", "infinity"}, os.Environ())
}

func layOut(node, dir string) error {
	if err := unix.Sethostname([]byte(node)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	// Nothing that is mounted here may show on the machine.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for place, target := range own {
		if err := bind(filepath.Join(dir, place), target); err != nil {
			return err
		}
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	for _, d := range []string{"/run/lock", "/run/netns"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := newBoot(); err != nil {
		return err
	}
	if err := mountSys(); err != nil {
		return err
	}
	// Calico's pods mount things for the node to keep.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make mounts shared: %w", err)
	}
	return nil
}

// newBoot gives the node a boot ID of its own, by which kubelet and whoever asks
// the API server know that it has booted again.
func newBoot() error {
	const file = "/run/boot_id"
	id, err := os.ReadFile("/proc/sys/kernel/random/uuid")
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, id, 0o444); err != nil {
		return err
	}
	return bind(file, "/proc/sys/kernel/random/boot_id")
}

// mountSys mounts a /sys that shows this network namespace's links, with the
// machine's control groups in it.
func mountSys() error {
	const aside = "/run/cgroup"
	if err := os.Mkdir(aside, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("/sys/fs/cgroup", aside, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("keep control groups: %w", err)
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /sys: %w", err)
	}
	if err := unix.Mount(aside, "/sys/fs/cgroup", "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount control groups: %w", err)
	}
	if err := unix.Unmount(aside, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", aside, err)
	}
	if err := unix.Mount("bpf", "/sys/fs/bpf", "bpf", 0, ""); err != nil {
		return fmt.Errorf("mount /sys/fs/bpf: %w", err)
	}
	return nil
}

func bind(from, to string) error {
	if err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", to, err)
	}
	return nil
}
