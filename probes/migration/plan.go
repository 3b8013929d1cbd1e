package migration

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"portcullis.dev/portcullis/probes/preflight"
)

// Mode is how a node is taken over.
type Mode string

const (
	// InPlace swaps what is under the pods: they keep their address, their
	// interface and their connections.
	InPlace Mode = "in-place"
	// Drain moves the pods away first, through the eviction API.
	Drain Mode = "drain"
)

// Options are what a person chooses.
type Options struct {
	// Mode is empty for in place wherever that is possible.
	Mode Mode `json:"mode,omitempty"`
	// First names nodes to begin with, in this order.
	First []string `json:"first,omitempty"`
	// Manifest is the SHA-256, in hex, of Calico's manifest.
	Manifest string `json:"manifest,omitempty"`
	// Parallel is how many workers move at a time; 0 means one. Control-plane nodes move one by one.
	Parallel int `json:"parallel,omitempty"`
	// MaxFailures is how many nodes may fail, and be put back, before the migration stops.
	MaxFailures int `json:"maxFailures,omitempty"`
	// Canary waits for an approval after the first node.
	Canary bool `json:"canary,omitempty"`
	// Windows are when a node may begin to move; none means always.
	Windows []Window `json:"windows,omitempty"`
}

// Window is a stretch of a day of the week, from From until Until; one that ends
// before it begins goes on past midnight.
type Window struct {
	// Days are mon, tue, wed, thu, fri, sat, sun; none means every day.
	Days []string `json:"days,omitempty"`
	// From and Until are times of day, as 22:00.
	From  string `json:"from"`
	Until string `json:"until"`
	// Zone is a name of the IANA database; empty means UTC.
	Zone string `json:"zone,omitempty"`
}

// Distribution is who made the Kubernetes of a cluster, by its version's suffix.
type Distribution string

const (
	RKE2  Distribution = "RKE2"
	K3s   Distribution = "K3s"
	Plain Distribution = "Kubernetes"
)

// Acknowledgement is something that a person must say they know before a start.
type Acknowledgement struct {
	// ID is what --acknowledge takes.
	ID  string `json:"id"`
	Why string `json:"why"`
}

// IDs of acknowledgements.
const (
	// AckVendor: the distribution's vendor does not support changing the CNI.
	AckVendor = "vendor-unsupported"
	// AckOneNode: there is no other node to move to or to probe from.
	AckOneNode = "single-node"
	// AckUnknown: preflight could not measure everything that is required.
	AckUnknown = "unknown-checks"
)

// Plan is what a migration would do. It changes nothing by being made.
type Plan struct {
	Cluster      string           `json:"cluster"`
	Kubernetes   string           `json:"kubernetes"`
	Distribution Distribution     `json:"distribution"`
	From         preflight.CNISet `json:"from"`
	Target       preflight.Target `json:"target"`
	Nodes        []Node           `json:"nodes"`
	// Disturbed are workloads that a drain moves, by their name and how.
	Disturbed []Disturbance `json:"disturbed,omitempty"`
	// Vendor is what the maker of the distribution says, and where.
	Vendor Vendor `json:"vendor"`
	// Acknowledge are what a start must be given.
	Acknowledge []Acknowledgement `json:"acknowledge,omitempty"`
	// Manifest is the hash of Calico's manifest that was given.
	Manifest string `json:"manifest,omitempty"`
	// Refused says why this cluster cannot be migrated as it is; empty when it can.
	Refused []string `json:"refused,omitempty"`
	// Estimate is how long it would take where nothing has to be waited for.
	Estimate time.Duration `json:"estimate"`
	// Hash identifies the plan: a start names it, and is refused where the
	// cluster is not as it was any more.
	Hash string `json:"hash"`

	// mend has the kind of every refusal, and unknown the checks that AckUnknown is about.
	mend, unknown []string
}

// Node is what would happen to one node.
type Node struct {
	Name         string `json:"name"`
	ControlPlane bool   `json:"controlPlane,omitempty"`
	Mode         Mode   `json:"mode"`
	// Why says why it is drained.
	Why string `json:"why,omitempty"`
	// Pods counts the pods with an address of their own.
	Pods int `json:"pods"`
	// Moved counts those that a drain moves.
	Moved    int           `json:"moved,omitempty"`
	Estimate time.Duration `json:"estimate"`
}

