package config

import (
	"net/url"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portcullis.dev/portcullis/workflows/contract"
)

func validateSlack(d *document, s *contract.Slack) {
	if s == nil {
		return
	}
	const at = "spec.slack"
	if d.required(join(at, "channel"), s.Channel) {
		d.channel(join(at, "channel"), s.Channel)
	}
	d.interval(join(at, "remindEvery"), s.RemindEvery)
	if s.Escalation != nil {
		validateEscalation(d, join(at, "escalation"), s)
	}
	if s.Links.Temporal != "" {
		d.link(join(at, "links.temporal"), s.Links.Temporal)
	}
	if compare := s.Links.Compare; compare != "" {
		validateCompare(d, join(at, "links.compare"), compare)
	}
}

func validateEscalation(d *document, at string, s *contract.Slack) {
	e := s.Escalation
	if d.required(join(at, "channel"), e.Channel) && d.channel(join(at, "channel"), e.Channel) && e.Channel == s.Channel {
		d.fail(join(at, "channel"), "is spec.slack.channel, where the gate is shown already")
	}
	if e.After.Duration == 0 {
		d.fail(join(at, "after"), "is required: how long a gate waits before it is shown there, such as 2h")
	}
	d.interval(join(at, "after"), e.After)
}

func (d *document) channel(at, id string) bool {
	if slackChannel.MatchString(id) {
		return true
	}
	d.fail(at, "%q is not the ID of a Slack channel, such as C012AB3CD; Slack shows it at the end of the channel's details", id)
	return false
}

func validateCompare(d *document, at, compare string) {
	for _, part := range []string{"{from}", "{to}"} {
		if strings.Count(compare, part) != 1 {
			d.fail(at, "wants %s once, where the commit goes", part)
			return
		}
	}
	d.link(at, strings.NewReplacer("{from}", "from", "{to}", "to").Replace(compare))
}

// link is a URL that is shown to people who are not asked for credentials by it.
func (d *document) link(at, raw string) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		d.fail(at, "is not a URL; write it like https://temporal.example.com")
	case u.User != nil:
		d.fail(at, "has credentials in it, which everyone in the channel would see")
	}
}

// interval is 0, or from a minute to a year.
func (d *document) interval(at string, v metav1.Duration) {
	if v.Duration != 0 && v.Duration < time.Minute {
		d.fail(at, "is %s; it cannot be below 1m", v.Duration)
	}
	d.notLong(at, v)
}
