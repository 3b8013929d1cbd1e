package drift

import (
	"cmp"
	"slices"
	"time"
)

// Category says what sort of drift a finding is.
type Category string

const (
	// Missing: a wished object is not there.
	Missing Category = "missing"
	// Changed: it is there, and says something else than was wished.
	Changed Category = "changed"
	// Extra: a policy, set or tier that no Helm release holds.
	Extra Category = "extra"
	// Setting: Felix is told to enforce less, by a configuration that nobody rolled out.
	Setting Category = "setting"
	// Tampered: the Helm release is not the one that Fleet installed, or cannot be read.
	Tampered Category = "release"
	// Delivery: Fleet does not have the verified revision live there.
	Delivery Category = "delivery"
	// Repo: the GitRepo is not as Portcullis wrote it.
	Repo Category = "gitrepo"
)

// Categories are all of them, in the order in which they are told.
var Categories = []Category{Repo, Delivery, Tampered, Missing, Changed, Extra, Setting}

// Finding is one thing that is not as it was rolled out.
type Finding struct {
	Category Category `json:"category"`
	Key
	// Bundle is the BundleDeployment that wishes the object.
	Bundle string `json:"bundle,omitempty"`
	// Detail says in one line what is to be known besides the changes.
	Detail string `json:"detail,omitempty"`
	// Changes are the fields that differ, and More how many were left out.
	Changes []Change `json:"changes,omitempty"`
	More    int      `json:"more,omitempty"`
	// By is who last wrote what differs, where Kubernetes recorded that. Who deleted
	// something is never recorded.
	By *Writer `json:"by,omitempty"`
	// Created is when an extra object was made.
	Created time.Time `json:"created,omitzero"`
	// Ignored is set where the pipeline says that this is known.
	Ignored *Ignored `json:"ignored,omitempty"`
}

// State of a cluster in an audit.
type State string

const (
	// Clean: everything was looked at, and is as it was rolled out.
	Clean State = "clean"
	// Drifted: something is not.
	Drifted State = "drifted"
	// Unknown: nothing was found, but not everything could be looked at.
	Unknown State = "unknown"
	// Moving: a rollout is changing it now, so that there is nothing to compare with.
	Moving State = "moving"
)

// Cluster is what an audit found on one cluster.
type Cluster struct {
	Cluster     string `json:"cluster"`
	Environment string `json:"environment"`
	GitRepo     string `json:"gitRepo"`
	// Revision is what was rolled out to it.
	Revision string `json:"revision,omitempty"`
	State    State  `json:"state"`
	// Reason says why it is moving or unknown.
	Reason string `json:"reason,omitempty"`
	// Counts has the findings by category, also those that are left out of Findings; Ignored
	// are not in it.
	Counts   map[Category]int `json:"counts,omitempty"`
	Ignored  int              `json:"ignored,omitempty"`
	Findings []Finding        `json:"findings,omitempty"`
	// LeftOut is how many findings are not listed.
	LeftOut int `json:"leftOut,omitempty"`
	// Unknown are what could not be looked at, one line each.
	Unknown []string `json:"unknown,omitempty"`
	// Fleet is what Fleet itself reports, where it is not content.
	Fleet []FleetView `json:"fleet,omitempty"`
	// Objects is how many wished objects were compared, and Requests how many requests the
	// cluster's API server was sent.
	Objects  int `json:"objects,omitempty"`
	Requests int `json:"requests,omitempty"`
}

// FleetView is what Fleet reports of one bundle. Its lists end at ten.
type FleetView struct {
	Bundle   string   `json:"bundle"`
	Modified []string `json:"modified,omitempty"`
	NotReady []string `json:"notReady,omitempty"`
}

// Drift counts the findings that are not ignored.
func (c *Cluster) Drift() int {
	n := 0
	for _, count := range c.Counts {
		n += count
	}
	return n
}

// Settle counts the findings, sorts them, and says what they amount to. Findings before
// it are all there are.
func (c *Cluster) Settle() {
	slices.SortStableFunc(c.Findings, func(a, b Finding) int {
		return cmp.Or(
			cmp.Compare(ignoredLast(a), ignoredLast(b)),
			cmp.Compare(slices.Index(Categories, a.Category), slices.Index(Categories, b.Category)),
			cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name),
		)
	})
	c.Counts, c.Ignored = nil, 0
	for _, f := range c.Findings {
		if f.Ignored != nil {
			c.Ignored++
			continue
		}
		if c.Counts == nil {
			c.Counts = map[Category]int{}
		}
		c.Counts[f.Category]++
	}
	switch {
	case c.State == Moving:
	case len(c.Counts) > 0:
		c.State = Drifted
	case len(c.Unknown) > 0:
		c.State, c.Reason = Unknown, c.Unknown[0]
	default:
		c.State = Clean
	}
}

func ignoredLast(f Finding) int {
	if f.Ignored != nil {
		return 1
	}
	return 0
}

// maxUnknown and maxReason bound what is kept of a cluster beside its findings.
const (
	maxUnknown = 10
	maxReason  = 300
)

// Trim keeps at most so many findings, and of each so many changes.
func (c *Cluster) Trim(findings, changes int) {
	if over := len(c.Findings) - findings; over > 0 {
		c.Findings, c.LeftOut = c.Findings[:findings:findings], c.LeftOut+over
	}
	for i := range c.Findings {
		f := &c.Findings[i]
		if over := len(f.Changes) - changes; over > 0 {
			f.Changes, f.More = f.Changes[:changes:changes], f.More+over
		}
	}
	c.Unknown = c.Unknown[:min(len(c.Unknown), maxUnknown)]
	for i, u := range c.Unknown {
		c.Unknown[i] = clip(u, maxReason)
	}
	c.Reason = clip(c.Reason, maxReason)
}

func clip(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}
