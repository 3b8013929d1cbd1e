package probes

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Bounds of what is kept of a measurement.
const (
	// maxFlowBytes bounds the flows of all requirements together, as JSON.
	maxFlowBytes = 256 << 10
	// maxDetail bounds one flow's story.
	maxDetail = 240
	// maxReason bounds the reason of a measurement.
	maxReason = 600
)

// Summarize groups the outcomes of a round by requirement and pair of
// workloads, whole. Passed is set where the round shows that the requirement holds.
func Summarize(reqs []Requirement, plan *Plan, got []Measured) []RequirementResult {
	out := make([]RequirementResult, len(reqs))
	for i, v := range JudgeRound(reqs, plan, got) {
		out[i] = RequirementResult{Name: reqs[i].Name, Expect: reqs[i].Expect, Passed: v == Holds}
	}
	type key struct {
		req      int
		from, to string
	}
	index := map[key]int{}
	told := map[key]int{}
	for i := range plan.Pairs {
		p := &plan.Pairs[i]
		k := key{p.Requirement, p.Source.Workload, p.To}
		r := &out[p.Requirement]
		at, ok := index[k]
		if !ok {
			at = len(r.Flows)
			index[k] = at
			r.Flows = append(r.Flows, Flow{From: k.from, To: k.to, Outcomes: map[Outcome]int{}})
		}
		f := &r.Flows[at]
		f.Outcomes[outcomeOf(got[i])]++
		// The story is that of the first violation, or else of the first that is unknown.
		if weight := gravity(Judge(r.Expect, p, got[i].Outcome)); weight > told[k] {
			f.Detail, told[k] = story(p, got[i]), weight
		}
	}
	for i := range out {
		slices.SortFunc(out[i].Flows, func(a, b Flow) int {
			return cmp.Or(strings.Compare(a.From, b.From), strings.Compare(a.To, b.To))
		})
	}
	return out
}

// gravity orders verdicts by how much people must know of them.
func gravity(v Verdict) int {
	return map[Verdict]int{Holds: 0, Unknown: 1, Violated: 2}[v]
}

func outcomeOf(m Measured) Outcome {
	if m.Outcome == "" {
		return Error
	}
	return m.Outcome
}

func story(p *Pair, m Measured) string {
	s := fmt.Sprintf("%s: %s", p, outcomeOf(m))
	if m.Detail != "" {
		s += ", " + m.Detail
	}
	return clip(s, maxDetail)
}

// clip shortens s to at most n bytes, on one line.
func clip(s string, n int) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n-len("…")], "") + "…"
}

