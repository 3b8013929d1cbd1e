package wire

import (
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// The first thread of this test binary is kept for main, as a program's may be
// for netThread.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) {
	if os.Getenv("WIRE_FIRST_THREAD") == "" {
		os.Exit(m.Run())
	}
	os.Exit(firstThread())
}

// firstThread moves the process's first thread to another namespace and asks,
// on an ordinary goroutine, which one is the node's.
func firstThread() int {
	before, err := openNamespace("/proc/thread-self/ns/net")
	if err != nil || unix.Unshare(unix.CLONE_NEWNET) != nil {
		return 2
	}
	found := make(chan uint64)
	go func() {
		host, err := openNamespace(newFinder(nil).host)
		if err != nil {
			found <- 0
			return
		}
		found <- host.inode
	}()
	if <-found != before.inode {
		return 1
	}
	return 0
}

// TestNodeNamespaceIsNotThatOfTheFirstThread: a pod whose namespace the first
// thread was in used to be taken for one without a namespace of its own.
func TestNodeNamespaceIsNotThatOfTheFirstThread(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make a network namespace")
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "WIRE_FIRST_THREAD=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
