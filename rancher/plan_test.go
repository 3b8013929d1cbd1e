package rancher

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	fleet "github.com/rancher/fleet/pkg/apis/fleet.cattle.io/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const repoURL = "https://git.example.com/platform/network-policies"

var planTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func cluster(name string, labels ...string) Cluster {
	c := Cluster{ID: "c-" + name, Name: name, Connected: true, AgentLastSeen: planTime, Labels: map[string]string{}}
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		c.Labels[k] = v
	}
	return c
}

func label(kv ...string) metav1.LabelSelector {
	s := metav1.LabelSelector{MatchLabels: map[string]string{}}
	for _, l := range kv {
		k, v, _ := strings.Cut(l, "=")
		s.MatchLabels[k] = v
	}
	return s
}

func request(envs []Environment, clusters []Cluster, repos ...*fleet.GitRepo) PlanRequest {
	return PlanRequest{Pipeline: "np", Namespace: "fleet-default", Source: Source{Repo: repoURL, Branch: "main"}, Environments: envs, Clusters: clusters, GitRepos: repos, Now: planTime}
}

// gitRepo is one that Portcullis made for pipeline np, unless labels say otherwise.
func gitRepo(name string, change func(r *fleet.GitRepo)) *fleet.GitRepo {
	r := &fleet.GitRepo{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "fleet-default", Labels: map[string]string{LabelPipeline: "np"}, Annotations: map[string]string{}},
		Spec:       fleet.GitRepoSpec{Repo: repoURL, Revision: commitA},
	}
	if change != nil {
		change(r)
	}
	return r
}

func targets(names ...string) []fleet.GitTarget {
	var out []fleet.GitTarget
	for _, n := range names {
		out = append(out, fleet.GitTarget{ClusterName: n})
	}
	return out
}

var threeEnvironments = []Environment{
	{Name: "dev", Clusters: label("env=dev")},
	{Name: "prod", Clusters: label("env=prod"), Waves: []Wave{{Name: "canary", Clusters: label("canary=true")}, {Name: "rest"}}},
}

func fourClusters() []Cluster {
	return []Cluster{cluster("dev", "env=dev"), cluster("p1", "env=prod", "canary=true"), cluster("p2", "env=prod"), cluster("p3", "env=prod", "canary=no")}
}

func TestPlanUnits(t *testing.T) {
	got, err := PlanUnits(request(threeEnvironments, fourClusters()))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, e := range got {
		for _, u := range e.Units {
			lines = append(lines, fmt.Sprintf("%s %s %q %v %s", e.Name, u.GitRepo, u.Wave, names(u.Clusters), u.Before.Kind))
		}
	}
	want := []string{
		`dev np-dev "" [dev] absent`,
		`prod np-prod-canary "canary" [p1] absent`,
		`prod np-prod-rest "rest" [p2 p3] absent`,
	}
	if !slices.Equal(lines, want) {
		t.Errorf("got\n%s", strings.Join(lines, "\n"))
	}
	rest := got[1].Units[1].Targets
	if len(rest) != 1 || rest[0].ClusterSelector.MatchExpressions[0].Operator != metav1.LabelSelectorOpNotIn {
		t.Errorf("targets of the rest: %+v", rest)
	}
}

