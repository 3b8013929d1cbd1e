package preflight

// Every pair of nodes is tried in both directions, but only so many agents are
// asked at once: nodes are put into groups of half that number, and every two
// groups meet once. With n nodes in k groups these are k(k-1)/2 rounds, so that
// rounds grow with the square of n but what runs at once does not grow at all.

// DefaultAtOnce is how many agents' sessions are open at once.
const DefaultAtOnce = 100

// Round is one meeting of two groups of nodes. Nodes are told by their index.
type Round struct {
	// Left and Right are the groups; Right is empty where all nodes fit into one.
	Left, Right Span
	// LeftInside and RightInside say that the group's own pairs are tried too.
	LeftInside, RightInside bool
}

// Span is the nodes from From to before To.
type Span struct{ From, To int }

func (s Span) has(i int) bool { return i >= s.From && i < s.To }
func (s Span) len() int       { return s.To - s.From }

// Schedule plans the rounds for n nodes. At most max(atOnce, 2) of them are in a round.
func Schedule(n, atOnce int) []Round {
	if n < 2 {
		return nil
	}
	if n <= max(atOnce, 2) {
		return []Round{{Left: Span{0, n}, LeftInside: true}}
	}
	groups := split(n, max(atOnce/2, 1))
	k := len(groups)
	inside := make([]bool, k)
	var rounds []Round
	for i := range k - 1 {
		for at := range k - 1 - i {
			// To and fro, so that the group that was met last stays.
			j := i + 1 + at
			if i%2 == 1 {
				j = k - 1 - at
			}
			rounds = append(rounds, Round{groups[i], groups[j], !inside[i], !inside[j]})
			inside[i], inside[j] = true, true
		}
	}
	return rounds
}

// split makes groups of at most size nodes, as even as can be.
func split(n, size int) []Span {
	k := (n + size - 1) / size
	out := make([]Span, 0, k)
	for i := range k {
		out = append(out, Span{i * n / k, (i + 1) * n / k})
	}
	return out
}

// Members are the nodes of a round.
func (r Round) Members() []int {
	out := make([]int, 0, r.Left.len()+r.Right.len())
	for _, s := range []Span{r.Left, r.Right} {
		for i := s.From; i < s.To; i++ {
			out = append(out, i)
		}
	}
	return out
}

// Peers are the nodes that node i of the round sends to.
func (r Round) Peers(i int) []int {
	var out []int
	for _, j := range r.Members() {
		same := r.Left.has(i) && r.Left.has(j) && !r.LeftInside || r.Right.has(i) && r.Right.has(j) && !r.RightInside
		if j != i && !same {
			out = append(out, j)
		}
	}
	return out
}

// MeshSize is what trying every pair costs.
type MeshSize struct {
	Nodes  int `json:"nodes"`
	Rounds int `json:"rounds"`
	// AtOnce is the most sessions open at once, Sessions how many are opened in all.
	AtOnce   int `json:"atOnce"`
	Sessions int `json:"sessions"`
	// Pairs are ordered: each is tried in both directions.
	Pairs int `json:"pairs"`
	// Connections and Datagrams are how many are sent at least, over all nodes.
	Connections int `json:"connections"`
	Datagrams   int `json:"datagrams"`
}

// Grow says what a mesh of n nodes costs, before it is measured: with so many
// sessions at once, over the paths, and with so many sizes of packets.
func Grow(n, atOnce int, paths []Path, sizes int) MeshSize {
	rounds := Schedule(n, atOnce)
	s := MeshSize{Nodes: n, Rounds: len(rounds), Pairs: n * max(n-1, 0)}
	open := map[int]bool{}
	for _, r := range rounds {
		now := map[int]bool{}
		for _, i := range r.Members() {
			now[i] = true
			if !open[i] {
				s.Sessions++
			}
		}
		open = now
		s.AtOnce = max(s.AtOnce, len(now))
	}
	for _, p := range paths {
		if p.Protocol == "tcp" {
			s.Connections += s.Pairs
		} else {
			// Each is sent twice, so that one lost packet is not taken for a filter.
			s.Datagrams += 2 * s.Pairs
		}
	}
	s.Datagrams += 2 * sizes * s.Pairs
	return s
}
