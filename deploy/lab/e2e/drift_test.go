package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"portcullis.dev/portcullis/deploy/lab/internal/drive"
)

// audited is what these tests read of a report.
type audited struct {
	RunID     string    `json:"runId"`
	State     string    `json:"state"`
	Reason    string    `json:"reason"`
	StartedBy string    `json:"startedBy"`
	StartedAt time.Time `json:"startedAt"`
	Changed   bool      `json:"changed"`
	Found     []struct {
		Cluster  string   `json:"cluster"`
		State    string   `json:"state"`
		Unknown  []string `json:"unknown"`
		Findings []struct {
			Category, Kind, Namespace, Name string
			Changes                         []struct{ Path, Wished, Live string }
			By                              *struct {
				Manager string    `json:"manager"`
				At      time.Time `json:"at"`
			}
		} `json:"findings"`
	} `json:"found"`
	News *struct {
		New, Changed, Gone []struct {
			Cluster string
			Finding struct{ Category, Name string }
		}
	} `json:"news"`
}

// on has the findings of a cluster, as category and name, sorted.
func (a audited) on(cluster string) []string {
	out := []string{}
	for _, c := range a.Found {
		for _, f := range c.Findings {
			if c.Cluster == cluster {
				out = append(out, f.Category+" "+f.Name)
			}
		}
	}
	slices.Sort(out)
	return out
}

func (a audited) String() string {
	text, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// fleetsOwn is the policy that comes with Fleet's agent, in its own namespace: it is known.
const fleetsOwn = `ignore: [{kind: NetworkPolicy, namespace: "cattle-fleet*", name: default-allow-all, reason: "comes with Fleet's agent"}]`

// audits is the sample pipeline with audits every so often; more is put into spec.drift.
func audits(t *testing.T, every, more string) string {
	t.Helper()
	file, err := p.PipelineFile("drift", func(text string) string {
		return strings.TrimRight(text, "\n") + "\n  drift: {schedule: \"@every " + every + "\", " + more + fleetsOwn + "}\n"
	})
	must(t, err)
	return file
}

// nextAudit waits for a scheduled audit that began after at.
func nextAudit(t *testing.T, at time.Time) audited {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Minute); time.Now().Before(deadline); time.Sleep(2 * time.Second) {
		var a audited
		r, err := p.JSON(t.Context(), &a, "drift", "report", drive.Pipeline)
		if err == nil && r.Code == 0 && a.StartedAt.After(at) {
			return a
		}
	}
	t.Fatalf("no audit began after %s", at)
	return audited{}
}

// auditNow has the schedule audit at once, and returns what that found.
func auditNow(t *testing.T) audited {
	t.Helper()
	at := time.Now()
	p.Call(t, 0, "drift", "schedule", "trigger", drive.Pipeline)
	return nextAudit(t, at)
}

// The policies that TestDrift changes and deletes.
const gnp, np = "globalnetworkpolicies.crd.projectcalico.org", "networkpolicies.networking.k8s.io"

// TestDrift: what is changed, added and deleted by hand on prod is in the next scheduled audit's
// report. That begins a correction, which puts right what Fleet has once it is approved, and
// leaves alone what Fleet has not.
func TestDrift(t *testing.T) {
	goodEverywhere(t)
	file := audits(t, "1m", "probes: true, correct: {approvals: 1}, ")
	p.Call(t, 0, "drift", "schedule", "apply", "-f", file, "--by", "e2e")
	t.Cleanup(func() { p.Call(t, 0, "drift", "schedule", "remove", drive.Pipeline) })
	if r := p.Call(t, 0, "drift", "schedule", "apply", "-f", file, "--by", "e2e"); !strings.Contains(r.Stdout, "unchanged") {
		t.Errorf("applied again: %s", r.Stdout)
	}

	// As it was rolled out, nothing is told: no default, no label of Helm's, no annotation of Fleet's.
	clean := auditNow(t)
	if clean.State != "clean" || clean.StartedBy != "schedule" {
		t.Fatalf("before anything was changed: %s", clean)
	}
	break3(t)

	// This one the schedule begins by itself.
	drifted := nextAudit(t, time.Now())
	if drifted.State != "drifted" {
		t.Errorf("after three changes: %s", drifted)
	}
	told(t, drifted)
	// The same by hand ends with the code that says so, and writes a page.
	page := filepath.Join(t.TempDir(), "audit.html")
	p.Call(t, 9, "drift", "audit", drive.Pipeline, "--html", page, "--by", "e2e")
	text, err := os.ReadFile(page)
	if err != nil || !strings.Contains(string(text), "by-hand") {
		t.Errorf("the page: %v", err)
	}
	if r := p.Call(t, 0, "rollout", "status", drive.Pipeline); !strings.Contains(r.Stdout, "last audit: drifted") {
		t.Errorf("the rollout's status does not tell of the audit: %s", r.Stdout)
	}

	corrected(t)
	p.MustKubectl(t, "prod", "-n", "data", "delete", np, "by-hand")
	back := auditNow(t)
	if back.State != "clean" {
		t.Errorf("after all was put back: %s", back)
	}
	var news audited
	if _, err := p.JSON(t.Context(), &news, "drift", "report", drive.Pipeline, "--run", back.RunID, "--since", drifted.RunID); err != nil || news.News == nil || len(news.News.Gone) != 3 {
		t.Errorf("what is gone since: %v %+v", err, news.News)
	}
}

