package deliver

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	fleet "github.com/rancher/fleet/pkg/apis/fleet.cattle.io/v1alpha1"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/rancher"
)

// putBack writes, at once, what the unit was, the hold, and a raised
// forceSyncGeneration. It writes once for each rollout.
func (a *Activities) putBack(ctx context.Context, in RestoreInput) (*fleet.GitRepo, rancher.Want, error) {
	to, want, err := destination(in)
	if err != nil {
		return nil, want, err
	}
	repo, err := a.fleet.GetGitRepo(ctx, in.Unit.GitRepo)
	if err != nil {
		return nil, want, err
	}
	if repo == nil {
		made, err := a.remake(ctx, in, to)
		if err == nil || rancher.KindOf(err) != rancher.KindConflict {
			return made, want, err
		}
	}
	if repo != nil && repo.Labels[rancher.LabelPipeline] == "" {
		// Staging never came to write to it, so there is nothing to put back.
		return repo, want, a.fleet.WriteHold(ctx, in.Pipeline, in.Reason)
	}
	repo, err = a.mutate(ctx, in.Unit.GitRepo, func(repo *fleet.GitRepo) (*patch, error) {
		where := in.Unit.Namespace + "/" + in.Unit.GitRepo
		if repo == nil {
			return nil, errs.Conflict("GitRepo %s was deleted by someone while it was being restored", where)
		}
		if owner := repo.Labels[rancher.LabelPipeline]; owner != in.Pipeline {
			return nil, errs.Conflict("GitRepo %s is not of pipeline %s any more, so it is not put back", where, in.Pipeline)
		}
		return restorePatch(in, repo, to), nil
	})
	return repo, want, err
}

// destination is the pin to return to, and how to know that it is live.
func destination(in RestoreInput) (pin, rancher.Want, error) {
	before := in.Unit.Before
	want := rancher.Want{}
	for _, c := range in.Unit.Clusters {
		want.Clusters = append(want.Clusters, c.Name)
	}
	switch before.Kind {
	case rancher.RestoreVerified:
		if !rancher.FullCommit(before.Revision) {
			return pin{}, want, errs.Invalid("GitRepo %s/%s: the verified revision %q is not a full commit; correct annotation %s", in.Unit.Namespace, in.Unit.GitRepo, before.Revision, rancher.AnnotationVerified)
		}
		want.Commit = before.Revision
		return pin{revision: before.Revision}, want, nil
	case rancher.RestoreOriginal:
		original := fleet.GitRepoSpec{}
		if err := json.Unmarshal(before.OriginalSpec, &original); err != nil {
			return pin{}, want, errs.Invalid("GitRepo %s/%s: the spec from before Portcullis cannot be read", in.Unit.Namespace, in.Unit.GitRepo)
		}
		want.Commit, want.Branch, want.Follow = original.Revision, original.Branch, original.Revision == ""
		return pin{revision: original.Revision, branch: original.Branch, paused: original.Paused}, want, nil
	}
	return pin{}, want, errs.Invalid("GitRepo %s/%s: restoring to %q is not known", in.Unit.Namespace, in.Unit.GitRepo, before.Kind)
}

func restorePatch(in RestoreInput, repo *fleet.GitRepo, to pin) *patch {
	wrote, err := rancher.ReadWritten(repo)
	restored := err == nil && wrote != nil && wrote.Restored == in.Rollout &&
		repo.Spec.Revision == to.revision && repo.Spec.Branch == to.branch && repo.Spec.Paused == to.paused &&
		repo.Annotations[rancher.AnnotationHeld] == in.Reason
	// A later unit failed after this one was recorded: what is put back must not
	// stay the revision that the next rollback returns to.
	disowned := repo.Annotations[rancher.AnnotationVerified] == in.Commit && in.Unit.Before.Revision != in.Commit
	if restored && !disowned {
		return nil
	}
	p := &patch{annotations: map[string]any{
		rancher.AnnotationRollout: in.Rollout,
		rancher.AnnotationHeld:    in.Reason,
	}}
	if disowned {
		maps.Copy(p.annotations, proofBefore(in.Unit.Before))
	}
	p.setPin(repo, to)
	spec := repo.Spec.DeepCopy()
	spec.Revision, spec.Branch, spec.Paused = to.revision, to.branch, to.paused
	w := rancher.WrittenOf(spec)
	w.Restored = in.Rollout
	p.annotations[rancher.AnnotationWritten] = writtenJSON(w)
	return p
}

