// Package flows watches connections between pods while something is done to
// their cluster: it opens one from every source to every destination many times
// a second, from inside the source's own network namespace, keeps some open for
// good, and tells afterwards what failed, for how long, and what was open that
// policy denies. Pods that come and go meanwhile are followed.
package flows

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Pod is one end of flows. PID is a process in its network namespace, needed of sources only.
type Pod struct {
	Name string `json:"name"`
	Node string `json:"node"`
	IP   string `json:"ip"`
	PID  int    `json:"-"`
}

// Flow is one source and destination. A flow that is not Allowed must never open.
type Flow struct {
	From    Pod  `json:"from"`
	To      Pod  `json:"to"`
	Port    int  `json:"port"`
	Allowed bool `json:"allowed"`
	// Held is a connection that is opened once and kept, with a byte sent and
	// echoed every interval.
	Held bool `json:"held,omitempty"`
}

// Try is one attempt that did not go as it should.
type Try struct {
	At time.Time `json:"at"`
	// Why is timeout, refused, reset, another error, or open for a denied flow.
	Why string `json:"why"`
}

// Span is a stretch of time.
type Span struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

// Seen is what was seen of one flow. A DaemonSet's pod on a node is one end also
// when it is another pod afterwards; other pods are ends of their own.
type Seen struct {
	Flow
	Tries int   `json:"tries"`
	Bad   []Try `json:"bad,omitempty"`
	// Slow counts bytes of a held connection that arrived, and came back late: the
	// program that echoes them had no time to.
	Slow int `json:"slow,omitempty"`
	// Broken is set when a held connection ended.
	Broken string `json:"broken,omitempty"`
	// Spans are when it was watched.
	Spans []Span `json:"spans,omitempty"`
	// ok are the tries that worked, by time.
	ok []time.Time
}

// Gap is a stretch in which every try of an allowed flow failed.
type Gap struct {
	From time.Time `json:"from"`
	// Length is from the first try that failed to the next one that worked.
	Length time.Duration `json:"length"`
	Tries  int           `json:"tries"`
}

// Gaps joins failures with no success between them. A gap that nothing ended lasts
// until an interval after its last failure.
func (s Seen) Gaps(every time.Duration) []Gap {
	var gaps []Gap
	for _, t := range s.Bad {
		last := len(gaps) - 1
		if last >= 0 && !t.At.After(gaps[last].From.Add(gaps[last].Length)) {
			gaps[last].Tries++
			continue
		}
		gaps = append(gaps, Gap{From: t.At, Length: s.end(t.At, every).Sub(t.At), Tries: 1})
	}
	return gaps
}

// end is when a gap that begins at a time ends.
func (s Seen) end(at time.Time, every time.Duration) time.Time {
	i, _ := slices.BinarySearchFunc(s.ok, at, time.Time.Compare)
	if i < len(s.ok) {
		return s.ok[i]
	}
	return s.Bad[len(s.Bad)-1].At.Add(every)
}

// Longest is the longest gap, or none.
func (s Seen) Longest(every time.Duration) (longest Gap) {
	for _, g := range s.Gaps(every) {
		if g.Length > longest.Length {
			longest = g
		}
	}
	return longest
}

// Event is something that was done meanwhile, for the picture.
type Event struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// Band is something that lasted, for the picture, such as a node that was moved.
type Band struct {
	Span
	Text string `json:"text"`
}

// Report is everything that was seen.
type Report struct {
	From  time.Time     `json:"from"`
	To    time.Time     `json:"to"`
	Every time.Duration `json:"every"`
	// Late counts ticks that came more than an interval too late: the machine
	// was too busy to watch, and what it did not see it cannot vouch for.
	Late   int     `json:"late"`
	Flows  []Seen  `json:"flows"`
	Events []Event `json:"events,omitempty"`
	Bands  []Band  `json:"bands,omitempty"`
}

// Totals sums up a report.
type Totals struct {
	Tries    int           `json:"tries"`
	Failed   int           `json:"failed"`
	Longest  time.Duration `json:"longest"`
	Worst    string        `json:"worst,omitempty"`
	Denied   int           `json:"denied"` // tries of denied flows
	Opened   int           `json:"opened"`
	Held     int           `json:"held"`
	HeldLost int           `json:"heldLost"`
	// HeldLate counts bytes of held connections that did not arrive in time.
	HeldLate int `json:"heldLate"`
	// HeldSlow counts those that arrived, and were echoed late.
	HeldSlow int `json:"heldSlow"`
}

// Totals counts failures of allowed flows, the longest gap among them, how often a
// denied flow was open, and held connections that broke.
func (r Report) Totals() Totals {
	var t Totals
	for _, s := range r.Flows {
		t.Tries += s.Tries
		switch {
		case s.Held:
			t.Held++
			t.HeldLate += len(s.Bad)
			t.HeldSlow += s.Slow
			if s.Broken != "" {
				t.HeldLost++
			}
		case !s.Allowed:
			t.Denied += s.Tries
			t.Opened += len(s.Bad)
		default:
			t.Failed += len(s.Bad)
			if g := s.Longest(r.Every); g.Length > t.Longest {
				t.Longest, t.Worst = g.Length, s.From.Name+" to "+s.To.Name
			}
		}
	}
	return t
}

// sorted puts the flows in an order that a person can read: by kind, node, then
// name; and the failures of each by time.
func (r *Report) sorted() {
	for i := range r.Flows {
		s := &r.Flows[i]
		slices.SortFunc(s.Bad, func(a, b Try) int { return a.At.Compare(b.At) })
		slices.SortFunc(s.ok, time.Time.Compare)
	}
	slices.SortStableFunc(r.Flows, func(a, b Seen) int {
		return cmp.Or(
			cmp.Compare(a.kind(), b.kind()), cmp.Compare(a.From.Node, b.From.Node), cmp.Compare(a.To.Node, b.To.Node),
			cmp.Compare(a.From.Name, b.From.Name), cmp.Compare(a.To.Name, b.To.Name), cmp.Compare(a.Port, b.Port))
	})
	slices.SortStableFunc(r.Events, func(a, b Event) int { return a.At.Compare(b.At) })
}

// kind orders flows: those that must work, those that are held, those that must not.
func (f Flow) kind() int {
	switch {
	case f.Held:
		return 1
	case f.Allowed:
		return 0
	}
	return 2
}

// ParseEvents reads lines of a time (RFC 3339) and a text.
func ParseEvents(text string) ([]Event, error) {
	var out []Event
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		stamp, what, _ := strings.Cut(line, " ")
		at, err := time.Parse(time.RFC3339Nano, stamp)
		if err != nil {
			return nil, fmt.Errorf("%q does not begin with a time", line)
		}
		out = append(out, Event{At: at, Text: what})
	}
	return out, nil
}
