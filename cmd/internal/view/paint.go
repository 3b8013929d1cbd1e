package view

import "portcullis.dev/portcullis/workflows/contract"

// Paint colours text, or leaves it.
type Paint bool

// The colours, as ANSI's eight: a terminal's own theme decides how they look.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
	bold   = "1"
	dim    = "2"
)

func (p Paint) in(code, text string) string {
	if !bool(p) || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// Good, Bad and Bold are for callers outside.
func (p Paint) Good(text string) string { return p.in(green, text) }
func (p Paint) Bad(text string) string  { return p.in(red, text) }
func (p Paint) Bold(text string) string { return p.in(bold, text) }
func (p Paint) Dim(text string) string  { return p.in(dim, text) }

// State colours text as the state deserves.
func (p Paint) State(state contract.State, text string) string {
	switch state {
	case contract.StateVerified, contract.StateMigrated:
		return p.in(green, text)
	case contract.StateFailed, contract.StateRolledBack, contract.StateRejected, contract.StateAborted, contract.StateRollingBack,
		contract.StateStopped, contract.StateRestoring:
		return p.in(red, text)
	case contract.StateApproval, contract.StatePaused, contract.StateOriginal:
		return p.in(yellow, text)
	case contract.StatePending:
		return p.in(dim, text)
	default:
		return p.in(cyan, text)
	}
}

// row colours a cluster's state, which has words of its own.
func (p Paint) row(state, text string) string {
	switch state {
	case "live", "staged":
		return p.in(cyan, text)
	default:
		return p.State(contract.State(state), text)
	}
}
