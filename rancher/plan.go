package rancher

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	fleet "github.com/rancher/fleet/pkg/apis/fleet.cattle.io/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// PlanRequest is everything that a plan depends on.
type PlanRequest struct {
	Pipeline     string
	Namespace    string
	Source       Source
	Environments []Environment
	Clusters     []Cluster
	// GitRepos are all of the workspace, not only the pipeline's.
	GitRepos []*fleet.GitRepo
	Groups   []*fleet.ClusterGroup
	Now      time.Time
}

// EnvironmentUnits is the plan of one environment.
type EnvironmentUnits struct {
	Name  string
	Units []Unit
	// Unready are clusters that cannot be changed or measured now, by name.
	Unready map[string]string
	// Notes say what a person should know, though nothing is wrong.
	Notes []string
}

const (
	// maxNameLength is what fits a label value: Fleet labels everything that it
	// makes with the GitRepo's name.
	maxNameLength = 63
	// maxTargets bounds the alternatives that the opposites of earlier waves make.
	maxTargets = 64
)

// PlanUnits decides which GitRepo delivers to which clusters, and what to return
// to. It is pure: the same request gives the same units. Its errors are
// KindInvalid (the pipeline), KindNotFound and KindConflict (what is there already).
func PlanUnits(req PlanRequest) ([]EnvironmentUnits, error) {
	p := &planner{req: req, byName: map[string]*fleet.GitRepo{}, takenBy: map[string]string{}, unitOf: map[string]string{}}
	for _, r := range req.GitRepos {
		p.byName[r.Name] = r
	}
	out := make([]EnvironmentUnits, 0, len(req.Environments))
	for _, env := range req.Environments {
		planned, err := p.environment(env)
		if err != nil {
			return nil, err
		}
		out = append(out, *planned)
	}
	if err := p.foreign(); err != nil {
		return nil, err
	}
	return out, nil
}

type planner struct {
	req    PlanRequest
	byName map[string]*fleet.GitRepo
	// takenBy maps each cluster to its environment, unitOf to its GitRepo.
	takenBy, unitOf map[string]string
	// names are the GitRepos of the plan.
	names map[string]bool
}

func (p *planner) environment(env Environment) (*EnvironmentUnits, error) {
	clusters, err := p.members(env)
	if err != nil {
		return nil, err
	}
	out := &EnvironmentUnits{Name: env.Name, Unready: map[string]string{}}
	for _, c := range clusters {
		if why := Unready(c, p.req.Now); why != "" {
			out.Unready[c.Name] = why
		}
	}
	if env.GitRepo != "" {
		unit, err := p.adopted(env, clusters)
		if err != nil {
			return nil, err
		}
		out.Units = []Unit{*unit}
		return out, nil
	}
	waves := env.Waves
	if len(waves) == 0 {
		waves = []Wave{{}}
	}
	left := clusters
	for i, wave := range waves {
		var mine []Cluster
		if mine, left, err = takeWave(env, wave, left); err != nil {
			return nil, err
		}
		units, notes, err := p.wave(env, waves[:i], wave, mine)
		if err != nil {
			return nil, err
		}
		out.Units, out.Notes = append(out.Units, units...), append(out.Notes, notes...)
	}
	if len(left) > 0 {
		return nil, problem(KindInvalid, "environment %s: no wave takes cluster %s; add a last wave without clusters, which takes the rest", env.Name, few(names(left)))
	}
	return out, nil
}

// members finds the clusters of an environment and that no other has them.
func (p *planner) members(env Environment) ([]Cluster, error) {
	if emptySelector(env.Clusters) {
		return nil, problem(KindInvalid, "environment %s: clusters selects every cluster of the workspace; name a label", env.Name)
	}
	var out []Cluster
	for _, c := range p.req.Clusters {
		ok, err := selects(&env.Clusters, c.Labels)
		if err != nil {
			return nil, problem(KindInvalid, "environment %s: clusters: %v", env.Name, err)
		}
		if !ok {
			continue
		}
		if other := p.takenBy[c.Name]; other != "" {
			return nil, problem(KindInvalid, "cluster %s is in two environments, %s and %s; make their selectors exclude each other", c.Name, other, env.Name)
		}
		if c.ID == "" {
			return nil, problem(KindInvalid, "cluster %s of environment %s has no label %s, so Rancher's proxy cannot reach it; register it in Rancher", c.Name, env.Name, LabelManagementCluster)
		}
		p.takenBy[c.Name] = env.Name
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, problem(KindInvalid, "environment %s: its selector (%s) matches no cluster of workspace %s", env.Name, metav1.FormatLabelSelector(&env.Clusters), p.req.Namespace)
	}
	return out, nil
}

