// Package call has one typed function per activity. It is the only place where
// workflows name activities, and where each gets its options and its summary.
package call

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/deliver"
	"portcullis.dev/portcullis/activities/migrate"
	checks "portcullis.dev/portcullis/activities/preflight"
	"portcullis.dev/portcullis/activities/source"
	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/probes"
	"portcullis.dev/portcullis/probes/preflight"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/options"
)

// get runs an activity and decodes its result.
func get[T any](ctx workflow.Context, name string, args ...any) (T, error) {
	var out T
	err := workflow.ExecuteActivity(ctx, name, args...).Get(ctx, &out)
	return out, err
}

// do runs an activity that has no result.
func do(ctx workflow.Context, name string, args ...any) error {
	return workflow.ExecuteActivity(ctx, name, args...).Get(ctx, nil)
}

// Resolve finds the commit that a ref means.
func Resolve(ctx workflow.Context, in source.ResolveInput) (source.Revision, error) {
	ref := in.Ref
	if ref == "" {
		ref = in.Source.Branch
	}
	return get[source.Revision](options.Git(ctx, "resolve "+ref), contract.ActResolve, in)
}

// Inspect lints a revision and lists what changed.
func Inspect(ctx workflow.Context, in source.InspectInput) (source.Inspection, error) {
	return get[source.Inspection](options.Git(ctx, "inspect "+Short(in.Commit)), contract.ActInspect, in)
}

// Clusters lists the inventory.
func Clusters(ctx workflow.Context) ([]rancher.Cluster, error) {
	return get[[]rancher.Cluster](options.Read(ctx, "list clusters"), contract.ActClusters)
}

// Plan decides clusters, units and the way back.
func Plan(ctx workflow.Context, in deliver.PlanInput) (deliver.Plan, error) {
	return get[deliver.Plan](options.Read(ctx, "plan "+in.Pipeline), contract.ActPlan, in)
}

// Stage pins a unit, paused, and waits for what Fleet computes.
func Stage(ctx workflow.Context, in deliver.UnitInput) (deliver.Staged, error) {
	in.Timeout = options.StageTimeout(len(in.Unit.Clusters))
	ctx = options.Wait(ctx, in.Timeout, "stage "+unit(in))
	return get[deliver.Staged](ctx, contract.ActStage, in)
}

// Release lifts a unit's pause.
func Release(ctx workflow.Context, in deliver.UnitInput) error {
	return do(options.Write(ctx, "release "+unit(in)), contract.ActRelease, in)
}

// Settle waits until a unit is live, at most for timeout.
func Settle(ctx workflow.Context, in deliver.UnitInput, timeout time.Duration) (deliver.Settled, error) {
	if timeout <= 0 {
		timeout = rancher.DefaultSettleTimeout
	}
	in.Timeout = timeout
	ctx = options.Wait(ctx, timeout, "settle "+unit(in))
	return get[deliver.Settled](ctx, contract.ActSettle, in)
}

// Restore puts a unit back to what it was.
func Restore(ctx workflow.Context, in deliver.RestoreInput) (deliver.Settled, error) {
	in.Timeout = options.RestoreTimeout
	ctx = options.Undo(ctx, in.Timeout, "restore "+in.Unit.GitRepo+" to "+Before(in.Unit.Before))
	return get[deliver.Settled](ctx, contract.ActRestore, in)
}

// MarkVerified records a commit as verified on a unit.
func MarkVerified(ctx workflow.Context, in deliver.VerifiedInput) error {
	return do(options.Record(ctx, "mark verified "+unit(in.UnitInput)), contract.ActMarkVerified, in)
}

// Hold holds or releases a pipeline.
func Hold(ctx workflow.Context, in deliver.HoldInput) error {
	what := "hold "
	if in.Reason == "" {
		what = "release hold of "
	}
	return do(options.Record(ctx, what+in.Pipeline), contract.ActHold, in)
}

// EnsureAgent installs the node agents of a cluster and waits for them.
func EnsureAgent(ctx workflow.Context, cluster rancher.Cluster, timeout time.Duration) (verify.Agents, error) {
	ctx = options.Wait(ctx, timeout, "agents on "+cluster.Name)
	return get[verify.Agents](ctx, contract.ActEnsureAgent, verify.AgentInput{Cluster: cluster, Timeout: timeout})
}

// RemoveAgent removes the node agents of a cluster.
func RemoveAgent(ctx workflow.Context, cluster rancher.Cluster, timeout time.Duration) error {
	ctx = options.Wait(ctx, timeout, "remove agents from "+cluster.Name)
	return do(ctx, contract.ActRemoveAgent, verify.AgentInput{Cluster: cluster, Timeout: timeout})
}

