// Package view shows rollouts and migrations to people: as a screen that is drawn
// anew, and as lines that are only added to. It is pure: it does no I/O and reads no
// clock.
package view

import (
	"time"

	"portcullis.dev/portcullis/workflows/contract"
)

// Rollout is what is known of a rollout at one moment. It is also what
// `rollout status -o json` prints.
type Rollout struct {
	WorkflowID string `json:"workflowId"`
	RunID      string `json:"runId"`
	// Running is false once the workflow has ended.
	Running bool `json:"running"`
	contract.RolloutStatus
	FinishedAt time.Time `json:"finishedAt,omitzero"`
	// Promotions has what runs now, by environment.
	Promotions map[string]contract.PromoteStatus `json:"promotions,omitempty"`
	// Waiting are the activities that have not ended, with what they wait for.
	Waiting []Waiting `json:"waiting,omitempty"`
	// Unanswered says why the workflow itself could not be asked; what is shown
	// then comes from Temporal's index.
	Unanswered string `json:"unanswered,omitempty"`
	// Audit is the last audit of the pipeline that ended, where there is one.
	Audit *Audit `json:"audit,omitempty"`
}

// Audit is how an audit ended.
type Audit struct {
	State contract.State `json:"state"`
	At    time.Time      `json:"at"`
	RunID string         `json:"runId"`
}

// Look is what is known of a rollout or of a migration at one moment.
type Look interface {
	// Shared is what both have, as a rollout whose pipeline is the name of either.
	Shared() Rollout
	// Silent is the same look after nobody has answered, for the reason why.
	Silent(why string) Look

	// draw draws with at most so many rows of each table, and lines of the story.
	draw(d *drawing, rows, story int)
	// rows is how many are drawn where the height is not limited.
	rows() int
	// changes and gates tell what is new since the tail's last look.
	changes(t *Tail, add adder)
	gates(t *Tail, now time.Time, add adder)
	// reasons are those that it gives in more than one place.
	reasons() []string
}

// Shared is the rollout itself.
func (r Rollout) Shared() Rollout { return r }

// Silent keeps why nobody has answered.
func (r Rollout) Silent(why string) Look {
	r.Unanswered = why
	return r
}

// Waiting is one activity that has not ended.
type Waiting struct {
	Environment string `json:"environment,omitempty"`
	Activity    string `json:"activity"`
	// Subject is the unit or cluster that it is about, where that is known.
	Subject string `json:"subject,omitempty"`
	Attempt int32  `json:"attempt"`
	// For is what it says it waits for; Done of Total is its progress.
	For   string `json:"for,omitempty"`
	Phase string `json:"phase,omitempty"`
	Done  int    `json:"done,omitempty"`
	Total int    `json:"total,omitempty"`
	Round int    `json:"round,omitempty"`
	// LastFailure is why the attempt before failed.
	LastFailure string    `json:"lastFailure,omitempty"`
	RetryAt     time.Time `json:"retryAt,omitzero"`
}

// Revision is the commit, or what was asked for, while it is not resolved.
func (r Rollout) Revision() string {
	if r.Plan == nil {
		return ""
	}
	return r.Plan.Revision.Commit
}

// clusters gives an environment's rows: from its running promotion, from its
// result, or from the plan.
func (r Rollout) clusters(i int) []contract.ClusterRow {
	e := r.Environments[i]
	if p, running := r.Promotions[e.Name]; running {
		return p.Clusters
	}
	if e.Result != nil {
		return e.Result.Clusters
	}
	return r.planned(i)
}

func (r Rollout) planned(i int) []contract.ClusterRow {
	if r.Plan == nil || i >= len(r.Plan.Plan.Environments) {
		return nil
	}
	var rows []contract.ClusterRow
	for _, u := range r.Plan.Plan.Environments[i].Units {
		for _, c := range u.Clusters {
			rows = append(rows, contract.ClusterRow{Cluster: c.Name, Wave: u.Wave, State: string(contract.StatePending)})
		}
	}
	return rows
}

// log is the rollout's story and that of every promotion, each line once.
func (r Rollout) log() []contract.LogEntry {
	lines := append([]contract.LogEntry(nil), r.Log...)
	for _, e := range r.Environments {
		if e.Result != nil {
			lines = append(lines, named(e.Result.Log, e.Name)...)
		}
		if p, running := r.Promotions[e.Name]; running {
			lines = append(lines, named(p.Log, e.Name)...)
		}
	}
	return distinct(lines)
}

// named gives a promotion's lines their environment.
func named(log []contract.LogEntry, environment string) []contract.LogEntry {
	out := make([]contract.LogEntry, len(log))
	for i, l := range log {
		l.Environment = environment
		out[i] = l
	}
	return out
}
