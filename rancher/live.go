package rancher

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	fleet "github.com/rancher/fleet/pkg/apis/fleet.cattle.io/v1alpha1"
	"github.com/rancher/wrangler/v3/pkg/genericcondition"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// Want is what is asked of a GitRepo.
type Want struct {
	// Commit is the full commit that must be live, or the tag that an original was
	// pinned to. Empty only with Follow.
	Commit string
	// Follow is set where the GitRepo is not pinned (a restored original that
	// followed a branch): then the commit is whichever Fleet fetched of Branch.
	Follow bool
	// Branch is the GitRepo's branch, with Follow only. It may be empty, which
	// Fleet takes for master.
	Branch string
	// Generation is the GitRepo's, as returned by the write that asked for it.
	// A cache that shows an older one has not seen the write.
	Generation int64
	// JobDone is the GitRepo generation of which a git job was seen to succeed, so
	// that its Bundles are all written. Fleet sometimes runs a job twice.
	JobDone int64
	// Complete is set when it is known that every Bundle of the commit exists, as
	// it is after staging: then the end of the git job need not be awaited.
	Complete bool
	// Clusters are the Fleet cluster names that must have it.
	Clusters []string
}

// Report is what Fleet's objects say about a Want.
type Report struct {
	// Clusters has one entry per Want.Clusters, in that order.
	Clusters []ClusterStatus
	// Extra are clusters that Fleet computed deployments for, and that were not asked for.
	Extra []string
	// Missing are clusters that were asked for and that Fleet computed nothing for.
	Missing []string
	// Waiting is what is awaited of the GitRepo or its Bundles as a whole, before
	// a cluster can be looked at. Empty when that part is done.
	Waiting string
	// Failed is true when Waiting is a failure of the whole that waiting does not mend.
	Failed bool
	// JobFailed is true when Fleet's git job failed. Fleet runs it again only
	// when it is told to.
	JobFailed bool
	// Lost is true when Fleet says that it is done with the GitRepo, and its
	// Bundles show that it is not (trap 10). Fleet mends that only when forced.
	Lost bool
}

// Done counts the clusters that are live.
func (r Report) Done() int {
	n := 0
	for _, c := range r.Clusters {
		if c.Live {
			n++
		}
	}
	return n
}

// AllLive is true when the whole Want holds: nothing is awaited, every cluster
// is live, and no other cluster has it.
func (r Report) AllLive() bool {
	return r.Waiting == "" && len(r.Extra) == 0 && len(r.Clusters) > 0 && r.Done() == len(r.Clusters)
}

// Live says, for each cluster, whether exactly the wanted revision's content is
// applied, ready and unmodified there. It trusts none of what Fleet can show
// while old content, or none, is live:
//
//   - the commit label of a BundleDeployment (it moves before the content does);
//   - GitRepo.status.commit (it moves when the git job is made);
//   - appliedDeploymentID == deploymentID (also written when Helm failed);
//   - the newest deployment ID having changed (it does not where the content is the same);
//   - chart annotations in the cluster (written at install only);
//   - Ready alone (objects stored, possibly others than wanted);
//   - modifiedStatus of what is paused or off schedule (it is not kept up);
//   - short lists of what is wrong (Fleet cuts them at ten).
//
// Live means that the objects are stored as wanted. That they are enforced is
// for probes to say.
func Live(s Snapshot, want Want) Report {
	r := Report{}
	r.head(s, want, false)
	r.clusters(s, want, liveOn, true)
	return r
}

// Computed says, for each cluster, whether Fleet has computed the wanted revision
// for it while the GitRepo is paused: ClusterStatus.Reason is empty and Manifests
// and Changed are set when it has. Live is never set.
func Computed(s Snapshot, want Want) Report {
	r := Report{}
	r.head(s, want, true)
	r.clusters(s, want, stagedOn, false)
	if r.AllComputed() {
		r.changes(s)
	}
	return r
}

// AllComputed is true when Fleet has computed the Want for exactly its clusters.
func (r Report) AllComputed() bool {
	if r.Waiting != "" || len(r.Extra)+len(r.Missing) > 0 {
		return false
	}
	for _, c := range r.Clusters {
		if c.Reason != "" {
			return false
		}
	}
	return len(r.Clusters) > 0
}

