package migrate

import (
	"fmt"
	"slices"
	"strings"
	"time"
	// The zones that windows name are known wherever the daemon runs.
	_ "time/tzdata"

	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/probes/migration"
)

// opening says whether a node may begin now. Problem is set where the windows
// cannot be read.
type opening struct {
	Open bool `json:"open"`
	// At is when the next window opens, where none is open.
	At      time.Time `json:"at,omitzero"`
	Problem string    `json:"problem,omitempty"`
}

// look reads the windows at the workflow's time, and records the answer: the
// database of time zones changes, and a replay must decide as before.
func look(ctx workflow.Context, windows []migration.Window) opening {
	if len(windows) == 0 {
		return opening{Open: true}
	}
	var out opening
	recorded := workflow.SideEffect(ctx, func(ctx workflow.Context) any { return openingAt(windows, workflow.Now(ctx)) })
	if err := recorded.Get(&out); err != nil {
		return opening{Problem: err.Error()}
	}
	return out
}

// window waits until a window is open.
func (m *cluster) window(ctx workflow.Context) (waited bool, err error) {
	now := look(ctx, m.in.Options.Windows)
	switch {
	case now.Open:
		return false, nil
	case now.Problem != "":
		// They were read at the start, so that this is a worker's: look again later.
		now.At = workflow.Now(ctx).Add(time.Minute)
	}
	if !m.state.OpensAt.Equal(now.At) {
		m.state.OpensAt = now.At
		m.note(ctx, "", "waits for the window that opens at "+now.At.UTC().Format(time.RFC3339))
	}
	defer func() { m.state.OpensAt = time.Time{} }()
	ended := m.ended
	changed := func() bool {
		return m.ended != ended || m.state.Paused != nil || m.running == 0 && m.mayContinueAsNew(ctx)
	}
	_, err = workflow.AwaitWithOptions(m.work, workflow.AwaitOptions{
		Timeout:      max(now.At.Sub(workflow.Now(ctx)), time.Second),
		TimerOptions: workflow.TimerOptions{Summary: "the next window"},
	}, changed)
	return true, m.asBack(err)
}

var days = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// daysAhead is how far an opening is looked for: a window comes every week, but
// may fall on a day when the clock is put forward over it.
const daysAhead = 15

// openingAt is look's decision. It is pure but for the database of time zones.
func openingAt(windows []migration.Window, now time.Time) opening {
	var next time.Time
	for _, w := range windows {
		span, err := parse(w)
		if err != nil {
			return opening{Problem: err.Error()}
		}
		local := now.In(span.zone)
		for day := -1; day <= daysAhead; day++ {
			from, until, ok := span.on(local.AddDate(0, 0, day))
			switch {
			case !ok || !until.After(now):
			case !from.After(now):
				return opening{Open: true}
			case next.IsZero() || from.Before(next):
				next = from
			}
		}
	}
	if next.IsZero() && len(windows) > 0 {
		return opening{Problem: "no window ever opens"}
	}
	return opening{Open: len(windows) == 0, At: next.UTC()}
}

// span is a window that was read.
type span struct {
	days        []string
	zone        *time.Location
	from, until clock
}

type clock struct{ hour, minute int }

func parse(w migration.Window) (span, error) {
	zone, err := time.LoadLocation(w.Zone)
	if err != nil {
		return span{}, fmt.Errorf("%q is no time zone of the IANA database", w.Zone)
	}
	s := span{zone: zone}
	for _, d := range w.Days {
		d = strings.ToLower(d)
		if !slices.Contains(days, d) {
			return span{}, fmt.Errorf("%q is no day: use mon, tue, wed, thu, fri, sat, sun", d)
		}
		s.days = append(s.days, d)
	}
	if s.from, err = parseClock(w.From); err != nil {
		return span{}, err
	}
	if s.until, err = parseClock(w.Until); err != nil {
		return span{}, err
	}
	if s.from == s.until {
		return span{}, fmt.Errorf("a window from %s until %s is never open", w.From, w.Until)
	}
	return s, nil
}

func parseClock(s string) (clock, error) {
	// 24:00 is the end of the day; time.Parse does not know it.
	if s == "24:00" {
		return clock{hour: 24}, nil
	}
	t, err := time.Parse("15:04", s)
	if err != nil {
		return clock{}, fmt.Errorf("%q is no time of day: use 22:00", s)
	}
	return clock{t.Hour(), t.Minute()}, nil
}

// on is when the window that begins on a day is open.
func (s span) on(day time.Time) (from, until time.Time, ok bool) {
	if len(s.days) > 0 && !slices.Contains(s.days, days[day.Weekday()]) {
		return from, until, false
	}
	last := 0
	if s.until.hour < s.from.hour || s.until.hour == s.from.hour && s.until.minute < s.from.minute {
		last = 1
	}
	from = time.Date(day.Year(), day.Month(), day.Day(), s.from.hour, s.from.minute, 0, 0, s.zone)
	until = time.Date(day.Year(), day.Month(), day.Day()+last, s.until.hour, s.until.minute, 0, 0, s.zone)
	return from, until, until.After(from)
}
