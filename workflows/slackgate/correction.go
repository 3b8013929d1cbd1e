package slackgate

import (
	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/workflows/approval"
	"portcullis.dev/portcullis/workflows/contract"
)

// CorrectionView takes out of a correction of drift what Slack may know: which objects,
// and not what they say. address is where the Temporal UI shows it, or empty.
func CorrectionView(p contract.Pipeline, s contract.CorrectionStatus, over bool, address string) slack.View {
	v := slack.View{
		Kind: slack.KindCorrection, Pipeline: s.Pipeline, Rollout: s.FirstRun, State: string(s.State), StartedBy: s.StartedBy,
		Over: over, Ended: ended(s.Audit), Temporal: address,
		Drift: &slack.Drift{Left: s.Left, Briefs: s.Briefs[:min(len(s.Briefs), slack.MostBriefs)]},
	}
	for _, u := range s.Units {
		v.Drift.Findings += u.Fix.Findings
		v.Environments = append(v.Environments, slack.Environment{Name: u.GitRepo, State: string(u.State), Clusters: u.Clusters})
	}
	if g := s.Gate; g != nil && !over {
		v.Gate = &slack.Gate{
			Environment: g.Environment, Required: g.Required, Evidence: g.Evidence.Hash, Votes: votes(g.Votes),
			Counted: approval.Count(g, p.Spec.People), Since: g.Since, Deadline: g.Deadline,
		}
	}
	return v
}

func votes(all []contract.Decision) []slack.Said {
	var out []slack.Said
	for _, d := range all {
		out = append(out, slack.Said{By: d.By, Via: string(d.Via), Why: d.Why, At: d.At})
	}
	return out
}