func TestPlanErrors(t *testing.T) {
	dev := []Environment{{Name: "dev", Clusters: label("env=dev")}}
	adopt := []Environment{{Name: "dev", Clusters: label("env=dev"), GitRepo: "old"}}
	foreign := func(change func(r *fleet.GitRepo)) *fleet.GitRepo {
		return gitRepo("old", func(r *fleet.GitRepo) {
			r.Labels = nil
			r.Spec.Revision, r.Spec.Branch = "", "main"
			r.Spec.Targets = targets("dev")
			if change != nil {
				change(r)
			}
		})
	}
	noID := cluster("dev", "env=dev")
	noID.ID = ""
	for name, tc := range map[string]struct {
		envs     []Environment
		clusters []Cluster
		repos    []*fleet.GitRepo
		kind     Kind
		says     []string
	}{
		"selector matches nothing":     {[]Environment{{Name: "qa", Clusters: label("env=qa")}}, fourClusters(), nil, KindInvalid, []string{"qa", "env=qa", "no cluster"}},
		"selector of everything":       {[]Environment{{Name: "all"}}, fourClusters(), nil, KindInvalid, []string{"every cluster"}},
		"bad selector":                 {[]Environment{{Name: "dev", Clusters: metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Like"}}}}}, fourClusters(), nil, KindInvalid, []string{"dev", "Like"}},
		"cluster in two environments":  {[]Environment{{Name: "a", Clusters: label("env=dev")}, {Name: "b", Clusters: label("env=dev")}}, fourClusters(), nil, KindInvalid, []string{"cluster dev", "a and b"}},
		"wave takes nothing":           {[]Environment{{Name: "prod", Clusters: label("env=prod"), Waves: []Wave{{Name: "all"}, {Name: "late"}}}}, fourClusters(), nil, KindInvalid, []string{"late", "no cluster"}},
		"no wave takes a cluster":      {[]Environment{{Name: "prod", Clusters: label("env=prod"), Waves: []Wave{{Name: "canary", Clusters: label("canary=true")}}}}, fourClusters(), nil, KindInvalid, []string{"p2, p3", "no wave"}},
		"cluster unknown to Rancher":   {dev, []Cluster{noID}, nil, KindInvalid, []string{"cluster dev", LabelManagementCluster}},
		"name too long":                {[]Environment{{Name: strings.Repeat("d", 61), Clusters: label("env=dev")}}, fourClusters(), nil, KindInvalid, []string{"64 characters"}},
		"name not allowed":             {[]Environment{{Name: "Dev", Clusters: label("env=dev")}}, fourClusters(), nil, KindInvalid, []string{"np-Dev"}},
		"same name twice":              {[]Environment{{Name: "a-b", Clusters: label("env=dev")}, {Name: "a", Clusters: label("env=prod"), Waves: []Wave{{Name: "b"}}}}, fourClusters(), nil, KindInvalid, []string{"np-a-b", "twice"}},
		"our name, not ours":           {dev, fourClusters(), []*fleet.GitRepo{gitRepo("np-dev", func(r *fleet.GitRepo) { r.Labels = nil })}, KindConflict, []string{"np-dev", "adopt"}},
		"our name, other pipeline":     {dev, fourClusters(), []*fleet.GitRepo{gitRepo("np-dev", func(r *fleet.GitRepo) { r.Labels[LabelPipeline] = "other" })}, KindConflict, []string{"pipeline other"}},
		"our name, other repository":   {dev, fourClusters(), []*fleet.GitRepo{gitRepo("np-dev", func(r *fleet.GitRepo) { r.Spec.Repo = "https://git.example.com/x" })}, KindConflict, []string{"another repository"}},
		"ours with branch, revision":   {dev, fourClusters(), []*fleet.GitRepo{gitRepo("np-dev", func(r *fleet.GitRepo) { r.Spec.Branch = "main" })}, KindConflict, []string{"np-dev", "spec.branch (main), which Fleet deploys", "spec.revision (aaaaaaaaaaaa), which Fleet shows"}},
		"ours edited by hand":          {dev, fourClusters(), []*fleet.GitRepo{gitRepo("np-dev", func(r *fleet.GitRepo) { written(r); r.Spec.Revision = commitB })}, KindConflict, []string{"edited by hand", "spec.revision"}},
		"ours paused by hand":          {dev, fourClusters(), []*fleet.GitRepo{gitRepo("np-dev", func(r *fleet.GitRepo) { written(r); r.Spec.Paused = true })}, KindConflict, []string{"spec.paused is true", "wrote false"}},
		"ours with other targets":      {dev, fourClusters(), []*fleet.GitRepo{gitRepo("np-dev", func(r *fleet.GitRepo) { written(r); r.Spec.Targets = targets("p1") })}, KindConflict, []string{"spec.targets"}},
		"another delivers the same":    {dev, fourClusters(), []*fleet.GitRepo{foreign(nil)}, KindConflict, []string{"old", "cluster dev", "adopt"}},
		"another, by other spelling":   {dev, fourClusters(), []*fleet.GitRepo{foreign(func(r *fleet.GitRepo) { r.Spec.Repo = "https://u:p@git.EXAMPLE.com/platform/network-policies.git/" })}, KindConflict, []string{"old"}},
		"ours of an earlier form":      {dev, fourClusters(), []*fleet.GitRepo{gitRepo("np-dev-1", func(r *fleet.GitRepo) { r.Spec.Targets = targets("dev") })}, KindConflict, []string{"earlier form", "np-dev-1"}},
		"adopting nothing":             {adopt, fourClusters(), nil, KindNotFound, []string{"fleet-default/old"}},
		"adopting branch and revision": {adopt, fourClusters(), []*fleet.GitRepo{foreign(func(r *fleet.GitRepo) { r.Spec.Revision = commitA })}, KindConflict, []string{"both spec.branch"}},
		"adopting too many clusters":   {adopt, fourClusters(), []*fleet.GitRepo{foreign(func(r *fleet.GitRepo) { r.Spec.Targets = targets("dev", "p1") })}, KindConflict, []string{"too many: p1"}},
		"adopting too few clusters":    {adopt, fourClusters(), []*fleet.GitRepo{foreign(func(r *fleet.GitRepo) { r.Spec.Targets = targets("gone") })}, KindConflict, []string{"missing: dev"}},
		"adopting another repository":  {adopt, fourClusters(), []*fleet.GitRepo{foreign(func(r *fleet.GitRepo) { r.Spec.Repo = "https://u:secret@git.example.com/x" })}, KindConflict, []string{"https://git.example.com/x"}},
		"adopting other paths":         {adopt, fourClusters(), []*fleet.GitRepo{foreign(func(r *fleet.GitRepo) { r.Spec.Paths = []string{"x"} })}, KindConflict, []string{"paths"}},
		"adopting what is paused":      {adopt, fourClusters(), []*fleet.GitRepo{foreign(func(r *fleet.GitRepo) { r.Spec.Paused = true })}, KindConflict, []string{"paused by someone"}},
		"adopting with waves":          {[]Environment{{Name: "dev", Clusters: label("env=dev"), GitRepo: "old", Waves: []Wave{{Name: "a"}, {Name: "b"}}}}, fourClusters(), nil, KindInvalid, []string{"cannot have waves"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := PlanUnits(request(tc.envs, tc.clusters, tc.repos...))
			if KindOf(err) != tc.kind {
				t.Fatalf("kind %q, want %q: %v", KindOf(err), tc.kind, err)
			}
			for _, s := range append(tc.says, "") {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q is not in %q", s, err)
				}
			}
			if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "secret") {
				t.Errorf("not one clean line: %q", err)
			}
		})
	}
}

func written(r *fleet.GitRepo) {
	data, err := json.Marshal(WrittenOf(&r.Spec))
	if err != nil {
		panic(err)
	}
	r.Annotations[AnnotationWritten] = string(data)
}

func TestPlanKeepsWhatIsOurs(t *testing.T) {
	ours := gitRepo("np-dev", func(r *fleet.GitRepo) {
		written(r)
		r.Annotations[AnnotationVerified] = commitA
		r.Annotations[AnnotationVerifiedAt] = "2026-02-01T10:00:00Z"
		r.Annotations[AnnotationPrevious] = commitB
		r.Spec.ForceSyncGeneration = 9 // anyone may make Fleet sync
	})
	got, err := PlanUnits(request([]Environment{{Name: "dev", Clusters: label("env=dev")}}, fourClusters(), ours))
	if err != nil {
		t.Fatal(err)
	}
	before := got[0].Units[0].Before
	if before.Kind != RestoreVerified || before.Revision != commitA || before.Previous != commitB || before.VerifiedAt.IsZero() {
		t.Errorf("%+v", before)
	}
}

func TestPlanAdopts(t *testing.T) {
	group := &fleet.ClusterGroup{ObjectMeta: metav1.ObjectMeta{Name: "devs"}, Spec: fleet.ClusterGroupSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"env": "dev"}}}}
	old := gitRepo("old", func(r *fleet.GitRepo) {
		r.Labels = nil
		r.Spec.Branch, r.Spec.Revision = "main", ""
		r.Spec.Targets = []fleet.GitTarget{{ClusterGroup: "devs"}}
		r.Status.Commit = commitB
	})
	req := request([]Environment{{Name: "dev", Clusters: label("env=dev"), GitRepo: "old"}}, fourClusters(), old)
	req.Groups = []*fleet.ClusterGroup{group}
	got, err := PlanUnits(req)
	if err != nil {
		t.Fatal(err)
	}
	u := got[0].Units[0]
	if u.GitRepo != "old" || u.Targets != nil || u.Before.Kind != RestoreOriginal || u.Before.Branch != "main" || u.Before.Revision != commitB {
		t.Errorf("%+v", u)
	}
	spec := fleet.GitRepoSpec{}
	if err := json.Unmarshal(u.Before.OriginalSpec, &spec); err != nil || spec.Branch != "main" {
		t.Errorf("original: %v %+v", err, spec)
	}
}

