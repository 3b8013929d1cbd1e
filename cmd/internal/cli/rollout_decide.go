package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/cmd/internal/view"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/story"
)

func (a *app) rolloutApprove() *cobra.Command {
	var d contract.Decision
	c := a.verb("approve", "Agree to the evidence at a gate", func(ctx context.Context, pipeline string) error {
		if d.Evidence == "" {
			return usagef("say which evidence you approve with --evidence; `%s rollout status %s` shows it", a.Program, pipeline)
		}
		return a.approve(ctx, pipeline, d)
	})
	c.Long = `Agree to the evidence at a gate. The approval is bound to the evidence that you have seen: where it
has changed meanwhile, the approval is refused. At least 12 characters of its hash are needed.`
	c.Flags().StringVar(&d.Evidence, "evidence", "", "hash of the evidence, as rollout status shows it")
	addDecision(c, &d.By, &d.Why)
	return c
}

func (a *app) rolloutReject() *cobra.Command {
	var d contract.Decision
	c := a.verb("reject", "Refuse at a gate: the rollout ends there", func(ctx context.Context, pipeline string) error {
		by, err := a.by(d.By)
		if err != nil {
			return err
		}
		d.By = by
		return a.tellRollout(ctx, pipeline, contract.UpdateReject, d, nil, func() string { return "rejected" })
	})
	c.Flags().StringVar(&d.Evidence, "evidence", "", "hash of the evidence; a rejection may leave it out")
	addDecision(c, &d.By, &d.Why)
	return c
}

func (a *app) rolloutPause() *cobra.Command {
	return a.order("pause", "Stop before the next step, until it is resumed", contract.UpdatePause, "paused")
}

func (a *app) rolloutResume() *cobra.Command {
	return a.order("resume", "Go on after a pause", contract.UpdateResume, "resumed")
}

func (a *app) rolloutAbort() *cobra.Command {
	return a.order("abort", "End the rollout and go back where something was changed", contract.UpdateAbort, "aborting")
}

func addDecision(c *cobra.Command, by, why *string) {
	addBy(c.Flags(), by)
	c.Flags().StringVar(why, "why", "", "the reason, kept with the rollout")
}

// approve says how many approvals there are now: one that was given is not yet a gate that opened.
func (a *app) approve(ctx context.Context, pipeline string, d contract.Decision) error {
	by, err := a.by(d.By)
	if err != nil {
		return err
	}
	d.By = by
	var gate contract.GateState
	return a.tellRollout(ctx, pipeline, contract.UpdateApprove, d, &gate, func() string {
		line := fmt.Sprintf("approved, %d of %s for %s, evidence %s",
			len(gate.Votes), story.Count(gate.Required, "approval"), gate.Environment, view.Short(gate.Evidence.Hash))
		if len(gate.Votes) >= gate.Required {
			line += "; old evidence is measured again before the gate opens"
		}
		return line
	})
}

func (a *app) order(verb, short, update, done string) *cobra.Command {
	var o contract.Order
	c := a.verb(verb, short, func(ctx context.Context, pipeline string) error {
		by, err := a.by(o.By)
		if err != nil {
			return err
		}
		o.By = by
		return a.tellRollout(ctx, pipeline, update, o, nil, func() string { return done })
	})
	addDecision(c, &o.By, &o.Why)
	return c
}

// tellRollout sends an order to the rollout that runs, and shows what it made of it.
func (a *app) tellRollout(ctx context.Context, pipeline, update string, order, answer any, done func() string) error {
	return a.withSession(ctx, func(ctx context.Context, s *session) error {
		err := s.update(ctx, contract.RolloutID(pipeline), "", update, updateLimit, order, answer)
		if gone(err) {
			return errs.NotFound("no rollout of %s is running", pipeline)
		}
		if err != nil {
			return err
		}
		r, err := a.gather(ctx, s, pipeline, true)
		if err != nil {
			// The order was taken; that its effect cannot be shown is no failure.
			r = view.Rollout{RolloutStatus: contract.RolloutStatus{Pipeline: pipeline}}
		}
		return a.print(r, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "%s: %s (%s)\n", pipeline, done(), first(string(r.State), "running"))
			return err
		})
	})
}
