package orders_test

import (
	"testing"
	"time"

	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/internal/harness"
	"portcullis.dev/portcullis/workflows/orders"
)

// The validator is asked again inside the handler: what passed it may be refused there.
func TestValidatorsAreAskedAgain(t *testing.T) {
	env := harness.Environment()
	var sent harness.Updates
	asked, taken := 0, 0
	once := func(o contract.Order) error {
		if asked++; asked%2 == 0 && o.Why == "late" {
			return errs.Conflict("somebody else was first")
		}
		return orders.By(o.By)
	}
	for i, o := range []contract.Order{{By: "ann"}, {By: "bob", Why: "late"}, {By: " "}} {
		env.RegisterDelayedCallback(func() { sent.Send(env, "take", o.By, o); sent.Send(env, "answer", "answer to "+o.By, o) }, time.Duration(i+1)*time.Second)
	}
	env.ExecuteWorkflow(func(ctx workflow.Context) error {
		if err := orders.Take(ctx, "take", "takes", once, func(workflow.Context, contract.Order) { taken++ }); err != nil {
			return err
		}
		if err := orders.Answer(ctx, "answer", "answers", once, func(_ workflow.Context, o contract.Order) string { return "dear " + o.By }); err != nil {
			return err
		}
		if err := workflow.Sleep(ctx, time.Minute); err != nil {
			return err
		}
		orders.Drain(ctx, workflow.GetLogger(ctx))
		return nil
	})
	if err := env.GetWorkflowError(); err != nil {
		t.Fatal(err)
	}
	for who, kind := range map[string]string{"ann": "", "bob": errs.TypeConflict, " ": errs.TypeInvalid} {
		sent.Want(t, who, kind)
		sent.Want(t, "answer to "+who, kind)
	}
	if got := sent.Value("answer to ann"); taken != 1 || got != "dear ann" {
		t.Errorf("taken %d times, answered %v", taken, got)
	}
}
