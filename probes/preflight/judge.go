package preflight

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// judging is one call of Judge.
type judging struct {
	cluster *ClusterFacts
	nodes   []NodeFacts
	mesh    *Mesh
	// target has every field that could be found out.
	target   Target
	byName   map[string]*Node
	hostNets []hostNet
}

// finding is what a check says of one node or of the cluster.
type finding struct {
	status   Status
	measured string
	// threshold and remedy take the place of the check's own where they are set.
	threshold string
	remedy    string
	nodes     []string
	more      []string
}

func pass(format string, args ...any) finding {
	return finding{status: Pass, measured: fmt.Sprintf(format, args...)}
}

// miss is not met: a failure or a warning, by the check's severity.
func miss(format string, args ...any) finding {
	return finding{status: Fail, measured: fmt.Sprintf(format, args...)}
}

// warn is a warning also where the check is required.
func warn(format string, args ...any) finding {
	return finding{status: Warn, measured: fmt.Sprintf(format, args...)}
}

// unsure is that something needed was not measured.
func unsure(why string) finding {
	return finding{status: Unsure, measured: cmp.Or(why, "it was not measured")}
}

// need gives a fact's value, or the finding that it is not known.
func need[T any](f Fact[T]) (T, *finding) {
	if f.Known {
		return f.Value, nil
	}
	u := unsure(f.Why)
	var zero T
	return zero, &u
}

// Judge holds what was measured against every check. It talks to nobody, and
// the same facts give the same report.
func Judge(cluster *ClusterFacts, nodes []NodeFacts, mesh *Mesh, target Target) *Report {
	j := newJudging(cluster, nodes, target)
	j.mesh = mesh
	j.nodes = j.addSilent(j.nodes)
	r := j.report(func(*Check) bool { return true })
	if mesh != nil {
		r.Mesh = mesh.Size
	}
	return r
}

// JudgeNode holds one node of a cluster that is half-way to Calico against the
// checks that still have a meaning there. What is about Calico's overlay is not
// among them: it is up by then, and tried by itself.
func JudgeNode(cluster *ClusterFacts, node NodeFacts, target Target) *Report {
	return newJudging(cluster, []NodeFacts{node}, target).report(func(c *Check) bool { return c.again })
}

func newJudging(cluster *ClusterFacts, nodes []NodeFacts, target Target) *judging {
	j := &judging{cluster: cluster, nodes: slices.Clone(nodes), byName: map[string]*Node{}}
	for i := range cluster.Nodes.Value {
		n := &cluster.Nodes.Value[i]
		j.byName[n.Name] = n
	}
	j.target = j.resolve(target)
	j.hostNets = j.hostNetworks()
	return j
}

// report makes the checks that are asked for.
func (j *judging) report(wanted func(*Check) bool) *Report {
	r := &Report{Cluster: j.cluster.Name, Target: j.target, Nodes: len(j.nodes)}
	for i := range registry {
		if wanted(&registry[i]) {
			j.run(&registry[i], r)
		}
	}
	r.finish()
	return r
}

// addSilent adds the Linux nodes of which nobody brought facts: nothing is known of them.
func (j *judging) addSilent(nodes []NodeFacts) []NodeFacts {
	have := map[string]bool{}
	for i := range nodes {
		have[nodes[i].Node] = true
	}
	for _, n := range j.cluster.Nodes.Value {
		if !have[n.Name] && (n.OS == "linux" || n.OS == "") {
			nodes = append(nodes, NodeFacts{Node: n.Name, Problem: "no agent answered there"})
		}
	}
	slices.SortFunc(nodes, func(a, b NodeFacts) int { return strings.Compare(a.Node, b.Node) })
	return nodes
}

func (j *judging) run(c *Check, r *Report) {
	if c.when != nil && !c.when(j) {
		return
	}
	if c.cluster != nil {
		for _, f := range c.cluster(j) {
			r.add(c, f, f.nodes, 1)
		}
		return
	}
	found := make([]finding, len(j.nodes))
	for i := range j.nodes {
		found[i] = j.ofNode(c, &j.nodes[i])
	}
	if len(found) == 0 {
		r.add(c, unsure("no node was measured"), nil, 1)
	}
	r.group(c, j.nodes, found)
}

