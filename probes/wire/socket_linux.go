package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"portcullis.dev/portcullis/probes"
)

// finding is what one attempt found.
type finding struct {
	outcome probes.Outcome
	detail  string
	// silent is true when nothing came back.
	silent bool
}

func failed(format string, args ...any) finding {
	return finding{outcome: probes.Error, detail: fmt.Sprintf(format, args...)}
}

// errIncomplete is returned for a socket that has neither connected nor failed.
var errIncomplete = errors.New("the socket is neither connected nor failed")

// open opens a socket in ns and starts connecting it; the file waits in the Go poller.
func (t *netThread) open(ns *namespace, kind int, to netip.AddrPort) (*os.File, error) {
	family, level, option := unix.AF_INET, unix.SOL_IP, unix.IP_RECVERR
	if to.Addr().Is6() {
		family, level, option = unix.AF_INET6, unix.SOL_IPV6, unix.IPV6_RECVERR
	}
	fd, err := t.socket(ns, family, kind, 0)
	if err != nil {
		return nil, err
	}
	// Who sent an ICMP error is only kept when it is asked for.
	if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("setsockopt", err)
	}
	if kind == unix.SOCK_STREAM {
		// A reset at the end leaves no port in TIME_WAIT in the pod and only
		// a short-lived entry in the node's connection tracking.
		if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			unix.Close(fd)
			return nil, os.NewSyscallError("setsockopt", err)
		}
	}
	if err := unix.Connect(fd, sockaddr(to)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		f := os.NewFile(uintptr(fd), "probe")
		return f, os.NewSyscallError("connect", err)
	}
	return os.NewFile(uintptr(fd), "probe"), nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is6() {
		return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	}
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}

// awaitConnect waits until the socket is connected (nil), has failed (its
// error), or its deadline passes (os.ErrDeadlineExceeded).
func awaitConnect(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	result := errIncomplete
	err = raw.Write(func(fd uintptr) bool {
		// The poller may wake up before the handshake is through.
		result = connectState(int(fd))
		return !errors.Is(result, errIncomplete)
	})
	if err == nil {
		return result
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	// On a busy node the deadline can be noticed before an answer that came in
	// time. The kernel knows, and only it may say that there was silence.
	ctlErr := raw.Control(func(fd uintptr) { result = connectState(int(fd)) })
	if ctlErr != nil || errors.Is(result, errIncomplete) {
		return err
	}
	return result
}

// connectState is nil for a socket that is connected, its error for one that
// has failed, and errIncomplete for one that still waits.
func connectState(fd int) error {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	switch {
	case err != nil:
		return os.NewSyscallError("getsockopt", err)
	case code != 0:
		return syscall.Errno(code)
	}
	if _, err := unix.Getpeername(fd); err != nil {
		return errIncomplete
	}
	return nil
}

// icmpSource tells which host answered with an ICMP error in the socket's
// error queue, and with what.
func icmpSource(f *os.File) (from netip.Addr, what string, ok bool) {
	raw, err := f.SyscallConn()
	if err != nil {
		return netip.Addr{}, "", false
	}
	oob := make([]byte, 512)
	n := 0
	err = raw.Control(func(fd uintptr) {
		_, n, _, _, err = unix.Recvmsg(int(fd), make([]byte, 64), oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
	})
	if err != nil || n <= 0 {
		return netip.Addr{}, "", false
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return netip.Addr{}, "", false
	}
	for _, m := range msgs {
		if from, what, ok := parseExtendedError(m.Data); ok {
			return from, what, true
		}
	}
	return netip.Addr{}, "", false
}

// The layout of struct sock_extended_err and of the address behind it.
const (
	extendedErrorSize = 16
	originICMP        = 2
	originICMP6       = 3
)

func parseExtendedError(b []byte) (from netip.Addr, what string, ok bool) {
	if len(b) < extendedErrorSize+8 {
		return netip.Addr{}, "", false
	}
	origin, kind, code := b[4], b[5], b[6]
	addr := b[extendedErrorSize:]
	switch family := binary.NativeEndian.Uint16(addr); {
	case origin == originICMP && family == unix.AF_INET:
		return netip.AddrFrom4([4]byte(addr[4:8])), icmpName(kind, code), true
	case origin == originICMP6 && family == unix.AF_INET6 && len(addr) >= 24:
		return netip.AddrFrom16([16]byte(addr[8:24])).Unmap(), icmp6Name(kind, code), true
	}
	return netip.Addr{}, "", false
}

func icmpName(kind, code byte) string {
	if kind == 3 {
		switch code {
		case 0:
			return "network unreachable"
		case 1:
			return "host unreachable"
		case 3:
			return "port unreachable"
		case 9, 10, 13:
			return "administratively prohibited"
		}
	}
	return fmt.Sprintf("type %d code %d", kind, code)
}

func icmp6Name(kind, code byte) string {
	if kind == 1 {
		switch code {
		case 0:
			return "no route"
		case 1, 5, 6:
			return "administratively prohibited"
		case 3:
			return "address unreachable"
		case 4:
			return "port unreachable"
		}
	}
	return fmt.Sprintf("type %d code %d", kind, code)
}

// endAt sets the deadline of f, and moves it into the past when ctx ends: a
// cancelled measurement must not wait for silence.
func endAt(ctx context.Context, f *os.File, deadline time.Time) (stop func() bool, err error) {
	// In this order, or the deadline could be set over that of the cancellation.
	if err := f.SetDeadline(deadline); err != nil {
		return nil, err
	}
	return context.AfterFunc(ctx, func() { _ = f.SetDeadline(time.Unix(1, 0)) }), nil
}

// isSilence tells whether err means that nothing came back in time.
func isSilence(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, unix.ETIMEDOUT)
}

// isReset tells whether err means that the other side said no.
func isReset(err error) bool {
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ECONNRESET)
}

// explain turns an error of the operating system into a finding. It is called
// with the socket, where there is one, before that is closed.
func explain(f *os.File, err error, to netip.AddrPort) finding {
	if f != nil {
		if from, what, ok := icmpSource(f); ok {
			return failed("turned away on the way to %s: ICMP %s from %s", to, what, from)
		}
	}
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		return failed("the pod has no free port left to connect from")
	}
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return failed("a filter inside the pod's own namespace turned it away: %v", err)
	}
	return failed("%v", err)
}
