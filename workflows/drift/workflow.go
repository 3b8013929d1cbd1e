// Package drift is the DriftAudit workflow: what is live on a pipeline's clusters
// against what was rolled out to them. It changes nothing, so it may be cancelled
// or terminated at any moment.
//
// It fails, with a type of errs, only when it could not find out which clusters there
// are. Clusters that could not be looked at are results.
package drift

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/audit"
	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/rancher/drift"
	"portcullis.dev/portcullis/workflows/call"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/measure"
	"portcullis.dev/portcullis/workflows/options"
	"portcullis.dev/portcullis/workflows/story"
)

const (
	// resultBudget is how many bytes the clusters of a result may have, in all: Temporal
	// takes payloads of two million, and base64 makes them larger by a third.
	resultBudget = 1 << 20
	// leastBudget is what every batch gets.
	leastBudget = 4 << 10
	// maxRepos bounds the findings about GitRepos that are kept.
	maxRepos = 100
)

// Run audits.
func Run(ctx workflow.Context, in contract.DriftInput) (contract.DriftResult, error) {
	a := &auditing{in: in, name: in.Pipeline.Metadata.Name}
	a.status = contract.DriftStatus{Pipeline: a.name, State: contract.StateAuditing, StartedAt: workflow.Now(ctx).UTC()}
	a.result = contract.DriftResult{
		Pipeline: a.name, StartedBy: in.StartedBy, StartedAt: a.status.StartedAt,
		Clusters: map[drift.State]int{}, Findings: map[drift.Category]int{},
	}
	if err := workflow.SetQueryHandler(ctx, contract.QueryStatus, func() (contract.DriftStatus, error) { return a.status, nil }); err != nil {
		return a.result, err
	}
	if err := a.enter(ctx, contract.StateAuditing); err != nil {
		return a.result, err
	}
	scope, err := call.DriftScope(ctx, a.scope())
	if err != nil {
		return a.result, a.refused(ctx, err)
	}
	measurable := a.clusters(ctx, scope)
	if ctx.Err() != nil {
		return a.result, ctx.Err()
	}
	if err := a.wire(ctx, measurable); err != nil {
		return a.result, err
	}
	return a.finish(ctx)
}

// auditing is one audit.
type auditing struct {
	in     contract.DriftInput
	name   string
	status contract.DriftStatus
	result contract.DriftResult
	// fix is what of the findings Fleet can put right, and briefs are some of them all.
	fix    drift.Fix
	briefs []drift.Brief
}

func (a *auditing) scope() audit.ScopeInput { return scopeOf(a.in.Pipeline) }

func scopeOf(p contract.Pipeline) audit.ScopeInput {
	return audit.ScopeInput{Pipeline: p.Metadata.Name, Source: p.Spec.Source, Environments: p.Spec.Environments, Ignores: Ignores(p.Spec.Drift)}
}

// Ignores are those of a pipeline file.
func Ignores(d *contract.Drift) []drift.Ignore {
	if d == nil {
		return nil
	}
	out := make([]drift.Ignore, len(d.Ignore))
	for i, g := range d.Ignore {
		out[i] = drift.Ignore{Kind: g.Kind, Namespace: g.Namespace, Name: g.Name, Clusters: g.Clusters, Reason: g.Reason, Until: g.Until}
	}
	return out
}

func (a *auditing) enter(ctx workflow.Context, state contract.State) error {
	a.status.State = state
	return workflow.UpsertTypedSearchAttributes(ctx, contract.AttrPipeline.ValueSet(a.name), contract.AttrState.ValueSet(string(state)))
}

func (a *auditing) refused(ctx workflow.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	final := story.Final(err)
	if err := a.enter(ctx, contract.StateFailed); err != nil {
		return err
	}
	return final
}

// batch is one activity's work.
type batch struct {
	unit drift.Unit
	out  audit.Batch
	err  error
}

// clusters audits every cluster, a bounded number at a time, and returns by environment those on which
// requirements can be measured.
func (a *auditing) clusters(ctx workflow.Context, scope audit.Scope) map[string][]rancher.Cluster {
	a.result.Expired = scope.Expired
	a.repos(scope.Units)
	batches := split(scope.Units)
	for _, b := range batches {
		a.status.Total += len(b.unit.Clusters)
	}
	audited(ctx, a.scope(), batches, func(n int) {
		a.status.Done += n
		workflow.SetCurrentDetails(ctx, fmt.Sprintf("### %s: auditing\n\n%d of %s\n", a.name, a.status.Done, story.Count(a.status.Total, "cluster")))
	})
	measurable := map[string][]rancher.Cluster{}
	for _, b := range batches {
		measurable[b.unit.Environment] = append(measurable[b.unit.Environment], a.merge(b)...)
	}
	return measurable
}

