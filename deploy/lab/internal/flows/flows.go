// Package flows watches connections between pods while something is done to
// their cluster: it opens one from every source to every destination many times
// a second, from inside the source's own network namespace, keeps some open for
// good, and tells afterwards what failed, for how long, and what was open that
// policy denies.
package flows

import (
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

// Seen is what was seen of one flow.
type Seen struct {
	Flow
	Tries int   `json:"tries"`
	Bad   []Try `json:"bad,omitempty"`
	// Broken is set when a held connection ended.
	Broken string `json:"broken,omitempty"`
}

// Gap is a stretch in which every try of an allowed flow failed.
type Gap struct {
	From   time.Time     `json:"from"`
	Length time.Duration `json:"length"`
	Tries  int           `json:"tries"`
}

// Gaps joins failures that follow each other within two intervals.
func (s Seen) Gaps(every time.Duration) []Gap {
	var gaps []Gap
	for _, t := range s.Bad {
		last := len(gaps) - 1
		if last >= 0 && t.At.Sub(gaps[last].From.Add(gaps[last].Length)) <= every {
			gaps[last].Length = t.At.Sub(gaps[last].From) + every
			gaps[last].Tries++
			continue
		}
		gaps = append(gaps, Gap{From: t.At, Length: every, Tries: 1})
	}
	return gaps
}

// Event is something that was done meanwhile, for the picture.
type Event struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
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
}

// Totals sums up a report.
type Totals struct {
	Tries    int           `json:"tries"`
	Failed   int           `json:"failed"`
	Longest  time.Duration `json:"longest"`
	Worst    string        `json:"worst,omitempty"`
	Opened   int           `json:"opened"`
	Held     int           `json:"held"`
	HeldLost int           `json:"heldLost"`
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
			if s.Broken != "" {
				t.HeldLost++
			}
		case !s.Allowed:
			t.Opened += len(s.Bad)
		default:
			t.Failed += len(s.Bad)
			for _, g := range s.Gaps(r.Every) {
				if g.Length > t.Longest {
					t.Longest, t.Worst = g.Length, s.From.Name+" to "+s.To.Name
				}
			}
		}
	}
	return t
}

// sorted puts the flows in an order that a person can read: by node, then name;
// and the failures of each by time.
func (r *Report) sorted() {
	for _, s := range r.Flows {
		slices.SortFunc(s.Bad, func(a, b Try) int { return a.At.Compare(b.At) })
	}
	slices.SortStableFunc(r.Flows, func(a, b Seen) int {
		for _, pair := range [][2]string{{a.From.Node, b.From.Node}, {a.To.Node, b.To.Node}, {a.From.Name, b.From.Name}, {a.To.Name, b.To.Name}} {
			if pair[0] != pair[1] {
				if pair[0] < pair[1] {
					return -1
				}
				return 1
			}
		}
		return 0
	})
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
