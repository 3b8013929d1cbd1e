package deliver

import (
	"context"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/rancher"
)

// unmigrated refuses clusters that are being migrated to another CNI, by one live
// read: what the caches say may be older than the migration's mark. Plan asks to
// say so early. Stage and Release ask because a migration that begins meanwhile
// looks for rollouts after it has made its mark: a rollout that has staged and then
// sees no mark at its release was seen by the migration.
func (a *Activities) unmigrated(ctx context.Context, clusters []string) error {
	if len(clusters) == 0 {
		return nil
	}
	found, err := a.fleet.Migrations(ctx, clusters...)
	if err != nil {
		return err
	}
	for _, name := range clusters {
		if by := found[name]; by != "" {
			return errs.Conflict("cluster %s is being migrated by %s; wait for it, or abort it", name, by)
		}
	}
	return nil
}

func clusterNames(clusters []rancher.Cluster) []string {
	out := make([]string, len(clusters))
	for i, c := range clusters {
		out[i] = c.Name
	}
	return out
}

// planned are the names of all clusters of a plan.
func planned(units []rancher.EnvironmentUnits) []string {
	var out []string
	for _, e := range units {
		for _, u := range e.Units {
			out = append(out, clusterNames(u.Clusters)...)
		}
	}
	return out
}