// audited audits batches, a bounded number at a time, and calls done after each with how many clusters
// it had.
func audited(ctx workflow.Context, in audit.ScopeInput, batches []*batch, done func(clusters int)) {
	budget := max(resultBudget/max(len(batches), 1), leastBudget)
	slots := workflow.NewSemaphore(ctx, options.AuditsAtOnce)
	group := workflow.NewWaitGroup(ctx)
	for _, b := range batches {
		group.Add(1)
		workflow.GoNamed(ctx, "audit "+b.unit.Clusters[0].Name, func(ctx workflow.Context) {
			defer group.Done()
			if b.err = slots.Acquire(ctx, 1); b.err != nil {
				return
			}
			defer slots.Release(1)
			b.out, b.err = call.DriftClusters(ctx, audit.BatchInput{Pipeline: in.Pipeline, Unit: b.unit, Ignores: in.Ignores, Budget: budget})
			done(len(b.unit.Clusters))
		})
	}
	group.Wait(ctx)
}

// repos takes what was found about GitRepos.
func (a *auditing) repos(units []drift.Unit) {
	for _, u := range units {
		for i := range u.Findings {
			f := &u.Findings[i]
			if f.Ignored != nil {
				a.result.Ignored++
				continue
			}
			a.result.Findings[f.Category]++
			a.result.Digest.AddFinding("", f)
			a.briefly([]drift.Brief{drift.BriefOf("", f)})
			if len(a.result.GitRepos) < maxRepos {
				a.result.GitRepos = append(a.result.GitRepos, *f)
			}
		}
	}
}

// split cuts units into batches.
func split(units []drift.Unit) []*batch {
	var out []*batch
	for _, u := range units {
		for clusters := range slices.Chunk(u.Clusters, contract.DriftBatch) {
			part := u
			part.Clusters, part.Findings = clusters, nil
			out = append(out, &batch{unit: part})
		}
	}
	return out
}

// merge adds a batch to the result, and returns its clusters that can be measured. One that could not
// be audited is of unknown clusters.
func (a *auditing) merge(b *batch) []rancher.Cluster {
	if b.err != nil {
		a.unaudited(b)
		return nil
	}
	for _, state := range workflow.DeterministicKeys(b.out.States) {
		a.result.Clusters[state] += b.out.States[state]
	}
	for _, category := range workflow.DeterministicKeys(b.out.Findings) {
		a.result.Findings[category] += b.out.Findings[category]
	}
	a.result.Ignored += b.out.Ignored
	a.result.Requests = max(a.result.Requests, b.out.Requests)
	a.result.Digest.Join(b.out.Digest)
	a.fix.Join(b.out.Fix)
	a.briefly(b.out.Briefs)
	a.result.Batches = append(a.result.Batches, b.out.Data)
	var out []rancher.Cluster
	for _, c := range b.unit.Clusters {
		if slices.Contains(b.out.Measurable, c.Name) {
			out = append(out, c)
		}
	}
	return out
}

func (a *auditing) briefly(more []drift.Brief) {
	a.briefs = append(a.briefs, more[:min(len(more), slack.MostBriefs-len(a.briefs))]...)
}

func (a *auditing) unaudited(b *batch) {
	clusters := make([]drift.Cluster, len(b.unit.Clusters))
	for i, c := range b.unit.Clusters {
		clusters[i] = drift.Cluster{
			Cluster: c.Name, Environment: b.unit.Environment, GitRepo: b.unit.GitRepo, Revision: b.unit.Revision,
			Unknown: []string{story.Reason(b.err)},
		}
		clusters[i].Settle()
		a.result.Digest.Add(&clusters[i])
	}
	a.result.Clusters[drift.Unknown] += len(clusters)
	if data, err := drift.Pack(clusters, leastBudget); err == nil {
		a.result.Batches = append(a.result.Batches, data)
	}
}

// wire measures the requirements, where the pipeline asks for it. Node agents that are not there
// are not installed: an audit changes nothing.
func (a *auditing) wire(ctx workflow.Context, measurable map[string][]rancher.Cluster) error {
	spec := a.in.Pipeline.Spec
	if spec.Drift == nil || !spec.Drift.Probes || len(spec.Probes) == 0 {
		return nil
	}
	if err := a.enter(ctx, contract.StateMeasuring); err != nil {
		return err
	}
	a.result.Wire = &contract.DriftWire{}
	for _, env := range spec.Environments {
		clusters := measurable[env.Name]
		if len(clusters) == 0 {
			continue
		}
		found, err := measure.Clusters(ctx, measure.Request{
			Pipeline: a.in.Pipeline, Environment: env.Name, Phase: phase(ctx), Clusters: clusters, Mode: verify.Verify,
		})
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			a.unmeasured(clusters, story.Reason(err))
		default:
			a.measured(found.Clusters)
		}
	}
	return nil
}

// phase keeps the children of two audits at the same time apart.
func phase(ctx workflow.Context) string {
	return "drift-" + call.Short(workflow.GetInfo(ctx).WorkflowExecution.RunID)
}

