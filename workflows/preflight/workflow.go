// Package preflight checks clusters before Calico comes to them.
package preflight

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/errs"
	checks "portcullis.dev/portcullis/activities/preflight"
	"portcullis.dev/portcullis/probes/preflight"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/call"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/options"
	"portcullis.dev/portcullis/workflows/planning"
	"portcullis.dev/portcullis/workflows/story"
)

// maxResult bounds a result, in bytes of JSON: Temporal takes two million.
const maxResult = 3 << 19

// Run checks the clusters that are named. One that cannot be checked does not stop
// the others: it has an error in the result.
func Run(ctx workflow.Context, in contract.PreflightInput) (contract.PreflightResult, error) {
	out := contract.PreflightResult{Status: preflight.Pass, Clusters: map[string]contract.ClusterPreflight{}}
	inventory, err := call.Clusters(ctx)
	if err != nil {
		return out, story.Final(err)
	}
	clusters, err := planning.Named(inventory, in.Clusters, in.All)
	if err != nil {
		return out, err
	}
	slots := workflow.NewSemaphore(ctx, options.ClustersAtOnce)
	group := workflow.NewWaitGroup(ctx)
	for _, c := range clusters {
		group.Add(1)
		workflow.GoNamed(ctx, "preflight "+c.Name, func(ctx workflow.Context) {
			defer group.Done()
			if slots.Acquire(ctx, 1) != nil {
				return
			}
			defer slots.Release(1)
			report, err := Cluster(ctx, checks.Input{Cluster: c, Target: in.Target, AtOnce: in.AtOnce, PacketTimeout: in.PacketTimeout})
			found := contract.ClusterPreflight{Report: report}
			if err != nil {
				found = contract.ClusterPreflight{Error: story.Reason(err), ErrorType: errs.TypeOf(err)}
			}
			out.Clusters[c.Name] = found
			details(ctx, out.Clusters, len(clusters))
		})
	}
	group.Wait(ctx)
	if ctx.Err() != nil {
		return out, ctx.Err()
	}
	out.Status = worst(out.Clusters)
	if in.Brief {
		trim(out)
	}
	return bound(out), nil
}

// Cluster checks one cluster, with node agents installed first. It is a step of
// other workflows too. An error is that it could not be checked at all.
func Cluster(ctx workflow.Context, in checks.Input) (*preflight.Report, error) {
	if err := reachable(ctx, in.Cluster); err != nil {
		return nil, err
	}
	report, err := call.Preflight(ctx, in)
	if err != nil {
		return nil, err
	}
	return &report, nil
}

// reachable makes sure of the node agents of a cluster, as far as that can be done in time.
func reachable(ctx workflow.Context, c rancher.Cluster) error {
	if !c.Connected {
		return errs.Unavailable("cluster %s is not connected: %s", c.Name, cmp.Or(c.Reason, "no reason given"))
	}
	// Nodes without an agent are unknown in the report; a cluster that takes
	// longer than that for its agents is still worth a look.
	if _, err := call.EnsureAgent(ctx, c, options.AgentTimeout); err != nil && errs.TypeOf(err) != errs.TypeDeadline {
		return err
	}
	return nil
}

// PlanMigration plans how one cluster would be taken from Canal to Calico.
func PlanMigration(ctx workflow.Context, in contract.PlanMigrationInput) (contract.PlanMigrationResult, error) {
	var none contract.PlanMigrationResult
	inventory, err := call.Clusters(ctx)
	if err != nil {
		return none, story.Final(err)
	}
	clusters, err := planning.Named(inventory, []string{in.Cluster}, false)
	if err != nil {
		return none, err
	}
	if err := reachable(ctx, clusters[0]); err != nil {
		return none, story.Final(err)
	}
	planned, err := call.PlanMigration(ctx, checks.PlanInput{
		Input: checks.Input{Cluster: clusters[0], Target: in.Target}, Options: in.Options,
	})
	if err != nil {
		return none, story.Final(err)
	}
	return contract.PlanMigrationResult{Plan: planned.Plan, Preflight: planned.Preflight}, nil
}

// severity orders statuses, the worst last.
var severity = []preflight.Status{preflight.Pass, preflight.Warn, preflight.Unsure, preflight.Fail}

func worst(clusters map[string]contract.ClusterPreflight) preflight.Status {
	at := 0
	for _, name := range workflow.DeterministicKeys(clusters) {
		status := preflight.Unsure
		if r := clusters[name].Report; r != nil {
			status = r.Status
		}
		at = max(at, slices.Index(severity, status))
	}
	return severity[at]
}

// bound leaves out what passed where the result would not fit into a history.
func bound(out contract.PreflightResult) contract.PreflightResult {
	if b, err := json.Marshal(out); err == nil && len(b) <= maxResult {
		return out
	}
	trim(out)
	return out
}

func trim(out contract.PreflightResult) {
	for _, name := range workflow.DeterministicKeys(out.Clusters) {
		if r := out.Clusters[name].Report; r != nil {
			r.Trim()
		}
	}
}

// details show in the Temporal UI how far it is.
func details(ctx workflow.Context, clusters map[string]contract.ClusterPreflight, total int) {
	text := fmt.Sprintf("%d of %d clusters\n\n", len(clusters), total)
	for _, name := range workflow.DeterministicKeys(clusters) {
		c := clusters[name]
		if c.Report == nil {
			text += fmt.Sprintf("- **%s**: not checked: %s\n", name, c.Error)
			continue
		}
		n := c.Report.Counts
		text += fmt.Sprintf("- **%s**: %s (%d fail, %d unknown, %d warn, %d pass)\n", name, c.Report.Status, n.Fail, n.Unknown, n.Warn, n.Pass)
	}
	workflow.SetCurrentDetails(ctx, text)
}
