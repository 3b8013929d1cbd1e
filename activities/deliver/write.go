package deliver

import (
	"context"
	"encoding/json"
	"time"

	fleet "github.com/rancher/fleet/pkg/apis/fleet.cattle.io/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/pace"
	"portcullis.dev/portcullis/rancher"
)

// writeAttempts bounds how often a write that lost a race is made again.
const writeAttempts = 6

// change decides, from the GitRepo as it is now (nil where there is none), the
// patch that is to be made; nil means that nothing is to be done.
type change func(repo *fleet.GitRepo) (*patch, error)

// patch is a change of a GitRepo. A nil value removes an annotation or field.
type patch struct {
	labels      map[string]any
	annotations map[string]any
	spec        map[string]any
}

// mutate applies a change with optimistic concurrency.
func (a *Activities) mutate(ctx context.Context, name string, decide change) (*fleet.GitRepo, error) {
	var err error
	for attempt := range writeAttempts {
		var repo, written *fleet.GitRepo
		if repo, err = a.fleet.GetGitRepo(ctx, name); err != nil {
			return nil, err
		}
		p, derr := decide(repo)
		if derr != nil || p == nil {
			return repo, derr
		}
		if repo == nil {
			return nil, errs.NotFound("GitRepo %s/%s is not there any more", a.fleet.Workspace(), name)
		}
		written, err = a.fleet.PatchGitRepo(ctx, name, p.body(repo))
		if err == nil || rancher.KindOf(err) != rancher.KindConflict {
			return written, err
		}
		if rerr := pace.Sleep(ctx, time.Duration(attempt+1)*50*time.Millisecond); rerr != nil {
			return nil, rerr
		}
	}
	return nil, errs.Unavailable("%s (after %d attempts)", err, writeAttempts)
}

func (p *patch) body(repo *fleet.GitRepo) map[string]any {
	meta := map[string]any{"resourceVersion": repo.ResourceVersion}
	if len(p.labels) > 0 {
		meta["labels"] = p.labels
	}
	if len(p.annotations) > 0 {
		meta["annotations"] = p.annotations
	}
	body := map[string]any{"metadata": meta}
	if len(p.spec) > 0 {
		body["spec"] = p.spec
	}
	return body
}

// pin is the part of a spec that says which content, released or not.
type pin struct {
	revision, branch string
	paused           bool
}

// setPin puts a pin into a patch. forceSyncGeneration rises in the same write:
// without it Fleet can lose a revision that it had a short while ago.
func (p *patch) setPin(repo *fleet.GitRepo, to pin) {
	p.spec = map[string]any{
		"revision":            orNil(to.revision),
		"branch":              orNil(to.branch),
		"paused":              to.paused,
		"forceSyncGeneration": repo.Spec.ForceSyncGeneration + 1,
	}
}

