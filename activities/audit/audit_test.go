package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/rancher/drift"
)

func only(t *testing.T, w *world, ignores ...drift.Ignore) drift.Cluster {
	t.Helper()
	_, found, _ := w.audit(ignores...)
	if len(found) != 1 {
		t.Fatalf("%d clusters", len(found))
	}
	for _, c := range found {
		return c
	}
	return drift.Cluster{}
}

func says(c drift.Cluster) []string {
	out := []string{}
	for _, f := range c.Findings {
		line := string(f.Category) + " " + f.Key.String()
		for _, change := range f.Changes {
			line += "; " + change.String()
		}
		out = append(out, line)
	}
	return out
}

func TestCleanCluster(t *testing.T) {
	w := newWorld(t, map[string]*api{"c-a": newAPI(t, 3)})
	_, found, batches := w.audit()
	c := found["c-a"]
	if c.State != drift.Clean || c.Objects != 3 || len(c.Findings)+len(c.Unknown) > 0 || c.Revision != revision {
		t.Errorf("%+v", c)
	}
	// What Fleet itself says stands beside it, and decides nothing.
	if len(c.Fleet) != 1 || len(c.Fleet[0].Modified) != 1 {
		t.Errorf("Fleet: %+v", c.Fleet)
	}
	if b := batches[0]; !slices.Equal(b.Measurable, []string{"c-a"}) || b.States[drift.Clean] != 1 || b.Digest != "" {
		t.Errorf("%+v", b)
	}
}

// The number of requests depends on types and releases alone.
func TestRequestsAreConstant(t *testing.T) {
	counts := map[int]int{}
	for _, n := range []int{1, 200, 2000} {
		s := newAPI(t, n)
		if n > 1 { // drift costs nothing either
			s.objects[npPath] = s.objects[npPath][n/2:]
			for i := range n {
				s.objects[gnpPath] = append(s.objects[gnpPath], fmt.Sprintf(`{"metadata":{"name":"extra-%d"},"spec":{}}`, i))
			}
		}
		c := only(t, newWorld(t, map[string]*api{"c-a": s}))
		counts[n] = s.requests()
		if c.Requests != counts[n] {
			t.Errorf("%d policies: %d requests reported, %d made", n, c.Requests, counts[n])
		}
		if n > 1 && (c.Counts[drift.Missing] != n/2 || c.Counts[drift.Extra] != n) {
			t.Errorf("%d policies: %v", n, c.Counts)
		}
	}
	if counts[1] != counts[200] || counts[1] != counts[2000] || counts[1] != len(drift.Watched())+1 {
		t.Errorf("requests by number of policies: %v", counts)
	}
}

func TestDriftedCluster(t *testing.T) {
	s := newAPI(t, 3)
	s.objects[npPath] = []string{np("p0", 99), np("p2", 3), np("x1", 5)}
	s.objects[gnpPath] = []string{`{"metadata":{"name":"open"},"spec":{"ingress":[{"action":"Allow"}]}}`}
	s.objects[calicoPath+"felixconfigurations"] = []string{`{"metadata":{"name":"default"},"spec":{"chainInsertMode":"Append"}}`}
	w := newWorld(t, map[string]*api{"c-a": s})
	want := []string{
		"missing NetworkPolicy shop/p1",
		"changed NetworkPolicy shop/p0; spec.ingress[0].ports[0].port: 99, wished 1",
		"extra GlobalNetworkPolicy open",
		"extra NetworkPolicy shop/x1",
		`setting FelixConfiguration default; spec.chainInsertMode: "Append" was added`,
	}
	c := only(t, w)
	if got := says(c); !slices.Equal(got, want) || c.State != drift.Drifted || c.Drift() != 5 {
		t.Errorf("%s %s", c.State, strings.Join(got, "\n"))
	}
	c = only(t, w, drift.Ignore{Name: "x*", Reason: "an experiment"})
	if c.Drift() != 4 || c.Ignored != 1 || c.Findings[4].Ignored.Reason != "an experiment" {
		t.Errorf("%+v", c)
	}
}

