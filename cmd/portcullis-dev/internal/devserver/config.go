package devserver

import (
	"time"

	"go.temporal.io/server/common/cluster"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/dynamicconfig"
	"go.temporal.io/server/common/primitives"
)

const (
	store       = "sqlite"
	clusterName = "active"
	// clusterID is written into a new database and read back from then on.
	clusterID = "5f3c2c53-1f0b-4a4e-9a36-3f7a0c1f9d52"
	disabled  = "disabled"
)

// dynamicConfig holds what differs from Temporal's own defaults.
func dynamicConfig() dynamicconfig.StaticClient {
	return dynamicconfig.StaticClient{
		// The daemon registers its search attributes at start and a rollout may
		// begin a moment later: without this they take up to a minute to be known.
		dynamicconfig.ForceSearchAttributesCacheRefreshOnRead.Key(): true,
		// That costs a read of the database for each request, so the limits go up with it.
		dynamicconfig.FrontendPersistenceMaxQPS.Key(): 10_000,
		dynamicconfig.HistoryPersistenceMaxQPS.Key():  45_000,
		// The list view and `rollout list` share this one; the default of 10 a
		// second is for clusters of many frontends.
		dynamicconfig.FrontendMaxNamespaceVisibilityRPSPerInstance.Key(): 100,
	}
}

func serverConfig(o Options, sql *config.SQL, inner []int) *config.Config {
	conf := &config.Config{
		ClusterMetadata:     clusterMetadata(o),
		DCRedirectionPolicy: config.DCRedirectionPolicy{Policy: "noop"},
		PublicClient:        config.PublicClient{HostPort: hostPort(o.Port)},
		Persistence: config.Persistence{
			DefaultStore:     store,
			VisibilityStore:  store,
			NumHistoryShards: 1,
			DataStores:       map[string]config.DataStore{store: {SQL: sql}},
		},
		Services: map[string]config.Service{
			string(primitives.FrontendService): service(o.Port),
			string(primitives.HistoryService):  service(inner[0]),
			string(primitives.MatchingService): service(inner[1]),
			string(primitives.WorkerService):   service(inner[2]),
		},
	}
	conf.Global.Membership.MaxJoinDuration = 30 * time.Second
	conf.Global.Membership.BroadcastAddress = loopback
	conf.Archival.History.State = disabled
	conf.Archival.Visibility.State = disabled
	conf.NamespaceDefaults.Archival.History.State = disabled
	conf.NamespaceDefaults.Archival.Visibility.State = disabled
	return conf
}

func service(port int) config.Service {
	return config.Service{RPC: config.RPC{GRPCPort: port, BindOnIP: loopback}}
}

func clusterMetadata(o Options) *cluster.Config {
	return &cluster.Config{
		FailoverVersionIncrement: 10,
		MasterClusterName:        clusterName,
		CurrentClusterName:       clusterName,
		ClusterInformation: map[string]cluster.ClusterInformation{
			clusterName: {
				Enabled:                true,
				InitialFailoverVersion: 1,
				RPCAddress:             hostPort(o.Port),
				ClusterID:              clusterID,
			},
		},
	}
}
