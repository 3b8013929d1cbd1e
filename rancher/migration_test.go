package rancher

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	fleet "github.com/rancher/fleet/pkg/apis/fleet.cattle.io/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// workspace serves the Fleet clusters, groups and GitRepos of a workspace, with
// merge patches that are refused where the resourceVersion is old.
type workspace struct {
	mu       sync.Mutex
	clusters map[string]*fleet.Cluster
	groups   []fleet.ClusterGroup
	repos    []fleet.GitRepo
	lists    int
	gets     int
	patches  int
	// between, when set, runs before a patch is applied.
	between func()
}

func newWorkspace(names ...string) *workspace {
	w := &workspace{clusters: map[string]*fleet.Cluster{}}
	for _, n := range names {
		w.clusters[n] = &fleet.Cluster{ObjectMeta: metav1.ObjectMeta{Name: n, Namespace: DefaultWorkspace, ResourceVersion: "1", Labels: map[string]string{"name": n}}}
	}
	return w
}

func (w *workspace) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	rest := strings.TrimPrefix(r.URL.Path, "/k8s/clusters/local/apis/fleet.cattle.io/v1alpha1/namespaces/"+DefaultWorkspace+"/")
	rw.Header().Set("Content-Type", "application/json")
	switch {
	case rest == "clusters":
		w.lists++
		if !strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadataList") {
			http.Error(rw, "whole objects were asked for", http.StatusNotAcceptable)
			return
		}
		list := metav1.PartialObjectMetadataList{TypeMeta: metav1.TypeMeta{Kind: "PartialObjectMetadataList", APIVersion: "meta.k8s.io/v1"}}
		for _, name := range sortedKeys(w.clusters) {
			list.Items = append(list.Items, metav1.PartialObjectMetadata{ObjectMeta: w.clusters[name].ObjectMeta})
		}
		answer(rw, list)
	case rest == "clustergroups":
		answer(rw, fleet.ClusterGroupList{TypeMeta: kind("ClusterGroupList"), Items: w.groups})
	case rest == "gitrepos":
		answer(rw, fleet.GitRepoList{TypeMeta: kind("GitRepoList"), Items: w.repos})
	default:
		w.cluster(rw, r, path.Base(rest))
	}
}

func (w *workspace) cluster(rw http.ResponseWriter, r *http.Request, name string) {
	found := w.clusters[name]
	if found == nil {
		failure(rw, http.StatusNotFound, metav1.StatusReasonNotFound)
		return
	}
	if r.Method == http.MethodPatch {
		w.patches++
		if w.between != nil {
			w.between()
		}
		body, _ := io.ReadAll(r.Body)
		var patch struct {
			Metadata struct {
				ResourceVersion string             `json:"resourceVersion"`
				Annotations     map[string]*string `json:"annotations"`
			} `json:"metadata"`
		}
		if json.Unmarshal(body, &patch) != nil || patch.Metadata.ResourceVersion != found.ResourceVersion {
			failure(rw, http.StatusConflict, metav1.StatusReasonConflict)
			return
		}
		for k, v := range patch.Metadata.Annotations {
			w.mark(name, k, v)
		}
	} else {
		w.gets++
	}
	out := found.DeepCopy()
	out.TypeMeta = kind("Cluster")
	answer(rw, out)
}

func (w *workspace) mark(name, key string, value *string) {
	c := w.clusters[name]
	c.ResourceVersion += "1"
	if c.Annotations == nil {
		c.Annotations = map[string]string{}
	}
	if value == nil {
		delete(c.Annotations, key)
		return
	}
	c.Annotations[key] = *value
}

func kind(k string) metav1.TypeMeta {
	return metav1.TypeMeta{Kind: k, APIVersion: "fleet.cattle.io/v1alpha1"}
}

func answer(rw http.ResponseWriter, v any) {
	_ = json.NewEncoder(rw).Encode(v)
}