// What cannot be looked at makes a cluster unknown, never clean; and what was found all the same is told.
func TestUnknownCluster(t *testing.T) {
	refuse := func(paths ...string) *api {
		s := newAPI(t, 2)
		for _, p := range paths {
			s.refused[p] = http.StatusForbidden
		}
		return s
	}
	everything := refuse()
	for path := range everything.objects {
		everything.refused[path] = http.StatusUnauthorized
	}
	for _, resource := range []string{"tiers"} {
		everything.refused[calicoPath+resource] = http.StatusUnauthorized
	}
	for _, p := range []string{"v1alpha1/adminnetworkpolicies", "v1alpha1/baselineadminnetworkpolicies", "v1alpha2/clusternetworkpolicies"} {
		everything.refused["/apis/policy.networking.k8s.io/"+p] = http.StatusUnauthorized
	}
	for name, c := range map[string]struct {
		api  *api
		want string
		line int
	}{
		"one type":   {refuse(gnpPath), "GlobalNetworkPolicy (crd.projectcalico.org/v1) cannot be listed: " + gnpPath + " is refused", 1},
		"wished":     {refuse(npPath), "2 wished of NetworkPolicy", 1},
		"release":    {refuse(secretPath), "release np/policies:1: " + secretPath + " is refused", 1},
		"everything": {everything, "", 2},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, map[string]*api{"c-a": c.api})
			_, found, batches := w.audit()
			got := found["c-a"]
			if name == "release" {
				// Without the release, every policy belongs to nobody: then extras are told, and truly
				// not known to be.
				if got.State == drift.Clean {
					t.Errorf("%+v", got)
				}
			} else if got.State != drift.Unknown {
				t.Errorf("%+v", got)
			}
			if len(got.Unknown) != c.line || !strings.Contains(strings.Join(got.Unknown, "\n"), c.want) {
				t.Errorf("%q", got.Unknown)
			}
			if name == "everything" && len(batches[0].Measurable) > 0 {
				t.Error("what does not answer cannot be measured")
			}
		})
	}
	w := newWorld(t, map[string]*api{"c-a": newAPI(t, 1)})
	w.clusters[0].Connected, w.clusters[0].Reason = false, "the tunnel is down"
	if c := only(t, w); c.State != drift.Unknown || c.Reason != "not connected: the tunnel is down" || c.Requests != 0 {
		t.Errorf("%+v", c)
	}
}