// proofBefore are the annotations of the proof that a unit had when it was planned.
func proofBefore(b rancher.Before) map[string]any {
	proof := map[string]any{
		rancher.AnnotationVerified: nil, rancher.AnnotationVerifiedAt: nil,
		rancher.AnnotationEvidence: nil, rancher.AnnotationPrevious: nil,
	}
	if b.Kind == rancher.RestoreVerified {
		proof[rancher.AnnotationVerified] = b.Revision
		proof[rancher.AnnotationPrevious] = orNil(b.Previous)
		if !b.VerifiedAt.IsZero() {
			proof[rancher.AnnotationVerifiedAt] = b.VerifiedAt.UTC().Format(time.RFC3339)
		}
	}
	return proof
}

// remake creates a GitRepo that somebody deleted in the meantime: its clusters
// are without policy until it is back.
func (a *Activities) remake(ctx context.Context, in RestoreInput, to pin) (*fleet.GitRepo, error) {
	repo := newGitRepo(in.UnitInput)
	if in.Unit.Before.Kind == rancher.RestoreOriginal {
		if err := json.Unmarshal(in.Unit.Before.OriginalSpec, &repo.Spec); err != nil {
			return nil, errs.Invalid("GitRepo %s/%s: the spec from before Portcullis cannot be read", in.Unit.Namespace, in.Unit.GitRepo)
		}
		repo.Annotations[rancher.AnnotationOriginal] = string(in.Unit.Before.OriginalSpec)
	} else {
		repo.Annotations[rancher.AnnotationVerified] = in.Unit.Before.Revision
		repo.Annotations[rancher.AnnotationVerifiedAt] = in.Unit.Before.VerifiedAt.UTC().Format(time.RFC3339)
	}
	repo.Spec.Revision, repo.Spec.Branch, repo.Spec.Paused = to.revision, to.branch, to.paused
	repo.Annotations[rancher.AnnotationHeld] = in.Reason
	w := rancher.WrittenOf(&repo.Spec)
	w.Restored = in.Rollout
	repo.Annotations[rancher.AnnotationWritten] = writtenJSON(w)
	return a.fleet.CreateGitRepo(ctx, repo)
}

// remove deletes a GitRepo that was not there before, and waits until all that
// Fleet made of it is gone. The hold then lives beside it, as it may be the
// pipeline's only one.
func (a *Activities) remove(ctx context.Context, w *wait, in RestoreInput) (*Settled, error) {
	if err := a.fleet.WriteHold(ctx, in.Pipeline, in.Reason); err != nil {
		return nil, err
	}
	repo, err := a.fleet.GetGitRepo(ctx, in.Unit.GitRepo)
	if err != nil {
		return nil, err
	}
	if repo != nil {
		if owner := repo.Labels[rancher.LabelPipeline]; owner != in.Pipeline {
			return nil, errs.Conflict("GitRepo %s/%s is not of pipeline %s any more, so it is not deleted", in.Unit.Namespace, in.Unit.GitRepo, in.Pipeline)
		}
		if repo.DeletionTimestamp == nil {
			if err := a.fleet.DeleteGitRepo(ctx, in.Unit.GitRepo); err != nil {
				return nil, err
			}
		}
	}
	if err := w.gone(ctx); err != nil {
		return nil, err
	}
	settled := &Settled{LiveAt: time.Now().UTC()}
	for _, c := range in.Unit.Clusters {
		settled.Clusters = append(settled.Clusters, rancher.ClusterStatus{Cluster: c.Name, Live: true})
	}
	return settled, nil
}

// gone waits until the GitRepo and what belongs to it are not there any more.
func (w *wait) gone(ctx context.Context) (err error) {
	defer func() { w.ended(err) }()
	return w.loop(ctx, func() (bool, error) {
		s, err := w.a.fleet.Snapshot(w.in.Unit.GitRepo)
		if err != nil {
			w.tell(ctx, onManagement, err.Error())
			return false, nil
		}
		if s.GitRepo == nil && len(s.Bundles)+len(s.Deployments) == 0 {
			return true, nil
		}
		w.progress.Ready = max(0, w.progress.Total-len(s.Deployments))
		w.tell(ctx, onClusters, fmt.Sprintf("Fleet still has %d Bundles and %d BundleDeployments of the deleted GitRepo", len(s.Bundles), len(s.Deployments)))
		return false, nil
	})
}
