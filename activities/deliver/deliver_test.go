package deliver

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	fleet "github.com/rancher/fleet/pkg/apis/fleet.cattle.io/v1alpha1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/rancher"
)

const (
	commitA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	commitB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

type bench struct {
	*testing.T
	fleet *fakeFleet
	acts  *Activities
	env   *testsuite.TestActivityEnvironment
}

func newBench(t *testing.T, clusters ...string) *bench {
	t.Helper()
	f := newFake(clusters...)
	quick := timings{
		recheck: 10 * time.Millisecond, quiet: time.Millisecond, lasting: 60 * time.Millisecond,
		lost: 30 * time.Millisecond, job: 30 * time.Millisecond, again: 200 * time.Millisecond, ask: time.Second,
	}
	b := &bench{T: t, fleet: f, acts: newWith(f, quick)}
	var suite testsuite.WorkflowTestSuite
	b.env = suite.NewTestActivityEnvironment()
	b.env.RegisterActivityWithOptions(b.acts, activity.RegisterOptions{SkipInvalidStructFunctions: true})
	return b
}

var source = rancher.Source{Repo: "https://git.example.com/np", Branch: "main"}

func devEnvironment() rancher.Environment {
	return rancher.Environment{Name: "dev", Clusters: metav1.LabelSelector{MatchLabels: map[string]string{"env": "dev"}}}
}

func run[T any](b *bench, activity, in any) (T, error) {
	b.Helper()
	var out T
	val, err := b.env.ExecuteActivity(activity, in)
	if err == nil && val.HasValue() {
		err = val.Get(&out)
	}
	return out, err
}

func (b *bench) plan(env rancher.Environment, after bool) (*Plan, error) {
	return run[*Plan](b, b.acts.Plan, PlanInput{Pipeline: "np", Source: source, Environments: []rancher.Environment{env}, AfterRollback: after})
}

// unit plans afresh and makes the input for a commit.
func (b *bench) unit(env rancher.Environment, commit, rollout string) UnitInput {
	b.Helper()
	p, err := b.plan(env, true)
	if err != nil {
		b.Fatal(err)
	}
	return UnitInput{Pipeline: "np", Environment: env.Name, Source: source, Unit: p.Environments[0].Units[0], Commit: commit, Rollout: rollout, Timeout: 3 * time.Second}
}

func (b *bench) ok(activity, in any) {
	b.Helper()
	if _, err := run[any](b, activity, in); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) fails(kind, says string, activity, in any) {
	b.Helper()
	_, err := run[any](b, activity, in)
	if errs.TypeOf(err) != kind || !strings.Contains(errs.Message(err), says) {
		b.Fatalf("want %s %q, got %v", kind, says, err)
	}
	if strings.Contains(errs.Message(err), "\n") {
		b.Errorf("not one line: %q", errs.Message(err))
	}
}

// promote takes a commit all the way.
func (b *bench) promote(env rancher.Environment, commit, rollout string) UnitInput {
	b.Helper()
	in := b.unit(env, commit, rollout)
	b.ok(b.acts.Stage, in)
	b.ok(b.acts.Release, in)
	b.ok(b.acts.Settle, in)
	b.ok(b.acts.MarkVerified, VerifiedInput{UnitInput: in, Evidence: "evidence of " + commit[:1]})
	return in
}

func (b *bench) repo(name string) *fleet.GitRepo {
	b.Helper()
	r, err := b.fleet.GetGitRepo(context.Background(), name)
	if err != nil || r == nil {
		b.Fatalf("GitRepo %s: %v, %v", name, r, err)
	}
	return r
}

func TestPromoteAndRestore(t *testing.T) {
	b := newBench(t, "one", "two")
	env := devEnvironment()
	in := b.unit(env, commitA, "r1")
	staged, err := run[*Staged](b, b.acts.Stage, in)
	if err != nil {
		t.Fatal(err)
	}
	if len(staged.Clusters) != 2 || !staged.Clusters[0].Changed || staged.Clusters[0].Live {
		t.Errorf("staged: %+v", staged.Clusters)
	}
	if d := b.fleet.deployed["np-dev"]["one"]; d.Status.AppliedDeploymentID != "" {
		t.Error("staging deployed something")
	}
	writes := b.fleet.writes
	b.ok(b.acts.Stage, in) // again, as after a crash
	if b.fleet.writes != writes {
		t.Error("staging twice wrote twice")
	}
	b.ok(b.acts.Release, in)
	b.ok(b.acts.Release, in)
	settled, err := run[*Settled](b, b.acts.Settle, in)
	if err != nil || !settled.Clusters[1].Live || settled.LiveAt.IsZero() {
		t.Fatalf("settled: %+v, %v", settled, err)
	}
	b.ok(b.acts.MarkVerified, VerifiedInput{UnitInput: in, Evidence: "e1"})
	b.promote(env, commitB, "r2")
	r := b.repo("np-dev")
	if r.Annotations[rancher.AnnotationVerified] != commitB || r.Annotations[rancher.AnnotationPrevious] != commitA || r.Spec.Branch != "" {
		t.Errorf("annotations: %v", r.Annotations)
	}

	in = b.unit(env, commitA, "r3")
	b.ok(b.acts.Stage, in)
	b.ok(b.acts.Release, in)
	sync := b.repo("np-dev").Spec.ForceSyncGeneration
	restore := RestoreInput{UnitInput: in, Reason: "the gate failed"}
	b.ok(b.acts.Restore, restore)
	b.ok(b.acts.Restore, restore)
	r = b.repo("np-dev")
	if r.Spec.Revision != commitB || r.Spec.Paused || r.Spec.ForceSyncGeneration != sync+1 || r.Annotations[rancher.AnnotationHeld] != "the gate failed" {
		t.Errorf("restored: %+v %v", r.Spec, r.Annotations)
	}
	if _, err := b.plan(env, false); errs.TypeOf(err) != errs.TypeHeld || !strings.Contains(errs.Message(err), "the gate failed") {
		t.Errorf("held: %v", err)
	}
	b.ok(b.acts.Hold, HoldInput{Pipeline: "np"})
	if _, err := b.plan(env, false); err != nil {
		t.Errorf("after the release: %v", err)
	}
}

// A unit that was recorded as verified before a later one failed goes back whole:
// its proof too, or the next rollback would return to what was just left.
func TestRestoreTakesBackTheProof(t *testing.T) {
	b := newBench(t, "one")
	env := devEnvironment()
	b.promote(env, commitA, "r1")
	in := b.promote(env, commitB, "r2")
	restore := RestoreInput{UnitInput: in, Reason: "prod failed"}
	b.ok(b.acts.Restore, restore)
	writes := b.fleet.writes
	b.ok(b.acts.Restore, restore)
	if b.fleet.writes != writes {
		t.Error("restoring twice wrote twice")
	}
	r := b.repo("np-dev")
	if r.Spec.Revision != commitA || r.Annotations[rancher.AnnotationVerified] != commitA || r.Annotations[rancher.AnnotationPrevious] != "" || r.Annotations[rancher.AnnotationEvidence] != "" {
		t.Errorf("restored to %s with %v", r.Spec.Revision, r.Annotations)
	}
	if before := b.unit(env, commitB, "r3").Unit.Before; before.Revision != commitA || before.Current != commitA {
		t.Errorf("the way back is %+v", before)
	}
}

// What a failed staging did not write to is not Portcullis's to put back.
func TestRestoreLeavesWhatIsNotItsOwn(t *testing.T) {
	adopted := func(t *testing.T) (*bench, UnitInput) {
		b := newBench(t, "one")
		b.fleet.with(func() {
			b.fleet.repos["old"] = &fleet.GitRepo{
				ObjectMeta: metav1.ObjectMeta{Name: "old", Namespace: "fleet-default", Generation: 1, ResourceVersion: "1"},
				Spec:       fleet.GitRepoSpec{Repo: source.Repo, Branch: "main", Targets: []fleet.GitTarget{{ClusterName: "one"}}},
			}
			b.fleet.reconcile("old")
		})
		env := devEnvironment()
		env.GitRepo = "old"
		return b, b.unit(env, commitA, "r1")
	}
	t.Run("never staged", func(t *testing.T) {
		b, in := adopted(t)
		b.ok(b.acts.Restore, RestoreInput{UnitInput: in, Reason: "bad"})
		if r := b.repo("old"); r.Generation != 1 || len(r.Annotations)+len(r.Labels) > 0 {
			t.Errorf("written to: %+v", r)
		}
		if held, _ := b.fleet.ReadHold(t.Context(), "np"); held != "bad" {
			t.Errorf("held: %q", held)
		}
	})
	t.Run("of another pipeline now", func(t *testing.T) {
		b, in := adopted(t)
		b.fleet.with(func() { b.fleet.repos["old"].Labels = map[string]string{rancher.LabelPipeline: "other"} })
		b.fails(errs.TypeConflict, "not of pipeline np any more", b.acts.Restore, RestoreInput{UnitInput: in, Reason: "bad"})
	})
}

// Who only measures is not stopped by what stops a rollout.
func TestPlanOfMembersIgnoresGitReposAndHolds(t *testing.T) {
	b := newBench(t, "one", "two")
	b.fleet.with(func() {
		b.fleet.repos["foreign"] = &fleet.GitRepo{
			ObjectMeta: metav1.ObjectMeta{Name: "foreign", Namespace: "fleet-default"},
			Spec:       fleet.GitRepoSpec{Repo: source.Repo, Branch: "main", Targets: []fleet.GitTarget{{ClusterName: "one"}}},
		}
	})
	b.ok(b.acts.Hold, HoldInput{Pipeline: "np", Reason: "bad"})
	env := devEnvironment()
	env.Waves = []rancher.Wave{{Name: "canary", MaxConcurrent: 1}}
	if _, err := b.plan(env, true); errs.TypeOf(err) != errs.TypeConflict {
		t.Fatalf("a rollout beside it is planned: %v", err)
	}
	p, err := run[*Plan](b, b.acts.Plan, PlanInput{Pipeline: "np", Source: source, Environments: []rancher.Environment{env}, MembersOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if units := p.Environments[0].Units; len(units) != 1 || len(units[0].Clusters) != 2 {
		t.Errorf("members: %+v", units)
	}
}

func TestRestoreToNothing(t *testing.T) {
	b := newBench(t, "one")
	env := devEnvironment()
	in := b.unit(env, commitA, "r1")
	b.ok(b.acts.Stage, in)
	b.ok(b.acts.Release, in)
	b.fleet.slow = true
	time.AfterFunc(50*time.Millisecond, func() {
		b.fleet.with(func() {
			delete(b.fleet.bundles, "np-dev")
			delete(b.fleet.deployed, "np-dev")
		})
	})
	b.ok(b.acts.Restore, RestoreInput{UnitInput: in, Reason: "bad"})
	if len(b.fleet.repos)+len(b.fleet.deployed) != 0 {
		t.Errorf("left: %v", b.fleet.repos)
	}
	if _, err := b.plan(env, false); errs.TypeOf(err) != errs.TypeHeld {
		t.Errorf("a pipeline without GitRepos is not held: %v", err)
	}
	b.ok(b.acts.Hold, HoldInput{Pipeline: "np"})
	if _, err := b.plan(env, false); err != nil {
		t.Error(err)
	}
}

func TestAdoptAndRestoreTheBranch(t *testing.T) {
	b := newBench(t, "one")
	b.fleet.with(func() {
		b.fleet.repos["old"] = &fleet.GitRepo{
			ObjectMeta: metav1.ObjectMeta{Name: "old", Namespace: "fleet-default", Generation: 1, ResourceVersion: "1"},
			Spec:       fleet.GitRepoSpec{Repo: source.Repo, Branch: "main", Targets: []fleet.GitTarget{{ClusterName: "one"}}, ServiceAccount: "kept"},
		}
	})
	env := devEnvironment()
	env.GitRepo = "old"
	in := b.unit(env, commitA, "r1")
	b.ok(b.acts.Stage, in)
	r := b.repo("old")
	if r.Spec.Branch != "" || r.Spec.Revision != commitA || r.Spec.ServiceAccount != "kept" || len(r.Spec.Targets) != 1 {
		t.Errorf("staged: %+v", r.Spec)
	}
	b.ok(b.acts.Release, in)
	b.ok(b.acts.Settle, in)
	b.ok(b.acts.Restore, RestoreInput{UnitInput: in, Reason: "bad"})
	r = b.repo("old")
	if r.Spec.Branch != "main" || r.Spec.Revision != "" || r.Spec.Paused || r.Spec.ServiceAccount != "kept" {
		t.Errorf("restored: %+v", r.Spec)
	}
	if again := b.unit(env, commitB, "r2"); again.Unit.Before.Kind != rancher.RestoreOriginal || again.Unit.Before.Branch != "main" {
		t.Errorf("the way back is %+v", again.Unit.Before)
	}
}

func TestLostRevertIsRecovered(t *testing.T) {
	b := newBench(t, "one")
	env := devEnvironment()
	b.promote(env, commitA, "r1")
	in := b.unit(env, commitB, "r2")
	b.ok(b.acts.Stage, in)
	b.ok(b.acts.Release, in)
	b.ok(b.acts.Settle, in)
	b.fleet.loseRevisions = 2
	b.ok(b.acts.Restore, RestoreInput{UnitInput: in, Reason: "bad"})
	if got := b.fleet.bundles["np-dev"].Labels[fleet.CommitLabel]; got != commitA {
		t.Errorf("the bundle is of %s", got)
	}
	if got := testutil.ToFloat64(b.acts.metrics.lost); got < 1 {
		t.Errorf("%v recoveries were counted", got)
	}
}

func TestGitServerDownForAWhile(t *testing.T) {
	b := newBench(t, "one")
	b.fleet.failJobs = 2
	in := b.unit(devEnvironment(), commitA, "r1")
	b.ok(b.acts.Stage, in)
	if got := testutil.ToFloat64(b.acts.metrics.jobs); got < 1 {
		t.Errorf("%v retried jobs were counted", got)
	}
}

func TestWaitingFails(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil      func(b *bench, in *UnitInput)
		kind, says string
	}{
		"agent is stopped": {func(b *bench, in *UnitInput) {
			in.Timeout = 300 * time.Millisecond
			b.fleet.with(func() {
				b.fleet.offline["two"] = true
				b.fleet.deployed["np-dev"]["two"].Status.AppliedDeploymentID = ""
			})
		}, errs.TypeDeadline, "two: np-dev-policies: waiting for the Fleet agent"},
		"Helm fails":             {func(b *bench, _ *UnitInput) { b.fleet.with(func() { b.fleet.broken["one"] = true }) }, errs.TypeFailed, "one (np-dev-policies: not installed: error validating data"},
		"somebody sets a branch": {func(b *bench, _ *UnitInput) { b.byHand(func(r *fleet.GitRepo) { r.Spec.Branch = "main" }) }, errs.TypeConflict, "changed by someone else"},
		"somebody pauses":        {func(b *bench, _ *UnitInput) { b.byHand(func(r *fleet.GitRepo) { r.Spec.Paused = true }) }, errs.TypeConflict, "spec.paused is true"},
		"somebody deletes":       {func(b *bench, _ *UnitInput) { _ = b.fleet.DeleteGitRepo(context.Background(), "np-dev") }, errs.TypeConflict, "not there"},
		"a cluster joins": {func(b *bench, _ *UnitInput) {
			b.fleet.with(func() {
				b.fleet.clusters = append(b.fleet.clusters, rancher.Cluster{Name: "new", Labels: map[string]string{"env": "dev"}})
			})
			b.byHand(func(r *fleet.GitRepo) { r.Spec.ServiceAccount = "x" })
		}, errs.TypeConflict, "also computes it for new"},
		"the API server is down": {func(b *bench, in *UnitInput) {
			in.Timeout = 300 * time.Millisecond
			b.fleet.down = &rancher.Error{Kind: rancher.KindUnavailable, Message: "Rancher does not answer"}
		}, errs.TypeDeadline, "Rancher does not answer"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, "one", "two")
			in := b.unit(devEnvironment(), commitA, "r1")
			b.ok(b.acts.Stage, in)
			b.ok(b.acts.Release, in)
			in.Timeout = time.Second
			tc.spoil(b, &in)
			b.fails(tc.kind, tc.says, b.acts.Settle, in)
		})
	}
}

