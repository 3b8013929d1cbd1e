package probes

// Verdict is what one round says about a requirement.
type Verdict int

const (
	// Unknown: something could not be measured. It never counts as holding.
	Unknown Verdict = iota
	// Holds: every pair is as required.
	Holds
	// Violated: a pair was measured to be otherwise.
	Violated
)

func (v Verdict) String() string {
	return [...]string{"unknown", "holds", "violated"}[v]
}

// Judge says whether one pair's outcome is what is expected.
//
// allow: allowed holds. Refused holds where the refusal is the destination's
// own word that the path is open (TCP and UDP to pods and addresses), and
// violates where an answer is what was asked for (services, HTTP, DNS). Dropped and unresolved violate.
//
// deny: only dropped holds. Allowed and refused violate, and so does any answer of a
// resolver to a DNS probe: it shows that the path is open. A name that could
// not be resolved leaves open what would have become of the connection.
//
// An error tells nothing, and so holds for neither.
func Judge(expect Expect, pair *Pair, outcome Outcome) Verdict {
	if expect == Deny {
		switch outcome {
		case Dropped:
			return Holds
		case Allowed, Refused:
			return Violated
		case Unresolved:
			if pair.Protocol == DNS {
				return Violated
			}
		}
		return Unknown
	}
	switch outcome {
	case Allowed:
		return Holds
	case Refused:
		if !pair.Behind && (pair.Protocol == TCP || pair.Protocol == UDP) {
			return Holds
		}
		return Violated
	case Dropped, Unresolved:
		return Violated
	}
	return Unknown
}

// Measured is the outcome of one pair in one round.
type Measured struct {
	Outcome Outcome
	Detail  string
}

// JudgeRound says for every requirement whether the round shows that it holds. A
// requirement with a problem is unknown; a pair without an outcome is an error.
func JudgeRound(reqs []Requirement, plan *Plan, got []Measured) []Verdict {
	out := make([]Verdict, len(reqs))
	for i, problem := range plan.Problems {
		if problem == "" {
			out[i] = Holds
		}
	}
	for i := range plan.Pairs {
		p := &plan.Pairs[i]
		out[p.Requirement] = worse(out[p.Requirement], Judge(reqs[p.Requirement].Expect, p, got[i].Outcome))
	}
	return out
}

// worse is the verdict of both: what was seen to be violated weighs most.
func worse(a, b Verdict) Verdict {
	switch {
	case a == Violated || b == Violated:
		return Violated
	case a == Unknown || b == Unknown:
		return Unknown
	}
	return Holds
}
