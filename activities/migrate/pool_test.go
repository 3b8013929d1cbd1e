package migrate

import (
	"cmp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"portcullis.dev/portcullis/probes/cni"
)

// pool is as Canal's calico-node makes it, and then changed.
func pool(changes ...func(u *unstructured.Unstructured)) *unstructured.Unstructured {
	u := crd("IPPool", defaultPool, map[string]any{
		"cidr": "192.168.0.0/16", "blockSize": int64(26), "ipipMode": "Never", "vxlanMode": "Never", "natOutgoing": true,
		"nodeSelector": "all()", "allowedUses": []any{"Workload", "Tunnel"},
	})
	u.SetAnnotations(map[string]string{calicoDomain + "metadata": `{"creationTimestamp":"2026-11-23T14:06:55Z"}`})
	for _, change := range changes {
		change(u)
	}
	return u
}

func spec(field string, value any) func(u *unstructured.Unstructured) {
	return func(u *unstructured.Unstructured) { u.Object["spec"].(map[string]any)[field] = value }
}

func note(key, value string) func(u *unstructured.Unstructured) {
	return func(u *unstructured.Unstructured) { u.SetAnnotations(map[string]string{key: value}) }
}

// A pool that may be somebody's is told from the one that calico-node made for nobody.
func TestSomebodysPool(t *testing.T) {
	label := func(u *unstructured.Unstructured) { u.SetLabels(map[string]string{"team": "a"}) }
	named := func(u *unstructured.Unstructured) { u.SetName("pods") }
	const own = calicoDomain + "metadata"
	type changes = []func(u *unstructured.Unstructured)
	for name, c := range map[string]struct {
		// before is how it was found, during what happened to it since; it was disabled by us.
		before, during changes
		why            string
	}{
		"as calico-node makes it":             {},
		"by another version":                  {before: changes{spec("assignmentMode", "Automatic"), spec("disableBGPExport", false), spec("ipipMode", "Always")}},
		"by kubectl, without annotations":     {before: changes{func(u *unstructured.Unstructured) { u.SetAnnotations(nil) }}},
		"under another name":                  {before: changes{named}, why: "none that calico-node makes by itself"},
		"of a network that somebody chose":    {before: changes{spec("cidr", "172.20.0.0/16")}, why: "does not make one with cidr 172.20.0.0/16"},
		"kept from being masqueraded":         {before: changes{spec("disabled", true)}, why: "with disabled true"},
		"of some nodes":                       {before: changes{spec("nodeSelector", "zone == 'a'")}, why: "with nodeSelector"},
		"for tunnels":                         {before: changes{spec("allowedUses", []any{"Tunnel"})}, why: "with allowedUses"},
		"of other blocks":                     {before: changes{spec("blockSize", int64(28))}, why: "with blockSize 28"},
		"with a field that is not known":      {before: changes{spec("purpose", "mine")}, why: "with purpose mine"},
		"with a label":                        {before: changes{label}, why: "labels"},
		"applied":                             {before: changes{note("kubectl.kubernetes.io/last-applied-configuration", "{}")}, why: "annotations"},
		"with a label that calicoctl gave it": {before: changes{note(own, `{"labels":{"team":"a"}}`)}, why: "annotations"},
		"with metadata that cannot be read":   {before: changes{note(own, "x")}, why: "annotations"},
		"with a label since":                  {during: changes{label}, why: "labels"},
		"enabled since":                       {during: changes{spec("disabled", false)}, why: "changed while the migration ran"},
		"changed since":                       {during: changes{spec("natOutgoing", false)}, why: "changed while the migration ran"},
	} {
		is := append(append(slices.Clone(c.before), spec("disabled", true)), c.during...)
		got := somebodys(pool(c.before...), pool(is...))
		if (got == "") != (c.why == "") || !strings.Contains(got, c.why) {
			t.Errorf("%s: %q, want %q", name, got, c.why)
		}
	}
	if got := somebodys(nil, pool()); !strings.Contains(got, "made while the migration ran") {
		t.Errorf("one that was not there before: %q", got)
	}
}

// The pool that Canal's calico-node made goes in the end, where no block of it is there.
func TestThePoolThatNobodyUsed(t *testing.T) {
	t.Parallel()
	key := kindOf("crd.projectcalico.org/v1", "IPPool").key("", defaultPool)
	synctest.Test(t, func(t *testing.T) {
		all := course(1)
		before := newWorld(t, 1)
		mustDo(t, before, all[:len(all)-1]...)
		for name, c := range map[string]struct {
			also *unstructured.Unstructured
			// why it stays; empty where it goes.
			why string
		}{
			"nothing in it":                    {},
			"with a block":                     {crd("IPAMBlock", "192-168-3-0-26", map[string]any{"cidr": "192.168.3.0/26", "allocations": []any{}}), "IPAMBlock 192-168-3-0-26 is of it"},
			"with a block that is somebody's":  {crd("BlockAffinity", "n0-192-168-3-0-26", map[string]any{"cidr": "192.168.3.0/26", "node": "n0"}), "BlockAffinity n0-192-168-3-0-26 is of it"},
			"with a block that cannot be read": {crd("BlockAffinity", "odd", map[string]any{"cidr": "?", "node": "n0"}), "BlockAffinity odd is of it"},
		} {
			w := before.clone()
			if c.also != nil {
				w.put(c.also)
			}
			done, err := do(t, w, all[len(all)-1])
			if err != nil {
				t.Fatal(err)
			}
			told, want := strings.Join(done.Changes, "\n"), cmp.Or(c.why, "pool default-ipv4-ippool of 192.168.0.0/16, which Canal made and nobody used, deleted")
			if stays := w.objects[key] != nil; stays != (c.why != "") || !strings.Contains(told, want) {
				t.Errorf("%s: stays %t\n%s", name, stays, told)
			}
		}
	})
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