// byHand changes the GitRepo as somebody else would.
func (b *bench) byHand(change func(r *fleet.GitRepo)) {
	b.fleet.with(func() {
		r := b.fleet.repos["np-dev"]
		change(r)
		r.Generation++
		r.ResourceVersion += "0"
	})
}

// An operator sees in the metrics who is waited for, while it lasts and no longer.
func TestWaitsAreCountedByReason(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(f *fakeFleet)
		want  reason
	}{
		"agent is stopped": {func(f *fakeFleet) {
			f.offline["one"] = true
			f.deployed["np-dev"]["one"].Status.AppliedDeploymentID = ""
		}, onClusters},
		"the API server is down": {func(f *fakeFleet) {
			f.down = &rancher.Error{Kind: rancher.KindUnavailable, Message: "Rancher does not answer"}
		}, onManagement},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, "one")
			in := b.unit(devEnvironment(), commitA, "r1")
			b.ok(b.acts.Stage, in)
			b.ok(b.acts.Release, in)
			b.fleet.with(func() { tc.spoil(b.fleet) })
			in.Timeout = 500 * time.Millisecond
			seen := make(chan bool)
			go func() {
				ok := false
				for end := time.Now().Add(400 * time.Millisecond); !ok && time.Now().Before(end); time.Sleep(time.Millisecond) {
					ok = testutil.ToFloat64(b.acts.metrics.waiting.WithLabelValues("settling", string(tc.want))) == 1
				}
				seen <- ok
			}()
			b.fails(errs.TypeDeadline, "", b.acts.Settle, in)
			if !<-seen {
				t.Errorf("no wait for %s was counted", tc.want)
			}
			for _, on := range []reason{onManagement, onGit, onFleet, onClusters} {
				if left := testutil.ToFloat64(b.acts.metrics.waiting.WithLabelValues("settling", string(on))); left != 0 {
					t.Errorf("%v waits for %s are left", left, on)
				}
			}
		})
	}
}

