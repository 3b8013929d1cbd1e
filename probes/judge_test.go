package probes

import "testing"

func TestJudge(t *testing.T) {
	podTCP := &Pair{Protocol: TCP}
	service := &Pair{Protocol: TCP, Behind: true}
	http := &Pair{Protocol: HTTP}
	dns := &Pair{Protocol: DNS}
	udp := &Pair{Protocol: UDP}
	for _, tc := range []struct {
		expect  Expect
		pair    *Pair
		outcome Outcome
		want    Verdict
	}{
		{Allow, podTCP, Allowed, Holds}, {Allow, podTCP, Refused, Holds}, {Allow, udp, Refused, Holds},
		{Allow, service, Refused, Violated}, {Allow, http, Refused, Violated}, {Allow, dns, Refused, Violated},
		{Allow, podTCP, Dropped, Violated}, {Allow, podTCP, Unresolved, Violated}, {Allow, dns, Unresolved, Violated},
		{Allow, podTCP, Error, Unknown}, {Allow, podTCP, "", Unknown}, {Allow, podTCP, "new", Unknown},
		{Deny, podTCP, Dropped, Holds}, {Deny, dns, Dropped, Holds},
		{Deny, podTCP, Allowed, Violated}, {Deny, podTCP, Refused, Violated}, {Deny, service, Refused, Violated},
		{Deny, dns, Unresolved, Violated}, {Deny, podTCP, Unresolved, Unknown},
		{Deny, podTCP, Error, Unknown}, {Deny, podTCP, "", Unknown},
	} {
		if got := Judge(tc.expect, tc.pair, tc.outcome); got != tc.want {
			t.Errorf("%s %s %s: %s, want %s", tc.expect, tc.pair.Protocol, tc.outcome, got, tc.want)
		}
	}
}

func TestJudgeRound(t *testing.T) {
	reqs := []Requirement{{Expect: Allow}, {Expect: Deny}, {Expect: Deny}, {Expect: Allow}, {Expect: Allow, Optional: true}}
	plan := &Plan{Problems: []string{"", "", "", "no pods", ""}, Pairs: []Pair{
		{Requirement: 0, Protocol: TCP}, {Requirement: 0, Protocol: TCP},
		{Requirement: 1, Protocol: TCP}, {Requirement: 1, Protocol: TCP},
		{Requirement: 2, Protocol: TCP}, {Requirement: 2, Protocol: TCP},
	}}
	got := JudgeRound(reqs, plan, []Measured{{Outcome: Allowed}, {Outcome: Refused}, {Outcome: Dropped}, {Outcome: Error}, {Outcome: Error}, {Outcome: Allowed}})
	for i, want := range []Verdict{Holds, Unknown, Violated, Unknown, Holds} {
		if got[i] != want {
			t.Errorf("requirement %d: %s, want %s", i, got[i], want)
		}
	}
}
