package flows

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// settle is how long flows of a pod that is new may take to work for the first time.
const settle = 5 * time.Second

// silence is how long a held connection may be silent at the end without being lost.
const silence = 5 * time.Second

// Watch opens flows until it is stopped.
type Watch struct {
	every time.Duration
	start time.Time
	ctx   context.Context
	stop  context.CancelFunc
	done  sync.WaitGroup

	mu      sync.Mutex
	late    int
	sources map[Pod]*source
	tracks  []*track
	events  []Event
	bands   []Band
	errs    []error
}

// track is one flow between two pods, for as long as both are there.
type track struct {
	Flow
	began time.Time
	// settling flows count from their first success, or from settle after they began.
	settling bool

	mu sync.Mutex
	// until is when it ended: what was begun then or later does not count.
	until  time.Time
	tries  int
	ok     []time.Time
	bad    []Try
	slow   int
	broken string
	// heard is when a held connection echoed last.
	heard time.Time
}

func (t *track) echoed(at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heard = at
}

func (t *track) slowed() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.slow++
}

func (t *track) failed(at time.Time, why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bad = append(t.bad, Try{At: at, Why: why})
}

func (t *track) worked(at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ok = append(t.ok, at)
}

// tried counts a try, and is false when the flow has ended.
func (t *track) tried() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.until.IsZero() {
		t.tries++
	}
	return t.until.IsZero()
}

func (t *track) end(at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.until.IsZero() {
		t.until = at
	}
}

// seen is what counts of a track.
func (t *track) seen(end time.Time) Seen {
	t.mu.Lock()
	defer t.mu.Unlock()
	from, until := t.began, end
	if !t.until.IsZero() {
		until = t.until
	}
	if t.settling {
		from = t.began.Add(settle)
		for _, at := range t.ok {
			if at.Before(from) {
				from = at
			}
		}
	}
	s := Seen{Flow: t.Flow, Tries: t.tries, Slow: t.slow, Broken: t.broken, ok: t.ok, Spans: []Span{{From: t.began, To: until}}}
	if silent := until.Sub(latest(t.heard, t.began)); t.Held && s.Broken == "" && silent > silence {
		s.Broken = "no echo for the last " + silent.Truncate(time.Millisecond).String()
	}
	for _, b := range t.bad {
		if t.Allowed && b.At.Before(from) || !t.until.IsZero() && !b.At.Before(t.until) {
			s.Tries--
			continue
		}
		s.Bad = append(s.Bad, b)
	}
	return s
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func newWatch(ctx context.Context, every time.Duration) *Watch {
	w := &Watch{every: every, start: time.Now(), sources: map[Pod]*source{}}
	w.ctx, w.stop = context.WithCancel(ctx)
	return w
}

// Start begins to watch flows between pods that stay: every flow once in every
// interval. It returns when all sources' namespaces were entered.
func Start(ctx context.Context, list []Flow, every time.Duration) (*Watch, error) {
	w := newWatch(ctx, every)
	for _, f := range list {
		if _, err := w.add(f, false); err != nil {
			w.stop()
			w.done.Wait()
			return nil, err
		}
	}
	return w, nil
}

// add begins to watch one more flow.
func (w *Watch) add(f Flow, settling bool) (*track, error) {
	w.mu.Lock()
	s := w.sources[f.From]
	w.mu.Unlock()
	if s == nil {
		var err error
		if s, err = w.enter(f.From); err != nil {
			return nil, err
		}
	}
	t := &track{Flow: f, began: time.Now(), settling: settling}
	w.mu.Lock()
	w.tracks = append(w.tracks, t)
	w.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.added = append(s.added, t)
	return t, nil
}

// Mark notes that something happens now.
func (w *Watch) Mark(format string, args ...any) { w.MarkAt(time.Now(), format, args...) }

// MarkAt notes that something happened.
func (w *Watch) MarkAt(at time.Time, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, Event{At: at, Text: fmt.Sprintf(format, args...)})
}

// Lasted notes that something went on for a while.
func (w *Watch) Lasted(from, to time.Time, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bands = append(w.bands, Band{Span{from, to}, text})
}

// Stop ends the watch and reports.
func (w *Watch) Stop() (Report, error) {
	end := time.Now()
	w.stop()
	w.done.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	r := Report{From: w.start, To: end, Every: w.every, Late: w.late, Events: w.events, Bands: w.bands}
	r.Flows = merged(w.tracks, end)
	r.sorted()
	return r, errors.Join(w.errs...)
}

// merged joins the tracks of the same ends.
func merged(tracks []*track, end time.Time) []Seen {
	type ends struct {
		from, to      string
		port          int
		allowed, held bool
	}
	var out []Seen
	index := map[ends]int{}
	for _, t := range tracks {
		s := t.seen(end)
		key := ends{s.From.Name, s.To.Name, s.Port, s.Allowed, s.Held}
		i, known := index[key]
		if !known {
			index[key] = len(out)
			out = append(out, s)
			continue
		}
		have := &out[i]
		have.Tries += s.Tries
		have.Slow += s.Slow
		have.Bad = append(have.Bad, s.Bad...)
		have.ok = append(have.ok, s.ok...)
		have.Spans = append(have.Spans, s.Spans...)
		if have.Broken == "" {
			have.Broken = s.Broken
		}
	}
	return out
}

// source opens the flows of one pod, on a thread that stays in the pod's network
// namespace and ends with the goroutine: it is never given back.
type source struct {
	mu    sync.Mutex
	added []*track
}

// enter starts a source and waits until it is in the pod's namespace.
func (w *Watch) enter(pod Pod) (*source, error) {
	s := &source{}
	entered := make(chan error, 1)
	w.done.Add(1)
	go func() {
		defer w.done.Done()
		runtime.LockOSThread()
		p, err := join(pod)
		entered <- err
		if err != nil {
			return
		}
		defer p.close()
		w.run(s, p)
	}()
	if err := <-entered; err != nil {
		return nil, fmt.Errorf("pod %s: %w", pod.Name, err)
	}
	w.mu.Lock()
	w.sources[pod] = s
	w.mu.Unlock()
	return s, nil
}

// join takes this thread into a pod's network namespace.
func join(pod Pod) (*poller, error) {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", pod.PID), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	err = unix.Setns(fd, unix.CLONE_NEWNET)
	if cerr := unix.Close(fd); err != nil || cerr != nil {
		return nil, fmt.Errorf("entering its network namespace: %w", errors.Join(err, cerr))
	}
	return newPoller()
}

func (w *Watch) run(s *source, p *poller) {
	next := time.Now()
	for w.ctx.Err() == nil {
		now := time.Now()
		if now.Sub(next) > w.every {
			w.mu.Lock()
			w.late++
			w.mu.Unlock()
			next = now
		}
		s.mu.Lock()
		added := s.added
		s.added = nil
		s.mu.Unlock()
		for _, t := range added {
			p.take(t, now)
		}
		p.tick(now)
		next = next.Add(w.every)
		p.wait(time.Until(next))
	}
	p.wait(timeout)
	p.expire(time.Now())
}
