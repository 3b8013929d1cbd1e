package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// testNode is a node whose folders are temporary, in a network namespace of its own.
type testNode struct {
	*testing.T
	Host
}

func inNode(t *testing.T, f func(n *testNode)) {
	t.Helper()
	for _, program := range []string{"ip", "bridge", "sysctl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("there is no %s on this machine", program)
		}
	}
	dir := t.TempDir()
	host := Host{Root: "/"}
	for _, p := range []struct {
		to   *string
		name string
	}{{&host.Conf, "conf"}, {&host.Networks, "networks"}, {&host.Keep, "keep"}, {&host.Run, "run"}} {
		*p.to = filepath.Join(dir, p.name)
		if err := os.Mkdir(*p.to, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	inNamespace(t, func(t *testing.T) {
		n := &testNode{T: t, Host: host}
		n.file(n.Conf, "10-canal.conflist", canal)
		n.sh("ip link set lo up")
		f(n)
	})
}

func (n *testNode) file(dir, name, text string) {
	n.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		n.Error(err)
	}
}

// sh runs a command line in the node's namespace; the last argument may be quoted.
func (n *testNode) sh(line string) string {
	n.Helper()
	out, err := exec.Command("sh", "-c", line).CombinedOutput()
	if err != nil {
		n.Errorf("%s: %v: %s", line, err, out)
	}
	return string(out)
}

// overlays makes both VXLAN devices, as flanneld and Felix do.
func (n *testNode) overlays() {
	n.Helper()
	for _, line := range []string{
		"ip link add flannel.1 type vxlan id 1 dstport 8472 nolearning", "ip addr add 10.42.0.0/32 dev flannel.1", "ip link set flannel.1 up",
		"ip link add vxlan.calico type vxlan id 4096 dstport 4789 nolearning", "ip addr add 10.42.0.0/32 dev vxlan.calico", "ip link set vxlan.calico up",
	} {
		n.sh(line)
	}
}

// felix writes Calico's routes to the blocks of a peer.
func (n *testNode) felix(peers ...netip.Prefix) {
	n.Helper()
	for _, p := range peers {
		for _, block := range []int{0, 64, 128, 192} {
			b := p.Addr().As4()
			b[3] = byte(block)
			n.sh(fmt.Sprintf("ip route replace %s/26 via %s dev vxlan.calico onlink proto 80", netip.AddrFrom4(b), p.Addr()))
		}
	}
}

var three = prefixes("10.42.1.0/24", "10.42.2.0/24", "10.42.3.0/24")

// request is one of a node with three peers.
func request(op Op) Request {
	return Request{
		Version: Version, Op: op, Migration: "m1", Device: "flannel.1", Calico: "vxlan.calico", Peers: three,
		Own: netip.MustParsePrefix("10.42.0.0/24"), Network: "k8s-pod-network",
	}
}

func (n *testNode) ask(req Request) Reply {
	n.Helper()
	in, err := json.Marshal(req)
	if err != nil {
		n.Error(err)
	}
	var out bytes.Buffer
	if err := Serve(context.Background(), bytes.NewReader(in), &out, n.Host); err != nil {
		n.Error(err)
	}
	var reply Reply
	if err := json.Unmarshal(out.Bytes(), &reply); err != nil {
		n.Errorf("reply %q: %v", out.String(), err)
	}
	if strings.Count(out.String(), "\n") != 1 || strings.Contains(reply.Error, "\n") {
		n.Errorf("the reply is not one line: %q", out.String())
	}
	if reply.State.BootID == "" {
		n.Errorf("%s: there is no boot ID: %+v", req.Op, reply)
	}
	return reply
}

// does asks for an Op that must be done, and that changes nothing the second time.
func (n *testNode) does(req Request) Reply {
	n.Helper()
	first := n.ask(req)
	if first.Error != "" {
		n.Errorf("%s: %s", req.Op, first.Error)
	}
	if again := n.ask(req); again.Error != "" || len(again.Changes) > 0 {
		n.Errorf("%s once more: %q, changes %q", req.Op, again.Error, again.Changes)
	}
	return first
}

