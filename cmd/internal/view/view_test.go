package view

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"portcullis.dev/portcullis/activities/deliver"
	"portcullis.dev/portcullis/activities/source"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/contract"
)

var update = flag.Bool("update", false, "write the golden files anew")

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func midway() Rollout {
	unit := func(repo string, clusters ...string) rancher.Unit {
		u := rancher.Unit{GitRepo: repo, Before: rancher.Before{Kind: rancher.RestoreVerified, Revision: strings.Repeat("b", 40)}}
		for _, c := range clusters {
			u.Clusters = append(u.Clusters, rancher.Cluster{Name: c})
		}
		return u
	}
	plan := contract.RolloutPlan{
		Revision: source.Revision{Commit: strings.Repeat("c0ffee", 7)[:40], Subject: "Let the scraper read the database's own statistics"},
		Plan: deliver.Plan{Environments: []deliver.EnvironmentPlan{
			{Name: "dev", Units: []rancher.Unit{unit("p-dev", "dev-1")}},
			{Name: "staging", Units: []rancher.Unit{unit("p-staging", "eu-1", "us-1")}},
			{Name: "prod", Units: []rancher.Unit{unit("p-prod", "eu-2", "us-2")}},
		}},
	}
	return Rollout{
		WorkflowID: "rollout/network-policies", RunID: "0197a0de-7a70-7bb0-a7ab-0d7bb5a4ba2e", Running: true,
		RolloutStatus: contract.RolloutStatus{Pipeline: "network-policies", RolloutState: contract.RolloutState{
			State: "promoting", StartedBy: "alex", StartedAt: noon.Add(-12 * time.Minute), Plan: &plan,
			Environments: []contract.EnvironmentState{
				{Name: "dev", State: contract.StateVerified, Result: &contract.PromoteResult{
					State: contract.StateVerified, Evidence: strings.Repeat("7aa37311f5ab", 5),
					Clusters: []contract.ClusterRow{{Cluster: "dev-1", State: "verified", Pairs: 25}},
				}},
				{Name: "staging", State: "promoting"},
				{Name: "prod", State: contract.StatePending},
			},
			Log: []contract.LogEntry{{At: noon.Add(-12 * time.Minute), Message: "planned c0ffeec0ffee"}},
		}},
		Promotions: map[string]contract.PromoteStatus{"staging": {
			Environment: "staging", State: contract.StateSettling, Wave: "canary",
			Clusters: []contract.ClusterRow{{Cluster: "eu-1", Wave: "canary", State: "live", Pairs: 25}, {Cluster: "us-1", Wave: "rest", State: "pending"}},
			Log:      []contract.LogEntry{{At: noon.Add(-30 * time.Second), Message: "p-staging staged: Fleet would change 2 of 2 clusters"}},
		}},
		Waiting: []Waiting{{Environment: "staging", Activity: "settle", Attempt: 2, Done: 1, Total: 2, For: "us-1: Fleet's agent was last seen 4m ago", LastFailure: "worker was lost"}},
	}
}

func atGate() Rollout {
	r := midway()
	r.State, r.Promotions, r.Waiting = contract.StateApproval, nil, nil
	r.Environments[1] = contract.EnvironmentState{Name: "staging", State: contract.StateVerified, Result: &contract.PromoteResult{
		State: contract.StateVerified, Evidence: strings.Repeat("3eae3c1bccd9", 5), Clusters: []contract.ClusterRow{{Cluster: "eu-1", State: "verified", Pairs: 25}},
	}}
	r.Environments[2].State = contract.StateApproval
	r.Gate = &contract.GateState{Environment: "prod", Required: 2, Deadline: noon.Add(time.Hour), Votes: []contract.Decision{{By: "kim", Why: "looked at the diff"}},
		Voters: &contract.Voters{People: []string{"kim", "sam"}, Groups: []contract.Group{{ID: "S012AB3CD", Handle: "platform", Error: "Slack does not answer"}},
			Excluded: []contract.Excluded{{Name: "alex", Why: "started this rollout"}}},
		Evidence: contract.Evidence{Environment: "prod", Hash: strings.Repeat("50ce69b5ca6d", 5), Passed: map[string]string{"staging": "3eae3c1bccd9", "dev": "7aa37311f5ab"},
			Changes: []source.Change{{Path: "bundles/applications/templates/data.yaml", Kind: "modified"}}}}
	return r
}

func rolledBack() Rollout {
	r := midway()
	r.Running, r.FinishedAt, r.Promotions, r.Waiting = false, noon, nil, nil
	r.State, r.Reason = contract.StateRolledBack, "staging: probes of p-staging failed on 1 of 2 clusters: eu-1: gateway reaches checkout: dropped"
	r.Environments[1] = contract.EnvironmentState{Name: "staging", State: contract.StateRolledBack, Result: &contract.PromoteResult{
		State: contract.StateRolledBack, Reason: "probes of p-staging failed on 1 of 2 clusters",
		Clusters: []contract.ClusterRow{{Cluster: "eu-1", Wave: "canary", State: "rolled-back", Pairs: 25, Failing: 3, Reason: "gateway reaches checkout: dropped"}},
		Rollback: &contract.RollbackResult{Kind: rancher.RestoreVerified, Revision: strings.Repeat("b", 40), Live: true, Proven: true},
	}}
	return r
}

