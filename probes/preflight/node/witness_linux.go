package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"portcullis.dev/portcullis/probes/preflight"
)

// witness awaits packets of one session.
type witness struct {
	session string
	// end ends it, and with it the connections that are kept in held.
	end       context.CancelFunc
	held      chan struct{}
	listeners []net.Listener
	raw       []*os.File
	// paths maps protocol and port to the path's index.
	paths map[preflight.Path]int
	// failed are paths that cannot be awaited.
	failed  map[int]string
	running sync.WaitGroup

	mu   sync.Mutex
	seen map[sightKey]*Sighting
	// full is set when something could not be remembered any more.
	full bool
}

type sightKey struct{ round, from int }

const (
	// maxSeen bounds what is remembered between two collects.
	maxSeen = 1 << 16
	// maxHeld bounds the connections that are kept, of which every peer makes two at most on a path.
	maxHeld = 512
)

// listen awaits packets until it is closed or ctx ends.
func listen(ctx context.Context, req *Request) *witness {
	ctx, end := context.WithCancel(ctx)
	w := &witness{session: req.Session, end: end, held: make(chan struct{}, maxHeld), paths: map[preflight.Path]int{}, failed: map[int]string{}, seen: map[sightKey]*Sighting{}}
	raw := map[int]bool{}
	for i, p := range req.Paths {
		w.paths[p] = i
		switch p.Protocol {
		case "tcp":
			w.tcp(ctx, i, req.Address, p.Port)
		case "udp":
			raw[unix.IPPROTO_UDP] = true
		default:
			raw[p.Port] = true
		}
	}
	for _, protocol := range slices.Sorted(maps.Keys(raw)) {
		if err := w.open(protocol); err != nil {
			for p, i := range w.paths {
				if p.Protocol == "udp" && protocol == unix.IPPROTO_UDP || p.Protocol == "ip" && p.Port == protocol {
					w.failed[i] = err.Error()
				}
			}
		}
	}
	return w
}

// tcp listens, unless somebody else does.
func (w *witness) tcp(ctx context.Context, path int, address string, port int) {
	l, err := net.Listen("tcp4", net.JoinHostPort(address, strconv.Itoa(port)))
	if errors.Is(err, unix.EADDRINUSE) {
		return
	}
	if err != nil {
		w.failed[path] = fmt.Sprintf("cannot listen on TCP %d: %v", port, err)
		return
	}
	w.listeners = append(w.listeners, l)
	w.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			select {
			case w.held <- struct{}{}:
				w.running.Go(func() {
					defer func() { <-w.held }()
					outlast(ctx, c)
				})
			default:
				c.Close()
			}
		}
	})
}

// outlast keeps a connection until the other side ends it: one that ends at once
// can look refused from there.
func outlast(ctx context.Context, c net.Conn) {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	_ = c.SetDeadline(time.Now().Add(MaxTimeout))
	_, _ = io.Copy(io.Discard, io.LimitReader(c, 1<<10))
}

// open opens a raw socket of a protocol. Its filter passes only packets that
// begin with magic.
func (w *witness) open(protocol int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return fmt.Errorf("cannot await IP protocol %d: %w", protocol, err)
	}
	program, err := filter(protocol)
	if err == nil {
		err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, program)
	}
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("cannot await IP protocol %d: %w", protocol, err)
	}
	// A larger buffer is better, and none is an error only once something is lost.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20)
	drain(fd)
	f := os.NewFile(uintptr(fd), "witness")
	w.raw = append(w.raw, f)
	w.running.Go(func() { w.read(f, protocol) })
	return nil
}

// drain takes what came before the filter was there.
func drain(fd int) {
	buf := make([]byte, 1)
	for range 10000 {
		if _, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT|unix.MSG_TRUNC); err != nil {
			return
		}
	}
}

// snap is how much of a packet is kept: its headers and the line.
const snap = 256

