// Package orders has what is the same wherever people decide about a workflow that runs.
package orders

import (
	"fmt"
	"strings"

	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/workflows/approval"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/story"
)

// Answer sets an update with a result. May says why it is refused; it is asked again inside
// the handler, for two updates can pass validation together. What is refused there, and so
// stands in the history, refused is told of.
func Answer[A, R any](ctx workflow.Context, name, description string, may func(A) error, do func(workflow.Context, A) R, refused ...func(workflow.Context, A, error)) error {
	handler := func(ctx workflow.Context, in A) (out R, err error) {
		if err := may(in); err != nil {
			for _, tell := range refused {
				tell(ctx, in, err)
			}
			return out, err
		}
		return do(ctx, in), nil
	}
	return workflow.SetUpdateHandlerWithOptions(ctx, name, handler, workflow.UpdateHandlerOptions{Validator: may, Description: description})
}

// Take is Answer without a result.
func Take[A any](ctx workflow.Context, name, description string, may func(A) error, do func(workflow.Context, A), refused ...func(workflow.Context, A, error)) error {
	handler := func(ctx workflow.Context, in A) error {
		if err := may(in); err != nil {
			for _, tell := range refused {
				tell(ctx, in, err)
			}
			return err
		}
		do(ctx, in)
		return nil
	}
	return workflow.SetUpdateHandlerWithOptions(ctx, name, handler, workflow.UpdateHandlerOptions{Validator: may, Description: description})
}

// By refuses what nobody decides.
func By(who string) error {
	if strings.TrimSpace(who) == "" {
		return errs.Invalid("say who decides: by is empty")
	}
	return nil
}

// Tell writes one line of the log for a decision, or for what became of some, and counts it.
func Tell(ctx workflow.Context, log log.Logger, e contract.AuditEntry) {
	outcome := "taken"
	if e.Type != "" {
		outcome = e.Type
	}
	log.Info("decision", "what", e.What, "environment", e.Environment, "by", e.By, "via", e.Via, "known", e.Known,
		"why", e.Why, "evidence", e.Evidence, "outcome", outcome, "refused", e.Refused)
	workflow.GetMetricsHandler(ctx).WithTags(map[string]string{
		"what": e.What, "via": string(approval.Via(e.Via)), "outcome": outcome,
	}).Counter("portcullis_decisions_total").Inc(1)
}

// Opened is how it stands in the audit log that a gate was opened: by whom, of whom so many
// count.
func Opened(gate *contract.GateState, counted int) contract.AuditEntry {
	who := make([]string, len(gate.Votes))
	for i, v := range gate.Votes {
		who[i] = v.By
	}
	return contract.AuditEntry{
		What: contract.AuditOpened, Environment: gate.Environment, Evidence: gate.Evidence.Hash,
		Why: fmt.Sprintf("%d of %s: %s", counted, story.Count(gate.Required, "approval"), story.Some(who, len(who))),
	}
}

// Voided is how it stands in the audit log that an approval of an environment counts no more.
func Voided(environment string, gone approval.Void) contract.AuditEntry {
	e := approval.Entry(contract.AuditVoid, gone.Vote, nil)
	e.Environment, e.Why = environment, gone.Why
	return e
}

// Drain waits for update handlers, so that none is cut off without an answer.
func Drain(ctx workflow.Context, log log.Logger) {
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	if err := workflow.Await(ctx, func() bool { return workflow.AllHandlersFinished(ctx) }); err != nil {
		log.Warn("update handlers were not waited for", "error", err)
	}
}