// Disturbance is a pod or workload that does not come through a drain unharmed.
type Disturbance struct {
	Node     string `json:"node"`
	Workload string `json:"workload"`
	How      string `json:"how"`
}

// Vendor is a vendor's position on changing the CNI of a running cluster.
type Vendor struct {
	Supported bool   `json:"supported"`
	Position  string `json:"position"`
	Source    string `json:"source"`
}

// What a node takes when nothing has to be waited for: the swap itself and the
// rounds of probes around it; and what kubelet gives a pod to end by default
// (terminationGracePeriodSeconds), before a drained node is empty.
const (
	swapTime  = 45 * time.Second
	graceTime = 30 * time.Second
)

// Make plans the migration of a cluster from what preflight found.
func Make(facts *preflight.ClusterFacts, nodes []preflight.NodeFacts, report *preflight.Report, opts Options) Plan {
	p := Plan{Cluster: facts.Name, Kubernetes: facts.Kubernetes.Value, Target: report.Target, Manifest: opts.Manifest}
	p.Distribution = distribution(p.Kubernetes)
	p.Vendor = vendors[p.Distribution]
	p.failed(report)
	p.from(facts)
	p.order(facts, opts)
	measured := map[string]*preflight.NodeFacts{}
	for i := range nodes {
		measured[nodes[i].Node] = &nodes[i]
	}
	if p.From.Name != "" {
		p.fit(facts, measured, report)
	}
	for i := range p.Nodes {
		p.node(&p.Nodes[i], facts, measured[p.Nodes[i].Name], opts)
		p.Estimate += p.Nodes[i].Estimate
	}
	p.acknowledge(report)
	p.Hash = p.hash(opts)
	return p
}

// distribution reads the suffix that vendors put on a version: v1.30.4+rke2r1.
func distribution(version string) Distribution {
	_, suffix, _ := strings.Cut(version, "+")
	switch {
	case strings.HasPrefix(suffix, "rke2"):
		return RKE2
	case strings.HasPrefix(suffix, "k3s"):
		return K3s
	}
	return Plain
}

var vendors = map[Distribution]Vendor{
	RKE2: {
		Position: "SUSE does not support changing the CNI of a running cluster, and says to rebuild it",
		Source:   "RKE2 documentation, Basic Network Options",
	},
	K3s: {
		Position: "SUSE does not test or support changing the CNI of a running cluster",
		Source:   "K3s documentation, Basic Network Options",
	},
	Plain: {
		Supported: true,
		Position:  "Calico documents a live migration from Canal, which makes every pod of a node anew",
		Source:    "Calico documentation, Migrate a Kubernetes cluster from flannel/Canal to Calico",
	},
}

// refuse adds what is in the way. The kind stays the same whatever was measured: a
// check's ID, or one of those below.
func (p *Plan) refuse(kind string, lines ...string) {
	if len(lines) > 0 {
		p.Refused, p.mend = append(p.Refused, lines...), append(p.mend, kind)
	}
}

// Kinds of refusals that are no check's.
const (
	refusedFrom     = "from"
	refusedFirst    = "first"
	refusedMode     = "mode"
	refusedTarget   = "target"
	refusedCNI      = "cni"
	refusedNetworks = "networks"
)

// failed refuses for the required checks that failed: the way to mend each is theirs to say.
func (p *Plan) failed(report *preflight.Report) {
	for _, r := range report.Results {
		if r.Status == preflight.Fail && r.Severity == preflight.Required {
			p.refuse(r.ID, line(r))
		}
	}
}

func line(r preflight.Result) string {
	where := ""
	if len(r.Nodes) > 0 {
		where = " on " + few(r.Nodes)
	}
	text := fmt.Sprintf("%s%s: %s", r.ID, where, r.Measured)
	if r.Remedy != "" {
		text += "; " + r.Remedy
	}
	return text
}

const namedAtMost = 3

func few(names []string) string {
	if len(names) <= namedAtMost {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:namedAtMost], ", "), len(names)-namedAtMost)
}

