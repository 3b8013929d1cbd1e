package probes

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/projectcalico/calico/libcalico-go/lib/selector"
)

// MaxPairs bounds the pairs of all requirements on one cluster. Whoever
// needs more can sample.
const MaxPairs = 100_000

// Pair is one probe to be made: from a pod to a destination.
type Pair struct {
	// Requirement is the index of the requirement that it belongs to.
	Requirement int
	Source      *Pod
	// To names the destination in reports: a workload, a service, an address or a name.
	To       string
	Protocol Protocol
	// Host is an IP address or a name, and for DNS the name to ask for.
	Host string
	Port int
	Path string
	// Targets are the UIDs of the pods that a packet may arrive at; empty for
	// addresses and names.
	Targets []string
	// Behind is true when something stands between the source and the
	// targets (a service), so that a refusal is not the target's own word.
	Behind bool
}

// String says who goes where, for people.
func (p *Pair) String() string {
	where := p.Host
	if p.Protocol != DNS {
		where = net.JoinHostPort(p.Host, strconv.Itoa(p.Port)) + "/" + string(p.Protocol)
	}
	return fmt.Sprintf("%s/%s on %s to %s (%s)", p.Source.Namespace, p.Source.Name, p.Source.Node, p.To, where)
}

// Plan is what requirements mean on a cluster.
type Plan struct {
	// Pairs are ordered by requirement, and in a requirement by workload and name.
	Pairs []Pair
	// Skipped is how many pairs sampling left out.
	Skipped int
	// Problems has one entry per requirement: why it cannot be probed, or "".
	Problems []string
}

// Expand finds the pairs of pods and destinations that the requirements mean.
// The same cluster gives the same plan, in whatever order its pods are listed.
//
// Sources and destinations are running pods. "all" means every namespace but
// the platform's (see SystemNamespace), and of those only pods that have a
// network of their own: a pod in its node's network has no policy of its own. Where a
// namespace is named, such pods count. A pod is never probed from itself. A
// destination with addresses of two families is probed by each that the source has too.
//
// A requirement that matches no source or no destination has a problem, unless it is optional.
// The requirements must be valid.
func Expand(reqs []Requirement, c *Cluster) *Plan {
	plan := &Plan{Problems: make([]string, len(reqs))}
	for i := range reqs {
		e := expansion{index: i, req: &reqs[i], cluster: c}
		pairs, skipped, problem := e.pairs(MaxPairs - len(plan.Pairs))
		plan.Pairs = append(plan.Pairs, pairs...)
		plan.Skipped += skipped
		plan.Problems[i] = problem
	}
	return plan
}

type expansion struct {
	index   int
	req     *Requirement
	cluster *Cluster
}

// target is a destination, before it is paired.
type target struct {
	pod     *Pod
	to      string
	hosts   []string
	port    int
	targets []string
	behind  bool
}

func (e *expansion) pairs(room int) (pairs []Pair, skipped int, problem string) {
	sources := e.sources()
	targets, missing := e.targets()
	switch {
	case len(sources) == 0 && e.req.Optional, missing != "" && e.req.Optional:
		return nil, 0, ""
	case len(sources) == 0:
		return nil, 0, "no running pod matches from: " + e.req.From.describe()
	case missing != "":
		return nil, 0, missing
	}
	groups := e.groups(sources, targets)
	total := 0
	for i := range groups {
		total += groups[i].count()
	}
	want := total
	if e.req.Sample > 0 {
		want = min(want, e.req.Sample)
	}
	switch {
	case want > room:
		return nil, 0, fmt.Sprintf("means %d pairs; at most %d may be probed on a cluster: set sample", total, MaxPairs)
	case want == 0 && e.req.Optional:
		return nil, 0, ""
	case want == 0:
		return nil, 0, "the only pod that matches from is the destination itself, or they share no address family"
	}
	pairs = take(groups, want)
	slices.SortFunc(pairs, comparePairs)
	return pairs, total - want, ""
}