// takeWave splits off the clusters of a wave.
func takeWave(env Environment, wave Wave, left []Cluster) (mine, rest []Cluster, err error) {
	for _, c := range left {
		ok, err := selects(&wave.Clusters, c.Labels)
		if err != nil {
			return nil, nil, problem(KindInvalid, "environment %s, wave %s: clusters: %v", env.Name, wave.Name, err)
		}
		if ok {
			mine = append(mine, c)
		} else {
			rest = append(rest, c)
		}
	}
	if len(mine) == 0 {
		return nil, nil, problem(KindInvalid, "environment %s, wave %s: it takes no cluster; earlier waves have them, or its selector matches none", env.Name, wave.Name)
	}
	return mine, rest, nil
}

// wave makes the units of one wave.
func (p *planner) wave(env Environment, earlier []Wave, wave Wave, clusters []Cluster) ([]Unit, []string, error) {
	base := p.req.Pipeline + "-" + env.Name
	if wave.Name != "" {
		base += "-" + wave.Name
	}
	if wave.MaxConcurrent > 0 {
		return p.slices(env, wave, base, clusters)
	}
	targets, err := waveTargets(env, earlier, wave)
	if err != nil {
		return nil, nil, err
	}
	unit, err := p.unit(env, wave.Name, base, clusters, targets)
	if err != nil {
		return nil, nil, err
	}
	return []Unit{*unit}, nil, nil
}

// waveTargets selects, by label, the clusters of a wave: those of the environment
// and the wave, without those of the waves before. So clusters that join later
// land in the right wave by themselves.
func waveTargets(env Environment, earlier []Wave, wave Wave) ([]Target, error) {
	alternatives := []metav1.LabelSelector{both(env.Clusters, wave.Clusters)}
	for _, before := range earlier {
		var next []metav1.LabelSelector
		for _, alt := range alternatives {
			for _, not := range negations(before.Clusters) {
				next = append(next, both(alt, metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{not}}))
			}
		}
		if len(next) > maxTargets {
			return nil, problem(KindInvalid, "environment %s, wave %s: leaving out the earlier waves takes more than %d targets; give the waves a label of their own", env.Name, wave.Name, maxTargets)
		}
		alternatives = next
	}
	targets := make([]Target, len(alternatives))
	for i := range alternatives {
		targets[i] = Target{Name: fmt.Sprintf("%s-%d", orSome(wave.Name, env.Name), i+1), ClusterSelector: &alternatives[i]}
	}
	return targets, nil
}

// unit names what one GitRepo delivers to, and checks who owns that name.
func (p *planner) unit(env Environment, wave, name string, clusters []Cluster, targets []Target) (*Unit, error) {
	if len(name) > maxNameLength {
		return nil, problem(KindInvalid, "environment %s: GitRepo name %s has %d characters, and Fleet allows %d; shorten the names of the pipeline, environment or wave", env.Name, name, len(name), maxNameLength)
	}
	if bad := validation.IsDNS1123Label(name); len(bad) > 0 {
		return nil, problem(KindInvalid, "environment %s: %q cannot be a GitRepo's name: %s", env.Name, name, bad[0])
	}
	existing := p.byName[name]
	if existing != nil {
		if err := p.owned(existing); err != nil {
			return nil, err
		}
	}
	return p.finish(env, wave, name, clusters, targets, existing)
}

func (p *planner) finish(env Environment, wave, name string, clusters []Cluster, targets []Target, existing *fleet.GitRepo) (*Unit, error) {
	if p.names == nil {
		p.names = map[string]bool{}
	}
	if p.names[name] {
		return nil, problem(KindInvalid, "environment %s: GitRepo name %s is used twice in this pipeline; rename the environment or wave", env.Name, name)
	}
	p.names[name] = true
	before, err := BeforeOf(existing)
	if err != nil {
		return nil, err
	}
	for _, c := range clusters {
		p.unitOf[c.Name] = name
	}
	return &Unit{Namespace: p.req.Namespace, GitRepo: name, Wave: wave, Clusters: clusters, Targets: targets, Before: before}, nil
}

