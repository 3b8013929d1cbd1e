package snapshot

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
)

func list(items ...string) []byte {
	out := []byte(`{"items":[`)
	for i, item := range items {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, item...)
	}
	return append(out, "]}"...)
}

func TestDiff(t *testing.T) {
	daemonSet := `{"apiVersion":"apps/v1","kind":"DaemonSet","metadata":{"namespace":"kube-system","name":"canal","uid":"%s","generation":%d,
"annotations":{"deprecated.daemonset.template.generation":"%d"}},"spec":{"template":{"metadata":{"creationTimestamp":null},"spec":{"containers":[{"image":"%s"}]}}},"status":{"numberReady":%d}}`
	node := `{"apiVersion":"v1","kind":"Node","metadata":{"name":"one","labels":{"a":"b"%s}}}`
	for _, c := range []struct {
		name          string
		before, after string
		want          []string
	}{
		{"counted", fmt.Sprintf(daemonSet, "x", 1, 1, "a", 3), fmt.Sprintf(daemonSet, "y", 4, 4, "a", 2), nil},
		{"changed", fmt.Sprintf(daemonSet, "x", 1, 1, "a", 3), fmt.Sprintf(daemonSet, "x", 1, 1, "b", 3),
			[]string{`DaemonSet.apps kube-system/canal: spec.template.spec.containers[0].image is "b", it was "a"`}},
		{"a field more", fmt.Sprintf(node, ""), fmt.Sprintf(node, `,"c":"d"`), []string{`Node one: metadata.labels.c is new, "d"`}},
		{"a field less", fmt.Sprintf(node, `,"c":"d"`), fmt.Sprintf(node, ""), []string{`Node one: metadata.labels.c is gone, it was "d"`}},
		{"another object", fmt.Sprintf(node, ""), `{"apiVersion":"v1","kind":"Node","metadata":{"name":"two"}}`, []string{"Node one is gone", "Node two is new"}},
		{"pods pass", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}`, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b"}}`, nil},
		{"a renewed token", `{"apiVersion":"v1","kind":"Secret","type":"kubernetes.io/service-account-token","metadata":{"name":"a"},"data":{"token":"x"}}`,
			`{"apiVersion":"v1","kind":"Secret","type":"kubernetes.io/service-account-token","metadata":{"name":"a"},"data":{"token":"y"}}`, nil},
		{"another secret", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"},"data":{"k":"x"}}`, `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"},"data":{"k":"y"}}`,
			[]string{`Secret a: data.k is "y", it was "x"`}},
		{"a time that is null", `{"kind":"Node","metadata":{"name":"a","x":null}}`, `{"kind":"Node","metadata":{"name":"a"}}`, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, err := Of(list(c.before))
			if err != nil {
				t.Fatal(err)
			}
			after, err := Of(list(c.after))
			if err != nil {
				t.Fatal(err)
			}
			if got := Diff(before, after); !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	if _, err := Of([]byte("no JSON")); err == nil {
		t.Error("what is no list was read")
	}
}

// What is equal has no difference, whatever it is.
func FuzzSame(f *testing.F) {
	f.Add(`{"kind":"Node","metadata":{"name":"a","annotations":{"x":"y"}},"spec":[1,{"a":null}]}`)
	f.Fuzz(func(t *testing.T, object string) {
		var any map[string]any
		if json.Unmarshal([]byte(object), &any) != nil {
			t.Skip()
		}
		one, err := Of(list(object))
		if err != nil {
			t.Skip()
		}
		two, _ := Of(list(object))
		if d := Diff(one, two); len(d) > 0 {
			t.Errorf("%q", d)
		}
	})
}
