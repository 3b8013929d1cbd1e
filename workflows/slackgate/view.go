package slackgate

import (
	"net/url"
	"slices"
	"strings"
	"time"

	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/activities/source"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/approval"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/story"
)

// Of is what a view is made from, beside the rollout's status.
type Of struct {
	Pipeline contract.Pipeline
	Status   contract.RolloutStatus
	// Matrix is what was measured for the gate that waits, or nil.
	Matrix *slack.Matrix
	// Namespace, Workflow and Run are where Temporal has the rollout.
	Namespace, Workflow, Run string
	Over                     bool
}

// View takes out of a rollout what Slack may know, field by field. Reasons, logs
// and flows stay behind: they name pods, nodes and addresses.
func View(of Of) slack.View {
	s := of.Status
	v := slack.View{
		Pipeline: s.Pipeline, Rollout: s.FirstRun, State: string(s.State), StartedBy: s.StartedBy,
		Over: of.Over, Ended: ended(s.Audit),
	}
	if s.Paused != nil {
		v.Paused = &slack.Said{By: s.Paused.By, Via: string(s.Paused.Via), Why: s.Paused.Why, At: s.Paused.At}
	}
	if s.Plan != nil {
		v.Revision, v.Subject, v.Author = s.Plan.Revision.Commit, s.Plan.Revision.Subject, s.Plan.Revision.Author
	}
	for i, e := range s.Environments {
		v.Environments = append(v.Environments, environment(of.Pipeline, s.Plan, i, e))
	}
	var links contract.Links
	if of.Pipeline.Spec.Slack != nil {
		links = of.Pipeline.Spec.Slack.Links
	}
	v.Temporal = Address(links.Temporal, of.Namespace, of.Workflow, of.Run)
	if s.Gate != nil && !of.Over {
		v.Gate = gateOf(*s.Gate, s.Plan, v.Revision, links.Compare)
		v.Gate.Counted, v.Gate.Matrix = approval.Count(s.Gate, of.Pipeline.Spec.People), of.Matrix
	}
	return v
}

// Address is where the Temporal UI shows a run of a workflow; empty without a UI.
func Address(ui, namespace, workflow, run string) string {
	if ui == "" {
		return ""
	}
	return strings.TrimRight(ui, "/") + "/namespaces/" + url.PathEscape(namespace) +
		"/workflows/" + url.PathEscape(workflow) + "/" + url.PathEscape(run)
}

// ended is the decision that ended the rollout, where a person made one.
func ended(a contract.Audit) *slack.Ended {
	for _, e := range slices.Backward(a.Entries) {
		how := map[string]string{contract.UpdateReject: "rejected", contract.UpdateAbort: "aborted"}[e.What]
		if how != "" && e.Refused == "" {
			return &slack.Ended{How: how, Said: slack.Said{By: e.By, Via: string(e.Via), Why: e.Why, At: e.At}}
		}
	}
	return nil
}

func environment(p contract.Pipeline, plan *contract.RolloutPlan, i int, e contract.EnvironmentState) slack.Environment {
	out := slack.Environment{Name: e.Name, State: string(e.State)}
	if s := e.Soaking; s != nil && e.State == contract.StatePromoting {
		out.Soaking = &slack.Soaking{Wave: s.Wave, Since: s.Since, Until: s.Until}
	}
	if plan != nil && i < len(plan.Plan.Environments) {
		for _, u := range plan.Plan.Environments[i].Units {
			out.Clusters += len(u.Clusters)
		}
	}
	r := e.Result
	if r == nil {
		return out
	}
	for _, c := range r.Clusters {
		out.Pairs += c.Pairs
		out.Failing += c.Failing
		switch c.State {
		case story.RowVerified:
			out.Verified++
		case story.RowFailed, story.RowRolledBack:
			if out.Failures++; len(out.Failed) < slack.MostNames {
				out.Failed = append(out.Failed, c.Cluster)
			}
		}
	}
	out.Evidence, out.LiveAt = r.Evidence, r.LiveAt
	if e.State == contract.StateVerified {
		out.Soak = soak(p, e.Name)
	}
	if r.Rollback != nil {
		out.Back = &slack.Back{Kind: string(r.Rollback.Kind), Revision: r.Rollback.Revision, Live: r.Rollback.Live, Proven: r.Rollback.Proven}
	}
	return out
}

func soak(p contract.Pipeline, name string) time.Duration {
	i := slices.IndexFunc(p.Spec.Environments, func(e rancher.Environment) bool { return e.Name == name })
	if i < 0 {
		return 0
	}
	return p.Spec.Environments[i].Gate.Soak.Duration
}

func gateOf(g contract.GateState, plan *contract.RolloutPlan, revision, compare string) *slack.Gate {
	out := &slack.Gate{
		Environment: g.Environment, Required: g.Required, Evidence: g.Evidence.Hash, Votes: votes(g.Votes), Since: g.Since, Deadline: g.Deadline,
		Changes: changes(g.Evidence.Changes), From: from(plan, g.Environment), Measured: len(g.Evidence.Baseline),
	}
	if compare != "" && out.From != "" && revision != "" {
		out.Compare = strings.NewReplacer("{from}", out.From, "{to}", revision).Replace(compare)
	}
	return out
}

// from is the revision that an environment has now, where all of it has one.
func from(plan *contract.RolloutPlan, environment string) string {
	if plan == nil {
		return ""
	}
	found := ""
	for _, e := range plan.Plan.Environments {
		if e.Name != environment {
			continue
		}
		for _, u := range e.Units {
			if now := u.Before.Current; !rancher.FullCommit(now) || found != "" && found != now {
				return ""
			}
			found = u.Before.Current
		}
	}
	return found
}

// changes counts objects by what happens to their files. A file whose objects
// cannot be read counts as one.
func changes(list []source.Change) slack.Changes {
	var out slack.Changes
	for _, c := range list {
		into := &out.Changed
		switch c.Kind {
		case "added":
			into = &out.Added
		case "removed":
			into = &out.Removed
		}
		names := c.Objects
		if len(names) == 0 {
			names = []string{c.Path}
		}
		into.Count += len(names)
		for _, n := range names {
			if len(into.Names) < slack.MostNames {
				into.Names = append(into.Names, n)
			}
		}
	}
	return out
}
