package deliver

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/activity"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/pace"
	"portcullis.dev/portcullis/rancher"
)

// wait is one activity's waiting for Fleet. It is woken by watch events, looks
// by itself now and then, tells people what it waits for, and ends at a deadline
// that counts from the first attempt.
type wait struct {
	a        *Activities
	in       UnitInput
	want     rancher.Want
	progress Progress
	deadline time.Time
	// patient waits keep on when Fleet reports a failure.
	patient bool

	// counted is what the metric of waits has this one under, or "".
	counted reason
	// outage says why the API server did not answer when last asked.
	outage string
	// The times since when something stands, zero when it does not.
	failedSince, lostSince, jobSince time.Time
	// forced counts how often Fleet was made to sync again.
	forced int
}

func (a *Activities) begin(ctx context.Context, phase string, in UnitInput) *wait {
	w := &wait{a: a, in: in, want: rancher.Want{Commit: in.Commit}}
	for _, c := range in.Unit.Clusters {
		w.want.Clusters = append(w.want.Clusters, c.Name)
	}
	w.progress = Progress{Phase: phase, Total: len(in.Unit.Clusters), StartedAt: time.Now().UTC()}
	if activity.HasHeartbeatDetails(ctx) {
		var last Progress
		if err := activity.GetHeartbeatDetails(ctx, &last); err == nil && !last.StartedAt.IsZero() {
			w.progress.StartedAt = last.StartedAt
		}
	}
	timeout := in.Timeout
	if timeout <= 0 {
		timeout = rancher.DefaultSettleTimeout
	}
	w.deadline = w.progress.StartedAt.Add(timeout)
	w.tell(ctx, "", "")
	return w
}

// until waits until judge, asked of what Fleet's objects say now, gives a report
// that is done; or fails.
func (w *wait) until(ctx context.Context, judge func(rancher.Snapshot, rancher.Want) rancher.Report, done func(rancher.Report) bool) (report rancher.Report, err error) {
	defer func() { w.ended(err) }()
	err = w.loop(ctx, func() (bool, error) {
		report, err = w.look(ctx, judge, done)
		return err == nil && done(report) && w.outage == "", err
	})
	return report, err
}

// count keeps the metric of waits: under which reason this one is waiting now.
func (w *wait) count(now reason) {
	if w.counted == now {
		return
	}
	if w.counted != "" {
		w.a.metrics.waiting.WithLabelValues(w.progress.Phase, string(w.counted)).Dec()
	}
	if w.counted = now; now != "" {
		w.a.metrics.waiting.WithLabelValues(w.progress.Phase, string(now)).Inc()
	}
}

func (w *wait) ended(err error) {
	w.count("")
	w.a.metrics.observe(w.progress.Phase, w.progress.StartedAt, err)
}

// loop calls look after every change, and now and then, until it is done.
func (w *wait) loop(ctx context.Context, look func() (bool, error)) error {
	changes, stop := w.a.fleet.Watch(w.in.Unit.GitRepo)
	defer stop()
	tick := time.NewTicker(w.a.timings.recheck)
	defer tick.Stop()
	end := time.NewTimer(time.Until(w.deadline))
	defer end.Stop()
	for {
		began := time.Now()
		if done, err := look(); done || err != nil {
			return err
		}
		// A burst of events may pass before the next look.
		if err := pace.Sleep(ctx, min(max(w.a.timings.quiet, 4*time.Since(began)), time.Second)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end.C:
			return errs.Deadline("GitRepo %s/%s: %s took longer than %s: %s", w.in.Unit.Namespace, w.in.Unit.GitRepo,
				w.progress.Phase, w.deadline.Sub(w.progress.StartedAt), w.progress.Waiting)
		case <-changes:
		case <-tick.C:
			w.ask(ctx)
			w.tell(ctx, w.counted, w.progress.Waiting)
		}
	}
}

// look judges the caches once, and acts on what it sees.
func (w *wait) look(ctx context.Context, judge func(rancher.Snapshot, rancher.Want) rancher.Report, done func(rancher.Report) bool) (rancher.Report, error) {
	if w.want.Generation == 0 && !w.ask(ctx) {
		report := rancher.Report{Waiting: "the GitRepo is not there", Failed: w.outage == ""}
		w.tell(ctx, onFleet, report.Waiting)
		return report, w.failure(report, time.Now())
	}
	snap, err := w.a.fleet.Snapshot(w.in.Unit.GitRepo)
	if err != nil {
		w.tell(ctx, onManagement, err.Error())
		return rancher.Report{}, nil
	}
	w.want.JobDone = max(w.want.JobDone, rancher.SucceededJob(snap))
	report := judge(snap, w.want)
	w.progress.Ready = ready(report)
	if done(report) {
		return w.confirm(ctx, snap, judge, done)
	}
	now := time.Now()
	if err := w.failure(report, now); err != nil {
		return report, err
	}
	w.recover(ctx, report, now)
	w.tell(ctx, reasonOf(report), describe(report))
	return report, nil
}

// confirm asks the API server for the GitRepo and its jobs before a good report is
// believed: a cache may not have seen that a git job has more Bundles to write, or
// that somebody changed the GitRepo.
func (w *wait) confirm(ctx context.Context, snap rancher.Snapshot, judge func(rancher.Snapshot, rancher.Want) rancher.Report, done func(rancher.Report) bool) (rancher.Report, error) {
	asking, cancel := context.WithTimeout(ctx, w.a.timings.ask)
	defer cancel()
	// In this order: Fleet makes the job before it says that it has seen the change.
	repo, err := w.a.fleet.GetGitRepo(asking, w.in.Unit.GitRepo)
	if err == nil {
		snap.GitRepo = repo
		snap.Jobs, err = w.a.fleet.GitJobs(asking, w.in.Unit.GitRepo)
	}
	if err != nil {
		w.outage = err.Error()
		w.tell(ctx, onManagement, w.outage)
		return rancher.Report{}, ctx.Err()
	}
	w.outage = ""
	report := judge(snap, w.want)
	if !done(report) {
		w.tell(ctx, reasonOf(report), describe(report))
	}
	return report, nil
}

