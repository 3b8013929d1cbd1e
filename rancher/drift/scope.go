package drift

import (
	"fmt"
	"slices"
	"strings"
	"time"

	fleet "github.com/rancher/fleet/pkg/apis/fleet.cattle.io/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"portcullis.dev/portcullis/rancher"
)

// Unit is a GitRepo of a pipeline, and the clusters that it delivers to.
type Unit struct {
	Environment string `json:"environment"`
	// GitRepo is empty for clusters that none delivers to.
	GitRepo string `json:"gitRepo,omitempty"`
	// Generation is the GitRepo's when it was read: an audit that ends with another one
	// has compared with two things.
	Generation int64 `json:"generation,omitempty"`
	// Revision is the verified one.
	Revision string `json:"revision,omitempty"`
	// Moving says, where a rollout is changing it, how.
	Moving string `json:"moving,omitempty"`
	// Unknown says why there is nothing to compare with.
	Unknown string `json:"unknown,omitempty"`
	// Findings are about the GitRepo itself.
	Findings []Finding         `json:"findings,omitempty"`
	Clusters []rancher.Cluster `json:"clusters,omitempty"`
}

// ScopeRequest is what is known of a pipeline.
type ScopeRequest struct {
	Pipeline     string
	Source       rancher.Source
	Environments []rancher.Environment
	Clusters     []rancher.Cluster
	GitRepos     []fleet.GitRepo
	// Delivered has the names of the clusters that Fleet has BundleDeployments for, by GitRepo.
	Delivered map[string][]string
	Now       time.Time
}

// Scope decides what an audit looks at: every cluster of the environments once, with the
// GitRepo that delivers to it. Environments stay in order; GitRepos are by name.
func Scope(req ScopeRequest) ([]Unit, error) {
	var out []Unit
	for _, env := range req.Environments {
		members, err := membersOf(env, req.Clusters)
		if err != nil {
			return nil, err
		}
		left := map[string]rancher.Cluster{}
		for _, c := range members {
			left[c.Name] = c
		}
		units := 0
		for i := range req.GitRepos {
			repo := &req.GitRepos[i]
			if !belongs(req.Pipeline, env, repo) {
				continue
			}
			u := unitOf(req, env, repo)
			for _, name := range req.Delivered[repo.Name] {
				if c, mine := left[name]; mine {
					u.Clusters = append(u.Clusters, c)
					delete(left, name)
				}
			}
			slices.SortFunc(u.Clusters, byName)
			out = append(out, u)
			units++
		}
		if len(left) > 0 {
			out = append(out, undelivered(env, left, units))
		}
	}
	return out, nil
}

func byName(a, b rancher.Cluster) int { return strings.Compare(a.Name, b.Name) }

func membersOf(env rancher.Environment, clusters []rancher.Cluster) ([]rancher.Cluster, error) {
	s, err := metav1.LabelSelectorAsSelector(&env.Clusters)
	if err != nil {
		return nil, fmt.Errorf("environment %s: its clusters cannot be selected: %w", env.Name, err)
	}
	var out []rancher.Cluster
	for _, c := range clusters {
		if s.Matches(labels.Set(c.Labels)) {
			out = append(out, c)
		}
	}
	return out, nil
}

// undelivered are clusters of an environment that no GitRepo of the pipeline delivers to.
func undelivered(env rancher.Environment, left map[string]rancher.Cluster, units int) Unit {
	u := Unit{Environment: env.Name}
	if units == 0 {
		u.Unknown = "nothing was rolled out to environment " + env.Name
	}
	for _, name := range sortedNames(left) {
		u.Clusters = append(u.Clusters, left[name])
	}
	return u
}

// belongs says whether a GitRepo is one of the pipeline's in the environment. One that has lost
// its labels is known by its name and by what Portcullis wrote on it.
func belongs(pipeline string, env rancher.Environment, repo *fleet.GitRepo) bool {
	if owner := repo.Labels[rancher.LabelPipeline]; owner != "" {
		if in := repo.Labels[rancher.LabelEnvironment]; owner != pipeline || in != "" {
			return owner == pipeline && in == env.Name
		}
		return named(pipeline, env, repo.Name)
	}
	written := repo.Annotations[rancher.AnnotationWritten] != "" || repo.Annotations[rancher.AnnotationVerified] != ""
	return written && named(pipeline, env, repo.Name)
}

// named says whether the name is one that Portcullis gives in the environment.
func named(pipeline string, env rancher.Environment, name string) bool {
	if name == env.GitRepo {
		return true
	}
	rest, ok := strings.CutPrefix(name, pipeline+"-"+env.Name)
	if !ok || rest == "" || rest[0] != '-' {
		return ok && rest == ""
	}
	for _, w := range env.Waves {
		if after, is := strings.CutPrefix(rest[1:], w.Name); is && (after == "" || after[0] == '-') {
			return true
		}
	}
	return len(env.Waves) == 0
}