// head judges the GitRepo and its Bundles as a whole.
func (r *Report) head(s Snapshot, want Want, paused bool) {
	repo := s.GitRepo
	switch {
	case repo == nil:
		r.fail("the GitRepo is not there")
	case repo.DeletionTimestamp != nil:
		r.fail("it is being deleted by someone else")
	case repo.Generation < want.Generation:
		r.Waiting = fmt.Sprintf("the change of GitRepo %s is not seen yet", repo.Name)
	case repo.Spec.Branch != want.Branch || repo.Spec.Revision != want.Commit:
		r.fail("it was changed by someone else: it has %s now", pinned(repo))
	case repo.Spec.Paused != paused:
		r.fail("it was changed by someone else: spec.paused is %t now", repo.Spec.Paused)
	default:
		r.job(repo)
	}
	if r.Waiting != "" {
		return
	}
	r.bundles(s, want)
	done := want.Complete || want.JobDone != 0 && want.JobDone == repo.Generation
	if r.Lost || r.Waiting == "" {
		r.running(s, wantedCommit(s, want), done && r.Waiting == "")
	}
}

func (r *Report) fail(format string, args ...any) {
	r.Waiting, r.Failed = fmt.Sprintf(format, args...), true
}

func pinned(repo *fleet.GitRepo) string {
	return fmt.Sprintf("branch %q and revision %q", repo.Spec.Branch, repo.Spec.Revision)
}

// job judges Fleet's git job for the newest generation.
func (r *Report) job(repo *fleet.GitRepo) {
	conds := repo.Status.Conditions
	accepted, stalled, polling := condition(conds, fleet.GitRepoAcceptedCondition), condition(conds, "Stalled"), condition(conds, "GitPolling")
	switch {
	case repo.Status.ObservedGeneration != repo.Generation:
		r.Waiting = "Fleet has not taken up the change of GitRepo " + repo.Name
	case accepted != nil && accepted.Status == "False":
		r.Waiting = fmt.Sprintf("Fleet does not accept GitRepo %s: %s", repo.Name, oneLine(accepted.Message))
		r.JobFailed = true
	case repo.Status.GitJobStatus == "Failed" || stalled != nil && stalled.Status == "True":
		r.JobFailed = true
		r.Waiting = fmt.Sprintf("Fleet's git job of GitRepo %s failed: %s", repo.Name, messageOf(stalled))
	case polling != nil && polling.Status == "False" && repo.Spec.Branch != "":
		r.Waiting = fmt.Sprintf("Fleet cannot read branch %s for GitRepo %s: %s", repo.Spec.Branch, repo.Name, oneLine(polling.Message))
	case repo.Status.GitJobStatus != "Current":
		r.Waiting = fmt.Sprintf("Fleet's git job of GitRepo %s is %s", repo.Name, orSome(repo.Status.GitJobStatus, "not started"))
	}
}

// running judges the git jobs themselves: Fleet also shows a job that has only
// started as "Current", and until it has ended there may be Bundles to come. Where
// the wanted commit's are all there (done), its own job need not end; one of
// another commit still must, or it would write that commit's over them.
func (r *Report) running(s Snapshot, commit string, done bool) {
next:
	for _, j := range s.Jobs {
		own := j.Annotations["commit"] == commit
		if j.Status.Succeeded > 0 || j.DeletionTimestamp != nil || done && own {
			continue
		}
		for _, c := range j.Status.Conditions {
			if c.Type == batchv1.JobFailed && c.Status == corev1.ConditionTrue {
				if !own {
					continue next
				}
				r.JobFailed, r.Lost = true, false
				r.Waiting = fmt.Sprintf("Fleet's git job of GitRepo %s failed: %s", s.GitRepo.Name, oneLine(c.Message))
				return
			}
		}
		r.Lost = false
		r.Waiting = fmt.Sprintf("Fleet's git job of GitRepo %s is running", s.GitRepo.Name)
		if j.Status.Ready == nil || *j.Status.Ready == 0 {
			r.Waiting = fmt.Sprintf("Fleet's git job of GitRepo %s waits for its pod to start", s.GitRepo.Name)
		}
	}
}

