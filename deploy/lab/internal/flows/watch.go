package flows

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// timeout is how long a connection may take. Kernels send a lost SYN again after a
// second, so that one that is lost fails.
const timeout = 900 * time.Millisecond

// Watch opens flows until it is stopped.
type Watch struct {
	every  time.Duration
	start  time.Time
	stop   context.CancelFunc
	done   sync.WaitGroup
	mu     sync.Mutex
	late   int
	seen   []Seen
	events []Event
	errs   []error
}

// Start begins to watch: every flow once in every interval. It returns when all
// sources' namespaces were entered.
func Start(ctx context.Context, list []Flow, every time.Duration) (*Watch, error) {
	ctx, stop := context.WithCancel(ctx)
	w := &Watch{every: every, start: time.Now(), stop: stop}
	bySource := map[int][]Flow{}
	for _, f := range list {
		bySource[f.From.PID] = append(bySource[f.From.PID], f)
	}
	var ready sync.WaitGroup
	for pid, flows := range bySource {
		ready.Add(1)
		w.done.Add(1)
		go func() {
			defer w.done.Done()
			seen, err := w.source(ctx, pid, flows, ready.Done)
			w.mu.Lock()
			defer w.mu.Unlock()
			w.seen = append(w.seen, seen...)
			if err != nil {
				w.errs = append(w.errs, err)
			}
		}()
	}
	ready.Wait()
	w.mu.Lock()
	err := errors.Join(w.errs...)
	w.mu.Unlock()
	if err != nil {
		stop()
		w.done.Wait()
	}
	return w, err
}

// Mark notes that something happens now.
func (w *Watch) Mark(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, Event{At: time.Now(), Text: fmt.Sprintf(format, args...)})
}

// Stop ends the watch and reports.
func (w *Watch) Stop() (Report, error) {
	w.stop()
	w.done.Wait()
	r := Report{From: w.start, To: time.Now(), Every: w.every, Late: w.late, Flows: w.seen, Events: w.events}
	r.sorted()
	return r, errors.Join(w.errs...)
}

// source runs the flows of one pod, on a thread that stays in the pod's network
// namespace and ends with the goroutine: it is never given back.
func (w *Watch) source(ctx context.Context, pid int, list []Flow, ready func()) ([]Seen, error) {
	once := sync.OnceFunc(ready)
	defer once()
	runtime.LockOSThread()
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("pod %s: %w", list[0].From.Name, err)
	}
	err = unix.Setns(fd, unix.CLONE_NEWNET)
	if cerr := unix.Close(fd); err != nil || cerr != nil {
		return nil, fmt.Errorf("pod %s: entering its network namespace: %w", list[0].From.Name, errors.Join(err, cerr))
	}
	p, err := newPoller(list)
	if err != nil {
		return nil, err
	}
	defer p.close()
	once()
	next := time.Now()
	for ctx.Err() == nil {
		now := time.Now()
		if now.Sub(next) > w.every {
			w.mu.Lock()
			w.late++
			w.mu.Unlock()
			next = now
		}
		p.tick(now)
		next = next.Add(w.every)
		p.wait(time.Until(next))
	}
	p.wait(timeout)
	p.expire(time.Now())
	return p.seen, nil
}

// poller has the sockets of one source.
type poller struct {
	epoll int
	seen  []Seen
	// open are connections under way, by descriptor.
	open map[int]pending
	held map[int]*holding
}

type pending struct {
	flow int
	at   time.Time
}

// holding is a connection that is kept: one byte is sent, and must come back.
type holding struct {
	flow int
	up   bool
	sent time.Time
	due  bool
}

func newPoller(list []Flow) (*poller, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	p := &poller{epoll: epoll, open: map[int]pending{}, held: map[int]*holding{}}
	now := time.Now()
	for i, f := range list {
		p.seen = append(p.seen, Seen{Flow: f})
		if f.Held {
			if fd := p.connect(i, now); fd >= 0 {
				p.held[fd] = &holding{flow: i}
			}
		}
	}
	return p, nil
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
func (p *poller) connect(flow int, now time.Time) int {
	s := &p.seen[flow]
	addr, err := netip.ParseAddr(s.To.IP)
	if err != nil || !addr.Is4() {
		p.bad(flow, now, "bad address "+s.To.IP)
		return -1
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		p.bad(flow, now, err.Error())
		return -1
	}
	if !s.Held {
		// The port is free again at once: thousands are used.
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Port: s.Port, Addr: addr.As4()})
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		_ = unix.Close(fd)
		p.outcome(flow, now, err)
		return -1
	}
	event := unix.EpollEvent{Events: unix.EPOLLOUT | unix.EPOLLERR | unix.EPOLLHUP, Fd: int32(fd)}
	if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		_ = unix.Close(fd)
		p.bad(flow, now, err.Error())
		return -1
	}
	return fd
}

func (p *poller) tick(now time.Time) {
	for i := range p.seen {
		s := &p.seen[i]
		s.Tries++
		if s.Held {
			continue
		}
		if fd := p.connect(i, now); fd >= 0 {
			p.open[fd] = pending{i, now}
		}
	}
	for fd, h := range p.held {
		p.beat(fd, h, now)
	}
	p.expire(now)
}

// beat sends the next byte of a held connection when the last one came back.
func (p *poller) beat(fd int, h *holding, now time.Time) {
	if !h.up {
		return
	}
	if h.due {
		if late := now.Sub(h.sent); late > timeout {
			p.bad(h.flow, h.sent, "no echo for "+late.Truncate(time.Millisecond).String())
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

func (p *poller) broke(fd int, h *holding, err error) {
	p.seen[h.flow].Broken = err.Error()
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
			p.ready(int(e.Fd))
		}
		if !time.Now().Before(end) {
			return
		}
	}
}

func (p *poller) ready(fd int) {
	if h, ok := p.held[fd]; ok {
		p.heldReady(fd, h)
		return
	}
	t, ok := p.open[fd]
	if !ok {
		return
	}
	delete(p.open, fd)
	p.outcome(t.flow, t.at, socketError(fd))
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
		event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLERR | unix.EPOLLHUP, Fd: int32(fd)}
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
	}
}

// outcome judges one connection of a flow.
func (p *poller) outcome(flow int, at time.Time, err error) {
	refused := errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ECONNRESET)
	switch {
	case !p.seen[flow].Allowed:
		// An answer, also a refusal, means that the packet arrived.
		if err == nil || refused {
			p.bad(flow, at, "open")
		}
	case err == nil:
	case errors.Is(err, unix.ECONNREFUSED):
		p.bad(flow, at, "refused")
	case errors.Is(err, unix.ECONNRESET):
		p.bad(flow, at, "reset")
	default:
		p.bad(flow, at, err.Error())
	}
}

func (p *poller) bad(flow int, at time.Time, why string) {
	p.seen[flow].Bad = append(p.seen[flow].Bad, Try{At: at, Why: why})
}

// expire gives up on connections that take too long.
func (p *poller) expire(now time.Time) {
	for fd, t := range p.open {
		if now.Sub(t.at) < timeout {
			continue
		}
		delete(p.open, fd)
		_ = unix.Close(fd)
		if p.seen[t.flow].Allowed {
			p.bad(t.flow, t.at, "timeout")
		}
	}
}
