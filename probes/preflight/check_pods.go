package preflight

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

var podChecks = []Check{
	{
		ID: "drain-budgets", Title: "Budgets that would block a drain", Severity: Advised,
		Why:       "A drain waits for as long as a budget allows no disruption. In place, no pod is moved and it does not matter.",
		Threshold: "every PodDisruptionBudget with pods allows at least one disruption", Source: "Kubernetes, disruptions",
		Remedy: "give the workload another replica or its budget more room before draining, or move in place",
		cluster: one(func(j *judging) finding {
			budgets, u := need(j.cluster.Budgets)
			if u != nil {
				return *u
			}
			f := miss("")
			stale := 0
			for _, b := range budgets {
				switch {
				case b.Stale:
					stale++
				case b.Expected > 0 && b.Allowed < 1:
					f.more = append(f.more, fmt.Sprintf("%s/%s: %d healthy, %d wanted", b.Namespace, b.Name, b.Healthy, b.Desired))
				}
			}
			if n := len(f.more); n > 0 {
				f.measured = fmt.Sprintf("%d of %d allow none", n, len(budgets))
				f.more = cutLines(f.more)
				return f
			}
			if stale > 0 {
				return unsure(fmt.Sprintf("%d of %d are not up to date", stale, len(budgets)))
			}
			return pass("%d budgets", len(budgets))
		}),
	},
	{
		ID: "pods-without-controller", Title: "Pods without a controller", Severity: Advised,
		Why:       "Nobody makes them anew when a drain has removed them.",
		Threshold: "none", Source: "kubectl drain", Remedy: "give them a controller, or move in place",
		cluster: one(func(j *judging) finding {
			return j.podsThat("without a controller", func(p *Pod) bool { return p.Controller == "" && !p.Mirror })
		}),
	},
	{
		ID: "pods-local-data", Title: "Pods with local data", Severity: Advised,
		Why:       "What is in an emptyDir is lost when a drain moves the pod.",
		Threshold: "none", Source: "kubectl drain", Remedy: "see that the data can be lost, or move in place",
		cluster: one(func(j *judging) finding {
			return j.podsThat("with an emptyDir", func(p *Pod) bool { return p.LocalData && !p.Mirror && p.Controller != "DaemonSet" })
		}),
	},
	{
		ID: "single-replicas", Title: "Workloads of one replica", Severity: Advised,
		Why:       "They are away while a drain moves their only pod.",
		Threshold: "none", Source: srcJudgement, Remedy: "give them a second replica before draining, or move in place",
		cluster: one(func(j *judging) finding {
			pods, u := need(j.cluster.Pods)
			if u != nil {
				return *u
			}
			owners := map[string]bool{}
			untold := 0
			for i := range pods {
				p := &pods[i]
				if p.Done || p.Mirror || p.Controller == "" || p.Controller == "DaemonSet" || p.Controller == "Job" {
					continue
				}
				switch p.Replicas {
				case 0:
					untold++
				case 1:
					owners[p.Namespace+"/"+p.Owner] = true
				}
			}
			names := slices.Sorted(maps.Keys(owners))
			switch {
			case len(names) > 0:
				f := miss("%d workloads", len(names))
				f.more = cutLines(names)
				return f
			case untold > 0:
				return unsure(fmt.Sprintf("it is not known how many replicas the workloads of %d pods have", untold))
			}
			return pass("none")
		}),
	},
}

// podsThat misses when there are such pods, and names them.
func (j *judging) podsThat(what string, is func(*Pod) bool) finding {
	pods, u := need(j.cluster.Pods)
	if u != nil {
		return *u
	}
	var names []string
	for i := range pods {
		if p := &pods[i]; !p.Done && is(p) {
			names = append(names, p.Namespace+"/"+p.Name)
		}
	}
	if len(names) == 0 {
		return pass("none")
	}
	slices.Sort(names)
	f := miss("%d pods %s", len(names), strings.TrimSpace(what))
	f.more = cutLines(names)
	return f
}
