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
	"portcullis.dev/portcullis/probes/preflight"
	"portcullis.dev/portcullis/workflows/contract"
)

// junitOutput marks the verbs that can write JUnit.
const junitOutput = "portcullis.dev/junit"

// preflightLimit bounds a preflight of everything that is named.
const preflightLimit = time.Hour

func (a *app) preflightCommand() *cobra.Command {
	var (
		in            contract.PreflightInput
		encapsulation string
		brief         bool
	)
	c := &cobra.Command{
		Use:         "preflight CLUSTER...",
		Short:       "Check whether clusters can take Calico; nothing is changed but the node agents",
		Annotations: map[string]string{junitOutput: "yes"},
		Long: `Measure every node, try every path between nodes with real packets, and read what the API server
knows; then hold it against the documented checks. What cannot be found out is unknown, and never passes.`,
		RunE: a.run(func(ctx context.Context, clusters []string) error {
			in.Clusters = clusters
			if in.All == (len(clusters) > 0) {
				return usagef("name clusters, or give --all")
			}
			in.Target.Encapsulation = preflight.Encapsulation(encapsulation)
			if err := checkTarget(in.Target); err != nil {
				return err
			}
			return a.preflight(ctx, in, brief)
		}),
	}
	addTarget(c, &in.Target, &encapsulation, "")
	c.Flags().BoolVar(&in.All, "all", false, "every cluster of the inventory")
	c.Flags().IntVar(&in.AtOnce, "at-once", 0, "agents of a cluster that are asked at the same time (default 100)")
	c.Flags().DurationVar(&in.PacketTimeout, "packet-timeout", 0, "how long silence is waited for (default 1s)")
	c.Flags().BoolVar(&brief, "brief", false, "leave out what passed, in text")
	return c
}

// addTarget adds the flags that say which Calico is wanted.
func addTarget(c *cobra.Command, t *preflight.Target, encapsulation *string, otherwise preflight.Encapsulation) {
	c.Flags().StringVar(&t.Version, "calico-version", "", "the Calico that is wanted, such as v3.28.5; that of the Canal that runs by default")
	c.Flags().StringVar(encapsulation, "encapsulation", string(otherwise), "between nodes: vxlan, ipip or bgp; that of Calico's pools by default, or else vxlan")
	c.Flags().IntVar(&t.VNI, "vni", 0, "VXLAN network that Calico takes (default 4096)")
	c.Flags().IntVar(&t.Port, "port", 0, "UDP port of Calico's VXLAN (default 4789)")
	c.Flags().StringVar(&t.PodCIDR, "pod-cidr", "", "the pods' network; flannel's by default")
	c.Flags().IntVar(&t.BlockSize, "block-size", 0, "prefix length of a node's blocks of addresses (default 26)")
	c.Flags().IntVar(&t.MTU, "mtu", 0, "the pods' MTU; that of the overlay that runs by default")
	c.Flags().BoolVar(&t.Typha, "typha", false, "Felix will read through Typha")
	c.Flags().StringSliceVar(&t.Images, "image", nil, "an image that must be on every node already")
	_ = c.RegisterFlagCompletionFunc("encapsulation", cobra.FixedCompletions([]string{"vxlan", "ipip", "bgp"}, cobra.ShellCompDirectiveNoFileComp))
}

// checkTarget looks at what a person may have mistyped.
func checkTarget(t preflight.Target) error {
	switch {
	case t.Encapsulation != "" && t.Encapsulation != preflight.VXLAN && t.Encapsulation != preflight.IPIP && t.Encapsulation != preflight.BGP:
		return usagef("--encapsulation is %q; it is vxlan, ipip or bgp", t.Encapsulation)
	case t.VNI < 0 || t.VNI >= 1<<24:
		return usagef("--vni %d is not between 1 and 16777215", t.VNI)
	case t.Port < 0 || t.Port > 65535:
		return usagef("--port %d is not a port", t.Port)
	case t.MTU != 0 && (t.MTU < 576 || t.MTU > 65535):
		return usagef("--mtu %d is not between 576 and 65535", t.MTU)
	case t.BlockSize != 0 && (t.BlockSize < 20 || t.BlockSize > 32):
		return usagef("--block-size %d is not between 20 and 32", t.BlockSize)
	case t.PodCIDR != "" && !preflight.ValidCIDR(t.PodCIDR):
		return usagef("--pod-cidr %q is not an IPv4 network such as 10.42.0.0/16", t.PodCIDR)
	}
	return nil
}