func TestScreens(t *testing.T) {
	for name, r := range map[string]Rollout{
		"midway": midway(), "gate": atGate(), "rolled-back": rolledBack(),
		"unanswered": {WorkflowID: "rollout/x", Running: true, Unanswered: "no Portcullis server is polling", RolloutStatus: contract.RolloutStatus{Pipeline: "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			golden(t, name+".screen", strings.Join(Screen{Width: 100, Now: noon}.Lines(r), "\n")+"\n")
			var tail Tail
			golden(t, name+".lines", strings.Join(tail.Next(r, noon), "\n")+"\n")
			require.Empty(t, tail.Next(r, noon.Add(time.Second)), "what was told is not told again")
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := "testdata/" + name
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

// However much there is and however odd its texts, the view fits.
func TestScreensFit(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		r := odd(random)
		s := Screen{Width: 40 + random.IntN(100), Height: 8 + random.IntN(40), Now: noon}
		lines := s.Lines(r)
		require.LessOrEqual(t, len(lines), s.Height)
		for _, l := range lines {
			require.LessOrEqual(t, utf8.RuneCountInString(l), s.Width)
			require.Equal(t, -1, strings.IndexFunc(l, func(c rune) bool { return c < ' ' }), "%q", l)
		}
	}
}

// odd is a rollout with anything in it.
func odd(random *rand.Rand) Rollout {
	text := func() string {
		alphabet := []rune("ab c\x1b[31m\n\té✓日")
		out := make([]rune, random.IntN(200))
		for i := range out {
			out[i] = alphabet[random.IntN(len(alphabet))]
		}
		return string(out)
	}
	r := rolledBack()
	r.Reason, r.StartedBy, r.Running = text(), text(), random.IntN(2) == 0
	for i := range random.IntN(30) {
		e := contract.EnvironmentState{Name: text(), State: contract.StateSettling, Result: &contract.PromoteResult{Reason: text()}}
		for range random.IntN(40) {
			e.Result.Clusters = append(e.Result.Clusters, contract.ClusterRow{Cluster: text(), State: "failed", Pairs: i, Reason: text()})
		}
		r.Environments = append(r.Environments, e)
		r.Waiting = append(r.Waiting, Waiting{Activity: text(), For: text()})
		r.Log = append(r.Log, contract.LogEntry{At: noon.Add(time.Duration(i)), Message: text()})
	}
	return r
}

func TestColoursChangeNothingElse(t *testing.T) {
	plain := Screen{Width: 100, Now: noon}.Lines(atGate())
	painted := strings.Join(Screen{Width: 100, Now: noon, Paint: true}.Lines(atGate()), "\n")
	for _, code := range []string{red, green, yellow, cyan, bold, dim} {
		painted = strings.ReplaceAll(painted, "\x1b["+code+"m", "")
	}
	require.Equal(t, strings.Join(plain, "\n"), strings.ReplaceAll(painted, "\x1b[0m", ""))
}

func TestAgo(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"0s": -time.Second, "42s": 42 * time.Second, "12m05s": 12*time.Minute + 5*time.Second,
		"3h05m": 3*time.Hour + 5*time.Minute, "6d": 6*24*time.Hour + time.Hour,
	} {
		require.Equal(t, want, Ago(d))
	}
}

func TestTailTellsOnlyWhatChanged(t *testing.T) {
	var tail Tail
	r := midway()
	tail.Next(r, noon)
	p := r.Promotions["staging"]
	p.Clusters = []contract.ClusterRow{{Cluster: "eu-1", State: "verified", Pairs: 25, Failing: 0}, {Cluster: "us-1", State: "pending"}}
	r.Promotions["staging"] = p
	require.Equal(t, []string{"12:00:00  staging: cluster eu-1: verified, 25 of 25 probes as required"}, tail.Next(r, noon))
}

func ExampleCut() {
	fmt.Println(Cut("one\ntwo \x1b[31m three", 12))
	// Output: one two [31…
}

// A long reason stands in the first line that gives it, and nowhere else.
func TestTailGivesAReasonOnce(t *testing.T) {
	reason := "probes of network-policies-prod failed on 1 of 1 cluster: prod: 2 of 15 requirements not met"
	var tail Tail
	r := Rollout{RolloutStatus: contract.RolloutStatus{Pipeline: "p"}, Running: true}
	r.State = contract.StatePromoting
	r.Environments = []contract.EnvironmentState{{Name: "prod", State: contract.StatePromoting}}
	r.Log = []contract.LogEntry{{At: noon, Environment: "prod", Message: "rolling back: " + reason}}
	text := strings.Join(tail.Next(r, noon), "\n")
	r.State, r.Reason, r.Running = contract.StateRolledBack, "prod: "+reason, false
	r.Environments[0].State = contract.StateRolledBack
	r.Environments[0].Result = &contract.PromoteResult{State: contract.StateRolledBack, Reason: reason}
	r.Log = append(r.Log, contract.LogEntry{At: noon.Add(time.Second), Environment: "prod", Message: "rolled-back: " + reason})
	text += "\n" + strings.Join(tail.Next(r, noon.Add(time.Second)), "\n")
	require.Equal(t, 1, strings.Count(text, reason), text)
	require.Contains(t, text, "rolled-back: as above")
	require.Contains(t, text, "p: rolled-back: prod: as above")
}