func failure(rw http.ResponseWriter, code int, reason metav1.StatusReason) {
	rw.WriteHeader(code)
	answer(rw, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Failure", Reason: reason, Code: int32(code)})
}

func serve(t *testing.T, w *workspace) *Client {
	t.Helper()
	_, cfg := proxy(t, w.ServeHTTP)
	return mustNew(t, cfg)
}

func TestOneMigrationAtATime(t *testing.T) {
	w := newWorkspace("a")
	c := serve(t, w)
	ctx := t.Context()
	for range 2 { // the second is a repetition, which writes nothing
		if err := c.SetMigration(ctx, "a", "migrate/a"); err != nil {
			t.Fatal(err)
		}
	}
	if w.patches != 1 {
		t.Errorf("%d writes", w.patches)
	}
	if err := c.SetMigration(ctx, "a", "migrate/other"); KindOf(err) != KindConflict || !strings.Contains(err.Error(), "migrate/a") {
		t.Errorf("got %v", err)
	}
	if err := c.ClearMigration(ctx, "a", "migrate/other"); err != nil || w.clusters["a"].Annotations[AnnotationMigration] != "migrate/a" {
		t.Errorf("another's mark was taken away: %v", err)
	}
	for range 2 {
		if err := c.ClearMigration(ctx, "a", "migrate/a"); err != nil {
			t.Fatal(err)
		}
	}
	if _, there := w.clusters["a"].Annotations[AnnotationMigration]; there {
		t.Error("the mark is still there")
	}
	if err := c.SetMigration(ctx, "gone", "migrate/gone"); KindOf(err) != KindNotFound {
		t.Errorf("got %v", err)
	}
	if err := c.ClearMigration(ctx, "gone", "migrate/gone"); err != nil {
		t.Error(err)
	}
	if err := c.SetMigration(ctx, "a", ""); KindOf(err) != KindInvalid {
		t.Errorf("got %v", err)
	}
}

func TestAMarkIsNotWrittenOverAnother(t *testing.T) {
	w := newWorkspace("a")
	c := serve(t, w)
	other := "migrate/other"
	w.between = func() { w.mark("a", AnnotationMigration, &other) }
	if err := c.SetMigration(t.Context(), "a", "migrate/a"); KindOf(err) != KindConflict {
		t.Errorf("got %v", err)
	}
	if got := w.clusters["a"].Annotations[AnnotationMigration]; got != other {
		t.Errorf("the mark is %q", got)
	}
}

func TestAMarkThatLostARaceIsWrittenAgain(t *testing.T) {
	w := newWorkspace("a")
	c := serve(t, w)
	races := 2
	w.between = func() {
		if races--; races >= 0 {
			w.clusters["a"].ResourceVersion += "2" // Fleet wrote the status
		}
	}
	if err := c.SetMigration(t.Context(), "a", "migrate/a"); err != nil || w.patches != 3 {
		t.Errorf("%d writes: %v", w.patches, err)
	}
	races = 100
	if err := c.ClearMigration(t.Context(), "a", "migrate/a"); KindOf(err) != KindUnavailable {
		t.Errorf("got %v", err)
	}
}

func TestMigrationsCostOneList(t *testing.T) {
	names := make([]string, 1000)
	for i := range names {
		names[i] = fmt.Sprintf("c%04d", i)
	}
	w := newWorkspace(names...)
	by := "migrate/c0007"
	w.mark("c0007", AnnotationMigration, &by)
	c := serve(t, w)
	began := time.Now()
	for _, ask := range [][]string{nil, names, names[:10]} {
		found, err := c.Migrations(t.Context(), ask...)
		if err != nil || len(found) != 1 || found["c0007"] != by {
			t.Fatalf("found %v: %v", found, err)
		}
	}
	t.Logf("three lists of %d clusters took %s", len(names), time.Since(began).Round(time.Millisecond))
	if w.lists != 3 || w.gets != 0 {
		t.Errorf("%d lists and %d reads", w.lists, w.gets)
	}
	found, err := c.Migrations(t.Context(), "c0007", "c0008", "gone")
	if err != nil || len(found) != 1 || w.lists != 3 || w.gets != 2 {
		t.Errorf("found %v with %d lists and %d reads: %v", found, w.lists, w.gets, err)
	}
	if found, err := c.Migrations(t.Context(), names[20:40]...); err != nil || len(found) != 0 {
		t.Errorf("found %v: %v", found, err)
	}
}

func TestPipelinesOf(t *testing.T) {
	w := newWorkspace("a", "b")
	repo := func(name, pipeline string, targets ...fleet.GitTarget) fleet.GitRepo {
		return fleet.GitRepo{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{LabelPipeline: pipeline}},
			Spec:       fleet.GitRepoSpec{Targets: targets, Paused: true},
		}
	}
	is := func(name string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{"name": name}}
	}
	w.groups = []fleet.ClusterGroup{{ObjectMeta: metav1.ObjectMeta{Name: "g"}, Spec: fleet.ClusterGroupSpec{Selector: is("a")}}}
	w.repos = []fleet.GitRepo{
		repo("by-name", "p2", fleet.GitTarget{ClusterName: "a"}),
		repo("by-label", "p1", fleet.GitTarget{ClusterSelector: is("a")}),
		repo("again", "p1", fleet.GitTarget{ClusterSelector: is("a")}),
		repo("by-group", "p3", fleet.GitTarget{ClusterGroup: "g"}),
		repo("not-here", "p4", fleet.GitTarget{ClusterName: "b"}),
		repo("not-ours", "", fleet.GitTarget{ClusterName: "a"}),
	}
	c := serve(t, w)
	for cluster, want := range map[string][]string{"a": {"p1", "p2", "p3"}, "b": {"p4"}} {
		got, err := c.PipelinesOf(t.Context(), cluster)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v: %v", cluster, got, err)
		}
	}
	if _, err := c.PipelinesOf(t.Context(), "gone"); KindOf(err) != KindNotFound {
		t.Errorf("got %v", err)
	}
	w.repos = append(w.repos, repo("broken", "p5", fleet.GitTarget{ClusterSelector: &metav1.LabelSelector{
		MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Sometimes"}}}}))
	if _, err := c.PipelinesOf(t.Context(), "a"); KindOf(err) != KindInvalid || !strings.Contains(err.Error(), "broken") {
		t.Errorf("got %v", err)
	}
}