func (n *testNode) refuses(req Request, says string) Reply {
	n.Helper()
	reply := n.ask(req)
	if !strings.Contains(reply.Error, says) {
		n.Errorf("%s: want %q, got %q", req.Op, says, reply.Error)
	}
	return reply
}

func (n *testNode) ways(reply Reply, want string) {
	n.Helper()
	var got []string
	for _, r := range reply.State.Routes {
		flags := ""
		if r.Direct {
			flags += "+direct"
		}
		if r.Spare {
			flags += "+spare"
		}
		got = append(got, strings.Join(r.Through, ",")+flags)
	}
	if s := strings.Join(got, " "); s != want {
		n.Errorf("peers are reached by %q, want %q", s, want)
	}
}

func TestOneNodeThroughAMigration(t *testing.T) {
	inNode(t, func(n *testNode) {
		n.overlays()
		if d := n.ask(request(OpLook)).State.Devices; len(d) != 2 || d[0].Name != "flannel.1" || d[0].VNI != 1 || d[0].Port != 8472 || !d[0].Up ||
			d[0].MAC == "" || !slices.Equal(d[1].Address, []netip.Addr{netip.MustParseAddr("10.42.0.0")}) {
			n.Errorf("devices: %+v", d)
		}
		if reply := n.does(request(OpSave)); !reply.State.Saved || len(reply.State.Files) != 1 {
			n.Errorf("not saved: %+v", reply.State)
		}
		n.ways(n.does(request(OpEnter)), "flannel.1+direct flannel.1+direct flannel.1+direct")
		// Nothing is taken away before there is something that carries instead.
		early := request(OpLeave)
		early.TimeoutMS = 300
		n.ways(n.refuses(early, "not taken over by Felix"), "flannel.1+direct+spare flannel.1+direct+spare flannel.1+direct+spare")
		none := request(OpSpares)
		none.Peers = nil
		n.ways(n.does(none), "")
		n.ways(n.does(request(OpSpares)), "flannel.1+direct+spare flannel.1+direct+spare flannel.1+direct+spare")

		// Felix takes over two of three peers: all go back.
		n.felix(three[0], three[1])
		late := request(OpLeave)
		late.TimeoutMS = 300
		n.ways(n.refuses(late, "the way to 10.42.3.0/24 was not taken over by Felix within 300ms"),
			"vxlan.calico+direct+spare vxlan.calico+direct+spare flannel.1+direct+spare")
		n.refuses(request(OpUnlink), "10.42.3.0/24 is reached through flannel.1 still")

		n.felix(three[2])
		n.ways(n.does(request(OpLeave)), "vxlan.calico+spare vxlan.calico+spare vxlan.calico+spare")
		n.sh("ip route del 10.42.2.128/26")
		n.ways(n.ask(request(OpLook)), "vxlan.calico+spare flannel.1,vxlan.calico+spare vxlan.calico+spare")
		n.refuses(request(OpUnlink), "10.42.2.0/24 is reached through flannel.1 still")
		n.felix(three[1])

		n.ways(n.does(request(OpUnlink)), "vxlan.calico vxlan.calico vxlan.calico")
		n.does(request(OpLeave))
		n.refuses(request(OpEnter), "device flannel.1")
		n.does(request(OpForget))
	})
}