func comparePairs(a, b Pair) int {
	return cmp.Or(
		strings.Compare(a.Source.Workload, b.Source.Workload),
		strings.Compare(a.To, b.To),
		strings.Compare(a.Source.Name, b.Source.Name),
		strings.Compare(a.Host, b.Host),
		strings.Compare(a.Source.UID, b.Source.UID),
	)
}

func (e *expansion) sources() []*Pod {
	from := &e.req.From
	match := matcher(from.Selector)
	var out []*Pod
	for i := range e.cluster.Pods {
		p := &e.cluster.Pods[i]
		if p.Running && len(p.IPs) > 0 && from.covers(p) && match(p) {
			out = append(out, p)
		}
	}
	return out
}

func (f *From) covers(p *Pod) bool {
	switch {
	case f.Namespace != "":
		return p.Namespace == f.Namespace
	case f.Namespaces.All:
		return !p.Host && !SystemNamespace(p.Namespace) && !slices.Contains(f.Except, p.Namespace)
	}
	return slices.Contains(f.Namespaces.Names, p.Namespace)
}

func (f *From) describe() string {
	where := "namespace " + f.Namespace
	switch {
	case f.Namespaces.All && len(f.Except) > 0:
		where = "all namespaces but " + strings.Join(f.Except, ", ") + " and the platform's"
	case f.Namespaces.All:
		where = "all namespaces but the platform's"
	case f.Namespace == "":
		where = "namespaces " + strings.Join(f.Namespaces.Names, ", ")
	}
	if f.Selector != "" {
		where += ", selector " + f.Selector
	}
	return where
}

// matcher evaluates a Calico selector over pods; the empty one takes all.
func matcher(s string) func(*Pod) bool {
	if s == "" {
		return func(*Pod) bool { return true }
	}
	sel, err := selector.Parse(s)
	if err != nil {
		// Validate has refused it; were it asked all the same, it matches nothing.
		return func(*Pod) bool { return false }
	}
	return func(p *Pod) bool { return sel.Evaluate(p.labels()) }
}

// targets lists the destinations, or says why there are none.
func (e *expansion) targets() ([]target, string) {
	to := &e.req.To
	switch to.form() {
	case formPods:
		return e.podTargets()
	case formService:
		return e.serviceTarget()
	case formAddress:
		return []target{{to: to.Address, hosts: []string{to.Address}, port: to.Port}}, ""
	case formDNS:
		return []target{{to: to.DNS, hosts: []string{to.DNS}}}, ""
	}
	return nil, "has no destination"
}

func (e *expansion) podTargets() ([]target, string) {
	to := &e.req.To
	match := matcher(to.Selector)
	var out []target
	for i := range e.cluster.Pods {
		p := &e.cluster.Pods[i]
		if p.Running && len(p.IPs) > 0 && p.Namespace == to.Namespace && match(p) {
			out = append(out, target{pod: p, to: p.Workload, hosts: p.IPs, port: to.Port, targets: []string{p.UID}})
		}
	}
	if len(out) == 0 {
		return nil, fmt.Sprintf("no running pod matches to: namespace %s, selector %s", to.Namespace, to.Selector)
	}
	return out, ""
}

func (e *expansion) serviceTarget() ([]target, string) {
	to := &e.req.To
	name := to.Namespace + "/" + to.Service
	i := slices.IndexFunc(e.cluster.Services, func(s Service) bool { return s.Namespace == to.Namespace && s.Name == to.Service })
	if i < 0 {
		return nil, fmt.Sprintf("there is no service %s", name)
	}
	s := &e.cluster.Services[i]
	if s.IP == "" {
		return nil, fmt.Sprintf("service %s has no cluster IP: probe its pods, or its name as an address", name)
	}
	transport := TCP
	if to.protocol() == UDP {
		transport = UDP
	}
	j := slices.IndexFunc(s.Ports, func(p ServicePort) bool { return p.Port == to.Port && p.Protocol == transport })
	if j < 0 {
		return nil, fmt.Sprintf("service %s has no %s port %d", name, transport, to.Port)
	}
	port := &s.Ports[j]
	if port.Ready == 0 {
		return nil, fmt.Sprintf("service %s has no ready endpoint on port %d", name, to.Port)
	}
	return []target{{to: to.Namespace + "/Service/" + to.Service, hosts: []string{s.IP}, port: to.Port, targets: port.Pods, behind: true}}, ""
}