func (p *Plan) from(facts *preflight.ClusterFacts) {
	sets := slices.DeleteFunc(slices.Clone(facts.DaemonSets.Value), func(s preflight.CNISet) bool {
		return s.Flavour != preflight.FlavourCanal && s.Flavour != preflight.FlavourRKE2Canal
	})
	switch {
	case len(sets) > 0:
		p.From = slices.MinFunc(sets, func(a, b preflight.CNISet) int {
			return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
		})
	case len(p.Refused) == 0:
		p.refuse(refusedFrom, "there is no Canal in this cluster, so there is nothing to migrate from")
	}
}

// order puts the nodes in the order in which they go: those that were named;
// then workers, the emptiest first, for it is the canary; then the control plane.
func (p *Plan) order(facts *preflight.ClusterFacts, opts Options) {
	pods := map[string]int{}
	for _, pod := range facts.Pods.Value {
		if !pod.HostNetwork && !pod.Done {
			pods[pod.Node]++
		}
	}
	for _, n := range facts.Nodes.Value {
		p.Nodes = append(p.Nodes, Node{Name: n.Name, ControlPlane: n.ControlPlane, Pods: pods[n.Name]})
	}
	rank := func(n Node) int {
		if i := slices.Index(opts.First, n.Name); i >= 0 {
			return i
		}
		return len(opts.First)
	}
	slices.SortFunc(p.Nodes, func(a, b Node) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(last(a), last(b)), cmp.Compare(a.Pods, b.Pods), strings.Compare(a.Name, b.Name))
	})
	for _, name := range opts.First {
		if !slices.ContainsFunc(p.Nodes, func(n Node) bool { return n.Name == name }) {
			p.refuse(refusedFirst, fmt.Sprintf("there is no node %s to begin with", name))
		}
	}
}

func last(n Node) int {
	if n.ControlPlane {
		return 1
	}
	return 0
}

// node decides the mode of one node, and what it costs.
func (p *Plan) node(n *Node, facts *preflight.ClusterFacts, measured *preflight.NodeFacts, opts Options) {
	n.Mode, n.Estimate = InPlace, swapTime
	why := notInPlace(measured)
	switch {
	case opts.Mode == Drain:
		n.Mode, n.Why = Drain, asked
	case opts.Mode == InPlace && why != "":
		p.refuse(refusedMode, fmt.Sprintf("node %s cannot be taken over in place: %s; leave the mode open, or drain it", n.Name, why))
	case why != "":
		n.Mode, n.Why = Drain, why
	}
	if n.Mode == Drain {
		n.Estimate += graceTime
		p.drain(n, facts)
		if len(p.Nodes) == 1 && p.From.Name != "" {
			// Every pod would be down, Rancher's agent among them, and nothing could be probed.
			p.refuse(refusedMode, fmt.Sprintf("node %s cannot be drained (%s): it is the only one, and there is nowhere to go; %s", n.Name, n.Why, onlyInPlace(n.Why)))
		}
	}
}

const asked = "it was asked for"

// onlyInPlace says what to do about a single node that would be drained.
func onlyInPlace(why string) string {
	if why == asked {
		return "leave the mode open"
	}
	return "mend that, and it can be moved in place"
}

// notInPlace says why it is not known whether the pods of a node can keep their interface and
// address, or "". Where it is known that they cannot, nothing can be done (fit).
func notInPlace(measured *preflight.NodeFacts) string {
	if measured == nil || !measured.CNI.Known {
		return "its CNI configuration could not be read"
	}
	return ""
}

// drain lists what does not come through a drain unharmed.
func (p *Plan) drain(n *Node, facts *preflight.ClusterFacts) {
	for _, pod := range facts.Pods.Value {
		if pod.Node != n.Name || pod.HostNetwork || pod.Mirror || pod.Done || pod.Controller == "DaemonSet" {
			continue
		}
		n.Moved++
		if how := harm(pod); how != "" {
			p.Disturbed = append(p.Disturbed, Disturbance{
				Node: n.Name, Workload: pod.Namespace + "/" + cmp.Or(pod.Owner, pod.Name), How: how,
			})
		}
	}
}

