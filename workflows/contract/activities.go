package contract

// Activity names, as registered and as they stand in history.
const (
	ActResolve = "source.Resolve"
	ActInspect = "source.Inspect"

	ActClusters     = "deliver.Clusters"
	ActPlan         = "deliver.Plan"
	ActStage        = "deliver.Stage"
	ActRelease      = "deliver.Release"
	ActSettle       = "deliver.Settle"
	ActRestore      = "deliver.Restore"
	ActMarkVerified = "deliver.MarkVerified"
	ActHold         = "deliver.Hold"

	ActEnsureAgent = "verify.EnsureAgent"
	ActRemoveAgent = "verify.RemoveAgent"
	ActAgentStatus = "verify.AgentStatus"
	ActMeasure     = "verify.Measure"

	ActPreflight     = "preflight.Check"
	ActCheckNode     = "preflight.CheckNode"
	ActPlanMigration = "preflight.PlanMigration"

	ActClaim        = "migrate.Claim"
	ActUnclaim      = "migrate.Unclaim"
	ActDo           = "migrate.Do"
	ActUndo         = "migrate.Undo"
	ActNodes        = "migrate.Nodes"
	ActRequirements = "migrate.Requirements"

	// ActResolveGroups takes a slack.GroupsInput and returns slack.Groups.
	ActResolveGroups = "slack.ResolveGroups"
)
