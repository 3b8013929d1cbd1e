package view

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"

	"portcullis.dev/portcullis/rancher/drift"
	"portcullis.dev/portcullis/workflows/contract"
)

func audited(t *testing.T, change func([]drift.Cluster)) Drift {
	t.Helper()
	extra := drift.Finding{
		Category: drift.Extra, Key: drift.Key{APIVersion: drift.Networking, Kind: "NetworkPolicy", Namespace: "lab", Name: "x"},
		Created: auditedAt, By: &drift.Writer{Manager: "kubectl-create", At: auditedAt},
	}
	found := []drift.Cluster{
		{Cluster: "prod-1", Environment: "prod", Revision: strings.Repeat("1", 40), Findings: []drift.Finding{
			{
				Category: drift.Changed, Key: drift.Key{APIVersion: drift.Networking, Kind: "NetworkPolicy", Namespace: "data", Name: "db"}, Bundle: "np-prod-apps",
				Changes: []drift.Change{{Path: "spec.ingress[0].ports[0].port", Wished: "5432", Live: "5433"}}, More: 2,
				By: &drift.Writer{Manager: "kubectl-edit\x1b[31m", At: auditedAt},
			}, extra,
		}, Fleet: []drift.FleetView{{Bundle: "np-prod-apps", Modified: []string{"networkpolicy data/db modified"}}}},
		{Cluster: "prod-2", Environment: "prod", Findings: []drift.Finding{extra}, LeftOut: 4},
		{Cluster: "prod-3", Environment: "prod", Unknown: []string{"not connected: the tunnel is down"}},
		{Cluster: "dev-1", Environment: "dev", State: drift.Moving, Reason: "a rollout has staged 222222222222"},
		{Cluster: "dev-2", Environment: "dev"},
	}
	if change != nil {
		change(found)
	}
	r := contract.DriftResult{
		Pipeline: "np", State: contract.StateDrifted, Reason: "1 changed, 2 extra", StartedBy: "sam", StartedAt: auditedAt, FinishedAt: auditedAt.Add(12 * time.Second),
		Clusters: map[drift.State]int{}, Expired: []string{"the ignore of kind NetworkPolicy (old) ended on 2026-05-31"}, Requests: 11,
		Wire: &contract.DriftWire{Met: 1, Unmet: 1, Clusters: []contract.ClusterEvidence{{Cluster: "prod-1", Reason: "db is open"}}},
	}
	for i := range found {
		found[i].Settle()
		r.Clusters[found[i].State]++
	}
	data, err := drift.Pack(found, 0)
	require.NoError(t, err)
	r.Batches = [][]byte{data}
	d, err := NewDrift("run-1", r)
	require.NoError(t, err)
	return d
}

func TestDriftLines(t *testing.T) {
	d := audited(t, nil)
	text := strings.Join(d.Lines(false, false), "\n")
	for _, want := range []string{
		"np  drifted: 1 changed, 2 extra",
		"5 clusters: 1 clean, 2 drifted, 1 unknown, 1 moving",
		"the ignore of kind NetworkPolicy (old) ended on 2026-05-31",
		"requirements: met on 1, not met on 1, not measured on 0",
		"2      extra     NetworkPolicy lab/x: prod-1; prod-2",
		"changed   NetworkPolicy data/db  of np-prod-apps",
		"spec.ingress[0].ports[0].port: 5433, wished 5432",
		"last written by kubectl-edit [31m at 2026-06-01T12:00:00Z",
		"made at 2026-06-01T12:00:00Z, last written by kubectl-create",
		"and 4 more findings, left out of the report",
		"prod-3  prod  unknown\n  not connected: the tunnel is down",
		"a rollout has staged 222222222222",
		"Fleet says of np-prod-apps: modified: networkpolicy data/db modified",
	} {
		require.Contains(t, text, want)
	}
	require.NotContains(t, text, "dev-2")
	require.NotContains(t, text, "\x1b", "what comes from a cluster must not steer a terminal")
	require.Contains(t, strings.Join(d.Lines(false, true), "\n"), "dev-2  dev  clean")
}

func TestDriftNews(t *testing.T) {
	before, after := audited(t, nil), audited(t, func(c []drift.Cluster) {
		c[0].Findings[0].Changes[0].Live = "5434"
		c[0].Findings = c[0].Findings[:1]
		c[4].Findings = []drift.Finding{{Category: drift.Missing, Key: drift.Key{Kind: "Tier", Name: "t"}}}
	})
	news := drift.Compared(before.Found, after.Found)
	after.News, after.Before = &news, "run-0"
	text := strings.Join(after.Lines(false, false), "\n")
	require.Contains(t, text, "since run run-0: 1 new, 1 changed, 1 gone, 1 as they were")
	require.Contains(t, text, "new      dev-2  missing Tier t")
	require.Contains(t, text, "changed  prod-1  changed NetworkPolicy data/db")
	require.Contains(t, text, "gone     prod-1  extra NetworkPolicy lab/x")
}

// The page needs nothing from elsewhere, and nothing that a cluster says becomes part of it.
func TestDriftHTML(t *testing.T) {
	evil := `</code><script>alert(1)</script>`
	d := audited(t, func(c []drift.Cluster) {
		c[0].Findings[0].Changes[0].Live = evil
		c[0].Findings[0].Detail, c[0].Findings[0].Name, c[2].Unknown[0] = evil, evil, evil
	})
	news := drift.Compared(nil, d.Found)
	d.News, d.Before = &news, evil
	var page bytes.Buffer
	require.NoError(t, d.HTML(&page))
	root, err := html.Parse(bytes.NewReader(page.Bytes()))
	require.NoError(t, err)
	tags := map[string]int{}
	for n := range root.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		tags[n.Data]++
		for _, a := range n.Attr {
			require.NotContains(t, []string{"src", "href", "onclick", "onload"}, a.Key, fmt.Sprint(n.Data, a))
		}
	}
	require.Zero(t, tags["script"]+tags["link"]+tags["img"]+tags["iframe"], tags)
	require.Equal(t, 5, tags["details"])
	for _, want := range []string{"prod-1", "5432", "kubectl-create", "the tunnel", "left out of the report"} {
		if want != "the tunnel" {
			require.Contains(t, page.String(), want)
		}
	}
}

var auditedAt = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
