// Package world fills the lab's clusters: Rancher's objects and its stand-in
// proxy, the Git server with the sample policy repository, Fleet with its
// downstream agents, and workloads that talk to each other. It runs on clusters
// that are up already and knows nothing of how they were made.
package world

// Env is what the world is built on.
type Env struct {
	// StateDir holds everything that the lab keeps; BinDir the programs that
	// it runs: helm, kubectl, and the lab itself as lab (else the running program is used).
	StateDir, BinDir string
	// Clusters in start order; the one with the ID local is the management cluster.
	Clusters []Cluster
	// Start runs a long-lived process under the lab's supervision: it survives
	// the caller, logs to StateDir/log/NAME.log and is ended by `lab down`.
	// Starting a name that already runs does nothing.
	Start func(name string, cmd []string) error
	// Fleet brings Fleet and the Git server up. Without it the sample policies are
	// applied once, by the lab itself.
	Fleet bool
	// FleetChartsDir is the charts folder of the Fleet module.
	FleetChartsDir string
	// PortcullisImage and WorkloadImage are references that every downstream
	// node has loaded.
	PortcullisImage, WorkloadImage string
	// Log prints one line of progress.
	Log func(format string, args ...any)
}

// Cluster is one running cluster.
type Cluster struct {
	// Name is the lab's name (mgmt, dev, staging, prod); ID is Rancher's.
	Name, ID string
	// Kubeconfig is the path of an administrator's kubeconfig, straight to APIServer.
	Kubeconfig string
	// APIServer is the URL of the API server as the other clusters reach it.
	APIServer string
	// CAFile is the path of the cluster's CA certificate.
	CAFile string
	// Labels are put on the Rancher and the Fleet cluster.
	Labels map[string]string
	// PodCIDR is what the pods' addresses are from.
	PodCIDR string
	// Enforces says that network policies have an effect.
	Enforces bool
}

// ManagementID is Rancher's name for the cluster that it runs in itself.
const ManagementID = "local"

// Management is the cluster that Rancher and Fleet's controllers live in.
func (e Env) Management() (Cluster, bool) {
	for _, c := range e.Clusters {
		if c.ID == ManagementID {
			return c, true
		}
	}
	return Cluster{}, false
}

// Downstream are all clusters but the management cluster.
func (e Env) Downstream() []Cluster {
	var out []Cluster
	for _, c := range e.Clusters {
		if c.ID != ManagementID {
			out = append(out, c)
		}
	}
	return out
}
