package cni

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
)

// leave takes the traffic to the peers from flannel's overlay to Calico's, with spares to
// every one of them that carry meanwhile. Where Felix does not take it over in time,
// flannel's routes are put back.
func (o *operation) leave(ctx context.Context) error {
	_, err := o.flannel()
	gone := isGone(err)
	if err != nil && !gone {
		return err
	}
	calico, err := vxlan(o.Calico)
	if err != nil {
		return err
	}
	if calico.Attrs().Flags&net.FlagUp == 0 {
		return fmt.Errorf("device %s is down: nothing is taken off flannel's overlay", o.Calico)
	}
	watch, err := watchRoutes()
	if err != nil {
		return err
	}
	defer watch.close()
	if gone {
		return o.awaitCalico(ctx, watch)
	}
	if len(o.Peers) > 0 {
		if err := o.spares(); err != nil {
			return err
		}
	}
	start := time.Now()
	n, err := LeaveOverlay(o.Device, o.Peers)
	if n > 0 {
		o.changed("%d of flannel's routes through %s deleted", n, o.Device)
	}
	if err != nil && n == 0 {
		return err
	}
	if err == nil {
		err = o.awaitCalico(ctx, watch)
	}
	if err != nil {
		return o.putBack(err)
	}
	if n > 0 {
		o.changed("%d peers are reached through %s alone; Felix took %d ms", len(o.Peers), o.Calico, time.Since(start).Milliseconds())
	}
	return nil
}

// putBack writes flannel's routes again, after why.
func (o *operation) putBack(why error) error {
	if err := EnterOverlay(o.Device, o.Peers); err != nil {
		return fmt.Errorf("%w; and flannel's routes could not be put back, so that the spares carry: %w", why, err)
	}
	o.changed("flannel's routes through %s put back", o.Device)
	return fmt.Errorf("%w; flannel's routes were put back", why)
}

// awaitCalico waits until every address of every peer is reached through Calico's
// device alone.
func (o *operation) awaitCalico(ctx context.Context, watch *routeWatch) error {
	waiting := o.Peers
	for {
		table, err := readRoutes()
		if err != nil {
			return err
		}
		if waiting, err = o.notThroughCalico(table, waiting); err != nil {
			return err
		}
		if len(waiting) == 0 {
			// One that was done before may have been undone since.
			if waiting, err = o.notThroughCalico(table, o.Peers); err != nil || len(waiting) == 0 {
				return err
			}
		}
		if err := watch.next(ctx); err != nil {
			return fmt.Errorf("the way to %s was not taken over by Felix within %s: %w", list5(waiting), o.timeout(), err)
		}
	}
}

func (o *operation) notThroughCalico(table *routeTable, peers []netip.Prefix) ([]netip.Prefix, error) {
	routes, err := o.waysIn(table, peers)
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for _, r := range routes {
		if !slices.Equal(r.Through, []string{o.Calico}) {
			out = append(out, r.Peer)
		}
	}
	return out, nil
}

// routeWatch tells that routes were changed.
type routeWatch struct {
	updates chan netlink.RouteUpdate
	done    chan struct{}
}

// watchBuffer holds what comes while routes are looked at, in bytes.
const watchBuffer = 4 << 20

func watchRoutes() (*routeWatch, error) {
	w := &routeWatch{}
	return w, w.open()
}

func (w *routeWatch) open() error {
	w.updates, w.done = make(chan netlink.RouteUpdate, 1024), make(chan struct{})
	// The larger buffer needs NET_ADMIN, which deleting routes does too.
	err := netlink.RouteSubscribeWithOptions(w.updates, w.done, netlink.RouteSubscribeOptions{
		ReceiveBufferSize: watchBuffer, ReceiveBufferForceSize: true,
	})
	if err != nil {
		return fmt.Errorf("cannot watch the routes: %w", err)
	}
	return nil
}

// next waits for a change, and takes all that are there. When too many came to be
// noted, that is a change as well.
func (w *routeWatch) next(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case _, ok := <-w.updates:
		if !ok {
			return w.reopen()
		}
	}
	for {
		select {
		case _, ok := <-w.updates:
			if !ok {
				return w.reopen()
			}
		default:
			return nil
		}
	}
}

func (w *routeWatch) reopen() error {
	close(w.done)
	return w.open()
}

// close ends the watch; whatever it still has to say is dropped.
func (w *routeWatch) close() {
	close(w.done)
	go func(updates <-chan netlink.RouteUpdate) {
		for range updates {
		}
	}(w.updates)
}
