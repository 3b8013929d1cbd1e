package cni

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// inNamespace runs the test in a network namespace of its own. The thread is
// never used for anything else again: it ends with the goroutine.
func inNamespace(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		ns, err := netns.New()
		if err != nil {
			t.Errorf("making a network namespace: %v", err)
			return
		}
		defer ns.Close()
		f(t)
	}()
	<-done
}

// flannel makes what flanneld makes: its device, with the node's own address.
func flannel(t *testing.T) netlink.Link {
	t.Helper()
	dev := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "flannel.1", MTU: 1450}, VxlanId: 1, Port: 8472}
	address := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 42, 0, 0), Mask: net.CIDRMask(32, 32)}}
	for _, err := range []error{netlink.LinkAdd(dev), netlink.AddrAdd(dev, address), netlink.LinkSetUp(dev)} {
		if err != nil {
			t.Errorf("making flannel's device: %v", err)
		}
	}
	return dev
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func TestSparesCarryWhenTheRouteBeforeThemGoes(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		if _, err := KeepSpares("flannel.1", prefixes("10.42.1.0/24")); err == nil {
			t.Error("a node without flannel's device has spares")
		}
		dev := flannel(t)
		other := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "vxlan.calico"}, VxlanId: 4096, Port: 4789}
		if err := netlink.LinkAdd(other); err != nil {
			t.Error(err)
		}
		if err := netlink.LinkSetUp(other); err != nil {
			t.Error(err)
		}
		peer := netip.MustParsePrefix("10.42.1.0/24")
		if err := netlink.RouteReplace(direct(dev, peer)); err != nil {
			t.Error(err)
		}
		keep := func(want int, peers ...string) {
			t.Helper()
			if changed, err := KeepSpares("flannel.1", prefixes(peers...)); err != nil || changed != want {
				t.Errorf("peers %v: %d changed (%v), want %d", peers, changed, err, want)
			}
		}
		keep(2, "10.42.1.0/24", "10.42.2.0/24")
		keep(0, "10.42.1.0/24", "10.42.2.0/24")
		// Felix takes flannel's route over, and gives it up again.
		felix := spare(other, peer)
		felix.Priority, felix.Gw, felix.Flags, felix.Scope = 0, nil, 0, netlink.SCOPE_LINK
		if err := netlink.RouteReplace(felix); err != nil {
			t.Error(err)
		}
		through(t, "10.42.1.7", "vxlan.calico")
		if err := netlink.RouteDel(felix); err != nil {
			t.Error(err)
		}
		through(t, "10.42.1.7", "flannel.1")
		keep(1, "10.42.1.0/24")
		keep(1)
		if routes, err := netlink.RouteGet(net.ParseIP("10.42.1.7")); err == nil {
			t.Errorf("there is still a way: %v", routes)
		}
	})
}

// Leaving flannel's overlay and entering it again, there is a way at every moment.
func TestOverlayIsLeftAndEntered(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		dev := flannel(t)
		calico := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "vxlan.calico"}, VxlanId: 4096, Port: 4789}
		if err := netlink.LinkAdd(calico); err != nil {
			t.Error(err)
		}
		if err := netlink.LinkSetUp(calico); err != nil {
			t.Error(err)
		}
		peers := prefixes("10.42.1.0/24", "10.42.2.0/24")
		if err := EnterOverlay("flannel.1", peers); err != nil {
			t.Error(err)
		}
		if _, err := LeaveOverlay("flannel.1", peers); err == nil || !strings.Contains(err.Error(), "no spare route to 10.42.1.0/24") {
			t.Errorf("left without a spare: %v", err)
		}
		through(t, "10.42.1.7", "flannel.1")
		if _, err := KeepSpares("flannel.1", peers); err != nil {
			t.Error(err)
		}
		for _, want := range []int{2, 0} {
			if n, err := LeaveOverlay("flannel.1", peers); err != nil || n != want {
				t.Errorf("%d routes deleted (%v), want %d", n, err, want)
			}
			through(t, "10.42.1.7", "flannel.1")
		}
		// Felix adds its own, which was refused while flannel's was there.
		felix := direct(calico, peers[0])
		if err := netlink.RouteAdd(felix); err != nil {
			t.Errorf("Felix could not add its route: %v", err)
		}
		through(t, "10.42.1.7", "vxlan.calico")
		through(t, "10.42.2.7", "flannel.1")
		for range 2 {
			if err := EnterOverlay("flannel.1", peers); err != nil {
				t.Error(err)
			}
			through(t, "10.42.1.7", "flannel.1")
		}
		if err := netlink.RouteAdd(direct(dev, peers[0])); err == nil {
			t.Error("flannel's route is not there")
		}
	})
}

func through(t *testing.T, to, device string) {
	t.Helper()
	routes, err := netlink.RouteGet(net.ParseIP(to))
	if err != nil || len(routes) != 1 {
		t.Errorf("no way to %s: %v", to, err)
		return
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil || link.Attrs().Name != device {
		t.Errorf("%s is reached through %v (%v), want %s", to, link.Attrs().Name, err, device)
	}
}
