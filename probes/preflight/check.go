package preflight

import "slices"

// Check is one thing that is looked at.
type Check struct {
	// ID never changes its meaning.
	ID       string
	Title    string
	Severity Severity
	// Why says what goes wrong otherwise.
	Why       string
	Threshold string
	// Source is where the threshold is from; "judgement" where it is ours.
	Source string
	Remedy string

	// again says that it also holds for a node that is about to be moved, with
	// Calico's overlay up beside flannel's: JudgeNode asks it once more.
	again bool
	// when says whether it applies at all; nil is always.
	when func(*judging) bool
	// One of these.
	node    func(*judging, *NodeFacts) finding
	cluster func(*judging) []finding
}

// PerNode says whether it looks at each node, or at the cluster as a whole.
func (c *Check) PerNode() bool { return c.node != nil }

// Doc is where the check is documented.
func (c *Check) Doc() string { return "docs/preflight.md#" + c.ID }

// Checks are all checks, in the order in which they are documented.
func Checks() []Check { return slices.Clone(registry) }

// registry is filled once, here, so that a check cannot refer to the registry itself.
var registry = slices.Concat(kernelChecks, firewallChecks, roomChecks, cniChecks, meshChecks, clusterChecks, podChecks)

// one is a check of the cluster that finds one thing.
func one(f func(*judging) finding) func(*judging) []finding {
	return func(j *judging) []finding { return []finding{f(j)} }
}

// Sources that several checks cite.
const (
	srcRequirements = "Calico, system requirements"
	srcRKE2Ports    = "RKE2 and Calico, network requirements"
	srcJudgement    = "judgement"
	srcMigration    = "Calico, migration from flannel"
)