func (j *judging) ofNode(c *Check, n *NodeFacts) finding {
	if n.Problem != "" {
		return unsure(n.Problem)
	}
	return c.node(j, n)
}

// mostAlike is up to how many different findings of one status have a result each.
const mostAlike = 5

// group adds one result for all nodes where a check found the same. What passed
// is one result, whatever was measured; so is what differs on more than a few nodes.
func (r *Report) group(c *Check, nodes []NodeFacts, found []finding) {
	for _, status := range order {
		type key struct{ measured, threshold, remedy string }
		members := map[key][]int{}
		var all []int
		for i, f := range found {
			if f.status == status {
				k := key{f.measured, f.threshold, f.remedy}
				members[k] = append(members[k], i)
				all = append(all, i)
			}
		}
		switch {
		case len(all) == 0:
		case status == Pass || len(members) > mostAlike:
			r.together(c, nodes, found, all)
		default:
			for _, at := range slices.SortedFunc(maps.Values(members), func(a, b []int) int { return cmp.Compare(a[0], b[0]) }) {
				r.together(c, nodes, found, at)
			}
		}
	}
}

// together adds one result for the nodes with these indexes.
func (r *Report) together(c *Check, nodes []NodeFacts, found []finding, at []int) {
	f := found[at[0]]
	names := make([]string, len(at))
	said := map[string]bool{}
	var lines []string
	for n, i := range at {
		names[n] = nodes[i].Node
		said[found[i].measured] = true
		lines = append(lines, nodes[i].Node+": "+found[i].measured)
		if found[i].threshold != f.threshold {
			f.threshold = ""
		}
		if found[i].remedy != f.remedy {
			f.remedy = ""
		}
	}
	f.measured = summary(slices.Sorted(maps.Keys(said)))
	if f.status != Pass && len(said) > 1 {
		f.more = cutLines(lines)
	}
	r.add(c, f, names, len(at))
}

// summary names at most three different values.
func summary(values []string) string {
	if len(values) <= 3 {
		return strings.Join(values, "; ")
	}
	return fmt.Sprintf("%s; … %s (%d different)", values[0], values[len(values)-1], len(values))
}

func (r *Report) add(c *Check, f finding, nodes []string, times int) {
	if f.status == Fail && c.Severity == Advised {
		f.status = Warn
	}
	res := Result{
		ID: c.ID, Title: c.Title, Severity: c.Severity, Status: f.status, Nodes: nodes, Measured: f.measured,
		Threshold: cmp.Or(f.threshold, c.Threshold), Source: c.Source, Doc: c.Doc(), More: f.more,
	}
	switch f.status {
	case Pass:
		r.Counts.Pass += times
	case Warn:
		r.Counts.Warn += times
		res.Remedy = cmp.Or(f.remedy, c.Remedy)
	case Fail:
		r.Counts.Fail += times
		res.Remedy = cmp.Or(f.remedy, c.Remedy)
	default:
		r.Counts.Unknown += times
		res.Remedy = "find out why it could not be measured, and run it again"
	}
	r.Results = append(r.Results, res)
}

// order of statuses, the worst first.
var order = []Status{Fail, Unsure, Warn, Pass}

func (r *Report) finish() {
	slices.SortStableFunc(r.Results, func(a, b Result) int {
		return cmp.Compare(slices.Index(order, a.Status), slices.Index(order, b.Status))
	})
	r.Status = Pass
	for _, res := range r.Results {
		// What is only advised does not stop anybody, also when it is not known.
		s := res.Status
		if s == Unsure && res.Severity == Advised {
			s = Warn
		}
		if slices.Index(order, s) < slices.Index(order, r.Status) {
			r.Status = s
		}
	}
	if len(r.Results) == 0 {
		r.Status = Unsure
	}
}

// InTheWay are the results that stand against going on: what failed, and, unless
// that is known and accepted, what is required and could not be found out.
func (r *Report) InTheWay(accepted bool) []Result {
	var out []Result
	for _, res := range r.Results {
		if res.Status == Fail || res.Status == Unsure && res.Severity == Required && !accepted {
			out = append(out, res)
		}
	}
	return out
}