func TestRestoreIsPatient(t *testing.T) {
	b := newBench(t, "one")
	b.promote(devEnvironment(), commitA, "r1")
	in := b.unit(devEnvironment(), commitB, "r2")
	b.ok(b.acts.Stage, in)
	b.ok(b.acts.Release, in)
	b.fleet.with(func() { b.fleet.broken["one"] = true })
	time.AfterFunc(200*time.Millisecond, func() { b.fleet.with(func() { b.fleet.broken["one"] = false }) })
	b.ok(b.acts.Restore, RestoreInput{UnitInput: in, Reason: "bad"})
}

func TestRestoreMakesAGitRepoAnewThatSomebodyDeleted(t *testing.T) {
	b := newBench(t, "one")
	b.promote(devEnvironment(), commitA, "r1")
	in := b.unit(devEnvironment(), commitB, "r2")
	b.ok(b.acts.Stage, in)
	if err := b.fleet.DeleteGitRepo(context.Background(), "np-dev"); err != nil {
		t.Fatal(err)
	}
	b.ok(b.acts.Restore, RestoreInput{UnitInput: in, Reason: "bad"})
	if r := b.repo("np-dev"); r.Spec.Revision != commitA || r.Annotations[rancher.AnnotationVerified] != commitA {
		t.Errorf("%+v %v", r.Spec, r.Annotations)
	}
}

