package migrate

import (
	"testing"
	"time"

	"portcullis.dev/portcullis/probes/migration"
)

func TestWindowsTable(t *testing.T) {
	type w = migration.Window
	for name, tc := range map[string]struct {
		windows []w
		now     string
		// opens is when it opens next; empty for open now.
		opens string
	}{
		"none":                         {nil, "2026-11-23T12:00:00Z", ""},
		"before":                       {[]w{{From: "22:00", Until: "23:00"}}, "2026-11-23T12:00:00Z", "2026-11-23T22:00:00Z"},
		"at its first moment":          {[]w{{From: "22:00", Until: "23:00"}}, "2026-11-23T22:00:00Z", ""},
		"in it":                        {[]w{{From: "22:00", Until: "23:00"}}, "2026-11-23T22:59:59Z", ""},
		"at its end":                   {[]w{{From: "22:00", Until: "23:00"}}, "2026-11-23T23:00:00Z", "2026-11-24T22:00:00Z"},
		"past midnight, before it":     {[]w{{From: "22:00", Until: "04:00"}}, "2026-11-23T23:30:00Z", ""},
		"past midnight, after it":      {[]w{{From: "22:00", Until: "04:00"}}, "2026-11-24T03:59:00Z", ""},
		"past midnight, over":          {[]w{{From: "22:00", Until: "04:00"}}, "2026-11-24T04:00:00Z", "2026-11-24T22:00:00Z"},
		"until midnight":               {[]w{{From: "22:00", Until: "24:00"}}, "2026-11-23T23:59:00Z", ""},
		"until midnight, at it":        {[]w{{From: "22:00", Until: "24:00"}}, "2026-11-24T00:00:00Z", "2026-11-24T22:00:00Z"},
		"all day":                      {[]w{{From: "00:00", Until: "24:00"}}, "2026-11-24T00:00:00Z", ""},
		"another day":                  {[]w{{Days: []string{"sat"}, From: "08:00", Until: "18:00"}}, "2026-11-23T12:00:00Z", "2026-11-28T08:00:00Z"},
		"the same day, over":           {[]w{{Days: []string{"mon"}, From: "08:00", Until: "09:00"}}, "2026-11-23T12:00:00Z", "2026-11-30T08:00:00Z"},
		"a day's window past midnight": {[]w{{Days: []string{"Mon"}, From: "22:00", Until: "04:00"}}, "2026-11-24T03:00:00Z", ""},
		"and not of the day before":    {[]w{{Days: []string{"tue"}, From: "22:00", Until: "04:00"}}, "2026-11-24T03:00:00Z", "2026-11-24T22:00:00Z"},
		"the next of two": {[]w{{Days: []string{"fri"}, From: "10:00", Until: "11:00"}, {Days: []string{"wed"}, From: "10:00", Until: "11:00"}},
			"2026-11-23T12:00:00Z", "2026-11-25T10:00:00Z"},
		"one of two is open": {[]w{{Days: []string{"fri"}, From: "10:00", Until: "11:00"}, {From: "11:00", Until: "13:00"}}, "2026-11-23T12:00:00Z", ""},

		"in a zone, winter":       {[]w{{From: "22:00", Until: "23:00", Zone: "Europe/Berlin"}}, "2026-11-23T12:00:00Z", "2026-11-23T21:00:00Z"},
		"in a zone, summer":       {[]w{{From: "22:00", Until: "23:00", Zone: "Europe/Berlin"}}, "2026-07-23T12:00:00Z", "2026-07-23T20:00:00Z"},
		"in a zone, other day":    {[]w{{Days: []string{"tue"}, From: "01:00", Until: "02:00", Zone: "Asia/Tokyo"}}, "2026-11-23T16:30:00Z", ""},
		"west of UTC, other day":  {[]w{{Days: []string{"sun"}, From: "22:00", Until: "23:00", Zone: "America/Los_Angeles"}}, "2026-11-23T06:30:00Z", ""},
		"half an hour off":        {[]w{{From: "10:00", Until: "11:00", Zone: "Asia/Kolkata"}}, "2026-11-23T04:30:00Z", ""},
		"the clock goes forward":  {[]w{{From: "02:30", Until: "04:00", Zone: "Europe/Berlin"}}, "2026-03-29T00:00:00Z", "2026-03-29T01:30:00Z"},
		"the clock goes back":     {[]w{{From: "02:30", Until: "04:00", Zone: "Europe/Berlin"}}, "2026-10-25T02:45:00Z", ""},
		"the day of going back":   {[]w{{From: "22:00", Until: "23:00", Zone: "Europe/Berlin"}}, "2026-10-25T12:00:00Z", "2026-10-25T21:00:00Z"},
		"over the end of a month": {[]w{{Days: []string{"tue"}, From: "22:00", Until: "02:00"}}, "2026-12-01T12:00:00Z", "2026-12-01T22:00:00Z"},
		"over the end of a year":  {[]w{{From: "23:00", Until: "01:00"}}, "2027-01-01T00:30:00Z", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := openingAt(tc.windows, at(t, tc.now))
			if got.Problem != "" || got.Open != (tc.opens == "") {
				t.Fatalf("%+v", got)
			}
			if tc.opens == "" {
				return
			}
			if !got.At.Equal(at(t, tc.opens)) {
				t.Errorf("opens at %s, want %s", got.At, tc.opens)
			}
			if then := openingAt(tc.windows, got.At); !then.Open {
				t.Errorf("it is not open when it opens: %+v", then)
			}
		})
	}
}

