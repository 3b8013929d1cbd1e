package bench

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"portcullis.dev/portcullis/deploy/lab/internal/drive"
	"portcullis.dev/portcullis/deploy/lab/internal/simfleet"
)

// simulatedClusters may be set to fewer, to try the benchmark itself.
var simulatedClusters = count("PORTCULLIS_BENCH_CLUSTERS", 1000)

func count(variable string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(variable)); err == nil && n > 0 {
		return n
	}
	return otherwise
}

const (
	// mostOwn is how long a rollout may go on after the last cluster is live.
	// The probes' own time, which need not count, is not taken off.
	mostOwn        = 60 * time.Second
	mostEventsEach = 30
	mostEvents     = 10_000
)

// scalePipeline has one environment with every simulated cluster, and a
// requirement that holds in all of them.
const scalePipeline = `
apiVersion: portcullis.dev/v1alpha1
kind: Pipeline
metadata: {name: scale}
spec:
  source: {repo: %s, branch: main, paths: [bundles/infrastructure]}
  environments:
  - {name: sim, clusters: {matchLabels: {env: sim}}, gate: {settleTimeout: 20m}}
  probeSettings: {timeout: 2s, settle: 1s, consecutive: 2, deadline: 5m}
  probes:
  - {name: gateway reaches checkout, from: {namespace: edge, selector: "app == 'api-gateway'"}, to: {namespace: checkout, selector: "app == 'checkout-api'", port: 8443}, expect: allow}
`

// BenchmarkScale takes a revision to a thousand clusters in one environment.
// The management cluster, Fleet's controllers, its git job, Temporal and the
// daemon are real. The clusters are simulated: their Fleet agents (simfleet),
// and their API servers, kubelets and node agents (simcluster), which the daemon
// reaches through Rancher's stand-in as it would real ones.
func BenchmarkScale(b *testing.B) {
	ctx := b.Context()
	begun := time.Now()
	say := func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "bench: %4ds "+format+"\n", append([]any{int(time.Since(begun).Seconds())}, args...)...)
	}
	on := newStage(b)
	fleet, err := simfleet.Open(simfleet.Options{
		LabDir: p.LabDir, Count: simulatedClusters, Labels: map[string]string{"env": "sim"}, Rancher: on.files, Behind: simulatorID, Log: say,
	})
	must(b, err)
	defer func() {
		from := time.Now()
		if err := fleet.Remove(context.Background(), "scale-sim"); err != nil {
			b.Error(err)
		}
		say("everything removed")
		b.Logf("removed again within %s", time.Since(from).Round(time.Second))
	}()
	must(b, fleet.Create(ctx))
	joined := time.Since(begun)

	daemon, err := p.StartDaemon("scale", on.configure)
	must(b, err)
	defer daemon.Stop()
	pipeline := filepath.Join(p.Dir, "scale-pipeline.yaml")
	must(b, os.WriteFile(pipeline, fmt.Appendf(nil, scalePipeline, on.repo), 0o600))
	start(b, pipeline, daemon.Log)
	released := follow(b, say)
	for _, n := fleet.LastApplied(); n < simulatedClusters && running(b, begun); _, n = fleet.LastApplied() {
		time.Sleep(200 * time.Millisecond)
	}
	say("live")
	parts := map[string]int{
		"daemon": daemon.Pid(), "Temporal": p.Temporal().Pid(), "Rancher's stand-in": on.rancher.pid(),
		"simulated clusters": on.simulator.pid(), "simulated Fleet agents": os.Getpid(),
	}
	before, used := programs(b), map[string]time.Duration{}
	for name, pid := range parts {
		used[name] = -cpu(b, pid)
	}
	for running(b, begun) {
		time.Sleep(time.Second)
	}
	say("ended")
	after := programs(b)
	for name, pid := range parts {
		used[name] += cpu(b, pid)
	}
	s, err := p.Status(ctx, "scale")
	must(b, err)

	env := s.Environment("sim")
	if s.State != "verified" || env.Result == nil || len(env.Result.Clusters) != simulatedClusters {
		b.Fatal(s)
	}
	for _, c := range env.Result.Clusters {
		if c.Pairs == 0 || c.Failing > 0 {
			b.Fatalf("cluster %s: %d pairs, %d failing", c.Cluster, c.Pairs, c.Failing)
		}
	}
	live, writes := fleet.LastApplied()
	if env.Result.LiveAt.Before(live) {
		b.Fatalf("live at %s, but the last agent applied at %s", env.Result.LiveAt, live)
	}
	runs := histories(b, begun)
	own := runs["Rollout"].closed.Sub(live)

	b.ReportMetric(0, "ns/op")
	b.ReportMetric(live.Sub(released).Seconds(), "s-fleet")
	b.ReportMetric(own.Seconds(), "s-after-live")
	b.ReportMetric((used["daemon"] + used["Temporal"]).Seconds(), "s-own-cpu")
	b.ReportMetric(float64(resident(b, daemon.Pid()))/(1<<20), "MiB-resident")
	var out strings.Builder
	t := tabwriter.NewWriter(&out, 0, 4, 2, ' ', 0)
	fmt.Fprintf(t, "clusters joined Fleet\t%s\n", joined.Round(time.Second))
	fmt.Fprintf(t, "from released to the last of %d agents' writes\t%s\n", writes, live.Sub(released).Round(time.Second))
	fmt.Fprintf(t, "from the last write to seen as live\t%s\n", env.Result.LiveAt.Sub(live).Round(time.Millisecond))
	fmt.Fprintf(t, "from the last write to the verdict\t%s\n", env.Result.VerdictAt.Sub(live).Round(time.Millisecond))
	fmt.Fprintf(t, "from the last write to the rollout's end\t%s\n", own.Round(time.Millisecond))
	fmt.Fprintf(t, "of these, longest time that one cluster was probed\t%s\n", env.Result.ProbeTime.Round(time.Millisecond))
	for _, name := range slices.Sorted(maps.Keys(used)) {
		fmt.Fprintf(t, "CPU time of %s meanwhile\t%s\n", name, used[name].Round(10*time.Millisecond))
	}
	fmt.Fprintf(t, "CPU time of the whole machine meanwhile\t%s\n", top(before, after))
	fmt.Fprintf(t, "\nworkflow\truns\tevents in a run, at most\tevents per cluster\tKiB\n")
	for _, kind := range slices.Sorted(maps.Keys(runs)) {
		of := runs[kind]
		fmt.Fprintf(t, "%s\t%d\t%d\t%.1f\t%d\n", kind, of.count, of.events, of.perCluster, of.bytes>>10)
		b.ReportMetric(float64(of.events), "events-"+kind)
		b.ReportMetric(of.perCluster, "events/cluster-"+kind)
		if of.perCluster >= mostEventsEach || of.events > mostEvents {
			b.Errorf("%s: %d events in a run, %.1f per cluster; the limits are %d and %d", kind, of.events, of.perCluster, mostEvents, mostEventsEach)
		}
	}
	_ = t.Flush()
	b.Logf("%d clusters:\n%s", simulatedClusters, out.String())
	if own > mostOwn {
		b.Errorf("the rollout went on for %s after the last cluster was live; the limit is %s", own, mostOwn)
	}
}

