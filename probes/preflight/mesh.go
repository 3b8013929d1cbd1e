package preflight

import (
	"cmp"
	"fmt"
	"slices"
)

// Path is one kind of packets that nodes must be able to send each other.
type Path struct {
	// Protocol is tcp, udp, or ip for a protocol number.
	Protocol string `json:"protocol"`
	// Port, or the number of an IP protocol.
	Port int `json:"port"`
}

func (p Path) String() string {
	if p.Protocol == "ip" {
		return fmt.Sprintf("IP protocol %d", p.Port)
	}
	return fmt.Sprintf("%s %d", map[string]string{"tcp": "TCP", "udp": "UDP"}[p.Protocol], p.Port)
}

// The paths that are asked for.
var (
	PathTypha   = Path{"tcp", 5473}
	PathHealth  = Path{"tcp", 9099}
	PathKubelet = Path{"tcp", 10250}
	PathBGP     = Path{"tcp", 179}
	PathIPIP    = Path{"ip", 4}
	// PathFlannel is the overlay of flannel on Linux.
	PathFlannel = Path{"udp", 8472}
)

// Paths are those that a target needs, with flannel's, which forwards until the last node has moved.
func Paths(t Target) []Path {
	out := []Path{PathTypha, PathHealth, PathKubelet}
	if t.Encapsulation == BGP || t.Encapsulation == IPIP {
		out = append(out, PathBGP)
	}
	if t.Encapsulation == IPIP {
		out = append(out, PathIPIP)
	}
	overlay := Path{"udp", cmp.Or(t.Port, DefaultPort)}
	out = append(out, overlay)
	for _, p := range []Path{{"udp", DefaultPort}, PathFlannel} {
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// Answer is what packets from one node to another met.
type Answer string

const (
	// Open: they arrived, past the destination's own filter, and TCP was answered.
	Open Answer = "open"
	// Refused: a reset or a port unreachable came back, although somebody listened.
	Refused Answer = "refused"
	// Filtered: silence, or somebody on the way said no.
	Filtered Answer = "filtered"
	// Untold: it could not be found out.
	Untold Answer = "unknown"
)

// Pair is one direction between two nodes.
type Pair struct {
	From   string `json:"from"`
	To     string `json:"to"`
	Answer Answer `json:"answer,omitempty"`
	Detail string `json:"detail,omitempty"`
	// MTU is the largest packet that arrived whole; only for MTU facts.
	MTU int `json:"mtu,omitempty"`
}

// PathFacts are all pairs' answers on one path.
type PathFacts struct {
	Path Path `json:"path"`
	// Answers counts ordered pairs by answer.
	Answers map[Answer]int `json:"answers"`
	// Bad are pairs that are not open, at most MaxBad of them.
	Bad []Pair `json:"bad,omitempty"`
}

// MTUFacts are the largest packets that passed between nodes with the
// do-not-fragment bit set; sizes are of the whole IP packet.
type MTUFacts struct {
	// Sizes counts ordered pairs by the largest size that arrived; 0 is for pairs
	// where none did.
	Sizes map[int]int `json:"sizes"`
	// Tried are the sizes that were sent, ascending.
	Tried []int `json:"tried,omitempty"`
	// Narrow are the pairs with the smallest, at most MaxBad of them.
	Narrow []Pair `json:"narrow,omitempty"`
}

// MaxBad bounds the pairs that are named.
const MaxBad = 200

// Mesh is what packets between all pairs of nodes did.
type Mesh struct {
	// Problem says why it was not measured at all.
	Problem string      `json:"problem,omitempty"`
	Nodes   int         `json:"nodes"`
	Pairs   int         `json:"pairs"`
	Paths   []PathFacts `json:"paths,omitempty"`
	MTU     MTUFacts    `json:"mtu"`
	// Absent maps nodes that took no part to the reason. Their pairs are counted as unknown.
	Absent map[string]string `json:"absent,omitempty"`
	Size   MeshSize          `json:"size"`
}

// NewMesh is a mesh of so many nodes before anything was measured.
func NewMesh(nodes int, paths []Path) *Mesh {
	m := &Mesh{Nodes: nodes, Pairs: nodes * (nodes - 1), Absent: map[string]string{}, MTU: MTUFacts{Sizes: map[int]int{}}}
	for _, p := range paths {
		m.Paths = append(m.Paths, PathFacts{Path: p, Answers: map[Answer]int{}})
	}
	return m
}

// Add notes a pair's answer on a path.
func (m *Mesh) Add(path int, p Pair) {
	f := &m.Paths[path]
	f.Answers[p.Answer]++
	if p.Answer != Open && len(f.Bad) < MaxBad {
		f.Bad = append(f.Bad, p)
	}
}

// AddMTU notes the largest packet that passed between a pair.
func (m *Mesh) AddMTU(p Pair) {
	m.MTU.Sizes[p.MTU]++
	n := m.MTU.Narrow
	at, _ := slices.BinarySearchFunc(n, p, func(a, b Pair) int {
		return cmp.Or(cmp.Compare(a.MTU, b.MTU), cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
	})
	if at < MaxBad {
		n = slices.Insert(n, at, p)
		m.MTU.Narrow = n[:min(len(n), MaxBad)]
	}
}
