package view

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"portcullis.dev/portcullis/workflows/contract"
)

// distinct sorts lines by time and drops those that stand twice.
func distinct(lines []contract.LogEntry) []contract.LogEntry {
	slices.SortStableFunc(lines, func(a, b contract.LogEntry) int { return a.At.Compare(b.At) })
	seen := map[contract.LogEntry]bool{}
	return slices.DeleteFunc(lines, func(l contract.LogEntry) bool {
		was := seen[l]
		seen[l] = true
		return was
	})
}

// Short is a commit or a hash in 12 characters.
func Short(hash string) string { return hash[:min(12, len(hash))] }

// Ago is a duration in its largest one or two units: 42s, 12m, 3h05m, 6d.
func Ago(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd", int(d.Hours())/24)
	}
}

// Cut makes one line of text, and shortens it to width characters.
func Cut(text string, width int) string { return shorten(oneLine(text), width) }

// shorten ends text with an ellipsis where it is longer than width characters.
func shorten(text string, width int) string {
	if utf8.RuneCountInString(text) <= width {
		return text
	}
	if width < 1 {
		return ""
	}
	return string([]rune(text)[:width-1]) + "…"
}

// clean drops control characters: what comes from clusters and commits must not
// steer a terminal.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, text)
}

func pad(text string, width int) string {
	return text + strings.Repeat(" ", max(width-utf8.RuneCountInString(text), 0))
}

// tally counts words and gives them as "3 verified, 1 failed", the most first.
func tally(words []string) string {
	counts := map[string]int{}
	for _, w := range words {
		counts[w]++
	}
	kinds := make([]string, 0, len(counts))
	for w := range counts {
		kinds = append(kinds, w)
	}
	slices.SortFunc(kinds, func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
	for i, w := range kinds {
		kinds[i] = fmt.Sprintf("%d %s", counts[w], w)
	}
	return strings.Join(kinds, ", ")
}
