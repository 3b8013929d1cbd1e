package replay

import (
	"bytes"
	"compress/gzip"
	"context"
	"strings"
	"time"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/probes/preflight"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/internal/world"
)

// migrated is the cluster that is migrated.
const migrated = "prod"

var bob = contract.Order{By: "bob", Why: "smells"}

// migrations are the stories of a cluster that goes from Canal to Calico.
func migrations() map[string]scenario {
	all := map[string]scenario{
		// Two at a time, one of them drained; the windows are looked at, and always open.
		"migrate-pass": {nodes: []string{"cp*", "w1", "w2"}, input: migrating(migration.Options{
			Parallel: 2, Windows: []migration.Window{{From: "00:00", Until: "24:00"}},
		}), arrange: func(s *stage) { s.w.Canal.Drain("w2") }, during: func(s *stage) {
			s.update(contract.UpdatePlanned, nil)
		}, only: []string{contract.MigrateWorkflow, contract.MigrateNodeWorkflow, contract.VerifyWorkflow}},
		"migrate-refused": {fails: true, nodes: []string{"cp*", "w1"}, input: migrating(migration.Options{First: []string{"nowhere"}})},
		// And nodes join, before and after Turn.
		"migrate-put-back": {nodes: []string{"cp*", "w1"}, input: migrating(migration.Options{MaxFailures: 1}), arrange: func(s *stage) {
			s.fail("Do swap w1")
			s.on("Do leave cp", s.joins("w8"))
			s.on("Do turn", s.joins("w9"))
		}},
		// A node joins while Turn is tried again: it is moved before Turn is made.
		"migrate-late-at-turn": {nodes: []string{"cp*", "w1"}, input: migrating(migration.Options{}), arrange: func(s *stage) {
			s.on("Do turn", func(context.Context) error { s.w.Canal.Add("w9"); return errs.Unavailable("no answer") })
		}},
		"migrate-stopped-and-resumed": {nodes: []string{"cp*", "w1"}, input: migrating(migration.Options{}), arrange: func(s *stage) { s.fail("Do swap w1") },
			during: func(s *stage) {
				s.until(contract.StateStopped)
				s.update(contract.UpdateResume, bob)
			}},
		// What has changed on a node since the plan is found before it moves.
		"migrate-unfit-node": {nodes: []string{"cp*", "w1"}, input: migrating(migration.Options{}), arrange: func(s *stage) {
			s.w.Canal.Spoil("w1", preflight.Fail, "read-only")
		}, during: func(s *stage) {
			s.until(contract.StateStopped)
			s.w.Canal.Spoil("w1", preflight.Pass, "")
			s.update(contract.UpdateResume, bob)
		}},
		"migrate-aborted": {nodes: []string{"cp*", "w1", "w2"}, input: migrating(migration.Options{}), arrange: func(s *stage) { s.hang("Do", "swap w2", time.Minute) },
			during: func(s *stage) {
				s.await("Do swap w2")
				s.update(contract.UpdateAbort, bob)
			}},
		"migrate-cancelled": {nodes: []string{"cp*", "w1"}, input: migrating(migration.Options{}), arrange: func(s *stage) { s.hang("Do", "tunnels", time.Minute) },
			during: func(s *stage) {
				s.await("Do tunnels")
				if err := s.c.CancelWorkflow(s.ctx, s.run.GetID(), ""); err != nil {
					s.t.Error(err)
				}
			}},
		"migrate-canary-approved": {nodes: []string{"cp*", "w1"}, input: migrating(migration.Options{Canary: true}), during: (*stage).vote},
		"migrate-canary-rejected": {nodes: []string{"cp*", "w1"}, input: migrating(migration.Options{Canary: true}), during: func(s *stage) {
			s.until(contract.StateApproval)
			s.update(contract.UpdateReject, contract.Decision{By: "bob", Why: "too slow"})
		}},
		"migrate-paused-and-resumed": {nodes: []string{"cp*", "w1"}, input: migrating(migration.Options{}), arrange: func(s *stage) { s.hang("Do", "swap w1", 2*time.Second) },
			during: func(s *stage) {
				s.await("Do swap w1")
				s.update(contract.UpdatePause, bob)
				time.Sleep(3 * time.Second)
				s.update(contract.UpdateResume, bob)
			}},
		"migrate-finishing-fails": {nodes: []string{"cp*", "w1"}, input: migrating(migration.Options{}), arrange: func(s *stage) { s.fail("Do adopt") },
			during: func(s *stage) {
				s.until(contract.StateStopped)
				s.update(contract.UpdateAbort, bob)
			}},
		// The workflow of a node is terminated in the middle of a step.
		"migrate-lost-node": {nodes: []string{"cp*", "w1"}, input: migrating(migration.Options{MaxFailures: 1}), arrange: func(s *stage) { s.hang("Do", "swap w1", time.Minute) },
			during: func(s *stage) {
				s.await("Do swap w1")
				if err := s.c.TerminateWorkflow(s.ctx, contract.MigrateNodeID(migrated, "w1"), "", "by mistake"); err != nil {
					s.t.Error(err)
				}
			}},
		"migrate-continued-at-the-gate": {nodes: []string{"cp*", "w1"}, input: migrating(migration.Options{Canary: true}), during: func(s *stage) {
			s.until(contract.StateApproval)
			s.fill()
			s.continued()
			s.vote()
		}},
		"migrate-continued-on-the-way-back": {nodes: []string{"cp*", "w1", "w2"}, input: migrating(migration.Options{}), arrange: func(s *stage) {
			s.fail("Do adopt")
			s.hang("Undo", "swap w2", 3*time.Second)
		}, during: func(s *stage) {
			s.until(contract.StateStopped)
			s.update(contract.UpdateAbort, bob)
			s.await("Undo swap w2")
			s.fill()
		}},
	}
	for name, sc := range all {
		sc.id, sc.workflow = contract.MigrateID(migrated), contract.MigrateWorkflow
		if len(sc.only) == 0 {
			// How the wire is measured is in the first.
			sc.only = []string{contract.MigrateWorkflow, contract.MigrateNodeWorkflow}
		}
		all[name] = sc
	}
	return all
}

