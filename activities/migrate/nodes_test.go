package migrate

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/probes/cni"
	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/rancher"
)

func listNodes(t testing.TB, w *world) ([]Node, error) {
	return w.activities(t).Nodes(t.Context(), NodesInput{Cluster: rancher.Cluster{ID: "c-1", Name: "dev"}})
}

// The nodes are listed with what each is to have: by its label, and without one by whose
// turn it is.
func TestNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		windows := raw(t, &corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: "a-windows", Labels: map[string]string{"kubernetes.io/os": "windows"}}})
		windows.Object["spec"] = map[string]any{"podCIDR": ""}
		w.put(windows)
		has := func() string {
			t.Helper()
			nodes, err := listNodes(t, w)
			if err != nil {
				t.Fatal(err)
			}
			var out []string
			for _, n := range nodes {
				if !n.Ready || n.ControlPlane != (n.Name == "n0") {
					t.Errorf("%+v", n)
				}
				out = append(out, n.Name+" "+n.CNI)
			}
			return strings.Join(out, ", ")
		}
		all := course(2)
		for _, d := range all {
			want := map[migration.Step]string{migration.Begin: "n0 canal, n1 canal", migration.Turn: "n0 calico, n1 calico", migration.Check: map[string]string{
				"n1": "n0 canal, n1 canal", "n0": "n0 canal, n1 calico"}[d.node]}[d.step]
			if got := has(); want != "" && got != want {
				t.Errorf("before %s: %s", d, got)
			}
			if d.step == migration.Turn {
				// One that joins until then has Canal, and is named as what is in the way.
				late := w.clone()
				late.join(t, 2)
				_, err := do(t, late, d)
				if errs.TypeOf(err) != errs.TypeConflict || !strings.Contains(err.Error(), "node n2 is not on Calico yet") {
					t.Errorf("%v", err)
				}
			}
			if d.step == migration.Clean {
				break
			}
			mustDo(t, w, d)
		}
		w.join(t, 2)
		if got := has(); got != "n0 calico, n1 calico, n2 calico" {
			t.Errorf("one that joins after turn: %s", got)
		}
	})
}

// A node that joined, and has Canal, keeps it when Turn, which could not be made, is taken back.
func TestUndoOfTurnLeavesNodesThatJoinedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := course(2)
		turn := deed{migration.Turn, ""}
		w := newWorld(t, 2)
		mustDo(t, w, all[:slices.Index(all, turn)]...)
		w.join(t, 2)
		before := w.snapshot()
		if _, err := do(t, w, turn); errs.TypeOf(err) != errs.TypeConflict {
			t.Fatal(err)
		}
		mustUndo(t, w, turn)
		mustBe(t, "undo turn", before, w)
		if !w.running("n2", "kube-flannel") {
			t.Error("Canal was taken off the node that joined")
		}
		// It is prepared and moved as the others were, and then all of it goes on.
		mustDo(t, w, deed{migration.Check, "n2"}, deed{migration.Leave, "n2"}, deed{migration.Swap, "n2"})
		mustDo(t, w, all[slices.Index(all, turn):]...)
	})
}

// A node that joins while Turn is made either has Canal and stops it, and is moved before it
// is made again; or it has Calico from its start. None has Canal and is overlooked.
func TestANodeThatJoinsInTheMiddleOfTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all := course(2)
		turn := deed{migration.Turn, ""}
		at := slices.Index(all, turn)
		before := newWorld(t, 2)
		mustDo(t, before, all[:at]...)
		canal, calico := 0, 0
		for n := 0; ; n++ {
			w, count := before.clone(), 0
			w.refuse = func(string, string) error {
				if count++; count-1 == n {
					w.add(t, 2)
					// The addresses that its pods have without Canal are none of host-local's.
					if !w.running("n2", "kube-flannel") {
						clear(w.nodes["n2"].hostLocal)
					}
				}
				return nil
			}
			_, err := do(t, w, turn)
			w.refuse = nil
			if count <= n {
				break
			}
			switch errs.TypeOf(err) {
			case errs.TypeConflict:
				canal++
				if !w.running("n2", "kube-flannel") || w.nodes["n2"].files[calicoFile.Name].Name != "" {
					t.Fatalf("at %d: n2 is to be moved, and has no Canal", n)
				}
				if n%stride() == 0 {
					mustDo(t, w, deed{migration.Check, "n2"}, deed{migration.Leave, "n2"}, deed{migration.Swap, "n2"})
					mustDo(t, w, all[at:]...)
				}
			case "":
				calico++
				if _, had := w.nodes["n2"].files[canalFile.Name]; err != nil || had || !w.running("n2", "calico-node") {
					t.Fatalf("at %d: %v; n2 has had Canal, and was overlooked", n, err)
				}
			default:
				t.Fatalf("at %d: %v", n, err)
			}
			if err == nil && n%stride() == 0 {
				mustDo(t, w, all[at+1:]...)
			}
		}
		if canal == 0 || calico == 0 {
			t.Errorf("it had Canal %d times, and Calico %d", canal, calico)
		}
	})
}

