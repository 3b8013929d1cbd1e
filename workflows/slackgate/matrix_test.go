package slackgate

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/probes"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/evidence"
)

func result(name string, expect probes.Expect, outcomes map[probes.Outcome]int) probes.RequirementResult {
	return probes.RequirementResult{Name: name, Expect: expect, Flows: []probes.Flow{{From: "edge/Deployment/secret-pod", To: "10.42.7.9:80", Outcomes: outcomes, Detail: "10.42.7.9"}}}
}

func batch(t *testing.T, found map[string]probes.Evidence) contract.BaselineBatch {
	t.Helper()
	b, err := evidence.Pack(found)
	require.NoError(t, err)
	return b
}

func TestMatrixSaysWhetherEachRequirementHolds(t *testing.T) {
	requirements := []probes.Requirement{{Name: "in"}, {Name: "out"}}
	m := MatrixOf(requirements, []contract.BaselineBatch{
		batch(t, map[string]probes.Evidence{
			"b": {Requirements: []probes.RequirementResult{result("in", probes.Allow, map[probes.Outcome]int{probes.Allowed: 2}), result("out", probes.Deny, map[probes.Outcome]int{probes.Dropped: 3})}},
			"a": {Requirements: []probes.RequirementResult{result("in", probes.Allow, map[probes.Outcome]int{probes.Allowed: 2, probes.Dropped: 1}), result("out", probes.Deny, map[probes.Outcome]int{probes.Allowed: 1})}},
		}),
		batch(t, map[string]probes.Evidence{
			"c": {Requirements: []probes.RequirementResult{result("in", probes.Allow, map[probes.Outcome]int{probes.Allowed: 2, probes.Error: 1}), result("out", probes.Deny, nil)}},
		}),
	})
	require.Equal(t, &slack.Matrix{Clusters: 3, Rows: []slack.MatrixRow{
		{Name: "in", Cells: "um-", Unmet: []string{"a"}}, {Name: "out", Cells: "um-", Unmet: []string{"a"}},
	}}, m)
	raw, err := json.Marshal(m)
	require.NoError(t, err)
	require.NotContains(t, string(raw), "secret-pod")
	require.NotContains(t, string(raw), "10.42")
}

func TestMatrixIsBounded(t *testing.T) {
	var requirements []probes.Requirement
	for i := range slack.MostRows + 5 {
		requirements = append(requirements, probes.Requirement{Name: fmt.Sprint("r", i)})
	}
	var batches []contract.BaselineBatch
	for b := range 3 {
		found := map[string]probes.Evidence{}
		for i := range 30 {
			found[fmt.Sprintf("c-%d-%d", b, i)] = probes.Evidence{Requirements: []probes.RequirementResult{result("r0", probes.Deny, map[probes.Outcome]int{probes.Allowed: 1})}}
		}
		batches = append(batches, batch(t, found))
	}
	m := MatrixOf(requirements, batches)
	require.Equal(t, 90, m.Clusters)
	require.Equal(t, 5, m.Left)
	require.Len(t, m.Rows, slack.MostRows)
	require.Equal(t, strings.Repeat("u", slack.MostColumns), m.Rows[0].Cells)
	require.Len(t, m.Rows[0].Unmet, slack.MostUnmet)
}

// What was not measured, or cannot be read, is no matrix.
func TestThereMayBeNoMatrix(t *testing.T) {
	one := []probes.Requirement{{Name: "in"}}
	require.Nil(t, MatrixOf(one, nil))
	require.Nil(t, MatrixOf(nil, []contract.BaselineBatch{batch(t, map[string]probes.Evidence{"a": {}})}))
	require.Nil(t, MatrixOf(one, []contract.BaselineBatch{{Hashes: map[string]string{"a": "x"}, Data: []byte("no gzip")}}))
}
