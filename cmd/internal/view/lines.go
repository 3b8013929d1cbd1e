package view

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"portcullis.dev/portcullis/workflows/approval"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/story"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// Tail turns what is seen of a rollout or a migration, time after time, into lines
// that were not given before. It is for logs and pipes, where nothing can be drawn over.
type Tail struct {
	told  map[contract.LogEntry]bool
	state contract.State
	envs  map[string]contract.State
	// rows has clusters by environment and name, or nodes by name.
	rows    map[string]string
	waiting map[string]string
	gate    string
	opens   time.Time
	silent  string
	// said are the long lines so far: a reason is given once, and then referred to.
	said []string
}

// adder adds a line.
type adder func(format string, args ...any)

// Next gives the lines that are new in l.
func (t *Tail) Next(l Look, now time.Time) []string {
	if t.told == nil {
		t.told, t.envs = map[contract.LogEntry]bool{}, map[string]contract.State{}
		t.rows, t.waiting = map[string]string{}, map[string]string{}
	}
	r := l.Shared()
	lines := t.story(r)
	stamp := now.UTC().Format("15:04:05") + "  "
	add := func(format string, args ...any) { lines = append(lines, stamp+clean(fmt.Sprintf(format, args...))) }
	l.changes(t, add)
	t.waits(r, now, add)
	l.gates(t, now, add)
	if r.Unanswered != t.silent {
		t.silent = r.Unanswered
		if r.Unanswered != "" {
			add("%s", oneLine(r.Unanswered))
		}
	}
	if r.State != t.state {
		t.state = r.State
		add("%s: %s%s", r.Pipeline, r.State, because(r.Reason))
	}
	var reasons []string
	for _, reason := range l.reasons() {
		if reason = oneLine(reason); utf8.RuneCountInString(reason) >= longReason {
			reasons = append(reasons, reason)
		}
	}
	for i := range lines {
		lines[i] = t.once(lines[i], reasons)
	}
	return lines
}

// longReason is the length from which repeating a reason hides what is new.
const longReason = 60

func (r Rollout) reasons() []string {
	out := []string{r.Reason}
	for i, e := range r.Environments {
		if e.Result != nil {
			out = append(out, e.Result.Reason)
		}
		for _, c := range r.clusters(i) {
			out = append(out, c.Reason)
		}
	}
	return out
}

// once leaves out of a line the reasons that an earlier line gave in full.
func (t *Tail) once(line string, reasons []string) string {
	whole := line
	for _, reason := range reasons {
		if strings.Contains(line, reason) && slices.ContainsFunc(t.said, func(s string) bool { return strings.Contains(s, reason) }) {
			line = strings.ReplaceAll(line, reason, "as above")
		}
	}
	if utf8.RuneCountInString(whole) >= longReason && whole == line {
		t.said = append(t.said, whole)
	}
	return line
}

func (t *Tail) story(r Rollout) (lines []string) {
	for _, l := range r.log() {
		if !t.told[l] {
			t.told[l] = true
			lines = append(lines, Entry(l))
		}
	}
	return lines
}

func (r Rollout) changes(t *Tail, add adder) {
	for i, e := range r.Environments {
		state := e.State
		if p, running := r.Promotions[e.Name]; running && p.State != "" {
			state = p.State
		}
		if state != t.envs[e.Name] && state != contract.StatePending {
			add("%s: %s", e.Name, state)
		}
		t.envs[e.Name] = state
		for _, c := range r.clusters(i) {
			t.cluster(e.Name, c, add)
		}
	}
}

func (t *Tail) cluster(environment string, c contract.ClusterRow, add adder) {
	key := environment + "/" + c.Cluster
	if t.rows[key] == c.State {
		return
	}
	t.rows[key] = c.State
	if c.State == string(contract.StatePending) {
		return
	}
	probes := ""
	if judged(c) {
		probes = fmt.Sprintf(", %d of %d probes as required", c.Pairs-c.Failing, c.Pairs)
	}
	add("%s: cluster %s: %s%s%s", environment, c.Cluster, c.State, probes, because(c.Reason))
}

// waits tells a reason once, however long it lasts.
func (t *Tail) waits(r Rollout, now time.Time, add adder) {
	for _, w := range r.Waiting {
		key := w.Environment + "/" + w.Activity + "/" + w.Subject
		reason := w.For + w.LastFailure
		if reason == "" || t.waiting[key] == reason {
			continue
		}
		t.waiting[key] = reason
		add("waiting: %s", w.Text(now))
	}
}

func (r Rollout) gates(t *Tail, _ time.Time, add adder) {
	key := ""
	if g := r.Gate; g != nil {
		key = fmt.Sprint(g.Environment, g.Evidence.Hash, len(g.Votes))
	}
	if key == t.gate {
		return
	}
	t.gate = key
	if g := r.Gate; g != nil {
		add("gate of %s: %d of %s given; evidence %s: %s", g.Environment, len(g.Votes), story.Count(g.Required, "approval"),
			Short(g.Evidence.Hash), r.files(g.Evidence))
		if terms := approval.Terms(g.Voters); terms != "" {
			add("approvals %s", terms)
		}
		add("to approve: portcullis rollout approve %s --evidence %s --why …", r.Pipeline, Short(g.Evidence.Hash))
	}
}
