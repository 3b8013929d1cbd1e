package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Error is one thing that is wrong in a file, and where.
type Error struct {
	// File, Line and Column are the place; Line and Column count from 1.
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
	// Path is the field, such as spec.environments[1].gate.soak; empty means the whole file.
	Path string `json:"path,omitempty"`
	// Message is what is wrong and what to do.
	Message string `json:"message"`
}

// Error gives file:line:column: path: message, on one line.
func (e Error) Error() string {
	place := fmt.Sprintf("%s:%d:%d: ", e.File, e.Line, e.Column)
	if e.Path == "" {
		return place + e.Message
	}
	return place + e.Path + ": " + e.Message
}

// Errors is everything that was found wrong in one file, in the file's order.
type Errors []Error

// Error has one line for each.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// sorted returns the errors in the file's order, or nil where there are none.
func (e Errors) sorted() error {
	if len(e) == 0 {
		return nil
	}
	slices.SortStableFunc(e, func(a, b Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return e
}
