package drift

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func clusterOf(cluster string, findings ...Finding) Cluster {
	c := Cluster{Cluster: cluster, Findings: findings}
	c.Settle()
	return c
}

func finding(category Category, kind, name string) Finding {
	return Finding{Category: category, Key: Key{APIVersion: "v1", Kind: kind, Namespace: "shop", Name: name}}
}

func TestCorrectable(t *testing.T) {
	for name, c := range map[string]struct {
		f    Finding
		want bool
	}{
		"missing":                      {finding(Missing, "NetworkPolicy", "a"), true},
		"changed":                      {finding(Changed, "NetworkPolicy", "a"), true},
		"the release":                  {finding(Tampered, "Secret", "a"), true},
		"not live":                     {finding(Delivery, "GitRepo", "a"), true},
		"no GitRepo delivers":          {finding(Delivery, "Cluster", "a"), false},
		"extra":                        {finding(Extra, "NetworkPolicy", "a"), false},
		"a setting that nobody wished": {finding(Setting, "FelixConfiguration", "a"), false},
		"an edited GitRepo":            {finding(Repo, "GitRepo", "a"), false},
		"ignored":                      {Finding{Category: Missing, Ignored: &Ignored{Reason: "known"}}, false},
	} {
		require.Equal(t, c.want, c.f.Correctable(), name)
	}
}

// What can be put right does not depend on what else is found, nor on the order.
func TestFixKnowsOnlyWhatCanBePutRight(t *testing.T) {
	a, b := clusterOf("a", finding(Missing, "NetworkPolicy", "x"), finding(Extra, "NetworkPolicy", "y")), clusterOf("b", finding(Changed, "NetworkPolicy", "x"))
	quiet, moving := clusterOf("c", finding(Extra, "NetworkPolicy", "z")), clusterOf("d", finding(Missing, "NetworkPolicy", "x"))
	moving.State = Moving
	var one, two, other Fix
	for _, c := range []*Cluster{&a, &b, &quiet, &moving} {
		one.Add(c)
	}
	require.Equal(t, 2, one.Findings)
	require.Equal(t, 2, one.Left)
	require.Equal(t, []string{"a", "b"}, one.Clusters)

	plain := clusterOf("a", finding(Missing, "NetworkPolicy", "x"))
	two.Add(&b)
	other.Add(&plain)
	two.Join(other)
	two.Join(Fix{})
	require.Equal(t, one.Digest, two.Digest)
	renamed := clusterOf("a", finding(Missing, "NetworkPolicy", "w"))
	other = Fix{}
	other.Add(&renamed)
	require.NotEqual(t, one.Digest, other.Digest)
}

func TestBriefs(t *testing.T) {
	f := finding(Changed, "NetworkPolicy", "x")
	f.By = &Writer{Manager: "kubectl-edit"}
	ignored := finding(Extra, "NetworkPolicy", "y")
	ignored.Ignored = &Ignored{Reason: "known"}
	c := clusterOf("a", f, ignored, finding(Extra, "NetworkPolicy", "z"), finding(Extra, "NetworkPolicy", "w"))
	got := Briefs(nil, &c, 2)
	require.Equal(t, []Brief{
		{Cluster: "a", Category: Changed, Kind: "NetworkPolicy", Namespace: "shop", Name: "x", By: "kubectl-edit", Correctable: true},
		{Cluster: "a", Category: Extra, Kind: "NetworkPolicy", Namespace: "shop", Name: "w"},
	}, got)
	require.Equal(t, got, Briefs(got, &c, 2))
}