// A node that has just joined is waited for, and prepared whole also where that fails half-way.
func TestANodeThatHasJustJoined(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all := course(2)
		check := deed{migration.Check, "n2"}
		was := newWorld(t, 2)
		mustDo(t, was, all[:slices.Index(all, deed{migration.Turn, ""})]...)
		was.join(t, 2)
		becomes := func(w *world, status corev1.ConditionStatus) {
			w.mu.Lock()
			defer w.mu.Unlock()
			u := w.objects[kindOf("v1", "Node").key("", "n2")].DeepCopy()
			u.Object["status"].(map[string]any)["conditions"] = []any{map[string]any{"type": "Ready", "status": string(status)}}
			w.put(u)
		}
		w := was.clone()
		becomes(w, corev1.ConditionFalse)
		if _, err := do(t, w, check); errs.TypeOf(err) != errs.TypeDeadline || !strings.Contains(err.Error(), "node n2 is not ready") {
			t.Errorf("one that never is: %v", err)
		}
		time.AfterFunc(30*time.Second, func() { becomes(w, corev1.ConditionTrue) })
		mustDo(t, w, check)
		for n := 0; ; n += stride() {
			w := was.clone()
			count := fails(w, n)
			_, err := do(t, w, check)
			w.fault = nil
			if *count <= n {
				break
			}
			mustDo(t, w, check)
			owned := 0
			for _, u := range w.of("BlockAffinity") {
				if node, _, _ := unstructured.NestedString(u.Object, "spec", "node"); node == "n2" {
					owned++
				}
			}
			if owned != 4 {
				t.Errorf("failed at write %d (%v), and made again: n2 has %d blocks of 4", n, err, owned)
			}
		}
	})
}

// A node that joins once Calico is the choice has it from its start: nothing of flannel's is
// asked of it, and on the way back it keeps Calico by name until it is taken back itself.
func TestANodeThatJoinsAfterTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := course(2)
		at := slices.Index(all, deed{migration.Turn, ""})
		w := newWorld(t, 2)
		mustDo(t, w, all[:at+1]...)
		w.join(t, 2)
		// Its pods have addresses of Calico's.
		clear(w.nodes["n2"].hostLocal)
		delete(w.nodes["n2"].files, canalFile.Name)
		mustDo(t, w, all[at]) // made again, as by a daemon that was killed
		rest := all[at+1:]
		w2 := w.clone()
		mustDo(t, w, rest...)
		for _, u := range w.of("Node") {
			if l := u.GetLabels()[labelCNI]; l != "" {
				t.Errorf("%s has the label %s", u.GetName(), l)
			}
		}
		if w.running("n2", "kube-flannel") || !w.running("n2", "calico-node") || w.nodes["n2"].device {
			t.Error("n2 is not on Calico alone")
		}
		mustDo(t, w2, rest[:2]...)
		mustUndo(t, w2, all[at:at+3]...)
		n2 := w2.objects[kindOf("v1", "Node").key("", "n2")]
		if n2.GetLabels()[labelCNI] != cniCalico || !w2.running("n2", "kube-flannel") {
			t.Errorf("n2 has %v", n2.GetLabels())
		}
		// It has no way back, and says what to do; nothing of it is changed.
		before := w2.snapshot()
		_, err := undo(t, w2, deed{migration.Swap, "n2"})
		if errs.TypeOf(err) != errs.TypeUnavailable || !strings.Contains(err.Error(), "node n2 joined with Calico, and has nothing of Canal's to go back to: drain it") {
			t.Errorf("%v", err)
		}
		mustBe(t, "undo swap n2", before, w2)
		w2.mu.Lock()
		delete(w2.objects, keyOf(n2))
		w2.reconcile()
		w2.mu.Unlock()
		mustUndo(t, w2, deed{migration.Swap, "n2"})
		mustUndo(t, w2, all[:at]...)
	})
}