// owned refuses a GitRepo that is not the pipeline's, or that someone else wrote since.
func (p *planner) owned(repo *fleet.GitRepo) error {
	owner := repo.Labels[LabelPipeline]
	switch {
	case owner == "":
		return problem(KindConflict, "GitRepo %s/%s exists and is not Portcullis's; rename it, or name it as gitRepo of the environment to adopt it", repo.Namespace, repo.Name)
	case owner != p.req.Pipeline:
		return problem(KindConflict, "GitRepo %s/%s belongs to pipeline %s; rename this pipeline or its environment", repo.Namespace, repo.Name, owner)
	case repo.DeletionTimestamp != nil:
		return problem(KindConflict, "GitRepo %s/%s is being deleted; wait until it is gone", repo.Namespace, repo.Name)
	case !sameRepo(repo.Spec.Repo, p.req.Source.Repo):
		return problem(KindConflict, "GitRepo %s/%s delivers another repository than the pipeline (spec.repo %s); change the pipeline's name or delete the GitRepo", repo.Namespace, repo.Name, RedactURL(repo.Spec.Repo))
	}
	return edited(repo)
}

// edited refuses a GitRepo that differs from what Portcullis last wrote to it.
func edited(repo *fleet.GitRepo) error {
	if repo.Spec.Branch != "" && repo.Spec.Revision != "" {
		return twoPins(repo)
	}
	wrote, err := ReadWritten(repo)
	if err != nil || wrote == nil {
		return err
	}
	if field, is, was := wrote.differs(repo); field != "" {
		return problem(KindConflict, "GitRepo %s/%s was edited by hand: %s is %s, and Portcullis wrote %s; put it back, or remove its annotation %s to accept it",
			repo.Namespace, repo.Name, field, is, was, AnnotationWritten)
	}
	return nil
}

func twoPins(repo *fleet.GitRepo) error {
	return problem(KindConflict, "GitRepo %s/%s has both spec.branch (%s), which Fleet deploys, and spec.revision (%s), which Fleet shows; remove one of them",
		repo.Namespace, repo.Name, repo.Spec.Branch, short(repo.Spec.Revision))
}

// adopted plans an environment onto a GitRepo that exists already. Its targets
// stay as they are, and so must already be exactly the environment's clusters.
func (p *planner) adopted(env Environment, clusters []Cluster) (*Unit, error) {
	if len(env.Waves) > 1 || len(env.Waves) == 1 && (env.Waves[0].MaxConcurrent > 0 || !emptySelector(env.Waves[0].Clusters)) {
		return nil, problem(KindInvalid, "environment %s: an adopted gitRepo (%s) cannot have waves; remove them or gitRepo", env.Name, env.GitRepo)
	}
	repo := p.byName[env.GitRepo]
	if repo == nil {
		return nil, problem(KindNotFound, "environment %s: there is no GitRepo %s/%s to adopt", env.Name, p.req.Namespace, env.GitRepo)
	}
	if err := p.adoptable(env, repo); err != nil {
		return nil, err
	}
	wanted := toSet(names(clusters))
	var missing, extra []string
	for _, c := range p.req.Clusters {
		hit, err := targeted(repo.Spec.Targets, c, p.req.Groups)
		if err != nil {
			return nil, problem(KindConflict, "GitRepo %s/%s has a target that cannot be read: %v", repo.Namespace, repo.Name, err)
		}
		switch {
		case hit && !wanted[c.Name]:
			extra = append(extra, c.Name)
		case !hit && wanted[c.Name]:
			missing = append(missing, c.Name)
		}
	}
	if len(missing)+len(extra) > 0 {
		return nil, problem(KindConflict, "GitRepo %s/%s does not target exactly the clusters of environment %s (missing: %s; too many: %s); change its targets or the environment's selector",
			repo.Namespace, repo.Name, env.Name, few(missing), few(extra))
	}
	wave := ""
	if len(env.Waves) == 1 {
		wave = env.Waves[0].Name
	}
	return p.finish(env, wave, repo.Name, clusters, nil, repo)
}