// unitOf judges a GitRepo against what Portcullis last wrote to it.
func unitOf(req ScopeRequest, env rancher.Environment, repo *fleet.GitRepo) Unit {
	u := Unit{Environment: env.Name, GitRepo: repo.Name, Generation: repo.Generation, Revision: repo.Annotations[rancher.AnnotationVerified]}
	changes, detail := edits(req, env, repo)
	if len(changes) > 0 || detail != "" {
		f := Finding{Category: Repo, Key: repoKey(repo), Changes: changes, Detail: detail}
		if len(changes) > 0 {
			f.By = repoWriter(repo, strings.Split(changes[0].Path, "."))
		}
		u.Findings = append(u.Findings, f)
	}
	// A hand's revision is an edit; one that Portcullis wrote itself and has not verified
	// is a rollout, or the end of one that was cut short.
	if w, err := rancher.ReadWritten(repo); err == nil && w != nil && rancher.WrittenOf(&repo.Spec).Revision == w.Revision {
		switch {
		case w.Restored == "" && w.Paused && repo.Spec.Paused:
			u.Moving = fmt.Sprintf("a rollout has staged %s", short(w.Revision))
		case w.Restored == "" && w.Revision != "" && w.Revision != u.Revision:
			u.Moving = fmt.Sprintf("a rollout has put %s there, and has not verified it", short(w.Revision))
		}
	}
	// One that was cut short is told below, as an edit.
	if c, err := rancher.ReadCorrecting(repo); err == nil && c != nil && !c.Stale(req.Now) && u.Moving == "" {
		u.Moving = "a correction of drift has Fleet apply it again"
	}
	if u.Revision == "" && u.Moving == "" {
		u.Unknown = fmt.Sprintf("GitRepo %s has no verified revision to compare with", repo.Name)
	}
	return u
}

func short(revision string) string { return revision[:min(12, len(revision))] }

func repoKey(repo *fleet.GitRepo) Key {
	return Key{APIVersion: "fleet.cattle.io/v1alpha1", Kind: "GitRepo", Namespace: repo.Namespace, Name: repo.Name}
}

func repoWriter(repo *fleet.GitRepo, path []string) *Writer {
	o := &Object{managed: []byte(encode(repo.ManagedFields))}
	return o.wrote(path)
}

// edits are what of a GitRepo is not as Portcullis wrote it.
func edits(req ScopeRequest, env rancher.Environment, repo *fleet.GitRepo) ([]Change, string) {
	var out []Change
	add := func(path, wished, live string) {
		if wished != live {
			out = append(out, Change{Path: path, Wished: quoted(wished), Live: quoted(live)})
		}
	}
	add("metadata.labels."+rancher.LabelPipeline, req.Pipeline, repo.Labels[rancher.LabelPipeline])
	add("metadata.labels."+rancher.LabelEnvironment, env.Name, repo.Labels[rancher.LabelEnvironment])
	if rancher.RedactURL(repo.Spec.Repo) != rancher.RedactURL(req.Source.Repo) {
		add("spec.repo", rancher.RedactURL(req.Source.Repo), rancher.RedactURL(repo.Spec.Repo))
	}
	c, err := rancher.ReadCorrecting(repo)
	if err != nil {
		return out, err.Error()
	}
	if c != nil && c.Stale(req.Now) {
		out = append(out, Change{Path: "spec.correctDrift", Wished: clip(encode(c.Had), maxShown), Live: clip(encode(repo.Spec.CorrectDrift), maxShown)})
	}
	w, err := rancher.ReadWritten(repo)
	switch {
	case err != nil:
		return out, err.Error()
	case w == nil:
		return out, "its annotation " + rancher.AnnotationWritten + " is gone: what was edited beside it cannot be told"
	}
	is := rancher.WrittenOf(&repo.Spec)
	add("spec.branch", w.Branch, is.Branch)
	add("spec.revision", w.Revision, is.Revision)
	add("spec.paths", w.Paths, is.Paths)
	if w.Paused != is.Paused {
		out = append(out, Change{Path: "spec.paused", Wished: fmt.Sprint(w.Paused), Live: fmt.Sprint(is.Paused)})
	}
	if w.Targets != is.Targets {
		out = append(out, Change{Path: "spec.targets", Wished: "(others)", Live: clip(encode(repo.Spec.Targets), maxShown)})
	}
	if repo.Annotations[rancher.AnnotationVerified] == "" && repo.Annotations[rancher.AnnotationEvidence] != "" {
		out = append(out, Change{Path: "metadata.annotations." + rancher.AnnotationVerified, Wished: "(a revision)"})
	}
	return out, ""
}

func quoted(s string) string {
	if s == "" {
		return ""
	}
	return clip(encode(s), maxShown)
}
