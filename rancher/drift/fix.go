package drift

import "slices"

// Correctable says whether Fleet can put right what was found, by applying again
// what it delivers: objects that a release holds, the release itself, and what Fleet
// has not made live. What nobody rolled out is not Fleet's, and an edited GitRepo
// would have it apply the edit.
func (f *Finding) Correctable() bool {
	if f.Ignored != nil {
		return false
	}
	switch f.Category {
	case Missing, Changed, Tampered:
		return true
	case Delivery:
		return f.Kind == "GitRepo" // without one, nothing is delivered at all
	default:
		return false
	}
}

// Fix is what of the findings on some clusters Fleet can put right.
type Fix struct {
	// Digest changes with every such finding that comes, goes or becomes another one.
	Digest Digest `json:"digest,omitempty"`
	// Clusters are those that have some, in the order in which they were added.
	Clusters []string `json:"clusters,omitempty"`
	Findings int      `json:"findings,omitempty"`
	// Left counts the findings that stay whatever Fleet does.
	Left int `json:"left,omitempty"`
}

// Add adds the findings of a cluster. One that a rollout is changing has none.
func (x *Fix) Add(c *Cluster) {
	if c.State == Moving {
		return
	}
	had := x.Findings
	for i := range c.Findings {
		switch f := &c.Findings[i]; {
		case f.Correctable():
			x.Findings++
			x.Digest.AddFinding(c.Cluster, f)
		case f.Ignored == nil:
			x.Left++
		}
	}
	if x.Findings > had {
		x.Clusters = append(x.Clusters, c.Cluster)
	}
}

// Join adds everything that other has.
func (x *Fix) Join(other Fix) {
	x.Clusters = append(x.Clusters, other.Clusters...)
	x.Findings += other.Findings
	x.Left += other.Left
	if other.Digest != "" {
		x.Digest.Join(other.Digest)
	}
}

// Brief is a finding in a few words, without what the object says.
type Brief struct {
	Cluster  string   `json:"cluster,omitempty"`
	Category Category `json:"category"`
	Kind     string   `json:"kind,omitempty"`
	Name     string   `json:"name,omitempty"`
	// Namespace is empty for what has none.
	Namespace string `json:"namespace,omitempty"`
	// By is the program that last wrote what differs, where that is known.
	By string `json:"by,omitempty"`
	// Correctable is set where Fleet can put it right.
	Correctable bool `json:"correctable,omitempty"`
}

// BriefOf tells of one finding on a cluster, or on none.
func BriefOf(cluster string, f *Finding) Brief {
	b := Brief{
		Cluster: cluster, Category: f.Category, Kind: f.Kind, Namespace: f.Namespace, Name: f.Name, Correctable: f.Correctable(),
	}
	if f.By != nil {
		b.By = f.By.Manager
	}
	return b
}

// Briefs adds the first findings of a cluster that are not ignored, up to most in all.
func Briefs(had []Brief, c *Cluster, most int) []Brief {
	for i := range c.Findings {
		if len(had) >= most {
			break
		}
		if c.Findings[i].Ignored == nil {
			had = append(had, BriefOf(c.Cluster, &c.Findings[i]))
		}
	}
	return slices.Clip(had)
}
