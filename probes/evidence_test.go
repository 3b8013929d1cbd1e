package probes

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func measured(outcomes ...Outcome) []Measured {
	var out []Measured
	for _, o := range outcomes {
		out = append(out, Measured{Outcome: o, Detail: "because"})
	}
	return out
}

// shopPlan has two sources to two destinations for each of two requirements.
func shopPlan() ([]Requirement, *Plan) {
	reqs := []Requirement{
		{Name: "open", Expect: Allow, From: From{Namespace: "web", Selector: "app == 'web'"}, To: To{Namespace: "api", Selector: "app == 'api'", Port: 80}},
		{Name: "shut", Expect: Deny, From: From{Namespace: "api", Selector: "app == 'worker'"}, To: To{Namespace: "web", Selector: "app == 'web'", Port: 80}},
	}
	return reqs, Expand(reqs, shop())
}

func TestSummarize(t *testing.T) {
	reqs, plan := shopPlan()
	got := Summarize(reqs, plan, measured(Allowed, Refused, Allowed, Allowed, Dropped, Error))
	if !got[0].Passed || got[1].Passed || len(got[0].Flows) != 1 || len(got[1].Flows) != 1 {
		t.Fatalf("%+v", got)
	}
	f := got[0].Flows[0]
	if f.From != "web/Deployment/web" || f.To != "api/Deployment/api" || f.Outcomes[Allowed] != 3 || f.Outcomes[Refused] != 1 || f.Detail != "" {
		t.Errorf("%+v", f)
	}
	if d := got[1].Flows[0].Detail; !strings.Contains(d, "api/worker") || !strings.Contains(d, "error, because") {
		t.Errorf("detail %q", d)
	}
	// A violation is a better story than what is unknown, and an outcome that is missing is an error.
	got = Summarize(reqs, plan, measured(Allowed, Allowed, Allowed, "", "", Allowed))
	if d := got[1].Flows[0].Detail; !strings.Contains(d, "allowed, because") || got[0].Passed || got[0].Flows[0].Outcomes[Error] != 1 {
		t.Errorf("detail %q, %+v", d, got[0])
	}
}

func TestHash(t *testing.T) {
	reqs, plan := shopPlan()
	hash := func(outcomes ...Outcome) string { return Hash(Summarize(reqs, plan, measured(outcomes...))) }
	base := hash(Allowed, Allowed, Allowed, Refused, Dropped, Dropped)
	if hash(Allowed, Refused, Refused, Allowed, Dropped, Dropped) != base {
		t.Error("how many pods had an outcome changed the hash")
	}
	if hash(Allowed, Allowed, Allowed, Refused, Dropped, Allowed) == base || hash(Allowed, Allowed, Allowed, Allowed, Dropped, Dropped) == base {
		t.Error("another outcome did not change the hash")
	}
	if len(base) != 64 {
		t.Error(base)
	}
}

// A matrix of any size stays far below what a workflow may carry, keeps what
// fails, and says how much was left out.
func TestBound(t *testing.T) {
	for _, pairs := range []int{2_500, 100_000} {
		results := []RequirementResult{{Name: "small", Flows: []Flow{{From: "a", To: "b", Outcomes: map[Outcome]int{Allowed: 1}}}}, {Name: "large"}}
		for i := range pairs {
			f := Flow{From: fmt.Sprintf("namespace-%d/Deployment/workload-%d", i%50, i), To: "data/StatefulSet/database", Outcomes: map[Outcome]int{Dropped: 1}}
			if i%1000 == 999 {
				f.Outcomes[Allowed], f.Detail = 1, strings.Repeat("x", maxDetail)
			}
			results[1].Flows = append(results[1].Flows, f)
		}
		whole := Hash(results)
		bounded := Bound(results)
		text, err := json.Marshal(bounded)
		if err != nil {
			t.Fatal(err)
		}
		if len(text) > maxFlowBytes+4096 {
			t.Errorf("%d pairs take %d bytes", pairs, len(text))
		}
		failing := 0
		for _, f := range bounded[1].Flows {
			if f.Detail != "" {
				failing++
			}
		}
		if failing != pairs/1000 || len(bounded[1].Flows)+bounded[1].FlowsLeftOut != pairs || len(bounded[0].Flows) != 1 {
			t.Errorf("%d pairs: %d failing flows kept of %d, %d left out", pairs, failing, pairs/1000, bounded[1].FlowsLeftOut)
		}
		if Hash(results) != whole || len(results[1].Flows) != pairs {
			t.Error("bounding changed what it was given")
		}
	}
}

func TestCompare(t *testing.T) {
	result := func(flows ...Flow) []RequirementResult { return []RequirementResult{{Name: "r", Flows: flows}} }
	flow := func(from string, outcomes ...Outcome) Flow {
		f := Flow{From: from, To: "db", Outcomes: map[Outcome]int{}}
		for _, o := range outcomes {
			f.Outcomes[o]++
		}
		return f
	}
	before := result(flow("a", Allowed), flow("b", Dropped), flow("c", Error), flow("gone", Allowed))
	for _, tc := range []struct {
		name     string
		now      []RequirementResult
		want     Verdict
		compared int
	}{
		{"as before", result(flow("a", Allowed), flow("b", Dropped)), Holds, 2},
		{"more pods", result(flow("a", Allowed, Allowed), flow("b", Dropped)), Holds, 2},
		{"refused is open too", result(flow("a", Refused), flow("b", Dropped)), Holds, 2},
		{"shut now", result(flow("a", Dropped), flow("b", Dropped)), Violated, 2},
		{"open now", result(flow("a", Allowed), flow("b", Dropped, Allowed)), Violated, 2},
		{"not measured now", result(flow("a", Error), flow("b", Dropped)), Unknown, 2},
		{"was not measured before", result(flow("c", Allowed)), Holds, 0},
		{"new workload", result(flow("new", Allowed)), Holds, 0},
	} {
		c := Compare(before, tc.now)
		if c.Same[0] != tc.want || c.Compared != tc.compared || (tc.want == Holds) != (len(c.Differences) == 0) {
			t.Errorf("%s: %+v", tc.name, c)
		}
	}
}

func TestReasonIsOneLine(t *testing.T) {
	reqs, plan := shopPlan()
	got := Summarize(reqs, plan, []Measured{{Outcome: Dropped, Detail: "a\nb"}, {}, {}, {}, {Outcome: Allowed}, {}})
	r := Reason(got, plan)
	if strings.Contains(r, "\n") || !strings.HasPrefix(r, `2 of 2 requirements not met: "open" (allow): `) || len(r) > maxReason {
		t.Errorf("%q", r)
	}
	if r := Reason(Summarize(reqs, plan, measured(Allowed, Allowed, Allowed, Allowed, Dropped, Dropped)), plan); r != "" {
		t.Errorf("%q", r)
	}
}
