package policies

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

var environments = map[string]string{"dev": "10.45.0.0/16", "staging": "10.46.0.0/16", "prod": "10.47.0.0/16"}

var bundles = []string{"infrastructure", "applications"}

// render fills a bundle's templates for an environment. It knows the four
// functions of Helm that the repository uses.
func render(t *testing.T, tree map[string][]byte, bundle, env string) (string, error) {
	t.Helper()
	root := "bundles/" + bundle + "/"
	values := map[string]any{}
	for _, f := range []string{"values.yaml", "overlays/" + env + "/values.yaml"} {
		if err := yaml.Unmarshal(tree[root+f], &values); err != nil {
			t.Fatalf("%s%s: %v", root, f, err)
		}
	}
	tpl := template.New(bundle).Option("missingkey=error")
	tpl.Funcs(template.FuncMap{
		"list": func(v ...any) []any { return v },
		"required": func(msg string, v any) (any, error) {
			if v == nil || v == "" {
				return nil, errors.New(msg)
			}
			return v, nil
		},
		"include": func(name string, data any) (string, error) {
			var b bytes.Buffer
			err := tpl.ExecuteTemplate(&b, name, data)
			return strings.TrimSpace(b.String()), err
		},
	})
	var out bytes.Buffer
	names := slices.Sorted(maps.Keys(tree))
	for _, n := range names {
		if strings.HasPrefix(n, root+"templates/") {
			template.Must(tpl.New(n).Parse(string(tree[n])))
		}
	}
	for _, n := range names {
		if strings.HasPrefix(n, root+"templates/") && strings.HasSuffix(n, ".yaml") {
			out.WriteString("\n---\n")
			if err := tpl.ExecuteTemplate(&out, n, map[string]any{"Values": values}); err != nil {
				return "", err
			}
		}
	}
	return out.String(), nil
}

func parse(text string) ([]unstructured.Unstructured, error) {
	var out []unstructured.Unstructured
	for doc := range strings.SplitSeq(text, "\n---\n") {
		var u unstructured.Unstructured
		if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
			return nil, err
		}
		if len(u.Object) > 0 {
			out = append(out, u)
		}
	}
	return out, nil
}

func renderAll(t *testing.T, scenario, env string) string {
	t.Helper()
	tree, err := Tree(scenario)
	if err != nil {
		t.Fatal(err)
	}
	var all string
	for _, b := range bundles {
		s, err := render(t, tree, b, env)
		if err != nil {
			t.Fatalf("%s, %s, %s: %v", scenario, b, env, err)
		}
		all += s
	}
	return all
}

// TestEveryPolicyIsExplicit holds every valid scenario to what Calico would
// otherwise guess: types, order, and whom a policy is about.
func TestEveryPolicyIsExplicit(t *testing.T) {
	for _, name := range Names() {
		if name == "malformed" {
			continue
		}
		for env := range environments {
			objs, err := parse(renderAll(t, name, env))
			if err != nil {
				t.Fatalf("%s in %s: %v", name, env, err)
			}
			if len(objs) < 9 {
				t.Errorf("%s in %s: only %d objects", name, env, len(objs))
			}
			for _, o := range objs {
				if why := vague(o.Object); why != "" {
					t.Errorf("%s in %s: %s %s: %s", name, env, o.GetKind(), o.GetName(), why)
				}
			}
		}
	}
}

func vague(o map[string]any) string {
	spec := o["spec"].(map[string]any)
	name := o["metadata"].(map[string]any)["name"].(string)
	switch o["kind"] {
	case "GlobalNetworkPolicy":
		sel, _ := spec["namespaceSelector"].(string)
		switch {
		case len(asList(spec["types"])) == 0:
			return "no types"
		case spec["order"] == nil:
			return "no order"
		case !strings.HasPrefix(sel, "has(projectcalico.org/name) && ") && !strings.Contains(sel, "=="):
			return "namespaceSelector would select host endpoints: " + sel
		case !strings.HasPrefix(name, "default."):
			return "calicoctl would not find it by its name"
		case o["apiVersion"] != "crd.projectcalico.org/v1":
			return fmt.Sprint("apiVersion is ", o["apiVersion"])
		}
	case "NetworkPolicy":
		if len(asList(spec["policyTypes"])) == 0 {
			return "no policyTypes"
		}
		if o["metadata"].(map[string]any)["namespace"] == nil {
			return "no namespace"
		}
	}
	return ""
}