func (p *planner) adoptable(env Environment, repo *fleet.GitRepo) error {
	if repo.Labels[LabelPipeline] != "" {
		if err := p.owned(repo); err != nil {
			return err
		}
	}
	paths := func(s []string) []string { return slices.Sorted(slices.Values(s)) }
	switch {
	case repo.DeletionTimestamp != nil:
		return problem(KindConflict, "GitRepo %s/%s is being deleted; wait until it is gone", repo.Namespace, repo.Name)
	case repo.Spec.Branch != "" && repo.Spec.Revision != "":
		return twoPins(repo)
	case !sameRepo(repo.Spec.Repo, p.req.Source.Repo):
		return problem(KindConflict, "environment %s: GitRepo %s/%s delivers %s, and the pipeline %s", env.Name, repo.Namespace, repo.Name, RedactURL(repo.Spec.Repo), RedactURL(p.req.Source.Repo))
	case !slices.Equal(paths(repo.Spec.Paths), paths(p.req.Source.Paths)):
		return problem(KindConflict, "environment %s: GitRepo %s/%s delivers paths %v, and the pipeline %v; make them equal", env.Name, repo.Namespace, repo.Name, repo.Spec.Paths, p.req.Source.Paths)
	case repo.Spec.Paused && repo.Annotations[AnnotationOriginal] == "":
		return problem(KindConflict, "GitRepo %s/%s is paused by someone; lift that before Portcullis adopts it", repo.Namespace, repo.Name)
	}
	return nil
}

// foreign refuses to run beside a GitRepo that delivers the same repository to a
// planned cluster: the two would take each other's objects away.
func (p *planner) foreign() error {
	for _, name := range slices.Sorted(maps.Keys(p.byName)) {
		repo := p.byName[name]
		if p.names[name] || !sameRepo(repo.Spec.Repo, p.req.Source.Repo) {
			continue
		}
		for _, c := range p.req.Clusters {
			if p.unitOf[c.Name] == "" {
				continue
			}
			hit, err := targeted(repo.Spec.Targets, c, p.req.Groups)
			if err != nil || !hit {
				continue
			}
			if repo.Labels[LabelPipeline] == p.req.Pipeline {
				return problem(KindConflict, "GitRepo %s/%s of an earlier form of this pipeline still delivers to cluster %s, which %s is to have now; moving it would take its policies away for a moment: delete that GitRepo with keepResources set, or keep the waves as they were",
					repo.Namespace, repo.Name, c.Name, p.unitOf[c.Name])
			}
			return problem(KindConflict, "GitRepo %s/%s already delivers %s to cluster %s; name it as gitRepo of environment %s to adopt it, or delete it",
				repo.Namespace, repo.Name, RedactURL(repo.Spec.Repo), c.Name, p.takenBy[c.Name])
		}
	}
	return nil
}

// sameRepo compares two repository URLs, without user information, a trailing
// slash and .git.
func sameRepo(a, b string) bool { return normalRepo(a) == normalRepo(b) }

func normalRepo(u string) string {
	u = strings.TrimSuffix(strings.TrimRight(strings.TrimSpace(u), "/"), ".git")
	scheme, rest, ok := strings.Cut(u, "://")
	if !ok {
		return strings.ToLower(u)
	}
	host, path, _ := strings.Cut(rest, "/")
	if _, h, ok := strings.Cut(host, "@"); ok {
		host = h
	}
	return strings.ToLower(scheme+"://"+host) + "/" + path
}

// RedactURL removes user information from a URL, for messages.
func RedactURL(u string) string {
	scheme, rest, ok := strings.Cut(u, "://")
	if !ok {
		return u
	}
	host, path, slash := strings.Cut(rest, "/")
	if i := strings.LastIndex(host, "@"); i >= 0 {
		host = host[i+1:]
	}
	if !slash {
		return scheme + "://" + host
	}
	return scheme + "://" + host + "/" + path
}

func names(clusters []Cluster) []string {
	out := make([]string, len(clusters))
	for i, c := range clusters {
		out[i] = c.Name
	}
	return out
}

// few names up to three, and says how many more there are.
func few(list []string) string {
	switch {
	case len(list) == 0:
		return "none"
	case len(list) <= listedAtMost:
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:listedAtMost], ", "), len(list)-listedAtMost)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
