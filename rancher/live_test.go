package rancher

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	fleet "github.com/rancher/fleet/pkg/apis/fleet.cattle.io/v1alpha1"
	"github.com/rancher/wrangler/v3/pkg/genericcondition"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	commitA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	commitB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

var (
	sumA = strings.Repeat("a1", 32)
	sumB = strings.Repeat("b2", 32)
)

// world is Fleet's state for one GitRepo with one bundle, in which everything is
// live; each test spoils one thing.
type world struct{ Snapshot }

func liveWorld(commit, sum string, clusters ...string) *world {
	w := &world{}
	w.GitRepo = &fleet.GitRepo{
		ObjectMeta: metav1.ObjectMeta{Name: "np-dev", Namespace: "fleet-default", Generation: 7},
		Spec:       fleet.GitRepoSpec{Revision: commit, ForceSyncGeneration: 3},
		Status:     fleet.GitRepoStatus{ObservedGeneration: 7, UpdateGeneration: 3, Commit: commit, GitJobStatus: "Current"},
	}
	w.bundle("np-dev-policies", commit, sum, clusters...)
	return w
}

func (w *world) bundle(name, commit, sum string, clusters ...string) {
	b := &fleet.Bundle{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "fleet-default", Generation: 4, Labels: map[string]string{
			fleet.CommitLabel: commit, fleet.RepoLabel: "np-dev",
		}},
		Status: fleet.BundleStatus{ObservedGeneration: 4, ResourcesSHA256Sum: sum},
	}
	b.Spec.ForceSyncGeneration = 3
	b.Status.Summary.DesiredReady = len(clusters)
	w.Bundles = append(w.Bundles, b)
	for _, c := range clusters {
		w.Deployments = append(w.Deployments, liveDeployment(b, c, sum))
	}
}

func liveDeployment(b *fleet.Bundle, cluster, sum string) *BundleDeployment {
	id := ("s-" + sum)[:63] + ":options"
	d := &BundleDeployment{ObjectMeta: metav1.ObjectMeta{Name: b.Name, Namespace: "cluster-" + cluster, Generation: 2, Labels: map[string]string{
		fleet.CommitLabel: b.Labels[fleet.CommitLabel], fleet.RepoLabel: "np-dev", fleet.BundleLabel: b.Name,
		fleet.BundleNamespaceLabel: "fleet-default", fleet.ClusterLabel: cluster,
	}}}
	d.Spec.DeploymentID, d.Spec.StagedDeploymentID = id, id
	d.Spec.StagedOptions.ForceSyncGeneration, d.Spec.Options.ForceSyncGeneration = 3, 3
	d.Status = fleet.BundleDeploymentStatus{
		AppliedDeploymentID: id, Release: "policies/np-dev-policies:1", Ready: true, NonModified: true,
		Conditions: []genericcondition.GenericCondition{{Type: "Ready", Status: "True"}, {Type: "Installed", Status: "True"}, {Type: "Deployed", Status: "True"}},
	}
	return d
}

func (w *world) on(cluster string) *BundleDeployment {
	for _, d := range w.Deployments {
		if d.Labels[fleet.ClusterLabel] == cluster {
			return d
		}
	}
	return nil
}

func gitJob(commit string, status batchv1.JobStatus) *batchv1.Job {
	return &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"commit": commit}, Labels: map[string]string{labelJobGeneration: "7"}}, Status: status}
}

func wantA(clusters ...string) Want { return Want{Commit: commitA, Generation: 7, Clusters: clusters} }

func notLive(t *testing.T, w *world, want Want, reason string) ClusterStatus {
	t.Helper()
	r := Live(w.Snapshot, want)
	if r.AllLive() {
		t.Fatalf("all live; want not, for %q", reason)
	}
	for _, c := range r.Clusters {
		if !c.Live && strings.Contains(c.Reason, reason) {
			return c
		}
	}
	t.Fatalf("no cluster is kept back for %q: %+v", reason, r)
	return ClusterStatus{}
}

func TestLiveWhenAllHolds(t *testing.T) {
	w := liveWorld(commitA, sumA, "dev")
	r := Live(w.Snapshot, wantA("dev"))
	if !r.AllLive() {
		t.Fatalf("not live: %+v", r)
	}
	if got := r.Clusters[0].Manifests["np-dev-policies"]; got != w.on("dev").Spec.DeploymentID {
		t.Errorf("manifest is %q", got)
	}
}