// A node that is gone is passed over on the way back.
func TestNodesThatAreGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		mustDo(t, w, course(2)[:4]...)
		for _, step := range []migration.Step{migration.Evict, migration.Leave, migration.Swap} {
			if _, err := undo(t, w, deed{step, "n7"}); err != nil {
				t.Errorf("undo %s: %v", step, err)
			}
			if _, err := do(t, w, deed{step, "n7"}); errs.TypeOf(err) != errs.TypeNotFound {
				t.Errorf("do %s: %v", step, err)
			}
		}
	})
}

// Every answer of the API server has a type, on the way there as on the way back, and an
// error says where it was. No content of Canal's configuration is in any.
func TestEveryErrorIsClassified(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all := course(2)
		was := stages(t, newWorld(t, 2), all)
		pods := schema.GroupResource{Resource: "pods"}
		faults := []struct {
			name     string
			err      error
			do, undo []string
		}{
			{"forbidden", apierrors.NewForbidden(pods, "x", errors.New("User \"portcullis\" cannot do this")), []string{errs.TypeDenied}, []string{errs.TypeUnavailable}},
			{"unauthorized", apierrors.NewUnauthorized("no"), []string{errs.TypeDenied, errs.TypeUnavailable}, []string{errs.TypeUnavailable}},
			{"broken", apierrors.NewInternalError(errors.New("etcd is away")), []string{errs.TypeUnavailable, errs.TypeDeadline}, []string{errs.TypeUnavailable}},
			{"conflict", apierrors.NewConflict(pods, "x", errors.New("changed")), []string{errs.TypeUnavailable, errs.TypeDeadline}, []string{errs.TypeUnavailable}},
			{"connection", errors.New("connection refused"), []string{errs.TypeUnavailable, errs.TypeDeadline}, []string{errs.TypeUnavailable}},
		}
		for i, d := range all {
			for k, f := range faults {
				for n := 0; n < 30; n = 2*n + 1 {
					if (i+k+n)%3 != 0 && !*everywhere {
						continue // each is tried at some steps, and at each step some are
					}
					for _, back := range []bool{false, true} {
						if back && d.step == migration.Clean {
							continue
						}
						w := was[i].clone()
						if back {
							w = was[i+1].clone()
						}
						count := 0
						w.refuse = func(string, string) error {
							if count++; count <= n {
								return nil
							}
							return f.err
						}
						call, want := do, f.do
						if back {
							call, want = undo, f.undo
						}
						_, err := call(t, w, d)
						what := d.String() + ": " + f.name
						switch {
						case err == nil:
						case !slices.Contains(want, errs.TypeOf(err)):
							t.Fatalf("%s after %d: %v", what, n, err)
						case !strings.Contains(err.Error(), "dev") && !strings.Contains(err.Error(), "node n"):
							t.Fatalf("%s after %d does not say where: %v", what, n, err)
						case strings.Contains(err.Error(), "https://"), strings.Contains(err.Error(), "s3cr3t"), strings.Contains(err.Error(), "\n"):
							t.Fatalf("%s after %d says too much: %v", what, n, err)
						}
					}
				}
			}
		}
	})
}

// What a step tells has no content of the objects that it keeps.
func TestStepsTellNoSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		all := course(2)
		look := func(d deed, out *StepResult, err error) {
			if err != nil {
				t.Fatal(err)
			}
			for _, line := range append(out.Changes, out.Evidence...) {
				if strings.Contains(line, "s3cr3t") || strings.Contains(line, "\n") {
					t.Errorf("%s: %s", d, line)
				}
			}
		}
		for _, d := range all[:len(all)-1] {
			out, err := do(t, w, d)
			look(d, out, err)
		}
		for _, d := range slices.Backward(all[:len(all)-1]) {
			out, err := undo(t, w, d)
			look(d, out, err)
		}
	})
}