// Hash identifies what was measured: the SHA-256, in hex, over the
// requirements' names and expectations and, for every pair of workloads,
// which outcomes there were. How many pods a workload has, and how long things
// took, is not part of it. It is taken over whole results, before Bound.
func Hash(results []RequirementResult) string {
	type flow struct {
		From     string    `json:"from"`
		To       string    `json:"to"`
		Outcomes []Outcome `json:"outcomes"`
	}
	type requirement struct {
		Name   string `json:"name"`
		Expect Expect `json:"expect"`
		Flows  []flow `json:"flows"`
	}
	sum := sha256.New()
	enc := json.NewEncoder(sum)
	for _, r := range results {
		c := requirement{Name: r.Name, Expect: r.Expect, Flows: make([]flow, 0, len(r.Flows))}
		for _, f := range r.Flows {
			c.Flows = append(c.Flows, flow{f.From, f.To, outcomes(f)})
		}
		// Encoding to a hash cannot fail.
		_ = enc.Encode(c)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// outcomes are the outcomes that a flow had, sorted.
func outcomes(f Flow) []Outcome {
	var out []Outcome
	for o, n := range f.Outcomes {
		if n > 0 {
			out = append(out, o)
		}
	}
	slices.Sort(out)
	return out
}

// Bound leaves flows out so that the results stay far below what a workflow
// may carry. Failing flows are kept first; every requirement has its share of the room.
func Bound(results []RequirementResult) []RequirementResult {
	return bound(results, maxFlowBytes)
}

func bound(results []RequirementResult, room int) []RequirementResult {
	out := slices.Clone(results)
	sizes := make([]int, len(out))
	// Small requirements leave room to large ones, so the smallest go first.
	order := make([]int, len(out))
	for i := range out {
		order[i] = i
		for _, f := range out[i].Flows {
			sizes[i] += flowSize(f)
		}
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Or(cmp.Compare(sizes[a], sizes[b]), cmp.Compare(a, b)) })
	for n, i := range order {
		share := room / (len(order) - n)
		var used int
		out[i].Flows, used = keep(out[i].Flows, share)
		out[i].FlowsLeftOut = len(results[i].Flows) - len(out[i].Flows)
		room -= used
	}
	return out
}

// keep keeps what fits of the flows, failing ones first, in their order.
func keep(flows []Flow, room int) (kept []Flow, used int) {
	keeping := make([]bool, len(flows))
	for _, failing := range []bool{true, false} {
		for i, f := range flows {
			if (f.Detail != "") != failing {
				continue
			}
			if size := flowSize(f); used+size <= room {
				keeping[i] = true
				used += size
			}
		}
	}
	for i, f := range flows {
		if keeping[i] {
			kept = append(kept, f)
		}
	}
	return kept, used
}

// flowSize is about the size of a flow as JSON, rounded up.
func flowSize(f Flow) int {
	return len(f.From) + len(f.To) + 2*len(f.Detail) + 24*len(f.Outcomes) + 64
}

// Reason tells people in one line which requirements do not hold, and why.
func Reason(results []RequirementResult, plan *Plan) string {
	var parts []string
	failing := 0
	for i, r := range results {
		if r.Passed {
			continue
		}
		failing++
		if len(parts) < 3 {
			parts = append(parts, fmt.Sprintf("%q (%s): %s", r.Name, r.Expect, why(&r, plan, i)))
		}
	}
	if failing == 0 {
		return ""
	}
	more := ""
	if failing > len(parts) {
		more = fmt.Sprintf("; and %d more", failing-len(parts))
	}
	return clip(fmt.Sprintf("%d of %d requirements not met: %s%s", failing, len(results), strings.Join(parts, "; "), more), maxReason)
}

func why(r *RequirementResult, plan *Plan, i int) string {
	if plan != nil && i < len(plan.Problems) && plan.Problems[i] != "" {
		return plan.Problems[i]
	}
	failing := 0
	first := ""
	for _, f := range r.Flows {
		if f.Detail != "" {
			failing++
			first = cmp.Or(first, f.Detail)
		}
	}
	switch failing {
	case 0:
		return "did not hold for its whole window"
	case 1:
		return first
	}
	return fmt.Sprintf("%s (and %d more flows)", first, failing-1)
}

// Comparison is how results differ from earlier ones.
type Comparison struct {
	// Same has a verdict for each requirement of the later results: holds when every
	// flow that was measured both times is open or shut as before.
	Same []Verdict
	// Compared counts the flows that were measured both times.
	Compared int
	// Differences tells people what is not as before.
	Differences []string
}

// Compare compares flows with those of before. Workloads come and go for
// reasons of their own: a flow that is in only one of the two, or could not be measured
// before, has nothing to be compared with. Refused and allowed are the same here: the path is open.
func Compare(before, now []RequirementResult) Comparison {
	was := map[string]Flow{}
	for _, r := range before {
		for _, f := range r.Flows {
			was[r.Name+"\x00"+f.From+"\x00"+f.To] = f
		}
	}
	c := Comparison{Same: make([]Verdict, len(now))}
	for i, r := range now {
		c.Same[i] = Holds
		for _, f := range r.Flows {
			old, ok := was[r.Name+"\x00"+f.From+"\x00"+f.To]
			if !ok || old.Outcomes[Error] > 0 {
				continue
			}
			c.Compared++
			v := compareFlow(old, f)
			c.Same[i] = worse(c.Same[i], v)
			if v != Holds {
				c.Differences = append(c.Differences, clip(fmt.Sprintf("%q: %s to %s was %s, is %s", r.Name, f.From, f.To, reach(old), reach(f)), maxDetail))
			}
		}
	}
	return c
}

func compareFlow(old, f Flow) Verdict {
	switch {
	case f.Outcomes[Error] > 0:
		return Unknown
	case reach(old) == reach(f):
		return Holds
	}
	return Violated
}

// reach names a flow's outcomes, with refused as allowed.
func reach(f Flow) string {
	var names []string
	for _, o := range outcomes(f) {
		if o == Refused {
			o = Allowed
		}
		if !slices.Contains(names, string(o)) {
			names = append(names, string(o))
		}
	}
	slices.Sort(names)
	return strings.Join(names, " and ")
}
