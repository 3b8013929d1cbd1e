package drift

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	fleet "github.com/rancher/fleet/pkg/apis/fleet.cattle.io/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portcullis.dev/portcullis/rancher"
)

func decoded(t *testing.T, text string) *Object {
	t.Helper()
	o, err := Decode([]byte(text), Type{})
	if err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return o
}

func listed(objects ...*Object) map[Type][]*Object {
	live := map[Type][]*Object{}
	for _, t := range Watched() {
		live[t] = nil
	}
	for _, o := range objects {
		live[o.Type()] = append(live[o.Type()], o)
	}
	return live
}

// told are findings in a few words each.
func told(findings []Finding) []string {
	var out []string
	for _, f := range findings {
		line := fmt.Sprintf("%s %s", f.Category, f.Key)
		for _, c := range f.Changes {
			line += "; " + c.String()
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return out
}

func expect(t *testing.T, got []Finding, want ...string) {
	t.Helper()
	slices.Sort(want)
	if g := told(got); !slices.Equal(g, want) {
		t.Errorf("found\n  %s\nwant\n  %s", strings.Join(g, "\n  "), strings.Join(want, "\n  "))
	}
}

const (
	dbPolicy = `{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"db","namespace":"data"%s},"spec":{"podSelector":{"matchLabels":{"app":"db"}},"policyTypes":["Ingress"],"ingress":[{"ports":[{"port":%d,"protocol":"TCP"}]}]}}`
	denyAll  = `{"apiVersion":"crd.projectcalico.org/v1","kind":"GlobalNetworkPolicy","metadata":{"name":"default.zero-trust"},"spec":{"order":2000,"types":["Ingress"],"ingress":[{"action":"Deny"}]}}`
)

func TestCompare(t *testing.T) {
	wish := Held{Ref: ReleaseRef{"np", "policies", 1}, Bundle: "bundle", Wish: NewWish([]*Object{
		decoded(t, fmt.Sprintf(dbPolicy, "", 5432)), decoded(t, denyAll),
		decoded(t, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"settings"},"data":{"key":"secret-like value"}}`),
	})}
	changed := fmt.Sprintf(dbPolicy, `,"managedFields":[
		{"manager":"fleetagent","operation":"Update","time":"2026-01-01T00:00:00Z","fieldsV1":{"f:metadata":{},"f:spec":{"f:podSelector":{},"f:policyTypes":{}}}},
		{"manager":"kubectl-edit","operation":"Update","time":"2026-02-01T00:00:00Z","fieldsV1":{"f:spec":{"f:ingress":{}}}},
		{"manager":"kubelet","operation":"Update","subresource":"status","time":"2026-03-01T00:00:00Z","fieldsV1":{"f:status":{}}}]`, 5433)
	live := listed(
		decoded(t, changed),
		decoded(t, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"settings","namespace":"np"},"data":{"key":"other"}}`),
		decoded(t, `{"apiVersion":"crd.projectcalico.org/v1","kind":"GlobalNetworkPolicy","metadata":{"name":"default.let-me-in","creationTimestamp":"2026-02-02T00:00:00Z","managedFields":[{"manager":"kubectl-client-side-apply","operation":"Update","time":"2026-02-02T00:00:00Z","fieldsV1":{"f:spec":{}}}]},"spec":{"order":1}}`),
		decoded(t, `{"apiVersion":"crd.projectcalico.org/v1","kind":"Tier","metadata":{"name":"default"},"spec":{"order":1000000}}`),
		decoded(t, `{"apiVersion":"crd.projectcalico.org/v1","kind":"FelixConfiguration","metadata":{"name":"default"},"spec":{"bpfEnabled":false,"interfaceExclude":"cali0","vxlanEnabled":true,"defaultEndpointToHostAction":"drop"}}`),
	)
	got, unknown := Compare(Input{Releases: []Held{wish}, Live: live})
	if len(unknown) > 0 {
		t.Error(unknown)
	}
	expect(t, got,
		"changed NetworkPolicy data/db; spec.ingress[0].ports[0].port: 5433, wished 5432",
		"changed ConfigMap np/settings; data.key: (7 bytes, sha256 d448c0e0f65d), wished (19 bytes, sha256 244b22a8fbab)",
		"missing GlobalNetworkPolicy default.zero-trust",
		"extra GlobalNetworkPolicy default.let-me-in",
		`setting FelixConfiguration default; spec.interfaceExclude: "cali0" was added`,
	)
	for _, f := range got {
		switch {
		case f.Name == "db" && (f.By == nil || f.By.Manager != "kubectl-edit" || f.By.At.Month() != time.February):
			t.Errorf("db was written by %+v", f.By)
		case f.Category == Extra && (f.By == nil || f.By.Manager != "kubectl-client-side-apply" || f.Created.IsZero()):
			t.Errorf("the extra was written by %+v at %s", f.By, f.Created)
		case f.Category != Extra && f.Category != Setting && f.Bundle != "bundle":
			t.Errorf("%s is of bundle %q", f.Key, f.Bundle)
		}
	}
}

func TestWhatCannotBeReadIsUnknownNotClean(t *testing.T) {
	wish := Held{Bundle: "b", Wish: NewWish([]*Object{decoded(t, denyAll)})}
	live := listed()
	gnp := Type{CalicoStored, "GlobalNetworkPolicy"}
	delete(live, gnp)
	got, unknown := Compare(Input{Releases: []Held{wish}, Live: live, Unread: map[Type]string{gnp: "forbidden"}})
	expect(t, got)
	if len(unknown) != 1 || !strings.Contains(unknown[0], "1 wished of GlobalNetworkPolicy") {
		t.Error(unknown)
	}
	c := Cluster{Findings: got, Unknown: unknown}
	if c.Settle(); c.State != Unknown || c.Reason == "" {
		t.Errorf("%+v", c)
	}
	clean := Cluster{}
	if clean.Settle(); clean.State != Clean {
		t.Errorf("%+v", clean)
	}
}

// What another Helm release really holds is no drift; a claim alone is.
func TestClaimsAreChecked(t *testing.T) {
	np := func(name, release string) *Object {
		return decoded(t, fmt.Sprintf(`{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":%q,"namespace":"monitoring","annotations":{"meta.helm.sh/release-name":%q,"meta.helm.sh/release-namespace":"monitoring"}},"spec":{}}`, name, release))
	}
	in := Input{Live: listed(np("held", "prometheus"), np("claimed", "prometheus"))}
	if claims := Claims(in); !slices.Equal(claims, []string{"monitoring/prometheus"}) {
		t.Error(claims)
	}
	other, err := (&Release{Name: "prometheus", Namespace: "monitoring", Version: 1, Manifest: "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: held}\nspec: {}"}).Objects()
	if err != nil {
		t.Fatal(err)
	}
	in.Others = []Held{{Ref: ReleaseRef{"monitoring", "prometheus", 1}, Wish: NewWish(other)}}
	got, _ := Compare(in)
	expect(t, got, "extra NetworkPolicy monitoring/claimed")
	if !strings.Contains(got[0].Detail, "monitoring/prometheus") {
		t.Error(got[0].Detail)
	}
}

// An object is known by both names that Calico has for it, and a stranger by neither.
func TestBothNamesOfCalico(t *testing.T) {
	wish := Held{Bundle: "b", Wish: NewWish([]*Object{decoded(t, `{"apiVersion":"projectcalico.org/v3","kind":"GlobalNetworkPolicy","metadata":{"name":"deny"},"spec":{"ingress":[{"action":"Deny"}]}}`)})}
	live := listed(
		decoded(t, `{"apiVersion":"projectcalico.org/v3","kind":"GlobalNetworkPolicy","metadata":{"name":"deny","labels":{"projectcalico.org/tier":"default"}},"spec":{"tier":"default","types":["Ingress"],"ingress":[{"action":"Deny","source":{},"destination":{}}]}}`),
		decoded(t, `{"apiVersion":"crd.projectcalico.org/v1","kind":"GlobalNetworkPolicy","metadata":{"name":"default.deny"},"spec":{"types":["Ingress"],"ingress":[{"action":"Deny"}]}}`),
		decoded(t, `{"apiVersion":"crd.projectcalico.org/v1","kind":"GlobalNetworkPolicy","metadata":{"name":"default.other"},"spec":{}}`),
	)
	got, _ := Compare(Input{Releases: []Held{wish}, Live: live})
	expect(t, got, "extra GlobalNetworkPolicy default.other")
}

// In one API a name is a name: default.deny does not hide deny.
func TestANamesakeIsAStranger(t *testing.T) {
	wish := Held{Bundle: "b", Wish: NewWish([]*Object{decoded(t, denyAll)})}
	got, _ := Compare(Input{Releases: []Held{wish}, Live: listed(decoded(t, denyAll), decoded(t, strings.Replace(denyAll, "default.zero-trust", "zero-trust", 1)))})
	expect(t, got, "extra GlobalNetworkPolicy zero-trust")
}

// Policies select sets by their labels, and Calico keeps labels in an annotation too.
func TestLabelsOfSets(t *testing.T) {
	set := `{"apiVersion":"crd.projectcalico.org/v1","kind":"GlobalNetworkSet","metadata":{"name":"s","labels":{"zone":"a"%s}%s},"spec":{"nets":["10.0.0.0/8"]}}`
	wish := Held{Bundle: "b", Wish: NewWish([]*Object{decoded(t, fmt.Sprintf(set, "", ""))})}
	for live, want := range map[string][]string{
		fmt.Sprintf(set, `,"app.kubernetes.io/managed-by":"Helm"`, `,"annotations":{"meta.helm.sh/release-name":"x"}`): nil,
		fmt.Sprintf(set, `,"trusted":"yes"`, ""): {`changed GlobalNetworkSet s; metadata.labels.trusted: "yes" was added`},
		fmt.Sprintf(set, "", `,"annotations":{"projectcalico.org/metadata":"{\"labels\":{\"trusted\":\"yes\"}}"}`): {`changed GlobalNetworkSet s; metadata.labels.trusted: "yes" was added`},
		strings.Replace(fmt.Sprintf(set, "", ""), `"zone":"a"`, `"zone":"b"`, 1):                                   {`changed GlobalNetworkSet s; metadata.labels.zone: "b", wished "a"`},
	} {
		got, _ := Compare(Input{Releases: []Held{wish}, Live: listed(decoded(t, live))})
		expect(t, got, want...)
	}
}

// Of types whose defaults are not known, what is wished must be there, and more may be.
func TestOtherTypes(t *testing.T) {
	deployment := `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d","namespace":"n"},"spec":{"paused":false,"replicas":%s,"template":{"spec":{"containers":[{"name":"a","image":"%s","resources":{"limits":{"cpu":%s}}}]}}}}`
	wish := Held{Bundle: "b", Wish: NewWish([]*Object{decoded(t, fmt.Sprintf(deployment, "2", "x:1", `1`))})}
	same := `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d","namespace":"n"},"spec":{"replicas":2,"strategy":{"type":"RollingUpdate"},"template":{"spec":{"dnsPolicy":"ClusterFirst","containers":[{"name":"sidecar","image":"y"},{"name":"a","image":"x:1","imagePullPolicy":"Always","resources":{"limits":{"cpu":"1000m"}}}]}}}}`
	got, _ := Compare(Input{Releases: []Held{wish}, Live: listed(decoded(t, same))})
	expect(t, got)
	got, _ = Compare(Input{Releases: []Held{wish}, Live: listed(decoded(t, fmt.Sprintf(deployment, "3", "x:2", `"2"`)))})
	expect(t, got, `changed Deployment n/d; spec.replicas: 3, wished 2; spec.template.spec.containers[0].image: "x:2", wished "x:1"; spec.template.spec.containers[0].resources.limits.cpu: "2", wished 1`)
}

// calico-node writes settings of its own; what weakens policy is told, whoever wrote it.
func TestFelixConfigurationThatWasRolledOut(t *testing.T) {
	felix := func(spec string) *Object {
		return decoded(t, `{"apiVersion":"crd.projectcalico.org/v1","kind":"FelixConfiguration","metadata":{"name":"default"},"spec":`+spec+`}`)
	}
	wish := Held{Bundle: "b", Wish: NewWish([]*Object{felix(`{"logSeverityScreen":"Warning","ipv6Support":true,"failsafeInboundHostPorts":[]}`)})}
	for live, want := range map[string][]string{
		`{"logSeverityScreen":"Warning","ipv6Support":true,"failsafeInboundHostPorts":[],"vxlanEnabled":true,"reportingInterval":"0s"}`: nil,
		`{"logSeverityScreen":"Warning","ipv6Support":false,"failsafeInboundHostPorts":[]}`:                                             {"changed FelixConfiguration default; spec.ipv6Support: false, wished true"},
		`{"logSeverityScreen":"Warning","ipv6Support":true}`:                                                                            {"changed FelixConfiguration default; spec.failsafeInboundHostPorts: [] is missing"},
		`{"logSeverityScreen":"Warning","ipv6Support":true,"failsafeInboundHostPorts":[],"chainInsertMode":"Append"}`:                   {`changed FelixConfiguration default; spec.chainInsertMode: "Append" was added`},
	} {
		got, _ := Compare(Input{Releases: []Held{wish}, Live: listed(felix(live))})
		expect(t, got, want...)
	}
}

func TestIgnores(t *testing.T) {
	now := time.Date(2026, 6, 1, 23, 59, 0, 0, time.UTC)
	findings := func() []Finding {
		return []Finding{
			{Category: Extra, Key: Key{Networking, "NetworkPolicy", "lab", "x-1"}},
			{Category: Extra, Key: Key{Networking, "NetworkPolicy", "lab", "y"}},
			{Category: Extra, Key: Key{CalicoStored, "GlobalNetworkPolicy", "", "x-2"}},
		}
	}
	labels := map[string]string{"env": "prod"}
	for name, c := range map[string]struct {
		ignore Ignore
		want   []bool
	}{
		"by name":           {Ignore{Name: "x*", Reason: "r"}, []bool{true, false, true}},
		"by kind and name":  {Ignore{Kind: "NetworkPolicy", Name: "x*", Reason: "r"}, []bool{true, false, false}},
		"by namespace":      {Ignore{Namespace: "l?b", Reason: "r"}, []bool{true, true, false}},
		"on its last day":   {Ignore{Name: "y", Reason: "r", Until: "2026-06-01"}, []bool{false, true, false}},
		"after it":          {Ignore{Name: "y", Reason: "r", Until: "2026-05-31"}, []bool{false, false, false}},
		"on these clusters": {Ignore{Reason: "r", Clusters: &metav1.LabelSelector{MatchLabels: labels}}, []bool{true, true, true}},
		"on others":         {Ignore{Reason: "r", Clusters: &metav1.LabelSelector{MatchLabels: map[string]string{"env": "dev"}}}, []bool{false, false, false}},
		"without a reason":  {Ignore{Name: "x*"}, []bool{false, false, false}},
		"with a wrong day":  {Ignore{Name: "x*", Reason: "r", Until: "soon"}, []bool{false, false, false}},
	} {
		got := findings()
		Excuse(got, []Ignore{c.ignore}, labels, now)
		for i, f := range got {
			if (f.Ignored != nil) != c.want[i] {
				t.Errorf("%s: %s is ignored: %t", name, f.Key, f.Ignored != nil)
			}
		}
	}
	if e := ExpiredOf([]Ignore{{Kind: "NetworkPolicy", Reason: "old", Until: "2026-05-31"}, {Reason: "r"}}, now); len(e) != 1 || e[0] != "the ignore of kind NetworkPolicy (old) ended on 2026-05-31" {
		t.Error(e)
	}
	c := Cluster{Findings: findings()}
	Excuse(c.Findings, []Ignore{{Name: "x*", Reason: "r"}}, nil, now)
	if c.Settle(); c.State != Drifted || c.Ignored != 2 || c.Counts[Extra] != 1 || c.Findings[0].Name != "y" {
		t.Errorf("%+v", c)
	}
	if c.Trim(1, 1); len(c.Findings) != 1 || c.LeftOut != 2 || c.Counts[Extra] != 1 {
		t.Errorf("%+v", c)
	}
}

func repo(t *testing.T, name string, spec fleet.GitRepoSpec, annotations map[string]string) fleet.GitRepo {
	t.Helper()
	r := fleet.GitRepo{ObjectMeta: metav1.ObjectMeta{
		Name: name, Namespace: "fleet-default", Generation: 3, Annotations: map[string]string{},
		Labels: map[string]string{rancher.LabelPipeline: "np", rancher.LabelEnvironment: "prod"},
	}, Spec: spec}
	data, err := json.Marshal(rancher.WrittenOf(&spec))
	if err != nil {
		t.Fatal(err)
	}
	r.Annotations[rancher.AnnotationWritten] = string(data)
	for k, v := range annotations {
		r.Annotations[k] = v
	}
	return r
}

const (
	oldRevision = "1111111111111111111111111111111111111111"
	newRevision = "2222222222222222222222222222222222222222"
)

func TestScope(t *testing.T) {
	source := rancher.Source{Repo: "https://git.example.com/np"}
	spec := fleet.GitRepoSpec{Repo: source.Repo, Revision: oldRevision, Targets: []fleet.GitTarget{{ClusterName: "a"}}}
	verified := map[string]string{rancher.AnnotationVerified: oldRevision, rancher.AnnotationEvidence: "e"}
	staged := spec
	staged.Revision, staged.Paused = newRevision, true
	released := spec
	released.Revision = newRevision
	edited := func(change func(*fleet.GitRepo)) fleet.GitRepo {
		r := repo(t, "np-prod", spec, verified)
		change(&r)
		return r
	}
	for name, c := range map[string]struct {
		repo                    fleet.GitRepo
		moving, unknown, change string
	}{
		"as it was verified": {repo: edited(func(*fleet.GitRepo) {})},
		"staged":             {repo: repo(t, "np-prod", staged, verified), moving: "a rollout has staged 222222222222"},
		"released":           {repo: repo(t, "np-prod", released, verified), moving: "a rollout has put 222222222222 there, and has not verified it"},
		"being corrected": {repo: edited(func(r *fleet.GitRepo) {
			r.Annotations[rancher.AnnotationCorrecting] = `{"by":"c1","at":"2026-11-23T11:00:00Z"}`
		}), moving: "a correction of drift has Fleet apply it again"},
		"a correction that was cut short": {repo: edited(func(r *fleet.GitRepo) {
			r.Annotations[rancher.AnnotationCorrecting] = `{"by":"c1","at":"2026-11-23T01:00:00Z"}`
			r.Spec.CorrectDrift = &fleet.CorrectDrift{Enabled: true, Force: true}
		}), change: `spec.correctDrift: {"enabled":true,"force":true}, wished null`},
		"never verified": {repo: edited(func(r *fleet.GitRepo) {
			delete(r.Annotations, rancher.AnnotationVerified)
			delete(r.Annotations, rancher.AnnotationEvidence)
		}), moving: "a rollout has put 111111111111 there, and has not verified it"},
		"another revision": {repo: edited(func(r *fleet.GitRepo) { r.Spec.Revision = newRevision }), change: `spec.revision: "` + newRevision + `", wished "` + oldRevision + `"`},
		"a branch":         {repo: edited(func(r *fleet.GitRepo) { r.Spec.Branch = "main" }), change: `spec.branch: "main" was added`},
		"paused":           {repo: edited(func(r *fleet.GitRepo) { r.Spec.Paused = true }), change: "spec.paused: true, wished false"},
		"other targets":    {repo: edited(func(r *fleet.GitRepo) { r.Spec.Targets = nil }), change: "spec.targets: null, wished (others)"},
		"other repository": {repo: edited(func(r *fleet.GitRepo) { r.Spec.Repo = "https://x:y@evil.example.com/np" }), change: `spec.repo: "https://evil.example.com/np", wished "https://git.example.com/np"`},
		"no label":         {repo: edited(func(r *fleet.GitRepo) { r.Labels = nil }), change: `metadata.labels.portcullis.dev/pipeline: "np" is missing`},
	} {
		t.Run(name, func(t *testing.T) {
			units, err := Scope(ScopeRequest{
				Pipeline: "np", Source: source,
				Environments: []rancher.Environment{{Name: "prod", Clusters: metav1.LabelSelector{MatchLabels: map[string]string{"env": "prod"}}}},
				Clusters: []rancher.Cluster{
					{Name: "b", Labels: map[string]string{"env": "prod"}}, {Name: "a", Labels: map[string]string{"env": "prod"}}, {Name: "c", Labels: map[string]string{"env": "dev"}},
				},
				GitRepos:  []fleet.GitRepo{c.repo, {ObjectMeta: metav1.ObjectMeta{Name: "other"}}},
				Delivered: map[string][]string{"np-prod": {"a", "c"}},
				Now:       time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC),
			})
			if err != nil {
				t.Fatal(err)
			}
			if len(units) != 2 || len(units[0].Clusters) != 1 || units[0].Clusters[0].Name != "a" || units[1].GitRepo != "" || units[1].Clusters[0].Name != "b" || units[1].Unknown != "" {
				t.Fatalf("%+v", units)
			}
			u := units[0]
			if u.Moving != c.moving || u.Unknown != c.unknown {
				t.Errorf("moving %q, unknown %q", u.Moving, u.Unknown)
			}
			change := ""
			if len(u.Findings) > 0 {
				change = u.Findings[0].Changes[0].String()
			}
			if change != c.change {
				t.Errorf("changed %q, want %q", change, c.change)
			}
		})
	}
}

func TestReleaseCheck(t *testing.T) {
	ref := ReleaseRef{"np", "policies", 3}
	good := Release{Name: "policies", Namespace: "np", Version: 3}
	good.Info.Status = "deployed"
	if f := good.Check(ref, "bundle", "deployed"); f != nil {
		t.Error(f)
	}
	if f := good.Check(ref, "bundle", "superseded"); f == nil || !strings.Contains(f.Detail, "superseded") {
		t.Error(f)
	}
	other := good
	other.Name = "x"
	if f := other.Check(ref, "bundle", "deployed"); f == nil || !strings.Contains(f.Detail, "np/x:3") {
		t.Error(f)
	}
	foreign := good
	foreign.Chart.Metadata.Annotations = map[string]string{chartBundle: "another"}
	if f := foreign.Check(ref, "bundle", "deployed"); f == nil || !strings.Contains(f.Detail, "installed for another") {
		t.Error(f)
	}
}

// A field that the type does not have is dropped by the API server, and nobody changed anything.
func TestAFieldThatTheTypeDoesNotHave(t *testing.T) {
	set := `{"apiVersion":"crd.projectcalico.org/v1","kind":"GlobalNetworkSet","metadata":{"name":"s"%s},"spec":{"nets":["10.0.0.0/8"]%s}}`
	wish := Held{Bundle: "b", Wish: NewWish([]*Object{decoded(t, fmt.Sprintf(set, "", `,"allowedEgressDomains":["example.com"]`))})}
	for manager, want := range map[string]bool{"fleetagent": true, "kubectl-edit": false} {
		live := fmt.Sprintf(set, fmt.Sprintf(`,"managedFields":[{"manager":%q,"time":"2026-01-01T00:00:00Z","fieldsV1":{"f:spec":{"f:nets":{}}}}]`, manager), "")
		got, _ := Compare(Input{Releases: []Held{wish}, Live: listed(decoded(t, live))})
		expect(t, got, `changed GlobalNetworkSet s; spec.allowedEgressDomains: ["example.com"] is missing`)
		if (got[0].Detail != "") != want {
			t.Errorf("%s: %q", manager, got[0].Detail)
		}
	}
}
