package deliver

import (
	"context"

	fleet "github.com/rancher/fleet/pkg/apis/fleet.cattle.io/v1alpha1"

	"portcullis.dev/portcullis/rancher"
)

// hold sets or lifts the hold of a whole pipeline. Lifting also removes the one
// that lives beside the GitRepos.
func (a *Activities) hold(ctx context.Context, in HoldInput) error {
	if err := a.holdOthers(ctx, in.Pipeline, "", in.Reason); err != nil {
		return err
	}
	if in.Reason == "" {
		return a.fleet.WriteHold(ctx, in.Pipeline, "")
	}
	repos, err := a.fleet.ListGitRepos(ctx, map[string]string{rancher.LabelPipeline: in.Pipeline})
	if err != nil || len(repos) > 0 {
		return err
	}
	return a.fleet.WriteHold(ctx, in.Pipeline, in.Reason)
}

// holdOthers writes the hold on every GitRepo of the pipeline but one, which
// gets it together with another change.
func (a *Activities) holdOthers(ctx context.Context, pipeline, but, reason string) error {
	repos, err := a.fleet.ListGitRepos(ctx, map[string]string{rancher.LabelPipeline: pipeline})
	if err != nil {
		return err
	}
	for i := range repos {
		if repos[i].Name == but {
			continue
		}
		_, err := a.mutate(ctx, repos[i].Name, func(repo *fleet.GitRepo) (*patch, error) {
			if repo == nil || repo.Annotations[rancher.AnnotationHeld] == reason {
				return nil, nil
			}
			return &patch{annotations: map[string]any{rancher.AnnotationHeld: orNil(reason)}}, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// held says why a pipeline is held, or "".
func (a *Activities) held(ctx context.Context, pipeline string, repos []fleet.GitRepo) (string, error) {
	for i := range repos {
		if why := repos[i].Annotations[rancher.AnnotationHeld]; why != "" && repos[i].Labels[rancher.LabelPipeline] == pipeline {
			return why, nil
		}
	}
	return a.fleet.ReadHold(ctx, pipeline)
}