// break3 changes, deletes and adds a policy on prod, and sees to it that none of that outlives
// the test.
func break3(t *testing.T) {
	t.Helper()
	changed := saved(t, "prod", gnp, "", "default.checkout-api")
	deleted := saved(t, "prod", np, "data", "db")
	extra := filepath.Join(t.TempDir(), "extra.yaml")
	must(t, os.WriteFile(extra, []byte("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: by-hand, namespace: data}\nspec: {podSelector: {}, ingress: [{}]}\n"), 0o600))
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		p.MustKubectl(t, "prod", "-n", "data", "delete", np, "by-hand", "--ignore-not-found")
		p.MustKubectl(t, "prod", "replace", "-f", changed)
		p.MustKubectl(t, "prod", "apply", "-f", deleted)
	})
	p.MustKubectl(t, "prod", "patch", gnp, "default.checkout-api", "--type=merge", "-p", `{"spec":{"order":7}}`)
	p.MustKubectl(t, "prod", "-n", "data", "delete", np, "db")
	p.MustKubectl(t, "prod", "create", "-f", extra)
}

// told: the three are in the report, with who wrote them, and nothing else is.
func told(t *testing.T, drifted audited) {
	t.Helper()
	want := []string{"changed default.checkout-api", "extra by-hand", "missing db"}
	if got := drifted.on("prod"); !slices.Equal(got, want) {
		t.Errorf("prod: %q, want %q", got, want)
	}
	for _, env := range []string{"dev", "staging"} {
		if got := drifted.on(env); len(got) > 0 {
			t.Errorf("%s: %q, where nobody changed anything", env, got)
		}
	}
	for _, c := range drifted.Found {
		for _, f := range c.Findings {
			if f.Category != "missing" && (f.By == nil || !strings.HasPrefix(f.By.Manager, "kubectl") || f.By.At.IsZero()) {
				t.Errorf("%s %s was written by %+v", f.Category, f.Name, f.By)
			}
			if f.Category == "changed" && (len(f.Changes) != 1 || f.Changes[0].Path != "spec.order" || f.Changes[0].Live != "7") {
				t.Errorf("%s: %+v", f.Name, f.Changes)
			}
		}
	}
}

// correcting is what these tests read of a correction.
type correcting struct {
	State     string `json:"state"`
	Reason    string `json:"reason"`
	StartedBy string `json:"startedBy"`
	Left      int    `json:"left"`
	Units     []struct {
		GitRepo string `json:"gitRepo"`
		State   string `json:"state"`
		Reason  string `json:"reason"`
		Fix     struct {
			Findings int      `json:"findings"`
			Clusters []string `json:"clusters"`
		} `json:"fix"`
	} `json:"units"`
	Gate *struct {
		Evidence struct{ Hash string } `json:"evidence"`
	} `json:"gate"`
	FinishedAt time.Time `json:"finishedAt"`
}

// correction waits until the last correction is as ok wants it.
func correction(t *testing.T, limit time.Duration, what string, ok func(correcting) bool) correcting {
	t.Helper()
	var c correcting
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(time.Second) {
		var now correcting
		if r, err := p.JSON(t.Context(), &now, "drift", "correct", "status", drive.Pipeline); err == nil && r.Code == 0 {
			if c = now; ok(c) {
				return c
			}
		}
	}
	t.Fatalf("the correction is not %s within %s: %+v", what, limit, c)
	return c
}