func TestReleaseOfSomethingElseIsRefused(t *testing.T) {
	b := newBench(t, "one")
	in := b.unit(devEnvironment(), commitA, "r1")
	b.ok(b.acts.Stage, in)
	other := in
	other.Rollout = "r2"
	b.fails(errs.TypeConflict, "another rollout (r1)", b.acts.Release, other)
	b.byHand(func(r *fleet.GitRepo) { r.Spec.Revision = commitB })
	b.fails(errs.TypeConflict, "changed by someone", b.acts.Release, in)
	b.fails(errs.TypeConflict, "cannot be recorded as verified", b.acts.MarkVerified, VerifiedInput{UnitInput: in})
	if err := b.fleet.DeleteGitRepo(context.Background(), "np-dev"); err != nil {
		t.Fatal(err)
	}
	b.fails(errs.TypeConflict, "deleted by someone", b.acts.Release, in)
}

func TestStageAfterSomebodyTookTheName(t *testing.T) {
	b := newBench(t, "one")
	in := b.unit(devEnvironment(), commitA, "r1")
	b.fleet.with(func() {
		b.fleet.repos["np-dev"] = &fleet.GitRepo{ObjectMeta: metav1.ObjectMeta{Name: "np-dev", Namespace: "fleet-default", ResourceVersion: "1"}}
	})
	b.fails(errs.TypeConflict, "made by someone else after the plan", b.acts.Stage, in)
}

