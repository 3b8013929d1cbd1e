package wire

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// netThread is one operating system thread that goes from network namespace to
// network namespace and opens sockets there. A socket stays in the namespace
// that it was opened in, whoever uses it afterwards; so one thread serves any number of
// probes, which then wait in the Go poller like any other connection.
type netThread struct {
	work chan func()
	quit chan struct{}
	// current is the inode of the namespace that the thread is in; only the thread uses it.
	current uint64
}

var errStopped = errors.New("the session has ended")

// startThread starts the thread. It ends, and is never used for anything else, on stop.
func startThread() *netThread {
	t := &netThread{work: make(chan func()), quit: make(chan struct{})}
	go func() {
		// Not unlocked: the runtime then ends the thread with the goroutine,
		// and no other goroutine wakes up in a foreign namespace.
		runtime.LockOSThread()
		for {
			select {
			case f := <-t.work:
				f()
			case <-t.quit:
				return
			}
		}
	}()
	return t
}

func (t *netThread) stop() { close(t.quit) }

// in runs f on the thread, inside ns.
func (t *netThread) in(ns *namespace, f func() error) error {
	done := make(chan error, 1)
	work := func() {
		if t.current != ns.inode {
			t.current = 0
			if err := netns.Set(netns.NsHandle(ns.file.Fd())); err != nil {
				done <- fmt.Errorf("setns: %w", err)
				return
			}
			t.current = ns.inode
		}
		done <- f()
	}
	select {
	case t.work <- work:
		return <-done
	case <-t.quit:
		return errStopped
	}
}

// socket opens a non-blocking socket in ns.
func (t *netThread) socket(ns *namespace, family, kind, protocol int) (int, error) {
	fd := -1
	err := t.in(ns, func() (err error) {
		fd, err = unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
		return os.NewSyscallError("socket", err)
	})
	return fd, err
}

// addresses lists the addresses of ns.
func (t *netThread) addresses(ns *namespace) ([]netip.Addr, error) {
	var out []netip.Addr
	err := t.in(ns, func() error {
		addrs, err := net.InterfaceAddrs()
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast() {
				out = append(out, p.Addr().Unmap())
			}
		}
		return nil
	})
	return out, err
}
