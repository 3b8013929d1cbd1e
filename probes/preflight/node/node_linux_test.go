package node

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"portcullis.dev/portcullis/probes/preflight"
)

// agentEnv makes this test binary the agent's side.
const agentEnv = "PORTCULLIS_TEST_AGENT"

func TestMain(m *testing.M) {
	if os.Getenv(agentEnv) != "" {
		if err := Serve(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
}

// agent is a session with a node of the test.
type agent struct {
	t     *testing.T
	in    io.WriteCloser
	lines *bufio.Scanner
}

// start runs the agent in a network namespace, and in a mount namespace of its
// own, so that this process's root is the node's.
func start(t *testing.T, ns netns.NsHandle) *agent {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), agentEnv+"=1")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	inside(t, ns, func() error { return cmd.Start() })
	t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, MaxRequestBytes)
	return &agent{t, in, lines}
}

// inside runs f on a thread in ns. The thread is put back, for children die with it.
func inside(t *testing.T, ns netns.NsHandle, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		own, err := netns.Get()
		if err != nil {
			done <- err
			return
		}
		defer own.Close()
		if err := netns.Set(ns); err != nil {
			done <- err
			return
		}
		err = f()
		done <- errors.Join(err, netns.Set(own))
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func (a *agent) send(r Request) {
	a.t.Helper()
	r.Version = Version
	b, err := json.Marshal(r)
	if err != nil {
		a.t.Fatal(err)
	}
	if _, err := a.in.Write(append(b, '\n')); err != nil {
		a.t.Fatal(err)
	}
}

// answer reads messages up to the one that ends the answer.
func (a *agent) answer() (all []Message) {
	a.t.Helper()
	for a.lines.Scan() {
		var m Message
		if err := json.Unmarshal(a.lines.Bytes(), &m); err != nil {
			a.t.Fatal(err)
		}
		if m.Type == MessageDone {
			return all
		}
		all = append(all, m)
		if m.Type == MessageError {
			return all
		}
	}
	a.t.Fatal("the agent ended")
	return nil
}

func (a *agent) call(r Request) []Message {
	a.t.Helper()
	a.send(r)
	return a.answer()
}

// two makes two namespaces with a wire between them, with the addresses
// 10.200.0.1 and 10.200.0.2.
func two(t *testing.T) (a, b netns.NsHandle) {
	t.Helper()
	needRoot(t)
	handles := make(chan [2]netns.NsHandle, 1)
	failed := make(chan error, 1)
	go func() {
		// Not unlocked: the thread ends in a namespace of the test.
		runtime.LockOSThread()
		pair, err := wired()
		handles <- pair
		failed <- err
	}()
	pair, err := <-handles, <-failed
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pair[0].Close(); pair[1].Close() })
	return pair[0], pair[1]
}

func wired() (pair [2]netns.NsHandle, err error) {
	for i := range pair {
		if pair[i], err = netns.New(); err != nil {
			return pair, err
		}
	}
	// The thread is in the second one now.
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0", MTU: 1500}, PeerName: "eth0", PeerNamespace: netlink.NsFd(pair[0])}
	if err := netlink.LinkAdd(veth); err != nil {
		return pair, err
	}
	for i := range pair {
		if err := netns.Set(pair[i]); err != nil {
			return pair, err
		}
		for _, name := range []string{"lo", "eth0"} {
			l, err := netlink.LinkByName(name)
			if err != nil {
				return pair, err
			}
			if err := netlink.LinkSetUp(l); err != nil {
				return pair, err
			}
			if name == "eth0" {
				ip := net.IPv4(10, 200, 0, byte(i+1))
				if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(24, 32)}}); err != nil {
					return pair, err
				}
			}
		}
	}
	return pair, nil
}

// rule adds a rule of iptables in a namespace.
func rule(t *testing.T, ns netns.NsHandle, args ...string) {
	t.Helper()
	path, err := exec.LookPath("iptables")
	if err != nil {
		t.Skip("there is no iptables")
	}
	inside(t, ns, func() error {
		out, err := exec.CommandContext(t.Context(), path, append([]string{"-w", "-A"}, args...)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("iptables %v: %w: %s", args, err, out)
		}
		return nil
	})
}

