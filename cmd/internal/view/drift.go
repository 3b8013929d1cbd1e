package view

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"portcullis.dev/portcullis/rancher/drift"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/story"
)

// Drift is what an audit found. It is also what `drift report -o json` prints.
type Drift struct {
	RunID string `json:"runId,omitempty"`
	contract.DriftResult
	// Found are the clusters of the audit, unpacked.
	Found []drift.Cluster `json:"found"`
	// Summed are the findings that are not ignored, each once, with the clusters that have it.
	Summed []Summed `json:"summed,omitempty"`
	// News are the differences from the audit in Before, where one was named.
	News   *drift.News `json:"news,omitempty"`
	Before string      `json:"before,omitempty"`
}

// Summed is one finding over all clusters.
type Summed struct {
	Category drift.Category `json:"category"`
	drift.Key
	Clusters []string `json:"clusters"`
}

// NewDrift unpacks the result of an audit.
func NewDrift(run string, r contract.DriftResult) (Drift, error) {
	d := Drift{RunID: run, DriftResult: r}
	for _, data := range r.Batches {
		found, err := drift.Unpack(data)
		if err != nil {
			return d, err
		}
		d.Found = append(d.Found, found...)
	}
	d.Batches = nil
	d.Summed = summed(d.Found)
	return d, nil
}

func summed(clusters []drift.Cluster) []Summed {
	type subject struct {
		category drift.Category
		key      drift.Key
	}
	on := map[subject][]string{}
	for _, c := range clusters {
		for _, f := range c.Findings {
			if f.Ignored == nil {
				s := subject{f.Category, f.Key}
				on[s] = append(on[s], c.Cluster)
			}
		}
	}
	out := make([]Summed, 0, len(on))
	for s, names := range on {
		out = append(out, Summed{s.category, s.key, names})
	}
	slices.SortFunc(out, func(a, b Summed) int {
		return cmp.Or(cmp.Compare(len(b.Clusters), len(a.Clusters)),
			cmp.Compare(slices.Index(drift.Categories, a.Category), slices.Index(drift.Categories, b.Category)),
			cmp.Compare(a.Key.String(), b.Key.String()))
	})
	return out
}

// Lines tell an audit in text. With all false, clusters that are clean are left out.
func (d Drift) Lines(p Paint, all bool) []string {
	w := &lines{paint: p}
	w.add(func(t string) string { return p.Bold(p.drift(drift.State(d.State), t)) }, "%s  %s%s", d.Pipeline, d.State, because(d.Reason))
	w.add(p.Dim, "  audited at %s in %s, started by %s, run %s", stamp(d.StartedAt), Ago(d.FinishedAt.Sub(d.StartedAt)), d.StartedBy, d.RunID)
	w.add(nil, "  %s: %s", story.Count(len(d.Found), "cluster"), d.counts())
	w.since(d)
	for _, e := range d.Expired {
		w.add(func(t string) string { return p.in(yellow, t) }, "  %s", e)
	}
	for _, f := range d.GitRepos {
		w.finding(f, "  ")
	}
	w.news(d)
	w.wire(d.Wire)
	w.summed(d.Summed)
	for _, c := range d.Found {
		w.cluster(c, all)
	}
	return w.out
}

// lines collects lines.
type lines struct {
	paint Paint
	out   []string
}

func (w *lines) add(paint func(string) string, format string, args ...any) {
	text := strings.TrimRight(clean(fmt.Sprintf(format, args...)), " ")
	if paint != nil {
		text = paint(text)
	}
	w.out = append(w.out, text)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// counts are the clusters by state.
func (d Drift) counts() string {
	var parts []string
	for _, s := range []drift.State{drift.Clean, drift.Drifted, drift.Unknown, drift.Moving} {
		if n := d.Clusters[s]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, s))
		}
	}
	if d.Ignored > 0 {
		parts = append(parts, story.Count(d.Ignored, "finding")+" ignored")
	}
	return strings.Join(parts, ", ")
}

func (w *lines) since(d Drift) {
	if d.Since.IsZero() {
		return
	}
	what := "found the same"
	if d.Changed {
		what = "found something else"
	}
	w.add(nil, "  the scheduled audit before, of %s, %s", stamp(d.Since), what)
}

func (w *lines) news(d Drift) {
	if d.News == nil {
		return
	}
	n := d.News
	w.add(nil, "")
	w.add(w.paint.Bold, "since run %s: %d new, %d changed, %d gone, %d as they were", d.Before, len(n.New), len(n.Changed), len(n.Gone), n.Same)
	if n.Partly {
		w.add(nil, "  (one of the audits found too much to keep it all: what was left out is not told)")
	}
	for _, part := range []struct {
		word   string
		places []drift.Place
		paint  func(string) string
	}{{"new", n.New, w.paint.Bad}, {"changed", n.Changed, w.paint.Bad}, {"gone", n.Gone, w.paint.Good}} {
		for _, at := range part.places {
			w.add(part.paint, "  %s  %s  %s %s", pad(part.word, 7), at.Cluster, at.Finding.Category, at.Finding.Key)
		}
	}
}

