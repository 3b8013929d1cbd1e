package deliver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"

	fleet "github.com/rancher/fleet/pkg/apis/fleet.cattle.io/v1alpha1"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/rancher"
)

// Plan decides clusters, units, GitRepos and the way back. It writes nothing.
func (a *Activities) Plan(ctx context.Context, in PlanInput) (_ *Plan, err error) {
	defer a.metrics.count("Plan", &err)
	clusters, err := a.fleet.Inventory()
	if err != nil {
		return nil, err
	}
	groups, err := a.fleet.Groups()
	if err != nil {
		return nil, err
	}
	if in.MembersOnly {
		return a.members(in, clusters, groups)
	}
	repos, err := a.fleet.ListGitRepos(ctx, nil)
	if err != nil {
		return nil, err
	}
	held, err := a.held(ctx, in.Pipeline, repos)
	if err != nil {
		return nil, err
	}
	if held != "" && !in.AfterRollback {
		return nil, errs.Held("pipeline %s is held: %s; release it, or start with --after-rollback", in.Pipeline, held)
	}
	units, err := rancher.PlanUnits(rancher.PlanRequest{
		Pipeline:     in.Pipeline,
		Namespace:    a.fleet.Workspace(),
		Source:       in.Source,
		Environments: in.Environments,
		Clusters:     clusters,
		GitRepos:     pointers(repos),
		Groups:       groups,
		Now:          time.Now(),
	})
	if err != nil {
		return nil, err
	}
	if err := a.unmigrated(ctx, planned(units)); err != nil {
		return nil, err
	}
	return assemble(a.fleet.Workspace(), held, units), nil
}

// members plans as if the environments had no waves and the workspace no GitRepo.
func (a *Activities) members(in PlanInput, clusters []rancher.Cluster, groups []*fleet.ClusterGroup) (*Plan, error) {
	req := rancher.PlanRequest{
		Pipeline: in.Pipeline, Namespace: a.fleet.Workspace(), Source: in.Source,
		Clusters: clusters, Groups: groups, Now: time.Now(),
	}
	for _, env := range in.Environments {
		req.Environments = append(req.Environments, rancher.Environment{Name: env.Name, Clusters: env.Clusters})
	}
	units, err := rancher.PlanUnits(req)
	if err != nil {
		return nil, err
	}
	return assemble(a.fleet.Workspace(), "", units), nil
}

func pointers(repos []fleet.GitRepo) []*fleet.GitRepo {
	out := make([]*fleet.GitRepo, len(repos))
	for i := range repos {
		out[i] = &repos[i]
	}
	return out
}

func assemble(namespace, held string, units []rancher.EnvironmentUnits) *Plan {
	plan := &Plan{Namespace: namespace, Held: held}
	var all []string
	for _, e := range units {
		ep := EnvironmentPlan{Name: e.Name, Units: e.Units, Unready: e.Unready, Notes: e.Notes, Hash: environmentHash(e)}
		plan.Environments = append(plan.Environments, ep)
		all = append(all, ep.Hash)
	}
	plan.Hash = hash(all)
	return plan
}

// unitIdentity is what a plan's hash is over: what would be changed, where, and
// from what; not what comes and goes, such as when an agent was last seen.
type unitIdentity struct {
	GitRepo  string
	Wave     string
	Clusters []string
	Targets  []rancher.Target
	Kind     rancher.RestoreKind
	Revision string
	Branch   string
}

func environmentHash(e rancher.EnvironmentUnits) string {
	ids := make([]unitIdentity, 0, len(e.Units))
	for _, u := range e.Units {
		id := unitIdentity{GitRepo: u.GitRepo, Wave: u.Wave, Targets: u.Targets, Kind: u.Before.Kind, Revision: u.Before.Revision, Branch: u.Before.Branch}
		for _, c := range u.Clusters {
			id.Clusters = append(id.Clusters, c.Name+"="+c.ID)
		}
		ids = append(ids, id)
	}
	return hash(struct {
		Name  string
		Units []unitIdentity
	}{e.Name, ids})
}

func hash(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
