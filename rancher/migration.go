package rancher

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	fleet "github.com/rancher/fleet/pkg/apis/fleet.cattle.io/v1alpha1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A migration and a rollout exclude each other. Each first makes its own mark,
// and then looks for the other's: a migration annotates the Fleet Cluster and
// looks for rollouts of the pipelines that target it; a rollout stages its
// GitRepos, paused, and looks for the annotation before it releases them. So at
// least one of two that begin together sees the other. All of this reads and
// writes the API server itself, not the caches.

// getsAtMost is for how many clusters single reads are cheaper than one list.
const getsAtMost = 4

// Migrations returns, of the named Fleet clusters of the workspace, those that are
// being migrated, and by which workflow; without names, of all. A cluster that is
// not there is not being migrated.
func (c *Client) Migrations(ctx context.Context, names ...string) (map[string]string, error) {
	found := map[string]string{}
	if len(names) > 0 && len(names) <= getsAtMost {
		for _, name := range names {
			cluster, err := c.fleetCluster(ctx, name)
			if KindOf(err) == KindNotFound {
				continue
			}
			if err != nil {
				return nil, err
			}
			if by := cluster.Annotations[AnnotationMigration]; by != "" {
				found[name] = by
			}
		}
		return found, nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// Only the metadata: what a thousand clusters report of themselves is megabytes.
	raw, err := c.fleet.Get().Namespace(c.cfg.Workspace).Resource("clusters").
		SetHeader("Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json").Do(ctx).Raw()
	if err != nil {
		return nil, c.wrap(ctx, err, "listing the Fleet clusters of "+c.cfg.Workspace)
	}
	var list metav1.PartialObjectMetadataList
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, problem(KindFailed, "listing the Fleet clusters of %s at %s: the answer is no list of objects", c.cfg.Workspace, c.cfg.URL)
	}
	for _, item := range list.Items {
		if by := item.Annotations[AnnotationMigration]; by != "" && (len(names) == 0 || slices.Contains(names, item.Name)) {
			found[item.Name] = by
		}
	}
	return found, nil
}

// SetMigration marks a Fleet cluster as being migrated by the workflow id.
// KindConflict where another one has marked it; KindNotFound where there is no such
// cluster. To set what is set changes nothing.
func (c *Client) SetMigration(ctx context.Context, cluster, id string) error {
	if id == "" {
		return problem(KindInvalid, "cluster %s cannot be marked as being migrated by nobody", cluster)
	}
	return c.remark(ctx, cluster, func(by string) (any, bool, error) {
		switch by {
		case id:
			return nil, false, nil
		case "":
			return id, true, nil
		}
		return nil, false, problem(KindConflict, "cluster %s is being migrated by %s; wait for it, or abort it", cluster, by)
	})
}

// ClearMigration takes the mark of the workflow id away. Where it is not there, or
// is another's, or the cluster is gone, nothing is changed.
func (c *Client) ClearMigration(ctx context.Context, cluster, id string) error {
	err := c.remark(ctx, cluster, func(by string) (any, bool, error) { return nil, id != "" && by == id, nil })
	if KindOf(err) == KindNotFound {
		return nil
	}
	return err
}

// markAttempts bounds how often a mark that lost a race is tried again: Fleet
// writes the cluster's status at any time.
const markAttempts = 6

// remark decides from the mark that a cluster has what it is to have, nil for none,
// and writes that if the cluster is as it was read.
func (c *Client) remark(ctx context.Context, name string, decide func(by string) (to any, write bool, err error)) error {
	var lost error
	for attempt := range markAttempts {
		cluster, err := c.fleetCluster(ctx, name)
		if err != nil {
			return err
		}
		to, write, err := decide(cluster.Annotations[AnnotationMigration])
		if err != nil || !write {
			return err
		}
		if lost = c.annotateCluster(ctx, cluster, to); KindOf(lost) != KindConflict {
			return lost
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(attempt+1) * 50 * time.Millisecond):
		}
	}
	return problem(KindUnavailable, "%s (after %d attempts)", lost, markAttempts)
}

// annotateCluster writes the mark if the cluster is as it was read; nil removes it.
func (c *Client) annotateCluster(ctx context.Context, cluster *fleet.Cluster, id any) error {
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"resourceVersion": cluster.ResourceVersion,
		"annotations":     map[string]any{AnnotationMigration: id},
	}})
	if err != nil {
		return problem(KindInvalid, "encoding the mark of cluster %s: %v", cluster.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err = c.fleet.Patch(types.MergePatchType).Namespace(c.cfg.Workspace).Resource("clusters").Name(cluster.Name).Body(body).Do(ctx).Error()
	return c.wrap(ctx, err, "marking Fleet cluster "+c.cfg.Workspace+"/"+cluster.Name)
}

// PipelinesOf names the pipelines of which a GitRepo targets the cluster, sorted.
// A GitRepo that is paused counts: a rollout is about to release it.
func (c *Client) PipelinesOf(ctx context.Context, cluster string) ([]string, error) {
	found, err := c.fleetCluster(ctx, cluster)
	if err != nil {
		return nil, err
	}
	groups, err := c.listGroups(ctx)
	if err != nil {
		return nil, err
	}
	repos, err := c.ListGitRepos(ctx, nil)
	if err != nil {
		return nil, err
	}
	return pipelinesOf(Cluster{Name: found.Name, Labels: found.Labels}, repos, groups)
}

func pipelinesOf(cluster Cluster, repos []fleet.GitRepo, groups []*fleet.ClusterGroup) ([]string, error) {
	var out []string
	for i := range repos {
		pipeline := repos[i].Labels[LabelPipeline]
		if pipeline == "" {
			continue
		}
		ok, err := targeted(repos[i].Spec.Targets, cluster, groups)
		if err != nil {
			return nil, problem(KindInvalid, "GitRepo %s/%s has a target that cannot be read: %v", repos[i].Namespace, repos[i].Name, err)
		}
		if ok {
			out = append(out, pipeline)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

func (c *Client) fleetCluster(ctx context.Context, name string) (*fleet.Cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	out := &fleet.Cluster{}
	err := c.fleet.Get().Namespace(c.cfg.Workspace).Resource("clusters").Name(name).Do(ctx).Into(out)
	if apierrors.IsNotFound(err) {
		return nil, problem(KindNotFound, "there is no Fleet cluster %s/%s", c.cfg.Workspace, name)
	}
	if err != nil {
		return nil, c.wrap(ctx, err, "reading Fleet cluster "+c.cfg.Workspace+"/"+name)
	}
	return out, nil
}

func (c *Client) listGroups(ctx context.Context) ([]*fleet.ClusterGroup, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	list := &fleet.ClusterGroupList{}
	err := c.fleet.Get().Namespace(c.cfg.Workspace).Resource("clustergroups").Do(ctx).Into(list)
	if err != nil {
		return nil, c.wrap(ctx, err, "listing the cluster groups of "+c.cfg.Workspace)
	}
	out := make([]*fleet.ClusterGroup, len(list.Items))
	for i := range list.Items {
		out[i] = &list.Items[i]
	}
	return out, nil
}