func orNil(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// stage creates or changes the GitRepo so that it is pinned to the commit and paused.
func (a *Activities) stage(ctx context.Context, in UnitInput) (*fleet.GitRepo, error) {
	repo, err := a.fleet.GetGitRepo(ctx, in.Unit.GitRepo)
	if err != nil {
		return nil, err
	}
	if repo == nil {
		created, err := a.fleet.CreateGitRepo(ctx, newGitRepo(in))
		if err == nil || rancher.KindOf(err) != rancher.KindConflict {
			return created, err
		}
	}
	return a.mutate(ctx, in.Unit.GitRepo, func(repo *fleet.GitRepo) (*patch, error) {
		if repo == nil {
			return nil, errs.Conflict("GitRepo %s/%s was deleted by someone while it was being staged", in.Unit.Namespace, in.Unit.GitRepo)
		}
		return stagePatch(in, repo)
	})
}

func newGitRepo(in UnitInput) *fleet.GitRepo {
	repo := &fleet.GitRepo{
		TypeMeta: metav1.TypeMeta{APIVersion: "fleet.cattle.io/v1alpha1", Kind: "GitRepo"},
		ObjectMeta: metav1.ObjectMeta{
			Name:        in.Unit.GitRepo,
			Namespace:   in.Unit.Namespace,
			Labels:      ownLabels(in),
			Annotations: map[string]string{rancher.AnnotationRollout: in.Rollout},
		},
		Spec: fleet.GitRepoSpec{
			Repo:                in.Source.Repo,
			Revision:            in.Commit,
			ClientSecretName:    in.Source.ClientSecretName,
			Paths:               in.Source.Paths,
			Targets:             gitTargets(in.Unit.Targets),
			Paused:              true,
			ForceSyncGeneration: 1,
		},
	}
	repo.Annotations[rancher.AnnotationWritten] = writtenJSON(rancher.WrittenOf(&repo.Spec))
	return repo
}

func ownLabels(in UnitInput) map[string]string {
	labels := map[string]string{rancher.LabelPipeline: in.Pipeline, rancher.LabelEnvironment: in.Environment}
	if in.Unit.Wave != "" {
		labels[rancher.LabelWave] = in.Unit.Wave
	}
	return labels
}

func gitTargets(targets []rancher.Target) []fleet.GitTarget {
	out := make([]fleet.GitTarget, len(targets))
	for i, t := range targets {
		out[i] = fleet.GitTarget{Name: t.Name, ClusterName: t.ClusterName, ClusterSelector: t.ClusterSelector}
	}
	return out
}

func stagePatch(in UnitInput, repo *fleet.GitRepo) (*patch, error) {
	if owner := repo.Labels[rancher.LabelPipeline]; owner != "" && owner != in.Pipeline {
		return nil, errs.Conflict("GitRepo %s/%s belongs to pipeline %s now", repo.Namespace, repo.Name, owner)
	}
	ours := repo.Labels[rancher.LabelPipeline] == in.Pipeline
	if !ours && in.Unit.Before.Kind != rancher.RestoreOriginal {
		return nil, errs.Conflict("GitRepo %s/%s was made by someone else after the plan; plan again", repo.Namespace, repo.Name)
	}
	staged := ours && repo.Annotations[rancher.AnnotationRollout] == in.Rollout &&
		repo.Spec.Revision == in.Commit && repo.Spec.Branch == "" && repo.Spec.Paused
	if staged {
		return nil, nil
	}
	p := &patch{labels: map[string]any{}, annotations: map[string]any{rancher.AnnotationRollout: in.Rollout}}
	for k, v := range ownLabels(in) {
		p.labels[k] = v
	}
	if !ours {
		// The planned original, not the spec of now: it is what a person saw.
		p.annotations[rancher.AnnotationOriginal] = string(in.Unit.Before.OriginalSpec)
	}
	p.setPin(repo, pin{revision: in.Commit, paused: true})
	if err := notCorrecting(p, repo, time.Now()); err != nil {
		return nil, err
	}
	spec := repo.Spec.DeepCopy()
	spec.Revision, spec.Branch, spec.Paused = in.Commit, "", true
	if len(in.Unit.Targets) > 0 {
		spec.Targets = gitTargets(in.Unit.Targets)
		spec.Paths, spec.ClientSecretName = in.Source.Paths, in.Source.ClientSecretName
		p.spec["targets"], p.spec["paths"] = spec.Targets, spec.Paths
		p.spec["clientSecretName"] = orNil(spec.ClientSecretName)
	}
	p.annotations[rancher.AnnotationWritten] = writtenJSON(rancher.WrittenOf(spec))
	return p, nil
}

func writtenJSON(w rancher.Written) string {
	data, err := json.Marshal(w)
	if err != nil {
		return ""
	}
	return string(data)
}

// release lifts the pause, if the GitRepo still is what this rollout staged.
func (a *Activities) release(ctx context.Context, in UnitInput) error {
	_, err := a.mutate(ctx, in.Unit.GitRepo, func(repo *fleet.GitRepo) (*patch, error) {
		where := in.Unit.Namespace + "/" + in.Unit.GitRepo
		switch {
		case repo == nil:
			return nil, errs.Conflict("GitRepo %s was deleted by someone before it was released", where)
		case repo.Annotations[rancher.AnnotationRollout] != in.Rollout:
			return nil, errs.Conflict("GitRepo %s was staged by another rollout (%s) since", where, repo.Annotations[rancher.AnnotationRollout])
		case repo.Spec.Revision != in.Commit || repo.Spec.Branch != "":
			return nil, errs.Conflict("GitRepo %s was changed by someone before it was released: it has branch %q and revision %q", where, repo.Spec.Branch, repo.Spec.Revision)
		case !repo.Spec.Paused:
			return nil, nil
		}
		spec := repo.Spec.DeepCopy()
		spec.Paused = false
		return &patch{
			spec:        map[string]any{"paused": false},
			annotations: map[string]any{rancher.AnnotationWritten: writtenJSON(rancher.WrittenOf(spec))},
		}, nil
	})
	return err
}

// force raises forceSyncGeneration, if the GitRepo still is what is waited for.
// It returns nil where it is not.
func (a *Activities) force(ctx context.Context, name string, want rancher.Want) (*fleet.GitRepo, error) {
	return a.mutate(ctx, name, func(repo *fleet.GitRepo) (*patch, error) {
		if repo == nil || repo.Spec.Branch != want.Branch || repo.Spec.Revision != want.Commit {
			return nil, errs.Conflict("GitRepo %s was changed by someone else", name)
		}
		return &patch{spec: map[string]any{"forceSyncGeneration": repo.Spec.ForceSyncGeneration + 1}}, nil
	})
}

// markVerified keeps the proof on the GitRepo, where the next rollout finds it.
func (a *Activities) markVerified(ctx context.Context, in VerifiedInput) error {
	_, err := a.mutate(ctx, in.Unit.GitRepo, func(repo *fleet.GitRepo) (*patch, error) {
		where := in.Unit.Namespace + "/" + in.Unit.GitRepo
		switch {
		case repo == nil:
			return nil, errs.Conflict("GitRepo %s was deleted by someone; %s cannot be recorded as verified", where, in.Commit)
		case repo.Spec.Revision != in.Commit || repo.Spec.Branch != "":
			return nil, errs.Conflict("GitRepo %s was changed by someone: it has branch %q and revision %q, so %s cannot be recorded as verified", where, repo.Spec.Branch, repo.Spec.Revision, in.Commit)
		}
		had := repo.Annotations[rancher.AnnotationVerified]
		if had == in.Commit && repo.Annotations[rancher.AnnotationEvidence] == in.Evidence {
			return nil, nil
		}
		p := &patch{annotations: map[string]any{
			rancher.AnnotationVerified:   in.Commit,
			rancher.AnnotationVerifiedAt: time.Now().UTC().Format(time.RFC3339),
			rancher.AnnotationEvidence:   in.Evidence,
		}}
		if had != "" && had != in.Commit {
			p.annotations[rancher.AnnotationPrevious] = had
		}
		return p, nil
	})
	return err
}
