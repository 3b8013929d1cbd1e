// Package measure runs measurements of any number of clusters as VerifyClusters
// children, so that no history grows with the number of probes.
package measure

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/evidence"
	"portcullis.dev/portcullis/workflows/options"
	"portcullis.dev/portcullis/workflows/story"
)

// Request is one measurement of Clusters.
type Request struct {
	Pipeline    contract.Pipeline
	Environment string
	// Phase names the measurement in the children's IDs: baseline, verify, soak, compare.
	Phase    string
	Clusters []rancher.Cluster
	Mode     verify.Mode
	// Duration is how long to soak.
	Duration time.Duration
	// EnsureAgent, when above zero, installs node agents first.
	EnsureAgent time.Duration
	// Want is the baseline, for a comparison.
	Want []contract.BaselineBatch
	// Keep returns the evidence itself.
	Keep bool
}

// Result has one entry per cluster, in the order of the request.
type Result struct {
	Clusters []contract.ClusterEvidence
	Kept     []contract.BaselineBatch
}

// Clusters measures. Clusters that could not be measured are results; the
// errors are cancellation, and children that could not be run.
func Clusters(ctx workflow.Context, req Request) (Result, error) {
	batches := split(req.Clusters, contract.BatchSize)
	results := make([]contract.VerifyResult, len(batches))
	errors := make([]error, len(batches))
	// As in a batch: a soak watches all clusters at once, and ends at the first failure.
	atOnce := int64(options.BatchesAtOnce)
	if req.Mode == verify.Soak {
		atOnce = int64(max(len(batches), 1))
	}
	inner, cancel := workflow.WithCancel(ctx)
	defer cancel()
	slots := workflow.NewSemaphore(ctx, atOnce)
	group := workflow.NewWaitGroup(ctx)
	for i, clusters := range batches {
		group.Add(1)
		workflow.GoNamed(inner, fmt.Sprintf("%s %d", req.Phase, i), func(ctx workflow.Context) {
			defer group.Done()
			if errors[i] = slots.Acquire(ctx, 1); errors[i] != nil {
				return
			}
			defer slots.Release(1)
			results[i], errors[i] = one(ctx, req, clusters, i)
			if req.Mode == verify.Soak && (errors[i] != nil || !Passed(results[i].Clusters)) {
				cancel()
			}
		})
	}
	group.Wait(ctx)
	out, err := merge(results, errors)
	// A failure that was seen counts, even where cancellation came at the same time.
	if err == nil && ctx.Err() != nil && Passed(out.Clusters) {
		err = ctx.Err()
	}
	return out, err
}

func merge(results []contract.VerifyResult, errors []error) (Result, error) {
	var out Result
	for i, r := range results {
		// A batch that was cancelled because another one failed has nothing to say.
		if errors[i] != nil && !temporal.IsCanceledError(errors[i]) {
			return Result{}, errors[i]
		}
		out.Clusters = append(out.Clusters, r.Clusters...)
		if r.Kept != nil {
			out.Kept = append(out.Kept, *r.Kept)
		}
	}
	return out, nil
}

func one(ctx workflow.Context, req Request, clusters []rancher.Cluster, i int) (contract.VerifyResult, error) {
	in := contract.VerifyInput{
		Pipeline:     req.Pipeline.Metadata.Name,
		Environment:  req.Environment,
		Phase:        req.Phase,
		Clusters:     clusters,
		Requirements: req.Pipeline.Spec.Probes,
		Settings:     req.Pipeline.Spec.ProbeTimings,
		Mode:         req.Mode,
		Duration:     req.Duration,
		EnsureAgent:  req.EnsureAgent,
		Keep:         req.Keep,
	}
	if req.Mode == verify.Compare {
		want, err := baseline(req.Want, clusters)
		if err != nil {
			return contract.VerifyResult{}, err
		}
		in.Want = &want
	}
	id := contract.VerifyID(in.Pipeline, in.Environment, in.Phase, i)
	summary := fmt.Sprintf("%s of %s: %s", req.Phase, req.Environment, story.Count(len(clusters), "cluster"))
	opts := options.ReadingChild(id, summary)
	opts.TypedSearchAttributes = temporal.NewSearchAttributes(
		contract.AttrPipeline.ValueSet(in.Pipeline),
		contract.AttrEnvironment.ValueSet(in.Environment),
	)
	var out contract.VerifyResult
	err := workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, opts), contract.VerifyWorkflow, in).Get(ctx, &out)
	return out, err
}

// baseline picks the clusters' part of the batches. What is not there is told
// per cluster by VerifyClusters.
func baseline(batches []contract.BaselineBatch, clusters []rancher.Cluster) (contract.BaselineBatch, error) {
	names := make([]string, len(clusters))
	for i, c := range clusters {
		names[i] = c.Name
	}
	found, err := evidence.Select(batches, names)
	if err != nil {
		return contract.BaselineBatch{}, err
	}
	return evidence.Pack(found)
}

func split(clusters []rancher.Cluster, size int) [][]rancher.Cluster {
	var out [][]rancher.Cluster
	for len(clusters) > size {
		out = append(out, clusters[:size:size])
		clusters = clusters[size:]
	}
	if len(clusters) > 0 {
		out = append(out, clusters)
	}
	return out
}

// Passed is true when every cluster did.
func Passed(clusters []contract.ClusterEvidence) bool {
	for _, c := range clusters {
		if !c.Passed {
			return false
		}
	}
	return true
}

// Unmeasured is one line about the clusters of which a baseline could not be
// had, or "". A baseline passes when all probes ran and agreed; what they found
// is not judged.
func Unmeasured(clusters []contract.ClusterEvidence) string { return Failures(clusters) }

// Failures is one line about the clusters that did not pass, or "".
func Failures(clusters []contract.ClusterEvidence) string {
	var failed, cut []string
	for _, c := range clusters {
		switch {
		case c.Passed:
		case c.Hash == "" && c.Reason == NotToTheEnd:
			cut = append(cut, c.Cluster)
		default:
			failed = append(failed, c.Cluster+": "+c.Reason)
		}
	}
	if len(failed) == 0 && len(cut) > 0 {
		failed = []string{cut[0] + ": " + NotToTheEnd}
	}
	if len(failed) == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %s: %s", len(failed), story.Count(len(clusters), "cluster"), story.Some(failed, 3))
}

// NotToTheEnd is the reason of a cluster whose soak was cut short.
const NotToTheEnd = "not measured to the end: another cluster failed first"
