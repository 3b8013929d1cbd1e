package doctor

import (
	"context"
	"slices"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/deploy/rbac"
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
		id         string
		capability rbac.Capability
		lacking    Status
	}{
		{ClusterRights, rbac.Rollout, Fail}, {ClusterPreflightRights, rbac.Preflight, Warn},
		{ClusterDriftRights, rbac.Drift, Warn}, {ClusterMigrationRights, rbac.Migration, Warn},
	} {
		m.check(ctx, r.id, c.Name, func(ctx context.Context) finding {
			kube, err := typedClient(m.client, c.ID)
			if err != nil {
				return failed(errs.FromRancher(err))
			}
			needs := rbac.OnCluster(r.capability, agent)
			if r.capability == rbac.Rollout {
				more, err := namespaceNeeds(ctx, kube, agent)
				if err != nil {
					return m.unasked(ctx, err, c.ID, r.lacking)
				}
				needs = append(needs, more...)
			}
			return m.rights(ctx, kube, c.ID, "cluster/"+string(r.capability)+".yaml", needs, r.lacking)
		})
	}
	m.check(ctx, ClusterAgents, c.Name, func(ctx context.Context) finding { return m.agents(ctx, c) })
}

// namespaceNeeds looks whether the agents' namespace is there, and whose it is. Where that may
// not be seen, it is the first of what is missing.
func namespaceNeeds(ctx context.Context, kube kubernetes.Interface, name string) ([]rbac.Permission, error) {
	ns, err := kube.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsForbidden(err):
		return nil, nil
	case err != nil && !apierrors.IsNotFound(err):
		return nil, err
	}
	return forNamespace(name, err == nil, verify.IsOurs(ns)), nil
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
	switch {
	case errs.TypeOf(err) == errs.TypeDenied:
		return broken("see "+ClusterRights, "%s", oneLine(errs.Message(err)))
	case err != nil:
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
