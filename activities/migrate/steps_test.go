package migrate

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/probes/migration"
)

// deed is a step of the whole cluster, or of a node.
type deed struct {
	step migration.Step
	node string
}

func (d deed) String() string { return strings.TrimSpace(string(d.step) + " " + d.node) }

// course are all steps in order, of a cluster of which n1 is drained.
func course(nodes int) []deed {
	var out []deed
	for _, s := range migration.Preparation() {
		out = append(out, deed{s, ""})
	}
	for i := nodes - 1; i >= 0; i-- {
		mode := migration.InPlace
		if i == 1 {
			mode = migration.Drain
		}
		for _, s := range migration.NodeSteps(mode) {
			out = append(out, deed{s, nodeName(i)})
		}
	}
	for _, s := range migration.Completion() {
		out = append(out, deed{s, ""})
	}
	return out
}

// reversible are the steps that have a way back.
func reversible(all []deed) []deed {
	return slices.DeleteFunc(slices.Clone(all), func(d deed) bool { return d.step == migration.Clean })
}

func do(t testing.TB, w *world, d deed) (*StepResult, error) {
	return w.activities(t).Do(t.Context(), at(t, d.step, d.node))
}

func undo(t testing.TB, w *world, d deed) (*StepResult, error) {
	return w.activities(t).Undo(t.Context(), at(t, d.step, d.node))
}

func mustDo(t testing.TB, w *world, all ...deed) {
	t.Helper()
	for _, d := range all {
		if _, err := do(t, w, d); err != nil {
			t.Fatalf("do %s: %v", d, err)
		}
	}
}

func mustUndo(t testing.TB, w *world, all ...deed) {
	t.Helper()
	for _, d := range slices.Backward(all) {
		if _, err := undo(t, w, d); err != nil {
			t.Fatalf("undo %s: %v", d, err)
		}
	}
}

// restless is what matters not after a step was taken back: a flanneld that is started again
// writes its routes, and what a calico-node said of itself goes with Begin alone.
func restless(d deed) []string {
	switch d.step {
	case migration.Unlink:
		return []string{"flannel's routes of "}
	case migration.Swap:
		return []string{"crd.projectcalico.org/v1|ClusterInformation|"}
	}
	return nil
}

func mustBe(t testing.TB, what string, want map[string]string, w *world, but ...string) {
	t.Helper()
	is := w.snapshot()
	want = maps.Clone(want)
	for _, prefix := range but {
		for _, s := range []map[string]string{want, is} {
			maps.DeleteFunc(s, func(k, _ string) bool { return strings.HasPrefix(k, prefix) })
		}
	}
	if diff := differ(want, is); diff != "" {
		t.Fatalf("%s:\n%s", what, diff)
	}
}

// stages are the cluster before every step, and how it is after the last.
func stages(t testing.TB, w *world, all []deed) []*world {
	t.Helper()
	out := []*world{w.clone()}
	for _, d := range all {
		mustDo(t, w, d)
		out = append(out, w.clone())
	}
	return out
}

// Every step can be taken back, alone and together with those before it, and then
// everything is as it was.
func TestTheWayBackFromEveryStep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all := reversible(course(2))
		was := stages(t, newWorld(t, 2), all)
		for i, d := range all {
			w := was[i+1].clone()
			mustUndo(t, w, d)
			if evicts(d) {
				continue
			}
			mustBe(t, "undo "+d.String(), was[i].snapshot(), w, restless(d)...)
		}
		start := newWorld(t, 2)
		for i := range all {
			w := was[i+1].clone()
			mustUndo(t, w, all[:i+1]...)
			mustBe(t, "undo everything up to "+all[i].String(), without(start.snapshot(), evicted(all[:i+1])), w)
		}
	})
}

// evicts is true for steps that are not taken back whole: pods that were evicted do not come
// back, and a node that was opened again stays open.
func evicts(d deed) bool { return d.step == migration.Evict || d.step == migration.Uncordon }

// evicted are the nodes whose pods have been evicted.
func evicted(all []deed) (nodes []string) {
	for _, d := range all {
		if d.step == migration.Evict {
			nodes = append(nodes, d.node)
		}
	}
	return nodes
}

// without takes the pods of the nodes out of a snapshot.
func without(snapshot map[string]string, nodes []string) map[string]string {
	for k, v := range snapshot {
		for _, n := range nodes {
			if strings.HasPrefix(k, "v1|Pod|default|") && strings.Contains(v, `"nodeName":"`+n+`"`) {
				delete(snapshot, k)
			}
		}
	}
	return snapshot
}