// Whether Felix takes over is seen when it does, and not a while later.
func TestLeaveAwaitsFelix(t *testing.T) {
	inNode(t, func(n *testNode) {
		n.overlays()
		n.does(request(OpEnter))
		n.does(request(OpSpares))
		here, err := netns.Get()
		if err != nil {
			n.Error(err)
		}
		defer here.Close()
		handle, err := netlink.NewHandleAt(here)
		if err != nil {
			n.Error(err)
		}
		defer handle.Close()
		dev, err := handle.LinkByName("vxlan.calico")
		if err != nil {
			n.Error(err)
		}
		done := make(chan time.Time, 1)
		go func() {
			time.Sleep(300 * time.Millisecond)
			for _, p := range three {
				felix := direct(dev, p)
				if err := handle.RouteAdd(felix); err != nil {
					n.Error(err)
				}
			}
			done <- time.Now()
		}()
		reply := n.ask(request(OpLeave))
		lag := time.Since(<-done)
		n.ways(reply, "vxlan.calico+spare vxlan.calico+spare vxlan.calico+spare")
		took := regexp.MustCompile(`Felix took (2[89]|[3-9]\d|1\d\d)\d ms`)
		if reply.Error != "" || !slices.ContainsFunc(reply.Changes, took.MatchString) {
			n.Errorf("leave: %q %q", reply.Error, reply.Changes)
		}
		if lag > time.Second {
			n.Errorf("it was seen after %s", lag)
		}
	})
}

// When more changes came than could be noted, the watch is opened anew, and that
// counts as a change.
func TestWatchThatOverflowed(t *testing.T) {
	inNode(t, func(n *testNode) {
		n.overlays()
		w, err := watchRoutes()
		if err != nil {
			n.Error(err)
			return
		}
		defer w.close()
		overflowed := make(chan netlink.RouteUpdate)
		close(overflowed)
		w.updates = overflowed
		if err := w.next(context.Background()); err != nil {
			n.Error(err)
		}
		soon, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		if err := w.next(soon); err == nil {
			n.Error("a change was seen where there is none")
		}
		n.felix(three[0])
		if err := w.next(context.Background()); err != nil {
			n.Error(err)
		}
	})
}

// Without a copy there is nothing to go back to, and nothing is changed.
func TestRestoreNeedsACopy(t *testing.T) {
	inNode(t, func(n *testNode) {
		n.calicosNow()
		req := request(OpRestore)
		req.Addresses = restoring(4).Addresses
		if reply := n.refuses(req, "restore: no CNI configuration was saved for m1"); len(reply.Changes) > 0 || len(reply.State.Files) != 2 {
			n.Errorf("changes %q, files %+v", reply.Changes, reply.State.Files)
		}
	})
}

// A migrator that was killed has deleted some of flannel's routes: the next one goes
// on, or puts all of them back.
func TestLeaveGoesOnWhereItWasKilled(t *testing.T) {
	inNode(t, func(n *testNode) {
		n.overlays()
		n.does(request(OpEnter))
		n.does(request(OpSpares))
		n.felix(three[1:]...)
		n.sh("ip route del 10.42.1.0/24 dev flannel.1 metric 0 && ip route del 10.42.2.0/24 dev flannel.1 metric 0")
		n.ways(n.ask(request(OpLook)), "flannel.1+spare vxlan.calico+spare vxlan.calico+direct+spare")
		late := request(OpLeave)
		late.TimeoutMS = 200
		n.ways(n.refuses(late, "the way to 10.42.1.0/24"), "flannel.1+direct+spare vxlan.calico+direct+spare vxlan.calico+direct+spare")
		n.sh("ip route del 10.42.1.0/24 dev flannel.1 metric 0")
		n.felix(three[0])
		n.ways(n.does(request(OpLeave)), "vxlan.calico+spare vxlan.calico+spare vxlan.calico+spare")
		n.ways(n.does(request(OpEnter)), "vxlan.calico+direct+spare vxlan.calico+direct+spare vxlan.calico+direct+spare")
	})
}

// servesAsChild makes the test's own binary a migrator, which can be killed.
const servesAsChild = "PORTCULLIS_TEST_MIGRATOR"