// migrating starts a migration of the scenario's cluster.
func migrating(opts migration.Options) func(*world.World) any {
	return func(w *world.World) any {
		return contract.MigrateInput{
			Cluster: migrated, Options: opts, StartedBy: "ann", Manifest: manifest(), Plan: w.Canal.Plan(preflight.Target{}, opts).Hash,
		}
	}
}

// manifest is a packed manifest, which the model does not read.
func manifest() []byte {
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	_, _ = z.Write([]byte("kind: List\n"))
	_ = z.Close()
	return buf.Bytes()
}

func (s *stage) fail(call string) {
	s.on(call, func(context.Context) error { return errs.Failed("it broke") })
}

func (s *stage) joins(node string) func(context.Context) error {
	return func(context.Context) error { s.w.Canal.Add(node); return nil }
}

// until waits until the migration is in a state, and returns its status.
func (s *stage) until(state contract.State) contract.MigrateStatus {
	for s.ctx.Err() == nil {
		v, err := s.c.QueryWorkflow(s.ctx, s.run.GetID(), "", contract.QueryStatus)
		if err != nil {
			s.t.Fatal(err)
		}
		var status contract.MigrateStatus
		if err := v.Get(&status); err != nil {
			s.t.Fatal(err)
		}
		if status.State == state {
			return status
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.t.Fatalf("it was never %s", state)
	return contract.MigrateStatus{}
}

func (s *stage) vote() {
	gate := s.until(contract.StateApproval).Gate
	s.update(contract.UpdateApprove, contract.Decision{By: "bob", Evidence: gate.Evidence[:contract.MinEvidence]})
}

// fill makes the history as large as the server likes it least, so that it asks for
// a new one: 4 MiB. What repeats takes little room once it is compressed.
func (s *stage) fill() {
	for range 3 {
		s.signal(strings.Repeat("x", 3<<19))
	}
}

// signal tells of a step of a node that there is not.
func (s *stage) signal(node string) {
	err := s.c.SignalWorkflow(s.ctx, s.run.GetID(), "", contract.SignalStep, contract.NodeStep{Node: node})
	if err != nil {
		s.t.Fatal(err)
	}
}

// continued waits until a new run has begun. What waits looks at its history when
// something happens.
func (s *stage) continued() {
	for s.ctx.Err() == nil {
		d, err := s.c.DescribeWorkflowExecution(s.ctx, s.run.GetID(), "")
		if err != nil {
			s.t.Fatal(err)
		}
		if d.GetWorkflowExecutionInfo().GetExecution().GetRunId() != s.first {
			return
		}
		s.signal("nobody")
		time.Sleep(500 * time.Millisecond)
	}
	s.t.Fatal("it never continued as new")
}
