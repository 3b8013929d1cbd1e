package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/workflows/contract"
)

func (k kind) approve(short, long string) *cobra.Command {
	c := k.decision(contract.UpdateApprove, short, "hash of the evidence, as "+k.group+" status shows it", func(ctx context.Context, name string, d contract.Decision) error {
		if d.Evidence == "" {
			return usagef("say which evidence you approve with --evidence; `%s` shows it", k.tells("status", name))
		}
		answer, says := k.approved(d)
		return k.tell(ctx, name, contract.UpdateApprove, d, answer, says)
	})
	c.Long = long
	return c
}

func (k kind) reject(short string) *cobra.Command {
	return k.decision(contract.UpdateReject, short, "hash of the evidence; a rejection may leave it out", func(ctx context.Context, name string, d contract.Decision) error {
		return k.tell(ctx, name, contract.UpdateReject, d, nil, func() string { return "rejected" })
	})
}

func (k kind) decision(verb, short, evidence string, do func(context.Context, string, contract.Decision) error) *cobra.Command {
	var d contract.Decision
	c := k.verb(verb, short, func(ctx context.Context, name string) (err error) {
		if d.By, d.Known, err = k.by(d.By); err != nil {
			return err
		}
		d.Via = contract.ViaCLI
		return do(ctx, name, d)
	})
	c.Flags().StringVar(&d.Evidence, "evidence", "", evidence)
	if k.owner == ofPipeline {
		c.Flags().StringVar(&d.Environment, "environment", "", "whose gate is meant; refused where another waits")
	}
	k.addDecision(c, &d.By, &d.Why)
	return c
}

// order makes a verb that gives the order of the same name.
func (k kind) order(verb, short, done string) *cobra.Command {
	var o contract.Order
	c := k.verb(verb, short, func(ctx context.Context, name string) (err error) {
		if o.By, o.Known, err = k.by(o.By); err != nil {
			return err
		}
		o.Via = contract.ViaCLI
		return k.tell(ctx, name, verb, o, nil, func() string { return done })
	})
	k.addDecision(c, &o.By, &o.Why)
	return c
}

func (k kind) addDecision(c *cobra.Command, by, why *string) {
	addBy(c.Flags(), by)
	c.Flags().StringVar(why, "why", "", "the reason, kept with the "+k.noun)
}

// tell gives an order to the one that runs, and shows what it made of it.
func (k kind) tell(ctx context.Context, name, order string, with, answer any, says func() string) error {
	return k.withSession(ctx, func(ctx context.Context, s *session) error {
		err := s.order(ctx, k.id(name), order, k.tells("status", name), with, answer)
		if gone(err) {
			return k.tooLate(ctx, s, name, order)
		}
		if err != nil {
			return err
		}
		// The order was taken; that its effect cannot be shown is no failure.
		l, _ := k.gather(ctx, s, name, true)
		return k.print(l, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "%s: %s (%s)\n", name, says(), first(string(l.Shared().State), "running"))
			return err
		})
	})
}

// tooLate says of what does not run whether it ever did. A vote that comes after the
// end is told how it ended.
func (k kind) tooLate(ctx context.Context, s *session, name, order string) error {
	none := errs.NotFound("no %s of %s is running", k.noun, name)
	if order != contract.UpdateApprove && order != contract.UpdateReject {
		return none
	}
	l, err := k.gather(ctx, s, name, false)
	if err != nil || l.Shared().Running || l.Shared().State == "" {
		return none
	}
	r := l.Shared()
	return errs.Late("the %s of %s is over since %s: %s", k.noun, name, r.FinishedAt.UTC().Format(time.RFC3339), notPassed{r.State, r.Reason})
}