func (a *auditing) unmeasured(clusters []rancher.Cluster, reason string) {
	rows := make([]contract.ClusterEvidence, len(clusters))
	for i, c := range clusters {
		rows[i] = contract.ClusterEvidence{Cluster: c.Name, Inconclusive: true, Reason: reason}
	}
	a.measured(rows)
}

func (a *auditing) measured(rows []contract.ClusterEvidence) {
	w := a.result.Wire
	for _, row := range rows {
		switch {
		case row.Passed:
			w.Met++
			continue
		case row.Inconclusive:
			w.Unmeasured++
		default:
			w.Unmet++
			a.result.Digest.AddFinding(row.Cluster, &drift.Finding{Category: "wire"})
		}
		if len(w.Clusters) < contract.DriftWireRows {
			w.Clusters = append(w.Clusters, row)
		}
	}
}

// finish says what it all amounts to.
func (a *auditing) finish(ctx workflow.Context) (contract.DriftResult, error) {
	r := &a.result
	r.FinishedAt = workflow.Now(ctx).UTC()
	r.State, r.Reason = verdict(r)
	before := a.since(ctx)
	tally := audit.Tally{
		Pipeline: a.name, States: r.Clusters, Findings: r.Findings, Ignored: r.Ignored, StartedAt: r.StartedAt, FinishedAt: r.FinishedAt,
	}
	if r.Wire != nil {
		tally.Unmet = r.Wire.Unmet
	}
	if err := call.DriftRecord(ctx, tally); err != nil {
		if ctx.Err() != nil {
			return *r, ctx.Err()
		}
		workflow.GetLogger(ctx).Warn("the metrics of an audit could not be told", "pipeline", a.name, "reason", story.Reason(err))
	}
	if err := a.enter(ctx, r.State); err != nil {
		return *r, err
	}
	workflow.SetCurrentDetails(ctx, Markdown(*r))
	a.tell(ctx, before)
	return *r, nil
}

// last is what is read of the result of the audit before.
type last struct {
	State      contract.State `json:"state"`
	Reason     string         `json:"reason"`
	FinishedAt time.Time      `json:"finishedAt"`
	Digest     drift.Digest   `json:"digest"`
}

// since compares with the audit before in the same schedule.
func (a *auditing) since(ctx workflow.Context) (before last) {
	if !workflow.HasLastCompletionResult(ctx) {
		return last{}
	}
	if err := workflow.GetLastCompletionResult(ctx, &before); err != nil || before.FinishedAt.IsZero() {
		return last{}
	}
	a.result.Since, a.result.Changed = before.FinishedAt, before.Digest != a.result.Digest
	return before
}

// verdict is the state of an audit, and one line about it.
func verdict(r *contract.DriftResult) (contract.State, string) {
	var parts []string
	for _, c := range drift.Categories {
		if n := r.Findings[c]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, c))
		}
	}
	unmet, unmeasured := 0, 0
	if r.Wire != nil {
		unmet, unmeasured = r.Wire.Unmet, r.Wire.Unmeasured
	}
	if unmet > 0 {
		parts = append(parts, fmt.Sprintf("requirements not met on %s", story.Count(unmet, "cluster")))
	}
	state := contract.StateClean
	if len(parts) > 0 {
		state = contract.StateDrifted
	}
	if n := r.Clusters[drift.Unknown]; n > 0 {
		parts = append(parts, fmt.Sprintf("%s unknown", story.Count(n, "cluster")))
	}
	if unmeasured > 0 {
		parts = append(parts, fmt.Sprintf("%s not measured", story.Count(unmeasured, "cluster")))
	}
	if state == contract.StateClean && len(parts) > 0 {
		state = contract.StateUnknown
	}
	if n := r.Clusters[drift.Moving]; n > 0 {
		parts = append(parts, fmt.Sprintf("%s left out, which a rollout is changing", story.Count(n, "cluster")))
	}
	return state, strings.Join(parts, ", ")
}

// Markdown is an audit in the Temporal UI.
func Markdown(r contract.DriftResult) string {
	var b strings.Builder
	fmt.Fprintf(&b, "### %s: %s\n\n", r.Pipeline, r.State)
	if r.Reason != "" {
		fmt.Fprintf(&b, "%s\n\n", r.Reason)
	}
	b.WriteString("| clusters | |\n|---|---|\n")
	for _, s := range []drift.State{drift.Clean, drift.Drifted, drift.Unknown, drift.Moving} {
		fmt.Fprintf(&b, "| %s | %d |\n", s, r.Clusters[s])
	}
	if !r.Since.IsZero() {
		said := "the same"
		if r.Changed {
			said = "something else"
		}
		fmt.Fprintf(&b, "\nThe audit of %s found %s.\n", r.Since.Format(time.RFC3339), said)
	}
	for _, line := range r.Expired {
		fmt.Fprintf(&b, "\n- %s", strings.ReplaceAll(line, "|", "\\|"))
	}
	fmt.Fprintf(&b, "\n\n`portcullis drift report %s`\n", r.Pipeline)
	return b.String()
}
