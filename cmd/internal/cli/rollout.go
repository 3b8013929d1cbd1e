package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"portcullis.dev/portcullis/cmd/internal/config"
	"portcullis.dev/portcullis/cmd/internal/view"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/story"
)

func (a *app) rolloutCommand() *cobra.Command {
	k := a.rollouts()
	return group(&cobra.Command{
		Use:   k.group,
		Short: "Plan, start, watch and decide about rollouts",
	},
		a.rolloutPlan(), a.rolloutStart(), k.list(),
		k.status("Show a pipeline's rollout: environments, clusters, probes and gates"),
		k.watch(`Follow a rollout to its end, and exit with its result. On a terminal the view is drawn anew each
second; elsewhere every change is a line, and with -o json a JSON object on a line of its own.`),
		k.approve("Agree to the evidence at a gate", `Agree to the evidence at a gate. The approval is bound to the evidence that you have seen: where it
has changed meanwhile, the approval is refused. At least 12 characters of its hash are needed.`),
		k.reject("Refuse at a gate: the rollout ends there"),
		k.order(contract.UpdatePause, "Stop before the next step, until it is resumed", "paused"),
		k.order(contract.UpdateResume, "Go on after a pause", "resumed"),
		k.order(contract.UpdateAbort, "End the rollout and go back where something was changed", "aborting"),
		a.rolloutRollback(), a.rolloutRelease(), a.rolloutAudit(),
	)
}

func (a *app) rollouts() kind {
	return kind{
		app: a, noun: "rollout", owner: ofPipeline, group: "rollout",
		workflow: contract.RolloutWorkflow, id: contract.RolloutID, key: contract.AttrPipeline,
		verb: a.pipelineVerb, gather: a.gatherRollout, approved: approvedGate,
		end: func(_ context.Context, _ *session, l view.Look) error {
			r := l.Shared()
			return verdict(r.Mode, r.State, r.Reason)
		},
		instead: "wait for it, end it with `portcullis rollout abort NAME`, or start with --supersede",
	}
}

// verdict is nil when a rollout ended as it was meant to.
func verdict(mode contract.Mode, state contract.State, reason string) error {
	if state == contract.StateVerified || mode == contract.ModeRollback && state == contract.StateRolledBack {
		return nil
	}
	return notPassed{state, reason}
}

// approvedGate says how many approvals there are now: one that was given is not yet
// a gate that opened.
func approvedGate(contract.Decision) (answer any, says func() string) {
	var gate contract.GateState
	return &gate, func() string {
		line := fmt.Sprintf("approved, %d of %s for %s, evidence %s",
			len(gate.Votes), story.Count(gate.Required, "approval"), gate.Environment, view.Short(gate.Evidence.Hash))
		if len(gate.Votes) >= gate.Required {
			line += "; old evidence is measured again before the gate opens"
		}
		return line
	}
}

// subject is how verbs are told which pipeline they are about: by its name, or by its file.
type subject struct{ file string }

// pipelineVerb makes a command that takes PIPELINE or --file.
func (a *app) pipelineVerb(use, short string, do func(ctx context.Context, pipeline string) error) *cobra.Command {
	var about subject
	c := &cobra.Command{
		Use:   use + " [PIPELINE]",
		Short: short,
		Args:  cobra.MaximumNArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			pipeline, err := about.pipeline(args)
			if err != nil {
				return err
			}
			return do(ctx, pipeline)
		}),
	}
	c.Flags().StringVarP(&about.file, "file", "f", "", "pipeline file, instead of the pipeline's name")
	_ = c.MarkFlagFilename("file", "yaml", "yml")
	return c
}

func (s subject) pipeline(args []string) (string, error) {
	switch {
	case s.file != "" && len(args) > 0:
		return "", usagef("give the pipeline's name or its file, not both")
	case s.file != "":
		p, err := config.LoadPipeline(s.file)
		return p.Metadata.Name, err
	case len(args) > 0:
		return args[0], nil
	default:
		return "", usagef("name the pipeline, or its file with --file")
	}
}
