// Package ops has the small workflows that serve the command line: they plan,
// probe, list, and look after node agents and holds. None of them changes policy.
package ops

import (
	"fmt"
	"slices"
	"strings"

	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/deliver"
	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/probes"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/call"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/evidence"
	"portcullis.dev/portcullis/workflows/measure"
	"portcullis.dev/portcullis/workflows/options"
	"portcullis.dev/portcullis/workflows/planning"
	"portcullis.dev/portcullis/workflows/story"
)

// fullEvidence is up to how many clusters a Probe returns all flows.
const fullEvidence = 50

// PlanRollout plans as a Rollout would, and writes nothing.
func PlanRollout(ctx workflow.Context, in contract.RolloutInput) (contract.RolloutPlan, error) {
	if in.Mode == "" {
		in.Mode = contract.ModePromote
	}
	plan, err := planning.Make(ctx, in)
	if err != nil {
		return contract.RolloutPlan{}, story.Final(err)
	}
	return *plan, nil
}

// Inventory lists the clusters that Rancher and Fleet know.
func Inventory(ctx workflow.Context, _ contract.InventoryInput) (contract.InventoryResult, error) {
	clusters, err := call.Clusters(ctx)
	if err != nil {
		return contract.InventoryResult{}, story.Final(err)
	}
	return contract.InventoryResult{Clusters: clusters}, nil
}

// Hold holds a pipeline, or lifts its hold.
func Hold(ctx workflow.Context, in contract.HoldInput) error {
	if strings.TrimSpace(in.By) == "" {
		return errs.Invalid("say who holds or releases %s: by is empty", in.Pipeline)
	}
	reason := in.Reason
	if reason != "" {
		reason = "held by " + story.By(in.By, reason)
	}
	if err := call.Hold(ctx, deliver.HoldInput{Pipeline: in.Pipeline, Reason: reason}); err != nil {
		return story.Final(err)
	}
	return nil
}

// Probe measures a pipeline's requirements now.
func Probe(ctx workflow.Context, in contract.ProbeInput) (contract.ProbeResult, error) {
	out := contract.ProbeResult{Passed: true, Clusters: map[string]probes.Evidence{}, Environment: map[string]string{}}
	plan, err := planning.Members(ctx, contract.RolloutInput{Pipeline: in.Pipeline})
	if err != nil {
		return out, story.Final(err)
	}
	chosen, err := choose(in, plan)
	if err != nil {
		return out, err
	}
	mode := verify.Verify
	if in.Baseline {
		mode = verify.Baseline
	}
	for _, env := range plan.Environments {
		clusters := chosen[env.Name]
		if len(clusters) == 0 {
			continue
		}
		for _, c := range clusters {
			out.Environment[c.Name] = env.Name
		}
		found, err := measure.Clusters(ctx, measure.Request{
			Pipeline: in.Pipeline, Environment: env.Name, Phase: phase(ctx), Clusters: clusters,
			Mode: mode, EnsureAgent: options.AgentTimeout, Keep: true,
		})
		if err != nil {
			return out, story.Final(err)
		}
		if err := collect(&out, found); err != nil {
			return out, story.Final(err)
		}
	}
	return bound(out), nil
}

func collect(out *contract.ProbeResult, found measure.Result) error {
	for _, batch := range found.Kept {
		all, err := evidence.Unpack(batch)
		if err != nil {
			return err
		}
		for name, e := range all {
			out.Clusters[name] = e
		}
	}
	for _, c := range found.Clusters {
		if c.Hash == "" {
			out.Clusters[c.Cluster] = probes.Evidence{Cluster: c.Cluster, Inconclusive: true, Reason: c.Reason}
		}
		out.Passed = out.Passed && c.Passed
	}
	return nil
}

