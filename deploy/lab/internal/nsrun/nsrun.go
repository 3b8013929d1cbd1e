// Package nsrun starts programs in network and process namespaces.
package nsrun

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// Target names the namespaces that a program is started in.
type Target struct {
	// NetNS is the path of a network namespace, if not empty.
	NetNS string
	// PID is a process whose network, mount, host name and process namespaces
	// are joined, if not 0.
	PID int
}

// Start starts cmd in t. The caller waits for it as for any command.
func Start(t Target, cmd *exec.Cmd) error {
	return Do(t, cmd.Start)
}

// Do calls f on a thread that is in the namespaces of t, and in whose process
// namespace children are made. The thread is thrown away afterwards.
func Do(t Target, f func() error) error {
	done := make(chan error, 1)
	go func() {
		// Without UnlockOSThread the runtime ends the thread with the goroutine.
		runtime.LockOSThread()
		if err := join(t); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

func join(t Target) error {
	if t.NetNS != "" {
		if err := setns(t.NetNS, unix.CLONE_NEWNET); err != nil {
			return err
		}
	}
	if t.PID == 0 {
		return nil
	}
	// A thread that shares its root and working directory with others may not
	// change its mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	type ns struct {
		name string
		flag int
		file *os.File
	}
	// The mount namespace comes last, and all are opened before it: /proc is another one there.
	list := []ns{{"net", unix.CLONE_NEWNET, nil}, {"uts", unix.CLONE_NEWUTS, nil}, {"pid", unix.CLONE_NEWPID, nil}, {"mnt", unix.CLONE_NEWNS, nil}}
	for i := range list {
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", t.PID, list[i].name))
		if err != nil {
			return err
		}
		defer f.Close()
		list[i].file = f
	}
	for _, n := range list {
		if err := unix.Setns(int(n.file.Fd()), n.flag); err != nil {
			return fmt.Errorf("enter %s namespace of process %d: %w", n.name, t.PID, err)
		}
	}
	return nil
}

func setns(path string, flag int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), flag); err != nil {
		return fmt.Errorf("enter %s: %w", path, err)
	}
	return nil
}
