package audit

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	fleet "github.com/rancher/fleet/pkg/apis/fleet.cattle.io/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/rancher/drift"
)

const (
	revision = "1111111111111111111111111111111111111111"
	sum      = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
)

// api is the API server of a cluster.
type api struct {
	mu      sync.Mutex
	objects map[string][]string
	refused map[string]int
	counts  map[string]int
}

func (s *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[r.URL.Path]++
	if code := s.refused[r.URL.Path]; code != 0 {
		w.WriteHeader(code)
		fmt.Fprintf(w, `{"kind":"Status","message":"%s is refused"}`, r.URL.Path)
		return
	}
	items, there := s.objects[r.URL.Path]
	switch {
	case !there:
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"kind":"Status","message":"the server could not find the requested resource"}`)
	case strings.Contains(r.URL.Path, "/secrets/"):
		fmt.Fprint(w, items[0])
	case r.URL.Path == "/apis/apps/v1":
		fmt.Fprint(w, items[0])
	default:
		fmt.Fprintf(w, `{"kind":"List","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[%s]}`, strings.Join(items, ","))
	}
}

func (s *api) requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, c := range s.counts {
		n += c
	}
	return n
}

const (
	npPath     = "/apis/networking.k8s.io/v1/networkpolicies"
	gnpPath    = "/apis/crd.projectcalico.org/v1/globalnetworkpolicies"
	calicoPath = "/apis/crd.projectcalico.org/v1/"
	secretPath = "/api/v1/namespaces/np/secrets/sh.helm.release.v1.policies.v1"
)

func np(name string, port int) string {
	return fmt.Sprintf(`{"metadata":{"name":%q,"namespace":"shop"},"spec":{"podSelector":{},"policyTypes":["Ingress"],"ingress":[{"ports":[{"protocol":"TCP","port":%d}]}]}}`, name, port)
}

// newAPI is a cluster with n policies of a release.
func newAPI(t testing.TB, n int) *api {
	t.Helper()
	s := &api{objects: map[string][]string{}, refused: map[string]int{}, counts: map[string]int{}}
	manifest := ""
	for i := range n {
		manifest += fmt.Sprintf("---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p%d, namespace: shop}\nspec: {podSelector: {}, ingress: [{ports: [{port: %d}]}]}\n", i, i+1)
		s.objects[npPath] = append(s.objects[npPath], np(fmt.Sprintf("p%d", i), i+1))
	}
	for _, resource := range []string{"globalnetworkpolicies", "networkpolicies", "globalnetworksets", "networksets", "felixconfigurations"} {
		s.objects[calicoPath+resource] = nil
	}
	s.objects[secretPath] = []string{helm(t, "np", "policies", manifest)}
	return s
}

// helm is the Secret of a release.
func helm(t testing.TB, namespace, name, manifest string) string {
	t.Helper()
	release, err := json.Marshal(map[string]any{"name": name, "namespace": namespace, "version": 1, "manifest": manifest, "info": map[string]any{"status": "deployed"}})
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	_, _ = z.Write(release)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	secret, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"name": "sh.helm.release.v1." + name + ".v1", "namespace": namespace, "labels": map[string]string{"owner": "helm", "name": name, "status": "deployed"}},
		"type":     drift.ReleaseSecret,
		"data":     map[string]any{"release": []byte(base64.StdEncoding.EncodeToString(buf.Bytes()))},
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(secret)
}

// world is a management cluster with Fleet, and clusters behind it.
type world struct {
	mu       sync.Mutex
	t        testing.TB
	clusters []rancher.Cluster
	repo     *fleet.GitRepo
	release  string
	server   *httptest.Server
	apis     map[string]*api
	// behind makes the caches answer as if they had not seen the newest generation, so often.
	behind int
	// looks counts the questions for a snapshot; onLook is called with it.
	looks  int
	onLook func(n int)
}

