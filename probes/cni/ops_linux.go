package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
)

// operation is one Op on this node.
type operation struct {
	*Request
	host    Host
	store   *Store
	changes []string
}

// serve does what is asked for, and tells the node's state after it.
func serve(ctx context.Context, host Host, req *Request) (reply Reply) {
	ctx, cancel := context.WithTimeout(ctx, req.timeout())
	defer cancel()
	o := &operation{Request: req, host: host}
	err := o.open()
	if err == nil {
		defer func() { _ = o.store.Close() }() // folders, opened to be read and written through
		err = guarded(func() error { return o.do(ctx) })
	}
	if err != nil {
		reply.Error = fmt.Sprintf("%s: %v", req.Op, err)
	}
	reply.Changes = o.changes
	if err := guarded(func() error { reply.State = o.look(); return nil }); err != nil {
		reply.State.Unknown = append(reply.State.Unknown, oneLine(err.Error()))
	}
	return reply
}

// guarded makes a panic an error, so that there is a reply in any case.
func guarded(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("it failed with a fault of Portcullis: %v", r)
		}
	}()
	return f()
}

// open opens the store. Copies are kept in a folder of their own.
func (o *operation) open() (err error) {
	o.store, err = OpenStore(o.host.Conf, filepath.Join(o.host.Keep, "cni"))
	return err
}

func (o *operation) changed(format string, args ...any) {
	o.changes = append(o.changes, fmt.Sprintf(format, args...))
}

func (o *operation) do(ctx context.Context) error {
	if o.Op == OpLook {
		return nil
	}
	if o.Op == OpPing {
		return o.ping(ctx)
	}
	unlock, err := o.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	switch o.Op {
	case OpSave:
		return o.save()
	case OpSpares:
		return o.spares()
	case OpLeave:
		return o.leave(ctx)
	case OpEnter:
		return o.enter()
	case OpRestore:
		return o.restore(ctx)
	case OpUnlink:
		return o.unlink()
	case OpClean:
		return o.clean(ctx)
	case OpForget:
		return o.forget()
	}
	return fmt.Errorf("%q is not known", o.Op)
}

// lockRetry is the time between two attempts at a lock that another process has.
const lockRetry = 50 * time.Millisecond

// lock lets one process change the node at a time: one whose connection broke may
// still be at work when the same is asked for again. It ends with the process. The
// folder itself is locked, so that no file is left of it.
func (o *operation) lock(ctx context.Context) (unlock func(), err error) {
	f, err := o.store.keep.Open(".")
	if err != nil {
		return nil, fmt.Errorf("cannot open the folder that is the migrator's lock: %w", err)
	}
	if err := flock(ctx, f); err != nil {
		return nil, errors.Join(fmt.Errorf("another migrator is at work on the node, and has not ended in time: %w", err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// flock takes a lock, which ends when the file is closed.
func flock(ctx context.Context, f *os.File) error {
	ticker := time.NewTicker(lockRetry)
	defer ticker.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil || !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

func (o *operation) save() error {
	before, err := o.store.Saved(o.Migration)
	if err != nil || before != nil {
		return err
	}
	snap, err := o.store.Save(o.Migration, time.Now())
	if err != nil {
		return err
	}
	o.changed("saved %d files of the CNI configuration", len(snap.Files))
	return nil
}

func (o *operation) forget() error {
	before, err := o.store.Saved(o.Migration)
	if err != nil {
		return err
	}
	if err := o.store.Forget(o.Migration); err != nil {
		return err
	}
	if before != nil {
		o.changed("removed the saved CNI configuration")
	}
	return nil
}

// spares also removes spares where flannel's device is gone, and they with it.
func (o *operation) spares() error {
	if len(o.Peers) == 0 {
		if err := o.removeBlackholes(); err != nil {
			return err
		}
	}
	link, err := o.flannel()
	if isGone(err) && len(o.Peers) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	n, err := KeepSpares(link.Attrs().Name, o.Peers)
	if n > 0 {
		o.changed("%d spare routes through %s written or removed", n, o.Device)
	}
	return err
}

// flannel is flannel's device. Another kind of device is refused, for routes and
// devices are deleted by its name.
func (o *operation) flannel() (netlink.Link, error) { return vxlan(o.Device) }

// isGone tells whether an error is that there is no such device.
func isGone(err error) bool {
	var missing netlink.LinkNotFoundError
	return errors.As(err, &missing)
}

func vxlan(name string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("device %s: %w", name, err)
	}
	if link.Type() != "vxlan" {
		return nil, fmt.Errorf("device %s is not a VXLAN device but %s", name, link.Type())
	}
	return link, nil
}

func (o *operation) enter() error {
	link, err := o.flannel()
	if err != nil {
		return err
	}
	table, err := readRoutes()
	if err != nil {
		return err
	}
	missing := 0
	for _, peer := range o.Peers {
		if !table.has(link.Attrs().Index, peer, 0) {
			missing++
		}
	}
	if err := EnterOverlay(o.Device, o.Peers); err != nil {
		return err
	}
	if missing > 0 {
		o.changed("%d of flannel's routes through %s written", missing, o.Device)
	}
	return nil
}

// unlink deletes flannel's device, once nothing goes through it.
func (o *operation) unlink() error {
	link, err := o.flannel()
	if isGone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	routes, err := o.routes()
	if err != nil {
		return err
	}
	if still := peersThrough(routes, func(device string) bool { return device == o.Device }); len(still) > 0 {
		return fmt.Errorf("%s is reached through %s still: without the device its pods would be cut off", list5(still), o.Device)
	}
	if err := netlink.LinkDel(link); err != nil {
		return fmt.Errorf("cannot delete %s: %w", o.Device, err)
	}
	o.changed("deleted the device %s, and its routes", o.Device)
	return nil
}

// peersThrough lists the peers some of whose addresses are reached through a device of the kind.
func peersThrough(routes []Route, kind func(device string) bool) (peers []netip.Prefix) {
	for _, r := range routes {
		for _, d := range r.Through {
			if kind(d) {
				peers = append(peers, r.Peer)
				break
			}
		}
	}
	return peers
}

// list5 names the first five, and says how many more there are.
func list5[T fmt.Stringer](all []T) string {
	var names []string
	for _, v := range all[:min(len(all), 5)] {
		names = append(names, v.String())
	}
	text := strings.Join(names, ", ")
	if more := len(all) - len(names); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
