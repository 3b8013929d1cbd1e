package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/cmd/internal/view"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/story"
)

// startFlags are what `rollout start` and `rollout rollback` share.
type startFlags struct {
	file      string
	supersede bool
	wait      bool
}

func (a *app) rolloutStart() *cobra.Command {
	var (
		f  startFlags
		in = contract.RolloutInput{Mode: contract.ModePromote}
	)
	c := &cobra.Command{
		Use:   "start -f FILE",
		Short: "Take a revision through the pipeline's environments",
		Long: `Start a rollout, wait until it is planned, and show the plan. The rollout goes on by itself;
--wait, or rollout watch, follows it to its end.`,
		Args: cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error { return a.start(ctx, f, in) }),
	}
	addRevision(c, &in)
	addStart(c, &f)
	addBy(c.Flags(), &in.StartedBy)
	return c
}

func addStart(c *cobra.Command, f *startFlags) {
	addFile(c, &f.file)
	c.Flags().BoolVar(&f.supersede, "supersede", false, "end a rollout that runs already, in order, and then start")
	c.Flags().BoolVar(&f.wait, "wait", false, "watch until it ends, and exit with its result")
}

// start starts a rollout of either mode.
func (a *app) start(ctx context.Context, f startFlags, in contract.RolloutInput) error {
	p, err := loadPipeline(f.file)
	if err != nil {
		return err
	}
	in.Pipeline = p
	if in.StartedBy, in.Known, err = a.by(in.StartedBy); err != nil {
		return err
	}
	in.Via = contract.ViaCLI
	if err := knownEnvironments(p, in.Environments); err != nil {
		return err
	}
	return a.withSession(ctx, func(ctx context.Context, s *session) error {
		run, err := a.beginRollout(ctx, s, f, in)
		if err != nil {
			return err
		}
		return a.followRollout(ctx, s, f, run, in)
	})
}

func knownEnvironments(p contract.Pipeline, names []string) error {
	known := map[string]bool{}
	for _, e := range p.Spec.Environments {
		known[e.Name] = true
	}
	for _, n := range names {
		if !known[n] {
			return errs.Invalid("pipeline %s has no environment %q", p.Metadata.Name, n)
		}
	}
	return nil
}

// beginRollout starts the workflow, after ending another one where that was asked for.
func (a *app) beginRollout(ctx context.Context, s *session, f startFlags, in contract.RolloutInput) (client.WorkflowRun, error) {
	k, name := a.rollouts(), in.Pipeline.Metadata.Name
	start := func() (client.WorkflowRun, error) {
		return k.begin(ctx, s, beginning{name, summary(in), details(in), contract.StatePlanning, in})
	}
	run, err := start()
	if !running(err) {
		return run, err
	}
	if !f.supersede {
		return nil, k.refused(ctx, s, name)
	}
	if err := a.endOther(ctx, s, in); err != nil {
		return nil, err
	}
	// Ending the other may have rolled back and held the pipeline; who
	// supersedes has seen to that by superseding.
	in.AfterRollback = true
	run, err = start()
	if running(err) {
		return nil, k.refused(ctx, s, name)
	}
	return run, err
}

func summary(in contract.RolloutInput) string {
	verb, ref := "roll out", first(in.Ref, in.Pipeline.Spec.Source.Branch)
	if in.Mode == contract.ModeRollback {
		verb, ref = "roll back", first(in.Ref, "the revision verified before")
	}
	return fmt.Sprintf("%s %s: %s", verb, in.Pipeline.Metadata.Name, ref)
}

// details is Markdown for the Temporal UI.
func details(in contract.RolloutInput) string {
	var b strings.Builder
	src := in.Pipeline.Spec.Source
	fmt.Fprintf(&b, "Started by **%s**", view.Cut(in.StartedBy, 60))
	if in.Reason != "" {
		fmt.Fprintf(&b, ": %s", view.Cut(in.Reason, 200))
	}
	fmt.Fprintf(&b, "\n\n- repository `%s`, branch `%s`\n- environments:", src.Repo, src.Branch)
	for i, e := range in.Pipeline.Spec.Environments {
		sep := " →"
		if i == 0 {
			sep = ""
		}
		fmt.Fprintf(&b, "%s %s", sep, e.Name)
	}
	fmt.Fprintf(&b, "\n- %s\n", story.Count(len(in.Pipeline.Spec.Probes), "probe"))
	return b.String()
}

// endOther aborts the rollout that runs and waits until it has gone its way back.
func (a *app) endOther(ctx context.Context, s *session, in contract.RolloutInput) error {
	id := contract.RolloutID(in.Pipeline.Metadata.Name)
	a.say("a rollout of %s runs already: ending it in order", in.Pipeline.Metadata.Name)
	order := contract.Order{By: in.StartedBy, Why: "superseded by another rollout", Via: in.Via, Known: in.Known}
	err := s.order(ctx, id, contract.UpdateAbort, a.rollouts().tells("status", in.Pipeline.Metadata.Name), order, nil)
	if err != nil && !gone(err) {
		return err
	}
	// How it ended does not matter here, only that it did.
	err = s.attended(ctx, nil, func(ctx context.Context) error { return s.GetWorkflow(ctx, id, "").Get(ctx, nil) })
	if ctx.Err() != nil || errs.TypeOf(err) == errs.TypeUnavailable {
		return err
	}
	return nil
}

// followRollout shows the plan and, where asked for, watches.
func (a *app) followRollout(ctx context.Context, s *session, f startFlags, run client.WorkflowRun, in contract.RolloutInput) error {
	k := a.rollouts()
	var plan contract.RolloutPlan
	if err := s.planned(ctx, run, planLimit, &plan); err != nil {
		return err
	}
	if f.wait {
		if a.output != "json" {
			if err := a.planText(a.Stdout, plan); err != nil {
				return err
			}
		}
		return k.follow(ctx, s, in.Pipeline.Metadata.Name)
	}
	result := map[string]any{"workflowId": run.GetID(), "runId": run.GetRunID(), "plan": plan}
	return a.print(result, func(w io.Writer) error {
		if err := a.planText(w, plan); err != nil {
			return err
		}
		_, err := fmt.Fprintf(w, "\nstarted: %s, run %s\nwatch:   %s\n",
			run.GetID(), run.GetRunID(), k.tells("watch", in.Pipeline.Metadata.Name))
		return err
	})
}

// say tells what happens meanwhile, to people alone.
func (a *app) say(format string, args ...any) {
	if a.output != "json" {
		_, _ = fmt.Fprintf(a.Stderr, format+"\n", args...)
	}
}
