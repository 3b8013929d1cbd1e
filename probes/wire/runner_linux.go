package wire

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"portcullis.dev/portcullis/probes"
)

// Bounds of a round.
const (
	defaultConcurrency = 4096
	// maxLaunch is how long the start of a round is spread over at most, so that
	// thousands of first packets do not leave at the same instant.
	maxLaunch = 300 * time.Millisecond
	// launchStep is the least time to sleep for; what is due earlier starts at once.
	launchStep = 5 * time.Millisecond
	// minSpread is the number of probes below which a round starts in less time.
	minSpread = 1000
	// spareFiles are kept free of the limit on open files.
	spareFiles = 128
	// filesPerProbe is how many sockets a probe may have open at once: two
	// attempts, or a question for each name of a search list.
	filesPerProbe     = 2
	filesPerNameProbe = maxCandidates + filesPerProbe
	// maxAddresses is how many addresses of a name are tried.
	maxAddresses = 4
)

// runner runs probes on this node.
type runner struct {
	thread *netThread
	finder *finder
	files  *budget
}

func newRunner() *runner {
	t := startThread()
	return &runner{thread: t, finder: newFinder(t), files: newBudget(fileLimit() - spareFiles)}
}

// fileLimit is how many files this process may have open.
func fileLimit() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return int(min(limit.Cur, 1<<20))
}

// reach runs the probes of a request and gives each result to emit, from one
// goroutine at a time. Every probe has a result when it returns.
func (r *runner) reach(ctx context.Context, req *Request, emit func(Result)) {
	places := r.finder.find(req.Pods)
	defer closePlaces(places)
	defer r.leave()
	concurrency := req.Concurrency
	if concurrency == 0 {
		concurrency = defaultConcurrency
	}
	slots := make(chan struct{}, concurrency)
	var running sync.WaitGroup
	var mu sync.Mutex
	pace := newPace(len(req.Probes), req.Timeout())
	for i := range req.Probes {
		pace.wait(ctx)
		p := &req.Probes[i]
		slots <- struct{}{}
		need := r.files.take(filesFor(p))
		running.Go(func() {
			start := time.Now()
			got := r.probe(ctx, req, p, places[p.Pod])
			result := Result{ID: p.ID, Outcome: got.outcome, Detail: got.detail, Micros: time.Since(start).Microseconds(), Silent: got.silent && p.Protocol == probes.UDP && got.outcome == probes.Error}
			r.files.give(need)
			<-slots
			mu.Lock()
			defer mu.Unlock()
			emit(result)
		})
	}
	running.Wait()
}

// leave takes the thread back to the node's namespace, so that it does not keep that of a
// pod alive which is being deleted.
func (r *runner) leave() {
	if host, err := openNamespace(r.finder.host); err == nil {
		_ = r.thread.in(host, func() error { return nil })
		host.close()
	}
}

func filesFor(p *Probe) int {
	if _, err := netip.ParseAddr(p.Host); err != nil || p.Protocol == probes.DNS {
		return filesPerNameProbe
	}
	return filesPerProbe
}

// probe runs one probe, within one time-out, or two where a name is resolved first.
func (r *runner) probe(ctx context.Context, req *Request, p *Probe, from *place) finding {
	if ctx.Err() != nil {
		return failed("cancelled before it was run")
	}
	if from.err != nil {
		return failed("%v", from.err)
	}
	deadline := time.Now().Add(req.Timeout())
	if p.Protocol == probes.DNS {
		return r.resolve(ctx, from, p.Host, deadline, true).finding
	}
	if addr, err := netip.ParseAddr(p.Host); err == nil {
		return r.connect(ctx, req, p, from, addr.Unmap(), deadline)
	}
	l := r.resolve(ctx, from, p.Host, deadline, false)
	if l.outcome != probes.Allowed {
		detail := l.detail
		if detail == "" {
			detail = string(l.outcome)
		}
		if l.outcome == probes.Error {
			return failed("resolving %s: %s", p.Host, detail)
		}
		return finding{outcome: probes.Unresolved, detail: "resolving " + p.Host + ": " + detail}
	}
	return r.connectAny(ctx, req, p, from, l.addrs[:min(len(l.addrs), maxAddresses)])
}

// connectAny tries the addresses of a name, and reports the most open answer: a
// name is reachable when one of its addresses is, and shut when none is.
func (r *runner) connectAny(ctx context.Context, req *Request, p *Probe, from *place, addrs []netip.Addr) finding {
	deadline := time.Now().Add(req.Timeout())
	var best finding
	for got := range r.connectAll(ctx, req, p, from, addrs, deadline) {
		if best.outcome == "" || openness(got) > openness(best) {
			best = got
		}
	}
	return best
}

func (r *runner) connectAll(ctx context.Context, req *Request, p *Probe, from *place, addrs []netip.Addr, deadline time.Time) <-chan finding {
	out := make(chan finding, len(addrs))
	var running sync.WaitGroup
	for _, a := range addrs {
		running.Go(func() {
			got := r.connect(ctx, req, p, from, a.Unmap(), deadline)
			if got.detail == "" {
				got.detail = a.String()
			} else {
				got.detail = a.String() + ": " + got.detail
			}
			out <- got
		})
	}
	running.Wait()
	close(out)
	return out
}

// openness orders findings from shut to open. What could not be told stands
// above dropped: it must not be hidden by another address's silence.
func openness(f finding) int {
	return slices.Index([]probes.Outcome{probes.Dropped, probes.Unresolved, probes.Error, probes.Refused, probes.Allowed}, f.outcome)
}

func (r *runner) connect(ctx context.Context, req *Request, p *Probe, from *place, addr netip.Addr, deadline time.Time) finding {
	to := netip.AddrPortFrom(addr, uint16(p.Port))
	switch p.Protocol {
	case probes.TCP:
		return r.tcp(ctx, from.ns, to, deadline)
	case probes.UDP:
		return r.udp(ctx, from.ns, to, payload(req.Session, req.Round, p.ID), deadline)
	case probes.HTTP:
		return r.http(ctx, from.ns, to, p.Host, p.Path, deadline)
	}
	return failed("protocol %q is not known to this agent", p.Protocol)
}

// pace spreads the start of a round evenly over a short while. It goes by the
// clock: a busy node, which wakes it up late, makes it catch up and not fall behind.
type pace struct {
	start time.Time
	// each is the time between two starts.
	each time.Duration
	sent int
}

func newPace(n int, timeout time.Duration) *pace {
	return &pace{start: time.Now(), each: min(maxLaunch, timeout/4) / time.Duration(max(n, minSpread))}
}

func (p *pace) wait(ctx context.Context) {
	due := p.start.Add(p.each * time.Duration(p.sent))
	p.sent++
	early := time.Until(due)
	if early < launchStep {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(early):
	}
}

// budget bounds the open files.
type budget struct {
	mu    sync.Mutex
	freed *sync.Cond
	total int
	left  int
}

func newBudget(n int) *budget {
	n = max(n, filesPerNameProbe)
	b := &budget{left: n, total: n}
	b.freed = sync.NewCond(&b.mu)
	return b
}

// take waits until n files may be opened, and returns n.
func (b *budget) take(n int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.left < n {
		b.freed.Wait()
	}
	b.left -= n
	return n
}

func (b *budget) give(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left += n
	b.freed.Broadcast()
}
