package approval

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/contract"
)

// human is one person of a random town, and what they truly are. The rules get to
// know of it only what a pipeline file, Git and Slack say.
type human struct {
	names    []string
	listed   bool
	named    bool
	excluded bool
	// user is who they are in Slack; linked is that the file says so.
	user   string
	linked bool
	// group is whether they are in the group now; seen is what Slack last said of it.
	group, seen bool
}

// town is a random gate with everyone around it, and beside it what is true of it.
type town struct {
	*rand.Rand
	t      *testing.T
	seed   uint64
	people []contract.Person
	humans []*human
	gate   *contract.GateState
	// hash counts the evidence up; down is true while Slack does not answer.
	hash int
	down bool
	// given is each human's standing approval: under which name, and of which evidence.
	given map[*human]contract.Decision
	now   time.Time
}

// Whatever happens at a gate, in whatever order: one person has one approval, of the
// evidence that there is, and only who may has any.
func TestRandomVotes(t *testing.T) {
	opened := 0
	for seed := range uint64(3000) {
		w := newTown(t, seed)
		if w == nil {
			continue
		}
		for range 60 {
			w.step()
			w.check()
			if Count(w.gate, w.people) >= w.gate.Required {
				opened++
			}
			if t.Failed() {
				return
			}
		}
	}
	if opened < 1000 {
		t.Errorf("gates were open at %d steps only: the votes are not tried", opened)
	}
}

func newTown(t *testing.T, seed uint64) *town {
	w := &town{Rand: rand.New(rand.NewPCG(seed, 4)), t: t, seed: seed, given: map[*human]contract.Decision{}, now: noon}
	rules := rancher.Approvals{Required: 1 + w.IntN(3)}
	if w.IntN(2) == 0 {
		rules.From.Groups = []string{"S1"}
	}
	for i := range 2 + w.IntN(6) {
		w.add(i, &rules)
	}
	starter, author := w.humans[w.IntN(len(w.humans))], w.humans[w.IntN(len(w.humans))]
	o := Origin{StartedBy: w.anyName(starter), Author: "whoever", Email: fmt.Sprintf("P%d@example.com", slices.Index(w.humans, author))}
	if w.IntN(2) == 0 {
		rules.Exclude = append(rules.Exclude, rancher.ExcludeStarter)
		starter.excluded = true
	}
	if w.IntN(2) == 0 {
		rules.Exclude = append(rules.Exclude, rancher.ExcludeAuthor)
		author.excluded = true
	}
	v, err := Voters("prod", w.people, rules, o)
	if err != nil {
		return nil // somebody who is excluded is not known, or too few are left
	}
	w.gate = &contract.GateState{Environment: "prod", Required: rules.Required, Voters: v, Deadline: noon.Add(50 * time.Minute)}
	w.change()
	w.resolve()
	return w
}

// add makes the i-th human, who may be in the file, named by the gate, and in Slack.
func (w *town) add(i int, rules *rancher.Approvals) {
	h := &human{names: []string{fmt.Sprintf("p%d", i)}, listed: w.IntN(4) > 0}
	p := contract.Person{Name: h.names[0]}
	if w.IntN(3) > 0 {
		h.user = fmt.Sprintf("U%03d", i)
		h.names = append(h.names, h.user)
		if h.linked = w.IntN(8) > 0; h.linked {
			p.Slack = h.user
		}
	}
	address := fmt.Sprintf("p%d@example.com", i)
	if h.listed {
		p.Git = []string{address}
		h.names = append(h.names, address)
		w.people = append(w.people, p)
		if w.IntN(2) == 0 {
			h.named = true
			rules.From.People = append(rules.From.People, p.Name)
		}
	} else if h.user != "" {
		// Two names of a stranger cannot be known to be one person's.
		h.names = []string{h.user}
	}
	h.group = h.user != "" && w.IntN(2) == 0
	w.humans = append(w.humans, h)
}

func (w *town) anyName(h *human) string {
	name := h.names[w.IntN(len(h.names))]
	switch w.IntN(3) {
	case 0:
		return strings.ToUpper(name)
	case 1:
		return " " + strings.ToLower(name) + " "
	default:
		return name
	}
}

func (w *town) step() {
	w.now = w.now.Add(time.Duration(w.IntN(90)) * time.Second)
	switch w.IntN(12) {
	case 0:
		w.change()
	case 1:
		h := w.humans[w.IntN(len(w.humans))]
		h.group = h.user != "" && !h.group
	case 2:
		w.down = !w.down
		w.resolve()
	case 3:
		w.resolve()
	default:
		w.vote()
	}
}

// change gives the gate other evidence, as a changed plan or wire does.
func (w *town) change() {
	w.hash++
	Renew(w.gate, w.people, contract.Evidence{Hash: fmt.Sprintf("%064x", w.hash*7919)})
	clear(w.given)
}

