package probes

import (
	"math/rand/v2"
	"testing"
	"time"
)

var settings = Settings{}.WithDefaults()

// play feeds rounds, one per second, written as a letter per requirement: h, v, u.
func play(w *Window, rounds ...string) (now time.Time) {
	letters := map[rune]Verdict{'h': Holds, 'v': Violated, 'u': Unknown}
	now = w.start
	for _, r := range rounds {
		var vs []Verdict
		for _, c := range r {
			vs = append(vs, letters[c])
		}
		w.Observe(now, now.Add(time.Second), vs)
		now = now.Add(time.Second)
	}
	return now
}

func window(expects ...Expect) *Window {
	var rules []Rule
	for _, e := range expects {
		rules = append(rules, RuleFor(e, settings))
	}
	return NewWindow(rules, 8*time.Second, time.Unix(1000, 0))
}

func repeat(s string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = s
	}
	return out
}

func TestWindow(t *testing.T) {
	for _, tc := range []struct {
		name                     string
		expects                  []Expect
		rounds                   []string
		passed, expired, overdue bool
	}{
		{"nothing yet", []Expect{Allow}, nil, false, false, false},
		{"allow, twice", []Expect{Allow}, repeat("h", 2), false, false, false},
		{"allow, three times", []Expect{Allow}, repeat("h", 3), true, false, false},
		{"allow, not in a row", []Expect{Allow}, []string{"h", "h", "u", "h", "h"}, false, false, false},
		{"deny, not for long enough", []Expect{Deny}, repeat("h", 5), false, false, false},
		{"deny, for the window", []Expect{Deny}, repeat("h", 6), true, false, false},
		{"deny, open once in the window", []Expect{Deny}, []string{"h", "h", "h", "v", "h", "h", "h"}, false, false, false},
		{"deny, not measured once in the window", []Expect{Deny}, []string{"h", "h", "h", "u", "h", "h", "h"}, false, false, false},
		{"both", []Expect{Allow, Deny}, repeat("hh", 6), true, false, false},
		{"allow breaks while deny waits", []Expect{Allow, Deny}, []string{"hh", "hh", "hh", "hh", "hh", "vh"}, false, false, false},
		{"never", []Expect{Allow}, repeat("v", 8), false, true, true},
		{"never measured", []Expect{Deny}, repeat("u", 8), false, true, true},
		{"late, but before the deadline: it may prove itself", []Expect{Deny}, append(repeat("v", 7), repeat("h", 4)...), false, false, false},
		{"and does", []Expect{Deny}, append(repeat("v", 7), repeat("h", 6)...), true, false, false},
		{"flickers past the deadline", []Expect{Deny}, []string{"h", "v", "h", "v", "h", "v", "h", "v"}, false, false, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := window(tc.expects...)
			now := play(w, tc.rounds...)
			if w.Passed() != tc.passed || w.Expired(now) != tc.expired || w.Overdue(now) != tc.overdue {
				t.Errorf("passed %v, expired %v, overdue %v", w.Passed(), w.Expired(now), w.Overdue(now))
			}
		})
	}
}

func TestWindowTellsViolatedFromUnknown(t *testing.T) {
	w := window(Allow, Allow, Allow)
	play(w, "vuh", "uuh")
	if !w.Violated(0) || w.Violated(1) || w.Violated(2) || w.Passing() != 1 {
		t.Errorf("%+v", w.states)
	}
	play(w, "huh", "uuh")
	if w.Violated(0) {
		t.Error("it held since it was violated, and was not measured after that")
	}
}

// Whatever happens: a deny that is believed was shut in every round of the last
// window, and an allow was open in each of the last rounds. What is believed has not expired.
func TestWindowProperties(t *testing.T) {
	for seed := range uint64(2000) {
		rng := rand.New(rand.NewPCG(seed, 2))
		w := window(Allow, Deny)
		now := w.start
		type past struct {
			end time.Time
			v   []Verdict
		}
		var history []past
		for range 40 {
			begin := now
			now = now.Add(time.Duration(rng.IntN(2500)) * time.Millisecond)
			v := []Verdict{Holds, Holds}
			for i := range v {
				if rng.IntN(8) == 0 {
					v[i] = Verdict(rng.IntN(3))
				}
			}
			w.Observe(begin, now, v)
			history = append(history, past{now, v})
			if w.Believed(0) {
				for _, h := range history[len(history)-settings.Consecutive:] {
					if h.v[0] != Holds {
						t.Fatalf("seed %d: allow is believed after %v", seed, h.v)
					}
				}
			}
			if w.Believed(1) {
				for _, h := range history {
					if now.Sub(h.end) < settings.Settle.Duration && h.v[1] != Holds {
						t.Fatalf("seed %d: deny is believed %s after %v", seed, now.Sub(h.end), h.v)
					}
				}
			}
			if w.Passed() && (w.Expired(now) || w.Overdue(now)) {
				t.Fatalf("seed %d: passed and expired", seed)
			}
			now = now.Add(time.Duration(rng.IntN(500)) * time.Millisecond)
		}
	}
}

// Time in which nobody was ready to measure brings no deadline nearer.
func TestWindowExcuses(t *testing.T) {
	w := window(Allow)
	now := play(w, repeat("v", 5)...)
	w.Excuse(4 * time.Second)
	if later := now.Add(4 * time.Second); w.Expired(later) || w.Overdue(later) {
		t.Error("the time that was excused counts")
	}
	if later := now.Add(8 * time.Second); !w.Expired(later) || !w.Overdue(later) {
		t.Error("more than the time that was excused is left out")
	}
	w = window(Allow)
	now = play(w, repeat("h", 5)...)
	if w.Excuse(time.Hour); !w.Believed(0) || w.Expired(now) {
		t.Error("what held does not hold any more")
	}
}
