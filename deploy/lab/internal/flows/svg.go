package flows

import (
	"cmp"
	"fmt"
	"html"
	"slices"
	"strings"
	"time"
)

// Sizes of the picture, in pixels.
const (
	labelWidth = 210
	plotWidth  = 900
	rowHeight  = 10
	laneHeight = 13
	headHeight = 48
	footHeight = 40
	// charWidth is about how wide a letter of the events' texts is.
	charWidth = 5
)

// Colours of the picture.
const (
	colourWorks  = "#d7dbe0"
	colourDenied = "#d9ead9"
	colourFailed = "#cc0000"
	colourOpen   = "#000000"
	colourEvent  = "#3366cc"
	colourBand   = "#f3d98b"
)

// bar is a row of the picture: all flows of a kind between the pods of two nodes.
type bar struct {
	group, name string
	allowed     bool
	spans       []Span
	bad         []Try
	broken      int
}

// SVG draws a row for the flows of each kind between each two nodes, over the time
// of the report: grey or green while they are watched, red where one that is allowed
// failed, black where one that is denied was open; above them what was done.
func (r Report) SVG(title string) string {
	bars, lanes := r.bars(), r.lanes()
	groups := 0
	for i, x := range bars {
		if i == 0 || x.group != bars[i-1].group {
			groups++
		}
	}
	top := headHeight + laneHeight*(lanes+len(r.Bands))
	height := top + rowHeight*len(bars) + laneHeight*groups + footHeight
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="sans-serif" font-size="9">`+"\n", labelWidth+plotWidth+20, height)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/><text x="8" y="18" font-size="14">%s</text>`+"\n", html.EscapeString(title))
	fmt.Fprintf(&b, `<text x="8" y="35" font-size="11">%s</text>`+"\n", html.EscapeString(r.Totals().String()))
	r.drawBands(&b, headHeight)
	r.drawEvents(&b, headHeight+laneHeight*len(r.Bands), height-footHeight)
	y := top
	for i, x := range bars {
		if i == 0 || x.group != bars[i-1].group {
			fmt.Fprintf(&b, `<text x="8" y="%d" font-weight="bold">%s</text>`+"\n", y+laneHeight-3, html.EscapeString(x.group))
			y += laneHeight
		}
		r.drawBar(&b, y, x)
		y += rowHeight
	}
	r.drawAxis(&b, y)
	b.WriteString("</svg>\n")
	return b.String()
}

// String is the totals in a line.
func (t Totals) String() string {
	return fmt.Sprintf("%d tries, %d failed, longest gap %s; a denied flow was open %d times; %d of %d held connections broke",
		t.Tries, t.Failed, t.Longest.Round(time.Millisecond), t.Opened, t.HeldLost, t.Held)
}

// bars joins flows of the same kind between the same nodes.
func (r Report) bars() []bar {
	var out []bar
	index := map[string]int{}
	for _, s := range r.Flows {
		what := "allowed"
		switch {
		case s.Held:
			what = "held"
		case !s.Allowed:
			what = "denied"
		}
		x := bar{
			group:   fmt.Sprintf("%s: %s to %s, TCP %d", what, namespaceOf(s.From.Name), namespaceOf(s.To.Name), s.Port),
			name:    s.From.Node + " to " + s.To.Node,
			allowed: s.Allowed,
		}
		i, known := index[x.group+x.name]
		if !known {
			i = len(out)
			index[x.group+x.name] = i
			out = append(out, x)
		}
		out[i].spans = append(out[i].spans, s.Spans...)
		out[i].bad = append(out[i].bad, s.Bad...)
		if s.Broken != "" {
			out[i].broken++
		}
	}
	slices.SortStableFunc(out, func(a, b bar) int { return cmp.Or(cmp.Compare(a.group, b.group), cmp.Compare(a.name, b.name)) })
	return out
}

func namespaceOf(pod string) string {
	n, _, _ := strings.Cut(pod, "/")
	return n
}

func (r Report) x(at time.Time) float64 {
	x := labelWidth + plotWidth*float64(at.Sub(r.From))/float64(max(r.To.Sub(r.From), 1))
	return min(max(x, labelWidth), labelWidth+plotWidth)
}