// Trim leaves out results that passed, and counts them.
func (r *Report) Trim() {
	r.Results = slices.DeleteFunc(r.Results, func(res Result) bool {
		if res.Status == Pass {
			r.LeftOut++
		}
		return res.Status == Pass
	})
}

// Resolve fills in what a target leaves open, as Judge does.
func Resolve(cluster *ClusterFacts, nodes []NodeFacts, target Target) Target {
	return (&judging{cluster: cluster, nodes: nodes}).resolve(target)
}

// Sizes are the packets that the path between nodes is tried with: what the
// target needs, what the nodes' interfaces carry, and some below, to tell how
// much passes where that does not.
func Sizes(cluster *ClusterFacts, nodes []NodeFacts, target Target) []int {
	t := Resolve(cluster, nodes, target)
	sizes := []int{1280, 1350, 1400, 1450, 1500}
	if t.MTU > 0 {
		sizes = append(sizes, t.MTU+overhead(t.Encapsulation))
	}
	for i := range nodes {
		for _, l := range nodes[i].Links.Value {
			if l.Kind != "vxlan" && len(underlays([]Link{l})) > 0 && len(sizes) < 2*maxSizes {
				sizes = append(sizes, l.MTU)
			}
		}
	}
	slices.Sort(sizes)
	sizes = slices.DeleteFunc(slices.Compact(sizes), func(s int) bool { return s < 576 || s > 65535 })
	if len(sizes) > maxSizes {
		// What the target needs is never left out.
		sizes[maxSizes-1] = max(sizes[maxSizes-1], t.MTU+overhead(t.Encapsulation))
		sizes = sizes[:maxSizes]
	}
	return sizes
}

// maxSizes bounds how many sizes are tried.
const maxSizes = 12

// resolve fills in what a target leaves open from what runs, or from Calico's defaults.
func (j *judging) resolve(t Target) Target {
	if t.Version == "" {
		for _, d := range j.cluster.DaemonSets.Value {
			t.Version = cmp.Or(t.Version, d.Calico)
		}
	}
	t.Encapsulation = cmp.Or(t.Encapsulation, j.encapsulation())
	t.VNI = cmp.Or(t.VNI, DefaultVNI)
	t.Port = cmp.Or(t.Port, DefaultPort)
	t.BlockSize = cmp.Or(t.BlockSize, DefaultBlockSize)
	if t.PodCIDR == "" {
		t.PodCIDR = j.podCIDR()
	}
	if t.MTU == 0 {
		t.MTU = j.podMTU()
	}
	return t
}

// encapsulation is what Calico's pools have now. flannel's leave no choice but VXLAN.
func (j *judging) encapsulation() Encapsulation {
	if f := j.cluster.Flannel; !f.Known || f.Value.Network != "" || j.usesFlannel() {
		return VXLAN
	}
	for _, p := range j.cluster.Pools.Value {
		switch {
		case p.Disabled:
		case used(p.VXLAN):
			return VXLAN
		case used(p.IPIP):
			return IPIP
		default:
			return BGP
		}
	}
	return VXLAN
}

// used says whether a pool's mode, as the API server has it, encapsulates.
func used(mode string) bool { return mode != "" && mode != "Never" }

func (j *judging) podCIDR() string {
	f := j.cluster.Flannel
	if f.Value.Network != "" {
		return f.Value.Network
	}
	// Canal leaves a pool of Calico's that nothing is in; only without flannel is a pool the pods' network.
	if !f.Known || j.usesFlannel() {
		return ""
	}
	for _, p := range j.cluster.Pools.Value {
		if !p.Disabled {
			return p.CIDR
		}
	}
	return ""
}

// calicoOverlay is Felix's VXLAN device. Where flannel has the overlay it is one of a
// migration that was taken back, which Felix has not removed yet.
const calicoOverlay = "vxlan.calico"

// podMTU is the smallest of the overlay devices, which is what pods have now.
func (j *judging) podMTU() int {
	least, flannel := 0, j.usesFlannel()
	for i := range j.nodes {
		for _, l := range j.nodes[i].Links.Value {
			if l.Kind == "vxlan" && !(flannel && l.Name == calicoOverlay) && (least == 0 || l.MTU < least) {
				least = l.MTU
			}
		}
	}
	return least
}
