package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // so that zones are known where the machine has none of its own

	"portcullis.dev/portcullis/probes/migration"
)

var weekdays = []string{"mon", "tue", "wed", "thu", "fri", "sat", "sun"}

// parseWindow reads a window: days, hours and a zone, as in
// "mon-fri,sun 22:00-05:00 Europe/Berlin". Days and zone can be left out.
func parseWindow(text string) (w migration.Window, err error) {
	words := strings.Fields(text)
	at := slices.IndexFunc(words, func(word string) bool { return strings.Contains(word, ":") })
	if at < 0 || at > 1 || len(words) > at+2 {
		return w, fmt.Errorf(`write it like "mon-fri 22:00-05:00 Europe/Berlin"`)
	}
	if at == 1 {
		if w.Days, err = parseDays(words[0]); err != nil {
			return w, err
		}
	}
	if w.From, w.Until, err = parseHours(words[at]); err != nil {
		return w, err
	}
	if len(words) > at+1 {
		w.Zone = words[at+1]
	}
	// Local would be another zone on the daemon than here.
	if _, err := time.LoadLocation(w.Zone); err != nil || w.Zone == "Local" {
		return w, fmt.Errorf("%q is no time zone such as Europe/Berlin or UTC", w.Zone)
	}
	return w, nil
}

// parseDays reads mon-fri,sun into days in the week's order, each once.
func parseDays(text string) ([]string, error) {
	var in [7]bool
	for part := range strings.SplitSeq(strings.ToLower(text), ",") {
		from, to, ranged := strings.Cut(part, "-")
		first, last := slices.Index(weekdays, from), slices.Index(weekdays, from)
		if ranged {
			last = slices.Index(weekdays, to)
		}
		if first < 0 || last < 0 {
			return nil, fmt.Errorf("%q is no day; days are %s, and mon-fri is from one to another", part, strings.Join(weekdays, ", "))
		}
		for day := first; ; day = (day + 1) % len(in) {
			in[day] = true
			if day == last {
				break
			}
		}
	}
	var days []string
	for i, name := range weekdays {
		if in[i] {
			days = append(days, name)
		}
	}
	return days, nil
}

func parseHours(text string) (from, until string, err error) {
	from, until, _ = strings.Cut(text, "-")
	if !hour(from) || !hour(until) && until != endOfDay {
		return "", "", fmt.Errorf("%q is no stretch of a day; write it like 22:00-05:00", text)
	}
	if from == until {
		return "", "", fmt.Errorf("it begins and ends at %s; leave the window out where nodes may always move", from)
	}
	return from, until, nil
}

// endOfDay ends a window at midnight; time.Parse does not know it.
const endOfDay = "24:00"

func hour(text string) bool {
	_, err := time.Parse("15:04", text)
	return err == nil && len(text) == len("15:04")
}

// windowText is a window as parseWindow reads it.
func windowText(w migration.Window) string {
	text := w.From + "-" + w.Until
	if len(w.Days) > 0 {
		text = daysText(w.Days) + " " + text
	}
	if w.Zone != "" {
		text += " " + w.Zone
	}
	return text
}

// daysText writes three days and more that follow one another as mon-fri.
func daysText(days []string) string {
	var parts []string
	for i := 0; i < len(days); {
		last := i
		for last+1 < len(days) && slices.Index(weekdays, days[last+1]) == slices.Index(weekdays, days[last])+1 {
			last++
		}
		text := days[i]
		if last >= i+2 {
			text += "-" + days[last]
		} else {
			last = i
		}
		parts = append(parts, text)
		i = last + 1
	}
	return strings.Join(parts, ",")
}
