package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"portcullis.dev/portcullis/probes"
	"portcullis.dev/portcullis/probes/preflight"
)

// Bounds of a round.
const (
	// atOnce bounds peers that are tried at the same time.
	atOnce = 256
	// headers are those of IP and UDP.
	headers = 28
)

// reach tries every peer on every path and reports what came back.
func (s *session) reach(ctx context.Context, req *Request) {
	slots := make(chan struct{}, atOnce)
	var running sync.WaitGroup
	pace := max(time.Millisecond, min(10*time.Millisecond, 300*time.Millisecond/time.Duration(max(len(req.Peers), 1))))
	for i := range req.Peers {
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			// A broken output is seen by the message that ends the answer.
			_ = s.out.Write(Message{Type: MessageReached, Peer: req.Peers[i].ID, Answers: s.peer(ctx, req, req.Peers[i])})
		})
		select {
		case <-ctx.Done():
		case <-time.After(pace):
		}
	}
	running.Wait()
}

// peer tries one peer on every path, all at the same time.
func (s *session) peer(ctx context.Context, req *Request, p Peer) []PathAnswer {
	answers := make([]PathAnswer, len(req.Paths))
	var running sync.WaitGroup
	sized := false
	for i, path := range req.Paths {
		running.Go(func() { answers[i] = s.try(ctx, req, p, path) })
		if path.Protocol == "udp" && !sized {
			sized = true
			running.Go(func() { sendSizes(ctx, req, p, path.Port) })
		}
	}
	running.Wait()
	return answers
}

func (s *session) try(ctx context.Context, req *Request, p Peer, path preflight.Path) PathAnswer {
	switch path.Protocol {
	case "tcp":
		got := s.host.TCP(ctx, addrPort(p.Address, path.Port), req.timeout())
		return answerOf(got.Outcome, got.TurnedAway, got.Silent, got.Detail)
	case "udp":
		got := s.host.UDP(ctx, addrPort(p.Address, path.Port), payload(req.Session, req.Round, req.Self), req.timeout())
		return answerOf(got.Outcome, got.TurnedAway, got.Silent, got.Detail)
	}
	return sendIP(ctx, req, p, path.Port)
}

func answerOf(o probes.Outcome, turnedAway, silent bool, detail string) PathAnswer {
	a := PathAnswer{Answer: preflight.Untold, Silent: silent}
	switch {
	case turnedAway:
		a.Answer, a.Detail = preflight.Filtered, detail
	case silent || o == probes.Dropped:
		a.Answer, a.Silent = preflight.Filtered, true
	case o == probes.Allowed:
		a.Answer = preflight.Open
	case o == probes.Refused:
		a.Answer, a.Detail = preflight.Refused, detail
	default:
		a.Detail = detail
	}
	return a
}

// twice does something at once and again after half the time-out, unless ctx ends.
func twice(ctx context.Context, timeout time.Duration, do func() error) error {
	err := do()
	select {
	case <-ctx.Done():
		return errors.Join(err, ctx.Err())
	case <-time.After(timeout / 2):
	}
	return errors.Join(err, do())
}

// sendIP sends packets of an IP protocol. Nothing ever answers them.
func sendIP(ctx context.Context, req *Request, p Peer, protocol int) PathAnswer {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return PathAnswer{Answer: preflight.Untold, Detail: fmt.Sprintf("cannot send IP protocol %d: %v", protocol, err)}
	}
	defer unix.Close(fd)
	to := &unix.SockaddrInet4{Addr: addrPort(p.Address, 0).Addr().As4()}
	err = twice(ctx, req.timeout(), func() error {
		return unix.Sendto(fd, payload(req.Session, req.Round, req.Self), 0, to)
	})
	if err != nil {
		return PathAnswer{Answer: preflight.Untold, Detail: fmt.Sprintf("cannot send IP protocol %d: %v", protocol, err)}
	}
	return PathAnswer{Answer: preflight.Filtered, Silent: true}
}

// sendSizes sends one datagram of each size, twice, with the do-not-fragment bit
// and regardless of what the kernel believes of the path. What is larger than
// the node's own interface takes is not sent, and so does not arrive.
func sendSizes(ctx context.Context, req *Request, p Peer, port int) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE); err != nil {
		return
	}
	to := &unix.SockaddrInet4{Port: port, Addr: addrPort(p.Address, port).Addr().As4()}
	line := payload(req.Session, req.Round, req.Self)
	_ = twice(ctx, req.timeout(), func() error {
		for _, size := range req.Sizes {
			packet := make([]byte, size-headers)
			copy(packet, line)
			_ = unix.Sendto(fd, packet, 0, to)
		}
		return nil
	})
}

// memInfo reads SO_MEMINFO.
func memInfo(fd int) (info [memInfoLength]uint32, err error) {
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return info, os.NewSyscallError("getsockopt", errno)
	}
	return info, nil
}