func TestAddressesIn(t *testing.T) {
	t.Parallel()
	block := func(cidr string, allocations []any, handles ...string) *unstructured.Unstructured {
		var attributes []any
		for _, h := range handles {
			attributes = append(attributes, map[string]any{"handle_id": h})
		}
		return crd("IPAMBlock", "b", map[string]any{"cidr": cidr, "allocations": allocations, "attributes": attributes})
	}
	address := func(ip, container string) cni.Address {
		return cni.Address{IP: netip.MustParseAddr(ip), Container: container, Interface: "eth0"}
	}
	for _, tc := range []struct {
		name  string
		block *unstructured.Unstructured
		want  []cni.Address
		fails bool
	}{
		{"nobody's", block("10.0.0.0/30", []any{nil, nil, nil, nil}), nil, false},
		{"a tunnel's", block("10.0.0.0/30", []any{int64(0), nil, nil, nil}, "vxlan-tunnel-addr-n1"), nil, false},
		{"pods'", block("10.0.0.64/26", []any{nil, int64(1), nil, int64(0)}, podHandle+"aa", podHandle+"bb"),
			[]cni.Address{address("10.0.0.65", "bb"), address("10.0.0.67", "aa")}, false},
		{"two of one owner", block("10.0.0.0/30", []any{int64(0), int64(0)}, podHandle+"aa"), []cni.Address{address("10.0.0.0", "aa"), address("10.0.0.1", "aa")}, false},
		{"an owner that is not there", block("10.0.0.0/30", []any{int64(7), int64(-1), "x", 1.5}, podHandle+"aa"), nil, false},
		{"another network's", block("10.0.0.0/30", []any{int64(0)}, "other.aa"), nil, false},
		{"no addresses", crd("IPAMBlock", "b", map[string]any{"cidr": "10.0.0.0/30"}), nil, false},
		{"more than there are", block("255.255.255.252/30", []any{nil, nil, nil, nil, int64(0)}, podHandle+"aa"), nil, true},
		{"no network", crd("IPAMBlock", "b", map[string]any{}), nil, true},
		{"no list", crd("IPAMBlock", "b", map[string]any{"cidr": "10.0.0.0/30", "allocations": "x"}), nil, true},
		{"no owners", crd("IPAMBlock", "b", map[string]any{"cidr": "10.0.0.0/30", "attributes": map[string]any{}}), nil, true},
	} {
		got, err := addressesIn(tc.block)
		if (err != nil) != tc.fails || !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v %v", tc.name, got, err)
		}
	}
}

