package promote

import (
	"fmt"
	"slices"

	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/probes/preflight"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/options"
	"portcullis.dev/portcullis/workflows/story"
)

// preflight holds every cluster of the environment against the checks, where its
// gate asks for that. What fails, and what could not be found out, ends the walk
// before anything is written.
func (p *promotion) preflight(ctx workflow.Context) error {
	if !p.in.Environment.Gate.Preflight {
		return nil
	}
	p.label(ctx, contract.StatePreflight)
	batches := slices.Collect(slices.Chunk(clusters(p.in.Plan.Units, ""), contract.BatchSize))
	results := make([]contract.PreflightResult, len(batches))
	failures := make([]error, len(batches))
	each(ctx, len(batches), func(ctx workflow.Context, i int) {
		results[i], failures[i] = p.preflightOf(ctx, batches[i], i)
	})
	var problems []string
	for i, batch := range batches {
		if failures[i] != nil {
			return failures[i]
		}
		for _, c := range batch {
			problem := inTheWay(results[i].Clusters[c.Name])
			if problem == "" {
				continue
			}
			p.mark([]rancher.Cluster{c}, story.RowFailed, "preflight: "+problem)
			problems = append(problems, c.Name+": "+problem)
		}
	}
	if len(problems) > 0 {
		return errs.Failed("preflight of %s: %s", story.Count(len(problems), "cluster"), story.Some(problems, 3))
	}
	p.note(ctx, "preflight of "+story.Count(len(p.state.Clusters), "cluster")+": nothing is in the way")
	return nil
}

func (p *promotion) preflightOf(ctx workflow.Context, batch []rancher.Cluster, i int) (contract.PreflightResult, error) {
	in := contract.PreflightInput{Brief: true}
	for _, c := range batch {
		in.Clusters = append(in.Clusters, c.Name)
	}
	id := contract.PreflightID(p.in.Pipeline.Metadata.Name, p.in.Plan.Name, i)
	summary := fmt.Sprintf("preflight of %s: %s", p.in.Plan.Name, story.Count(len(batch), "cluster"))
	var out contract.PreflightResult
	err := workflow.ExecuteChildWorkflow(
		workflow.WithChildOptions(ctx, options.ReadingChild(id, summary)), contract.PreflightWorkflow, in,
	).Get(ctx, &out)
	return out, err
}

// inTheWay says what a preflight found against a rollout, or "". A warning is not;
// what is not known is, for it never counts as a pass.
func inTheWay(c contract.ClusterPreflight) string {
	switch {
	case c.Error != "":
		return "not checked: " + c.Error
	case c.Report == nil:
		return "not checked"
	}
	if c.Report.Status != preflight.Fail && c.Report.Status != preflight.Unsure {
		return ""
	}
	var found []string
	for _, r := range c.Report.InTheWay(false) {
		found = append(found, fmt.Sprintf("%s is %s (%s)", r.ID, r.Status, r.Measured))
	}
	if len(found) == 0 {
		return string(c.Report.Status)
	}
	return story.Some(found, 2)
}
