package cli

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"portcullis.dev/portcullis/probes/preflight"
	"portcullis.dev/portcullis/workflows/contract"
)

// The columns of the table; lines are at most preflightWidth characters.
const (
	preflightWidth = 100
	statusWidth    = 9
	checkWidth     = 26
	nodesWidth     = 18
)

// preflightText writes reports as tables, what is not met first.
func preflightText(out io.Writer, result contract.PreflightResult, brief bool) error {
	w := bufio.NewWriter(out)
	for i, name := range slices.Sorted(maps.Keys(result.Clusters)) {
		if i > 0 {
			fmt.Fprintln(w)
		}
		c := result.Clusters[name]
		if c.Report == nil {
			wrapped(w, name+": unknown: it could not be checked: "+c.Error, 0, 2)
			continue
		}
		reportText(w, name, c.Report, brief)
	}
	return w.Flush()
}

func reportText(w io.Writer, name string, r *preflight.Report, brief bool) {
	n := r.Counts
	wrapped(w, fmt.Sprintf("%s: %s: %d fail, %d unknown, %d warn, %d pass on %s in %s", name, r.Status, n.Fail, n.Unknown, n.Warn, n.Pass,
		count(r.Nodes, "node"), r.Took.Round(100*time.Millisecond)), 0, 2)
	wrapped(w, "target: "+targetText(r.Target), 2, 4)
	if r.Mesh.Pairs > 0 {
		wrapped(w, fmt.Sprintf("packets: %d directions in %s, %d connections and %d datagrams or more", r.Mesh.Pairs, count(r.Mesh.Rounds, "round"), r.Mesh.Connections, r.Mesh.Datagrams), 2, 4)
	}
	fmt.Fprintln(w)
	row(w, "STATUS", "CHECK", "NODES", "FOUND")
	silent, alike := silentNodes(r), 0
	for i := range r.Results {
		res := &r.Results[i]
		if res.Status == preflight.Pass && brief {
			continue
		}
		if res.ID != agentCheck && res.Status == preflight.Unsure && silent[strings.Join(res.Nodes, " ")] == res.Measured && len(res.Nodes) > 0 {
			alike++
			continue
		}
		row(w, string(res.Status), res.ID, nodesText(res.Nodes, r.Nodes), res.Measured)
		for _, line := range res.More {
			wrapped(w, line, statusWidth+2, statusWidth+4)
		}
		if res.Status == preflight.Pass || res.Status == preflight.Unsure {
			continue
		}
		wrapped(w, "want: "+res.Threshold+" ("+res.Source+")", statusWidth, statusWidth+6)
		wrapped(w, "do: "+res.Remedy, statusWidth, statusWidth+4)
	}
	if alike > 0 {
		wrapped(w, fmt.Sprintf("%s unknown too, of nodes of which nothing was measured (%s)", count(alike, "further result"), agentCheck), 0, 0)
	}
	if r.LeftOut > 0 {
		wrapped(w, fmt.Sprintf("%s that passed left out", count(r.LeftOut, "result")), 0, 0)
	}
}

// agentCheck is the check that says which nodes were not measured at all.
const agentCheck = "agent-answers"

// silentNodes maps nodes of which nothing was measured to the reason: they are
// unknown in every check, which is told once.
func silentNodes(r *preflight.Report) map[string]string {
	out := map[string]string{}
	for _, res := range r.Results {
		if res.ID == agentCheck && res.Status == preflight.Unsure {
			out[strings.Join(res.Nodes, " ")] = res.Measured
		}
	}
	return out
}

func targetText(t preflight.Target) string {
	parts := []string{"Calico " + cmp.Or(t.Version, "of an unknown version"), string(t.Encapsulation)}
	if t.Encapsulation == preflight.VXLAN {
		parts[1] = fmt.Sprintf("vxlan VNI %d port %d", t.VNI, t.Port)
	}
	parts = append(parts, "pods "+cmp.Or(t.PodCIDR, "in an unknown network")+fmt.Sprintf(" in blocks of /%d", t.BlockSize))
	if t.MTU > 0 {
		parts = append(parts, fmt.Sprintf("MTU %d", t.MTU))
	}
	return strings.Join(parts, ", ")
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// nodesText names a node or two, and counts more.
func nodesText(nodes []string, all int) string {
	switch {
	case len(nodes) == 0:
		return "cluster"
	case len(nodes) > 1 && len(nodes) == all:
		return fmt.Sprintf("all %d", all)
	}
	if names := strings.Join(nodes, ", "); len(names) < nodesWidth {
		return names
	}
	if len(nodes) == 1 {
		return nodes[0]
	}
	return fmt.Sprintf("%d of %d", len(nodes), all)
}

// row writes a line of the table; what does not fit into the last column goes on below it.
func row(w io.Writer, status, check, nodes, found string) {
	head := column(status, statusWidth) + column(check, checkWidth) + column(nodes, nodesWidth)
	lines := wrap(found, preflightWidth-len([]rune(head)), preflightWidth-statusWidth-checkWidth-nodesWidth)
	fmt.Fprintln(w, strings.TrimRight(head+lines[0], " "))
	for _, l := range lines[1:] {
		fmt.Fprintln(w, strings.Repeat(" ", statusWidth+checkWidth+nodesWidth)+l)
	}
}

// column pads text, or leaves a space where it is too long.
func column(text string, width int) string {
	text = printable(text)
	if n := len([]rune(text)); n < width {
		return text + strings.Repeat(" ", width-n)
	}
	if n := []rune(text); len(n) > 40 {
		text = string(n[:39]) + "…"
	}
	return text + " "
}

// wrapped writes text with an indent, and the lines that follow with another.
func wrapped(w io.Writer, text string, indent, next int) {
	for i, l := range wrap(text, preflightWidth-indent, preflightWidth-next) {
		fmt.Fprintln(w, strings.Repeat(" ", indent)+l)
		if i == 0 {
			indent = next
		}
	}
}

// wrap breaks text at spaces: the first line to width characters, the others to rest.
// It keeps what is one word and too long in pieces.
func wrap(text string, width, rest int) []string {
	width, rest = max(width, 10), max(rest, 10)
	var lines []string
	line := ""
	limit := func() int {
		if len(lines) == 0 {
			return width
		}
		return rest
	}
	first := printable(text)
	lead := first[:len(first)-len(strings.TrimLeft(first, " "))]
	for _, word := range strings.Fields(first) {
		for len([]rune(word)) > limit() {
			if line != "" {
				lines, line = append(lines, line), ""
				continue
			}
			r := []rune(word)
			cut := limit()
			lines, word = append(lines, string(r[:cut])), string(r[cut:])
		}
		switch {
		case line == "":
			line = word
		case len([]rune(line))+1+len([]rune(word)) <= limit():
			line += " " + word
		default:
			lines, line = append(lines, line), word
		}
	}
	lines = append(lines, line)
	lines[0] = lead + lines[0]
	return lines
}

// printable drops what would steer a terminal: it comes from clusters.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, text)
}
