package probes

import "time"

// Rule says when a requirement that holds is believed.
type Rule struct {
	// Rounds in a row, over at least Time.
	Rounds int
	Time   time.Duration
}

// RuleFor is the rule of an expectation. A path that is open is seen at once,
// and more than once to tell it from luck. A path that is shut may just not have been
// opened yet, or be shut only between two states: it must stay shut for the whole window.
func RuleFor(e Expect, s Settings) Rule {
	if e == Deny {
		return Rule{Rounds: 2, Time: s.Settle.Duration}
	}
	return Rule{Rounds: s.Consecutive}
}

// Window follows requirements over rounds and says when they are believed, and
// when they have failed. It knows no clock but the times that it is given.
type Window struct {
	rules    []Rule
	deadline time.Duration
	start    time.Time
	states   []state
}

// state is one requirement's run.
type state struct {
	// holding counts the rounds in a row; since and last are the ends of the
	// first and the last of them.
	holding     int
	since, last time.Time
	// unmetSince is when it stopped holding; zero while it holds.
	unmetSince time.Time
	// known is the last verdict of the unmet stretch that was not Unknown.
	known Verdict
}

// NewWindow starts following; all requirements are unmet since start. The
// settings must have their defaults.
func NewWindow(rules []Rule, deadline time.Duration, start time.Time) *Window {
	w := &Window{rules: rules, deadline: deadline, start: start, states: make([]state, len(rules))}
	for i := range w.states {
		w.states[i].unmetSince = start
	}
	return w
}

// Observe takes a round's verdicts. The round began and ended at these times.
func (w *Window) Observe(begin, end time.Time, verdicts []Verdict) {
	for i, v := range verdicts {
		s := &w.states[i]
		if v == Holds {
			if s.holding == 0 {
				s.since = end
			}
			s.holding++
			s.last = end
			s.unmetSince, s.known = time.Time{}, Unknown
			continue
		}
		if s.unmetSince.IsZero() {
			s.unmetSince = begin
		}
		if v != Unknown {
			s.known = v
		}
		s.holding = 0
	}
}

// Excuse leaves a stretch of time out of every deadline, in which whoever measures
// was not ready to: that says nothing of the requirements.
func (w *Window) Excuse(d time.Duration) {
	w.start = w.start.Add(d)
	for i := range w.states {
		if s := &w.states[i]; !s.unmetSince.IsZero() {
			s.unmetSince = s.unmetSince.Add(d)
		}
	}
}

// Believed tells whether a requirement has held for its window.
func (w *Window) Believed(i int) bool {
	s := &w.states[i]
	return s.holding > 0 && s.holding >= w.rules[i].Rounds && s.last.Sub(s.since) >= w.rules[i].Time
}

// Passed tells whether all requirements are believed at once.
func (w *Window) Passed() bool {
	for i := range w.states {
		if !w.Believed(i) {
			return false
		}
	}
	return true
}

// Passing counts the requirements that held in the last round.
func (w *Window) Passing() int {
	n := 0
	for i := range w.states {
		if w.states[i].holding > 0 {
			n++
		}
	}
	return n
}

// Unmet tells whether a requirement did not hold in the last round, or there was none.
func (w *Window) Unmet(i int) bool { return w.states[i].holding == 0 }

// Violated tells whether a requirement that is unmet was last seen violated,
// rather than not measured.
func (w *Window) Violated(i int) bool { return w.Unmet(i) && w.states[i].known == Violated }

// Expired tells whether a requirement has been unmet for the deadline without a break.
func (w *Window) Expired(now time.Time) bool {
	for i := range w.states {
		if s := &w.states[i]; s.holding == 0 && now.Sub(s.unmetSince) >= w.deadline {
			return true
		}
	}
	return false
}

// Overdue tells whether the deadline has passed since the start and a
// requirement is unmet. A run that began in time may end, so that a requirement that comes
// true late is not failed while it proves itself; one that flickers is.
func (w *Window) Overdue(now time.Time) bool {
	return now.Sub(w.start) >= w.deadline && w.Passing() < len(w.states)
}
