package slackgate

import (
	"maps"
	"slices"

	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/probes"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/evidence"
)

// MatrixOf is what was measured of the requirements, as Slack may know it: whether each
// holds on each cluster, and not between whom. It is nil where nothing was measured, or
// what was cannot be read.
func MatrixOf(requirements []probes.Requirement, measured []contract.BaselineBatch) *slack.Matrix {
	m := &slack.Matrix{Left: max(len(requirements)-slack.MostRows, 0)}
	for _, r := range requirements[:min(len(requirements), slack.MostRows)] {
		m.Rows = append(m.Rows, slack.MatrixRow{Name: r.Name})
	}
	columns := 0
	for _, b := range measured {
		m.Clusters += len(b.Hashes)
		if columns >= slack.MostColumns {
			continue
		}
		found, err := evidence.Unpack(b)
		if err != nil {
			return nil
		}
		for _, cluster := range slices.Sorted(maps.Keys(found)) {
			if columns++; columns <= slack.MostColumns {
				column(m, cluster, found[cluster])
			}
		}
	}
	if columns == 0 || len(m.Rows) == 0 {
		return nil
	}
	return m
}

// column adds a cluster.
func column(m *slack.Matrix, cluster string, e probes.Evidence) {
	for i := range m.Rows {
		row := &m.Rows[i]
		cell := slack.CellUnknown
		for _, r := range e.Requirements {
			if holds, known := evidence.Holds(r); r.Name == row.Name && known {
				cell = slack.CellUnmet
				if holds {
					cell = slack.CellMet
				}
			}
		}
		row.Cells += string(cell)
		if cell == slack.CellUnmet && len(row.Unmet) < slack.MostUnmet {
			row.Unmet = append(row.Unmet, cluster)
		}
	}
}