// ask notes whether the API server answers, and learns the generation where it
// is not known yet.
func (w *wait) ask(ctx context.Context) bool {
	asking, cancel := context.WithTimeout(ctx, w.a.timings.ask)
	defer cancel()
	repo, err := w.a.fleet.GetGitRepo(asking, w.in.Unit.GitRepo)
	if err != nil {
		w.outage = err.Error()
		w.progress.Waiting = w.outage
		return false
	}
	w.outage = ""
	if w.want.Generation == 0 && repo != nil {
		w.want.Generation = repo.Generation
	}
	return repo != nil
}

// failure returns an error when something stands that waiting does not mend.
func (w *wait) failure(r rancher.Report, now time.Time) error {
	var failed []string
	for _, c := range r.Clusters {
		if c.Failed && r.Waiting == "" {
			failed = append(failed, fmt.Sprintf("%s (%s)", c.Cluster, c.Reason))
		}
	}
	bad := !w.patient && (r.Failed || len(failed) > 0 || r.Waiting == "" && len(r.Extra) > 0)
	if !standing(&w.failedSince, bad, now, w.a.timings.lasting) {
		return nil
	}
	where := w.in.Unit.Namespace + "/" + w.in.Unit.GitRepo
	switch {
	case r.Failed && r.Waiting != "":
		return errs.Conflict("GitRepo %s: %s", where, r.Waiting)
	case len(failed) > 0:
		return errs.Failed("GitRepo %s: Fleet failed on %s", where, few(failed))
	}
	return errs.Conflict("GitRepo %s: Fleet also computes it for %s, which the plan does not have; plan again, or change the labels of that cluster", where, few(r.Extra))
}

// standing notes since when is true, and says whether that is long enough.
func standing(since *time.Time, is bool, now time.Time, enough time.Duration) bool {
	if !is {
		*since = time.Time{}
		return false
	}
	if since.IsZero() {
		*since = now
	}
	return now.Sub(*since) >= enough
}

// recover makes Fleet sync again when it lost a revision or its git job failed.
// It would do neither by itself.
func (w *wait) recover(ctx context.Context, r rancher.Report, now time.Time) {
	patience := func(base time.Duration) time.Duration {
		return min(base<<min(w.forced, 10), max(w.a.timings.again, base))
	}
	lost := standing(&w.lostSince, r.Lost, now, patience(w.a.timings.lost))
	job := standing(&w.jobSince, r.JobFailed, now, patience(w.a.timings.job))
	if !lost && !job {
		return
	}
	repo, err := w.a.force(ctx, w.in.Unit.GitRepo, w.want)
	if err != nil || repo == nil {
		activity.GetLogger(ctx).Warn("Fleet could not be made to sync again", "gitRepo", w.in.Unit.GitRepo, "error", err)
		return
	}
	w.want.Generation = repo.Generation
	w.forced++
	w.lostSince, w.jobSince = time.Time{}, time.Time{}
	if lost {
		w.a.metrics.lost.Inc()
	} else {
		w.a.metrics.jobs.Inc()
	}
	activity.GetLogger(ctx).Info("Fleet was made to sync again", "gitRepo", w.in.Unit.GitRepo, "waiting", r.Waiting)
}

// tell records the progress; the SDK thins out what comes too often.
func (w *wait) tell(ctx context.Context, why reason, waiting string) {
	if w.outage != "" {
		why, waiting = onManagement, w.outage
	}
	w.count(why)
	w.progress.Waiting = waiting
	activity.RecordHeartbeat(ctx, w.progress)
}

func ready(r rancher.Report) int {
	if n := r.Done(); n > 0 || r.Waiting != "" {
		return n
	}
	n := 0
	for _, c := range r.Clusters {
		if c.Reason == "" {
			n++
		}
	}
	return n
}

// reasonOf says who is waited for.
func reasonOf(r rancher.Report) reason {
	switch {
	case r.JobFailed:
		return onGit
	case r.Waiting != "" || len(r.Extra) > 0:
		return onFleet
	}
	return onClusters
}

// describe says in one line what a report waits for, most common reason first.
func describe(r rancher.Report) string {
	if r.Waiting != "" {
		return r.Waiting
	}
	if len(r.Extra) > 0 {
		return "Fleet also computes it for " + few(r.Extra) + ", which the plan does not have"
	}
	by := map[string][]string{}
	for _, c := range r.Clusters {
		if c.Reason != "" {
			by[c.Reason] = append(by[c.Reason], c.Cluster)
		}
	}
	reasons := make([]string, 0, len(by))
	for reason := range by {
		reasons = append(reasons, reason)
	}
	slices.SortFunc(reasons, func(a, b string) int {
		if d := len(by[b]) - len(by[a]); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	var parts []string
	for _, reason := range reasons[:min(len(reasons), namedAtMost)] {
		parts = append(parts, few(by[reason])+": "+reason)
	}
	if more := len(reasons) - namedAtMost; more > 0 {
		parts = append(parts, fmt.Sprintf("and %d other reasons", more))
	}
	return strings.Join(parts, "; ")
}

const namedAtMost = 3

// few names up to three, and says how many more there are.
func few(list []string) string {
	if len(list) <= namedAtMost {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:namedAtMost], ", "), len(list)-namedAtMost)
}