func (r Report) drawBar(b *strings.Builder, y int, x bar) {
	fill, bad := colourWorks, colourFailed
	if !x.allowed {
		fill, bad = colourDenied, colourOpen
	}
	name := x.name
	if x.broken > 0 {
		name += fmt.Sprintf(", %d broke", x.broken)
	}
	fmt.Fprintf(b, `<text x="14" y="%d" font-size="8">%s</text>`, y+rowHeight-2, html.EscapeString(name))
	for _, s := range x.spans {
		fmt.Fprintf(b, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>`, r.x(s.From), y, max(r.x(s.To)-r.x(s.From), 0.5), rowHeight-2, fill)
	}
	for _, s := range r.runs(x.bad) {
		fmt.Fprintf(b, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>`, r.x(s.From), y, max(r.x(s.To)-r.x(s.From), 1), rowHeight-2, bad)
	}
	b.WriteString("\n")
}

// runs joins tries that went wrong and are too near to each other to be told apart.
func (r Report) runs(bad []Try) []Span {
	near := max(2*r.Every, r.To.Sub(r.From)/plotWidth)
	slices.SortFunc(bad, func(a, b Try) int { return a.At.Compare(b.At) })
	var out []Span
	for _, t := range bad {
		if last := len(out) - 1; last >= 0 && t.At.Sub(out[last].To) <= near {
			out[last].To = t.At.Add(r.Every)
			continue
		}
		out = append(out, Span{t.At, t.At.Add(r.Every)})
	}
	return out
}

func (r Report) drawBands(b *strings.Builder, y int) {
	for _, band := range r.Bands {
		fmt.Fprintf(b, `<text x="14" y="%d">%s</text><rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n",
			y+laneHeight-4, html.EscapeString(band.Text), r.x(band.From), y, max(r.x(band.To)-r.x(band.From), 1), laneHeight-2, colourBand)
		y += laneHeight
	}
}

// lanes is how many lines the events' texts need in order not to cover each other.
func (r Report) lanes() int {
	n := 0
	for _, lane := range r.placed() {
		n = max(n, lane+1)
	}
	return n
}

// placed gives each event the first line that has room for its text.
func (r Report) placed() []int {
	var free []float64
	out := make([]int, len(r.Events))
	for i, e := range r.Events {
		x := r.textAt(e)
		lane := slices.IndexFunc(free, func(end float64) bool { return end <= x })
		if lane < 0 {
			lane = len(free)
			free = append(free, 0)
		}
		free[lane] = x + float64(charWidth*len(e.Text)) + 6
		out[i] = lane
	}
	return out
}

// textAt is where an event's text begins: left of its line near the right edge.
func (r Report) textAt(e Event) float64 {
	return max(min(r.x(e.At)+2, labelWidth+plotWidth+18-float64(charWidth*len(e.Text))), 0)
}

func (r Report) drawEvents(b *strings.Builder, top, bottom int) {
	for i, lane := range r.placed() {
		e := r.Events[i]
		y := top + laneHeight*lane
		fmt.Fprintf(b, `<line x1="%.1f" x2="%[1]f" y1="%d" y2="%d" stroke="%s" stroke-width="0.6" stroke-opacity="0.6"/>`, r.x(e.At), y, bottom, colourEvent)
		fmt.Fprintf(b, `<text x="%.1f" y="%d" fill="%s">%s</text>`+"\n", r.textAt(e), y+laneHeight-4, colourEvent, html.EscapeString(e.Text))
	}
}

func (r Report) drawAxis(b *strings.Builder, y int) {
	span := r.To.Sub(r.From)
	for i := range 11 {
		at := span * time.Duration(i) / 10
		fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="middle">%.0f s</text>`, r.x(r.From.Add(at)), y+14, at.Seconds())
	}
	x := labelWidth
	for _, e := range []struct{ colour, text string }{
		{colourWorks, "works"}, {colourFailed, "allowed, and failed"}, {colourDenied, "denied, and shut"}, {colourOpen, "denied, and open"}, {colourBand, "the node is being moved"},
	} {
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="10" height="8" fill="%s"/><text x="%d" y="%d">%s</text>`, x, y+22, e.colour, x+14, y+30, e.text)
		x += 130
	}
	b.WriteString("\n")
}
