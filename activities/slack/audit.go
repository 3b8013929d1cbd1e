package slack

import (
	"fmt"
	"time"

	"portcullis.dev/portcullis/rancher/drift"
)

// Audit is what Slack may know of an audit: counts, and which objects. What these say,
// and why a cluster could not be looked at, stays in the report.
type Audit struct {
	Pipeline string
	// State is clean, drifted or unknown; Reason counts what was found.
	State, Reason string
	Clusters      int
	// Briefs are some of so many Findings, MostBriefs at most.
	Briefs   []drift.Brief
	Findings int
	// Since is the audit before, and what it found; zero where there was none.
	Since                   time.Time
	SinceState, SinceReason string
	// Temporal is the address of the audit in the Temporal UI, or empty.
	Temporal string
}

// MostBriefs bounds the findings that a message names.
const MostBriefs = 8

// States of an audit, as contract has them.
const (
	auditClean   = "clean"
	auditDrifted = "drifted"
)

// AuditLines say what an audit found that the one before had not.
func AuditLines(a Audit) []string {
	lines := []string{auditHead(a)}
	for _, b := range a.Briefs[:min(len(a.Briefs), MostBriefs)] {
		lines = append(lines, "• "+brief(b))
	}
	if more := a.Findings - min(len(a.Briefs), MostBriefs); more > 0 && len(a.Briefs) > 0 {
		lines = append(lines, fmt.Sprintf("• and %d more", more))
	}
	if !a.Since.IsZero() {
		lines = append(lines, "The audit of "+date(a.Since)+" found: "+orNothing(a.SinceReason, a.SinceState))
	}
	last := code("portcullis drift report " + a.Pipeline)
	if l := link(a.Temporal, "Temporal"); l != "" {
		last += " · " + l
	}
	return append(lines, last)
}

func auditHead(a Audit) string {
	name := "*" + Free(a.Pipeline) + "*"
	switch a.State {
	case auditClean:
		s := name + " is as it was rolled out"
		if !a.Since.IsZero() {
			s += " again"
		}
		s += ": " + count(a.Clusters, "cluster") + " audited"
		if a.Reason != "" {
			s += ", " + Free(a.Reason)
		}
		return s
	case auditDrifted:
		return name + " has drifted: " + Free(a.Reason)
	}
	return name + " is as it was rolled out as far as could be seen: " + Free(a.Reason)
}

func orNothing(reason, state string) string {
	switch {
	case reason != "":
		return Free(reason)
	case state == auditClean || state == "":
		return "nothing"
	}
	return Free(state)
}

// brief is one finding in a line.
func brief(b drift.Brief) string {
	s := Free(string(b.Category)) + " " + Free(b.Kind) + " "
	if b.Namespace != "" {
		s += Free(b.Namespace) + "/"
	}
	s += Free(b.Name)
	if b.Cluster != "" {
		s += " on " + Free(b.Cluster)
	}
	if b.By != "" {
		s += ", last written by " + Free(b.By)
	}
	return s
}