// corrected: the correction that the audit began waits for somebody to approve what it found,
// and then has Fleet put right the two that Fleet has.
func corrected(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			_, _ = p.CLI(context.WithoutCancel(t.Context()), "drift", "correct", "reject", drive.Pipeline, "--by", "e2e", "--why", "the test is over")
		}
	})
	repo := drive.Pipeline + "-prod"
	before := gitRepo(t, repo, "{.spec.correctDrift}")
	waits := correction(t, time.Minute, "waiting for approval of two findings", func(c correcting) bool {
		return c.Gate != nil && len(c.Units) == 1 && c.Units[0].Fix.Findings == 2
	})
	if u := waits.Units[0]; waits.StartedBy != "schedule" || waits.Left != 1 || u.GitRepo != repo || !slices.Equal(u.Fix.Clusters, []string{"prod"}) {
		t.Errorf("the correction that waits: %+v", waits)
	}
	p.Call(t, 5, "drift", "correct", "approve", drive.Pipeline, "--evidence", strings.Repeat("0", 64), "--by", "e2e")
	p.Call(t, 0, "drift", "correct", "approve", drive.Pipeline, "--evidence", waits.Gate.Evidence.Hash, "--by", "e2e", "--why", "nobody meant that")
	done := correction(t, 5*time.Minute, "over", func(c correcting) bool { return !c.FinishedAt.IsZero() })
	if done.State != "corrected" || done.Left != 1 || len(done.Units) != 1 || done.Units[0].State != "corrected" {
		t.Fatalf("the correction ended so: %+v", done)
	}
	if got := p.MustKubectl(t, "prod", "get", gnp, "default.checkout-api", "-o", "jsonpath={.spec.order}"); got == "7" {
		t.Error("what was changed by hand is still there")
	}
	p.MustKubectl(t, "prod", "-n", "data", "get", np, "db")
	p.MustKubectl(t, "prod", "-n", "data", "get", np, "by-hand")
	if got := gitRepo(t, repo, "{.spec.correctDrift}"); got != before {
		t.Errorf("GitRepo %s: correctDrift is %q after it, and was %q", repo, got, before)
	}
	if got := gitRepo(t, repo, `{.metadata.annotations.portcullis\.dev/correcting}`); got != "" {
		t.Errorf("GitRepo %s is still marked: %s", repo, got)
	}
}

// saved writes an object to a file as it is, without what the API server would refuse, so that it can be put back.
func saved(t *testing.T, cluster, kind, namespace, name string) string {
	t.Helper()
	args := []string{"get", kind, name, "-o", "json"}
	if namespace != "" {
		args = append([]string{"-n", namespace}, args...)
	}
	var o map[string]any
	must(t, json.Unmarshal([]byte(p.MustKubectl(t, cluster, args...)), &o))
	meta, ok := o["metadata"].(map[string]any)
	if !ok {
		t.Fatalf("%s has no metadata", name)
	}
	for _, field := range []string{"resourceVersion", "uid", "creationTimestamp", "generation", "managedFields"} {
		delete(meta, field)
	}
	data, err := json.Marshal(o)
	must(t, err)
	file := filepath.Join(t.TempDir(), fmt.Sprintf("%s-%s.json", cluster, name))
	must(t, os.WriteFile(file, data, 0o600))
	return file
}

// TestDriftOfGitRepo: a GitRepo that was edited by hand is told, with the field.
func TestDriftOfGitRepo(t *testing.T) {
	goodEverywhere(t)
	file := audits(t, "24h", "")
	name := drive.Pipeline + "-staging"
	patch := func(paused bool) {
		p.MustKubectl(t, "mgmt", "-n", "fleet-default", "patch", "gitrepos.fleet.cattle.io", name, "--type=merge", "-p", fmt.Sprintf(`{"spec":{"paused":%t}}`, paused))
	}
	patch(true)
	t.Cleanup(func() { patch(false) })
	r := p.Call(t, 9, "drift", "audit", "-f", file, "--by", "e2e")
	if !strings.Contains(r.Stdout, "GitRepo fleet-default/"+name) || !strings.Contains(r.Stdout, "spec.paused: true, wished false") {
		t.Errorf("the audit does not tell of the pause: %s", r.Stdout)
	}
	patch(false)
	p.Call(t, 0, "drift", "audit", "-f", file, "--by", "e2e")
}

// TestDriftWhileRollingOut: an audit during a rollout leaves out what it is changing, and tells nothing of it.
func TestDriftWhileRollingOut(t *testing.T) {
	goodEverywhere(t)
	start(t, sample(t), commit(t, "v1"))
	goodCommit = ""
	until(t, drive.Pipeline, "soaking or later", func(s drive.Status) bool {
		now := s.Now("dev")
		return now == "settling" || now == "verifying" || now == "soaking" || s.Environment("dev").State == "verified" || !s.Running
	})
	r := p.Call(t, 0, "drift", "audit", "-f", audits(t, "24h", ""), "--by", "e2e")
	if strings.Contains(r.Stdout, "missing") || strings.Contains(r.Stdout, "extra ") {
		t.Errorf("the audit takes a rollout for drift: %s", r.Stdout)
	}
	finish(t, drive.Pipeline)
}