func TestBadWindows(t *testing.T) {
	for name, w := range map[string]migration.Window{
		"no times":      {},
		"a bad time":    {From: "25:00", Until: "26:00"},
		"not a time":    {From: "morning", Until: "evening"},
		"a bad zone":    {From: "10:00", Until: "11:00", Zone: "Mars/Olympus"},
		"a bad day":     {Days: []string{"monday"}, From: "10:00", Until: "11:00"},
		"of no length":  {From: "10:00", Until: "10:00"},
		"nothing at 24": {From: "24:00", Until: "24:00"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := openingAt([]migration.Window{w}, at(t, "2026-11-23T12:00:00Z")); got.Problem == "" || got.Open {
				t.Errorf("%+v", got)
			}
		})
	}
}

// Whatever the windows and the time: it is open now, or at the moment that is
// told, and at no moment between.
func TestTheNextOpeningIsTheNext(t *testing.T) {
	windows := []migration.Window{
		{Days: []string{"mon", "thu"}, From: "22:00", Until: "01:30", Zone: "Europe/Berlin"},
		{Days: []string{"sun"}, From: "02:10", Until: "03:20", Zone: "America/New_York"},
	}
	for now := at(t, "2026-10-20T00:00:00Z"); now.Before(at(t, "2026-11-10T00:00:00Z")); now = now.Add(47 * time.Minute) {
		got := openingAt(windows, now)
		if got.Open {
			continue
		}
		if !got.At.After(now) || !openingAt(windows, got.At).Open || openingAt(windows, got.At.Add(-time.Second)).Open {
			t.Errorf("at %s: %+v", now, got)
		}
	}
}

func FuzzWindow(f *testing.F) {
	f.Add("22:00", "04:00", "mon", "Europe/Berlin", int64(1795000000))
	f.Add("24:00", "00:00", "", "", int64(0))
	f.Fuzz(func(t *testing.T, from, until, day, zone string, unix int64) {
		w := migration.Window{From: from, Until: until, Zone: zone}
		if day != "" {
			w.Days = []string{day}
		}
		if unix < 0 || unix > 1<<33 {
			return
		}
		got := openingAt([]migration.Window{w}, time.Unix(unix, 0))
		if got.Problem == "" && !got.Open && !got.At.After(time.Unix(unix, 0)) {
			t.Errorf("%+v: %+v", w, got)
		}
	})
}

func at(t *testing.T, s string) time.Time {
	t.Helper()
	when, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return when
}
