package flows

import (
	"errors"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// timeout is how long a connection may take. Kernels send a lost SYN again after a
// second, so that one that is lost fails.
const timeout = 900 * time.Millisecond

// poller has the sockets of one source.
type poller struct {
	epoll  int
	tracks []*track
	// open are connections under way, by descriptor.
	open map[int]pending
	held map[int]*holding
	// sockets counts those that were made, so that each has a number of its own.
	sockets int32
}

type pending struct {
	track  *track
	at     time.Time
	socket int32
}

// holding is a connection that is kept: one byte is sent, and must come back.
type holding struct {
	track  *track
	socket int32
	up     bool
	sent   time.Time
	due    bool
}

func newPoller() (*poller, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return &poller{epoll: epoll, open: map[int]pending{}, held: map[int]*holding{}}, nil
}

// take begins with one more flow.
func (p *poller) take(t *track, now time.Time) {
	p.tracks = append(p.tracks, t)
	if t.Held {
		if fd := p.connect(t, now); fd >= 0 {
			p.held[fd] = &holding{track: t, socket: p.sockets, sent: now}
		}
	}
}

func (p *poller) close() {
	for fd := range p.open {
		_ = unix.Close(fd)
	}
	for fd := range p.held {
		_ = unix.Close(fd)
	}
	_ = unix.Close(p.epoll)
}

// connect begins a connection; what it comes to is seen by wait.
func (p *poller) connect(t *track, now time.Time) int {
	addr, err := netip.ParseAddr(t.To.IP)
	if err != nil || !addr.Is4() {
		p.failed(t, now, errors.New("bad address "+t.To.IP))
		return -1
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		p.failed(t, now, err)
		return -1
	}
	if !t.Held {
		// The port is free again at once: thousands are used.
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Port: t.Port, Addr: addr.As4()})
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		_ = unix.Close(fd)
		p.outcome(t, now, err)
		return -1
	}
	p.sockets++
	event := unix.EpollEvent{Events: unix.EPOLLOUT | unix.EPOLLERR | unix.EPOLLHUP, Fd: int32(fd), Pad: p.sockets}
	if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		_ = unix.Close(fd)
		p.failed(t, now, err)
		return -1
	}
	return fd
}

// failed is a try that could not be made: of a held connection, that is its end.
func (p *poller) failed(t *track, now time.Time, err error) {
	if t.Held {
		t.broke(err)
		return
	}
	t.failed(now, err.Error())
}

func (t *track) broke(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.until.IsZero() {
		t.broken = err.Error()
	}
}

func (p *poller) tick(now time.Time) {
	left := p.tracks[:0]
	for _, t := range p.tracks {
		if !t.tried() {
			continue
		}
		left = append(left, t)
		if t.Held {
			continue
		}
		if fd := p.connect(t, now); fd >= 0 {
			p.open[fd] = pending{t, now, p.sockets}
		}
	}
	clear(p.tracks[len(left):])
	p.tracks = left
	for fd, h := range p.held {
		p.beat(fd, h, now)
	}
	p.expire(now)
}

// beat sends the next byte of a held connection when the last one came back.
func (p *poller) beat(fd int, h *holding, now time.Time) {
	if !h.up || h.due {
		if late := now.Sub(h.sent); late > timeout {
			p.late(fd, h, late)
			h.sent = now
		}
		return
	}
	if _, err := unix.Write(fd, []byte{'.'}); err != nil && !errors.Is(err, unix.EAGAIN) {
		p.broke(fd, h, err)
		return
	}
	h.due, h.sent = true, now
}

// late notes a byte that did not come back in time. One that the other side's kernel
// has acknowledged was not lost: the program there is slow.
func (p *poller) late(fd int, h *holding, late time.Duration) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if h.up && err == nil && info.Unacked == 0 {
		h.track.slowed()
		return
	}
	h.track.failed(h.sent, "no acknowledgement for "+late.Truncate(time.Millisecond).String())
}

func (p *poller) broke(fd int, h *holding, err error) {
	h.track.broke(err)
	delete(p.held, fd)
	_ = unix.Close(fd)
}

// wait looks at connections until the time is over.
func (p *poller) wait(d time.Duration) {
	events := make([]unix.EpollEvent, 256)
	for end := time.Now().Add(d); ; {
		left := max(time.Until(end), 0)
		n, err := unix.EpollWait(p.epoll, events, int((left+time.Millisecond-1)/time.Millisecond))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		for _, e := range events[:max(n, 0)] {
			p.ready(int(e.Fd), e.Pad)
		}
		if !time.Now().Before(end) {
			return
		}
	}
}

// ready takes in that something has happened to a socket. It may be one that is closed
// here, and whose descriptor another one has by now: a child that is being started
// keeps a copy of it for a moment, and epoll goes on to tell of that.
func (p *poller) ready(fd int, socket int32) {
	if h, ok := p.held[fd]; ok {
		if h.socket == socket {
			p.heldReady(fd, h)
		}
		return
	}
	t, ok := p.open[fd]
	if !ok || t.socket != socket {
		return
	}
	delete(p.open, fd)
	p.outcome(t.track, t.at, socketError(fd))
	_ = unix.Close(fd)
}

func socketError(fd int) error {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if code != 0 {
		return unix.Errno(code)
	}
	return nil
}

func (p *poller) heldReady(fd int, h *holding) {
	if !h.up {
		if err := socketError(fd); err != nil {
			p.broke(fd, h, err)
			return
		}
		h.up = true
		event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLERR | unix.EPOLLHUP, Fd: int32(fd), Pad: h.socket}
		if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_MOD, fd, &event); err != nil {
			p.broke(fd, h, err)
		}
		return
	}
	var buffer [64]byte
	n, err := unix.Read(fd, buffer[:])
	switch {
	case errors.Is(err, unix.EAGAIN):
	case err != nil:
		p.broke(fd, h, err)
	case n == 0:
		p.broke(fd, h, errors.New("the other side closed it"))
	default:
		h.due = false
		h.track.echoed(time.Now())
	}
}

// outcome judges one connection of a flow.
func (p *poller) outcome(t *track, at time.Time, err error) {
	refused := errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ECONNRESET)
	switch {
	case t.Held:
		t.broke(err)
	case !t.Allowed:
		// An answer, also a refusal, means that the packet arrived.
		if err == nil || refused {
			t.failed(at, "open")
		}
	case err == nil:
		t.worked(at)
	case errors.Is(err, unix.ECONNREFUSED):
		t.failed(at, "refused")
	case errors.Is(err, unix.ECONNRESET):
		t.failed(at, "reset")
	default:
		t.failed(at, err.Error())
	}
}

// expire gives up on connections that take too long.
func (p *poller) expire(now time.Time) {
	for fd, t := range p.open {
		if now.Sub(t.at) < timeout {
			continue
		}
		delete(p.open, fd)
		_ = unix.Close(fd)
		if t.track.Allowed {
			t.track.failed(t.at, "timeout")
		}
	}
}