// group is all pairs between two workloads.
type group struct {
	e       *expansion
	sources []*Pod
	targets []target
	key     uint64
	// Where next is.
	diagonal, source, host int
}

// groups pairs the workloads. Their order mixes them, so that a sample's
// first groups are of many workloads; it depends on nothing but their names.
func (e *expansion) groups(sources []*Pod, targets []target) []group {
	from, to := map[string][]*Pod{}, map[string][]target{}
	for _, s := range sources {
		from[s.Workload] = append(from[s.Workload], s)
	}
	for _, t := range targets {
		to[t.to] = append(to[t.to], t)
	}
	for _, s := range from {
		slices.SortFunc(s, func(a, b *Pod) int { return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.UID, b.UID)) })
	}
	for _, t := range to {
		slices.SortFunc(t, func(a, b target) int {
			if a.pod == nil || b.pod == nil {
				return 0
			}
			return cmp.Or(strings.Compare(a.pod.Name, b.pod.Name), strings.Compare(a.pod.UID, b.pod.UID))
		})
	}
	var out []group
	for fromName, s := range from {
		for toName, t := range to {
			h := fnv.New64a()
			fmt.Fprintf(h, "%s\x00%s\x00%s", e.req.Name, fromName, toName)
			out = append(out, group{e: e, sources: s, targets: t, key: h.Sum64()})
		}
	}
	slices.SortFunc(out, func(a, b group) int {
		return cmp.Or(cmp.Compare(a.key, b.key), strings.Compare(a.sources[0].Workload, b.sources[0].Workload), strings.Compare(a.targets[0].to, b.targets[0].to))
	})
	return out
}

// next is the group's next pair. It walks along diagonals: every source and
// every destination comes up before any of them comes up again.
func (g *group) next() (Pair, bool) {
	for ; g.diagonal < len(g.targets); g.diagonal++ {
		for ; g.source < len(g.sources); g.source++ {
			s := g.sources[g.source]
			t := &g.targets[(g.diagonal+g.source)%len(g.targets)]
			if hosts := hostsFor(s, t); g.host < len(hosts) {
				g.host++
				return g.pair(s, t, hosts[g.host-1]), true
			}
			g.host = 0
		}
		g.source = 0
	}
	return Pair{}, false
}

func (g *group) pair(s *Pod, t *target, host string) Pair {
	to := &g.e.req.To
	return Pair{Requirement: g.e.index, Source: s, To: t.to, Protocol: to.protocol(), Host: host, Port: t.port, Path: to.HTTPPath, Targets: t.targets, Behind: t.behind}
}

func (g *group) count() int {
	n := 0
	for _, s := range g.sources {
		for i := range g.targets {
			n += len(hostsFor(s, &g.targets[i]))
		}
	}
	return n
}

// hostsFor are the addresses of t that s can be expected to reach: those of a
// pod whose family s has too.
func hostsFor(s *Pod, t *target) []string {
	if t.pod == nil {
		return t.hosts
	}
	if t.pod.UID == s.UID {
		return nil
	}
	if len(t.hosts) == 1 && len(s.IPs) == 1 && isIPv6(t.hosts[0]) == isIPv6(s.IPs[0]) {
		return t.hosts
	}
	var out []string
	for _, h := range t.hosts {
		if slices.ContainsFunc(s.IPs, func(ip string) bool { return isIPv6(ip) == isIPv6(h) }) {
			out = append(out, h)
		}
	}
	return out
}

func isIPv6(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Unmap().Is6()
}

// take takes n pairs, one of each group in turn.
func take(groups []group, n int) []Pair {
	out := make([]Pair, 0, n)
	open := make([]*group, 0, len(groups))
	for i := range groups {
		open = append(open, &groups[i])
	}
	for len(out) < n && len(open) > 0 {
		still := open[:0]
		for _, g := range open {
			if len(out) == n {
				break
			}
			if p, ok := g.next(); ok {
				out = append(out, p)
				still = append(still, g)
			}
		}
		open = still
	}
	return out
}