// resolve is a look at Slack.
func (w *town) resolve() {
	if w.down {
		Resolve(w.gate.Voters, slack.Groups{}, "Slack does not answer")
		Renew(w.gate, w.people, w.gate.Evidence)
		return
	}
	g := slack.Group{ID: "S1"}
	for _, h := range w.humans {
		h.seen = h.group
		if h.group {
			g.Users = append(g.Users, h.user)
		}
	}
	Resolve(w.gate.Voters, slack.Groups{At: w.now, Groups: []slack.Group{g}}, "")
	Renew(w.gate, w.people, w.gate.Evidence)
	for h, d := range w.given {
		if !w.may(h, d.By) {
			delete(w.given, h)
		}
	}
}

// may says, from what is true of a human, whether an approval of theirs counts that they
// give under a name. A Slack user whom the file gives nobody may be whoever has none in it.
func (w *town) may(h *human, by string) bool {
	v := w.gate.Voters
	bare := strings.EqualFold(strings.TrimSpace(by), h.user)
	switch {
	case h.excluded:
		return false
	case len(v.Groups) > 0 && bare && !(h.listed && h.linked):
		return h.seen && !slices.ContainsFunc(w.humans, func(o *human) bool {
			return o.listed && !(o.user != "" && o.linked) && (o.named || o.excluded)
		})
	case len(v.Groups) > 0 && !h.named && !h.linked:
		return false
	case bare && h.listed && !h.linked:
		return false
	case len(w.people) == 0 && len(v.Groups) == 0:
		return true
	case h.named:
		return true
	case len(v.Groups) > 0:
		return h.seen
	default:
		return h.listed && !w.anyoneNamed()
	}
}

// anyoneNamed tells whether the gate is for some people only.
func (w *town) anyoneNamed() bool {
	return slices.ContainsFunc(w.humans, func(h *human) bool { return h.named })
}

func (w *town) vote() {
	h := w.humans[w.IntN(len(w.humans))]
	hash := w.gate.Evidence.Hash
	by := w.anyName(h)
	d := contract.Decision{By: by, Evidence: hash[:12+w.IntN(53)]}
	old := w.IntN(5) == 0
	if old {
		d.Evidence = fmt.Sprintf("%064x", (w.hash+1)*7919)
	}
	_, twice := w.given[h]
	d, err := Approve(w.gate, w.people, d, w.now)
	late := !w.now.Before(w.gate.Deadline)
	byGroup := !h.named && len(w.gate.Voters.Groups) > 0
	want := ""
	switch {
	case !w.may(h, by) || byGroup && w.down:
		want = errs.TypeNotEntitled
	case twice:
		want = errs.TypeApproved
	case late:
		want = errs.TypeLate
	case old:
		want = errs.TypeConflict
	}
	if got := errs.TypeOf(err); got != want {
		w.t.Errorf("seed %d: %s: %v (%q), want %q; human %+v, gate %+v", w.seed, d.By, err, got, want, *h, *w.gate.Voters)
	}
	if err == nil {
		w.given[h] = contract.Decision{By: by, Evidence: hash}
		w.gate.Votes = append(w.gate.Votes, d)
	}
	if w.IntN(20) == 0 {
		// Two may pass a validator together; then the same stands twice.
		w.gate.Votes = append(w.gate.Votes, w.gate.Votes...)
	}
}

// check compares what counts with what was truly given.
func (w *town) check() {
	if got, want := Count(w.gate, w.people), len(w.given); got != want {
		w.t.Errorf("seed %d: %d approvals count, and %d people gave one: %+v", w.seed, got, want, w.gate.Votes)
	}
	for h, d := range w.given {
		if !w.may(h, d.By) || d.Evidence != w.gate.Evidence.Hash {
			w.t.Errorf("seed %d: the approval of %v counts", w.seed, h.names)
		}
	}
}

func FuzzApprove(f *testing.F) {
	f.Add("alex", "because", now12, "prod")
	f.Add("u012ab3cd", "", now12[:12], "")
	f.Add("alex@example.com\u202e", "a\nb", "", "staging")
	f.Fuzz(func(t *testing.T, by, why, evidence, environment string) {
		v, err := Voters("prod", people, rancher.Approvals{Required: 1, From: rancher.Approvers{People: []string{"sam"}}}, origin)
		if err != nil {
			t.Fatal(err)
		}
		g := &contract.GateState{Environment: "prod", Required: 1, Evidence: contract.Evidence{Hash: now12}, Voters: v}
		d, err := Approve(g, people, contract.Decision{By: by, Why: why, Evidence: evidence, Environment: environment}, noon)
		if err == nil && (d.By != "sam" || !strings.HasPrefix(now12, strings.ToLower(evidence))) {
			t.Fatalf("%q approved with %q", by, evidence)
		}
		if err != nil && (errs.TypeOf(err) == "" || strings.Contains(errs.Message(err), "\n")) {
			t.Fatalf("not one line with a name: %v", err)
		}
	})
}
