package flows

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// deaf is a port on which nobody answers: its queue is full, and the kernel drops what comes.
func deaf(t *testing.T) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := name.(*unix.SockaddrInet4)
	for range 16 {
		c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(c) })
		_ = unix.Connect(c, addr)
	}
	time.Sleep(50 * time.Millisecond)
	return addr.Port
}

// A child that is being started has a copy of every descriptor until it runs its
// program. What epoll tells of a socket that was closed here meanwhile is not about the
// one that has its descriptor now.
func TestAnotherSocketsEventIsNotTaken(t *testing.T) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	to := func(port int, allowed bool) *track {
		return &track{Flow: Flow{To: Pod{IP: "127.0.0.1"}, Port: port, Allowed: allowed}}
	}
	shut := to(deaf(t), false)
	p, err := newPoller()
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	works := to(listener.Addr().(*net.TCPAddr).Port, true)
	p.take(works, time.Now())
	p.tick(time.Now())
	if len(p.open) != 1 {
		t.Fatalf("%d connections under way", len(p.open))
	}
	var first int
	for fd := range p.open {
		first = fd
	}
	kept, err := unix.Dup(first)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(kept) }()
	works.end(time.Now())
	p.expire(time.Now().Add(timeout))
	p.take(shut, time.Now())
	p.tick(time.Now())
	if _, same := p.open[first]; !same {
		t.Fatalf("the next socket does not have descriptor %d", first)
	}
	p.wait(100 * time.Millisecond)
	if len(shut.bad) > 0 {
		t.Errorf("nobody answered, and it says %q", shut.bad[0].Why)
	}
}
