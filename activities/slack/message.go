package slack

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	slackgo "github.com/slack-go/slack"
)

// Actions of a message's buttons, and of the modals that they open.
const (
	ActionApprove = "portcullis.approve"
	ActionReject  = "portcullis.reject"
	ActionDetails = "portcullis.details"
	// CallbackReject is the modal that asks why.
	CallbackReject = "portcullis.reject.why"
	// CallbackDetails is the modal that tells more.
	CallbackDetails = "portcullis.details.shown"
	// BlockWhy and InputWhy are where the reason stands in the modal.
	BlockWhy = "why"
	InputWhy = "text"
)

// Target is what a button or a modal is about. It names the evidence that the
// person saw: a decision about anything else is refused.
type Target struct {
	Kind        Kind   `json:"k,omitempty"`
	Pipeline    string `json:"p"`
	Environment string `json:"e"`
	Rollout     string `json:"r"`
	Evidence    string `json:"h"`
	// Channel is where the button was, in a modal that it opened.
	Channel string `json:"c,omitempty"`
}

// Encode puts a target into a button's value.
func (t Target) Encode() string {
	raw, err := json.Marshal(t)
	if err != nil { // four texts always marshal
		return ""
	}
	return string(raw)
}

// State words of rollouts and environments, as contract has them.
const (
	awaiting    = "awaiting-approval"
	verified    = "verified"
	rolledBack  = "rolled-back"
	rollingBack = "rolling-back"
	rejected    = "rejected"
	aborted     = "aborted"
	failed      = "failed"
	pending     = "pending"
)

// Message is an environment's message: the gate while it waits, and later what
// became of it. The text stands for it in notifications. file is Slack's ID of the picture
// of what was measured, or empty.
func Message(v View, environment, file string) (text string, blocks []slackgo.Block) {
	text = headline(v, environment)
	blocks = append(blocks,
		slackgo.NewHeaderBlock(slackgo.NewTextBlockObject(slackgo.PlainTextType, cut(oneLine(Clean(ahead(text))), mostHeader), false, false)),
		section(subject(v)))
	g := v.Gate
	open := g != nil && g.Environment == environment
	if open && v.Kind == "" {
		blocks = append(blocks, section(changes(g.Changes, environment)))
	}
	if open {
		blocks = append(blocks, section(approvals(*g)))
		if g.Matrix != nil {
			blocks = append(blocks, measured(*g.Matrix, file)...)
		}
	}
	blocks = append(blocks, section(environments(v)))
	if links := addresses(v, environment); links != "" {
		blocks = append(blocks, note(links))
	}
	if open && v.Ended == nil && !v.Over {
		blocks = append(blocks, buttons(v, *g))
	}
	return Free(text), blocks
}

// headline is plain text: what it is and how it stands.
func headline(v View, environment string) string {
	at := v.Pipeline + " → " + environment + ": "
	if v.Kind == KindCorrection {
		at = v.Pipeline + ", correction of drift: "
	}
	if g := v.Gate; g != nil && g.Environment == environment && v.Ended == nil {
		if v.Paused != nil {
			at += "paused, "
		}
		return at + fmt.Sprintf("waits for approval, %d of %d", g.Counted, g.Required)
	}
	if v.Kind == KindCorrection {
		at += strings.ReplaceAll(word(Clean(v.State)), "-", " ")
	}
	for _, e := range v.Environments {
		if e.Name == environment && v.Kind == "" {
			at += strings.ReplaceAll(e.State, "-", " ")
		}
	}
	if v.Paused != nil && !v.Over {
		at += ", paused"
	}
	return at
}

// subject is what a gate is about.
func subject(v View) string {
	if v.Kind == KindCorrection {
		return correction(v)
	}
	return revision(v)
}

