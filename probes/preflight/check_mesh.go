package preflight

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// meshRemedy is what to do where packets do not arrive.
const meshRemedy = "let it through in both directions between all nodes: the nodes' own firewalls, security groups, and what is between their networks"

var meshChecks = []Check{
	{
		ID: "reach-tcp-5473", Title: "TCP 5473 between nodes (Typha)", Severity: Required,
		Why:       "With Typha, Felix on every node reads policy from a Typha on another. Cut off from it, it enforces what it knew last.",
		Threshold: "open between all pairs; without Typha it only warns", Source: srcRKE2Ports, Remedy: meshRemedy,
		cluster: one(func(j *judging) finding { return j.path(PathTypha).lenient(!j.target.Typha) }),
	},
	{
		ID: "reach-tcp-9099", Title: "TCP 9099 between nodes (Felix's health)", Severity: Advised,
		Why:       "Kubelet asks it on the node itself. Between nodes only monitoring does.",
		Threshold: "open between all pairs", Source: srcRKE2Ports, Remedy: meshRemedy,
		cluster: one(func(j *judging) finding { return j.path(PathHealth) }),
	},
	{
		ID: "reach-tcp-10250", Title: "TCP 10250 between nodes (kubelet)", Severity: Required,
		Why:       "The API server reaches kubelets there, on control-plane nodes from the node itself; logs, exec and metrics need it.",
		Threshold: "open between all pairs", Source: srcRKE2Ports, Remedy: meshRemedy,
		cluster: one(func(j *judging) finding { return j.path(PathKubelet) }),
	},
	{
		ID: "reach-tcp-179", Title: "TCP 179 between nodes (BGP)", Severity: Required,
		Why:       "BIRD learns the other nodes' routes by BGP. Without it there are none.",
		Threshold: "open between all pairs", Source: srcRequirements, Remedy: meshRemedy,
		when:    func(j *judging) bool { return j.target.Encapsulation != VXLAN },
		cluster: one(func(j *judging) finding { return j.path(PathBGP) }),
	},
	{
		ID: "reach-ip-4", Title: "IP protocol 4 between nodes (IP-in-IP)", Severity: Required,
		Why:       "Pods' packets travel in it. Clouds drop it unless they are told otherwise.",
		Threshold: "open between all pairs", Source: srcRequirements, Remedy: meshRemedy + "; or choose VXLAN",
		when:    func(j *judging) bool { return j.target.Encapsulation == IPIP },
		cluster: one(func(j *judging) finding { return j.path(PathIPIP) }),
	},
	{
		ID: "reach-udp-4789", Title: "UDP 4789 between nodes (Calico's VXLAN)", Severity: Required,
		Why:       "Pods' packets travel in it, once Calico has its own overlay.",
		Threshold: "open between all pairs; where another port or no VXLAN is wanted it only warns", Source: srcRequirements, Remedy: meshRemedy,
		cluster: one(func(j *judging) finding {
			return j.path(Path{"udp", DefaultPort}).lenient(j.target.Encapsulation != VXLAN || j.target.Port != DefaultPort)
		}),
	},
	{
		ID: "reach-udp-8472", Title: "UDP 8472 between nodes (flannel's VXLAN)", Severity: Required,
		Why:       "Pods' packets travel in it until the last node has moved.",
		Threshold: "open between all pairs; without flannel it only warns", Source: srcRKE2Ports, Remedy: meshRemedy,
		cluster: one(func(j *judging) finding {
			mine := j.target.Encapsulation == VXLAN && j.target.Port == PathFlannel.Port
			return j.path(PathFlannel).lenient(!mine && j.cluster.DaemonSets.Known && !j.usesFlannel())
		}),
	},
	{
		ID: "reach-overlay", Title: "The overlay's own port between nodes", Severity: Required,
		Why:       "Pods' packets travel in it, where another port than 4789 or 8472 is wanted.",
		Threshold: "open between all pairs", Source: srcRequirements, Remedy: meshRemedy,
		when: func(j *judging) bool {
			return j.target.Encapsulation == VXLAN && j.target.Port != DefaultPort && j.target.Port != PathFlannel.Port
		},
		cluster: one(func(j *judging) finding { return j.path(Path{"udp", j.target.Port}) }),
	},
	{
		ID: "path-mtu", Title: "MTU of the path between nodes", Severity: Required,
		Why:       "What lies between two nodes may carry less than their interfaces. Packets that do not fit are dropped, small ones pass: connections open and then hang.",
		Threshold: "the pods' MTU and the header (50 bytes for VXLAN, 20 for IP-in-IP) pass whole between all pairs, with the do-not-fragment bit", Source: "Calico, configure MTU",
		Remedy:  "lower the pods' MTU to what passes less the header, or mend the path",
		cluster: one((*judging).pathMTU),
	},
}

// lenient makes a failure a warning where the path is not needed.
func (f finding) lenient(yes bool) finding {
	if yes && f.status == Fail {
		f.status = Warn
	}
	return f
}

// noMesh says why there is nothing to judge, or nil.
func (j *judging) noMesh() *finding {
	var f finding
	switch {
	case j.mesh == nil:
		f = unsure("packets between nodes were not tried")
	case j.mesh.Problem != "":
		f = unsure(j.mesh.Problem)
	case j.mesh.Nodes == 0:
		f = unsure("no node took part")
	case j.mesh.Nodes == 1:
		f = pass("one node: there are no pairs")
	default:
		return nil
	}
	return &f
}

