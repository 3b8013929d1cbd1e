package story_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/source"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/story"
)

func TestReasonIsOneLine(t *testing.T) {
	for _, err := range []error{errs.Failed("a\nb\t c"), fmt.Errorf("x:\n%w", errors.New("y"))} {
		if got := story.Reason(err); strings.ContainsAny(got, "\n\t") || got == "" {
			t.Errorf("%q", got)
		}
	}
	if story.Reason(nil) != "" {
		t.Error("no error has a reason")
	}
}

func TestLogIsBounded(t *testing.T) {
	var log []contract.LogEntry
	for i := range 3 * story.KeepLog {
		log = story.Append(log, time.Unix(int64(i), 0), "dev", fmt.Sprint(i))
	}
	if len(log) != story.KeepLog || log[len(log)-1].Message != fmt.Sprint(3*story.KeepLog-1) {
		t.Errorf("%d lines, last %q", len(log), log[len(log)-1].Message)
	}
}

func TestRolloutDetails(t *testing.T) {
	hash := strings.Repeat("0123456789abcdef", 4)
	s := contract.RolloutStatus{Pipeline: "policies"}
	s.State, s.StartedBy = contract.StateApproval, "ann"
	s.Plan = &contract.RolloutPlan{Revision: source.Revision{Commit: strings.Repeat("c", 40), Subject: "Open `x` | <script>"}}
	s.Environments = []contract.EnvironmentState{
		{Name: "dev", State: contract.StateRolledBack, Result: &contract.PromoteResult{
			Reason:   "probes failed",
			Clusters: []contract.ClusterRow{{Cluster: "a", State: "verified"}, {Cluster: "b", State: "failed"}},
			Rollback: &contract.RollbackResult{Kind: rancher.RestoreVerified, Revision: strings.Repeat("b", 40), Live: true},
		}},
		{Name: "prod", State: contract.StateApproval},
	}
	s.Gate = &contract.GateState{Environment: "prod", Required: 2, Evidence: contract.Evidence{Hash: hash,
		Changes: []source.Change{{Path: "a.yaml", Kind: "modified"}}}, Votes: []contract.Decision{{By: "bob"}}}
	got := story.Rollout(s)
	for _, want := range []string{
		"portcullis rollout approve policies --evidence 0123456789ab\n", hash, "1 of 2 approvals", "1 of 2 verified",
		"went back to last-verified bbbbbbbbbbbb, live but not proven", "modified `a.yaml`", "approved by bob",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "<script>") || strings.Contains(got, "Open `x` |") {
		t.Errorf("text of a commit breaks the table:\n%s", got)
	}
}

func TestPromotionDetailsShowFailuresFirst(t *testing.T) {
	s := contract.PromoteStatus{Environment: "prod", State: contract.StateVerifying, Paused: true}
	for i := range 200 {
		s.Clusters = append(s.Clusters, contract.ClusterRow{Cluster: fmt.Sprintf("c%03d", i), State: story.RowLive})
	}
	s.Clusters[199].State = story.RowFailed
	got := story.Promotion(s)
	if !strings.Contains(got, "c199") || !strings.Contains(got, "and 150 more clusters") || !strings.Contains(got, "paused") {
		t.Errorf("details:\n%s", got)
	}
	if len(got) > 8<<10 {
		t.Errorf("%d bytes", len(got))
	}
}
