//go:build lab

package deliver

// These tests run on the lab: real Fleet, real clusters. They use a pipeline of
// their own and remove what they made.
//
//	go test -tags lab -run TestLab ./activities/deliver/ -v

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/testsuite"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientrest "k8s.io/client-go/rest"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/rancher"
)

const labPipeline = "delivery-test"

type lab struct {
	t      *testing.T
	env    *testsuite.TestActivityEnvironment
	client *rancher.Client
	acts   *Activities
	source rancher.Source
	work   string
}

func labDir() string {
	if dir := os.Getenv("PORTCULLIS_LAB_DIR"); dir != "" {
		return dir
	}
	return "/var/lib/portcullis-lab"
}

func newLab(t *testing.T) *lab {
	t.Helper()
	dir := labDir()
	if _, err := os.Stat(filepath.Join(dir, "rancher", "token")); err != nil {
		t.Skip("the lab is not up")
	}
	client, err := rancher.New(rancher.Config{
		URL: "https://10.99.0.1:8443", CAFile: filepath.Join(dir, "rancher", "ca.crt"), TokenFile: filepath.Join(dir, "rancher", "token"),
		UserAgent: "portcullis/lab-test",
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	if err := client.Check(ctx); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := client.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("caches filled in %s", time.Since(began).Round(time.Millisecond))
	l := &lab{t: t, client: client, acts: New(client), work: filepath.Join(t.TempDir(), "work")}
	var suite testsuite.WorkflowTestSuite
	l.env = suite.NewTestActivityEnvironment()
	began = time.Now()
	l.env.SetOnActivityHeartbeatListener(func(_ *activity.Info, details converter.EncodedValues) {
		var p Progress
		if details.Get(&p) == nil {
			t.Logf("%7.2fs %s %d/%d %s", time.Since(began).Seconds(), p.Phase, p.Ready, p.Total, p.Waiting)
		}
	})
	l.env.SetTestTimeout(10 * time.Minute)
	l.env.RegisterActivityWithOptions(l.acts, activity.RegisterOptions{SkipInvalidStructFunctions: true})
	l.repository(dir)
	return l
}

// repository makes one beside the lab's own, so that the two do not meet.
func (l *lab) repository(dir string) {
	bare := filepath.Join(dir, "git", labPipeline+".git")
	l.run("", "git", "init", "-q", "--bare", "-b", "main", bare)
	l.t.Cleanup(func() { _ = os.RemoveAll(bare) })
	l.run("", "git", "clone", "-q", bare, l.work)
	l.source = rancher.Source{Repo: "http://10.99.0.1:8880/" + labPipeline + ".git", Branch: "main", Paths: []string{"policies"}}
}

func (l *lab) run(dir, name string, args ...string) string {
	l.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		l.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (l *lab) git(args ...string) string {
	return l.run(l.work, "git", append([]string{"-c", "user.name=Ada", "-c", "user.email=ada@example.com"}, args...)...)
}

// commit makes a revision whose only object carries a value to be seen on clusters.
func (l *lab) commit(value string) string {
	l.t.Helper()
	dir := filepath.Join(l.work, "policies")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		l.t.Fatal(err)
	}
	text := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: delivery-test, namespace: default}\ndata: {value: " + value + "}\n"
	if err := os.WriteFile(filepath.Join(dir, "value.yaml"), []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
	l.git("add", "-A")
	l.git("commit", "-q", "-m", value)
	l.git("push", "-q", "origin", "HEAD:main")
	return l.git("rev-parse", "HEAD")
}

func (l *lab) live(cluster string) string {
	cmd := exec.Command(filepath.Join(labDir(), "bin", "kubectl"), "--kubeconfig", filepath.Join(labDir(), "kubeconfig", cluster+".yaml"),
		"get", "configmap", "delivery-test", "-o", "jsonpath={.data.value}", "--ignore-not-found")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return err.Error()
	}
	return string(out)
}

func (l *lab) plan(envs ...rancher.Environment) *Plan {
	l.t.Helper()
	val, err := l.env.ExecuteActivity(l.acts.Plan, PlanInput{Pipeline: labPipeline, Source: l.source, Environments: envs})
	if err != nil {
		l.t.Fatal(err)
	}
	var p Plan
	if err := val.Get(&p); err != nil {
		l.t.Fatal(err)
	}
	return &p
}

// seen reports when the value is first on the dev cluster.
func (l *lab) seen(ctx context.Context, value string) <-chan time.Time {
	at := make(chan time.Time, 1)
	cfg, err := l.client.REST("c-m-dev00001")
	if err != nil {
		l.t.Fatal(err)
	}
	plain, err := clientrest.HTTPClientFor(cfg)
	if err != nil {
		l.t.Fatal(err)
	}
	go func() {
		for ctx.Err() == nil {
			resp, err := plain.Get(cfg.Host + "/api/v1/namespaces/default/configmaps/delivery-test")
			if err == nil {
				body, _ := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if strings.Contains(string(body), `"`+value+`"`) {
					at <- time.Now()
					return
				}
			}
			time.Sleep(30 * time.Millisecond)
		}
	}()
	return at
}

func (l *lab) promote(in UnitInput, value string) {
	l.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	seen := l.seen(ctx, value)
	began := time.Now()
	if _, err := l.env.ExecuteActivity(l.acts.Stage, in); err != nil {
		l.t.Fatal("stage: ", err)
	}
	staged := time.Now()
	if _, err := l.env.ExecuteActivity(l.acts.Release, in); err != nil {
		l.t.Fatal("release: ", err)
	}
	released := time.Now()
	if _, err := l.env.ExecuteActivity(l.acts.Settle, in); err != nil {
		l.t.Fatal("settle: ", err)
	}
	select {
	case at := <-seen:
		l.t.Logf("%s: told %s after the object was on the cluster", in.Rollout, time.Since(at).Round(time.Millisecond))
	case <-time.After(time.Second):
		l.t.Errorf("%s settled, and the cluster does not have %q", in.Rollout, value)
	}
	l.t.Logf("%s: staged %s, released %s, settled %s", in.Rollout, staged.Sub(began).Round(time.Millisecond),
		released.Sub(staged).Round(time.Millisecond), time.Since(released).Round(time.Millisecond))
}

func (l *lab) must(activity, in any) {
	l.t.Helper()
	began := time.Now()
	if _, err := l.env.ExecuteActivity(activity, in); err != nil {
		l.t.Fatal(err)
	}
	l.t.Logf("took %s", time.Since(began).Round(time.Millisecond))
}

func TestLabDelivery(t *testing.T) {
	l := newLab(t)
	dev := rancher.Environment{Name: "dev", Clusters: metav1.LabelSelector{MatchLabels: map[string]string{"env": "dev"}}}
	first := l.commit("one")
	plan := l.plan(dev)
	unit := plan.Environments[0].Units[0]
	if unit.Before.Kind != rancher.RestoreAbsent || len(plan.Environments[0].Unready) != 0 {
		t.Fatalf("%+v", plan.Environments[0])
	}
	t.Cleanup(func() { // whatever happened, leave nothing
		ctx := context.Background()
		_ = l.client.DeleteGitRepo(ctx, unit.GitRepo)
		_ = l.client.WriteHold(ctx, labPipeline, "")
	})
	in := UnitInput{Pipeline: labPipeline, Environment: "dev", Source: l.source, Unit: unit, Commit: first, Rollout: "r1", Timeout: 3 * time.Minute}
	l.promote(in, "one")
	if got := l.live("dev"); got != "one" {
		t.Fatalf("live is %q", got)
	}
	l.must(l.acts.MarkVerified, VerifiedInput{UnitInput: in, Evidence: "e1"})

	second := l.commit("two")
	in.Unit = l.plan(dev).Environments[0].Units[0]
	if in.Unit.Before.Kind != rancher.RestoreVerified || in.Unit.Before.Revision != first {
		t.Fatalf("%+v", in.Unit.Before)
	}
	in.Commit, in.Rollout = second, "r2"
	l.promote(in, "two")
	if got := l.live("dev"); got != "two" {
		t.Fatalf("live is %q", got)
	}

	// Right back, within seconds: where Fleet can lose it.
	l.must(l.acts.Restore, RestoreInput{UnitInput: in, Reason: "the test says so"})
	if got := l.live("dev"); got != "one" {
		t.Fatalf("after the rollback live is %q", got)
	}
	_, err := l.env.ExecuteActivity(l.acts.Plan, PlanInput{Pipeline: labPipeline, Source: l.source, Environments: []rancher.Environment{dev}})
	if errs.TypeOf(err) != errs.TypeHeld {
		t.Fatalf("held: %v", err)
	}
	l.must(l.acts.Hold, HoldInput{Pipeline: labPipeline})

	// And back to where nothing was.
	in.Unit.Before = rancher.Before{Kind: rancher.RestoreAbsent}
	l.must(l.acts.Restore, RestoreInput{UnitInput: in, Reason: "gone again"})
	deadline := time.Now().Add(30 * time.Second)
	for l.live("dev") != "" && time.Now().Before(deadline) {
		time.Sleep(200 * time.Millisecond)
	}
	if got := l.live("dev"); got != "" {
		t.Errorf("still there: %q", got)
	}
	if _, err := l.env.ExecuteActivity(l.acts.Plan, PlanInput{Pipeline: labPipeline, Source: l.source, Environments: []rancher.Environment{dev}}); errs.TypeOf(err) != errs.TypeHeld {
		t.Errorf("a pipeline without GitRepos is not held: %v", err)
	}
	l.must(l.acts.Hold, HoldInput{Pipeline: labPipeline})
}

// TestLabLostRevert goes A, B, A by bare writes of spec.revision, as people and
// other tools do. Fleet then often loses the second A; waiting for it must find
// that out and mend it.
func TestLabLostRevert(t *testing.T) {
	l := newLab(t)
	dev := rancher.Environment{Name: "dev", Clusters: metav1.LabelSelector{MatchLabels: map[string]string{"env": "dev"}}}
	first := l.commit("one")
	second := l.commit("two")
	in := UnitInput{Pipeline: labPipeline, Environment: "dev", Source: l.source, Unit: l.plan(dev).Environments[0].Units[0], Commit: first, Rollout: "r1", Timeout: 3 * time.Minute}
	t.Cleanup(func() {
		ctx := context.Background()
		_ = l.client.DeleteGitRepo(ctx, in.Unit.GitRepo)
	})
	l.promote(in, "one")
	for round := range 3 {
		for _, revision := range []string{second, first, second, first} {
			if _, err := l.client.PatchGitRepo(context.Background(), in.Unit.GitRepo, map[string]any{"spec": map[string]any{"revision": revision}}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(round+1) * 500 * time.Millisecond)
		}
		began := time.Now()
		if _, err := l.env.ExecuteActivity(l.acts.Settle, in); err != nil {
			t.Fatal(err)
		}
		t.Logf("round %d: live after %s; %v recoveries so far", round+1, time.Since(began).Round(time.Millisecond), testutil.ToFloat64(l.acts.metrics.lost))
		if got := l.live("dev"); got != "one" {
			t.Fatalf("settled, and live is %q", got)
		}
	}
}