// correction says what Fleet is to put right, and what it is not.
func correction(v View) string {
	d := v.Drift
	if d == nil {
		d = &Drift{}
	}
	s := "*To put right:* " + count(d.Findings, "finding") + ". Fleet applies all that these GitRepos deliver again, by force, on all of their clusters."
	if d.Left > 0 {
		s += "\n*Stays as it is:* " + count(d.Left, "finding") + " about what Fleet does not have: look at the report."
	}
	for _, b := range d.Briefs[:min(len(d.Briefs), MostBriefs)] {
		s += "\n• " + brief(b)
		if !b.Correctable {
			s += " (stays)"
		}
	}
	if v.StartedBy != "" {
		s += "\nstarted by " + Free(v.StartedBy)
	}
	return s
}

func revision(v View) string {
	s := "*Revision* " + code(short(v.Revision))
	if v.Subject != "" {
		s += " " + Free(v.Subject)
	}
	if v.Author != "" {
		s += ", written by " + Free(v.Author)
	}
	if v.StartedBy != "" {
		s += ", started by " + Free(v.StartedBy)
	}
	return s
}

// changes says in words what the revision does to an environment.
func changes(c Changes, environment string) string {
	s := "*Changes in " + Free(environment) + ":* " + InWords(c)
	for _, k := range []struct {
		word string
		of   Objects
	}{{"adds", c.Added}, {"changes", c.Changed}, {"removes", c.Removed}} {
		if k.of.Count > 0 {
			s += "\n• " + k.word + " " + named(k.of.Names, k.of.Count, 10)
		}
	}
	return s
}

// InWords counts changes: "1 object added, 2 changed, none removed".
func InWords(c Changes) string {
	if c.Added.Count+c.Changed.Count+c.Removed.Count == 0 {
		return "nothing"
	}
	return fmt.Sprintf("%s added, %s changed, %s removed", objects(c.Added.Count), none(c.Changed.Count), none(c.Removed.Count))
}

func objects(n int) string {
	if n == 0 {
		return "no object"
	}
	return count(n, "object")
}

func none(n int) string {
	if n == 0 {
		return "none"
	}
	return fmt.Sprint(n)
}

func approvals(g Gate) string {
	s := fmt.Sprintf("*Evidence* %s, %d of %s", code(short(g.Evidence)), g.Counted, count(g.Required, "approval"))
	if g.Measured > 0 && g.Matrix == nil {
		s += "\nThe wire was measured on " + count(g.Measured, "cluster") + " as it is before the change."
	}
	for _, vote := range g.Votes {
		s += "\n• approved by " + by(vote)
	}
	s += "\nWaits since " + date(g.Since)
	if !g.Deadline.IsZero() {
		s += ", until " + date(g.Deadline)
	}
	return s
}

// mostEnvironments is how many environments a message shows in full.
const mostEnvironments = 20

func environments(v View) string {
	lines := []string{map[Kind]string{"": "*Environments*", KindCorrection: "*GitRepos*"}[v.Kind]}
	for _, e := range v.Environments[:min(len(v.Environments), mostEnvironments)] {
		lines = append(lines, "• "+environment(e, v.Now))
	}
	if more := len(v.Environments) - mostEnvironments; more > 0 {
		lines = append(lines, fmt.Sprintf("• and %d more", more))
	}
	if v.Ended != nil {
		lines = append(lines, Free(v.Ended.How)+" by "+by(v.Ended.Said))
	}
	if v.Paused != nil && !v.Over {
		lines = append(lines, "paused by "+by(*v.Paused))
	}
	return strings.Join(lines, "\n")
}

// soaking says how far a soak is.
func soaking(s Soaking, now time.Time) string {
	of := ""
	if s.Wave != "" {
		of = "wave " + Free(s.Wave) + " "
	}
	all := s.Until.Sub(s.Since).Round(time.Second)
	so := min(max(now.Sub(s.Since), 0), all)
	switch {
	case so >= all:
		return of + "soaked " + span(all)
	case so < time.Minute:
		return of + "soaks for " + span(all) + ", until " + date(s.Until)
	}
	return of + "soaking, " + span(so.Truncate(time.Minute)) + " of " + span(all) + " so far"
}

