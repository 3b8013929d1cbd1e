package cni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// residue is one thing that Canal or flannel left on the node.
type residue struct {
	what string
	// remove takes it away; nil where that is not for OpClean to do.
	remove func(context.Context) error
}

// residues finds everything that is left. What could not be looked at is in unknown.
func (o *operation) residues() (found []residue, unknown []error) {
	for _, look := range []func() ([]residue, error){
		deviceResidue, o.routeResidue, nftResidue, o.oldResidue, o.fileResidue, o.addressResidue, o.runResidue,
	} {
		some, err := look()
		found = append(found, some...)
		if err != nil {
			unknown = append(unknown, err)
		}
	}
	return found, unknown
}

// clean removes what it may. Everything is tried, whatever fails; what could not be
// looked at is a failure too.
func (o *operation) clean(ctx context.Context) error {
	found, failed := o.residues()
	for _, r := range found {
		if r.remove == nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			failed = append(failed, fmt.Errorf("%s is left: %w", r.what, err))
			break
		}
		if err := r.remove(ctx); err != nil {
			failed = append(failed, fmt.Errorf("cannot remove %s: %w", r.what, err))
			continue
		}
		o.changed("removed %s", r.what)
	}
	return together(failed)
}

// together makes one error of several, on one line.
func together(all []error) error {
	if len(all) == 0 {
		return nil
	}
	var texts []string
	for _, err := range all {
		texts = append(texts, err.Error())
	}
	return errors.New(strings.Join(texts, "; "))
}

// podBridge is what the bridge plugin makes for pods that do not hang on Calico's veths.
const podBridge = "cni0"

// isFlannels tells whether a device is one that flannel makes.
func isFlannels(l netlink.Link) bool {
	name := l.Attrs().Name
	return l.Type() == "vxlan" && (strings.HasPrefix(name, "flannel.") || strings.HasPrefix(name, "flannel-v6."))
}

// deviceResidue finds flannel's devices, which OpUnlink deletes, and a bridge that no
// pod hangs on.
func deviceResidue() ([]residue, error) {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("the devices cannot be listed: %w", err)
	}
	var out []residue
	for _, l := range links {
		ports := slices.ContainsFunc(links, func(p netlink.Link) bool { return p.Attrs().MasterIndex == l.Attrs().Index })
		switch {
		case isFlannels(l):
			out = append(out, residue{what: "device " + l.Attrs().Name})
		case l.Type() == "bridge" && l.Attrs().Name == podBridge && !ports:
			out = append(out, residue{what: "device " + podBridge, remove: func(context.Context) error { return deleteBridge(l) }})
		}
	}
	return out, nil
}

func deleteBridge(l netlink.Link) error {
	if err := netlink.LinkDel(l); err != nil && !errors.Is(err, syscall.ENODEV) {
		return err
	}
	return nil
}

// routeResidue finds routes through flannel's devices, the spares among them, which go
// with the devices, and flannel's black hole of the node's own pod network. Calico's
// black holes have another protocol, and so stay.
func (o *operation) routeResidue() ([]residue, error) {
	table, err := readRoutes()
	if err != nil {
		return nil, err
	}
	through := map[string]int{}
	var out []residue
	var unsure bool
	for _, r := range table.routes {
		p, ok := prefixOf(r.Dst)
		name := table.names[r.LinkIndex]
		switch {
		case !ok || r.Table != unix.RT_TABLE_MAIN:
		case r.Type == unix.RTN_BLACKHOLE && r.Protocol == unix.RTPROT_BOOT:
			unsure = unsure || !o.Own.IsValid()
			if p == o.Own {
				out = append(out, residue{what: fmt.Sprintf("route blackhole %s", p), remove: func(context.Context) error { return o.deleteBlackhole() }})
			}
		case strings.HasPrefix(name, "flannel.") || strings.HasPrefix(name, "flannel-v6."):
			through[name]++
		}
	}
	for name, n := range through {
		out = append(out, residue{what: fmt.Sprintf("%d routes through %s", n, name)})
	}
	if unsure {
		err = errors.New("whether a black hole is flannel's cannot be told: the request does not have the node's own pod network")
	}
	return out, err
}