func newWorld(t testing.TB, apis map[string]*api) *world {
	t.Helper()
	w := &world{t: t, apis: apis, release: "np/policies:1"}
	spec := fleet.GitRepoSpec{Repo: "https://git.example.com/np", Revision: revision}
	written, err := json.Marshal(rancher.WrittenOf(&spec))
	if err != nil {
		t.Fatal(err)
	}
	w.repo = &fleet.GitRepo{
		ObjectMeta: metav1.ObjectMeta{
			Name: "np-prod", Namespace: "fleet-default", Generation: 2,
			Labels:      map[string]string{rancher.LabelPipeline: "np", rancher.LabelEnvironment: "prod"},
			Annotations: map[string]string{rancher.AnnotationWritten: string(written), rancher.AnnotationVerified: revision, rancher.AnnotationEvidence: "e"},
		},
		Spec: spec,
	}
	w.repo.Status.ObservedGeneration, w.repo.Status.GitJobStatus, w.repo.Status.Commit = 2, "Current", revision
	w.server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		id, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/k8s/clusters/"), "/")
		r.URL.Path = "/" + rest
		apis[id].ServeHTTP(rw, r)
	}))
	t.Cleanup(w.server.Close)
	for id := range apis {
		w.clusters = append(w.clusters, rancher.Cluster{ID: id, Name: id, Connected: true, Labels: map[string]string{"env": "prod"}})
	}
	return w
}

func (w *world) Inventory() ([]rancher.Cluster, error) { return w.clusters, nil }

func (w *world) ListGitRepos(context.Context, map[string]string) ([]fleet.GitRepo, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return []fleet.GitRepo{*w.repo.DeepCopy()}, nil
}

func (w *world) Snapshot(string) (rancher.Snapshot, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looks++
	if w.onLook != nil {
		w.onLook(w.looks)
	}
	repo := w.repo.DeepCopy()
	if w.behind > 0 {
		w.behind--
		repo.Generation--
	}
	b := &fleet.Bundle{ObjectMeta: metav1.ObjectMeta{Name: "policies", Namespace: "fleet-default", Generation: 1, Labels: map[string]string{fleet.CommitLabel: revision, fleet.RepoLabel: "np-prod"}}}
	b.Status.ObservedGeneration, b.Status.ResourcesSHA256Sum, b.Status.Summary.DesiredReady = 1, sum, len(w.clusters)
	s := rancher.Snapshot{GitRepo: repo, Bundles: []*fleet.Bundle{b}}
	id := ("s-" + sum)[:63] + ":options"
	for _, c := range w.clusters {
		d := &rancher.BundleDeployment{ObjectMeta: metav1.ObjectMeta{Name: "policies", Labels: map[string]string{fleet.ClusterLabel: c.Name, fleet.BundleLabel: "policies"}}}
		d.Spec.DeploymentID, d.Spec.StagedDeploymentID = id, id
		d.Status.AppliedDeploymentID, d.Status.Release, d.Status.Ready = id, w.release, true
		d.Status.ModifiedStatus = []fleet.ModifiedStatus{{Kind: "NetworkPolicy", APIVersion: "networking.k8s.io/v1", Namespace: "shop", Name: "p0", Patch: "{}"}}
		s.Deployments = append(s.Deployments, d)
	}
	return s, nil
}

func (w *world) REST(id string) (*rest.Config, error) {
	return &rest.Config{Host: w.server.URL + "/k8s/clusters/" + id}, nil
}

func (w *world) activities() *Activities {
	a := New(w, w)
	a.patience, a.beforeRecheck = 200*time.Millisecond, 5*time.Millisecond
	return a
}

// audit finds the scope and audits its units.
func (w *world) audit(ignores ...drift.Ignore) ([]drift.Unit, map[string]drift.Cluster, []*Batch) {
	w.t.Helper()
	a := w.activities()
	scope, err := a.Scope(context.Background(), ScopeInput{
		Pipeline: "np", Source: rancher.Source{Repo: "https://git.example.com/np"}, Ignores: ignores,
		Environments: []rancher.Environment{{Name: "prod", Clusters: metav1.LabelSelector{MatchLabels: map[string]string{"env": "prod"}}}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	found := map[string]drift.Cluster{}
	var batches []*Batch
	for _, u := range scope.Units {
		b, err := a.Clusters(context.Background(), BatchInput{Pipeline: "np", Unit: u, Ignores: ignores, Budget: 1 << 20})
		if err != nil {
			w.t.Fatal(err)
		}
		batches = append(batches, b)
		clusters, err := drift.Unpack(b.Data)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, c := range clusters {
			found[c.Cluster] = c
		}
	}
	return scope.Units, found, batches
}
