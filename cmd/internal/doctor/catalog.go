package doctor

// Check is one kind of check.
type Check struct {
	ID string
	// Asks is what it finds out.
	Asks string
}

// The IDs. They never change their meaning.
const (
	ServerFile = "server-file"

	TemporalTLS              = "temporal-tls"
	TemporalReach            = "temporal-reach"
	TemporalNamespace        = "temporal-namespace"
	TemporalSearchAttributes = "temporal-search-attributes"
	TemporalList             = "temporal-list"
	TemporalDaemons          = "temporal-daemons"

	RancherReach              = "rancher-reach"
	RancherToken              = "rancher-token"
	RancherVersion            = "rancher-version"
	FleetAPI                  = "fleet-api"
	FleetClusters             = "fleet-clusters"
	ManagementRights          = "management-permissions"
	ManagementMigrationRights = "management-permissions-migration"
	GitReach                  = "git-reach"

	ClusterReach           = "cluster-reach"
	ClusterFleetAgent      = "cluster-fleet-agent"
	ClusterRights          = "cluster-permissions"
	ClusterPreflightRights = "cluster-permissions-preflight"
	ClusterDriftRights     = "cluster-permissions-drift"
	ClusterMigrationRights = "cluster-permissions-migration"
	ClusterAgents          = "cluster-node-agents"

	SlackToken = "slack-token"
)

// Catalog has every check, in the order in which they are shown.
var Catalog = []Check{
	{ServerFile, "Does the daemon's file have what a daemon cannot run without?"},
	{TemporalTLS, "Can the certificates, the key and the API key for Temporal be read, and until when are they valid?"},
	{TemporalReach, "Does Temporal's frontend answer, and can its version do what workflows need?"},
	{TemporalNamespace, "Is the namespace there, and how long does it keep what ended?"},
	{TemporalSearchAttributes, "Are the search attributes registered, with their types?"},
	{TemporalList, "Can rollouts be listed by state?"},
	{TemporalDaemons, "Does a daemon poll the task queue?"},
	{RancherReach, "Does Rancher answer, is its certificate trusted, and is the token good?"},
	{RancherToken, "Until when is the token valid?"},
	{RancherVersion, "Which version is it?"},
	{ManagementRights, "May the token do on the management cluster what a rollout does there?"},
	{ManagementMigrationRights, "May it do there what a migration does besides?"},
	{FleetAPI, "Are Fleet's types there, with the fields that a rollout relies on?"},
	{FleetClusters, "Which clusters are in the workspace, and are they connected?"},
	{GitReach, "Does each repository answer to its credentials, and is its branch there?"},
	{ClusterReach, "Does the cluster's API server answer through Rancher?"},
	{ClusterFleetAgent, "Is Fleet's agent seen?"},
	{ClusterRights, "May the token do on the cluster what probes need?"},
	{ClusterPreflightRights, "May it do what preflights need besides?"},
	{ClusterDriftRights, "May it read what drift audits need besides?"},
	{ClusterMigrationRights, "May it do what a migration to Calico needs besides?"},
	{ClusterAgents, "Are the node agents there and ready?"},
	{SlackToken, "Does Slack take the token, and has it the scopes?"},
}
