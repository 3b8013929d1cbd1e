package approval

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/workflows/contract"
)

// Approve says under which name, and for which evidence, an approval counts at an
// open gate, or why it does not.
func Approve(g *contract.GateState, people []contract.Person, d contract.Decision, now time.Time) (contract.Decision, error) {
	d, err := heard(g, people, d)
	if err != nil {
		return d, err
	}
	if reason := entitled(g.Voters, g.Environment, people, d.By, true); reason != "" {
		return d, errs.NotEntitled("%s", reason)
	}
	if i := voteOf(g, people, d.By); i >= 0 {
		return d, errs.Approved("%s has approved %s already, at %s; it has %d of %d approvals",
			d.By, g.Environment, g.Votes[i].At.UTC().Format("15:04 UTC"), Count(g, people), g.Required)
	}
	if !g.Deadline.IsZero() && !now.Before(g.Deadline) {
		return d, errs.Late("the approval of %s comes too late: its gate was open until %s", d.By, g.Deadline.UTC().Format(time.RFC3339))
	}
	seen, err := Seen(d, g.Evidence.Hash)
	if err == nil && !seen {
		err = errs.Conflict("the evidence has changed: it is now %s; look at it again before approving", Short(g.Evidence.Hash))
	}
	if err != nil {
		return d, err
	}
	d.At, d.Environment, d.Evidence = now.UTC(), g.Environment, g.Evidence.Hash
	return d, nil
}

// Reject says under which name a rejection at an open gate counts, or why it does
// not. Who may approve may reject, and so may those who are excluded: what somebody
// started or wrote they can always take back.
func Reject(g *contract.GateState, people []contract.Person, d contract.Decision, now time.Time) (contract.Decision, error) {
	d, err := heard(g, people, d)
	if err != nil {
		return d, err
	}
	if g.Voters == nil || excluded(g.Voters, d.By) == nil {
		if reason := entitled(g.Voters, g.Environment, people, d.By, true); reason != "" {
			reason = strings.Replace(reason, "may not approve", "may not reject", 1)
			if g.Environment != contract.GateCorrection {
				reason += "; `portcullis rollout abort` is open to everyone"
			}
			return d, errs.NotEntitled("%s", reason)
		}
	}
	if len(d.Evidence) > 0 && !strings.HasPrefix(g.Evidence.Hash, strings.ToLower(d.Evidence)) {
		return d, errs.Conflict("the evidence has changed: it is now %s; look at it again before rejecting", Short(g.Evidence.Hash))
	}
	d.At, d.Environment, d.Evidence = now.UTC(), g.Environment, g.Evidence.Hash
	return d, nil
}

// Seen tells whether an approval names the evidence with this hash. It is refused where it
// names none.
func Seen(d contract.Decision, hash string) (bool, error) {
	if len(d.Evidence) < contract.MinEvidence {
		return false, errs.Invalid("an approval names the evidence that was seen, with at least %d characters of its hash; it is %s",
			contract.MinEvidence, Short(hash))
	}
	return strings.HasPrefix(hash, strings.ToLower(d.Evidence)), nil
}

// Sign puts a person's one name under a decision, and one of the known words for
// how it came.
func Sign(people []contract.Person, d contract.Decision) (contract.Decision, error) {
	if err := WellFormed(d); err != nil {
		return d, err
	}
	if strings.TrimSpace(d.By) == "" {
		return d, errs.Invalid("say who decides: by is empty")
	}
	d.By, _ = Name(people, d.By)
	d.Via, d.Known = Via(d.Via), Known(d.Known)
	return d, nil
}

// Signed is Sign for a decision that was refused: of one that is not well-formed
// nothing is repeated.
func Signed(people []contract.Person, d contract.Decision) contract.Decision {
	if WellFormed(d) != nil {
		d = contract.Decision{}
	}
	d, _ = Sign(people, d)
	return d
}

// heard is Sign for a decision about this gate, whatever it is. A Slack user whom nobody
// named is refused where everyone may decide: everyone in Slack is more than that is meant
// for, and has a second name elsewhere.
func heard(g *contract.GateState, people []contract.Person, d contract.Decision) (contract.Decision, error) {
	d, err := Sign(people, d)
	switch {
	case err != nil:
		return d, err
	case d.Environment != "" && d.Environment != g.Environment:
		return d, errs.Conflict("the gate that waits is that of %s, and not of %s", g.Environment, d.Environment)
	case g.Voters != nil && g.Voters.Anyone && d.Known == contract.KnownSlack && find(people, d.By) == nil:
		return d, errs.NotEntitled("%s may not decide about %s: nobody in spec.people has this Slack user", d.By, g.Environment)
	}
	return d, nil
}

func voteOf(g *contract.GateState, people []contract.Person, name string) int {
	return slices.IndexFunc(g.Votes, func(v contract.Decision) bool { return Same(people, v.By, name) })
}

// Count is how many approvals count: of how many people who may approve there is one
// of the evidence that the gate has now.
func Count(g *contract.GateState, people []contract.Person) int {
	n := 0
	for i, v := range g.Votes {
		if void(g, people, v, g.Evidence.Hash) == "" && voteOf(g, people, v.By) == i {
			n++
		}
	}
	return n
}

// void says why an approval counts no more, with the evidence that there is now.
func void(g *contract.GateState, people []contract.Person, v contract.Decision, hash string) string {
	if v.Evidence != hash {
		return fmt.Sprintf("the evidence has changed from %s to %s", Short(v.Evidence), Short(hash))
	}
	name, _ := Name(people, v.By)
	return entitled(g.Voters, g.Environment, people, name, false)
}

// Void is an approval that counts no more, and why.
type Void struct {
	Vote contract.Decision
	Why  string
}

// Renew gives the gate the evidence that there is now, and takes away the approvals
// that count no more: those of other evidence, and those of people who may approve
// no longer.
func Renew(g *contract.GateState, people []contract.Person, e contract.Evidence) []Void {
	var gone []Void
	var kept []contract.Decision
	for _, v := range g.Votes {
		if why := void(g, people, v, e.Hash); why != "" {
			gone = append(gone, Void{Vote: v, Why: why})
			continue
		}
		kept = append(kept, v)
	}
	g.Votes, g.Evidence = kept, e
	return gone
}

// Short is the beginning of a hash, as people see it.
func Short(hash string) string { return hash[:min(len(hash), contract.MinEvidence)] }