// The commit label of a BundleDeployment moves while its content is held back.
func TestTrap1CommitLabelIsNotProof(t *testing.T) {
	w := liveWorld(commitA, sumA, "dev", "held")
	d := w.on("held")
	d.Labels[fleet.CommitLabel] = commitA
	old := ("s-" + sumB)[:63] + ":options"
	d.Spec.DeploymentID, d.Status.AppliedDeploymentID = old, old
	notLive(t, w, wantA("dev", "held"), "held back")
}

// GitRepo.status.commit moves when the git job is made, also while paused.
func TestTrap2StatusCommitMovesBeforeTheJobRan(t *testing.T) {
	t.Run("job in progress", func(t *testing.T) {
		w := liveWorld(commitA, sumA, "dev")
		w.GitRepo.Status.GitJobStatus = "InProgress"
		notLive(t, w, wantA("dev"), "git job")
	})
	t.Run("job running, shown as Current", func(t *testing.T) {
		w := liveWorld(commitA, sumA, "dev")
		w.Jobs = []*batchv1.Job{gitJob(commitA, batchv1.JobStatus{Active: 1})}
		if r := Live(w.Snapshot, wantA("dev")); r.AllLive() || r.Lost || !strings.Contains(r.Waiting, "git job") {
			t.Errorf("%+v", r)
		}
		w.Jobs[0].Status = batchv1.JobStatus{Succeeded: 1}
		if r := Live(w.Snapshot, wantA("dev")); !r.AllLive() {
			t.Errorf("%+v", r)
		}
		w.Jobs[0].Status = batchv1.JobStatus{Conditions: []batchv1.JobCondition{{Type: batchv1.JobFailed, Status: "True", Message: "backoff"}}}
		if r := Live(w.Snapshot, wantA("dev")); r.AllLive() || !r.JobFailed {
			t.Errorf("%+v", r)
		}
	})
	t.Run("job running, its Bundles known to be complete", func(t *testing.T) {
		w := liveWorld(commitA, sumA, "dev")
		w.Jobs = []*batchv1.Job{gitJob(commitA, batchv1.JobStatus{Active: 1})}
		want := wantA("dev")
		want.Complete = true
		if r := Live(w.Snapshot, want); !r.AllLive() {
			t.Errorf("%+v", r)
		}
		w.Jobs = append(w.Jobs, gitJob(commitB, batchv1.JobStatus{Active: 1})) // would write B over it
		if r := Live(w.Snapshot, want); r.AllLive() {
			t.Error("live beside a running job of another commit")
		}
		w.Jobs[1] = gitJob(commitB, batchv1.JobStatus{Conditions: []batchv1.JobCondition{{Type: batchv1.JobFailed, Status: "True"}}})
		if r := Live(w.Snapshot, want); !r.AllLive() {
			t.Errorf("a failed job of another commit counts: %+v", r)
		}
		w.Bundles[0].Spec.Paused = true // not released yet
		if r := Live(w.Snapshot, want); r.AllLive() || r.Lost || !strings.Contains(r.Waiting, "git job") {
			t.Errorf("%+v", r)
		}
	})
	t.Run("job running again, after it succeeded", func(t *testing.T) {
		w := liveWorld(commitA, sumA, "dev")
		w.Jobs = []*batchv1.Job{gitJob(commitA, batchv1.JobStatus{Succeeded: 1})}
		want := wantA("dev")
		want.JobDone = SucceededJob(w.Snapshot)
		w.Jobs[0].Status = batchv1.JobStatus{Active: 1}
		if r := Live(w.Snapshot, want); !r.AllLive() {
			t.Errorf("%+v", r)
		}
		w.GitRepo.Generation, w.GitRepo.Status.ObservedGeneration = 8, 8
		if r := Live(w.Snapshot, want); r.AllLive() {
			t.Error("a job of an earlier generation counts")
		}
	})
	t.Run("generation not observed", func(t *testing.T) {
		w := liveWorld(commitA, sumA, "dev")
		w.GitRepo.Status.ObservedGeneration = 6
		notLive(t, w, wantA("dev"), "has not taken up")
	})
	t.Run("cache older than the write", func(t *testing.T) {
		w := liveWorld(commitA, sumA, "dev")
		want := wantA("dev")
		want.Generation = 8
		notLive(t, w, want, "not seen yet")
	})
	t.Run("paused", func(t *testing.T) {
		w := liveWorld(commitA, sumA, "dev")
		w.GitRepo.Spec.Paused = true
		notLive(t, w, wantA("dev"), "spec.paused")
	})
}

