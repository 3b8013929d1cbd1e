package approval

import (
	"slices"
	"strings"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/workflows/contract"
)

// Append keeps an entry, and drops the oldest above contract.MostAudit.
func Append(a contract.Audit, e contract.AuditEntry) contract.Audit {
	a.Entries = append(a.Entries, e)
	if over := len(a.Entries) - contract.MostAudit; over > 0 {
		a.Entries = slices.Clone(a.Entries[over:])
		a.Dropped += over
	}
	return a
}

// Entry is how a decision stands in the audit log; err is why it did not count.
func Entry(what string, d contract.Decision, err error) contract.AuditEntry {
	e := contract.AuditEntry{
		At: d.At, What: what, Environment: d.Environment, By: d.By, Via: d.Via, Known: d.Known, Why: d.Why, Evidence: d.Evidence,
	}
	if err != nil {
		e.Refused, e.Type = errs.Message(err), errs.TypeOf(err)
	}
	return e
}

// Of tells whether a decision names this evidence, by a prefix of its hash.
func Of(e contract.Evidence, d contract.Decision) bool { return names(d, e.Hash) }

func names(d contract.Decision, hash string) bool {
	return len(d.Evidence) >= contract.MinEvidence && strings.HasPrefix(hash, strings.ToLower(d.Evidence))
}

// Opened finds the entry of the gate that was opened on the evidence which a decision
// names. Nil means that there was none.
func Opened(a contract.Audit, d contract.Decision) *contract.AuditEntry {
	for i := len(a.Entries) - 1; i >= 0; i-- {
		if e := &a.Entries[i]; e.What == contract.AuditOpened && names(d, e.Evidence) {
			return e
		}
	}
	return nil
}