func TestPlanUnready(t *testing.T) {
	away := cluster("away", "env=dev")
	away.Connected, away.Reason = false, "Rancher reports Connected=False"
	paused := cluster("held", "env=dev")
	paused.Paused = true
	silent := cluster("silent", "env=dev")
	silent.AgentLastSeen = planTime.Add(-time.Hour)
	never := cluster("never", "env=dev")
	never.AgentLastSeen = time.Time{}
	fine := cluster("fine", "env=dev")
	fine.AgentLastSeen = planTime.Add(-16 * time.Minute) // agents report every 15 minutes
	got, err := PlanUnits(request([]Environment{{Name: "dev", Clusters: label("env=dev")}}, []Cluster{away, paused, silent, never, fine}))
	if err != nil {
		t.Fatal(err)
	}
	for name, says := range map[string]string{"away": "Connected=False", "held": "paused", "silent": "1h0m0s ago", "never": "never seen"} {
		if !strings.Contains(got[0].Unready[name], says) {
			t.Errorf("%s: %q", name, got[0].Unready[name])
		}
	}
	if len(got[0].Unready) != 4 {
		t.Errorf("%v", got[0].Unready)
	}
}

func sliced(n int) []Environment {
	return []Environment{{Name: "prod", Clusters: label("env=prod"), Waves: []Wave{{Name: "rest", MaxConcurrent: n}}}}
}