// The agent writes appliedDeploymentID also when Helm failed.
func TestTrap3AppliedIsNotSuccess(t *testing.T) {
	for name, spoil := range map[string]func(d *BundleDeployment){
		"no release": func(d *BundleDeployment) { d.Status.Release = "" },
		"installed is false": func(d *BundleDeployment) {
			d.Status.Conditions = []genericcondition.GenericCondition{{Type: "Installed", Status: "False", Message: "not installed: YAML parse error on payments.yaml"}}
		},
		"deployed is false": func(d *BundleDeployment) {
			d.Status.Conditions = []genericcondition.GenericCondition{{Type: "Deployed", Status: "False", Message: "failed, and has been rolled back due to atomic being set"}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := liveWorld(commitA, sumA, "dev")
			spoil(w.on("dev"))
			if c := notLive(t, w, wantA("dev"), "np-dev-policies: "); !c.Failed {
				t.Errorf("not marked as failed: %+v", c)
			}
		})
	}
	t.Run("a dependency is waited for", func(t *testing.T) {
		w := liveWorld(commitA, sumA, "dev")
		w.on("dev").Status.Conditions = []genericcondition.GenericCondition{{Type: "Deployed", Status: "False", Message: "dependent bundle(s) are not ready: [base]"}}
		if c := notLive(t, w, wantA("dev"), "dependent"); c.Failed {
			t.Error("waiting for a dependency is marked as failed")
		}
	})
}

// The commit is not in the content hash: a commit that changes no content keeps
// the deployment ID. The hash must be the Bundle's; that it changed proves nothing.
func TestTrap4SameContentKeepsItsDeploymentID(t *testing.T) {
	w := liveWorld(commitB, sumA, "dev") // B has the content of A
	w.on("dev").Labels[fleet.CommitLabel] = commitA
	if r := Live(w.Snapshot, Want{Commit: commitB, Generation: 7, Clusters: []string{"dev"}}); !r.AllLive() {
		t.Errorf("same content under a new commit is not live: %+v", r)
	}
	w = liveWorld(commitB, sumB, "dev") // B has other content, the cluster that of A
	old := ("s-" + sumA)[:63] + ":options"
	d := w.on("dev")
	d.Spec.StagedDeploymentID, d.Spec.DeploymentID, d.Status.AppliedDeploymentID = old, old, old
	notLive(t, w, Want{Commit: commitB, Generation: 7, Clusters: []string{"dev"}}, "not computed yet")
}

// Annotations in the cluster are written at install only; nothing is read there.
// What counts is the Helm release together with the deployment ID of the content.
func TestTrap5InstallTimeAnnotationsAreNotRead(t *testing.T) {
	w := liveWorld(commitA, sumA, "dev")
	d := w.on("dev")
	d.Annotations = map[string]string{fleet.CommitLabel: commitB}
	if !Live(w.Snapshot, wantA("dev")).AllLive() {
		t.Error("an annotation decided")
	}
	d.Annotations[fleet.CommitLabel] = commitA
	d.Status.AppliedDeploymentID = ("s-" + sumB)[:63] + ":options"
	notLive(t, w, wantA("dev"), "waiting for the Fleet agent")
}

// Ready says that objects are stored. By itself it is never enough here.
func TestTrap6ReadyAloneIsNotEnough(t *testing.T) {
	for name, spoil := range map[string]func(d *BundleDeployment){
		"other content applied": func(d *BundleDeployment) { d.Status.AppliedDeploymentID = "s-other:x" },
		"not released":          func(d *BundleDeployment) { d.Spec.DeploymentID = "s-other:x" },
		"modified":              func(d *BundleDeployment) { d.Status.NonModified = false },
		"no release":            func(d *BundleDeployment) { d.Status.Release = "" },
	} {
		t.Run(name, func(t *testing.T) {
			w := liveWorld(commitA, sumA, "dev")
			spoil(w.on("dev"))
			w.GitRepo.Status.Conditions = []genericcondition.GenericCondition{{Type: "Ready", Status: "True"}}
			notLive(t, w, wantA("dev"), "np-dev-policies: ")
		})
	}
}

// Nobody watches for drift on what is paused or off schedule: its status is old.
func TestTrap7PausedStatusIsOld(t *testing.T) {
	t.Run("paused", func(t *testing.T) {
		w := liveWorld(commitA, sumA, "dev")
		w.on("dev").Spec.Paused = true
		notLive(t, w, wantA("dev"), "is paused")
	})
	t.Run("off schedule", func(t *testing.T) {
		w := liveWorld(commitA, sumA, "dev")
		w.on("dev").Spec.OffSchedule = true
		notLive(t, w, wantA("dev"), "schedule")
	})
}

