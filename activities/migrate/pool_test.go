package migrate

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"portcullis.dev/portcullis/probes/cni"
	"portcullis.dev/portcullis/probes/migration"
)

// The pool that Canal's calico-node made goes in the end, and any that may be somebody's stays.
func TestThePoolThatNobodyUsed(t *testing.T) {
	t.Parallel()
	key := kindOf("crd.projectcalico.org/v1", "IPPool").key("", defaultPool)
	set := func(fields ...string) func(u *unstructured.Unstructured) {
		return func(u *unstructured.Unstructured) {
			if err := unstructured.SetNestedField(u.Object, fields[len(fields)-1], fields[:len(fields)-1]...); err != nil {
				panic(err)
			}
		}
	}
	spec := func(field string, value any) func(u *unstructured.Unstructured) {
		return func(u *unstructured.Unstructured) { u.Object["spec"].(map[string]any)[field] = value }
	}
	const own = calicoDomain + "metadata"
	for name, c := range map[string]struct {
		// before is what the pool is before the migration, during what happens to it meanwhile.
		before, during func(u *unstructured.Unstructured)
		also           *unstructured.Unstructured
		// why it stays; empty where it goes.
		why string
	}{
		"as calico-node makes it": {before: func(u *unstructured.Unstructured) {
			spec("allowedUses", []any{"Workload", "Tunnel"})(u)
			set("metadata", "annotations", own, `{"creationTimestamp":"2026-11-23T14:06:55Z"}`)(u)
		}},
		"as another version makes it": {before: func(u *unstructured.Unstructured) {
			spec("assignmentMode", "Automatic")(u)
			spec("disableBGPExport", false)(u)
			spec("ipipMode", "Never")(u)
		}},
		"of a network that somebody chose":    {before: spec("cidr", "172.20.0.0/16"), why: "does not make one with cidr 172.20.0.0/16"},
		"kept from being masqueraded":         {before: spec("disabled", true), why: "with disabled true"},
		"of some nodes":                       {before: spec("nodeSelector", "zone == 'a'"), why: "with nodeSelector"},
		"for tunnels":                         {before: spec("allowedUses", []any{"Tunnel"}), why: "with allowedUses"},
		"with a field that is not known":      {before: spec("purpose", "mine"), why: "with purpose mine"},
		"with a label":                        {before: set("metadata", "labels", "team", "a"), why: "labels"},
		"applied":                             {before: set("metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration", "{}"), why: "annotations"},
		"with a label that calicoctl gave it": {before: set("metadata", "annotations", own, `{"labels":{"team":"a"}}`), why: "annotations"},
		"with metadata that cannot be read":   {before: set("metadata", "annotations", own, "x"), why: "annotations"},
		"with a label that it got meanwhile":  {during: set("metadata", "labels", "team", "a"), why: "labels"},
		"that was enabled meanwhile":          {during: spec("disabled", false), why: "it was changed while the migration ran"},
		"that was changed meanwhile":          {during: spec("natOutgoing", false), why: "it was changed while the migration ran"},
		"with a block":                        {also: crd("IPAMBlock", "192-168-3-0-26", map[string]any{"cidr": "192.168.3.0/26", "allocations": []any{}}), why: "IPAMBlock 192-168-3-0-26 is of it"},
		"with a block that is somebody's":     {also: crd("BlockAffinity", "n0-192-168-3-0-26", map[string]any{"cidr": "192.168.3.0/26", "node": "n0"}), why: "BlockAffinity n0-192-168-3-0-26 is of it"},
		"with a block that cannot be read":    {also: crd("BlockAffinity", "odd", map[string]any{"cidr": "?", "node": "n0"}), why: "BlockAffinity odd is of it"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1)
				change := func(f func(u *unstructured.Unstructured)) {
					if f != nil {
						u := w.objects[key].DeepCopy()
						f(u)
						w.put(u)
					}
				}
				change(c.before)
				all := slices.DeleteFunc(course(1), func(d deed) bool { return d.step == migration.Clean })
				mustDo(t, w, all...)
				change(c.during)
				if c.also != nil {
					w.put(c.also)
				}
				was := w.objects[key].DeepCopy()
				done, err := do(t, w, deed{migration.Clean, ""})
				if err != nil {
					t.Fatal(err)
				}
				told := strings.Join(done.Changes, "\n")
				is, stays := w.objects[key]
				switch {
				case stays != (c.why != ""):
					t.Errorf("stays: %t\n%s", stays, told)
				case !stays && !strings.Contains(told, "pool default-ipv4-ippool of 192.168.0.0/16, which Canal made and nobody used, deleted"):
					t.Errorf("it is not told:\n%s", told)
				case stays && (!strings.Contains(told, c.why) || is.GetResourceVersion() != was.GetResourceVersion()):
					t.Errorf("it is to stay untouched, and to be told with %q:\n%s", c.why, told)
				}
			})
		})
	}
}

// Somebody else's pools stay, and so does the pods' own, under whatever name.
func TestOtherPoolsStay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		k := kindOf("crd.projectcalico.org/v1", "IPPool")
		w.mu.Lock()
		delete(w.objects, k.key("", defaultPool))
		w.put(crd("IPPool", defaultPool, map[string]any{"cidr": "10.42.0.0/16", "blockSize": int64(26), "natOutgoing": true, "nodeSelector": "all()"}))
		w.put(crd("IPPool", "no-nat", map[string]any{"cidr": "192.168.0.0/16", "disabled": true}))
		w.mu.Unlock()
		mustDo(t, w, course(1)...)
		for _, name := range []string{defaultPool, "no-nat"} {
			if w.objects[k.key("", name)] == nil {
				t.Errorf("%s is gone", name)
			}
		}
	})
}

// It goes before flannel's rules do: until then both give what pods send the node's address.
func TestThePoolGoesBeforeFlannelsRules(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, all := newWorld(t, 1), course(1)
		mustDo(t, w, all[:len(all)-1]...)
		begun := len(w.log)
		w.asked = func(string, cni.Op) {
			if w.objects[kindOf("crd.projectcalico.org/v1", "IPPool").key("", defaultPool)] != nil {
				t.Errorf("a node was asked to clean, and the pool is there: %v", w.log[begun:])
			}
		}
		mustDo(t, w, all[len(all)-1])
	})
}
