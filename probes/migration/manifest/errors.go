package manifest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Error is one thing that is wrong in a manifest.
type Error struct {
	// Line counts from 1; 0 means the manifest as a whole.
	Line int `json:"line,omitempty"`
	// Message is what is wrong and what to do.
	Message string `json:"message"`
}

func (e Error) Error() string {
	if e.Line == 0 {
		return e.Message
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.Message)
}

// Errors is everything that was found wrong, in the manifest's order.
type Errors []Error

// Error has one line for each.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

func (e *Errors) add(line int, format string, args ...any) {
	*e = append(*e, Error{line, fmt.Sprintf(format, args...)})
}

// sorted is nil where there are none.
func (e Errors) sorted() error {
	if len(e) == 0 {
		return nil
	}
	slices.SortStableFunc(e, func(a, b Error) int { return cmp.Compare(a.Line, b.Line) })
	return e
}