func (a *app) preflight(ctx context.Context, in contract.PreflightInput, brief bool) error {
	return a.withSession(ctx, func(ctx context.Context, s *session) error {
		var result contract.PreflightResult
		id := a.opID("preflight")
		what := "all clusters"
		if !in.All {
			what = strings.Join(in.Clusters, ", ")
		}
		err := a.withProgress(ctx, s, id, func() error {
			return s.operation(ctx, id, contract.PreflightWorkflow, view.Cut("preflight of "+what, 100), preflightLimit, in, &result)
		})
		if err != nil {
			return err
		}
		if err := a.printPreflight(result, brief); err != nil {
			return err
		}
		return endOf(result)
	})
}

func (a *app) printPreflight(result contract.PreflightResult, brief bool) error {
	if a.output == "junit" {
		return preflightJUnit(a.Stdout, result)
	}
	return a.print(result, func(w io.Writer) error { return preflightText(w, result, brief) })
}

// preflightEnded is a preflight that found something in the way, or could not
// find everything out.
type preflightEnded struct {
	status preflight.Status
	reason string
}

func (e preflightEnded) Error() string { return e.reason }

// endOf says how a preflight ended: nil where nothing is in the way.
func endOf(result contract.PreflightResult) error {
	var failed, unknown []string
	for _, name := range slices.Sorted(maps.Keys(result.Clusters)) {
		c := result.Clusters[name]
		switch {
		case c.Report == nil:
			unknown = append(unknown, name+" ("+view.Cut(c.Error, 200)+")")
		case c.Report.Status == preflight.Fail:
			failed = append(failed, name)
		case c.Report.Status == preflight.Unsure:
			unknown = append(unknown, name)
		}
	}
	switch {
	case len(failed) > 0:
		return preflightEnded{preflight.Fail, "checks failed on " + strings.Join(failed, ", ") + ": see the remedies"}
	case len(unknown) > 0:
		return preflightEnded{preflight.Unsure, "not everything could be found out on " + strings.Join(unknown, ", ")}
	}
	return nil
}

// progressEvery is the time between two looks at a preflight that runs.
const progressEvery = time.Second

// withProgress runs do, and tells meanwhile how far the preflight of workflow id is.
func (a *app) withProgress(ctx context.Context, s *session, id string, do func() error) error {
	ctx, stop := context.WithCancel(ctx)
	told := make(chan struct{})
	go func() { defer close(told); a.tellProgress(ctx, s, id) }()
	defer func() { stop(); <-told }()
	return do()
}

// tellProgress writes to standard error how far a preflight is, until ctx ends.
func (a *app) tellProgress(ctx context.Context, s *session, id string) {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	last := map[string]string{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		d, err := s.describe(ctx, id)
		if err != nil {
			// What cannot be asked now is asked again; the result tells what went wrong.
			continue
		}
		for _, w := range pendingOf(d, "") {
			line := progressLine(w)
			if key := w.Activity + w.Subject; line != last[key] && ctx.Err() == nil {
				last[key] = line
				_, _ = fmt.Fprintln(a.Stderr, line)
			}
		}
	}
}

func progressLine(w view.Waiting) string {
	what := map[string]string{
		"cluster": "reading the API server", "nodes": "nodes measured", "packets": "rounds of packets between nodes", "judging": "judging",
		"agent": "installing node agents",
	}[w.Phase]
	if what == "" {
		what = w.Activity
	}
	line := what
	if w.Total > 0 {
		line = fmt.Sprintf("%s: %d of %d", what, w.Done, w.Total)
	}
	if w.Subject != "" {
		line = w.Subject + ": " + line
	}
	if reason := w.For; reason != "" {
		line += ", waiting for " + reason
	}
	if w.LastFailure != "" && w.Attempt > 1 {
		line += fmt.Sprintf(" (attempt %d: %s)", w.Attempt, w.LastFailure)
	}
	return view.Cut(line, 160)
}