// span is a duration without the units that are nought: 1h30m, 10m, 45s.
func span(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

func environment(e Environment, now time.Time) string {
	s := "*" + Free(e.Name) + "* " + strings.ReplaceAll(Free(e.State), "-", " ")
	switch {
	case e.Verified > 0 || e.Failures > 0:
		s += fmt.Sprintf(": %d of %s verified", e.Verified, count(e.Clusters, "cluster"))
	case e.Clusters > 0:
		s += ": " + count(e.Clusters, "cluster")
	}
	if e.Pairs > 0 {
		s += ", " + count(e.Pairs, "connection") + " probed"
		if e.Failing > 0 {
			s += fmt.Sprintf(", %d not as required", e.Failing)
		}
	}
	if e.Failures > 0 && len(e.Failed) > 0 {
		s += ", not on " + named(e.Failed, e.Failures, 3)
	}
	if e.State == verified {
		if e.Soak > 0 {
			s += ", soaked " + span(e.Soak)
		}
		if !e.LiveAt.IsZero() {
			s += ", live since " + date(e.LiveAt)
		}
	}
	if e.Soaking != nil && !now.IsZero() {
		s += ", " + soaking(*e.Soaking, now)
	}
	if e.Evidence != "" {
		s += ", evidence " + code(short(e.Evidence))
	}
	if e.Back != nil {
		s += "; " + back(*e.Back)
	}
	return s
}

func back(b Back) string {
	s := "put back to "
	switch {
	case b.Revision != "":
		s += code(short(b.Revision))
	case b.Kind == "absent":
		s += "absence"
	default:
		s += "what was before"
	}
	s += map[bool]string{true: ", live", false: ", NOT live"}[b.Live]
	return s + map[bool]string{true: ", proven on the wire", false: ", NOT proven on the wire"}[b.Proven]
}

func addresses(v View, environment string) string {
	var out []string
	if l := link(v.Temporal, "Temporal"); l != "" {
		out = append(out, l)
	}
	if g := v.Gate; g != nil && g.Environment == environment {
		if l := link(g.Compare, "compare in Git"); l != "" {
			out = append(out, l)
		}
	}
	return strings.Join(out, " · ")
}

func buttons(v View, g Gate) slackgo.Block {
	value := Target{Kind: v.Kind, Pipeline: v.Pipeline, Environment: g.Environment, Rollout: v.Rollout, Evidence: g.Evidence}.Encode()
	button := func(action, text string, style slackgo.Style) *slackgo.ButtonBlockElement {
		return slackgo.NewButtonBlockElement(action, value, slackgo.NewTextBlockObject(slackgo.PlainTextType, text, false, false)).WithStyle(style)
	}
	return slackgo.NewActionBlock("portcullis.gate",
		button(ActionApprove, "Approve", slackgo.StylePrimary),
		button(ActionReject, "Reject", slackgo.StyleDanger),
		button(ActionDetails, "Details", slackgo.StyleDefault))
}

// section is a paragraph of mrkdwn, cut at a line's end where it is too long.
func section(text string) slackgo.Block {
	return slackgo.NewSectionBlock(mrkdwn(fit(text, mostSection)), nil, nil)
}

func note(text string) slackgo.Block {
	return slackgo.NewContextBlock("", mrkdwn(fit(text, mostSection)))
}

func mrkdwn(text string) *slackgo.TextBlockObject {
	// verbatim: an address or a name that a person wrote does not become a link.
	return slackgo.NewTextBlockObject(slackgo.MarkdownType, text, false, true)
}

// fit drops whole lines from the end, so that no escape or link is cut in two.
func fit(text string, most int) string {
	if len([]rune(text)) <= most {
		return text
	}
	const rest = "\n…"
	kept, size := []string{}, len([]rune(rest))
	for _, line := range strings.Split(text, "\n") {
		if size += len([]rune(line)) + 1; size > most {
			break
		}
		kept = append(kept, line)
	}
	return strings.Join(kept, "\n") + rest
}
