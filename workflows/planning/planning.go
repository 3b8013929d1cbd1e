// Package planning decides, before anything is written, what a rollout will do.
// The decisions are made in activities, so that history holds them; here they
// are put together and judged.
package planning

import (
	"fmt"
	"slices"

	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/deliver"
	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/source"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/approval"
	"portcullis.dev/portcullis/workflows/call"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/story"
)

// Make plans a rollout. Its errors are those of errs: they refuse the rollout.
func Make(ctx workflow.Context, in contract.RolloutInput) (*contract.RolloutPlan, error) {
	plan, err := Environments(ctx, in)
	if err != nil {
		return nil, err
	}
	out := &contract.RolloutPlan{Pipeline: in.Pipeline.Metadata.Name, Plan: plan}
	if in.Mode == contract.ModeRollback {
		if err := back(ctx, in, out); err != nil {
			return nil, err
		}
	} else if err := forward(ctx, in, out); err != nil {
		return nil, err
	} else if err := gates(in, out); err != nil {
		return nil, err
	}
	out.PlannedAt = workflow.Now(ctx).UTC()
	return out, nil
}

// gates sees that each gate can open for somebody.
func gates(in contract.RolloutInput, plan *contract.RolloutPlan) error {
	for _, env := range in.Pipeline.Spec.Environments {
		if env.Gate.Approvals.Required == 0 {
			continue
		}
		if _, err := Voters(in, plan, env); err != nil {
			return err
		}
	}
	return nil
}

// Voters are those whose approval counts at the gate of an environment.
func Voters(in contract.RolloutInput, plan *contract.RolloutPlan, env rancher.Environment) (*contract.Voters, error) {
	return approval.Voters(env.Name, in.Pipeline.Spec.People, env.Gate.Approvals, approval.Origin{
		StartedBy: in.StartedBy, Author: plan.Revision.Author, Email: plan.Revision.Email,
	})
}

// Environments plans clusters and units as they are now.
func Environments(ctx workflow.Context, in contract.RolloutInput) (deliver.Plan, error) {
	spec := in.Pipeline.Spec
	plan, err := call.Plan(ctx, deliver.PlanInput{
		Pipeline:      in.Pipeline.Metadata.Name,
		Source:        spec.Source,
		Environments:  spec.Environments,
		AfterRollback: in.AfterRollback || in.Mode == contract.ModeRollback,
	})
	if err != nil {
		return plan, err
	}
	if plan.Held != "" && !in.AfterRollback && in.Mode != contract.ModeRollback {
		return plan, errs.Held("pipeline %s is held: %s; release it or start with --after-rollback", in.Pipeline.Metadata.Name, plan.Held)
	}
	return plan, complete(in, plan)
}

// Members finds the clusters of the environments, for what only looks at them.
func Members(ctx workflow.Context, in contract.RolloutInput) (deliver.Plan, error) {
	spec := in.Pipeline.Spec
	plan, err := call.Plan(ctx, deliver.PlanInput{
		Pipeline: in.Pipeline.Metadata.Name, Source: spec.Source, Environments: spec.Environments, MembersOnly: true,
	})
	if err != nil {
		return plan, err
	}
	return plan, complete(in, plan)
}

// Named finds clusters of the inventory by name or Rancher ID, each once; all means every one.
func Named(inventory []rancher.Cluster, names []string, all bool) ([]rancher.Cluster, error) {
	if all {
		return inventory, nil
	}
	if len(names) == 0 {
		return nil, errs.Invalid("name the clusters, or ask for all")
	}
	out := make([]rancher.Cluster, 0, len(names))
	for _, name := range names {
		i := slices.IndexFunc(inventory, func(c rancher.Cluster) bool { return c.Name == name || c.ID == name })
		if i < 0 {
			return nil, errs.NotFound("cluster %s is not in the inventory", name)
		}
		if !slices.ContainsFunc(out, func(c rancher.Cluster) bool { return c.Name == inventory[i].Name }) {
			out = append(out, inventory[i])
		}
	}
	return out, nil
}

// complete makes sure that the walk can rely on the plan's shape.
func complete(in contract.RolloutInput, plan deliver.Plan) error {
	wanted := in.Pipeline.Spec.Environments
	if len(plan.Environments) != len(wanted) {
		return errs.Failed("the plan has %d environments, the pipeline has %d", len(plan.Environments), len(wanted))
	}
	for i, env := range plan.Environments {
		if env.Name != wanted[i].Name {
			return errs.Failed("the plan has environment %s where the pipeline has %s", env.Name, wanted[i].Name)
		}
		if len(env.Units) == 0 {
			return errs.Invalid("environment %s: no cluster matches", env.Name)
		}
	}
	return nil
}

