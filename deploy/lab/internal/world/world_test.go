package world

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"portcullis.dev/portcullis/deploy/lab/internal/apply"
	"portcullis.dev/portcullis/deploy/lab/internal/rancherd"
	"portcullis.dev/portcullis/deploy/lab/policies"
)

func TestWorkloadsManifest(t *testing.T) {
	for nodes, want := range map[int]struct {
		replicas int64
		objects  int
	}{
		0: {1, 3 * len(apps)}, 1: {1, 3 * len(apps)}, 2: {2, 3 * len(apps)},
		// With a DaemonSet that has a policy of its own.
		3: {3, 3*len(apps) + 4}, 5: {3, 3*len(apps) + 4},
	} {
		manifest, err := renderWorkloads("example.com/workload:1", nodes)
		if err != nil {
			t.Fatal(err)
		}
		objs, err := apply.Decode(manifest)
		if err != nil {
			t.Fatal(err)
		}
		if len(objs) != want.objects {
			t.Fatalf("%d nodes: %d objects, want %d", nodes, len(objs), want.objects)
		}
		for _, o := range objs {
			n, has, _ := unstructured.NestedInt64(o.Object, "spec", "replicas")
			_, spread, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "topologySpreadConstraints")
			switch o.GetKind() {
			case "Deployment":
				if n != want.replicas || !spread {
					t.Errorf("%d nodes: %s has %d replicas, want %d, spread: %t", nodes, o.GetName(), n, want.replicas, spread)
				}
			case "DaemonSet":
				if has || spread {
					t.Errorf("%s has what only Deployments have", o.GetName())
				}
			}
		}
	}
}

// What the lab applies without Fleet is what Fleet would bring.
func TestPolicyValues(t *testing.T) {
	b, err := policyValues(Cluster{PodCIDR: "10.45.0.0/16"})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := policies.Tree(policies.First)
	if err != nil {
		t.Fatal(err)
	}
	var got, dev map[string]any
	if err := yaml.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	for _, bundle := range bundles {
		if err := yaml.Unmarshal(tree["bundles/"+bundle+"/overlays/dev/values.yaml"], &dev); err != nil {
			t.Fatal(err)
		}
		if len(dev) == 0 {
			t.Errorf("bundle %s has no overlay for dev", bundle)
		}
		for k := range dev {
			if _, ok := got[k]; !ok {
				t.Errorf("bundle %s wants %s, which is not given", bundle, k)
			}
		}
	}
}

func TestRancherCRDsDecode(t *testing.T) {
	if objs, err := apply.Decode(rancherCRDs); err != nil || len(objs) != 2 {
		t.Errorf("%d objects, %v; want 2", len(objs), err)
	}
}

func TestPipelineNamesWhatTheLabHas(t *testing.T) {
	var p struct {
		Spec struct {
			Source struct{ Repo string }
			Probes []struct {
				Name string
				From struct {
					Namespace  string
					Namespaces []string
				}
				To struct {
					Namespace, Service string
					Port               int
				}
			}
		}
	}
	if err := yaml.Unmarshal(pipelineYAML, &p); err != nil {
		t.Fatal(err)
	}
	if p.Spec.Source.Repo != RepoURL {
		t.Errorf("repository is %s, want %s", p.Spec.Source.Repo, RepoURL)
	}
	namespaces := map[string]app{}
	for _, a := range apps {
		namespaces[a.Namespace] = a
	}
	for _, pr := range p.Spec.Probes {
		for _, ns := range append(pr.From.Namespaces, pr.From.Namespace, pr.To.Namespace) {
			if _, ok := namespaces[ns]; ns != "" && !ok {
				t.Errorf("%s: there is no namespace %s", pr.Name, ns)
			}
		}
		if pr.To.Namespace != "" && !namespaces[pr.To.Namespace].listens(pr.To.Port) {
			t.Errorf("%s: nobody listens on %d in %s", pr.Name, pr.To.Port, pr.To.Namespace)
		}
	}
}

func (a app) listens(n int) bool {
	for _, p := range append(a.Ports, metricsPort) {
		if p.Port == n {
			return true
		}
	}
	return false
}

func TestServerConfig(t *testing.T) {
	b, err := serverConfig("/state", "example.com/portcullis:1")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"tokenFile: /state/rancher/token", "caFile: /state/rancher/ca.crt", "image: example.com/portcullis:1"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %q in\n%s", want, b)
		}
	}
}

func TestTokenIsKept(t *testing.T) {
	files := rancherd.In(t.TempDir())
	first, err := ensureToken(files)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ensureToken(files); err != nil || again != first {
		t.Errorf("token changed, %v", err)
	}
	if err := rancherd.RevokeToken(files.TokenTable(), first); err != nil {
		t.Fatal(err)
	}
	if again, err := ensureToken(files); err != nil || again == first {
		t.Errorf("a revoked token is kept, %v", err)
	}
}

func TestCommitPolicy(t *testing.T) {
	dir := t.TempDir()
	if err := repo(dir).Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, s := range policies.Names() {
		sha, err := CommitPolicy(t.Context(), dir, s)
		if err != nil || len(sha) != 40 || seen[sha] {
			t.Errorf("%s: %q, %v", s, sha, err)
		}
		seen[sha] = true
	}
	if _, err := CommitPolicy(t.Context(), dir, "nope"); err == nil || !strings.Contains(err.Error(), "bad-in-dev") {
		t.Errorf("unknown scenario: %v; want the list of those there are", err)
	}
}