func TestReleaseThatIsGoneOrDamaged(t *testing.T) {
	for name, change := range map[string]func(*api){
		"gone":    func(s *api) { delete(s.objects, secretPath) },
		"damaged": func(s *api) { s.objects[secretPath] = []string{`{"metadata":{"name":"x"},"data":{"release":"AAAA"}}`} },
		"superseded": func(s *api) {
			s.objects[secretPath][0] = strings.Replace(s.objects[secretPath][0], `"status":"deployed"`, `"status":"superseded"`, 1)
		},
	} {
		s := newAPI(t, 2)
		change(s)
		if c := only(t, newWorld(t, map[string]*api{"c-a": s})); c.State != drift.Drifted || c.Counts[drift.Tampered] != 1 {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

func TestClaimedReleases(t *testing.T) {
	s := newAPI(t, 1)
	claim := `{"metadata":{"name":%q,"namespace":"mon","annotations":{"meta.helm.sh/release-name":"prometheus","meta.helm.sh/release-namespace":"mon"}},"spec":{}}`
	s.objects[npPath] = append(s.objects[npPath], fmt.Sprintf(claim, "held"), fmt.Sprintf(claim, "claimed"))
	s.objects["/api/v1/secrets"] = []string{
		helm(t, "mon", "prometheus", "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: held}"),
		helm(t, "elsewhere", "prometheus", "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: claimed, namespace: mon}"),
	}
	if c := only(t, newWorld(t, map[string]*api{"c-a": s})); !slices.Equal(says(c), []string{"extra NetworkPolicy mon/claimed"}) || len(c.Unknown) > 0 {
		t.Errorf("%+v", c)
	}
	s.refused["/api/v1/secrets"] = http.StatusForbidden
	if c := only(t, newWorld(t, map[string]*api{"c-a": s})); c.Counts[drift.Extra] != 2 || len(c.Unknown) != 1 {
		t.Errorf("%+v", c)
	}
}

// Objects of other types that a release has are found by asking what the cluster serves.
func TestTypesThatAreNotKnown(t *testing.T) {
	s := newAPI(t, 0)
	s.objects[secretPath] = []string{helm(t, "np", "policies", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, namespace: apps}\nspec: {replicas: 2}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\n---\napiVersion: gone.example.com/v1\nkind: Gone\nmetadata: {name: g}")}
	s.objects["/apis/apps/v1"] = []string{`{"resources":[{"name":"deployments","kind":"Deployment"},{"name":"deployments/scale","kind":"Scale"}]}`}
	s.objects["/apis/apps/v1/deployments"] = []string{`{"metadata":{"name":"d","namespace":"apps"},"spec":{"replicas":3}}`}
	c := only(t, newWorld(t, map[string]*api{"c-a": s}))
	want := []string{"missing Gone g", "changed Deployment apps/d; spec.replicas: 3, wished 2"}
	if got := says(c); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if len(c.Unknown) != 1 || !strings.Contains(c.Unknown[0], "Secrets are not read") {
		t.Errorf("%q", c.Unknown)
	}
}

// While a rollout changes the environment there is nothing to compare with, and nobody is asked.
func TestMoving(t *testing.T) {
	s := newAPI(t, 1)
	w := newWorld(t, map[string]*api{"c-a": s})
	w.repo.Spec.Revision = strings.Repeat("2", 40)
	written, _ := json.Marshal(rancher.WrittenOf(&w.repo.Spec))
	w.repo.Annotations[rancher.AnnotationWritten] = string(written)
	if c := only(t, w); c.State != drift.Moving || !strings.Contains(c.Reason, "222222222222") || s.requests() != 0 {
		t.Errorf("%+v", c)
	}
}

// A rollout that begins while clusters are read makes what was found worthless.
func TestChangedMeanwhile(t *testing.T) {
	s := newAPI(t, 2)
	s.objects[npPath] = nil
	w := newWorld(t, map[string]*api{"c-a": s})
	w.onLook = func(n int) {
		if n == 3 { // after the scope and the first look
			w.repo.Generation++
		}
	}
	if c := only(t, w); c.State != drift.Moving || len(c.Findings) > 0 {
		t.Errorf("%+v", c)
	}
}

// The caches may be behind for a moment, and Fleet not done: that is waited for, not told.
func TestBehind(t *testing.T) {
	w := newWorld(t, map[string]*api{"c-a": newAPI(t, 1)})
	w.behind = 4
	if c := only(t, w); c.State != drift.Clean {
		t.Errorf("%+v", c)
	}
	w.behind = 1 << 30
	a := w.activities()
	_, err := a.Clusters(context.Background(), BatchInput{Unit: drift.Unit{GitRepo: "np-prod", Generation: 2, Revision: revision, Clusters: w.clusters}})
	if errs.TypeOf(err) != errs.TypeUnavailable {
		t.Error(err)
	}
}

func TestEditedGitRepo(t *testing.T) {
	w := newWorld(t, map[string]*api{"c-a": newAPI(t, 1)})
	w.repo.Spec.Revision = strings.Repeat("3", 40)
	units, found, _ := w.audit()
	if len(units[0].Findings) != 1 || units[0].Findings[0].Category != drift.Repo {
		t.Errorf("%+v", units[0].Findings)
	}
	if c := found["c-a"]; c.State != drift.Drifted || c.Counts[drift.Delivery] != 1 {
		t.Errorf("%+v", c)
	}
}

func TestClusterThatNothingIsDeliveredTo(t *testing.T) {
	w := newWorld(t, map[string]*api{"c-a": newAPI(t, 1)})
	a := w.activities()
	b, err := a.Clusters(context.Background(), BatchInput{Unit: drift.Unit{Environment: "prod", Clusters: w.clusters}})
	if err != nil {
		t.Fatal(err)
	}
	if b.States[drift.Drifted] != 1 || b.Findings[drift.Delivery] != 1 {
		t.Errorf("%+v", b)
	}
}

func TestListsThatAreNone(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"good":       {`{"kind":"L","items":[{"a":1},{"b":[2]}],"metadata":{}}`, ""},
		"empty":      {`{"items":[]}`, ""},
		"null":       {`{"items":null}`, ""},
		"no items":   {`{"kind":"Status"}`, "no list"},
		"an array":   {`[]`, "no list"},
		"a number":   {`{"items":3}`, "no list"},
		"cut short":  {`{"items":[{"a":1},{"b"`, "cannot be read"},
		"nothing":    {``, "cannot be read"},
		"no JSON":    {`<html>`, "cannot be read"},
		"not closed": {`{"items":[]`, "cannot be read"},
	} {
		err := readList(strings.NewReader(c.text), func(json.RawMessage) error { return nil })
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	endless := `{"items":[` + strings.Repeat("{},", maxItems) + `{}]}`
	if err := readList(strings.NewReader(endless), func(json.RawMessage) error { return nil }); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Error(err)
	}
}

func TestScopeRefusesBadIgnores(t *testing.T) {
	a := newWorld(t, nil).activities()
	if _, err := a.Scope(context.Background(), ScopeInput{Pipeline: "np", Ignores: []drift.Ignore{{Name: "x"}}}); errs.TypeOf(err) != errs.TypeInvalid {
		t.Error(err)
	}
}
