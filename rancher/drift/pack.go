package drift

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxUnpacked bounds what a packed list of clusters may grow to.
const maxUnpacked = 256 << 20

// levels are how much is kept of each cluster, from most to least: findings, and changes of each.
var levels = []struct{ findings, changes int }{{50, 12}, {25, 6}, {10, 3}, {5, 1}, {2, 1}, {1, 0}, {0, 0}}

// Pack compresses clusters into at most budget bytes, with as much of their findings as fits;
// counts stay. The clusters are trimmed. Zero is no budget.
func Pack(clusters []Cluster, budget int) ([]byte, error) {
	var out []byte
	for _, level := range levels {
		for i := range clusters {
			clusters[i].Trim(level.findings, level.changes)
		}
		var err error
		if out, err = pack(clusters); err != nil {
			return nil, err
		}
		if budget <= 0 || len(out) <= budget {
			return out, nil
		}
	}
	// Without any finding, what is left is a line for each cluster.
	for i := range clusters {
		clusters[i].Fleet, clusters[i].Unknown = nil, nil
	}
	return pack(clusters)
}

func pack(clusters []Cluster) ([]byte, error) {
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	if err := json.NewEncoder(z).Encode(clusters); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// Unpack reads what Pack wrote.
func Unpack(data []byte) ([]Cluster, error) {
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, errors.New("the clusters of an audit are not packed as they should be")
	}
	raw, err := io.ReadAll(io.LimitReader(z, maxUnpacked+1))
	if err != nil || len(raw) > maxUnpacked {
		return nil, errors.New("the clusters of an audit are damaged, or too many")
	}
	var out []Cluster
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, fmt.Errorf("the clusters of an audit cannot be read: %w", err)
	}
	return out, nil
}

// Digest tells sets of findings apart. It does not depend on the order in which they
// were added, nor in which batches. The zero value is no finding.
type Digest string

// Add adds the findings of a cluster that are not ignored, and the cluster's state where it is
// not known: that is news as well.
func (d *Digest) Add(c *Cluster) {
	if c.State == Unknown {
		d.mix(fmt.Appendf(nil, "unknown %s", c.Cluster))
	}
	for i := range c.Findings {
		if c.Findings[i].Ignored == nil {
			d.AddFinding(c.Cluster, &c.Findings[i])
		}
	}
}

// AddFinding adds one finding on a cluster, or on none.
func (d *Digest) AddFinding(cluster string, f *Finding) {
	d.mix(fmt.Appendf(nil, "%s %s", cluster, f.identity()))
}

// Join adds everything that other has.
func (d *Digest) Join(other Digest) { d.xor(other.bytes()) }

func (d *Digest) mix(what []byte) {
	sum := sha256.Sum256(what)
	d.xor(sum[:16])
}

func (d Digest) bytes() []byte {
	b, err := hex.DecodeString(string(d))
	if err != nil || len(b) != 16 {
		return make([]byte, 16)
	}
	return b
}

func (d *Digest) xor(b []byte) {
	own := d.bytes()
	for i := range own {
		own[i] ^= b[i]
	}
	*d = Digest(hex.EncodeToString(own))
}

// subject is what a finding is about, and identity what it says of it.
func (f *Finding) subject() string {
	return fmt.Sprintf("%s %s %s %s/%s", f.Category, f.APIVersion, f.Kind, f.Namespace, f.Name)
}

func (f *Finding) identity() string {
	out := f.subject()
	for _, c := range f.Changes {
		out += "\n" + c.String()
	}
	return out
}

// News are the findings of an audit that an earlier one did not have, by cluster and in order.
type News struct {
	// New were not there before, Changed say something else, and Gone are no longer there.
	New     []Place `json:"new,omitempty"`
	Changed []Place `json:"changed,omitempty"`
	Gone    []Place `json:"gone,omitempty"`
	// Same counts those that are as they were.
	Same int `json:"same"`
	// Partly is true where findings were left out of one of the audits: there, what was left
	// out is not told.
	Partly bool `json:"partly,omitempty"`
}

// Place is a finding on a cluster.
type Place struct {
	Cluster string  `json:"cluster"`
	Finding Finding `json:"finding"`
}

// Compared tells what is new in after. Ignored findings are none. A cluster that one of the
// audits does not know says nothing about what is gone or new on it.
func Compared(before, after []Cluster) News {
	var n News
	was := map[string]Cluster{}
	for _, c := range before {
		was[c.Cluster] = c
	}
	for _, c := range after {
		old, there := was[c.Cluster]
		if there && (old.State == Unknown || old.State == Moving || c.State == Unknown || c.State == Moving) {
			continue
		}
		n.cluster(old, c)
	}
	return n
}

func (n *News) cluster(before, after Cluster) {
	n.Partly = n.Partly || before.LeftOut+after.LeftOut > 0
	had := map[string]Finding{}
	for _, f := range before.Findings {
		if f.Ignored == nil {
			had[f.subject()] = f
		}
	}
	for _, f := range after.Findings {
		if f.Ignored != nil {
			continue
		}
		old, there := had[f.subject()]
		delete(had, f.subject())
		switch at := (Place{after.Cluster, f}); {
		case !there:
			n.New = append(n.New, at)
		case old.identity() != f.identity():
			n.Changed = append(n.Changed, at)
		default:
			n.Same++
		}
	}
	for _, subject := range sortedNames(had) {
		n.Gone = append(n.Gone, Place{after.Cluster, had[subject]})
	}
}