func TestSlicesAreSticky(t *testing.T) {
	var clusters []Cluster
	for _, n := range []string{"a", "b", "c", "d", "e", "f"} {
		clusters = append(clusters, cluster(n, "env=prod"))
	}
	plan := func(n int, repos ...*fleet.GitRepo) (string, []string) {
		t.Helper()
		got, err := PlanUnits(request(sliced(n), clusters, repos...))
		if err != nil {
			t.Fatal(err)
		}
		var parts []string
		for _, u := range got[0].Units {
			parts = append(parts, strings.TrimPrefix(u.GitRepo, "np-prod-rest-")+":"+strings.Join(names(u.Clusters), ""))
		}
		return strings.Join(parts, " "), got[0].Notes
	}
	have := func(n int, names ...string) *fleet.GitRepo {
		return gitRepo(fmt.Sprintf("np-prod-rest-%d", n), func(r *fleet.GitRepo) { r.Spec.Targets = targets(names...) })
	}
	for name, tc := range map[string]struct {
		room  int
		repos []*fleet.GitRepo
		want  string
		notes int
	}{
		"from nothing":           {2, nil, "1:ab 2:cd 3:ef", 0},
		"stay where they are":    {2, []*fleet.GitRepo{have(1, "f", "a"), have(2, "c")}, "1:af 2:bc 3:de", 0},
		"numbers are kept":       {3, []*fleet.GitRepo{have(7, "a")}, "1:def 7:abc", 0},
		"too large is kept":      {2, []*fleet.GitRepo{have(1, "a", "b", "c")}, "1:abc 2:de 3:f", 1},
		"left clusters are gone": {6, []*fleet.GitRepo{have(1, "x", "b")}, "1:abcdef", 0},
		"empty slice is told":    {6, []*fleet.GitRepo{have(1, "x"), have(2, "a")}, "2:abcdef", 1},
	} {
		t.Run(name, func(t *testing.T) {
			got, notes := plan(tc.room, tc.repos...)
			if got != tc.want || len(notes) != tc.notes {
				t.Errorf("got %q, notes %q", got, notes)
			}
		})
	}
}