// AgentStatus reads the node agents of a cluster.
func AgentStatus(ctx workflow.Context, cluster rancher.Cluster) (verify.Agents, error) {
	ctx = options.Read(ctx, "agents on "+cluster.Name)
	return get[verify.Agents](ctx, contract.ActAgentStatus, verify.AgentInput{Cluster: cluster})
}

// Measure probes one cluster.
func Measure(ctx workflow.Context, in verify.Input) (probes.Evidence, error) {
	ctx = options.Measure(ctx, expected(in), fmt.Sprintf("%s %s", in.Mode, in.Cluster.Name))
	return get[probes.Evidence](ctx, contract.ActMeasure, in)
}

// Preflight checks whether one cluster can take the Calico that is wanted. Its
// node agents must be there.
func Preflight(ctx workflow.Context, in checks.Input) (preflight.Report, error) {
	ctx = options.Measure(ctx, options.PreflightTime, "preflight "+in.Cluster.Name)
	return get[preflight.Report](ctx, contract.ActPreflight, in)
}

// CheckNode makes the preflight of one node that is about to be moved.
func CheckNode(ctx workflow.Context, in checks.NodeInput) (preflight.Report, error) {
	ctx = options.Measure(ctx, options.PreflightTime, "preflight of "+in.Node)
	return get[preflight.Report](ctx, contract.ActCheckNode, in)
}

// PlanMigration plans how one cluster would be taken to Calico. Its node agents must be there.
func PlanMigration(ctx workflow.Context, in checks.PlanInput) (checks.Planned, error) {
	ctx = options.Measure(ctx, options.PreflightTime, "plan the migration of "+in.Cluster.Name)
	return get[checks.Planned](ctx, contract.ActPlanMigration, in)
}

// Claim takes a cluster for a migration.
func Claim(ctx workflow.Context, in migrate.ClaimInput) error {
	return do(options.Write(ctx, "claim "+in.Cluster.Name), contract.ActClaim, in)
}

// Unclaim gives a cluster back.
func Unclaim(ctx workflow.Context, in migrate.ClaimInput) error {
	return do(options.Record(ctx, "give back "+in.Cluster.Name), contract.ActUnclaim, in)
}

// Do makes a step of a migration; nodes is how many the cluster has, for a step of all of it.
func Do(ctx workflow.Context, in migrate.StepInput, nodes int) (migrate.StepResult, error) {
	in.Timeout = options.StepTimeout(in.Step, nodes)
	return get[migrate.StepResult](options.Wait(ctx, in.Timeout, "do "+step(in)), contract.ActDo, in)
}

// Undo takes a step of a migration back.
func Undo(ctx workflow.Context, in migrate.StepInput, nodes int) (migrate.StepResult, error) {
	in.Timeout = options.StepTimeout(in.Step, nodes)
	return get[migrate.StepResult](options.Undo(ctx, in.Timeout, "undo "+step(in)), contract.ActUndo, in)
}

// Nodes lists the nodes of a cluster.
func Nodes(ctx workflow.Context, cluster rancher.Cluster) ([]migrate.Node, error) {
	ctx = options.Read(ctx, "nodes of "+cluster.Name)
	return get[[]migrate.Node](ctx, contract.ActNodes, migrate.NodesInput{Cluster: cluster})
}

// Requirements finds what of a cluster can be probed.
func Requirements(ctx workflow.Context, in migrate.RequirementsInput) ([]probes.Requirement, error) {
	ctx = options.Read(ctx, "requirements of "+in.Cluster.Name)
	return get[[]probes.Requirement](ctx, contract.ActRequirements, in)
}

func step(in migrate.StepInput) string {
	if in.Node == "" {
		return string(in.Step)
	}
	return string(in.Step) + " " + in.Node
}

// expected is how long a measurement takes when nothing is in its way.
func expected(in verify.Input) time.Duration {
	deadline := in.Settings.Deadline.Duration
	if deadline <= 0 {
		deadline = probes.DefaultDeadline
	}
	return deadline + in.Duration
}

func unit(in deliver.UnitInput) string { return in.Unit.GitRepo + " at " + Short(in.Commit) }

// Short is the first 12 characters of a commit or hash, as people see it.
func Short(commit string) string {
	if len(commit) > contract.MinEvidence {
		return commit[:contract.MinEvidence]
	}
	return commit
}

// Before says in a few words what a unit goes back to.
func Before(b rancher.Before) string {
	switch {
	case b.Kind == rancher.RestoreAbsent:
		return "absence"
	case b.Branch != "":
		return "branch " + b.Branch
	case b.Revision != "":
		return Short(b.Revision)
	default:
		return string(b.Kind)
	}
}