func TestMain(m *testing.M) {
	var host Host
	if text := os.Getenv(servesAsChild); text != "" {
		if err := json.Unmarshal([]byte(text), &host); err != nil {
			panic(err)
		}
		if err := Serve(context.Background(), os.Stdin, os.Stdout, host); err != nil {
			panic(err)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// killed starts an Op in a process of its own, and kills it after a while.
func (n *testNode) killed(req Request, after time.Duration) {
	n.Helper()
	in, err := json.Marshal(req)
	host, herr := json.Marshal(n.Host)
	if err != nil || herr != nil {
		n.Error(err, herr)
		return
	}
	cmd := exec.Command(os.Args[0])
	cmd.Stdin, cmd.Env = bytes.NewReader(in), append(os.Environ(), servesAsChild+"="+string(host))
	if err := cmd.Start(); err != nil {
		n.Error(err)
		return
	}
	time.Sleep(after)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// Whatever was being done when the migrator was killed, there is a way to every peer,
// and everything can be done and undone afterwards.
func TestKilledAtAnyMoment(t *testing.T) {
	inNode(t, func(n *testNode) {
		n.overlays()
		n.does(request(OpSave))
		n.does(request(OpEnter))
		n.does(request(OpSpares))
		n.felix(three...)
		r := rand.New(rand.NewPCG(7, 7))
		ops := []Op{OpLeave, OpEnter, OpSpares, OpRestore, OpSave, OpClean}
		for range 40 {
			req := request(ops[r.IntN(len(ops))])
			switch req.Op {
			case OpRestore:
				req.Addresses = restoring(4, 5, 6).Addresses
			case OpClean:
				n.calicosNow()
			}
			n.killed(req, time.Duration(r.IntN(40))*time.Millisecond)
			reply := n.ask(request(OpLook))
			for _, way := range reply.State.Routes {
				if !slices.Equal(way.Through, []string{"vxlan.calico"}) || !way.Spare {
					n.Errorf("after %s was killed: %+v", req.Op, way)
				}
			}
			if Active(reply.State.Files) == nil || !reply.State.Saved {
				n.Errorf("after %s was killed: %+v", req.Op, reply.State.Files)
			}
		}
		req := request(OpRestore)
		req.Addresses = restoring(4, 5, 6).Addresses
		if reply := n.does(req); Active(reply.State.Files).Name != "10-canal.conflist" {
			n.Errorf("files: %+v", reply.State.Files)
		}
		n.does(request(OpLeave))
		n.does(request(OpUnlink))
		n.calicosNow()
		if state := n.does(request(OpClean)).State; len(state.Residue) > 0 {
			n.Errorf("left: %q", state.Residue)
		}
		n.does(request(OpForget))
	})
}

// 500 nodes with four blocks each.
func TestLargeCluster(t *testing.T) {
	inNode(t, func(n *testNode) {
		n.overlays()
		dev, err := netlink.LinkByName("vxlan.calico")
		if err != nil {
			n.Error(err)
			return
		}
		req := request(OpEnter)
		req.Peers = nil
		for i := 1; i <= 500; i++ {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(42 + i/256), byte(i), 0}), 24)
			req.Peers = append(req.Peers, p)
		}
		do := func(op Op) {
			req.Op = op
			start := time.Now()
			if reply := n.ask(req); reply.Error != "" {
				n.Errorf("%s: %s", op, reply.Error)
			}
			took := time.Since(start)
			n.Logf("%s: %s", op, took.Round(time.Millisecond))
			if took > 5*time.Second {
				n.Errorf("%s took %s", op, took)
			}
		}
		do(OpEnter)
		do(OpSpares)
		for _, p := range req.Peers {
			for _, block := range []byte{0, 64, 128, 192} {
				b := p.Addr().As4()
				b[3] = block
				felix := direct(dev, netip.PrefixFrom(netip.AddrFrom4(b), 26))
				felix.Gw = p.Addr().AsSlice()
				if err := netlink.RouteReplace(felix); err != nil {
					n.Error(err)
				}
			}
		}
		do(OpLeave)
		do(OpLook)
		do(OpUnlink)
	})
}

// What the kernel would do counts: rules that choose another table, black holes and
// more specific routes.
func TestWaysAreTheKernels(t *testing.T) {
	inNode(t, func(n *testNode) {
		n.overlays()
		n.does(request(OpEnter))
		n.sh("ip route add 10.42.1.77/32 dev vxlan.calico")
		n.sh("ip route add unreachable 10.42.2.16/28")
		n.sh("ip route add 10.42.3.0/24 dev vxlan.calico table 77 && ip rule add to 10.42.3.0/24 lookup 77")
		n.ways(n.ask(request(OpLook)), "flannel.1,vxlan.calico+direct flannel.1,none+direct vxlan.calico+direct")
		n.sh("ip route flush dev flannel.1")
		n.ways(n.ask(request(OpLook)), "none,vxlan.calico  vxlan.calico")
	})
}

// Nothing is deleted by the name of a device that is no VXLAN device.
func TestOtherDevicesAreLeftAlone(t *testing.T) {
	inNode(t, func(n *testNode) {
		n.overlays()
		n.sh("ip link add eth9 type bridge && ip link set eth9 up && ip link set vxlan.calico down")
		for _, op := range []Op{OpSpares, OpPing, OpLeave, OpEnter, OpUnlink} {
			req := request(op)
			req.Device = "eth9"
			n.refuses(req, "device eth9 is not a VXLAN device but bridge")
		}
		n.does(request(OpEnter))
		n.does(request(OpSpares))
		n.refuses(request(OpLeave), "device vxlan.calico is down: nothing is taken off flannel's overlay")
		n.ways(n.ask(request(OpLook)), strings.TrimSpace(strings.Repeat("flannel.1+direct+spare ", 3)))
	})
}

// Two at once wait for each other.
func TestOneChangesTheNodeAtATime(t *testing.T) {
	inNode(t, func(n *testNode) {
		n.does(request(OpSave))
		f, err := os.Open(filepath.Join(n.Keep, "cni"))
		if err != nil {
			n.Error(err)
			return
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			n.Error(err)
		}
		req := request(OpForget)
		req.TimeoutMS = 150
		n.refuses(req, "another migrator is at work on the node")
		if reply := n.ask(request(OpLook)); reply.Error != "" || !reply.State.Saved {
			n.Errorf("look: %+v", reply)
		}
		time.AfterFunc(100*time.Millisecond, func() { _ = f.Close() })
		n.does(request(OpForget))
		if left, err := os.ReadDir(filepath.Join(n.Keep, "cni")); err != nil || len(left) > 0 {
			n.Errorf("left on the node: %v, %v", left, err)
		}
	})
}

// The second node of a test of ping is reached through a veth. It sends its answers
// by flannel's overlay, as one does that has not left it.
func TestPing(t *testing.T) {
	inNode(t, func(n *testNode) {
		n.overlays()
		here, err := netns.Get()
		if err != nil {
			n.Error(err)
			return
		}
		defer here.Close()
		peer, err := netns.New()
		if err != nil {
			n.Error(err)
			return
		}
		defer peer.Close()
		mac := map[string]string{"flannel.1": "02:00:00:00:00:01", "vxlan.calico": "02:00:00:00:00:02"}
		n.sh("ip link set lo up && ip link add up0 type veth peer name up1 && ip addr add 192.0.2.2/24 dev up0 && ip link set up0 up")
		n.sh("ip link add flannel.1 address 02:00:00:00:00:01 type vxlan id 1 dstport 8472 nolearning && ip link add vxlan.calico address 02:00:00:00:00:02 type vxlan id 4096 dstport 4789 nolearning")
		n.sh("ip addr add 10.42.1.0/32 dev flannel.1 && ip addr add 10.42.1.0/32 dev vxlan.calico && ip link set flannel.1 up && ip link set vxlan.calico up")
		n.sh("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.vxlan/calico.rp_filter=0 net.ipv4.conf.flannel/1.rp_filter=0")
		link, err := netlink.LinkByName("up1")
		if err != nil {
			n.Error(err)
			return
		}
		if err := netlink.LinkSetNsFd(link, int(here)); err != nil {
			n.Error(err)
		}
		if err := netns.Set(here); err != nil {
			n.Error(err)
		}
		n.sh("ip addr add 192.0.2.1/24 dev up1 && ip link set up1 up")
		n.sh("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.flannel/1.rp_filter=0")
		var ours = map[string]string{}
		for dev, m := range mac {
			n.sh(fmt.Sprintf("bridge fdb append %s dev %s dst 192.0.2.2 && ip neigh replace 10.42.1.0 lladdr %s dev %s nud permanent", m, dev, m, dev))
			l, err := net.InterfaceByName(dev)
			if err != nil {
				n.Error(err)
				return
			}
			ours[dev] = l.HardwareAddr.String()
		}
		if err := netns.Set(peer); err != nil {
			n.Error(err)
		}
		n.sh(fmt.Sprintf("bridge fdb append %s dev flannel.1 dst 192.0.2.1 && ip neigh replace 10.42.0.0 lladdr %s dev flannel.1 nud permanent && ip route add 10.42.0.0/24 via 10.42.0.0 dev flannel.1 onlink", ours["flannel.1"], ours["flannel.1"]))
		if err := netns.Set(here); err != nil {
			n.Error(err)
		}
		// No route leads through the device that is tried.
		req := request(OpPing)
		req.Peers = three[:1]
		for _, dev := range []string{"flannel.1", "vxlan.calico"} {
			req.Device = dev
			if reply := n.ask(req); reply.Error != "" {
				n.Errorf("%s: %s", dev, reply.Error)
			}
		}
		req.Peers, req.TimeoutMS = three, 1500
		start := time.Now()
		n.refuses(req, "2 of 3 peers do not answer through vxlan.calico: 10.42.2.0/24, 10.42.3.0/24")
		if took := time.Since(start); took > 3*time.Second {
			n.Errorf("it took %s", took)
		}
		n.sh("ip link set vxlan.calico down")
		req.TimeoutMS = 300
		n.refuses(req, "3 of 3 peers do not answer through vxlan.calico: 10.42.1.0/24, 10.42.2.0/24, 10.42.3.0/24")
	})
}

// Felix that starts without its overlay leaves the black hole of the node's own pods.
// It goes with the spares once the overlay is gone, and nothing else does.
func TestFelixBlackHolesGoWithItsOverlay(t *testing.T) {
	inNode(t, func(n *testNode) {
		n.overlays()
		n.sh("ip route add blackhole 10.42.0.0/24 && ip route add blackhole 10.42.0.0/26 proto 80 && ip route add blackhole 10.42.9.0/26 proto 80")
		n.sh("ip route add blackhole 10.42.0.0/24 proto 80 metric 5")
		all := n.sh("ip route show type blackhole")
		none := request(OpSpares)
		none.Peers = nil
		n.does(none)
		if got := n.sh("ip route show type blackhole"); got != all {
			n.Errorf("with the overlay: %s", got)
		}
		n.sh("ip link del vxlan.calico")
		n.does(request(OpSpares))
		if got := n.sh("ip route show type blackhole"); got != all {
			n.Errorf("with peers: %s", got)
		}
		for range 2 {
			n.does(none)
		}
		if got := strings.Fields(n.sh("ip route show type blackhole")); !slices.Equal(got, strings.Fields("blackhole 10.42.0.0/24 blackhole 10.42.9.0/26 proto 80")) {
			n.Errorf("without the overlay: %s", got)
		}
	})
}
