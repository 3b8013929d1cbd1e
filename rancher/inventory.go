package rancher

import (
	"fmt"
	"slices"
	"strings"
	"time"

	fleet "github.com/rancher/fleet/pkg/apis/fleet.cattle.io/v1alpha1"
	"github.com/rancher/wrangler/v3/pkg/genericcondition"
)

// LabelManagementCluster is where Rancher writes its own ID on a Fleet cluster.
const LabelManagementCluster = "management.cattle.io/cluster-name"

// agentSilence is after which time without a sign a Fleet agent counts as gone.
// Agents check in every 15 minutes unless told otherwise, so two missed ones and
// some slack.
const agentSilence = 35 * time.Minute

// Join makes the inventory: Fleet's clusters with what Rancher knows of each.
// It is sorted by name. A cluster without Rancher's label has no ID.
func Join(clusters []*fleet.Cluster, management []*ManagementCluster) []Cluster {
	byID := make(map[string]*ManagementCluster, len(management))
	for _, m := range management {
		byID[m.Name] = m
	}
	out := make([]Cluster, 0, len(clusters))
	for _, f := range clusters {
		out = append(out, joinOne(f, byID))
	}
	slices.SortFunc(out, func(a, b Cluster) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func joinOne(f *fleet.Cluster, byID map[string]*ManagementCluster) Cluster {
	c := Cluster{
		ID:            f.Labels[LabelManagementCluster],
		Name:          f.Name,
		Labels:        f.Labels,
		AgentLastSeen: f.Status.Agent.LastSeen.Time,
		Paused:        f.Spec.Paused,
	}
	m := byID[c.ID]
	switch {
	case c.ID == "":
		c.Reason = "it has no label " + LabelManagementCluster
	case m == nil:
		c.Reason = fmt.Sprintf("Rancher has no cluster %s", c.ID)
	default:
		c.Connected, c.Reason = connected(m)
	}
	return c
}

// connected reads Rancher's conditions. Connected is the tunnel; it is absent on
// clusters that need none, and then Ready decides.
func connected(m *ManagementCluster) (bool, string) {
	if m.DeletionTimestamp != nil {
		return false, "it is being deleted in Rancher"
	}
	for _, kind := range []string{"Connected", "Ready"} {
		cond := condition(m.Status.Conditions, kind)
		if cond == nil {
			continue
		}
		if cond.Status == "True" {
			return true, ""
		}
		why := cond.Message
		if why == "" {
			why = cond.Reason
		}
		if why == "" {
			return false, fmt.Sprintf("Rancher reports %s=%s", kind, cond.Status)
		}
		return false, fmt.Sprintf("Rancher reports %s=%s: %s", kind, cond.Status, oneLine(why))
	}
	return false, "Rancher does not report a connection"
}

func condition(conds []genericcondition.GenericCondition, kind string) *genericcondition.GenericCondition {
	for i := range conds {
		if conds[i].Type == kind {
			return &conds[i]
		}
	}
	return nil
}

// Unready says why a cluster cannot be changed or measured now, or "".
func Unready(c Cluster, now time.Time) string {
	switch {
	case !c.Connected:
		return "not connected: " + orSome(c.Reason, "no reason given")
	case c.Paused:
		return "paused in Fleet (spec.paused of the cluster): nothing is delivered to it until that is lifted"
	case c.AgentLastSeen.IsZero():
		return "its Fleet agent was never seen"
	case now.Sub(c.AgentLastSeen) > agentSilence:
		return fmt.Sprintf("its Fleet agent was last seen %s ago", now.Sub(c.AgentLastSeen).Round(time.Minute))
	}
	return ""
}