func harm(pod preflight.Pod) string {
	switch {
	case pod.Controller == "":
		return "it has no controller: nothing makes it again"
	case pod.LocalData:
		return "it has data on the node, which is lost"
	case pod.Replicas == 1:
		return "it is the only replica: down until it runs elsewhere"
	}
	return ""
}

func (p *Plan) acknowledge(report *preflight.Report) {
	if !p.Vendor.Supported {
		p.Acknowledge = append(p.Acknowledge, Acknowledgement{AckVendor, p.Vendor.Position + " (" + p.Vendor.Source + ")"})
	}
	if len(p.Nodes) == 1 && p.From.Name != "" {
		p.Acknowledge = append(p.Acknowledge, Acknowledgement{AckOneNode,
			"there is one node: nothing can be moved away from it, and nothing can be probed from another"})
	}
	for _, r := range report.Results {
		if r.Status == preflight.Unsure && r.Severity == preflight.Required {
			p.unknown = append(p.unknown, r.ID)
		}
	}
	if p.unknown = set(p.unknown); len(p.unknown) > 0 {
		p.Acknowledge = append(p.Acknowledge, Acknowledgement{AckUnknown, "preflight could not find out: " + few(p.unknown)})
	}
}

// Missing lists what a start that gives these acknowledgements still lacks.
func (p *Plan) Missing(given []string) []Acknowledgement {
	return slices.DeleteFunc(slices.Clone(p.Acknowledge), func(a Acknowledgement) bool { return slices.Contains(given, a.ID) })
}

// hash is over what a person agrees to: what would be done, and at which risk, whatever the
// order in which it was found or given. What was measured comes and goes and is left out: how
// many pods run, and so the order of the nodes and how long it takes, and the texts of checks.
func (p *Plan) hash(opts Options) string {
	type node struct {
		Name string
		Mode Mode
	}
	agreed := struct {
		Cluster, Kubernetes, From, Calico string
		Target                            preflight.Target
		Nodes                             []node
		Acknowledge, Unknown, Mend        []string
		Manifest                          string
		First                             []string
		Parallel, MaxFailures             int
		Canary                            bool
		Windows                           []Window
	}{
		Cluster: p.Cluster, Kubernetes: p.Kubernetes, From: p.From.Namespace + "/" + p.From.Name, Calico: p.From.Calico,
		Target: p.Target, Unknown: p.unknown, Mend: set(p.mend), Manifest: p.Manifest,
		// Concat: an empty list is as none.
		First: slices.Concat(opts.First), Parallel: max(opts.Parallel, 1), MaxFailures: opts.MaxFailures,
		Canary: opts.Canary, Windows: sameWindows(opts.Windows),
	}
	agreed.Target.Images = set(p.Target.Images)
	for _, n := range p.Nodes {
		agreed.Nodes = append(agreed.Nodes, node{n.Name, n.Mode})
	}
	// Where no node is named to begin with, the canary is the emptiest worker of the
	// moment; that order is not agreed to.
	slices.SortFunc(agreed.Nodes, func(a, b node) int { return strings.Compare(a.Name, b.Name) })
	for _, a := range p.Acknowledge {
		agreed.Acknowledge = append(agreed.Acknowledge, a.ID)
	}
	data, err := json.Marshal(agreed)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// set is a list without its order and what is in it twice; an empty one is nil.
func set(list []string) []string {
	list = slices.Concat(list)
	slices.Sort(list)
	return slices.Compact(list)
}

// sameWindows are windows written in the one way of all that mean the same.
func sameWindows(windows []Window) []Window {
	var out []Window
	for _, w := range windows {
		days := slices.Clone(w.Days)
		for i := range days {
			days[i] = strings.ToLower(days[i])
		}
		w.Days, w.Zone = set(days), cmp.Or(w.Zone, "UTC")
		if len(w.Days) == 7 {
			w.Days = nil
		}
		out = append(out, w)
	}
	slices.SortFunc(out, func(a, b Window) int {
		return cmp.Or(slices.Compare(a.Days, b.Days), strings.Compare(a.From, b.From), strings.Compare(a.Until, b.Until), strings.Compare(a.Zone, b.Zone))
	})
	return slices.CompactFunc(out, func(a, b Window) bool { return reflect.DeepEqual(a, b) })
}
