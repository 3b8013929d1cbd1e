package flows

import (
	"fmt"
	"html"
	"strings"
	"time"
)

// Sizes of the picture, in pixels.
const (
	labelWidth = 220
	plotWidth  = 900
	rowHeight  = 6
	topHeight  = 70
)

// SVG draws a row for each flow over the time of the report: grey where all went
// well, red where an allowed flow failed, black where a denied one was open; and
// what was done, as lines from top to bottom.
func (r Report) SVG(title string) string {
	var b strings.Builder
	height := topHeight + rowHeight*len(r.Flows) + 30
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11">`, labelWidth+plotWidth+20, height)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/><text x="10" y="18" font-size="14">%s</text>`, html.EscapeString(title))
	t := r.Totals()
	fmt.Fprintf(&b, `<text x="10" y="36">%s</text>`, html.EscapeString(fmt.Sprintf(
		"%d tries, %d failed, longest gap %s; %d times a denied flow was open; %d of %d held connections broke",
		t.Tries, t.Failed, t.Longest, t.Opened, t.HeldLost, t.Held)))
	for i, s := range r.Flows {
		r.row(&b, topHeight+rowHeight*i, s)
	}
	for _, e := range r.Events {
		x := r.x(e.At)
		fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="#3366cc" stroke-width="1"/>`, x, x, topHeight-16, height-24)
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" font-size="9" fill="#3366cc">%s</text>`, x+2, topHeight-8, html.EscapeString(e.Text))
	}
	span := r.To.Sub(r.From)
	for i := range 11 {
		at := span * time.Duration(i) / 10
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" font-size="9">%.0f s</text>`, r.x(r.From.Add(at)), height-8, at.Seconds())
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func (r Report) x(at time.Time) float64 {
	return labelWidth + plotWidth*float64(at.Sub(r.From))/float64(max(r.To.Sub(r.From), 1))
}

func (r Report) row(b *strings.Builder, y int, s Seen) {
	fill := "#dddddd"
	if !s.Allowed {
		fill = "#e8f0e8"
	}
	name := s.From.Name + " to " + s.To.Name
	fmt.Fprintf(b, `<g><title>%s</title><rect x="%d" y="%d" width="%d" height="%d" fill="%s"/>`, html.EscapeString(name), labelWidth, y, plotWidth, rowHeight-1, fill)
	for _, bad := range s.Bad {
		colour := "#cc0000"
		if bad.Why == "open" {
			colour = "#000000"
		}
		fmt.Fprintf(b, `<rect x="%.2f" y="%d" width="%.2f" height="%d" fill="%s"/>`, r.x(bad.At), y,
			max(1, plotWidth*float64(r.Every)/float64(max(r.To.Sub(r.From), 1))), rowHeight-1, colour)
	}
	if len(s.Bad) > 0 || s.Broken != "" {
		fmt.Fprintf(b, `<text x="8" y="%d" font-size="6">%s</text>`, y+rowHeight-1, html.EscapeString(name+" "+s.Broken))
	}
	b.WriteString("</g>\n")
}
