package wire

import (
	"context"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"portcullis.dev/portcullis/probes"
)

// dialed is a connection that was tried.
type dialed struct {
	finding
	// conn is open when the finding is allowed, and then the caller's to close.
	conn *os.File
}

// dial connects to an address. What is not answered at half the time-out is
// tried again from another port while the first attempt goes on, so that one lost
// packet is not taken for a policy.
func (r *runner) dial(ctx context.Context, ns *namespace, to netip.AddrPort, deadline time.Time) dialed {
	timeout := time.Until(deadline)
	if timeout <= 0 {
		// What was not waited for is not silence.
		return dialed{finding: failed("no time was left to connect to %s", to)}
	}
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan dialed, 2)
	attempt := func(d time.Duration) { results <- r.attempt(ctx, ns, to, d) }
	go attempt(timeout)
	running := 1
	// No attempt outlives the call: it would open sockets in a namespace that may be closed.
	defer func() {
		cancel()
		discard(results, running)
	}()
	half := time.NewTimer(timeout / 2)
	defer half.Stop()
	last := dialed{}
	for running > 0 {
		select {
		case <-half.C:
			running++
			go attempt(timeout / 2)
		case last = <-results:
			running--
			if !last.silent {
				return last
			}
		}
	}
	return last
}

// discard closes what attempts that are not needed any more have opened.
func discard(results <-chan dialed, n int) {
	for range n {
		if d := <-results; d.conn != nil {
			d.conn.Close()
		}
	}
}

// attempt waits for an answer for the whole timeout, from when the first packet left:
// a node that is busy gets to that late.
func (r *runner) attempt(ctx context.Context, ns *namespace, to netip.AddrPort, timeout time.Duration) dialed {
	f, err := r.thread.open(ns, unix.SOCK_STREAM, to)
	if err == nil {
		err = connectUntil(ctx, f, time.Now().Add(timeout))
	}
	if err == nil {
		return dialed{finding: finding{outcome: probes.Allowed}, conn: f}
	}
	if f != nil {
		defer f.Close()
	}
	switch {
	case ctx.Err() != nil:
		return dialed{finding: failed("cancelled")}
	case isSilence(err):
		return dialed{finding: finding{outcome: probes.Dropped, silent: true}}
	case isReset(err):
		// A reset is the destination's; an ICMP error that the kernel reports
		// as "connection refused" too is a filter's.
		if from, what, ok := icmpSource(f); ok {
			return dialed{finding: failed("turned away on the way to %s: ICMP %s from %s", to, what, from)}
		}
		return dialed{finding: finding{outcome: probes.Refused}}
	}
	return dialed{finding: explain(f, err, to)}
}

func connectUntil(ctx context.Context, f *os.File, deadline time.Time) error {
	stop, err := endAt(ctx, f, deadline)
	if err != nil {
		return err
	}
	defer stop()
	return awaitConnect(f)
}

// tcp is a TCP probe.
func (r *runner) tcp(ctx context.Context, ns *namespace, to netip.AddrPort, deadline time.Time) finding {
	d := r.dial(ctx, ns, to, deadline)
	if d.conn != nil {
		d.conn.Close()
	}
	return d.finding
}
