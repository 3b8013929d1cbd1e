package config

import (
	"errors"
	"regexp"
	"strings"
	"time"
	_ "time/tzdata" // the image has no time zones of its own

	"github.com/robfig/cron"

	"portcullis.dev/portcullis/workflows/contract"
)

func validateDrift(d *document, drift *contract.Drift, people int, now time.Time) {
	if drift == nil {
		return
	}
	const at = "spec.drift"
	if d.required(join(at, "schedule"), drift.Schedule) {
		validateSchedule(d, join(at, "schedule"), drift.Schedule, now)
	}
	if zone := drift.Timezone; zone != "" {
		if _, err := time.LoadLocation(zone); err != nil || zone == "Local" {
			d.fail(join(at, "timezone"), "%q is not a time zone; write it like Europe/Berlin or UTC", zone)
		}
	}
	for i := range drift.Ignore {
		validateIgnore(d, index(join(at, "ignore"), i), &drift.Ignore[i], now)
	}
	if drift.Correct != nil {
		validateCorrect(d, join(at, "correct"), drift.Correct, people)
	}
}

// validateCorrect judges the gate of a correction. Without it nothing is corrected, so
// that one without approvals is a mistake.
func validateCorrect(d *document, at string, c *contract.DriftCorrect, people int) {
	switch {
	case c.Approvals < 1:
		d.fail(join(at, "approvals"), "is %d; a correction needs at least one approval; leave correct out for none", c.Approvals)
	case people > 0 && c.Approvals > people:
		d.fail(join(at, "approvals"), "is %d, and spec.people has %d: the gate could never open", c.Approvals, people)
	}
	d.interval(join(at, "timeout"), c.Timeout)
}

// cronText is what cron and Temporal's schedules both read. Temporal reads the
// time zone and comments inside the text as well; here they have fields of their own.
var cronText = regexp.MustCompile(`^[A-Za-z0-9*,/ -]+$`)

// words are the schedules with a name. Temporal reads them, and @every with a duration.
var words = []string{"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"}

// shortest is the least time between two audits.
const shortest = time.Minute

// validateSchedule judges by cron's own parser and by what Temporal, which keeps
// the schedule, reads otherwise.
func validateSchedule(d *document, at, schedule string, now time.Time) {
	if text, every := strings.CutPrefix(schedule, "@every "); every {
		v, err := time.ParseDuration(text)
		switch {
		case err != nil:
			d.fail(at, "%q is not a duration; write it like @every 6h", text)
		case v < shortest || v > longest:
			d.fail(at, "is every %s; it is from every minute to once a year", v)
		case v%time.Second != 0:
			d.fail(at, "is every %s; it is in whole seconds", v)
		}
		return
	}
	if strings.HasPrefix(schedule, "@") {
		d.oneOf(at, schedule, words...)
		return
	}
	fields := strings.Fields(schedule)
	parsed, err := parseCron(schedule)
	switch {
	case len(fields) != 5:
		d.fail(at, "has %d fields and wants five: minute, hour, day of the month, month, day of the week; such as \"0 6 * * *\"", len(fields))
	case err != nil:
		d.fail(at, "is not a schedule as cron has it: %s", oneLine(err.Error()))
	case !strings.HasPrefix(fields[2], "*") && !strings.HasPrefix(fields[4], "*"):
		d.fail(at, "has a day of the month and a day of the week; cron means either and Temporal means both, so give one of them")
	case parsed.Next(now).IsZero():
		d.fail(at, "never comes: no month has that day")
	}
}

var errCronText = errors.New("fields have digits, names, and the signs * , - and /")

func parseCron(schedule string) (cron.Schedule, error) {
	if !cronText.MatchString(schedule) {
		return nil, errCronText
	}
	return cron.ParseStandard(schedule)
}

func validateIgnore(d *document, at string, i *contract.DriftIgnore, now time.Time) {
	if i.Kind == "" && i.Namespace == "" && i.Name == "" {
		d.fail(at, "would ignore everything; give kind, namespace or name")
	}
	for field, pattern := range map[string]string{"namespace": i.Namespace, "name": i.Name} {
		validatePattern(d, join(at, field), pattern)
	}
	if i.Clusters != nil {
		if emptySelector(*i.Clusters) {
			d.fail(join(at, "clusters"), "selects nothing by name, which would mean every cluster; leave it out for that")
		}
		d.selector(join(at, "clusters"), *i.Clusters)
	}
	if strings.TrimSpace(i.Reason) == "" {
		d.fail(join(at, "reason"), "is required: reports show why it is ignored")
	}
	if i.Until != "" {
		validateUntil(d, join(at, "until"), i.Until, now)
	}
}

// validatePattern allows * and no other sign that patterns have elsewhere: names
// of objects have none of them.
func validatePattern(d *document, at, pattern string) {
	if strings.ContainsAny(pattern, `?[]\/`) {
		d.fail(at, "%q is not a pattern: names have * for any text, and nothing else", pattern)
	}
}

func validateUntil(d *document, at, until string, now time.Time) {
	day, err := time.Parse(time.DateOnly, until)
	switch {
	case err != nil:
		d.fail(at, "%q is not a day; write it like 2026-12-31", until)
	case !now.Before(day.AddDate(0, 0, 1)):
		d.fail(at, "%s is past: mend the drift, or say until when it is to be ignored", until)
	}
}