// Facts of a real network namespace, with this machine's kernel.
func TestFacts(t *testing.T) {
	a, _ := two(t)
	inside(t, a, func() error {
		return netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "flannel.1", MTU: 1450}, VxlanId: 1, Port: 8472})
	})
	rule(t, a, "INPUT", "-j", "ACCEPT")
	agent := start(t, a)
	begin := time.Now()
	var facts *preflight.NodeFacts
	progress := 0
	for _, m := range agent.call(Request{Role: RoleFacts, Ports: []int{8472, 4789}}) {
		switch m.Type {
		case MessageProgress:
			progress++
		case MessageFacts:
			facts = m.Facts
		default:
			t.Fatalf("%+v", m)
		}
	}
	if facts == nil || progress == 0 {
		t.Fatal("no facts, or no progress")
	}
	t.Logf("measured in %s: %+v", time.Since(begin), facts)
	if !facts.IPSet.Known || !facts.IPSet.Value.OK {
		t.Errorf("ipset %+v", facts.IPSet)
	}
	if !facts.Modules.Known || !facts.Kernel.Known || !facts.Memory.Known || !facts.CPU.Known || !facts.Disks.Known || len(facts.Disks.Value) == 0 {
		t.Errorf("%+v %+v %+v", facts.Modules, facts.Memory, facts.Disks)
	}
	i := slices.IndexFunc(facts.Links.Value, func(l preflight.Link) bool { return l.Name == "flannel.1" })
	if i < 0 || facts.Links.Value[i].VNI != 1 || facts.Links.Value[i].Port != 8472 || facts.Links.Value[i].MTU != 1450 {
		t.Errorf("links %+v", facts.Links)
	}
	if v := facts.Sysctls.Value["net.ipv4.ip_forward"]; v != "0" && v != "1" {
		t.Errorf("sysctls %+v", facts.Sysctls)
	}
	if !facts.NFTables.Known || !facts.LegacyTables.Known || len(facts.LegacyTables.Value)+len(facts.NFTables.Value) == 0 {
		t.Errorf("legacy %+v, nft %+v", facts.LegacyTables, facts.NFTables)
	}
	if !facts.IPTables.Known || facts.IPTables.Value.Version == "" {
		t.Errorf("iptables %+v", facts.IPTables)
	}
}

// The ports that are taken are told with who has them.
func TestPortOwners(t *testing.T) {
	a, _ := two(t)
	inside(t, a, func() error {
		l, err := net.Listen("tcp4", "10.200.0.1:9099")
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		if err != nil {
			return err
		}
		vxlan := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "vx"}, VxlanId: 5, Port: 4789}
		if err := netlink.LinkAdd(vxlan); err != nil {
			return err
		}
		return netlink.LinkSetUp(vxlan)
	})
	var uses []preflight.PortUse
	for _, m := range start(t, a).call(Request{Role: RoleFacts, Ports: []int{9099, 4789, 5473}}) {
		if m.Facts != nil {
			uses = m.Facts.Ports.Value
		}
	}
	owner := func(protocol string, port int) string {
		for _, u := range uses {
			if u.Protocol == protocol && u.Port == port {
				return u.Owner
			}
		}
		return "free"
	}
	self := filepath.Base(os.Args[0])
	if got := owner("tcp", 9099); !strings.HasPrefix(self, got) || got == "" {
		t.Errorf("9099 is %q's, not %q's", got, self)
	}
	if got := owner("udp", 4789); got != "kernel" {
		t.Errorf("4789 is %q's: %+v", got, uses)
	}
	if got := owner("tcp", 5473); got != "free" {
		t.Errorf("5473 is %q's", got)
	}
}

var meshPaths = []preflight.Path{preflight.PathTypha, preflight.PathHealth, preflight.PathKubelet, {Protocol: "udp", Port: 4789}, preflight.PathFlannel, preflight.PathIPIP}

