// Package netw makes the lab's network: a bridge, and for each node a network
// namespace with one link to it. Everything has a name that begins with Prefix,
// so that it is found without any record.
package netw

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"portcullis.dev/portcullis/deploy/lab/internal/nsrun"
)

const (
	// Prefix of every link and network namespace of the lab.
	Prefix = "plab"
	// Bridge joins the nodes.
	Bridge = Prefix + "0"

	nsDir = "/run/netns"
	// nodeLink is the name of a node's link inside its namespace.
	nodeLink = "eth0"

	// MTU of every link.
	MTU = 1500
)

// NSPath is the path of the namespace of a node.
func NSPath(node string) string { return filepath.Join(nsDir, linkName(node)) }

func linkName(node string) string { return Prefix + "-" + node }

// Owner is the state directory of the lab that the bridge belongs to, or empty
// when there is no bridge.
func Owner() (string, error) {
	link, err := netlink.LinkByName(Bridge)
	if isNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return link.Attrs().Alias, nil
}

// EnsureBridge makes the bridge with its address, as that of the lab owner.
func EnsureBridge(owner, address string, prefixLen int) error {
	link, err := netlink.LinkByName(Bridge)
	if isNotFound(err) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = Bridge
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return fmt.Errorf("make bridge %s: %w", Bridge, err)
		}
		link, err = netlink.LinkByName(Bridge)
	}
	if err != nil {
		return fmt.Errorf("bridge %s: %w", Bridge, err)
	}
	if err := netlink.LinkSetAlias(link, owner); err != nil {
		return fmt.Errorf("bridge %s: %w", Bridge, err)
	}
	if err := netlink.AddrReplace(link, addr(address, prefixLen)); err != nil {
		return fmt.Errorf("address %s on %s: %w", address, Bridge, err)
	}
	return netlink.LinkSetUp(link)
}

// EnsureNode makes a node's network namespace and its link to the bridge, with
// its addresses (the first is the main one) and a default route over gateway.
func EnsureNode(node, gateway string, prefixLen int, addresses ...string) error {
	if err := ensureNS(node); err != nil {
		return fmt.Errorf("network namespace of %s: %w", node, err)
	}
	return in(node, func(h *netlink.Handle) error {
		link, err := h.LinkByName(nodeLink)
		if isNotFound(err) {
			if err = makeVeth(node); err != nil {
				return fmt.Errorf("link of %s: %w", node, err)
			}
			link, err = h.LinkByName(nodeLink)
		}
		if err != nil {
			return fmt.Errorf("link of %s: %w", node, err)
		}
		for _, a := range addresses {
			if err := h.AddrReplace(link, addr(a, prefixLen)); err != nil {
				return fmt.Errorf("address %s on %s: %w", a, node, err)
			}
		}
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		for _, l := range []netlink.Link{lo, link} {
			if err := h.LinkSetUp(l); err != nil {
				return err
			}
		}
		// The source is fixed, for a node may have the API server's address too.
		return h.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(gateway), Src: net.ParseIP(addresses[0])})
	})
}

// AddAddress gives a node a further address, and RemoveAddress takes it away.
func AddAddress(node, address string, prefixLen int) error {
	return in(node, func(h *netlink.Handle) error {
		link, err := h.LinkByName(nodeLink)
		if err != nil {
			return err
		}
		return h.AddrReplace(link, addr(address, prefixLen))
	})
}

// RemoveAddress takes an address away from a node; one that is not there is fine.
func RemoveAddress(node, address string, prefixLen int) error {
	return in(node, func(h *netlink.Handle) error {
		link, err := h.LinkByName(nodeLink)
		if err != nil {
			return err
		}
		if err := h.AddrDel(link, addr(address, prefixLen)); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return err
		}
		return nil
	})
}

// SetLink takes a node's link up or down.
func SetLink(node string, up bool) error {
	link, err := netlink.LinkByName(linkName(node))
	if err != nil {
		return fmt.Errorf("link of %s: %w", node, err)
	}
	if up {
		return netlink.LinkSetUp(link)
	}
	return netlink.LinkSetDown(link)
}

