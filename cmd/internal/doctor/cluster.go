package doctor

import (
	"context"
	"slices"
	"strings"
	"sync"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/rancher"
)

// downstream looks at clusters, a few at a time.
func (m *management) downstream(ctx context.Context, clusters []rancher.Cluster) {
	chosen := m.choose(ctx, clusters)
	slots := make(chan struct{}, clustersAtOnce)
	var all sync.WaitGroup
	for _, c := range chosen {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			m.cluster(ctx, c)
		})
	}
	all.Wait()
}

// choose takes the clusters that are named, all, or the first that is connected.
func (m *management) choose(ctx context.Context, clusters []rancher.Cluster) []rancher.Cluster {
	if m.All {
		return clusters
	}
	var out []rancher.Cluster
	for _, name := range m.Clusters {
		i := slices.IndexFunc(clusters, func(c rancher.Cluster) bool { return c.Name == name || c.ID == name })
		if i < 0 {
			m.check(ctx, ClusterReach, name, func(context.Context) finding {
				return broken("see `portcullis clusters`", "there is no such cluster in the workspace %s", m.client.Workspace())
			})
			continue
		}
		out = append(out, clusters[i])
	}
	if len(m.Clusters) > 0 {
		return out
	}
	if i := slices.IndexFunc(clusters, func(c rancher.Cluster) bool { return c.Connected }); i >= 0 {
		return clusters[i : i+1]
	}
	m.skip(ctx, "no cluster is connected", ClusterReach)
	return nil
}

func (m *management) cluster(ctx context.Context, c rancher.Cluster) {
	rest := []string{ClusterFleetAgent, ClusterRights, ClusterPreflightRights, ClusterDriftRights, ClusterMigrationRights, ClusterAgents}
	if !m.check(ctx, ClusterReach, c.Name, func(ctx context.Context) finding { return m.ping(ctx, c) }) {
		for _, id := range rest {
			m.check(ctx, id, c.Name, func(context.Context) finding { return skip("the cluster cannot be reached") })
		}
		return
	}
	m.check(ctx, ClusterFleetAgent, c.Name, func(context.Context) finding { return m.fleetAgent(c) })
	agent := m.Config.Agent.Namespace
	for _, r := range []struct {
		id      string
		needs   []need
		lacking Status
	}{
		{ClusterRights, onCluster(agent), Fail}, {ClusterPreflightRights, forPreflight(), Warn}, {ClusterDriftRights, forAudit(), Warn}, {ClusterMigrationRights, forMigration(), Warn},
	} {
		m.check(ctx, r.id, c.Name, func(ctx context.Context) finding { return m.rights(ctx, m.client, c.ID, r.needs, r.lacking) })
	}
	m.check(ctx, ClusterAgents, c.Name, func(ctx context.Context) finding { return m.agents(ctx, c) })
}

func (m *management) ping(ctx context.Context, c rancher.Cluster) finding {
	if c.ID == "" {
		return broken("see it in Rancher", "%s", c.Reason)
	}
	if err := m.client.Ping(ctx, c.ID); err != nil {
		return failed(errs.FromRancher(err))
	}
	return fine("%s answers", c.ID)
}

func (m *management) fleetAgent(c rancher.Cluster) finding {
	if why := rancher.Unready(c, m.Now()); why != "" {
		return doubt("see the deployment fleet-agent in cattle-fleet-system on the cluster", "%s", why)
	}
	return fine("last seen %s", c.AgentLastSeen.UTC().Format("15:04:05 MST"))
}

// agents only looks: the agents are installed when they are first needed.
func (m *management) agents(ctx context.Context, c rancher.Cluster) finding {
	activities := verify.New(verify.Config{Image: m.Config.Agent.Image, Namespace: m.Config.Agent.Namespace}, m.client)
	state, err := activities.AgentStatus(ctx, verify.AgentInput{Cluster: c})
	if err != nil {
		return failed(err)
	}
	if !state.Installed {
		return fine("not installed yet: they are when they are first needed")
	}
	var bad []string
	for _, n := range state.Nodes {
		if !n.Ready {
			bad = append(bad, n.Node+" ("+n.Reason+")")
		}
	}
	switch {
	case len(bad) > 0:
		return doubt("see the DaemonSet portcullis-node in "+m.Config.Agent.Namespace, "not ready on %s", strings.Join(bad, ", "))
	case state.Image != m.Config.Agent.Image:
		return fine("ready on %s, with the image %s: the next use updates it", plural(len(state.Nodes), "node", "nodes"), state.Image)
	}
	return fine("ready on %s", plural(len(state.Nodes), "node", "nodes"))
}
