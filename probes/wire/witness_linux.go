package wire

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// maxSeen bounds what a witness remembers between two collects.
const maxSeen = 1 << 20

// witness listens in pods for the datagrams of UDP probes. It uses packet
// sockets, so that it sees what arrives on the pod's interface whether or not a
// program listens on the port, and takes nothing away from it. A filter in the
// kernel passes only the probes' datagrams.
type witness struct {
	session string
	sockets []watch
	// failed maps the pods that cannot be witnessed to the reason.
	failed  map[string]string
	readers sync.WaitGroup

	mu   sync.Mutex
	seen map[sighting]bool
	// full is set when something could not be remembered any more.
	full bool
}

// watch is a packet socket in a pod.
type watch struct {
	pod  string
	file *os.File
}

type sighting struct {
	round int
	id    string
}

// listen starts a witness in the pods. Those that it cannot listen in are in
// failed, with the reason.
func (r *runner) listen(session string, pods []Pod) *witness {
	w := &witness{session: session, failed: map[string]string{}, seen: map[sighting]bool{}}
	places := r.finder.find(pods)
	defer closePlaces(places)
	for _, p := range pods {
		if err := w.listenIn(r.thread, p, places[p.UID]); err != nil {
			w.failed[p.UID] = err.Error()
		}
	}
	return w
}

func (w *witness) listenIn(t *netThread, p Pod, pl *place) error {
	if p.Host {
		// There, a packet socket sees what arrives before any policy of the node does.
		return errors.New("a pod in the node's own network cannot be witnessed: a packet is seen before policy decides on it")
	}
	if pl.err != nil {
		return pl.err
	}
	var files []*os.File
	for _, proto := range []uint16{unix.ETH_P_IP, unix.ETH_P_IPV6} {
		f, err := packetSocket(t, pl.ns, proto)
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			return fmt.Errorf("cannot listen in the pod: %w", err)
		}
		files = append(files, f)
	}
	for _, f := range files {
		w.sockets = append(w.sockets, watch{p.UID, f})
		w.readers.Go(func() { w.read(f) })
	}
	return nil
}

// packetSocket opens a packet socket on all interfaces of ns. It receives
// nothing until its filter is in place.
func packetSocket(t *netThread, ns *namespace, proto uint16) (*os.File, error) {
	fd, err := t.socket(ns, unix.AF_PACKET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return nil, err
	}
	program, err := filterFor(proto)
	if err == nil {
		err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, program)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(proto)})
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "witness"), nil
}

func bigEndian(v uint16) uint16 { return v<<8 | v>>8 }

// The offsets of what the filter looks at, from the network header.
const (
	ip4Protocol = 9
	ip6Next     = 6
	ip6Header   = 40
	udpHeader   = 8
)

// filterFor passes UDP datagrams whose payload begins with magic.
func filterFor(proto uint16) (*unix.SockFprog, error) {
	mark := uint32(magic[0])<<24 | uint32(magic[1])<<16 | uint32(magic[2])<<8 | uint32(magic[3])
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: ip4Protocol, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 4},
		bpf.LoadMemShift{Off: 0},
		bpf.LoadIndirect{Off: udpHeader, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: mark, SkipTrue: 1},
		bpf.RetConstant{Val: maxDatagram},
		bpf.RetConstant{Val: 0},
	}
	if proto == unix.ETH_P_IPV6 {
		program = []bpf.Instruction{
			bpf.LoadAbsolute{Off: ip6Next, Size: 1},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 3},
			bpf.LoadAbsolute{Off: ip6Header + udpHeader, Size: 4},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: mark, SkipTrue: 1},
			bpf.RetConstant{Val: maxDatagram},
			bpf.RetConstant{Val: 0},
		}
	}
	raw, err := bpf.Assemble(program)
	if err != nil {
		return nil, err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, ins := range raw {
		filter[i] = unix.SockFilter{Code: ins.Op, Jt: ins.Jt, Jf: ins.Jf, K: ins.K}
	}
	return &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}, nil
}

// read notes what arrives until the socket is closed.
func (w *witness) read(f *os.File) {
	buf := make([]byte, maxDatagram)
	for {
		n, err := f.Read(buf)
		if errors.Is(err, unix.ENETDOWN) {
			// The pod's interface went down; it is told once.
			continue
		}
		if err != nil {
			return
		}
		w.note(buf[:n])
	}
}

func (w *witness) note(packet []byte) {
	header := ip6Header
	if len(packet) > 0 && packet[0]>>4 == 4 {
		header = int(packet[0]&0xf) * 4
	}
	if len(packet) < header+udpHeader {
		return
	}
	session, round, id, ok := parsePayload(packet[header+udpHeader:])
	if !ok || session != w.session {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.seen) >= maxSeen {
		w.full = true
		return
	}
	w.seen[sighting{round, id}] = true
}

// collect returns what was seen of a round, and forgets that and earlier rounds.
// In failed are the pods whose witness may have missed something.
func (w *witness) collect(ctx context.Context, round int) (seen []string, failed map[string]string) {
	// A datagram that was sent last may be in the socket's queue still.
	select {
	case <-ctx.Done():
	case <-time.After(20 * time.Millisecond):
	}
	failed = w.overflowed()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.sockets {
		if w.full {
			failed[s.pod] = "the witness saw more than it can remember"
		}
	}
	w.full = false
	for s := range w.seen {
		if s.round == round {
			seen = append(seen, s.id)
		}
		if s.round <= round {
			delete(w.seen, s)
		}
	}
	slices.Sort(seen)
	return seen, failed
}

// overflowed tells which pods' sockets dropped packets since the last call:
// their silence proves nothing.
func (w *witness) overflowed() map[string]string {
	failed := maps.Clone(w.failed)
	for _, s := range w.sockets {
		raw, err := s.file.SyscallConn()
		if err != nil {
			failed[s.pod] = err.Error()
			continue
		}
		var stats *unix.TpacketStats
		ctlErr := raw.Control(func(fd uintptr) {
			stats, err = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
		})
		switch {
		case ctlErr != nil || err != nil:
			failed[s.pod] = fmt.Sprintf("the witness cannot tell whether it missed something: %v", errors.Join(ctlErr, err))
		case stats.Drops > 0:
			failed[s.pod] = fmt.Sprintf("the witness missed %d packets", stats.Drops)
		}
	}
	return failed
}

func (w *witness) close() {
	if w == nil {
		return
	}
	for _, s := range w.sockets {
		s.file.Close()
	}
	w.readers.Wait()
}