// SetNodeMTU sets what a node believes its uplink can take.
func SetNodeMTU(node string, mtu int) error {
	return in(node, func(h *netlink.Handle) error {
		link, err := h.LinkByName(nodeLink)
		if err != nil {
			return err
		}
		return h.LinkSetMTU(link, mtu)
	})
}

// SetPathMTU sets what passes between the bridge and a node, which the node does
// not see.
func SetPathMTU(node string, mtu int) error {
	link, err := netlink.LinkByName(linkName(node))
	if err != nil {
		return fmt.Errorf("link of %s: %w", node, err)
	}
	return netlink.LinkSetMTU(link, mtu)
}

// AddRoute sends what a node has for cidr to another node.
func AddRoute(node, cidr, via string) error {
	_, dst, err := net.ParseCIDR(cidr)
	if err != nil {
		return err
	}
	return in(node, func(h *netlink.Handle) error {
		return h.RouteReplace(&netlink.Route{Dst: dst, Gw: net.ParseIP(via)})
	})
}

// Found are the names of what the lab has made: links and namespaces.
func Found() (links, namespaces []string, err error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, nil, err
	}
	for _, l := range all {
		if n := l.Attrs().Name; n == Bridge || strings.HasPrefix(n, Prefix+"-") {
			links = append(links, n)
		}
	}
	files, err := filepath.Glob(filepath.Join(nsDir, Prefix+"-*"))
	for _, f := range files {
		namespaces = append(namespaces, filepath.Base(f))
	}
	return links, namespaces, err
}

// RemoveAll takes away every link, namespace and rule of the lab.
func RemoveAll() error {
	links, namespaces, err := Found()
	errs := []error{err, removeBlocks()}
	for _, n := range namespaces {
		errs = append(errs, removeNS(n))
	}
	for _, n := range links {
		errs = append(errs, removeLink(n))
	}
	return errors.Join(errs...)
}

// RemoveNode takes a node's namespace away with all that is in it: its link,
// devices, addresses, routes and rules. What runs there must have ended.
func RemoveNode(node string) error {
	return errors.Join(removeNS(linkName(node)), removeLink(linkName(node)))
}

// removeNS takes a name away, and with the last name the namespace.
func removeNS(name string) error {
	path := filepath.Join(nsDir, name)
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func removeLink(name string) error {
	link, err := netlink.LinkByName(name)
	if isNotFound(err) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	// A link goes with its namespace at any moment.
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete link %s: %w", name, err)
	}
	return nil
}

func ensureNS(node string) error {
	if h, err := netns.GetFromPath(NSPath(node)); err == nil {
		defer h.Close()
		// A file that is left from a crash, without a namespace on it, is no good.
		if nsrun.Do(nsrun.Target{NetNS: NSPath(node)}, func() error { return nil }) == nil {
			return nil
		}
		if err := os.Remove(NSPath(node)); err != nil {
			return err
		}
	}
	return nsrun.Do(nsrun.Target{}, func() error {
		h, err := netns.NewNamed(linkName(node))
		if err != nil {
			return err
		}
		defer h.Close()
		return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644)
	})
}

func makeVeth(node string) error {
	ns, err := netns.GetFromPath(NSPath(node))
	if err != nil {
		return err
	}
	defer ns.Close()
	bridge, err := netlink.LinkByName(Bridge)
	if err != nil {
		return err
	}
	// The half of a pair whose other half is gone is gone too, so a link of this
	// name can only be one that did not make it into the namespace.
	if old, err := netlink.LinkByName(linkName(node)); err == nil {
		if err := netlink.LinkDel(old); err != nil {
			return err
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = linkName(node), bridge.Attrs().Index
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: nodeLink, PeerNamespace: netlink.NsFd(int(ns))}
	if err := netlink.LinkAdd(veth); err != nil {
		return err
	}
	return netlink.LinkSetUp(veth)
}

func in(node string, f func(*netlink.Handle) error) error {
	ns, err := netns.GetFromPath(NSPath(node))
	if err != nil {
		return fmt.Errorf("network namespace of %s: %w", node, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return err
	}
	defer h.Close()
	return f(h)
}

func addr(address string, prefixLen int) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(address).To4(), Mask: net.CIDRMask(prefixLen, 32)}}
}

func isNotFound(err error) bool {
	var nf netlink.LinkNotFoundError
	return errors.As(err, &nf)
}