// deleteBlackhole deletes flannel's black hole, and not Calico's of the same network.
func (o *operation) deleteBlackhole() error {
	dst := direct(&netlink.Dummy{}, o.Own).Dst
	err := netlink.RouteDel(&netlink.Route{Dst: dst, Type: unix.RTN_BLACKHOLE, Protocol: unix.RTPROT_BOOT, Table: unix.RT_TABLE_MAIN})
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// felixProtocol marks the routes that Felix writes beside its overlay
// (felix/dataplane/linux/vxlan_mgr.go, defaultVXLANProto).
const felixProtocol = 80

// removeBlackholes removes Felix's black holes in the node's own pod network once its
// overlay is gone: a Felix that starts without one does not know them any more.
func (o *operation) removeBlackholes() error {
	if _, err := netlink.LinkByName(o.Calico); !o.Own.IsValid() || o.Calico == "" || !isGone(err) {
		return nil
	}
	table, err := readRoutes()
	if err != nil {
		return err
	}
	for _, r := range table.routes {
		p, ok := prefixOf(r.Dst)
		if !ok || r.Table != unix.RT_TABLE_MAIN || r.Type != unix.RTN_BLACKHOLE || r.Protocol != felixProtocol || !o.Own.Overlaps(p) || p.Bits() < o.Own.Bits() {
			continue
		}
		err := netlink.RouteDel(&netlink.Route{Dst: r.Dst, Type: unix.RTN_BLACKHOLE, Protocol: felixProtocol, Priority: r.Priority, Table: unix.RT_TABLE_MAIN})
		if err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("cannot remove the black hole %s: %w", p, err)
		}
		o.changed("removed Felix's black hole %s", p)
	}
	return nil
}

// canals tells whether a configuration is Canal's, or flannel's own.
func canals(f File) bool {
	return f.Config() && (f.Name == "10-canal.conflist" || slices.Contains(f.Plugins, "flannel"))
}

// fileResidue finds Canal's configurations, and what Portcullis left beside them.
func (o *operation) fileResidue() ([]residue, error) {
	files, err := o.store.Read()
	if err != nil {
		return nil, err
	}
	var out []residue
	for _, f := range files {
		if canals(f) {
			out = append(out, residue{what: "file " + f.Name, remove: func(context.Context) error { return o.retire(f) }})
		}
	}
	leftovers, err := o.store.Leftovers()
	if err != nil {
		return out, err
	}
	for _, name := range leftovers {
		out = append(out, residue{what: "file " + name, remove: func(context.Context) error { return o.store.Discard(o.Migration, name) }})
	}
	return out, nil
}

// retire removes a configuration of Canal that was saved, where the container runtime
// has another one to use.
func (o *operation) retire(f File) error {
	files, err := o.store.Read()
	if err != nil {
		return err
	}
	other := slices.ContainsFunc(files, func(f File) bool { return f.Config() && !canals(f) && len(f.Plugins) > 0 })
	if !other {
		return errors.New("there is no other CNI configuration: without it, no pod could be started")
	}
	if err := o.store.Retire(o.Migration, f.Name); err != nil {
		return err
	}
	return o.store.Discard(o.Migration, f.Name+retired)
}

// addressResidue finds host-local's folder of the pods' network, once no configuration
// gives addresses from it.
func (o *operation) addressResidue() ([]residue, error) {
	files, err := o.store.Read()
	if err != nil {
		return nil, err
	}
	active := Active(files)
	network := o.Network
	if network == "" && active != nil {
		network = active.Network
	}
	if active == nil || active.IPAM == "" || active.IPAM == "host-local" || !cniName.MatchString(network) {
		return nil, nil
	}
	folder := filepath.Join(o.host.Networks, network)
	if _, err := os.Lstat(folder); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("host-local's folder cannot be looked at: %w", err)
	}
	what := "folder " + path.Join("/var/lib/cni/networks", network)
	return []residue{{what: what, remove: func(context.Context) error { return o.removeAddresses(network) }}}, nil
}

func (o *operation) removeAddresses(network string) error {
	root, err := os.OpenRoot(o.host.Networks)
	if err != nil {
		return err
	}
	return errors.Join(root.RemoveAll(network), root.Close())
}

// runResidue finds the file by which flannel's CNI plugin knows its network.
func (o *operation) runResidue() ([]residue, error) {
	const name = "subnet.env"
	file := filepath.Join(o.host.Run, name)
	if _, err := os.Lstat(file); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("flannel's runtime folder cannot be looked at: %w", err)
	}
	return []residue{{what: "file " + path.Join("/run/flannel", name), remove: func(context.Context) error { return ignoreMissing(os.Remove(file)) }}}, nil
}
