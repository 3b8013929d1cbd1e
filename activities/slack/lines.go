package slack

import (
	"fmt"
	"slices"
	"strings"
)

// Lines tells what happened between two views of one rollout, oldest first: the
// rollout's log, as its thread has it. Of a rollout that was not seen before, old
// is the zero View.
func Lines(old, now View) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if old.Rollout == "" {
		say("%s, started by %s", subjectLine(now), Free(now.StartedBy))
	}
	for i, e := range now.Environments {
		was := Environment{State: pending}
		if i < len(old.Environments) {
			was = old.Environments[i]
		}
		if e.State != was.State && e.State != pending && e.State != awaiting {
			say("%s", environment(e, now.Now))
		}
	}
	out = append(out, gateLines(old.Gate, now.Gate)...)
	if old.Gate != nil && now.Gate == nil && now.Ended == nil && passed(now, old.Gate.Environment) {
		say("the gate of *%s* is open, evidence %s", Free(old.Gate.Environment), code(short(old.Gate.Evidence)))
	}
	switch {
	case now.Paused != nil && old.Paused == nil:
		say("paused by %s", by(*now.Paused))
	case now.Paused == nil && old.Paused != nil:
		say("resumed")
	}
	if now.Ended != nil && old.Ended == nil {
		say("%s by %s", Free(now.Ended.How), by(now.Ended.Said))
	}
	if now.Over && !old.Over {
		say("*%s*", strings.ReplaceAll(Free(now.State), "-", " "))
	}
	return out
}

func subjectLine(v View) string {
	if v.Kind == KindCorrection {
		findings := 0
		if v.Drift != nil {
			findings = v.Drift.Findings
		}
		return "correction of " + count(findings, "finding")
	}
	s := "revision " + code(short(v.Revision))
	if v.Subject != "" {
		s += " " + Free(v.Subject)
	}
	return s
}

// passed is true where an environment went on after its gate.
func passed(v View, environment string) bool {
	i := slices.IndexFunc(v.Environments, func(e Environment) bool { return e.Name == environment })
	if i < 0 {
		return false
	}
	switch v.Environments[i].State {
	case awaiting, rejected, aborted, failed, pending:
		return false
	}
	return true
}

func gateLines(old, now *Gate) []string {
	if now == nil {
		return nil
	}
	if old == nil || old.Environment != now.Environment {
		lines := []string{fmt.Sprintf("*%s* waits for %s of evidence %s", Free(now.Environment), count(now.Required, "approval"), code(short(now.Evidence)))}
		return append(lines, votes(nil, now.Votes, now.Required)...)
	}
	if old.Evidence == now.Evidence {
		return votes(old.Votes, now.Votes, now.Required)
	}
	line := fmt.Sprintf("the evidence of *%s* has changed from %s to %s", Free(now.Environment), code(short(old.Evidence)), code(short(now.Evidence)))
	if n := len(old.Votes); n > 0 {
		line += fmt.Sprintf("; void: %s of the old one", count(n, "approval"))
	}
	return append([]string{line}, votes(nil, now.Votes, now.Required)...)
}

func votes(old, now []Said, required int) []string {
	var out []string
	for i, v := range now {
		if !slices.ContainsFunc(old, func(o Said) bool { return o.By == v.By }) {
			out = append(out, fmt.Sprintf("approved by %s, %d of %d", by(v), i+1, required))
		}
	}
	return out
}

// Reminder says that a gate still waits.
func Reminder(g Gate) string {
	missing := max(g.Required-g.Counted, 0)
	s := fmt.Sprintf("reminder: *%s* still waits for %s of evidence %s, since %s", Free(g.Environment), count(missing, "approval"), code(short(g.Evidence)), date(g.Since))
	if !g.Deadline.IsZero() {
		s += "; after " + date(g.Deadline) + " the rollout is rejected"
	}
	return s
}
