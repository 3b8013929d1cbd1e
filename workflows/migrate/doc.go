// Package migrate is the MigrateCluster and MigrateNode workflows: a cluster goes
// from Canal to Calico, node by node, with a way back from every step.
//
// What is begun is written down before it is begun (contract.MigrateState), and
// the way back is read from there. So it is the same one after a failure, an abort,
// a cancellation, and a continue-as-new. A migration ends migrated, or original; it
// fails, with a type of errs, only when it is refused before anything was changed.
package migrate

import (
	"errors"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/probes"
	"portcullis.dev/portcullis/workflows/contract"
)

// errBack says that the way back is to be walked. Why is in the state's reason.
var errBack = errors.New("the way back is to be walked")

// How the wire is measured around every change, unless the start says otherwise.
const (
	settle      = 2 * time.Second
	consecutive = 2
	timeout     = time.Second
	deadline    = 30 * time.Second
)

func withDefaults(s probes.Settings) probes.Settings {
	if s.Settle.Duration <= 0 {
		s.Settle.Duration = settle
	}
	if s.Consecutive <= 0 {
		s.Consecutive = consecutive
	}
	if s.Timeout.Duration <= 0 {
		s.Timeout.Duration = timeout
	}
	if s.Deadline.Duration <= 0 {
		s.Deadline.Duration = deadline
	}
	return s
}

// nameLength is how many digits of the run ID name a migration on the cluster.
const nameLength = 12

// name is what a migration is called on the cluster and its nodes: the same
// through every continue-as-new.
func name(ctx workflow.Context) string {
	info := workflow.GetInfo(ctx)
	run := info.FirstRunID
	if run == "" {
		run = info.WorkflowExecution.RunID
	}
	digits := strings.Map(func(r rune) rune {
		if strings.ContainsRune("0123456789abcdef", r) {
			return r
		}
		return -1
	}, run)
	return "m-" + digits[:min(len(digits), nameLength)]
}

// terminal is true for the states that end a migration.
func terminal(s contract.State) bool {
	return s == contract.StateMigrated || s == contract.StateOriginal || s == contract.StateFailed
}