func TestWritesThatRaceAreMadeAgain(t *testing.T) {
	b := newBench(t, "one")
	in := b.unit(devEnvironment(), commitA, "r1")
	b.ok(b.acts.Stage, in)
	b.fleet.conflicts = 3
	b.ok(b.acts.Release, in)
	b.fleet.with(func() { b.fleet.conflicts = 100 })
	in.Commit = commitB
	b.fails(errs.TypeUnavailable, "after 6 attempts", b.acts.Stage, in)
}

func TestOutageIsRetryable(t *testing.T) {
	b := newBench(t, "one")
	in := b.unit(devEnvironment(), commitA, "r1")
	b.fleet.down = &rancher.Error{Kind: rancher.KindUnavailable, Message: "Rancher does not answer"}
	b.fails(errs.TypeUnavailable, "does not answer", b.acts.Stage, in)
	b.fails(errs.TypeUnavailable, "does not answer", b.acts.Release, in)
	b.fleet.down = &rancher.Error{Kind: rancher.KindDenied, Message: "refused the token"}
	b.fails(errs.TypeDenied, "refused the token", b.acts.Release, in)
	var app *temporal.ApplicationError
	for _, way := range []struct {
		activity, in any
		again        bool
	}{{b.acts.Release, in, false}, {b.acts.Restore, RestoreInput{UnitInput: in, Reason: "bad"}, true}, {b.acts.MarkVerified, VerifiedInput{UnitInput: in}, true}} {
		if _, err := run[any](b, way.activity, way.in); !errors.As(err, &app) || app.NonRetryable() == way.again {
			t.Errorf("a token that can be renewed: retried %t, want %t (%v)", !app.NonRetryable(), way.again, err)
		}
	}
}

