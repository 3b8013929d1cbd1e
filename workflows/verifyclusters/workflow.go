// Package verifyclusters is the VerifyClusters workflow: one measurement of up
// to contract.BatchSize clusters. It writes nothing but the node agents, so it
// may be cancelled or terminated at any moment.
package verifyclusters

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/probes"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/call"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/evidence"
	"portcullis.dev/portcullis/workflows/measure"
	"portcullis.dev/portcullis/workflows/options"
	"portcullis.dev/portcullis/workflows/story"
)

// leastAgentWait is what a cluster gets whose turn came when the batch's wait
// for agents was nearly over.
const leastAgentWait = 30 * time.Second

// Run measures the clusters. A cluster that could not be measured is a result
// that did not pass, never an error; the only errors are bad input and
// cancellation.
func Run(ctx workflow.Context, in contract.VerifyInput) (contract.VerifyResult, error) {
	if len(in.Clusters) > contract.BatchSize {
		return contract.VerifyResult{}, errs.Invalid("%d clusters in one batch; the most is %d", len(in.Clusters), contract.BatchSize)
	}
	want, err := wanted(in)
	if err != nil {
		return contract.VerifyResult{}, err
	}
	b := &batch{in: in, want: want, begun: workflow.Now(ctx), kept: map[string]probes.Evidence{}}
	b.result.Clusters = make([]contract.ClusterEvidence, len(in.Clusters))
	b.walk(ctx)
	if ctx.Err() != nil && !b.failed() {
		return contract.VerifyResult{}, ctx.Err()
	}
	if in.Keep {
		kept, err := evidence.Pack(b.kept)
		if err != nil {
			return contract.VerifyResult{}, errs.Failed("evidence of %s could not be packed: %v", in.Environment, err)
		}
		b.result.Kept = &kept
	}
	return b.result, nil
}

type batch struct {
	in     contract.VerifyInput
	want   map[string]probes.Evidence
	begun  time.Time
	done   int
	result contract.VerifyResult
	kept   map[string]probes.Evidence
}

func wanted(in contract.VerifyInput) (map[string]probes.Evidence, error) {
	if in.Mode != verify.Compare {
		return nil, nil
	}
	if in.Want == nil {
		return nil, errs.Invalid("a comparison of %s needs a baseline", in.Environment)
	}
	want, err := evidence.Unpack(*in.Want)
	if err != nil {
		return nil, errs.Invalid("the baseline of %s cannot be read: %v", in.Environment, err)
	}
	return want, nil
}

// walk measures with bounded concurrency. A soak is not bounded, since all
// clusters are to be watched during the same time, and it ends at the first failure.
func (b *batch) walk(ctx workflow.Context) {
	atOnce := int64(options.ClustersAtOnce)
	if b.in.Mode == verify.Soak {
		atOnce = contract.BatchSize
	}
	inner, cancel := workflow.WithCancel(ctx)
	slots := workflow.NewSemaphore(ctx, atOnce)
	group := workflow.NewWaitGroup(ctx)
	for i, cluster := range b.in.Clusters {
		group.Add(1)
		workflow.GoNamed(inner, "measure "+cluster.Name, func(ctx workflow.Context) {
			defer group.Done()
			if slots.Acquire(ctx, 1) != nil {
				return
			}
			defer slots.Release(1)
			b.result.Clusters[i] = b.one(ctx, cluster)
			b.done++
			workflow.SetCurrentDetails(ctx, b.details())
			if b.in.Mode == verify.Soak && !b.result.Clusters[i].Passed {
				cancel()
			}
		})
	}
	group.Wait(ctx)
	cancel()
}

// failed is true when a soak saw a failure: that counts, even where a
// cancellation came at the same time.
func (b *batch) failed() bool {
	if b.in.Mode != verify.Soak {
		return false
	}
	for _, c := range b.result.Clusters {
		if c.Cluster != "" && !c.Passed && c.Reason != measure.NotToTheEnd {
			return true
		}
	}
	return false
}

func (b *batch) one(ctx workflow.Context, cluster rancher.Cluster) contract.ClusterEvidence {
	if b.in.EnsureAgent > 0 {
		left := b.in.EnsureAgent - workflow.Now(ctx).Sub(b.begun)
		if _, err := call.EnsureAgent(ctx, cluster, max(left, leastAgentWait)); err != nil {
			return unmeasured(cluster, err)
		}
	}
	in := verify.Input{
		Cluster:      cluster,
		Requirements: b.in.Requirements,
		Settings:     b.in.Settings,
		Mode:         b.in.Mode,
		Duration:     b.in.Duration,
	}
	if b.in.Mode == verify.Compare {
		want, ok := b.want[cluster.Name]
		if !ok {
			return unmeasured(cluster, errs.NotFound("there is no baseline of cluster %s to compare with", cluster.Name))
		}
		in.Want = &want
	}
	found, err := call.Measure(ctx, in)
	if err != nil {
		return unmeasured(cluster, err)
	}
	if b.in.Keep {
		b.kept[cluster.Name] = found
	}
	return evidence.Summary(cluster.Name, found)
}

func unmeasured(cluster rancher.Cluster, err error) contract.ClusterEvidence {
	reason := story.Reason(err)
	if temporal.IsCanceledError(err) {
		reason = measure.NotToTheEnd
	}
	return contract.ClusterEvidence{Cluster: cluster.Name, Inconclusive: true, Reason: reason}
}

func (b *batch) details() string {
	failed := ""
	for _, c := range b.result.Clusters {
		if c.Cluster != "" && !c.Passed && b.in.Mode != verify.Baseline {
			failed += fmt.Sprintf("- %s: %s\n", c.Cluster, c.Reason)
		}
	}
	return fmt.Sprintf("%s %s: %d of %d clusters measured\n\n%s", b.in.Environment, b.in.Mode, b.done, len(b.in.Clusters), failed)
}