func filter(protocol int) (*unix.SockFprog, error) {
	header := uint32(0)
	if protocol == unix.IPPROTO_UDP {
		header = 8
	}
	mark := binary.BigEndian.Uint32([]byte(magic))
	raw, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadMemShift{Off: 0},
		bpf.LoadIndirect{Off: header, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: mark, SkipTrue: 1},
		bpf.RetConstant{Val: snap},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return nil, err
	}
	out := make([]unix.SockFilter, len(raw))
	for i, ins := range raw {
		out[i] = unix.SockFilter{Code: ins.Op, Jt: ins.Jt, Jf: ins.Jf, K: ins.K}
	}
	return &unix.SockFprog{Len: uint16(len(out)), Filter: &out[0]}, nil
}

func (w *witness) read(f *os.File, protocol int) {
	buf := make([]byte, snap)
	for {
		n, err := f.Read(buf)
		if err != nil {
			return
		}
		w.note(buf[:n], protocol)
	}
}

// note remembers one packet, given from its IP header on.
func (w *witness) note(packet []byte, protocol int) {
	if len(packet) < 20 {
		return
	}
	header := int(packet[0]&0xf) * 4
	path := preflight.Path{Protocol: "ip", Port: protocol}
	body := header
	if protocol == unix.IPPROTO_UDP {
		body += 8
	}
	if len(packet) < body {
		return
	}
	if protocol == unix.IPPROTO_UDP {
		path = preflight.Path{Protocol: "udp", Port: int(binary.BigEndian.Uint16(packet[header+2:]))}
	}
	session, round, from, ok := parsePayload(packet[body:])
	index, wanted := w.paths[path]
	if !ok || session != w.session || !wanted {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	key := sightKey{round, from}
	s := w.seen[key]
	if s == nil {
		if len(w.seen) >= maxSeen {
			w.full = true
			return
		}
		s = &Sighting{From: from}
		w.seen[key] = s
	}
	if !slices.Contains(s.Paths, index) {
		s.Paths = append(s.Paths, index)
	}
	// The packets that only try the path are smaller than any that tries its MTU.
	if size := int(binary.BigEndian.Uint16(packet[2:])); size >= minSize {
		s.Largest = max(s.Largest, size)
	}
}

// collect returns what was seen of a round, and forgets that and earlier ones. In
// failed are the paths whose silence proves nothing.
func (w *witness) collect(ctx context.Context, round int) ([]Sighting, map[int]string) {
	// What was sent last may be in the socket's queue still.
	select {
	case <-ctx.Done():
	case <-time.After(30 * time.Millisecond):
	}
	failed, missed := maps.Clone(w.failed), ""
	if n := w.lost(); n > 0 {
		missed = fmt.Sprintf("%d packets came faster than they could be read", n)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.full {
		missed, w.full = "more came than can be remembered", false
	}
	for p, i := range w.paths {
		if p.Protocol != "tcp" && missed != "" {
			failed[i] = missed
		}
	}
	var out []Sighting
	for k, s := range w.seen {
		if k.round == round {
			slices.Sort(s.Paths)
			out = append(out, *s)
		}
		if k.round <= round {
			delete(w.seen, k)
		}
	}
	slices.SortFunc(out, func(a, b Sighting) int { return a.From - b.From })
	return out, failed
}

// The layout of SO_MEMINFO: nine numbers, the last of which counts drops.
const (
	memInfoLength = 9
	memInfoDrops  = 8
)

// lost counts packets that the sockets dropped since they were opened. The
// filter counts what it does not pass as no drop.
func (w *witness) lost() (n uint32) {
	for _, f := range w.raw {
		raw, err := f.SyscallConn()
		if err != nil {
			continue
		}
		_ = raw.Control(func(fd uintptr) {
			if info, err := memInfo(int(fd)); err == nil {
				n += info[memInfoDrops]
			}
		})
	}
	return n
}

func (w *witness) close() {
	if w == nil {
		return
	}
	w.end()
	for _, l := range w.listeners {
		l.Close()
	}
	for _, f := range w.raw {
		f.Close()
	}
	w.running.Wait()
}

// addrPort is an address with a port; both were validated.
func addrPort(address string, port int) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(address), uint16(port))
}