func TestDeadlineCountsFromTheFirstAttempt(t *testing.T) {
	b := newBench(t, "one")
	in := b.unit(devEnvironment(), commitA, "r1")
	b.env.SetHeartbeatDetails(Progress{Phase: "settling", StartedAt: time.Now().Add(-time.Hour)})
	began := time.Now()
	b.fails(errs.TypeDeadline, "took longer than 3s", b.acts.Settle, in)
	if time.Since(began) > time.Second {
		t.Error("an attempt after the deadline waited")
	}
}

func TestPlanIsStable(t *testing.T) {
	b := newBench(t, "one", "two")
	first, err := b.plan(devEnvironment(), false)
	if err != nil {
		t.Fatal(err)
	}
	b.fleet.with(func() { b.fleet.clusters[0].AgentLastSeen = time.Now().Add(time.Minute) })
	second, err := b.plan(devEnvironment(), false)
	if err != nil || first.Hash != second.Hash || first.Hash == "" {
		t.Errorf("%v, %s and %s", err, first.Hash, second.Hash)
	}
	b.fleet.with(func() { b.fleet.clusters = b.fleet.clusters[:1] })
	third, err := b.plan(devEnvironment(), false)
	if err != nil || third.Hash == first.Hash {
		t.Errorf("%v: a plan for other clusters has the same hash", err)
	}
}

func TestDescribe(t *testing.T) {
	r := rancher.Report{}
	for _, c := range []string{"a", "b", "c", "d", "e"} {
		r.Clusters = append(r.Clusters, rancher.ClusterStatus{Cluster: c, Reason: "slow"})
	}
	r.Clusters = append(r.Clusters, rancher.ClusterStatus{Cluster: "f", Reason: "odd"}, rancher.ClusterStatus{Cluster: "g"})
	if got := describe(r); got != "a, b, c and 2 more: slow; f: odd" {
		t.Errorf("got %q", got)
	}
}

func TestErrorsAreNamedOnce(t *testing.T) {
	m := newMetrics()
	err := error(&rancher.Error{Kind: rancher.KindUntrusted, Message: "m"})
	m.count("Plan", &err)
	if errs.TypeOf(err) != errs.TypeUntrusted || testutil.ToFloat64(m.failures.WithLabelValues("Plan", errs.TypeUntrusted)) != 1 {
		t.Errorf("got %v", err)
	}
	if got := outcome(errors.New("x")); got != "Other" {
		t.Errorf("got %s", got)
	}
}