// Drift detection sees less than all; what it does see must stop.
func TestTrap8DriftThatIsSeenStops(t *testing.T) {
	w := liveWorld(commitA, sumA, "dev")
	d := w.on("dev")
	d.Status.NonModified = false
	d.Status.ModifiedStatus = []fleet.ModifiedStatus{{Kind: "GlobalNetworkPolicy", APIVersion: "crd.projectcalico.org/v1", Name: "deny", Create: true}}
	notLive(t, w, wantA("dev"), "deny missing")
	d.Status.NonModified = true // a summary that contradicts the list is not believed
	notLive(t, w, wantA("dev"), "deny missing")
}

// Fleet's lists end at ten. Every cluster is judged by its own deployment, and
// what says of itself that it is cut is not live.
func TestTrap9ListsAreCutAtTen(t *testing.T) {
	var clusters []string
	for i := range 25 {
		clusters = append(clusters, fmt.Sprintf("c%02d", i))
	}
	w := liveWorld(commitA, sumA, clusters...)
	for _, d := range w.Deployments[5:] {
		d.Status.Ready = false
	}
	if got := Live(w.Snapshot, wantA(clusters...)).Done(); got != 5 {
		t.Errorf("%d live, want 5", got)
	}
	w = liveWorld(commitA, sumA, "dev")
	w.on("dev").Status.IncompleteState = true
	notLive(t, w, wantA("dev"), "more than ten")
}

// A -> B -> A within seconds: Fleet shows A and Ready, and B is live.
func TestTrap10LostRevert(t *testing.T) {
	w := liveWorld(commitB, sumB, "dev")
	w.GitRepo.Spec.Revision, w.GitRepo.Status.Commit = commitA, commitA
	w.GitRepo.Spec.ForceSyncGeneration, w.GitRepo.Status.UpdateGeneration = 4, 4
	w.GitRepo.Status.Conditions = []genericcondition.GenericCondition{{Type: "Ready", Status: "True"}}
	notLive(t, w, wantA("dev"), "still of commit bbbbbbbbbbbb")
	if !Live(w.Snapshot, wantA("dev")).Lost {
		t.Error("the loss is not recognised")
	}
	t.Run("same commit, earlier sync", func(t *testing.T) {
		w := liveWorld(commitA, sumA, "dev")
		w.GitRepo.Spec.ForceSyncGeneration, w.GitRepo.Status.UpdateGeneration = 4, 4
		notLive(t, w, wantA("dev"), "earlier run of the git job")
	})
	t.Run("not lost while the job runs", func(t *testing.T) {
		w.GitRepo.Status.GitJobStatus = "InProgress"
		if Live(w.Snapshot, wantA("dev")).Lost {
			t.Error("a running job counts as lost")
		}
	})
	t.Run("a lost release", func(t *testing.T) {
		w := liveWorld(commitA, sumA, "dev")
		w.Bundles[0].Spec.Paused = true
		if r := Live(w.Snapshot, wantA("dev")); !r.Lost || r.AllLive() {
			t.Errorf("%+v", r)
		}
	})
}