// start starts the rollout. A daemon that is new prepares Temporal first.
func start(b *testing.B, pipeline, log string) {
	b.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Second) {
		r, err := p.CLI(b.Context(), "rollout", "start", "-f", pipeline, "--after-rollback", "--by", "bench")
		must(b, err)
		if r.Code == 0 {
			return
		}
		if time.Now().After(deadline) {
			said, _ := os.ReadFile(log)
			b.Fatalf("start: %s\nthe daemon: %s", r.Stderr, said[max(0, len(said)-2000):])
		}
	}
}

// follow waits until the environment settles, or the rollout's end, and returns
// when that was. It asks seldom: an answer is about a thousand clusters.
func follow(b *testing.B, say func(string, ...any)) time.Time {
	b.Helper()
	for last := ""; ; time.Sleep(2 * time.Second) {
		s, err := p.Status(b.Context(), "scale")
		if err != nil {
			continue // it is not there yet
		}
		now := s.Now("sim")
		if now != last {
			say("%s", now)
			last = now
		}
		if now == "settling" || !s.Running {
			return time.Now()
		}
	}
}

// running says whether the rollout that began after begun still runs.
func running(b *testing.B, begun time.Time) bool {
	b.Helper()
	runs, err := p.Runs(b.Context(), query(begun)+" AND WorkflowType = 'Rollout'")
	must(b, err)
	return slices.ContainsFunc(runs, func(r drive.Run) bool { return r.CloseTime.IsZero() })
}

func query(begun time.Time) string {
	return fmt.Sprintf("PortcullisPipeline = 'scale' AND StartTime >= '%s'", begun.UTC().Format(time.RFC3339))
}

// kindOfRun is what is told of all runs of one workflow.
type kindOfRun struct {
	count, events, bytes int
	perCluster           float64
	closed               time.Time
}

// histories reads every run of the rollout since begun, also those that were
// continued as new, once they are all closed.
func histories(b *testing.B, begun time.Time) map[string]kindOfRun {
	b.Helper()
	out := map[string]kindOfRun{}
	runs, err := p.Runs(b.Context(), query(begun))
	for deadline := time.Now().Add(time.Minute); err == nil && slices.ContainsFunc(runs, func(r drive.Run) bool { return r.CloseTime.IsZero() }); {
		if time.Now().After(deadline) {
			b.Fatalf("workflows still run: %+v", runs)
		}
		time.Sleep(time.Second)
		runs, err = p.Runs(b.Context(), query(begun))
	}
	must(b, err)
	for _, r := range runs {
		of := simulatedClusters
		if r.Type.Name == "VerifyClusters" {
			var in struct{ Clusters []struct{} }
			must(b, p.Input(b.Context(), r, &in))
			of = len(in.Clusters)
		}
		k := out[r.Type.Name]
		k.count++
		k.events, k.bytes = max(k.events, r.Events), max(k.bytes, r.Bytes)
		k.perCluster = max(k.perCluster, float64(r.Events)/float64(of))
		if r.CloseTime.After(k.closed) {
			k.closed = r.CloseTime
		}
		out[r.Type.Name] = k
	}
	return out
}

// programs is the CPU time of all processes by program, with that of their
// children that have ended.
func programs(b *testing.B) map[string]time.Duration {
	b.Helper()
	out := map[string]time.Duration{}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	must(b, err)
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		open, shut := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
		for _, field := range strings.Fields(string(text[shut+2:]))[11:15] {
			ticks, err := strconv.ParseInt(field, 10, 64)
			must(b, err)
			out[string(text[open+1:shut])] += time.Duration(ticks) * 10 * time.Millisecond
		}
	}
	return out
}

// top names the programs that used most between two readings.
func top(before, after map[string]time.Duration) string {
	used := map[string]time.Duration{}
	for name, now := range after {
		used[name] = now - before[name]
	}
	names := slices.SortedFunc(maps.Keys(used), func(a, b string) int { return int(used[b] - used[a]) })
	var parts []string
	for _, name := range names[:min(len(names), 12)] {
		parts = append(parts, fmt.Sprintf("%s %s", name, used[name].Round(time.Second)))
	}
	return strings.Join(parts, ", ")
}