func FuzzAddressesIn(f *testing.F) {
	f.Add([]byte(`{"kind":"IPAMBlock","spec":{"cidr":"10.0.0.0/30","allocations":[null,0,1],"attributes":[{"handle_id":"k8s-pod-network.a"},{}]}}`))
	f.Add([]byte(`{"kind":"IPAMBlock","spec":{"cidr":"fd00::/122","allocations":[0],"attributes":[{"handle_id":"k8s-pod-network.a"}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		u := &unstructured.Unstructured{}
		if u.UnmarshalJSON(data) != nil {
			return
		}
		found, err := addressesIn(u)
		text, _, _ := unstructured.NestedString(u.Object, "spec", "cidr")
		seen := map[netip.Addr]bool{}
		for _, a := range found {
			if cidr := netip.MustParsePrefix(text); err != nil || !cidr.Contains(a.IP) || seen[a.IP] || a.Interface != "eth0" {
				t.Errorf("%v in %s: %v", a, text, err)
			}
			seen[a.IP] = true
		}
	})
}

// A pod that is started while its node goes back gets an address out of Calico's IPAM, which
// host-local must know of too.
func TestAPodThatStartsWhileItsNodeGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := course(2)
		w := newWorld(t, 2)
		swap := deed{migration.Swap, "n0"}
		mustDo(t, w, all[:slices.Index(all, swap)+1]...)
		w.asked = func(node string, op cni.Op) {
			if op == cni.OpRestore && node == "n0" && w.nodes[node].hostLocal["10.42.0.5"] == "" {
				w.assign(netip.MustParseAddr("10.42.0.9"), podHandle+"late", node)
			}
		}
		mustUndo(t, w, swap)
		if got := w.nodes["n0"].hostLocal; got["10.42.0.9"] != "late" || got["10.42.0.5"] != "c00" || len(got) != 3 {
			t.Errorf("host-local has %v", got)
		}
		for _, u := range w.of("IPAMHandle") {
			if strings.HasPrefix(u.GetName(), "k8s-pod-network.") && !strings.Contains(u.GetName(), ".c1") {
				t.Errorf("%s is left", u.GetName())
			}
		}
	})
}

// A block that Calico changes at the same time is not written over.
func TestABlockThatChangesWhileItIsEmptied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := course(2)
		w := newWorld(t, 2)
		swap := deed{migration.Swap, "n0"}
		mustDo(t, w, all[:slices.Index(all, swap)+1]...)
		raced := false
		w.fault = func(what string, late bool) error {
			if !raced && !late && strings.HasPrefix(what, "PUT") && strings.Contains(what, "ipamblocks/10-42-0-0-26") {
				raced = true
				w.assign(netip.MustParseAddr("10.42.0.10"), podHandle+"late", "n0")
			}
			return nil
		}
		_, err := undo(t, w, swap)
		if !raced || errs.TypeOf(err) != errs.TypeUnavailable {
			t.Fatalf("%v %v", raced, err)
		}
		mustUndo(t, w, swap)
		if got := w.nodes["n0"].hostLocal; got["10.42.0.10"] != "late" {
			t.Errorf("host-local has %v", got)
		}
	})
}

// The nodes could not be listed is not the same as that there is one alone.
func TestEnterThatCannotListTheNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := course(2)
		leave := deed{migration.Leave, "n0"}
		w := newWorld(t, 2)
		mustDo(t, w, all[:slices.Index(all, leave)+1]...)
		lists := 0
		w.refuse = func(verb, path string) error {
			if verb == "GET" && path == "/api/v1/nodes" {
				if lists++; lists > 1 { // the first is the migrator's
					return errors.New("connection refused")
				}
			}
			return nil
		}
		if _, err := undo(t, w, leave); errs.TypeOf(err) != errs.TypeUnavailable {
			t.Errorf("%v", err)
		}
	})
}

// The drain honours budgets until its time is over, and says which pod could not go.
func TestEvict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := course(2)
		evict := deed{migration.Evict, "n1"}
		before := newWorld(t, 2)
		mustDo(t, before, all[:slices.Index(all, evict)]...)

		w := before.clone()
		blocked := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 0)
		w.fault = func(what string, late bool) error {
			if !late && strings.HasSuffix(what, "web-1-1/eviction") {
				return blocked
			}
			return nil
		}
		_, err := do(t, w, evict)
		if errs.TypeOf(err) != errs.TypeDeadline || !strings.Contains(err.Error(), "node n1 could not be drained within 1m0s") || !strings.Contains(err.Error(), "web-1-1") {
			t.Errorf("%v", err)
		}
		n := w.objects[kindOf("v1", "Node").key("", "n1")]
		if n.Object["spec"].(map[string]any)["unschedulable"] != true || n.GetAnnotations()[annotationCordoned] != testMigration {
			t.Errorf("%v", n.Object)
		}
		w.fault = nil
		mustUndo(t, w, evict)
		n = w.objects[kindOf("v1", "Node").key("", "n1")]
		if n.Object["spec"].(map[string]any)["unschedulable"] == true || n.GetAnnotations()[annotationCordoned] != "" {
			t.Errorf("%v", n.Object)
		}

		// A node that a person cordoned stays so.
		w = before.clone()
		n = w.objects[kindOf("v1", "Node").key("", "n1")].DeepCopy()
		n.Object["spec"].(map[string]any)["unschedulable"] = true
		w.put(n)
		mustDo(t, w, evict)
		mustUndo(t, w, evict)
		if n = w.objects[kindOf("v1", "Node").key("", "n1")]; n.Object["spec"].(map[string]any)["unschedulable"] != true {
			t.Error("a person's cordon was taken away")
		}

		// What may work later is tried again, what is refused is not.
		for kind, fault := range map[string]error{
			errs.TypeUnavailable: errors.New("connection reset by peer"),
			errs.TypeDenied:      apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "web-1-1", errors.New("no")),
		} {
			w = before.clone()
			w.fault = func(what string, late bool) error {
				if !late && strings.HasSuffix(what, "/eviction") {
					return fault
				}
				return nil
			}
			if _, err := do(t, w, evict); errs.TypeOf(err) != kind {
				t.Errorf("%s: %v", kind, err)
			}
		}
	})
}

// A drained node is left alone until its pods run elsewhere, but for no longer than they
// may need that node itself.
func TestEvictedPodsStartElsewhere(t *testing.T) {
	const note = "2 pods that left n1 were not ready elsewhere within 1m0s"
	for name, c := range map[string]struct {
		// after is when as many pods are there again; never, where it is zero.
		after, took time.Duration
	}{
		"soon":  {after: 10 * time.Second, took: 10 * time.Second},
		"late":  {after: 5 * time.Minute, took: replacedWithin},
		"never": {took: replacedWithin},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				all := course(2)
				evict := deed{migration.Evict, "n1"}
				w := newWorld(t, 2)
				mustDo(t, w, all[:slices.Index(all, evict)]...)
				begun := time.Now()
				if c.after > 0 {
					go func() {
						time.Sleep(c.after)
						w.mu.Lock()
						defer w.mu.Unlock()
						for i, ip := range []string{"10.42.0.200", "10.42.0.201"} {
							w.put(raw(t, workload(fmt.Sprintf("web-new-%d", i), "n0", ip)))
						}
					}()
				}
				done, err := do(t, w, evict)
				defer time.Sleep(c.after) // whoever comes too late ends too
				if err != nil {
					t.Fatal(err)
				}
				took := time.Since(begun)
				if took < c.took || took > c.took+10*time.Second {
					t.Errorf("took %s, want %s", took, c.took)
				}
				if own := done.Took - done.Waited; own > time.Second {
					t.Errorf("%s of %s count as the migration's own", own, done.Took)
				}
				if gaveUp := slices.Contains(done.Changes, note); gaveUp != (c.took == replacedWithin) {
					t.Errorf("%q", done.Changes)
				}
			})
		})
	}
}

// A swap that does not come to its end says what is awaited.
func TestSwapThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := course(2)
		swap := deed{migration.Swap, "n1"}
		w := newWorld(t, 2)
		mustDo(t, w, all[:slices.Index(all, swap)]...)
		before := w.snapshot()
		w.shut[calicoDaemonSet] = true
		_, err := do(t, w, swap)
		if errs.TypeOf(err) != errs.TypeDeadline || !strings.Contains(err.Error(), "cluster dev: Calico on n1: not within 1m0s: pod kube-system/calico-node-n1: not ready yet") {
			t.Errorf("%v", err)
		}
		mustUndo(t, w, swap)
		mustBe(t, "undo swap", before, w)
	})
}

// From the moment that Calico's overlay is up until the end, on every node, on either side
// and on the way between, its device has the planned MTU; Felix alone would choose another.
func TestTheMTUStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		look := func(d deed) {
			t.Helper()
			for name := range w.nodes {
				if v := w.vxlan(name); v == nil || v.MTU != podMTU {
					t.Errorf("after %s %s has %+v", d, name, v)
				}
			}
		}
		all := course(2)
		mustDo(t, w, all[0])
		for _, d := range all[1:] {
			mustDo(t, w, d)
			look(d)
		}
		config := w.objects[kindOf("v1", "ConfigMap").key("kube-system", "calico-config")]
		if got, _, _ := unstructured.NestedString(config.Object, "data", keyMTU); got != "1450" {
			t.Errorf("%s is %q", keyMTU, got)
		}
	})
}

// Canal's pods of the time when the nodes were split are made anew when that is over, one
// after the other, and all is not as it was before the last of them.
func TestCanalsPodsAreMadeAnew(t *testing.T) {
	for _, tc := range []struct {
		name        string
		every       time.Duration
		left        int
		least, most time.Duration
		says        string
	}{
		{"one after the other", 11 * time.Second, 0, 22 * time.Second, 45 * time.Second, ""},
		{"one is away", 24 * time.Hour, 3, 44 * time.Second, 50 * time.Second, "its DaemonSet has stopped"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 3)
				all := reversible(course(3))
				split := slices.IndexFunc(all, func(d deed) bool { return d.step == migration.Split })
				turn := slices.IndexFunc(all, func(d deed) bool { return d.step == migration.Turn })
				mustDo(t, w, all[:turn]...)
				mustUndo(t, w, all[split+1:turn]...)
				w.renewEvery = tc.every
				// The controller works on while others wait.
				controller := time.NewTicker(time.Second)
				end, stopped := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(stopped)
					for {
						select {
						case <-controller.C:
							w.mu.Lock()
							w.reconcile()
							w.mu.Unlock()
						case <-end:
							return
						}
					}
				}()
				begun := time.Now()
				got, err := undo(t, w, all[split])
				took := time.Since(begun)
				// What follows reads the cluster without its lock.
				controller.Stop()
				close(end)
				<-stopped
				if err != nil {
					t.Fatal(err)
				}
				if took < tc.least || took > tc.most {
					t.Errorf("it took %s", took)
				}
				left := 0
				for _, u := range w.of("Pod") {
					if strings.HasPrefix(u.GetName(), "canal-") && strings.Contains(string(mustJSON(t, u.Object)), labelCNI) {
						left++
					}
				}
				if left != tc.left || !strings.Contains(strings.Join(got.Changes, "; "), tc.says) {
					t.Errorf("%d pods are of the time before; %v", left, got.Changes)
				}
			})
		})
	}
}