func forward(ctx workflow.Context, in contract.RolloutInput, out *contract.RolloutPlan) error {
	revision, err := call.Resolve(ctx, source.ResolveInput{
		Source: in.Pipeline.Spec.Source, Ref: in.Ref, Namespace: out.Plan.Namespace,
	})
	if err != nil {
		return err
	}
	out.Revision = revision
	out.Inspection, err = Inspect(ctx, in, out.Plan, revision.Commit)
	return err
}

// Inspect lints the commit and compares it with what the environments have now.
// Error findings refuse it.
func Inspect(ctx workflow.Context, in contract.RolloutInput, plan deliver.Plan, commit string) (source.Inspection, error) {
	inspection, err := call.Inspect(ctx, source.InspectInput{
		Source: in.Pipeline.Spec.Source, Namespace: plan.Namespace, Commit: commit, Since: Since(plan.Environments...),
	})
	if err != nil {
		return inspection, err
	}
	return inspection, refuse(commit, inspection)
}

func refuse(commit string, inspection source.Inspection) error {
	var bad []string
	for _, f := range inspection.Findings {
		if f.Error {
			bad = append(bad, place(f)+f.Message+" ("+f.Rule+")")
		}
	}
	if len(bad) == 0 {
		return nil
	}
	return errs.Invalid("revision %s is refused: %s", call.Short(commit), story.Some(bad, 5))
}

func place(f source.Finding) string {
	switch {
	case f.Path == "":
		return ""
	case f.Line > 0:
		return fmt.Sprintf("%s:%d: ", f.Path, f.Line)
	default:
		return f.Path + ": "
	}
}

// Since lists the distinct commits that environments have now, sorted.
func Since(environments ...deliver.EnvironmentPlan) []string {
	var out []string
	for _, env := range environments {
		for _, u := range env.Units {
			if commit := u.Before.Now(); commit != "" {
				out = append(out, commit)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// back plans a rollback by hand: it sets what every selected unit returns to,
// and leaves the other environments out of the plan.
func back(ctx workflow.Context, in contract.RolloutInput, out *contract.RolloutPlan) error {
	if err := known(in); err != nil {
		return err
	}
	commit := ""
	if in.Ref != "" {
		if err := forward(ctx, in, out); err != nil {
			return err
		}
		commit = out.Revision.Commit
	}
	var selected []deliver.EnvironmentPlan
	moves := false
	for _, env := range out.Plan.Environments {
		if len(in.Environments) > 0 && !slices.Contains(in.Environments, env.Name) {
			continue
		}
		for i := range env.Units {
			before, err := target(env.Units[i], commit)
			if err != nil {
				return err
			}
			env.Units[i].Before = before
			moves = moves || before.Revision != before.Current
		}
		selected = append(selected, env)
	}
	if !moves {
		return errs.Invalid("nothing to go back: every selected GitRepo is at %s already", call.Short(commit))
	}
	out.Plan.Environments = selected
	return nil
}

func known(in contract.RolloutInput) error {
	for _, name := range in.Environments {
		if !slices.ContainsFunc(in.Pipeline.Spec.Environments, func(e rancher.Environment) bool { return e.Name == name }) {
			return errs.Invalid("pipeline %s has no environment %s", in.Pipeline.Metadata.Name, name)
		}
	}
	return nil
}

// target is what a unit returns to by hand: the commit that was named; else, from a
// verified revision to the verified one before it; else from anything else to
// the last verified one.
func target(u rancher.Unit, commit string) (rancher.Before, error) {
	before := u.Before
	if before.Kind == rancher.RestoreAbsent {
		return before, errs.Invalid("GitRepo %s does not exist: there is nothing to go back from", u.GitRepo)
	}
	now := before.Now()
	switch {
	case commit != "":
	case before.Kind == rancher.RestoreVerified && now != before.Revision:
		commit = before.Revision
	case before.Kind == rancher.RestoreVerified:
		commit = before.Previous
	}
	if commit == "" {
		return before, errs.NotFound("GitRepo %s has no earlier verified revision; name the one to go back to", u.GitRepo)
	}
	return rancher.Before{Kind: rancher.RestoreVerified, Revision: commit, Current: now, Previous: before.Previous}, nil
}