// SucceededJob returns the GitRepo generation of a git job in s that succeeded, or 0.
func SucceededJob(s Snapshot) int64 {
	var newest int64
	for _, j := range s.Jobs {
		if n, err := strconv.ParseInt(j.Labels[labelJobGeneration], 10, 64); err == nil && j.Status.Succeeded > 0 {
			newest = max(newest, n)
		}
	}
	return newest
}

func messageOf(cond *genericcondition.GenericCondition) string {
	if cond == nil || cond.Message == "" {
		return "no message"
	}
	return oneLine(cond.Message)
}

// wantedCommit is the commit that is waited for. Of a branch or tag, only Fleet
// knows which one it found.
func wantedCommit(s Snapshot, want Want) string {
	if want.Follow || !FullCommit(want.Commit) {
		return s.GitRepo.Status.Commit
	}
	return want.Commit
}

// bundles judges whether all Bundles came out of the git job of this revision.
func (r *Report) bundles(s Snapshot, want Want) {
	commit := wantedCommit(s, want)
	if len(s.Bundles) == 0 {
		r.Waiting = fmt.Sprintf("Fleet made no Bundle for GitRepo %s yet", s.GitRepo.Name)
		r.Lost = true
		return
	}
	for _, b := range s.Bundles {
		if why := stale(s.GitRepo, b, commit); why != "" {
			r.Waiting, r.Lost = why, true
			return
		}
	}
	for _, b := range s.Bundles {
		if why := uncomputed(b); why != "" {
			r.Waiting = why
			return
		}
		if ready := condition(b.Status.Conditions, "Ready"); ready != nil && ready.Status == "False" && strings.HasPrefix(ready.Message, "Targeting error") {
			r.fail("Bundle %s: %s", b.Name, oneLine(ready.Message))
			return
		}
	}
}

// stale says why a Bundle is not the product of this GitRepo as it is now.
// forceSyncGeneration is part of the proof: Fleet's git job copies it into the
// Bundle, and Portcullis raises it with every write.
func stale(repo *fleet.GitRepo, b *fleet.Bundle, commit string) string {
	sync := b.Spec.ForceSyncGeneration
	switch {
	case b.DeletionTimestamp != nil:
		return fmt.Sprintf("Bundle %s is being removed", b.Name)
	case commit == "" || b.Labels[fleet.CommitLabel] != commit:
		return fmt.Sprintf("Bundle %s is still of commit %s", b.Name, orSome(short(b.Labels[fleet.CommitLabel]), "(none)"))
	case sync != 0 && sync != repo.Spec.ForceSyncGeneration:
		return fmt.Sprintf("Bundle %s is still of an earlier run of the git job", b.Name)
	case b.Spec.Paused != repo.Spec.Paused:
		return fmt.Sprintf("Bundle %s still has spec.paused %t", b.Name, b.Spec.Paused)
	}
	return ""
}

func uncomputed(b *fleet.Bundle) string {
	if b.Status.ObservedGeneration != b.Generation || contentID(b) == "" {
		return fmt.Sprintf("Fleet has not computed Bundle %s yet", b.Name)
	}
	return ""
}

// contentID is what the manifest part of each deployment ID of b must be: the
// hash of the content, which a commit label only claims.
func contentID(b *fleet.Bundle) string {
	if b.Spec.ContentsID != "" {
		return b.Spec.ContentsID
	}
	if b.Status.ResourcesSHA256Sum == "" {
		return ""
	}
	id := "s-" + b.Status.ResourcesSHA256Sum
	return id[:min(len(id), 63)]
}

func manifestOf(deploymentID string) string {
	id, _, _ := strings.Cut(deploymentID, ":")
	return id
}

// FullCommit says whether s is a full commit hash, which Fleet takes as it is.
func FullCommit(s string) bool {
	if len(s) != 40 {
		return false
	}
	for _, r := range s {
		if (r < '0' || r > '9') && (r < 'a' || r > 'f') {
			return false
		}
	}
	return true
}

func short(commit string) string {
	if len(commit) == 40 {
		return commit[:12]
	}
	return commit
}

