package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"portcullis.dev/portcullis/cmd/internal/view"
	"portcullis.dev/portcullis/probes"
	"portcullis.dev/portcullis/workflows/contract"
)

func (a *app) probeCommand() *cobra.Command {
	var (
		file string
		in   contract.ProbeInput
	)
	c := &cobra.Command{
		Use:   "probe -f FILE",
		Short: "Make the pipeline's connections now, and compare; nothing is rolled out",
		Args:  cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			p, err := loadPipeline(file)
			if err != nil {
				return err
			}
			in.Pipeline = p
			return a.probe(ctx, in)
		}),
	}
	addFile(c, &file)
	c.Flags().StringSliceVar(&in.Environments, "environment", nil, "only these environments")
	c.Flags().StringSliceVar(&in.Clusters, "cluster", nil, "only these clusters, by name or Rancher ID")
	c.Flags().BoolVar(&in.Baseline, "baseline", false, "measure once and judge nothing")
	return c
}

func addFile(c *cobra.Command, file *string) {
	c.Flags().StringVarP(file, "file", "f", "", "pipeline file")
	_ = c.MarkFlagFilename("file", "yaml", "yml")
}

func (a *app) probe(ctx context.Context, in contract.ProbeInput) error {
	return a.withSession(ctx, func(ctx context.Context, s *session) error {
		var result contract.ProbeResult
		err := s.operation(ctx, a.opID("probe/"+in.Pipeline.Metadata.Name), contract.ProbeWorkflow,
			"probe "+in.Pipeline.Metadata.Name, 30*time.Minute, in, &result)
		if err != nil {
			return err
		}
		if err := a.print(result, func(w io.Writer) error { return a.evidence(w, result) }); err != nil {
			return err
		}
		if !result.Passed && !in.Baseline {
			return notPassed{state: contract.StateFailed, reason: "probes did not find what the pipeline requires"}
		}
		return nil
	})
}

func (a *app) evidence(w io.Writer, result contract.ProbeResult) error {
	rows := [][]string{{"CLUSTER", "ENVIRONMENT", "REQUIREMENT", "EXPECT", "RESULT", "FOUND"}}
	for _, name := range slices.Sorted(maps.Keys(result.Clusters)) {
		e := result.Clusters[name]
		for _, r := range e.Requirements {
			verdict := "ok"
			if !r.Passed {
				verdict = "NOT MET"
			}
			rows = append(rows, []string{name, result.Environment[name], view.Cut(r.Name, 46), string(r.Expect), verdict, outcomes(r)})
		}
	}
	if err := table(w, rows); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(result.Clusters)) {
		if err := failures(w, name, result.Clusters[name]); err != nil {
			return err
		}
	}
	return nil
}

// outcomes sums a requirement's flows up: "12 allowed, 1 dropped".
func outcomes(r probes.RequirementResult) string {
	sums := map[probes.Outcome]int{}
	for _, f := range r.Flows {
		for o, n := range f.Outcomes {
			sums[o] += n
		}
	}
	parts := make([]string, 0, len(sums))
	for _, o := range []probes.Outcome{probes.Allowed, probes.Refused, probes.Dropped, probes.Unresolved, probes.Error} {
		if sums[o] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", sums[o], o))
		}
	}
	return strings.Join(parts, ", ")
}

// failures tells the story of flows that failed.
func failures(w io.Writer, cluster string, e probes.Evidence) error {
	if e.Passed || e.Reason == "" {
		return nil
	}
	if _, err := fmt.Fprintf(w, "\n%s: %s\n", cluster, e.Reason); err != nil {
		return err
	}
	for _, r := range e.Requirements {
		for _, f := range r.Flows {
			if r.Passed || f.Detail == "" {
				continue
			}
			if _, err := fmt.Fprintf(w, "  %s -> %s: %s\n", f.From, f.To, f.Detail); err != nil {
				return err
			}
		}
	}
	return nil
}
