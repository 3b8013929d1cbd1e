package cni

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NoWay stands in Route.Through for addresses of a peer that cannot be reached, where
// others can.
const NoWay = "none"

// dumpTries bounds how often a list is read anew because it changed meanwhile.
const dumpTries = 10

// dump reads a list from the kernel, whole: one that was changed while it was read
// may lack entries that were there all the time.
func dump[T any](read func() ([]T, error)) (out []T, err error) {
	for range dumpTries {
		if out, err = read(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return out, err
}

// routeTable is what the kernel knows of IPv4 routes, of all tables.
type routeTable struct {
	routes []netlink.Route
	names  map[int]string
}

func readRoutes() (*routeTable, error) {
	routes, err := dump(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list the routes: %w", err)
	}
	links, err := dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("cannot list the devices: %w", err)
	}
	t := &routeTable{routes: routes, names: map[int]string{}}
	for _, l := range links {
		t.names[l.Attrs().Index] = l.Attrs().Name
	}
	return t, nil
}

// has tells whether there is a route of the main table to exactly the peer, through
// the link, with the metric.
func (t *routeTable) has(link int, peer netip.Prefix, metric int) bool {
	return slices.ContainsFunc(t.routes, func(r netlink.Route) bool {
		p, ok := prefixOf(r.Dst)
		return ok && p == peer && r.LinkIndex == link && r.Priority == metric && r.Table == unix.RT_TABLE_MAIN
	})
}

// name is what a device is called.
func (t *routeTable) name(link int) string {
	if name, ok := t.names[link]; ok {
		return name
	}
	return fmt.Sprintf("device %d", link)
}

// parts divides peers into networks inside each of which all addresses have the same
// routes: none of the kernel's routes ends within one.
func (t *routeTable) parts(peers []netip.Prefix) map[netip.Prefix][]netip.Prefix {
	within := map[netip.Prefix]bool{}
	for _, p := range peers {
		within[p] = true
	}
	divided := map[netip.Prefix]bool{}
	for _, r := range t.routes {
		if p, ok := prefixOf(r.Dst); ok {
			divide(divided, within, p)
		}
	}
	out := make(map[netip.Prefix][]netip.Prefix, len(peers))
	for _, p := range peers {
		out[p] = leaves(divided, p, nil)
	}
	return out
}

// divide notes the networks between a route and the peer that it lies in.
func divide(divided, within map[netip.Prefix]bool, route netip.Prefix) {
	var above []netip.Prefix
	for bits := route.Bits() - 1; bits > 0; bits-- {
		p := netip.PrefixFrom(route.Addr(), bits).Masked()
		above = append(above, p)
		if within[p] {
			for _, a := range above {
				divided[a] = true
			}
			return
		}
	}
}

func leaves(divided map[netip.Prefix]bool, p netip.Prefix, out []netip.Prefix) []netip.Prefix {
	if !divided[p] {
		return append(out, p)
	}
	low := netip.PrefixFrom(p.Addr(), p.Bits()+1)
	b := p.Addr().As4()
	b[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	return leaves(divided, netip.PrefixFrom(netip.AddrFrom4(b), p.Bits()+1), leaves(divided, low, out))
}

// best asks the kernel which devices it would send to a peer's parts through. Its
// own answer counts, for rules may choose another table.
func (t *routeTable) best(parts []netip.Prefix) ([]string, error) {
	found := map[string]bool{}
	for _, p := range parts {
		routes, err := netlink.RouteGet(net.IP(p.Addr().AsSlice()))
		switch {
		case unreachable(err):
			found[NoWay] = true
		case err != nil:
			return nil, fmt.Errorf("cannot tell the way to %s: %w", p, err)
		}
		for _, r := range routes {
			found[t.name(r.LinkIndex)] = true
		}
	}
	if found[NoWay] && len(found) == 1 {
		return nil, nil
	}
	var out []string
	for name := range found {
		out = append(out, name)
	}
	slices.Sort(out)
	return out, nil
}

// unreachable tells whether an error of the kernel is the answer that there is no
// way: no route, or one that is unreachable, prohibited or a black hole.
func unreachable(err error) bool {
	for _, e := range []error{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// routes tells how each of the request's peers is reached.
func (o *operation) routes() ([]Route, error) {
	if len(o.Peers) == 0 {
		return nil, nil
	}
	table, err := readRoutes()
	if err != nil {
		return nil, err
	}
	return o.waysIn(table, o.Peers)
}

func (o *operation) waysIn(table *routeTable, peers []netip.Prefix) ([]Route, error) {
	parts := table.parts(peers)
	direct, spare := table.flannels(o.Device)
	out := make([]Route, 0, len(peers))
	for _, p := range peers {
		devices, err := table.best(parts[p])
		if err != nil {
			return nil, err
		}
		out = append(out, Route{Peer: p, Through: devices, Direct: direct[p], Spare: spare[p]})
	}
	return out, nil
}

// flannelDevice is what flannel calls its device where it is not told otherwise.
const flannelDevice = "flannel.1"

// flannels lists where flannel's own routes and the spares lead.
func (t *routeTable) flannels(device string) (direct, spare map[netip.Prefix]bool) {
	if device == "" {
		device = flannelDevice
	}
	direct, spare = map[netip.Prefix]bool{}, map[netip.Prefix]bool{}
	for _, r := range t.routes {
		p, ok := prefixOf(r.Dst)
		if !ok || t.names[r.LinkIndex] != device || r.Table != unix.RT_TABLE_MAIN {
			continue
		}
		switch r.Priority {
		case 0:
			direct[p] = true
		case SpareMetric:
			spare[p] = true
		}
	}
	return direct, spare
}