func asList(v any) []any { l, _ := v.([]any); return l }

func TestScenariosDifferWhereTheySayTheyDo(t *testing.T) {
	for _, c := range []struct {
		scenario, from string
		changed        []string
	}{
		{"good", "v1", []string{"dev", "staging", "prod"}},
		{"bad-in-dev", "good", []string{"dev", "staging", "prod"}},
		{"opens-database", "good", []string{"dev", "staging", "prod"}},
		{"bad-only-in-prod", "good", []string{"prod"}},
		{"override-targets", "good", nil},
	} {
		for env := range environments {
			differs := renderAll(t, c.scenario, env) != renderAll(t, c.from, env)
			if want := slices.Contains(c.changed, env); differs != want {
				t.Errorf("%s differs from %s in %s: %v, want %v", c.scenario, c.from, env, differs, want)
			}
		}
	}
	if tree, _ := Tree("override-targets"); !bytes.Contains(tree["bundles/applications/fleet.yaml"], []byte("\noverrideTargets:")) {
		t.Error("override-targets has no overrideTargets")
	}
	if _, err := parse(renderAll(t, "malformed", "dev")); err == nil {
		t.Error("malformed parses")
	}
}

func TestClusterCIDRs(t *testing.T) {
	tree, err := Tree(First)
	if err != nil {
		t.Fatal(err)
	}
	for env, want := range environments {
		for _, b := range bundles {
			var v struct{ ClusterCIDR, NodeNetworkCIDR string }
			if err := yaml.Unmarshal(tree["bundles/"+b+"/overlays/"+env+"/values.yaml"], &v); err != nil {
				t.Fatal(err)
			}
			if _, err := netip.ParsePrefix(v.ClusterCIDR); err != nil || v.ClusterCIDR != want {
				t.Errorf("%s in %s: clusterCIDR %q, want %s", b, env, v.ClusterCIDR, want)
			}
		}
	}
	delete(tree, "bundles/applications/overlays/dev/values.yaml")
	if _, err := render(t, tree, "applications", "dev"); err == nil {
		t.Error("an environment without clusterCIDR renders")
	}
}

// TestHelm renders with Helm itself, where the lab has built it.
func TestHelm(t *testing.T) {
	helm := findHelm()
	if helm == "" {
		t.Skip("no helm in PATH, and `make lab-build` has not made one")
	}
	for _, name := range []string{"v1", "good", "bad-only-in-prod"} {
		tree, err := Tree(name)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if err := os.CopyFS(dir, mapFS(tree)); err != nil {
			t.Fatal(err)
		}
		for _, b := range bundles {
			for env := range environments {
				chart := filepath.Join(dir, "bundles", b)
				out, err := exec.Command(helm, "template", b, chart, "-f", filepath.Join(chart, "overlays", env, "values.yaml")).CombinedOutput()
				if err != nil {
					t.Fatalf("%s, %s, %s: %v: %s", name, b, env, err, out)
				}
				mine, err := render(t, tree, b, env)
				if err != nil {
					t.Fatal(err)
				}
				got, err := parse(string(out))
				if err != nil {
					t.Fatal(err)
				}
				want, err := parse(mine)
				if err != nil || len(got) != len(want) {
					t.Errorf("%s, %s, %s: Helm makes %d objects, the test %d (%v)", name, b, env, len(got), len(want), err)
				}
			}
		}
	}
}

func findHelm() string {
	if p, err := exec.LookPath("helm"); err == nil {
		return p
	}
	cache := cmp.Or(os.Getenv("PORTCULLIS_LAB_CACHE"), "/var/cache/portcullis-lab")
	built, err := filepath.Glob(filepath.Join(cache, "components", "fleet-*", "helm"))
	if err != nil || len(built) == 0 {
		return ""
	}
	return built[0]
}
