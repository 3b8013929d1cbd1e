package cni

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// SpareMetric is the metric of the second way to another node's pods. Flannel and
// Felix write their routes without one, so theirs are preferred as long as there are any.
const SpareMetric = 32760

// KeepSpares makes sure that every peer's pods can still be reached through
// flannel's overlay when nothing better is there: Felix replaces flannel's route
// to a peer with its own, and a peer that goes back takes Felix's away. Spares to
// other networks are removed. It returns how many routes it wrote or removed.
//
// The device must be there: flanneld makes it.
func KeepSpares(device string, peers []netip.Prefix) (changed int, err error) {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return 0, fmt.Errorf("device %s: %w", device, err)
	}
	have, err := spares(link)
	if err != nil {
		return 0, err
	}
	for _, peer := range peers {
		if _, there := have[peer]; there {
			delete(have, peer)
			continue
		}
		if err := netlink.RouteReplace(spare(link, peer)); err != nil {
			return changed, fmt.Errorf("cannot write the spare route to %s through %s: %w", peer, device, err)
		}
		changed++
	}
	for peer := range have {
		if err := netlink.RouteDel(spare(link, peer)); err != nil && !errors.Is(err, syscall.ESRCH) {
			return changed, fmt.Errorf("cannot remove the spare route to %s through %s: %w", peer, device, err)
		}
		changed++
	}
	return changed, nil
}

// LeaveOverlay deletes flannel's own routes to the peers, so that Felix can write
// its own, which it does not while those are there. Until it has, the spares carry;
// a peer without a spare is refused, and nothing is deleted. It returns how many it deleted.
func LeaveOverlay(device string, peers []netip.Prefix) (deleted int, err error) {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return 0, fmt.Errorf("device %s: %w", device, err)
	}
	have, err := spares(link)
	if err != nil {
		return 0, err
	}
	for _, peer := range peers {
		if !have[peer.Masked()] {
			return 0, fmt.Errorf("there is no spare route to %s through %s: without it, its pods could not be reached for a moment", peer, device)
		}
	}
	for _, peer := range peers {
		err := netlink.RouteDel(direct(link, peer))
		if errors.Is(err, syscall.ESRCH) {
			continue
		}
		if err != nil {
			return deleted, fmt.Errorf("cannot delete flannel's route to %s through %s: %w", peer, device, err)
		}
		deleted++
	}
	return deleted, nil
}

// EnterOverlay writes flannel's own routes again, in the place of whatever has the
// same prefix, so that traffic is on flannel's overlay at once. More specific routes of
// Felix's are its own to take away.
func EnterOverlay(device string, peers []netip.Prefix) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return fmt.Errorf("device %s: %w", device, err)
	}
	for _, peer := range peers {
		if err := netlink.RouteReplace(direct(link, peer)); err != nil {
			return fmt.Errorf("cannot write flannel's route to %s through %s: %w", peer, device, err)
		}
	}
	return nil
}

// direct is flannel's own route to a peer.
func direct(link netlink.Link, peer netip.Prefix) *netlink.Route {
	r := spare(link, peer)
	r.Priority, r.Protocol = 0, unix.RTPROT_BOOT
	return r
}

// spare goes to the peer's VTEP, whose address is the first one of its pod
// network: flannel's rule (backend/vxlan in flannel's source).
func spare(link netlink.Link, peer netip.Prefix) *netlink.Route {
	peer = peer.Masked()
	return &netlink.Route{
		LinkIndex: link.Attrs().Index,
		Dst:       &net.IPNet{IP: peer.Addr().AsSlice(), Mask: net.CIDRMask(peer.Bits(), peer.Addr().BitLen())},
		Gw:        peer.Addr().AsSlice(),
		Priority:  SpareMetric,
		Flags:     int(netlink.FLAG_ONLINK),
		Protocol:  unix.RTPROT_STATIC,
	}
}

func spares(link netlink.Link) (map[netip.Prefix]bool, error) {
	routes, err := dump(func() ([]netlink.Route, error) { return netlink.RouteList(link, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("cannot list the routes through %s: %w", link.Attrs().Name, err)
	}
	out := map[netip.Prefix]bool{}
	for _, r := range routes {
		if p, ok := prefixOf(r.Dst); ok && r.Priority == SpareMetric {
			out[p] = true
		}
	}
	return out, nil
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones), ok
}
