package wire

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"portcullis.dev/portcullis/probes"
)

// maxDatagram is the largest answer that is read. What is longer is cut.
const maxDatagram = 4096

// exchange sends a datagram and waits for one that accept takes. It is sent
// again at half the time. The finding is silent when nothing came back.
func (r *runner) exchange(ctx context.Context, ns *namespace, to netip.AddrPort, payload []byte, deadline time.Time, accept func([]byte) bool) finding {
	timeout := time.Until(deadline)
	if timeout <= 0 {
		// What was not waited for is not silence.
		return failed("no time was left to ask %s", to)
	}
	f, err := r.thread.open(ns, unix.SOCK_DGRAM, to)
	if f != nil {
		defer f.Close()
	}
	if err != nil {
		return explain(f, err, to)
	}
	for range 2 {
		stop, err := endAt(ctx, f, time.Now().Add(timeout/2))
		if err != nil {
			return failed("%v", err)
		}
		err = sendAndReceive(f, payload, accept)
		stop()
		if ctx.Err() != nil {
			return failed("cancelled")
		}
		switch {
		case err == nil:
			return finding{outcome: probes.Allowed}
		case isSilence(err):
			continue
		}
		return explainDatagram(f, err, to)
	}
	return finding{outcome: probes.Dropped, silent: true}
}

func sendAndReceive(f *os.File, payload []byte, accept func([]byte) bool) error {
	if _, err := f.Write(payload); err != nil {
		return err
	}
	buf := make([]byte, maxDatagram)
	for {
		n, err := f.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			n, err = lastLook(f, buf)
		}
		// An empty datagram is an answer; os.File takes it for the end of a file.
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if accept(buf[:n]) {
			return nil
		}
	}
}

// lastLook reads what is there when the deadline has passed: on a busy node
// that can be noticed before an answer that came in time.
func lastLook(f *os.File, buf []byte) (int, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	n, recvErr := 0, error(nil)
	if err := raw.Control(func(fd uintptr) { n, _, recvErr = unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT) }); err != nil {
		return 0, err
	}
	if errors.Is(recvErr, unix.EAGAIN) {
		return 0, os.ErrDeadlineExceeded
	}
	return max(n, 0), recvErr
}

// explainDatagram tells a port unreachable that the destination sent, which
// means that the path is open, from one that was sent on the way.
func explainDatagram(f *os.File, err error, to netip.AddrPort) finding {
	if !errors.Is(err, unix.ECONNREFUSED) {
		return explain(f, err, to)
	}
	from, what, ok := icmpSource(f)
	if ok && from != to.Addr() {
		return failed("turned away on the way to %s: ICMP %s from %s", to, what, from)
	}
	return finding{outcome: probes.Refused, detail: "port unreachable"}
}

// udp is a UDP probe. Silence is left to Settle.
func (r *runner) udp(ctx context.Context, ns *namespace, to netip.AddrPort, payload []byte, deadline time.Time) finding {
	got := r.exchange(ctx, ns, to, payload, deadline, func([]byte) bool { return true })
	if got.silent {
		got.outcome, got.detail = probes.Error, "silence; no witness was listening at the destination"
	}
	return got
}