// bound leaves out the flows of requirements that passed where there are many clusters.
func bound(out contract.ProbeResult) contract.ProbeResult {
	if len(out.Clusters) <= fullEvidence {
		return out
	}
	for _, name := range workflow.DeterministicKeys(out.Clusters) {
		e := out.Clusters[name]
		e.Requirements = slices.Clone(e.Requirements)
		for i := range e.Requirements {
			if r := &e.Requirements[i]; r.Passed {
				r.FlowsLeftOut += len(r.Flows)
				r.Flows = nil
			}
		}
		out.Clusters[name] = e
	}
	return out
}

// choose narrows the plan's clusters to what was asked for; what was named must exist.
func choose(in contract.ProbeInput, plan deliver.Plan) (map[string][]rancher.Cluster, error) {
	out := map[string][]rancher.Cluster{}
	seen := map[string]bool{}
	for _, env := range plan.Environments {
		if len(in.Environments) > 0 && !slices.Contains(in.Environments, env.Name) {
			continue
		}
		seen[env.Name] = true
		for _, u := range env.Units {
			for _, c := range u.Clusters {
				if len(in.Clusters) == 0 || slices.Contains(in.Clusters, c.Name) || slices.Contains(in.Clusters, c.ID) {
					out[env.Name] = append(out[env.Name], c)
					seen[c.Name], seen[c.ID] = true, true
				}
			}
		}
	}
	for _, name := range in.Environments {
		if !seen[name] {
			return nil, errs.Invalid("pipeline %s has no environment %s", in.Pipeline.Metadata.Name, name)
		}
	}
	for _, name := range in.Clusters {
		if !seen[name] {
			return nil, errs.NotFound("cluster %s is in none of the chosen environments of pipeline %s", name, in.Pipeline.Metadata.Name)
		}
	}
	return out, nil
}

// Agent installs, removes or reads the node agents of clusters.
func Agent(ctx workflow.Context, in contract.AgentInput) (contract.AgentResult, error) {
	out := contract.AgentResult{Clusters: map[string]contract.ClusterAgents{}}
	inventory, err := call.Clusters(ctx)
	if err != nil {
		return out, story.Final(err)
	}
	if err := known(in.Action); err != nil {
		return out, err
	}
	clusters, err := planning.Named(inventory, in.Clusters, in.All)
	if err != nil {
		return out, err
	}
	slots := workflow.NewSemaphore(ctx, options.ClustersAtOnce)
	group := workflow.NewWaitGroup(ctx)
	for _, c := range clusters {
		group.Add(1)
		workflow.GoNamed(ctx, fmt.Sprintf("%s %s", in.Action, c.Name), func(ctx workflow.Context) {
			defer group.Done()
			if slots.Acquire(ctx, 1) != nil {
				return
			}
			defer slots.Release(1)
			agents, err := agent(ctx, in.Action, c)
			found := contract.ClusterAgents{Agents: agents, Error: story.Reason(err)}
			if err != nil {
				found.ErrorType = errs.TypeOf(err)
			}
			out.Clusters[c.Name] = found
		})
	}
	group.Wait(ctx)
	return out, ctx.Err()
}

func agent(ctx workflow.Context, action contract.AgentAction, c rancher.Cluster) (verify.Agents, error) {
	switch action {
	case contract.AgentInstall:
		return call.EnsureAgent(ctx, c, options.AgentTimeout)
	case contract.AgentRemove:
		return verify.Agents{}, call.RemoveAgent(ctx, c, options.AgentTimeout)
	default:
		return call.AgentStatus(ctx, c)
	}
}

func known(action contract.AgentAction) error {
	switch action {
	case contract.AgentInstall, contract.AgentRemove, contract.AgentStatus:
		return nil
	}
	return errs.Invalid("%q is no agent action: want install, remove or status", action)
}

// phase keeps the children of two probes at the same time apart.
func phase(ctx workflow.Context) string {
	return "probe-" + call.Short(workflow.GetInfo(ctx).WorkflowExecution.RunID)
}