// A step that is made twice is as one that is made once, and so is one taken back twice.
func TestEveryStepCanBeMadeTwice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all := course(2)
		was := stages(t, newWorld(t, 2), all)
		for i, d := range all {
			w := was[i+1].clone()
			mustDo(t, w, d)
			mustBe(t, "do "+d.String()+" twice", was[i+1].snapshot(), w)
			if d.step == migration.Clean {
				continue
			}
			mustUndo(t, w, d)
			once := w.snapshot()
			mustUndo(t, w, d)
			mustBe(t, "undo "+d.String()+" twice", once, w)
		}
	})
}

// What was not made is taken back without a change.
func TestUndoOfAStepThatWasNotMade(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all := reversible(course(2))
		was := stages(t, newWorld(t, 2), all)
		for i, d := range all {
			w := was[i].clone()
			mustUndo(t, w, d)
			mustBe(t, "undo "+d.String()+", which was not made", was[i].snapshot(), w)
		}
	})
}

// fails breaks the n-th write, the even ones before they have an effect and the odd ones
// after it, and counts.
func fails(w *world, n int) *int {
	count := 0
	w.fault = func(what string, late bool) error {
		if late != (n%2 == 1) {
			return nil
		}
		count++
		if count-1 != n {
			return nil
		}
		return errors.New("connection reset by peer")
	}
	return &count
}

var everywhere = flag.Bool("everywhere", false, "fail at every write of every step, and not at a third of them: takes minutes")

// stride is how many writes further the next failure is.
func stride() int {
	if *everywhere {
		return 1
	}
	return 3
}

// A step that fails at any of its writes can be made again, and can be taken back.
func TestEveryStepCanFailAnywhere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all := course(2)
		was := stages(t, newWorld(t, 2), all)
		tried := 0
		for i, d := range all {
			before, after := was[i].snapshot(), was[i+1].snapshot()
			for n := i % stride(); ; n += stride() {
				w := was[i].clone()
				count := fails(w, n)
				_, err := do(t, w, d)
				w.fault = nil
				if *count <= n {
					break
				}
				tried++
				what := fmt.Sprintf("%s failed at write %d", d, n)
				if err != nil && (errs.TypeOf(err) == "" || strings.Contains(err.Error(), "https://")) {
					t.Fatalf("%s: %v", what, err)
				}
				again := w.clone()
				mustDo(t, again, d)
				mustBe(t, what+", and was made again", after, again)
				if d.step == migration.Clean {
					continue
				}
				mustUndo(t, w, d)
				if !evicts(d) {
					mustBe(t, what+", and was taken back", before, w, restless(d)...)
				}
			}
		}
		t.Logf("%d failures", tried)
	})
}

// The way back can fail at any of its writes, too, and is walked all the same.
func TestEveryWayBackCanFailAnywhere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all := reversible(course(2))
		was := stages(t, newWorld(t, 2), all)
		tried := 0
		for i, d := range all {
			before := was[i].snapshot()
			for n := i % stride(); ; n += stride() {
				w := was[i+1].clone()
				count := fails(w, n)
				_, err := undo(t, w, d)
				w.fault = nil
				if *count <= n {
					break
				}
				tried++
				what := fmt.Sprintf("undo of %s failed at write %d", d, n)
				if err != nil && errs.TypeOf(err) != errs.TypeUnavailable {
					t.Fatalf("%s: %v", what, err)
				}
				mustUndo(t, w, d)
				if !evicts(d) {
					mustBe(t, what+", and was made again", before, w, restless(d)...)
				}
			}
		}
		t.Logf("%d failures", tried)
	})
}

// A migrator knows its peers by their pod networks; a person is told the nodes' names.
func TestSilentPeerIsNamed(t *testing.T) {
	w := newWorld(t, 3)
	for _, d := range course(3) {
		if d.node != "" {
			w.silent = nodeName(0)
			_, err := do(t, w, d)
			want := "node " + d.node + ": ping: 1 of 2 peers do not answer through vxlan.calico: node " + w.silent + " ("
			if err == nil || !strings.Contains(err.Error(), want) || strings.Count(err.Error(), "ping") != 1 {
				t.Errorf("%s: %v, want %q", d, err, want)
			}
			return
		}
		mustDo(t, w, d)
	}
}
