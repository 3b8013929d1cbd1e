package preflight

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"portcullis.dev/portcullis/probes/preflight"
	"portcullis.dev/portcullis/probes/preflight/node"
)

// agentEnv makes this test binary the agent's side.
const agentEnv = "PORTCULLIS_TEST_AGENT"

func TestMain(m *testing.M) {
	if os.Getenv(agentEnv) != "" {
		if err := node.Serve(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// wires are network namespaces on one bridge, which stand for nodes.
type wires struct {
	nodes []netns.NsHandle
}

// newWires makes n nodes. Everything is in namespaces that end with the test.
func newWires(t *testing.T, n int) *wires {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	w := &wires{}
	failed := make(chan error, 1)
	go func() {
		// Not unlocked: the thread ends in a namespace of the test.
		runtime.LockOSThread()
		failed <- w.build(n)
	}()
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, h := range w.nodes {
			h.Close()
		}
	})
	return w
}

func (w *wires) build(n int) error {
	hub, err := netns.New()
	if err != nil {
		return err
	}
	w.nodes = append(w.nodes, hub)
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	if err := netlink.LinkAdd(bridge); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		return err
	}
	for i := range n {
		ns, err := netns.New()
		if err != nil {
			return err
		}
		w.nodes = append(w.nodes, ns)
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0", MTU: 1500}, PeerName: fmt.Sprintf("port%d", i), PeerNamespace: netlink.NsFd(hub)}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		if err := up("lo", ""); err != nil {
			return err
		}
		if err := up("eth0", nodeIP(i)); err != nil {
			return err
		}
		if err := netns.Set(hub); err != nil {
			return err
		}
		port, err := netlink.LinkByName(fmt.Sprintf("port%d", i))
		if err != nil {
			return err
		}
		if err := netlink.LinkSetMaster(port, bridge); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(port); err != nil {
			return err
		}
	}
	return nil
}

func up(name, address string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if address != "" {
		if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(address).To4(), Mask: net.CIDRMask(16, 32)}}); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(l)
}

// Exec runs the agent on a node, as a process in its namespace.
func (w *wires) Exec(ctx context.Context, _, pod string, _ []string, stdin io.Reader, stdout io.Writer) error {
	var i int
	if _, err := fmt.Sscanf(strings.TrimPrefix(pod, "agent-"), "n%d", &i); err != nil {
		return err
	}
	return w.run(i, func() error {
		cmd := exec.CommandContext(ctx, os.Args[0])
		cmd.Env = append(os.Environ(), agentEnv+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, os.Stderr
		cmd.WaitDelay = time.Second
		return cmd.Run()
	})
}

func (w *wires) run(i int, f func() error) error {
	done := make(chan error, 1)
	go func() {
		// Not unlocked: the thread ends in the node's namespace.
		runtime.LockOSThread()
		if err := netns.Set(w.nodes[i+1]); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// The whole activity with real agents and real packets on three nodes, of which
// one drops the overlay's: only the API server is a fake.
func TestRealPackets(t *testing.T) {
	w := newWires(t, 3)
	iptables, err := exec.LookPath("iptables")
	if err != nil {
		t.Skip("there is no iptables")
	}
	err = w.run(2, func() error {
		return exec.CommandContext(t.Context(), iptables, "-w", "-A", "INPUT", "-p", "udp", "--dport", "4789", "-j", "DROP").Run()
	})
	if err != nil {
		t.Fatal(err)
	}
	l := newLab(t, 3)
	a := l.activities()
	a.connect = func(string) (*connection, error) { return &connection{kube: l.kube, exec: w, raw: l.read}, nil }
	start := time.Now()
	r, err := a.Check(t.Context(), Input{Target: preflight.Target{MTU: 1450}})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s, of which the report says %s", time.Since(start), r.Took)
	for _, id := range []string{"agent-answers", "ipset-works", "kernel-modules", "clock", "link-mtu", "reach-tcp-5473", "reach-tcp-9099", "reach-tcp-10250", "reach-udp-8472"} {
		if res := result(t, r, id); res.Status != preflight.Pass {
			t.Errorf("%s: %s: %s %q", id, res.Status, res.Measured, res.More)
		}
	}
	res := result(t, r, "reach-udp-4789")
	if res.Status != preflight.Fail || res.Measured != "4 of 6 directions open, 2 filtered" || res.More[0] != "all nodes -> n002: filtered (it did not arrive)" {
		t.Errorf("%+v", res)
	}
	// The MTU is tried on the path that is filtered: of it nothing is known, and so it does not pass.
	if res := result(t, r, "path-mtu"); res.Status != preflight.Unsure || !strings.Contains(res.Measured, "2 of 6") {
		t.Errorf("%+v", res)
	}
}
