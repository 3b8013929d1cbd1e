package rancher

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	fleet "github.com/rancher/fleet/pkg/apis/fleet.cattle.io/v1alpha1"
)

// slice is the part of a wave that changes at once: one GitRepo that names its clusters.
type slice struct {
	number   int
	clusters []Cluster
}

// slices cuts a wave into GitRepos of at most MaxConcurrent clusters. A cluster
// stays where it is: to move it between GitRepos would uninstall its policies
// before the new GitRepo installs them again. So slices that exist keep their
// clusters, new clusters fill those with room, and then come new slices.
func (p *planner) slices(env Environment, wave Wave, base string, clusters []Cluster) ([]Unit, []string, error) {
	pending := map[string]Cluster{}
	for _, c := range clusters {
		pending[c.Name] = c
	}
	found, notes := p.existingSlices(base, pending, wave.MaxConcurrent)
	fresh := fill(found, pending, wave.MaxConcurrent)
	units := make([]Unit, 0, len(fresh))
	for _, s := range fresh {
		slices.SortFunc(s.clusters, func(a, b Cluster) int { return strings.Compare(a.Name, b.Name) })
		unit, err := p.unit(env, wave.Name, fmt.Sprintf("%s-%d", base, s.number), s.clusters, byName(s.clusters))
		if err != nil {
			return nil, nil, err
		}
		units = append(units, *unit)
	}
	return units, notes, nil
}

// existingSlices reads back the slices that the pipeline has, in order of their
// number, and takes their clusters out of pending.
func (p *planner) existingSlices(base string, pending map[string]Cluster, room int) ([]slice, []string) {
	var found []slice
	var notes []string
	for _, name := range sortedKeys(p.byName) {
		repo := p.byName[name]
		n, ok := sliceNumber(base, name)
		if !ok || repo.Labels[LabelPipeline] != p.req.Pipeline {
			continue
		}
		s := slice{number: n, clusters: takeNamed(repo, pending)}
		switch {
		case len(s.clusters) == 0:
			notes = append(notes, fmt.Sprintf("GitRepo %s delivers to no cluster of this wave any more; delete it when its clusters are gone", name))
			continue
		case len(s.clusters) > room:
			notes = append(notes, fmt.Sprintf("GitRepo %s keeps its %d clusters, more than maxConcurrent %d: moving one would take its policies away for a moment", name, len(s.clusters), room))
		}
		found = append(found, s)
	}
	slices.SortFunc(found, func(a, b slice) int { return a.number - b.number })
	return found, notes
}

func sliceNumber(base, name string) (int, bool) {
	rest, ok := strings.CutPrefix(name, base+"-")
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(rest)
	return n, err == nil && n > 0 && strconv.Itoa(n) == rest
}

func takeNamed(repo *fleet.GitRepo, pending map[string]Cluster) []Cluster {
	var out []Cluster
	for _, t := range repo.Spec.Targets {
		if c, ok := pending[t.ClusterName]; ok {
			out = append(out, c)
			delete(pending, t.ClusterName)
		}
	}
	return out
}

// fill puts the pending clusters, by name, into slices with room and then into
// new ones with the lowest free numbers.
func fill(found []slice, pending map[string]Cluster, room int) []slice {
	used := map[int]bool{}
	for _, s := range found {
		used[s.number] = true
	}
	waiting := sortedKeys(pending)
	for i := range found {
		for len(waiting) > 0 && len(found[i].clusters) < room {
			found[i].clusters = append(found[i].clusters, pending[waiting[0]])
			waiting = waiting[1:]
		}
	}
	for n := 1; len(waiting) > 0; n++ {
		if used[n] {
			continue
		}
		take := min(room, len(waiting))
		s := slice{number: n}
		for _, name := range waiting[:take] {
			s.clusters = append(s.clusters, pending[name])
		}
		waiting = waiting[take:]
		found = append(found, s)
	}
	slices.SortFunc(found, func(a, b slice) int { return a.number - b.number })
	return found
}

func byName(clusters []Cluster) []Target {
	out := make([]Target, len(clusters))
	for i, c := range clusters {
		out[i] = Target{Name: c.Name, ClusterName: c.Name}
	}
	return out
}