// However clusters are labelled and waves cut, each cluster is targeted by exactly
// the GitRepo of its wave.
func TestWaveTargetsPartition(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	pick := func(list ...string) string { return list[rng.IntN(len(list))] }
	selector := func() metav1.LabelSelector {
		s := metav1.LabelSelector{}
		if rng.IntN(2) == 0 {
			s.MatchLabels = map[string]string{pick("x", "y"): pick("1", "2")}
		}
		for range rng.IntN(3) {
			op := metav1.LabelSelectorOperator(pick("In", "NotIn", "Exists", "DoesNotExist"))
			e := metav1.LabelSelectorRequirement{Key: pick("x", "y", "z"), Operator: op}
			if op == metav1.LabelSelectorOpIn || op == metav1.LabelSelectorOpNotIn {
				e.Values = []string{pick("1", "2"), "3"}
			}
			s.MatchExpressions = append(s.MatchExpressions, e)
		}
		return s
	}
	planned := 0
	for range 3000 {
		var clusters []Cluster
		for i := range 8 {
			c := cluster(fmt.Sprintf("c%d", i), "env="+pick("prod", "prod", "dev"))
			for _, k := range []string{"x", "y", "z"} {
				if v := pick("", "1", "2", "3"); v != "" {
					c.Labels[k] = v
				}
			}
			clusters = append(clusters, c)
		}
		env := Environment{Name: "prod", Clusters: label("env=prod"), Waves: []Wave{{Name: "a", Clusters: selector()}, {Name: "b", Clusters: selector()}, {Name: "rest"}}}
		got, err := PlanUnits(request([]Environment{env}, clusters))
		if err != nil {
			continue // a wave took nothing
		}
		planned++
		for _, u := range got[0].Units {
			in := toSet(names(u.Clusters))
			for _, c := range clusters {
				var ts []fleet.GitTarget
				for _, target := range u.Targets {
					ts = append(ts, fleet.GitTarget{ClusterSelector: target.ClusterSelector})
				}
				hit, err := targeted(ts, c, nil)
				if err != nil || hit != in[c.Name] {
					t.Fatalf("%s: cluster %v targeted %t, planned %t, %v\nwaves %+v\ntargets %+v", u.GitRepo, c, hit, in[c.Name], err, env.Waves, u.Targets)
				}
			}
		}
	}
	if planned < 100 {
		t.Errorf("only %d plans were made", planned)
	}
}

func TestBeforeOf(t *testing.T) {
	for name, tc := range map[string]struct {
		repo *fleet.GitRepo
		want RestoreKind
		bad  bool
	}{
		"none":               {nil, RestoreAbsent, false},
		"ours, never proven": {gitRepo("a", nil), RestoreAbsent, false},
		"ours, proven":       {gitRepo("a", func(r *fleet.GitRepo) { r.Annotations[AnnotationVerified] = commitA }), RestoreVerified, false},
		"adopted, not proven": {gitRepo("a", func(r *fleet.GitRepo) {
			r.Annotations[AnnotationOriginal] = `{"repo":"r","branch":"release"}`
		}), RestoreOriginal, false},
		"adopted, proven": {gitRepo("a", func(r *fleet.GitRepo) {
			r.Annotations[AnnotationOriginal] = `{"repo":"r","branch":"release"}`
			r.Annotations[AnnotationVerified] = commitA
		}), RestoreVerified, false},
		"not ours":        {gitRepo("a", func(r *fleet.GitRepo) { r.Labels = nil }), RestoreOriginal, false},
		"broken original": {gitRepo("a", func(r *fleet.GitRepo) { r.Annotations[AnnotationOriginal] = "{" }), "", true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := BeforeOf(tc.repo)
			if (err != nil) != tc.bad || got.Kind != tc.want {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func TestRedactURL(t *testing.T) {
	for in, want := range map[string]string{
		"https://user:pa@ss@git.example.com/a": "https://git.example.com/a",
		"https://git.example.com/a@b":          "https://git.example.com/a@b",
		"git@git.example.com:a/b.git":          "git@git.example.com:a/b.git",
		"https://token@host":                   "https://host",
	} {
		if got := RedactURL(in); got != want {
			t.Errorf("%s: got %s", in, got)
		}
	}
}
