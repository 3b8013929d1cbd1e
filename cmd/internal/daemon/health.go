package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/cmd/internal/connect"
)

// dependency is something that a daemon needs in order to do its work.
type dependency string

const (
	// onTemporal: its frontend answers.
	onTemporal dependency = "temporal"
	// onWorker: this process polls the task queue.
	onWorker dependency = "worker"
	// onRancher: it answers, takes the token, and its objects are watched.
	onRancher dependency = "rancher"
)

var dependencies = []dependency{onTemporal, onWorker, onRancher}

const (
	// lookEvery is the time between two looks at the dependencies of a daemon that is
	// ready. Of one that is not it is lookSoon at first, and then grows to lookLate.
	lookEvery = 10 * time.Second
	lookSoon  = 250 * time.Millisecond
	lookLate  = 2 * time.Second
	// lookTimeout bounds one look.
	lookTimeout = 8 * time.Second
	// missesMost is how many looks in a row may miss a dependency that was there
	// before it counts as gone: one packet that is lost is no news.
	missesMost = 2
	// stuckAfter is how long the looking may make no progress, with all its time
	// limits, until the process counts as broken.
	stuckAfter = 3 * time.Minute
)

// health is what /readyz and /livez tell.
type health struct {
	now func() time.Time

	mu     sync.Mutex
	states map[dependency]*state
	// beat is when the looking last came round.
	beat time.Time
	// stopping is set once the daemon takes no more work.
	stopping bool
	up       *prometheus.GaugeVec
}

type state struct {
	up     bool
	misses int
	// reason is why it is not up: a type of errs, or a word.
	reason string
}

const notYet = "starting"

func newHealth(now func() time.Time) *health {
	h := &health{now: now, beat: now(), states: map[dependency]*state{}, up: prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "portcullis_dependency_up",
		Help: "1 while this daemon can use what it needs: temporal (its frontend answers), worker (this process polls the task queue), rancher (it answers, takes the token, and is watched). /readyz is all of them.",
	}, []string{"dependency"})}
	for _, d := range dependencies {
		h.states[d] = &state{reason: notYet}
		h.up.WithLabelValues(string(d)).Set(0)
	}
	return h
}

// saw notes how one look at a dependency ended, and tells whether that changed it.
func (h *health) saw(d dependency, err error) (changed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.states[d]
	was := s.up
	if err == nil {
		*s = state{up: true}
	} else {
		s.misses++
		if !s.up || s.misses >= missesMost {
			s.up, s.reason = false, word(err)
		}
	}
	value := 0.0
	if s.up {
		value = 1
	}
	h.up.WithLabelValues(string(d)).Set(value)
	return was != s.up
}

// word is the sort of failure: whoever may ask for /readyz need not read addresses.
func word(err error) string {
	if kind := errs.TypeOf(err); kind != "" {
		return kind
	}
	return errs.TypeUnavailable
}

func (h *health) ready() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.states {
		if !s.up {
			return false
		}
	}
	return true
}

// readyz is 200 when rollouts can make progress through this daemon.
func (h *health) readyz(w http.ResponseWriter, _ *http.Request) {
	h.mu.Lock()
	var b strings.Builder
	code := http.StatusOK
	if h.stopping {
		code = http.StatusServiceUnavailable
		fmt.Fprintln(&b, "stopping")
	}
	for _, d := range dependencies {
		s := h.states[d]
		if s.up {
			fmt.Fprintf(&b, "%s: ready\n", d)
			continue
		}
		code = http.StatusServiceUnavailable
		fmt.Fprintf(&b, "%s: %s\n", d, s.reason)
	}
	h.mu.Unlock()
	w.WriteHeader(code)
	_, _ = fmt.Fprint(w, b.String())
}

// livez is 200 unless the process itself is broken: nothing outside it, however
// long it is down, is a reason to restart it.
func (h *health) livez(w http.ResponseWriter, _ *http.Request) {
	h.mu.Lock()
	still := h.now().Sub(h.beat)
	h.mu.Unlock()
	if still > stuckAfter {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = fmt.Fprintf(w, "stuck: nothing has moved for %s\n", still.Round(time.Second))
		return
	}
	_, _ = fmt.Fprintln(w, "ok")
}

// stops makes /readyz say no while the last activities end.
func (h *health) stops() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopping = true
}

func (h *health) beats() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.beat = h.now()
}

// watch looks at the dependencies until ctx ends.
func (d *Daemon) watch(ctx context.Context) {
	soon := lookSoon
	for ctx.Err() == nil {
		d.health.beats()
		d.look(ctx)
		wait := lookEvery
		if d.health.ready() {
			soon = lookSoon
		} else {
			wait = soon
			soon = min(2*soon, lookLate)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-d.news:
			soon = lookSoon
		}
		timer.Stop()
	}
}

// came has the dependencies looked at now: one of them has just come.
func (d *Daemon) came() {
	select {
	case d.news <- struct{}{}:
	default: // a look is due anyway
	}
}

// look asks all dependencies at once.
func (d *Daemon) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	var all sync.WaitGroup
	for dep, ask := range map[dependency]func(context.Context) error{
		onTemporal: d.askTemporal, onWorker: d.askWorker, onRancher: d.askRancher,
	} {
		all.Go(func() {
			err := ask(ctx)
			if ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled) {
				return // the daemon ends
			}
			d.noted(dep, err)
		})
	}
	all.Wait()
}

// noted tells people of a change, once.
func (d *Daemon) noted(dep dependency, err error) {
	if !d.health.saw(dep, err) {
		return
	}
	if err == nil {
		d.opts.Logger.Info("ready", "dependency", dep)
		return
	}
	d.opts.Logger.Warn("not ready", "dependency", dep, "reason", errs.Message(err))
}

func (d *Daemon) askTemporal(ctx context.Context) error {
	c := d.temporal.Load()
	if c == nil {
		return errs.Unavailable(notYet)
	}
	return connect.Explain(temporalAnswers(ctx, *c), d.opts.Config.Temporal)
}

func temporalAnswers(ctx context.Context, c client.Client) error {
	_, err := c.WorkflowService().GetSystemInfo(ctx, &workflowservice.GetSystemInfoRequest{})
	return err
}

func (d *Daemon) askWorker(context.Context) error { return d.polls.working() }

// askRancher is only asked once the caches are filled: until then startRancher tries.
func (d *Daemon) askRancher(ctx context.Context) error {
	if !d.watching.Load() {
		return errs.Unavailable(notYet)
	}
	return d.parts.Rancher.Check(ctx)
}