// meet lets both nodes listen, the first send to the second, and tells what the
// first got back and the second saw.
func meet(t *testing.T, a, b *agent) (answers []PathAnswer, seen Sighting, failed map[int]string) {
	t.Helper()
	const token = "0011223344"
	for i, x := range []*agent{a, b} {
		m := x.call(Request{Role: RoleListen, Session: token, Address: fmt.Sprintf("10.200.0.%d", i+1), Paths: meshPaths})
		if len(m) != 1 || m[0].Type != MessageListening || len(m[0].Failed) > 0 {
			t.Fatalf("%+v", m)
		}
	}
	m := a.call(Request{Role: RoleReach, Session: token, Self: 1, Paths: meshPaths, Peers: []Peer{{2, "10.200.0.2"}}, Sizes: []int{1280, 1400, 1500, 9000}, TimeoutMillis: 600})
	if len(m) != 1 || len(m[0].Answers) != len(meshPaths) {
		t.Fatalf("%+v", m)
	}
	got := b.call(Request{Role: RoleCollect})
	for _, s := range got[0].Seen {
		if s.From == 1 {
			seen = s
		}
	}
	return m[0].Answers, seen, got[0].Failed
}

func TestReachOpen(t *testing.T) {
	na, nb := two(t)
	// A VXLAN device has the port; what comes is seen all the same.
	inside(t, nb, func() error {
		vxlan := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "flannel.1"}, VxlanId: 1, Port: 8472}
		return errors.Join(netlink.LinkAdd(vxlan), netlink.LinkSetUp(vxlan))
	})
	answers, seen, failed := meet(t, start(t, na), start(t, nb))
	for i := range 3 {
		if answers[i].Answer != preflight.Open {
			t.Errorf("%s: %+v", meshPaths[i], answers[i])
		}
	}
	if !slices.Equal(seen.Paths, []int{3, 4, 5}) || seen.Largest != 1500 || len(failed) > 0 {
		t.Errorf("seen %+v, failed %v; sent %+v", seen, failed, answers)
	}
}

func TestReachFiltered(t *testing.T) {
	na, nb := two(t)
	rule(t, nb, "INPUT", "-p", "tcp", "--dport", "5473", "-j", "DROP")
	rule(t, nb, "INPUT", "-p", "tcp", "--dport", "9099", "-j", "REJECT", "--reject-with", "tcp-reset")
	rule(t, nb, "INPUT", "-p", "tcp", "--dport", "10250", "-j", "REJECT", "--reject-with", "icmp-admin-prohibited")
	rule(t, nb, "INPUT", "-p", "udp", "--dport", "4789", "-j", "DROP")
	rule(t, nb, "INPUT", "-p", "udp", "--dport", "8472", "-j", "REJECT")
	rule(t, nb, "INPUT", "-p", "4", "-j", "DROP")
	answers, seen, _ := meet(t, start(t, na), start(t, nb))
	if len(seen.Paths) != 0 {
		t.Errorf("seen %+v", seen)
	}
	for i, want := range []preflight.Answer{preflight.Filtered, preflight.Refused, preflight.Filtered, preflight.Filtered, preflight.Refused, preflight.Filtered} {
		if answers[i].Answer != want {
			t.Errorf("%s: %+v, want %s", meshPaths[i], answers[i], want)
		}
	}
	if !strings.Contains(answers[2].Detail, "administratively prohibited") {
		t.Errorf("%+v", answers[2])
	}
}

// A path that carries less than its ends is told by what arrives.
func TestReachNarrow(t *testing.T) {
	na, nb := two(t)
	inside(t, nb, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(l, 1400)
	})
	_, seen, _ := meet(t, start(t, na), start(t, nb))
	if seen.Largest != 1400 {
		t.Errorf("largest %d", seen.Largest)
	}
}

// A request that is wrong is refused, and the session goes on.
func TestServeGoesOn(t *testing.T) {
	in, w := io.Pipe()
	out := &strings.Builder{}
	done := make(chan error, 1)
	go func() { done <- Serve(t.Context(), in, out) }()
	fmt.Fprintln(w, `{"version":1,"role":"nonsense"}`)
	fmt.Fprintln(w, `{"version":1,"role":"collect"}`)
	fmt.Fprintln(w, `{"version":1,"role":"clock"}`)
	fmt.Fprintln(w, `{"version":1,"role":"bye"}`)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if text := out.String(); strings.Count(text, `"error"`) < 2 || !strings.Contains(text, `"clock"`) {
		t.Error(text)
	}
}
