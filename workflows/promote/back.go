package promote

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/deliver"
	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/call"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/evidence"
	"portcullis.dev/portcullis/workflows/measure"
	"portcullis.dev/portcullis/workflows/options"
	"portcullis.dev/portcullis/workflows/story"
)

// back puts every touched unit back, last first, and measures what that gave.
// It is walked to its end whatever it meets, and is never itself rolled back.
func (p *promotion) back(ctx workflow.Context) contract.PromoteResult {
	p.label(ctx, contract.StateRollingBack)
	p.status.Unit, p.status.Wave, p.status.SoakUntil = "", "", time.Time{}
	p.note(ctx, "rolling back: "+p.state.Ending)
	rollback := p.restore(ctx)
	p.prove(ctx, &rollback)
	p.label(ctx, contract.StateRolledBack)
	p.note(ctx, story.Rollback(rollback))
	result := p.result(contract.StateRolledBack, p.state.Ending)
	result.Rollback = &rollback
	p.count(ctx, rollback)
	return result
}

// touched are the units to put back, last first.
func (p *promotion) touched() []rancher.Unit {
	units := make([]rancher.Unit, 0, len(p.state.Touched))
	for i := len(p.state.Touched) - 1; i >= 0; i-- {
		units = append(units, p.in.Plan.Units[p.state.Touched[i]])
	}
	return units
}

// restore puts units back, several at a time: one that is out of reach must
// not keep the others in a bad state.
func (p *promotion) restore(ctx workflow.Context) contract.RollbackResult {
	units := p.touched()
	problems := make([]string, len(units))
	each(ctx, len(units), func(ctx workflow.Context, i int) {
		u := units[i]
		in := deliver.RestoreInput{UnitInput: p.input(u), Reason: p.state.Ending}
		if _, err := call.Restore(ctx, in); err != nil {
			problems[i] = fmt.Sprintf("%s could not be put back to %s: %s", u.GitRepo, call.Before(u.Before), story.Reason(err))
			p.note(ctx, problems[i])
			p.mark(u.Clusters, story.RowFailed, problems[i])
			return
		}
		p.mark(u.Clusters, story.RowRolledBack, "")
		p.note(ctx, u.GitRepo+" is back to "+call.Before(u.Before))
	})
	result := summary(units)
	var bad []string
	for _, problem := range problems {
		if problem != "" {
			bad = append(bad, problem)
		}
	}
	result.Live = len(bad) == 0
	result.Detail = story.Some(bad, 3)
	return result
}

// strength orders what a rollback can return to: the weakest is reported.
var strength = map[rancher.RestoreKind]int{
	rancher.RestoreVerified: 3,
	rancher.RestoreOriginal: 2,
	rancher.RestoreAbsent:   1,
}

func summary(units []rancher.Unit) contract.RollbackResult {
	var r contract.RollbackResult
	for i, u := range units {
		if i == 0 {
			r.Kind, r.Revision = u.Before.Kind, u.Before.Revision
			continue
		}
		if strength[u.Before.Kind] < strength[r.Kind] {
			r.Kind = u.Before.Kind
		}
		if u.Before.Revision != r.Revision {
			r.Revision = ""
		}
	}
	return r
}

// prove measures the clusters of the touched units: against the baseline or,
// for a rollback by hand, against the requirements.
func (p *promotion) prove(ctx workflow.Context, r *contract.RollbackResult) {
	req := measure.Request{
		Phase: "compare", Clusters: clusters(p.touched(), ""), Mode: verify.Compare, Want: p.state.Baseline,
		EnsureAgent: options.AgentTimeout,
	}
	if len(p.state.Baseline) == 0 {
		req.Phase, req.Mode = "verify", verify.Verify
	}
	found, err := p.measure(ctx, req)
	if err != nil {
		add(r, "the probes after it could not be run: "+story.Reason(err))
		return
	}
	for _, c := range found.Clusters {
		row := &p.state.Clusters[p.row[c.Cluster]]
		row.Pairs, row.Failing, row.Evidence = c.Pairs, c.Failing, c.Hash
		if !c.Passed && row.State == story.RowRolledBack {
			row.State, row.Reason = story.RowFailed, "not as before: "+c.Reason
		}
	}
	r.Proven = measure.Passed(found.Clusters)
	if bad := measure.Failures(found.Clusters); bad != "" {
		add(r, "not proven on "+bad)
	}
	if r.Proven && r.Live && p.in.Target != "" {
		p.adopt(ctx, r)
	}
}

// adopt records the revision that was gone back to by hand as the verified one:
// the next rollback must not return to what a person has just left.
func (p *promotion) adopt(ctx workflow.Context, r *contract.RollbackResult) {
	hash, err := evidence.Environment(p.in.Target, p.state.Clusters, nil)
	if err == nil {
		err = p.markVerified(ctx, p.in.Target, hash)
	}
	if err != nil {
		add(r, story.Reason(err))
	}
}

func add(r *contract.RollbackResult, detail string) {
	if r.Detail != "" {
		r.Detail += "; "
	}
	r.Detail += detail
}

func (p *promotion) count(ctx workflow.Context, r contract.RollbackResult) {
	workflow.GetMetricsHandler(ctx).WithTags(map[string]string{
		"environment": p.in.Plan.Name,
		"kind":        string(r.Kind),
		"live":        fmt.Sprint(r.Live),
		"proven":      fmt.Sprint(r.Proven),
	}).Counter("portcullis_rollbacks_total").Inc(1)
}

// each runs f for 0..n-1, in that order of starting, a bounded number at a time,
// and waits for all.
func each(ctx workflow.Context, n int, f func(workflow.Context, int)) {
	slots := workflow.NewSemaphore(ctx, options.RestoresAtOnce)
	group := workflow.NewWaitGroup(ctx)
	for i := range n {
		// On a cancelled context f still runs and sees it from its activity.
		if slots.Acquire(ctx, 1) != nil {
			f(ctx, i)
			continue
		}
		group.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer group.Done()
			defer slots.Release(1)
			f(ctx, i)
		})
	}
	group.Wait(ctx)
}

func isCanceled(err error) bool { return temporal.IsCanceledError(err) }