// judge looks at one BundleDeployment. A reason means: not there yet.
type judge func(b *fleet.Bundle, d *BundleDeployment) (reason string, failed bool)

// clusters judges every wanted cluster; live is what one that passes is called.
func (r *Report) clusters(s Snapshot, want Want, look judge, live bool) {
	byCluster := map[string]map[string]*BundleDeployment{}
	perBundle := map[string]int{}
	for _, d := range s.Deployments {
		cluster, bundle := d.Labels[fleet.ClusterLabel], d.Labels[fleet.BundleLabel]
		if byCluster[cluster] == nil {
			byCluster[cluster] = map[string]*BundleDeployment{}
		}
		byCluster[cluster][bundle] = d
		perBundle[bundle]++
	}
	bundles := slices.Clone(s.Bundles)
	slices.SortFunc(bundles, func(a, b *fleet.Bundle) int { return strings.Compare(a.Name, b.Name) })
	for _, name := range want.Clusters {
		st := r.cluster(name, bundles, byCluster[name], perBundle, look, live)
		r.Clusters = append(r.Clusters, st)
	}
	wanted := toSet(want.Clusters)
	for name := range byCluster {
		if !wanted[name] {
			r.Extra = append(r.Extra, name)
		}
	}
	slices.Sort(r.Extra)
}

func (r *Report) cluster(name string, bundles []*fleet.Bundle, have map[string]*BundleDeployment, perBundle map[string]int, look judge, live bool) ClusterStatus {
	st := ClusterStatus{Cluster: name, Manifests: map[string]string{}}
	if len(have) == 0 {
		r.Missing = append(r.Missing, name)
		st.Reason = "Fleet has not computed anything for it"
	}
	for _, b := range bundles {
		d := have[b.Name]
		if d == nil {
			// A targetCustomization may leave a bundle out on a cluster; then
			// Fleet counts fewer targets too.
			if st.Reason == "" && perBundle[b.Name] != b.Status.Summary.DesiredReady {
				st.Reason = fmt.Sprintf("Bundle %s is not computed for it yet", b.Name)
			}
			continue
		}
		st.Manifests[b.Name] = d.Spec.StagedDeploymentID
		reason, failed := look(b, d)
		if reason != "" && (st.Reason == "" || failed && !st.Failed) {
			st.Reason, st.Failed = b.Name+": "+reason, failed
		}
	}
	for bundle := range have {
		if st.Reason == "" && !slices.ContainsFunc(bundles, func(b *fleet.Bundle) bool { return b.Name == bundle }) {
			st.Reason = bundle + ": is being removed"
		}
	}
	switch {
	case r.Waiting != "":
		st.Reason, st.Failed = r.Waiting, r.Failed
	case st.Reason == "":
		st.Live = live
	}
	return st
}

// changes marks the clusters on which releasing would change something.
func (r *Report) changes(s Snapshot) {
	changed := map[string]bool{}
	for _, d := range s.Deployments {
		if name := d.Labels[fleet.ClusterLabel]; !changed[name] && differs(d) {
			changed[name] = true
		}
	}
	for i := range r.Clusters {
		r.Clusters[i].Changed = changed[r.Clusters[i].Cluster]
	}
}

// differs says whether releasing what is staged changes what is applied. Raising
// forceSyncGeneration alone changes the deployment ID, and nothing else.
func differs(d *BundleDeployment) bool {
	if d.Spec.DeploymentID == d.Spec.StagedDeploymentID {
		return false
	}
	if manifestOf(d.Spec.DeploymentID) != manifestOf(d.Spec.StagedDeploymentID) {
		return true
	}
	now, staged := d.Spec.Options.DeepCopy(), d.Spec.StagedOptions.DeepCopy()
	now.ForceSyncGeneration, staged.ForceSyncGeneration = 0, 0
	a, errA := json.Marshal(now)
	b, errB := json.Marshal(staged)
	return errA != nil || errB != nil || string(a) != string(b)
}