// path judges all pairs on one path.
func (j *judging) path(p Path) finding {
	if f := j.noMesh(); f != nil {
		return *f
	}
	i := slices.IndexFunc(j.mesh.Paths, func(f PathFacts) bool { return f.Path == p })
	if i < 0 {
		return unsure(p.String() + " was not tried")
	}
	facts := j.mesh.Paths[i]
	told := 0
	for _, n := range facts.Answers {
		told += n
	}
	open := facts.Answers[Open]
	untold := facts.Answers[Untold] + max(j.mesh.Pairs-told, 0)
	f := pass("%d of %d directions open", open, j.mesh.Pairs)
	for _, a := range []Answer{Refused, Filtered} {
		if n := facts.Answers[a]; n > 0 {
			f.status = Fail
			f.measured += fmt.Sprintf(", %d %s", n, a)
		}
	}
	if untold > 0 {
		f.measured += fmt.Sprintf(", %d unknown", untold)
		if f.status == Pass {
			f.status = Unsure
		}
	}
	if f.status != Pass {
		f.more = cutLines(append(j.absentLines(), j.pairLines(facts)...))
	}
	return f
}

// absentLines names the nodes that took no part.
func (j *judging) absentLines() []string {
	var out []string
	for _, n := range slices.Sorted(maps.Keys(j.mesh.Absent)) {
		out = append(out, n+" took no part: "+j.mesh.Absent[n])
	}
	return cutLines(out)
}

// maxLines bounds the lines below a check.
const maxLines = 20

// pairLines names the pairs, those to or from one node together.
func (j *judging) pairLines(facts PathFacts) []string {
	type side struct {
		to     bool
		node   string
		answer Answer
	}
	count := map[side]int{}
	for _, p := range facts.Bad {
		count[side{false, p.From, p.Answer}]++
		count[side{true, p.To, p.Answer}]++
	}
	all := j.mesh.Nodes - 1
	whole := func(s side) bool { return all > 1 && count[s] == all }
	var lines []string
	said := map[side]bool{}
	for _, p := range facts.Bad {
		to, from := side{true, p.To, p.Answer}, side{false, p.From, p.Answer}
		line := fmt.Sprintf("%s -> %s: %s", p.From, p.To, p.Answer)
		switch {
		case whole(to) && said[to], !whole(to) && whole(from) && said[from]:
			continue
		case whole(to):
			said[to] = true
			line = fmt.Sprintf("all nodes -> %s: %s", p.To, p.Answer)
		case whole(from):
			said[from] = true
			line = fmt.Sprintf("%s -> all nodes: %s", p.From, p.Answer)
		}
		if p.Detail != "" {
			line += " (" + p.Detail + ")"
		}
		lines = append(lines, line)
	}
	return cutLines(lines)
}

func cutLines(lines []string) []string {
	if len(lines) <= maxLines {
		return lines
	}
	return append(lines[:maxLines:maxLines], fmt.Sprintf("and %d more", len(lines)-maxLines))
}

func (j *judging) pathMTU() finding {
	if f := j.noMesh(); f != nil {
		return *f
	}
	if j.target.MTU == 0 {
		return unsure("the pods' MTU is not known")
	}
	want := j.target.MTU + overhead(j.target.Encapsulation)
	told, narrow, none := 0, 0, 0
	least := 0
	for _, s := range slices.Sorted(maps.Keys(j.mesh.MTU.Sizes)) {
		n := j.mesh.MTU.Sizes[s]
		told += n
		switch {
		case s == 0:
			none = n
		case s < want:
			narrow += n
		}
		if least == 0 {
			least = s
		}
	}
	missing := none + max(j.mesh.Pairs-told, 0)
	text := fmt.Sprintf("%d bytes are needed (pods' %d and %d for %s)", want, j.target.MTU, overhead(j.target.Encapsulation), j.target.Encapsulation)
	var f finding
	switch {
	case narrow > 0:
		f = miss("%s; %d of %d directions carry less, the least %d", text, narrow, j.mesh.Pairs, least)
		f.remedy = "lower the pods' MTU to " + strconv.Itoa(least-overhead(j.target.Encapsulation)) + ", or mend the path"
	case missing > 0:
		f = unsure(fmt.Sprintf("%s; nothing is known of %d of %d directions", text, missing, j.mesh.Pairs))
	case len(j.mesh.MTU.Tried) == 0 || !slices.Contains(j.mesh.MTU.Tried, want) && least < want:
		f = unsure(text + ", and were not tried")
	default:
		return pass("%s and pass in all %d directions", text, j.mesh.Pairs)
	}
	f.more = j.absentLines()
	for _, p := range j.mesh.MTU.Narrow {
		if p.MTU < want {
			f.more = append(f.more, strings.TrimSpace(fmt.Sprintf("%s -> %s: %s %s", p.From, p.To, mtuWord(p.MTU), p.Detail)))
		}
	}
	f.more = cutLines(f.more)
	return f
}

func mtuWord(n int) string {
	if n == 0 {
		return "nothing arrived"
	}
	return fmt.Sprintf("at most %d bytes", n)
}
