// Package evidence packs, summarises and hashes what probes found. All of it is pure.
package evidence

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"

	"portcullis.dev/portcullis/probes"
	"portcullis.dev/portcullis/workflows/contract"
)

// mostUnpacked bounds what a batch may unpack to, in bytes.
const mostUnpacked = 64 << 20

// Pack compresses the evidence of a batch. Clusters of one environment look
// alike, so that a batch of a hundred is some ten kilobytes.
func Pack(found map[string]probes.Evidence) (contract.BaselineBatch, error) {
	out := contract.BaselineBatch{Hashes: make(map[string]string, len(found))}
	for cluster, e := range found {
		out.Hashes[cluster] = e.Hash
	}
	raw, err := json.Marshal(found)
	if err != nil {
		return out, fmt.Errorf("encoding evidence: %w", err)
	}
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(raw); err != nil {
		return out, fmt.Errorf("compressing evidence: %w", err)
	}
	if err := w.Close(); err != nil {
		return out, fmt.Errorf("compressing evidence: %w", err)
	}
	out.Data = buf.Bytes()
	return out, nil
}

// Unpack is the reverse of Pack.
func Unpack(b contract.BaselineBatch) (map[string]probes.Evidence, error) {
	r, err := gzip.NewReader(bytes.NewReader(b.Data))
	if err != nil {
		return nil, fmt.Errorf("decompressing evidence: %w", err)
	}
	raw, err := io.ReadAll(io.LimitReader(r, mostUnpacked+1))
	if err != nil {
		return nil, fmt.Errorf("decompressing evidence: %w", err)
	}
	if len(raw) > mostUnpacked {
		return nil, fmt.Errorf("decompressing evidence: more than %d bytes", mostUnpacked)
	}
	var out map[string]probes.Evidence
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, fmt.Errorf("decoding evidence: %w", err)
	}
	return out, nil
}

// Select returns the evidence of the named clusters out of batches. Batches
// that hold none of them are not unpacked.
func Select(batches []contract.BaselineBatch, clusters []string) (map[string]probes.Evidence, error) {
	out := make(map[string]probes.Evidence, len(clusters))
	for _, b := range batches {
		var here []string
		for _, c := range clusters {
			if _, ok := b.Hashes[c]; ok {
				here = append(here, c)
			}
		}
		if len(here) == 0 {
			continue
		}
		all, err := Unpack(b)
		if err != nil {
			return nil, err
		}
		for _, c := range here {
			out[c] = all[c]
		}
	}
	return out, nil
}

// Summary is what a promotion keeps of one cluster's evidence. A requirement
// that did not pass counts its failing pairs: those whose outcome is not the
// expected one.
func Summary(cluster string, e probes.Evidence) contract.ClusterEvidence {
	return contract.ClusterEvidence{
		Cluster:      cluster,
		Passed:       e.Passed,
		Inconclusive: e.Inconclusive,
		Reason:       e.Reason,
		Pairs:        e.Pairs,
		Failing:      Failing(e),
		Hash:         e.Hash,
		ProbeTime:    e.ProbeTime.Duration,
	}
}

// Failing counts the pairs of unmet requirements that did not answer as required.
func Failing(e probes.Evidence) int {
	n := 0
	for _, r := range e.Requirements {
		if r.Passed {
			continue
		}
		for _, f := range r.Flows {
			for outcome, pairs := range f.Outcomes {
				if !meets(r.Expect, outcome) {
					n += pairs
				}
			}
		}
	}
	return n
}

// Holds says of a requirement's last round whether it was as required, whatever was to be
// judged; known is false where nothing was measured, or not all of it could be.
func Holds(r probes.RequirementResult) (holds, known bool) {
	holds = true
	for _, f := range r.Flows {
		for outcome, pairs := range f.Outcomes {
			switch {
			case pairs == 0:
			case outcome == probes.Error:
				return false, false
			default:
				known = true
				holds = holds && meets(r.Expect, outcome)
			}
		}
	}
	return holds && known, known
}

// meets is a count's view of an outcome; whether the requirement holds was
// judged, pair by pair, where it was measured.
func meets(expect probes.Expect, outcome probes.Outcome) bool {
	if expect == probes.Deny {
		return outcome == probes.Dropped
	}
	return outcome == probes.Allowed || outcome == probes.Refused
}

// Hash is the SHA-256, in hex, over the JSON of v. Maps are written with sorted
// keys, so the same content gives the same hash.
func Hash(v any) (string, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("encoding for a hash: %w", err)
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:]), nil
}

// Gate computes an approval gate's evidence hash: over everything but the hash itself.
func Gate(e contract.Evidence) (string, error) {
	e.Hash = ""
	return Hash(e)
}

// Correction computes what is approved at the gate of a correction: which GitRepos, as
// they are now, and every finding that Fleet is to put right.
func Correction(units []contract.CorrectionUnit) (string, error) {
	type unit struct {
		Environment, GitRepo, Revision string
		Generation                     int64
		Findings                       string
	}
	all := make([]unit, len(units))
	for i, u := range units {
		all[i] = unit{u.Environment, u.GitRepo, u.Revision, u.Generation, string(u.Fix.Digest)}
	}
	return Hash(all)
}

// Environment computes an environment's evidence hash: the commit, and per
// cluster what was measured and what is applied.
func Environment(commit string, rows []contract.ClusterRow, manifests map[string]map[string]string) (string, error) {
	type cluster struct {
		Evidence  string            `json:"evidence"`
		Manifests map[string]string `json:"manifests,omitempty"`
	}
	clusters := make(map[string]cluster, len(rows))
	for _, r := range rows {
		clusters[r.Cluster] = cluster{Evidence: r.Evidence, Manifests: manifests[r.Cluster]}
	}
	return Hash(struct {
		Commit   string             `json:"commit"`
		Clusters map[string]cluster `json:"clusters"`
	}{commit, clusters})
}