// stagedOn: the content that Fleet would deploy is the Bundle's, and is held back.
func stagedOn(b *fleet.Bundle, d *BundleDeployment) (string, bool) {
	switch {
	case d.DeletionTimestamp != nil:
		return "is being removed", false
	case !d.Spec.Paused:
		return "is not paused yet", false
	case manifestOf(d.Spec.StagedDeploymentID) != contentID(b), d.Spec.StagedOptions.ForceSyncGeneration != b.Spec.ForceSyncGeneration:
		return "the new content is not computed yet", false
	}
	return "", false
}

// liveOn is the safe predicate for one bundle on one cluster.
func liveOn(b *fleet.Bundle, d *BundleDeployment) (string, bool) {
	spec, status := &d.Spec, &d.Status
	switch {
	case d.DeletionTimestamp != nil:
		return "is being removed", false
	case spec.Paused:
		return "is paused (by the Fleet cluster, the Bundle or the GitRepo)", false
	case spec.OffSchedule:
		return "is kept back by a Fleet schedule", false
	case manifestOf(spec.StagedDeploymentID) != contentID(b), spec.StagedOptions.ForceSyncGeneration != b.Spec.ForceSyncGeneration:
		return "the new content is not computed yet", false
	case spec.DeploymentID != spec.StagedDeploymentID:
		return "is held back by Fleet's rollout strategy", false
	}
	if reason, failed := installed(d); reason != "" {
		return reason, failed
	}
	switch {
	case !status.Ready:
		return "not ready: " + listed(status.NonReadyStatus, status.Conditions), false
	case !status.NonModified:
		return "modified on the cluster: " + listed(status.ModifiedStatus, nil), false
	case status.IncompleteState:
		return "more than ten objects are not ready or modified", false
	case len(status.NonReadyStatus) > 0:
		return "not ready: " + listed(status.NonReadyStatus, nil), false
	case len(status.ModifiedStatus) > 0:
		return "modified on the cluster: " + listed(status.ModifiedStatus, nil), false
	}
	return "", false
}

// installed says whether Helm applied what the spec asks for. The agent writes
// appliedDeploymentID also when Helm failed, with an empty release.
func installed(d *BundleDeployment) (string, bool) {
	status := &d.Status
	current := status.AppliedDeploymentID == d.Spec.DeploymentID
	if cond := condition(status.Conditions, fleet.BundleDeploymentConditionInstalled); current && cond != nil && cond.Status == "False" {
		return oneLine(cond.Message), true
	}
	if cond := condition(status.Conditions, fleet.BundleDeploymentConditionDeployed); cond != nil && cond.Status == "False" {
		return "not deployed: " + oneLine(cond.Message), !mayPass(cond.Message)
	}
	switch {
	case !current:
		return "waiting for the Fleet agent to apply it", false
	case status.Release == "":
		return "the agent reports no Helm release for it: " + messageIn(d, "Ready"), true
	}
	return "", false
}

// mayPass recognises failures that the agent retries with good hope.
func mayPass(message string) bool {
	m := strings.ToLower(message)
	for _, s := range []string{"dependent bundle", "dependencies", "connection refused", "i/o timeout", "deadline exceeded", "no route to host", "eof", "etcdserver", "too many requests", "another operation", "no matches for kind"} {
		if strings.Contains(m, s) {
			return true
		}
	}
	return false
}

func messageIn(d *BundleDeployment, kind string) string {
	if cond := condition(d.Status.Conditions, kind); cond != nil && cond.Message != "" {
		return oneLine(cond.Message)
	}
	return "no message"
}

const listedAtMost = 3

// listed names the first few of what Fleet lists, and says that there are more.
func listed[T fmt.Stringer](items []T, conds []genericcondition.GenericCondition) string {
	names := make([]string, 0, listedAtMost)
	for _, it := range items[:min(len(items), listedAtMost)] {
		names = append(names, it.String())
	}
	out := strings.Join(names, "; ")
	if more := len(items) - listedAtMost; more > 0 {
		out += fmt.Sprintf("; and %d more", more)
	}
	if out == "" {
		if c := condition(conds, "Ready"); c != nil {
			out = c.Message
		}
	}
	return oneLine(orSome(out, "no detail given"))
}

func toSet(names []string) map[string]bool {
	set := make(map[string]bool, len(names))
	for _, n := range names {
		set[n] = true
	}
	return set
}
