package slack

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"portcullis.dev/portcullis/rancher/drift"
)

func TestAuditLines(t *testing.T) {
	since := time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)
	const then = "The audit of <!date^1795413600^{date_short_pretty} {time}|2026-11-23 06:00 UTC> found: "
	for name, c := range map[string]struct {
		in   Audit
		want []string
	}{
		"drifted": {
			Audit{
				Pipeline: "np", State: "drifted", Reason: "1 changed, 2 extra", Clusters: 3, Findings: 3, Since: since, SinceState: "clean",
				Briefs: []drift.Brief{
					{Cluster: "prod", Category: drift.Changed, Kind: "GlobalNetworkPolicy", Name: "default.api", By: "kubectl-edit"},
					{Category: drift.Repo, Kind: "GitRepo", Namespace: "fleet-default", Name: "np-prod"},
				},
				Temporal: "https://temporal.example.com/x",
			},
			[]string{
				"*np* has drifted: 1 changed, 2 extra", "• changed GlobalNetworkPolicy default.api on prod, last written by kubectl-edit",
				"• gitrepo GitRepo fleet-default/np-prod", "• and 1 more", then + "nothing", "`portcullis drift report np` · <https://temporal.example.com/x|Temporal>",
			},
		},
		"well again": {
			Audit{Pipeline: "np", State: "clean", Clusters: 1, Since: since, SinceState: "drifted", SinceReason: "1 changed"},
			[]string{"*np* is as it was rolled out again: 1 cluster audited", then + "1 changed", "`portcullis drift report np`"},
		},
		"not known": {
			Audit{Pipeline: "np", State: "unknown", Reason: "2 clusters unknown", Clusters: 3},
			[]string{"*np* is as it was rolled out as far as could be seen: 2 clusters unknown", "`portcullis drift report np`"},
		},
	} {
		require.Equal(t, c.want, AuditLines(c.in), name)
	}
	nasty := AuditLines(Audit{Pipeline: "np", State: "drifted", Reason: "1 extra", Findings: 1, Briefs: []drift.Brief{{Cluster: "10.42.7.9", Category: "extra", Kind: "<!channel>", Name: "xoxb-1-secret", By: "*bold*"}}})
	safe(t, strings.Join(nasty, "\n"))
}

func TestCorrectionMessage(t *testing.T) {
	v := View{
		Kind: KindCorrection, Pipeline: "np", Rollout: "r", State: "awaiting-approval", StartedBy: "schedule",
		Environments: []Environment{{Name: "np-prod", State: pending, Clusters: 3}},
		Drift: &Drift{Findings: 2, Left: 1, Briefs: []drift.Brief{
			{Cluster: "prod", Category: drift.Missing, Kind: "NetworkPolicy", Namespace: "data", Name: "db", Correctable: true},
			{Cluster: "prod", Category: drift.Extra, Kind: "NetworkPolicy", Namespace: "data", Name: "by-hand"},
		}},
		Gate: &Gate{Environment: "drift-correction", Required: 1, Evidence: strings.Repeat("a", 64)},
	}
	text, blocks := Message(v, "drift-correction", "")
	require.Equal(t, "np, correction of drift: waits for approval, 0 of 1", text)
	raw := marshal(t, blocks)
	for _, want := range []string{
		"*To put right:* 2 findings.", "*Stays as it is:* 1 finding about what Fleet does not have", "missing NetworkPolicy data/db on prod\\n",
		"extra NetworkPolicy data/by-hand on prod (stays)", "*GitRepos*\\n• *np-prod* pending: 3 clusters", `\"k\":\"correction\"`, "portcullis.approve",
	} {
		require.Contains(t, raw, want)
	}
	require.NotContains(t, raw, "Revision")
	target := Target{Kind: KindCorrection, Pipeline: "np", Environment: "drift-correction", Rollout: "r"}
	require.Contains(t, marshal(t, DetailsModal(v, target).Blocks.BlockSet), "portcullis drift correct approve np --evidence aaaaaaaaaaaa")
	require.Contains(t, marshal(t, RejectModal(target).Blocks.BlockSet), "leaves the drift of *np* as it is")
	require.Equal(t, []string{
		"correction of 2 findings, started by schedule", "*drift-correction* waits for 1 approval of evidence `aaaaaaaaaaaa`",
	}, Lines(View{}, v))
	v.Gate, v.Over, v.State = nil, true, "not-corrected"
	text, _ = Message(v, "drift-correction", "")
	require.Equal(t, "np, correction of drift: not corrected", text)
}