func TestLiveOtherWays(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil  func(w *world)
		reason string
		failed bool
	}{
		"somebody changed the revision": {func(w *world) { w.GitRepo.Spec.Revision = commitB }, "changed by someone else", true},
		"somebody set a branch":         {func(w *world) { w.GitRepo.Spec.Branch = "main" }, "changed by someone else", true},
		"gone":                          {func(w *world) { w.GitRepo = nil }, "not there", true},
		"no bundle":                     {func(w *world) { w.Bundles, w.Deployments = nil, nil }, "no Bundle", false},
		"a new bundle not deployed yet": {func(w *world) {
			w.bundle("np-dev-more", commitA, sumB)
			w.Bundles[1].Status.Summary.DesiredReady = 1
		}, "np-dev-more is not computed", false},
		"a removed bundle lingers": {func(w *world) {
			w.Deployments = append(w.Deployments, liveDeployment(&fleet.Bundle{ObjectMeta: metav1.ObjectMeta{Name: "old"}}, "dev", sumA))
		}, "old: is being removed", false},
		"bundle not observed": {func(w *world) { w.Bundles[0].Status.ObservedGeneration = 3 }, "has not computed", false},
		"git job failed": {func(w *world) {
			w.GitRepo.Status.GitJobStatus = "Failed"
			w.GitRepo.Status.Conditions = []genericcondition.GenericCondition{{Type: "Stalled", Status: "True", Message: "Job Failed. connection refused"}}
		}, "connection refused", false},
		"targeting error": {func(w *world) {
			w.Bundles[0].Status.Conditions = []genericcondition.GenericCondition{{Type: "Ready", Status: "False", Message: "Targeting error: no value"}}
		}, "Targeting error", true},
	} {
		t.Run(name, func(t *testing.T) {
			w := liveWorld(commitA, sumA, "dev")
			tc.spoil(w)
			if c := notLive(t, w, wantA("dev"), tc.reason); c.Failed != tc.failed {
				t.Errorf("failed is %t", c.Failed)
			}
		})
	}
	t.Run("a bundle left out by doNotDeploy", func(t *testing.T) {
		w := liveWorld(commitA, sumA, "dev", "other")
		w.bundle("np-dev-more", commitA, sumB, "other")
		if r := Live(w.Snapshot, wantA("dev", "other")); !r.AllLive() {
			t.Errorf("%+v", r)
		}
	})
	t.Run("a branch that was restored", func(t *testing.T) {
		w := liveWorld(commitA, sumA, "dev")
		w.GitRepo.Spec.Branch, w.GitRepo.Spec.Revision = "main", ""
		if r := Live(w.Snapshot, Want{Follow: true, Branch: "main", Generation: 7, Clusters: []string{"dev"}}); !r.AllLive() {
			t.Errorf("%+v", r)
		}
	})
	t.Run("an extra cluster", func(t *testing.T) {
		w := liveWorld(commitA, sumA, "dev", "surprise")
		if r := Live(w.Snapshot, wantA("dev")); r.AllLive() || !slices.Equal(r.Extra, []string{"surprise"}) {
			t.Errorf("%+v", r)
		}
	})
}

func TestComputed(t *testing.T) {
	staged := func() *world {
		w := liveWorld(commitA, sumA, "dev", "other")
		w.GitRepo.Spec.Paused, w.Bundles[0].Spec.Paused = true, true
		for _, d := range w.Deployments {
			d.Spec.Paused = true
			d.Spec.DeploymentID = ("s-" + sumB)[:63] + ":options"
			d.Status.AppliedDeploymentID = d.Spec.DeploymentID
		}
		return w
	}
	t.Run("computed", func(t *testing.T) {
		r := Computed(staged().Snapshot, wantA("dev", "other"))
		if !r.AllComputed() || !r.Clusters[0].Changed || r.Clusters[0].Live {
			t.Errorf("%+v", r)
		}
	})
	t.Run("only the sync generation differs", func(t *testing.T) {
		w := staged()
		for _, d := range w.Deployments {
			d.Spec.DeploymentID = ("s-" + sumA)[:63] + ":before"
			d.Spec.Options.ForceSyncGeneration = 2
		}
		if r := Computed(w.Snapshot, wantA("dev", "other")); !r.AllComputed() || r.Clusters[0].Changed {
			t.Errorf("%+v", r)
		}
	})
	t.Run("values differ", func(t *testing.T) {
		w := staged()
		d := w.on("dev")
		d.Spec.DeploymentID = ("s-" + sumA)[:63] + ":before"
		d.Spec.StagedOptions.DefaultNamespace = "other"
		if r := Computed(w.Snapshot, wantA("dev", "other")); !r.Clusters[0].Changed {
			t.Errorf("%+v", r)
		}
	})
	t.Run("missing and extra", func(t *testing.T) {
		r := Computed(staged().Snapshot, wantA("dev", "absent"))
		if r.AllComputed() || !slices.Equal(r.Missing, []string{"absent"}) || !slices.Equal(r.Extra, []string{"other"}) {
			t.Errorf("%+v", r)
		}
	})
	t.Run("earlier content", func(t *testing.T) {
		w := staged()
		w.on("dev").Spec.StagedOptions.ForceSyncGeneration = 2
		if r := Computed(w.Snapshot, wantA("dev", "other")); r.AllComputed() {
			t.Errorf("%+v", r)
		}
	})
}

func BenchmarkLive1000Clusters(b *testing.B) {
	var clusters []string
	for i := range 1000 {
		clusters = append(clusters, fmt.Sprintf("c%04d", i))
	}
	w := liveWorld(commitA, sumA, clusters...)
	for b.Loop() {
		if !Live(w.Snapshot, wantA(clusters...)).AllLive() {
			b.Fatal("not live")
		}
	}
}
