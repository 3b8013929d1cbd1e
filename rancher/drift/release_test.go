package drift

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// packed is a release as Helm stores it.
func packed(t testing.TB, release any) []byte {
	t.Helper()
	data, err := json.Marshal(release)
	if err != nil {
		t.Fatal(err)
	}
	return sealed(t, data)
}

func sealed(t testing.TB, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	_, err := z.Write(data)
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return []byte(base64.StdEncoding.EncodeToString(buf.Bytes()))
}

const manifest = `
---
# Source: policies/templates/a.yaml
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: data}
spec: {podSelector: {}}
---

---
apiVersion: v1
kind: List
items:
- {apiVersion: crd.projectcalico.org/v1, kind: GlobalNetworkPolicy, metadata: {name: default.deny}, spec: {order: 2000}}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {a: b}}
`

func TestDecodeRelease(t *testing.T) {
	in := map[string]any{
		"name": "policies", "namespace": "np", "version": 3, "manifest": manifest, "info": map[string]any{"status": "deployed"},
		"chart": map[string]any{"metadata": map[string]any{"annotations": map[string]any{chartBundle: "b", chartCommit: "abc"}}, "templates": []any{}},
	}
	plain, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"gzip": packed(t, in), "as of old": []byte(base64.StdEncoding.EncodeToString(plain))} {
		r, err := DecodeRelease(data)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if r.Bundle() != "b" || r.Commit() != "abc" || r.Info.Status != "deployed" || r.Version != 3 {
			t.Errorf("%s: %+v", name, r)
		}
		objects, err := r.Objects()
		if err != nil {
			t.Fatal(err)
		}
		var keys []string
		for _, o := range objects {
			keys = append(keys, o.Key.String())
		}
		if got := strings.Join(keys, ", "); got != "NetworkPolicy data/db, GlobalNetworkPolicy default.deny, ConfigMap c" {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestDecodeReleaseRefuses(t *testing.T) {
	bomb := sealed(t, bytes.Repeat([]byte(" "), maxRelease+10))
	if len(bomb) > 1<<20 {
		t.Fatalf("the bomb has %d bytes: it would not fit into a Secret", len(bomb))
	}
	good := packed(t, map[string]any{"name": "a", "version": 1})
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"nothing":    {nil, "not JSON"},
		"no base64":  {[]byte("%%%"), "not base64"},
		"no JSON":    {sealed(t, []byte("x")), "not JSON"},
		"cut short":  {[]byte(base64.StdEncoding.EncodeToString(unsealed(t, good)[:30])), "ends in the middle"},
		"a bomb":     {bomb, "larger than 32 MiB"},
		"no version": {packed(t, map[string]any{"name": "a"}), "no name or version"},
		"other JSON": {sealed(t, []byte(`[1]`)), "not JSON as Helm"},
	} {
		if _, err := DecodeRelease(c.data); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	for name, text := range map[string]string{
		"no YAML": "a: [", "no kind": "metadata: {name: x}", "no object": "- a", "no name": "kind: A\napiVersion: v1",
	} {
		if _, err := (&Release{Name: "a", Manifest: text}).Objects(); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func unsealed(t *testing.T, data []byte) []byte {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(string(data))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestParseReleaseRef(t *testing.T) {
	ref, err := ParseReleaseRef("network-policies/infra:12")
	if err != nil || ref != (ReleaseRef{"network-policies", "infra", 12}) || ref.Secret() != "sh.helm.release.v1.infra.v12" || ref.String() != "network-policies/infra:12" {
		t.Errorf("%+v, %v", ref, err)
	}
	for _, bad := range []string{"", "a", "a/b", "a/b:", "a/b:0", "a/b:-1", "a/b:x", "/b:1", "a/:1", "../b:1", "a/b/c:1", "a/b?x:1", "a/b c:1"} {
		if ref, err := ParseReleaseRef(bad); err == nil {
			t.Errorf("%q was taken for %+v", bad, ref)
		}
	}
}

// FuzzDecodeRelease feeds what a Secret of that type may hold: whoever may write Secrets on
// a cluster can put anything there.
func FuzzDecodeRelease(f *testing.F) {
	for _, seed := range []string{
		`{"name":"a","namespace":"n","version":1,"manifest":"apiVersion: v1\nkind: A\nmetadata: {name: x}","info":{"status":"deployed"}}`,
		`{"name":"a","version":1,"manifest":"kind: List\napiVersion: v1\nitems: [{kind: A}]"}`,
		`{"name":"a","version":1,"manifest":"a: &a [*a]"}`, `null`, `{}`, ``,
	} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	f.Fuzz(func(t *testing.T, data []byte, wrap bool) {
		if len(data) > 1<<20 {
			t.Skip()
		}
		if wrap {
			data = sealed(t, data)
		}
		r, err := DecodeRelease(data)
		if err != nil {
			return
		}
		objects, err := r.Objects()
		if err != nil {
			return
		}
		w := NewWish(objects)
		live := map[Type][]*Object{}
		for _, o := range objects {
			live[o.Type()] = append(live[o.Type()], o)
		}
		findings, unknown := Compare(Input{Releases: []Held{{Ref: ReleaseRef{"n", "a", 1}, Wish: w}}, Live: live})
		if len(unknown) > 0 {
			t.Error(unknown)
		}
		// An object that stands twice in a manifest may differ from its namesake.
		seen := map[Key]bool{}
		for _, o := range objects {
			if seen[o.Key] {
				return
			}
			seen[o.Key] = true
		}
		for _, f := range findings {
			if f.Category == Changed || f.Category == Missing {
				t.Error(fmt.Sprint(f))
			}
		}
	})
}