func (w *lines) wire(r *contract.DriftWire) {
	if r == nil {
		return
	}
	w.add(nil, "")
	w.add(w.paint.Bold, "requirements: met on %d, not met on %d, not measured on %d", r.Met, r.Unmet, r.Unmeasured)
	for _, c := range r.Clusters {
		word, paint := "not met", w.paint.Bad
		if c.Inconclusive {
			word, paint = "not measured", func(t string) string { return w.paint.in(yellow, t) }
		}
		w.add(paint, "  %s  %s%s", c.Cluster, word, because(c.Reason))
	}
	if left := r.Unmet + r.Unmeasured - len(r.Clusters); left > 0 {
		w.add(nil, "  and %d more", left)
	}
}

// shownSummed bounds the findings that are told over all clusters.
const shownSummed = 20

func (w *lines) summed(all []Summed) {
	all = all[:len(all):len(all)]
	if n := slices.IndexFunc(all, func(s Summed) bool { return len(s.Clusters) < 2 }); n >= 0 {
		all = all[:n]
	}
	if len(all) == 0 {
		return
	}
	w.add(nil, "")
	w.add(w.paint.Bold, "on more than one cluster")
	for _, s := range all[:min(len(all), shownSummed)] {
		w.add(nil, "  %s  %s  %s: %s", pad(fmt.Sprint(len(s.Clusters)), 5), pad(string(s.Category), 8), s.Key, story.Some(s.Clusters, 5))
	}
	if more := len(all) - shownSummed; more > 0 {
		w.add(nil, "  and %s", story.Count(more, "more finding"))
	}
}

func (w *lines) cluster(c drift.Cluster, all bool) {
	if c.State == drift.Clean && !all && c.Ignored == 0 {
		return
	}
	w.add(nil, "")
	head := fmt.Sprintf("%s  %s  %s", c.Cluster, c.Environment, c.State)
	if c.Revision != "" {
		head += "  revision " + Short(c.Revision)
	}
	w.add(func(t string) string { return w.paint.drift(c.State, t) }, "%s", head)
	if c.Reason != "" {
		w.add(nil, "  %s", oneLine(c.Reason))
	}
	for _, u := range c.Unknown {
		if u != c.Reason {
			w.add(nil, "  %s", oneLine(u))
		}
	}
	for _, f := range c.Findings {
		w.finding(f, "  ")
	}
	if c.LeftOut > 0 {
		w.add(nil, "  and %s, left out of the report", story.Count(c.LeftOut, "more finding"))
	}
	for _, f := range c.Fleet {
		w.fleet(f)
	}
}

func (w *lines) finding(f drift.Finding, indent string) {
	paint := w.paint.Bad
	word := string(f.Category)
	if f.Ignored != nil {
		paint, word = w.paint.Dim, word+" (ignored)"
	}
	line := fmt.Sprintf("%s%s  %s", indent, pad(word, 8), f.Key)
	if f.Bundle != "" {
		line += "  of " + f.Bundle
	}
	w.add(paint, "%s", line)
	deep := indent + strings.Repeat(" ", 10)
	for _, c := range f.Changes {
		w.add(nil, "%s%s", deep, oneLine(c.String()))
	}
	if f.More > 0 {
		w.add(nil, "%sand %s", deep, story.Count(f.More, "more field"))
	}
	if f.Detail != "" {
		w.add(nil, "%s%s", deep, oneLine(f.Detail))
	}
	if said := Written(f); said != "" {
		w.add(w.paint.Dim, "%s%s", deep, said)
	}
	if f.Ignored != nil {
		until := ""
		if f.Ignored.Until != "" {
			until = ", until " + f.Ignored.Until
		}
		w.add(w.paint.Dim, "%signored: %s%s", deep, oneLine(f.Ignored.Reason), until)
	}
}

// Written says when something was made, and who last wrote it.
func Written(f drift.Finding) string {
	var parts []string
	if !f.Created.IsZero() {
		parts = append(parts, "made at "+stamp(f.Created))
	}
	if f.By != nil {
		by := "last written by " + oneLine(f.By.Manager)
		if !f.By.At.IsZero() {
			by += " at " + stamp(f.By.At)
		}
		parts = append(parts, by)
	}
	return strings.Join(parts, ", ")
}

func (w *lines) fleet(f drift.FleetView) {
	for _, said := range []struct {
		word string
		list []string
	}{{"modified", f.Modified}, {"not ready", f.NotReady}} {
		if len(said.list) > 0 {
			w.add(w.paint.Dim, "  Fleet says of %s: %s: %s", f.Bundle, said.word, oneLine(story.Some(said.list, 3)))
		}
	}
}

// drift colours text as the state of a cluster deserves.
func (p Paint) drift(state drift.State, text string) string {
	switch state {
	case drift.Clean:
		return p.in(green, text)
	case drift.Drifted:
		return p.in(red, text)
	case drift.Unknown:
		return p.in(yellow, text)
	}
	return p.in(cyan, text)
}

// audit tells of the last audit under the head of a rollout.
func (d *drawing) audit() {
	a := d.r.Audit
	if a == nil {
		return
	}
	d.line(func(t string) string { return d.Paint.drift(drift.State(a.State), t) }, "  last audit: %s, %s ago; portcullis drift report %s",
		a.State, Ago(d.Now.Sub(a.At)), d.r.Pipeline)
}
