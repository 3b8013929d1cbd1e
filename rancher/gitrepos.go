package rancher

import (
	"context"
	"encoding/json"

	fleet "github.com/rancher/fleet/pkg/apis/fleet.cattle.io/v1alpha1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// These read and write the API server itself, not the caches.

// GetGitRepo reads a GitRepo of the workspace; nil without an error means that
// there is none.
func (c *Client) GetGitRepo(ctx context.Context, name string) (*fleet.GitRepo, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	repo := &fleet.GitRepo{}
	err := c.fleet.Get().Namespace(c.cfg.Workspace).Resource("gitrepos").Name(name).Do(ctx).Into(repo)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, c.wrap(ctx, err, "reading GitRepo "+c.cfg.Workspace+"/"+name)
	}
	return repo, nil
}

// GitJobs reads the git jobs of a GitRepo that were not deleted yet.
func (c *Client) GitJobs(ctx context.Context, name string) ([]*batchv1.Job, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	list := &batchv1.JobList{}
	err := c.batch.Get().Namespace(c.cfg.Workspace).Resource("jobs").Param("labelSelector", labelJobGeneration).Do(ctx).Into(list)
	if err != nil {
		return nil, c.wrap(ctx, err, "listing the git jobs of "+c.cfg.Workspace)
	}
	var out []*batchv1.Job
	for i := range list.Items {
		if ownerOf(&list.Items[i]) == name {
			out = append(out, &list.Items[i])
		}
	}
	return out, nil
}

// labelJobGeneration is on every git job of Fleet.
const labelJobGeneration = "fleet.cattle.io/gitrepo-generation"

// ListGitRepos reads all GitRepos of the workspace that have the labels.
func (c *Client) ListGitRepos(ctx context.Context, having map[string]string) ([]fleet.GitRepo, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	list := &fleet.GitRepoList{}
	req := c.fleet.Get().Namespace(c.cfg.Workspace).Resource("gitrepos")
	if len(having) > 0 {
		req = req.Param("labelSelector", metav1.FormatLabelSelector(&metav1.LabelSelector{MatchLabels: having}))
	}
	if err := req.Do(ctx).Into(list); err != nil {
		return nil, c.wrap(ctx, err, "listing GitRepos of "+c.cfg.Workspace)
	}
	return list.Items, nil
}

// CreateGitRepo creates a GitRepo; KindConflict where it exists already.
func (c *Client) CreateGitRepo(ctx context.Context, repo *fleet.GitRepo) (*fleet.GitRepo, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	out := &fleet.GitRepo{}
	err := c.fleet.Post().Namespace(c.cfg.Workspace).Resource("gitrepos").Body(repo).Do(ctx).Into(out)
	if err != nil {
		return nil, c.wrap(ctx, err, "creating GitRepo "+c.cfg.Workspace+"/"+repo.Name)
	}
	return out, nil
}

// PatchGitRepo merges patch (a JSON merge patch) into a GitRepo. A merge patch
// leaves alone whatever a newer Fleet may have added to it. KindConflict where
// the patch has a resourceVersion and the object has moved on.
func (c *Client) PatchGitRepo(ctx context.Context, name string, patch map[string]any) (*fleet.GitRepo, error) {
	body, err := json.Marshal(patch)
	if err != nil {
		return nil, problem(KindInvalid, "encoding the change of GitRepo %s: %v", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	out := &fleet.GitRepo{}
	err = c.fleet.Patch(types.MergePatchType).Namespace(c.cfg.Workspace).Resource("gitrepos").Name(name).Body(body).Do(ctx).Into(out)
	if err != nil {
		return nil, c.wrap(ctx, err, "changing GitRepo "+c.cfg.Workspace+"/"+name)
	}
	return out, nil
}

// DeleteGitRepo deletes a GitRepo, which makes Fleet remove what it delivered.
// One that is not there is no error.
func (c *Client) DeleteGitRepo(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := c.fleet.Delete().Namespace(c.cfg.Workspace).Resource("gitrepos").Name(name).Do(ctx).Error()
	if apierrors.IsNotFound(err) {
		return nil
	}
	return c.wrap(ctx, err, "deleting GitRepo "+c.cfg.Workspace+"/"+name)
}

// holdName is the ConfigMap that keeps a hold for a pipeline that may have no GitRepo left.
func holdName(pipeline string) string { return "portcullis-hold-" + pipeline }

// ReadHold returns why the pipeline is held by its ConfigMap, or "".
func (c *Client) ReadHold(ctx context.Context, pipeline string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	cm := &corev1.ConfigMap{}
	err := c.core.Get().Namespace(c.cfg.Workspace).Resource("configmaps").Name(holdName(pipeline)).Do(ctx).Into(cm)
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", c.wrap(ctx, err, "reading ConfigMap "+c.cfg.Workspace+"/"+holdName(pipeline))
	}
	return cm.Data["reason"], nil
}

// WriteHold keeps the reason in the pipeline's ConfigMap; an empty reason removes it.
func (c *Client) WriteHold(ctx context.Context, pipeline, reason string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	doing := "writing ConfigMap " + c.cfg.Workspace + "/" + holdName(pipeline)
	if reason == "" {
		err := c.core.Delete().Namespace(c.cfg.Workspace).Resource("configmaps").Name(holdName(pipeline)).Do(ctx).Error()
		if apierrors.IsNotFound(err) {
			return nil
		}
		return c.wrap(ctx, err, doing)
	}
	cm := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: holdName(pipeline), Namespace: c.cfg.Workspace, Labels: map[string]string{LabelPipeline: pipeline}},
		Data:       map[string]string{"reason": reason},
	}
	err := c.core.Post().Namespace(c.cfg.Workspace).Resource("configmaps").Body(cm).Do(ctx).Error()
	if apierrors.IsAlreadyExists(err) {
		body, merr := json.Marshal(map[string]any{"data": cm.Data})
		if merr != nil {
			return problem(KindInvalid, "encoding the hold of %s: %v", pipeline, merr)
		}
		err = c.core.Patch(types.MergePatchType).Namespace(c.cfg.Workspace).Resource("configmaps").Name(cm.Name).Body(body).Do(ctx).Error()
	}
	return c.wrap(ctx, err, doing)
}
