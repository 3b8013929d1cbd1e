//go:build linux

package wire

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netns"
)

// world is a node with pods, made of network namespaces: "router" forwards
// between the pods, as a node does, and its filter is where policy acts. What
// the finder reads of /proc is a folder that looks like it.
type world struct {
	t      testing.TB
	prefix string
	proc   string
	pods   int
}

var worlds atomic.Int32

// newWorld skips the test, saying what is missing, where namespaces cannot be made.
func newWorld(t testing.TB) *world {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	for _, tool := range []string{"ip", "iptables"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("making network namespaces needs %s", tool)
		}
	}
	w := &world{t: t, prefix: fmt.Sprintf("pw%d-%d-", os.Getpid(), worlds.Add(1)), proc: t.TempDir()}
	if out, err := exec.Command("ip", "netns", "add", w.ns("router")).CombinedOutput(); err != nil {
		t.Skipf("network namespaces cannot be made here: %s", out)
	}
	t.Cleanup(func() { exec.Command("ip", "netns", "del", w.ns("router")).Run() })
	w.inside("router", "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0 && ip link set lo up")
	return w
}

func (w *world) ns(name string) string { return w.prefix + name }

// inside runs a shell line in a namespace.
func (w *world) inside(name, line string) {
	w.t.Helper()
	out, err := exec.Command("ip", "netns", "exec", w.ns(name), "sh", "-ec", line).CombinedOutput()
	if err != nil {
		w.t.Fatalf("in %s: %s: %v\n%s", name, line, err, out)
	}
}

// testPod is a pod in the world.
type testPod struct {
	Pod
	name, ip, ip6 string
}

// pod makes a pod with an address of its own behind the router.
func (w *world) pod(resolvConf string) testPod {
	w.t.Helper()
	w.pods++
	n := w.pods
	name := fmt.Sprintf("p%d", n)
	ip, gw := fmt.Sprintf("10.77.%d.2", n), fmt.Sprintf("10.77.%d.1", n)
	ip6, gw6 := fmt.Sprintf("fd77:%x::2", n), fmt.Sprintf("fd77:%x::1", n)
	if out, err := exec.Command("ip", "netns", "add", w.ns(name)).CombinedOutput(); err != nil {
		w.t.Fatalf("ip netns add: %s", out)
	}
	w.t.Cleanup(func() { exec.Command("ip", "netns", "del", w.ns(name)).Run() })
	// Duplicate address detection would keep IPv6 from working for the first second.
	w.inside(name, "sysctl -qw net.ipv6.conf.default.accept_dad=0")
	w.inside("router", fmt.Sprintf("ip link add %s type veth peer name eth0 netns %s; ip addr add %s/24 dev %s; ip -6 addr add %s/64 dev %s nodad; ip link set %s up", name, w.ns(name), gw, name, gw6, name, name))
	w.inside(name, fmt.Sprintf("ip link set lo up; ip addr add %s/24 dev eth0; ip -6 addr add %s/64 dev eth0 nodad; ip link set eth0 up; ip route add default via %s; ip -6 route add default via %s", ip, ip6, gw, gw6))
	uid := fmt.Sprintf("00000000-0000-4000-8000-%012x", n)
	w.process(4000+n, "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod"+strings.ReplaceAll(uid, "-", "_")+".slice/cri-containerd-0123.scope\n", name, resolvConf)
	return testPod{Pod: Pod{UID: uid, IPs: []string{ip, ip6}}, name: name, ip: ip, ip6: ip6}
}

// process makes what the finder reads of a process.
func (w *world) process(pid int, cgroup, nsName, resolvConf string) {
	w.t.Helper()
	dir := filepath.Join(w.proc, fmt.Sprint(pid))
	must(w.t, os.MkdirAll(filepath.Join(dir, "ns"), 0o755))
	must(w.t, os.WriteFile(filepath.Join(dir, "cgroup"), []byte(cgroup), 0o644))
	must(w.t, os.Symlink("/run/netns/"+w.ns(nsName), filepath.Join(dir, "ns", "net")))
	must(w.t, os.MkdirAll(filepath.Join(dir, "root", "etc"), 0o755))
	if resolvConf != "" {
		must(w.t, os.WriteFile(filepath.Join(dir, "root", "etc", "resolv.conf"), []byte(resolvConf), 0o644))
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// runner is a runner that takes this world for its node.
func (w *world) runner() *runner {
	r := newRunner()
	r.finder.proc = w.proc
	r.finder.host = "/run/netns/" + w.ns("router")
	w.t.Cleanup(r.thread.stop)
	return r
}

// in runs f on a thread inside a namespace. Sockets that f opens stay there.
func (w *world) in(name string, f func() error) {
	w.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		h, err := netns.GetFromName(w.ns(name))
		if err == nil {
			defer h.Close()
			err = netns.Set(h)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	must(w.t, <-done)
}

// listen accepts TCP connections and gives each to serve.
func (w *world) listen(p testPod, port int, serve func(net.Conn)) {
	w.t.Helper()
	w.in(p.name, func() error {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		w.t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					serve(c)
				}()
			}
		}()
		return nil
	})
}

// listenUDP answers each datagram with what reply makes of it; nil is no answer.
func (w *world) listenUDP(p testPod, port int, reply func([]byte) []byte) {
	w.t.Helper()
	w.in(p.name, func() error {
		c, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		w.t.Cleanup(func() { c.Close() })
		go func() {
			buf := make([]byte, 4096)
			for {
				n, from, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				if out := reply(buf[:n]); out != nil {
					c.WriteTo(out, from)
				}
			}
		}()
		return nil
	})
}

// request is a reach from one pod.
func request(timeout time.Duration, from testPod, ps ...Probe) *Request {
	for i := range ps {
		if ps[i].ID == "" {
			ps[i].ID = fmt.Sprint(i)
		}
		ps[i].Pod = from.UID
	}
	return &Request{Version: Version, Role: RoleReach, Session: "0123456789abcdef", Round: 1, TimeoutMillis: int(timeout.Milliseconds()), Pods: []Pod{from.Pod}, Probes: ps}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }
