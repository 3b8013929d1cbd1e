package deliver

import (
	"context"
	"encoding/json"
	"time"

	fleet "github.com/rancher/fleet/pkg/apis/fleet.cattle.io/v1alpha1"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/rancher"
)

// CorrectInput asks that Fleet applies again, by force, what a unit has. Commit is
// the verified revision, which it has already, and Rollout the run of the correction.
type CorrectInput struct {
	UnitInput
	// Generation is the GitRepo's when the drift was found: one that was changed
	// since is not touched.
	Generation int64 `json:"generation"`
	// Drifted names the clusters that are waited for.
	Drifted []string `json:"drifted"`
}

// Correct has Fleet's agents apply everything that the unit delivers, on all of its
// clusters: objects that are gone are made again, and those that were changed are
// replaced. It waits until that is done on the clusters that drifted. Raising
// forceSyncGeneration alone would not do: without force, Helm compares what it applied
// last with what it applies now, and finds custom resources such as Calico's the same.
func (a *Activities) Correct(ctx context.Context, in CorrectInput) (_ *Settled, err error) {
	defer a.metrics.count("Correct", &err)
	if err := a.unmigrated(ctx, clusterNames(in.Unit.Clusters)); err != nil {
		return nil, err
	}
	in.Unit.Namespace = a.fleet.Workspace()
	w := a.begin(ctx, "correcting", in.UnitInput)
	repo, err := a.mutate(ctx, in.Unit.GitRepo, func(repo *fleet.GitRepo) (*patch, error) { return correctPatch(in, repo, time.Now()) })
	if err != nil {
		return nil, err
	}
	w.want.Generation = repo.Generation
	report, err := w.until(ctx, rancher.Live, func(r rancher.Report) bool { return r.Waiting == "" && allLive(r, in.Drifted) })
	if err != nil {
		return nil, err
	}
	return &Settled{Clusters: report.Clusters, LiveAt: time.Now().UTC()}, nil
}

// Uncorrect puts back what Correct changed of the GitRepo, and waits until Fleet has
// taken that up. A GitRepo that this correction does not have is left alone.
func (a *Activities) Uncorrect(ctx context.Context, in CorrectInput) (err error) {
	defer func() { err = errs.Persist(err) }()
	defer a.metrics.count("Uncorrect", &err)
	in.Unit.Namespace = a.fleet.Workspace()
	w := a.begin(ctx, "correcting", in.UnitInput)
	wrote := false
	repo, err := a.mutate(ctx, in.Unit.GitRepo, func(repo *fleet.GitRepo) (*patch, error) {
		if repo == nil {
			return nil, nil
		}
		c, err := rancher.ReadCorrecting(repo)
		if err != nil || c == nil || c.By != in.Rollout {
			return nil, err
		}
		wrote = true
		return uncorrected(&patch{annotations: map[string]any{}, spec: map[string]any{}}, c), nil
	})
	if err != nil || !wrote || repo.Spec.Revision != in.Commit || repo.Spec.Branch != "" || repo.Spec.Paused {
		return err // what a rollout has put there meanwhile is not waited for
	}
	w.patient = true
	w.want.Generation = repo.Generation
	_, err = w.until(ctx, rancher.Live, func(r rancher.Report) bool { return r.Waiting == "" })
	return err
}

func allLive(r rancher.Report, names []string) bool {
	live := map[string]bool{}
	for _, c := range r.Clusters {
		live[c.Cluster] = c.Live
	}
	for _, name := range names {
		if !live[name] {
			return false
		}
	}
	return true
}

// correctPatch is the change, if the GitRepo is what was compared with. It is made
// once for each correction.
func correctPatch(in CorrectInput, repo *fleet.GitRepo, now time.Time) (*patch, error) {
	where := in.Unit.Namespace + "/" + in.Unit.GitRepo
	if repo == nil {
		return nil, errs.Conflict("GitRepo %s was deleted by someone before its drift was corrected", where)
	}
	other, err := rancher.ReadCorrecting(repo)
	switch {
	case err != nil:
		return nil, err
	case other != nil && other.By == in.Rollout:
		return nil, nil
	case other != nil && !other.Stale(now):
		return nil, errs.Conflict("GitRepo %s is being corrected by another workflow (run %s) since %s", where, other.By, other.At.UTC().Format(time.RFC3339))
	case repo.Labels[rancher.LabelPipeline] != in.Pipeline:
		return nil, errs.Conflict("GitRepo %s is not of pipeline %s any more", where, in.Pipeline)
	case repo.Generation != in.Generation || repo.Spec.Revision != in.Commit || repo.Spec.Branch != "" || repo.Spec.Paused:
		return nil, errs.Conflict("GitRepo %s was changed since its drift was found: it has %q at generation %d now, and not %q at %d",
			where, repo.Spec.Revision, repo.Generation, in.Commit, in.Generation)
	}
	mark := rancher.Correcting{By: in.Rollout, At: now.UTC(), Had: repo.Spec.CorrectDrift}
	if other != nil {
		mark.Had = other.Had
	}
	text, err := json.Marshal(mark)
	if err != nil {
		return nil, errs.Failed("encoding the mark of a correction of GitRepo %s: %v", where, err)
	}
	return &patch{
		annotations: map[string]any{rancher.AnnotationCorrecting: string(text)},
		spec: map[string]any{
			"correctDrift":        map[string]any{"enabled": true, "force": true},
			"forceSyncGeneration": repo.Spec.ForceSyncGeneration + 1,
		},
	}, nil
}

// uncorrected adds to a patch what puts the GitRepo back as it was before a correction.
func uncorrected(p *patch, c *rancher.Correcting) *patch {
	p.annotations[rancher.AnnotationCorrecting] = nil
	p.spec["correctDrift"] = nil
	if had := c.Had; had != nil {
		// A merge patch leaves alone what it does not name.
		p.spec["correctDrift"] = map[string]any{"enabled": had.Enabled, "force": had.Force, "keepFailHistory": had.KeepFailHistory}
	}
	return p
}

// notCorrecting refuses to stage a GitRepo that is being corrected. One whose correction
// was cut short is put back in the same write.
func notCorrecting(p *patch, repo *fleet.GitRepo, now time.Time) error {
	c, err := rancher.ReadCorrecting(repo)
	if err != nil || c == nil {
		return err
	}
	if !c.Stale(now) {
		return errs.Unavailable("GitRepo %s/%s is being applied again by a correction of drift since %s: the rollout waits for it",
			repo.Namespace, repo.Name, c.At.UTC().Format(time.RFC3339))
	}
	uncorrected(p, c)
	return nil
}
