// Package bench measures the figures of docs/figures.md on the lab, each beside
// what it is compared with, in one run: `make bench`.
package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/remotecommand"

	"portcullis.dev/portcullis/deploy/lab/internal/drive"
	"portcullis.dev/portcullis/deploy/lab/internal/drive/drivetest"
)

var p *drivetest.Lab

var must = drivetest.Must

// asIsVariable, when set, has the benchmarks use the lab that is up, whatever
// its topology is: BenchmarkScale needs nothing but a management cluster with Fleet.
const asIsVariable = "PORTCULLIS_BENCH_LAB_AS_IS"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		if err := play(role, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, role+":", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	if b := flag.Lookup("test.bench"); b == nil || b.Value.String() == "" {
		os.Exit(m.Run()) // nothing to measure: a lab is not started for it
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		code = 1
	}
	os.Exit(code)
}

// run leaves the lab up: it takes longer to start than to measure.
func run(m *testing.M) (int, error) {
	o, err := drive.Here("../../../bin")
	if err != nil {
		return 1, err
	}
	if os.Getenv(asIsVariable) == "" {
		if err := o.Show(context.Background(), "up"); err != nil {
			return 1, err
		}
	}
	if o.Dir, err = os.MkdirTemp("", "portcullis-bench-"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(o.Dir)
	p = &drivetest.Lab{}
	if p.Portcullis, err = drive.Start(context.Background(), o); err != nil {
		return 1, err
	}
	defer p.Stop()
	return m.Run(), nil
}

const manifest = `
apiVersion: v1
kind: Namespace
metadata: {name: bench}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: open, namespace: bench}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress: [{}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: into-open, namespace: bench}
spec:
  podSelector: {matchLabels: {app: open}}
  policyTypes: [Ingress]
  ingress: [{}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: into-shut, namespace: bench}
spec:
  podSelector: {matchLabels: {app: shut}}
  policyTypes: [Ingress]
`

const deployment = `
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s, namespace: bench}
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      terminationGracePeriodSeconds: 1
      automountServiceAccountToken: false
      containers:
      - {name: workload, image: %[3]q, imagePullPolicy: IfNotPresent, args: ["--tcp=:7000"]}
`

// wirePipeline probes every pair of the 51 pods: 26 may be reached, 25 may not.
// It has the name of the lab's own pipeline, whose GitRepo delivers to prod.
const wirePipeline = `
apiVersion: portcullis.dev/v1alpha1
kind: Pipeline
metadata: {name: network-policies}
spec:
  source: {repo: http://10.99.0.1:8880/network-policies.git, branch: main}
  environments:
  - {name: prod, clusters: {matchLabels: {env: prod}}}
  probeSettings: {timeout: 1s}
  probes:
  - {name: open, from: {namespace: bench}, to: {namespace: bench, selector: "app == 'open'", port: 7000}, expect: allow}
  - {name: shut, from: {namespace: bench}, to: {namespace: bench, selector: "app == 'shut'", port: 7000}, expect: deny}
`

type evidence struct {
	Pairs, Rounds int
	ProbeTime     metav1.Duration
	Requirements  []struct {
		Name  string
		Flows []struct{ Outcomes map[string]int }
	}
}

// BenchmarkWire2500 measures every pair of 51 pods on prod's two nodes, half of
// them denied, and then a sample of the same pairs by one exec per probe, three
// at a time, as other tools do it.
func BenchmarkWire2500(b *testing.B) {
	daemon, err := p.StartDaemon("daemon", nil)
	must(b, err)
	defer daemon.Stop()
	ctx := b.Context()
	image := p.MustKubectl(b, "prod", "-n", "data", "get", "deployment", "db", "-o", "jsonpath={.spec.template.spec.containers[0].image}")
	file := filepath.Join(p.Dir, "bench-objects.yaml")
	text := manifest + fmt.Sprintf(deployment, "open", 26, image) + fmt.Sprintf(deployment, "shut", 25, image)
	must(b, os.WriteFile(file, []byte(text), 0o600))
	p.MustKubectl(b, "prod", "apply", "-f", file)
	defer func() {
		if _, err := p.Kubectl(context.Background(), "prod", "delete", "namespace", "bench", "--wait=true"); err != nil {
			b.Error(err)
		}
	}()
	for _, name := range []string{"open", "shut"} {
		p.MustKubectl(b, "prod", "-n", "bench", "rollout", "status", "deployment", name, "--timeout=110s")
	}
	pipeline := filepath.Join(p.Dir, "bench.yaml")
	must(b, os.WriteFile(pipeline, []byte(wirePipeline), 0o600))

	var result struct{ Clusters map[string]evidence }
	for b.Loop() {
		_, err := p.JSON(ctx, &result, "probe", "-f", pipeline, "--baseline")
		must(b, err)
	}
	e := result.Clusters["prod"]
	if e.Pairs != 51*50 || e.Rounds == 0 {
		b.Fatalf("measured %d pairs in %d rounds: %+v", e.Pairs, e.Rounds, result)
	}
	outcomes := map[string]int{}
	for _, r := range e.Requirements {
		for _, f := range r.Flows {
			for o, n := range f.Outcomes {
				outcomes[r.Name+" "+o] += n
			}
		}
	}
	if outcomes["open allowed"] != 26*50 || outcomes["shut dropped"] != 25*50 {
		b.Fatalf("outcomes: %v", outcomes)
	}
	round := e.ProbeTime.Duration / time.Duration(e.Rounds)
	own := float64(e.Pairs) / round.Seconds()
	others := execPairs(b)
	b.ReportMetric(round.Seconds(), "s/round")
	b.ReportMetric(own, "pairs/s")
	b.ReportMetric(others, "exec-pairs/s")
	b.ReportMetric(own/others, "times-exec")
}

// execPairs returns how many pairs per second one exec per probe, three at a
// time, gets through: an even sample of the same pairs, half of them denied.
func execPairs(b *testing.B) float64 {
	b.Helper()
	config := kubeconfig(b, "prod")
	client, err := kubernetes.NewForConfig(config)
	must(b, err)
	pods, err := client.CoreV1().Pods("bench").List(b.Context(), metav1.ListOptions{})
	must(b, err)
	const sample = 120
	type pair struct{ from, to corev1.Pod }
	byApp := map[string][]corev1.Pod{}
	for _, pod := range pods.Items {
		byApp[pod.Labels["app"]] = append(byApp[pod.Labels["app"]], pod)
	}
	work := make(chan pair, sample)
	for i := range sample {
		from := pods.Items[i*7%len(pods.Items)]
		to := byApp[[]string{"open", "shut"}[i%2]]
		work <- pair{from, to[i*3%len(to)]}
	}
	close(work)
	begin := time.Now()
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			for pr := range work {
				req := client.CoreV1().RESTClient().Post().Resource("pods").Namespace("bench").Name(pr.from.Name).SubResource("exec").
					VersionedParams(&corev1.PodExecOptions{
						Command: []string{"/workload", "--dial", pr.to.Status.PodIP + ":7000", "--timeout", "1s"}, Stdout: true, Stderr: true,
					}, scheme.ParameterCodec)
				exec, err := remotecommand.NewWebSocketExecutor(config, "GET", req.URL().String())
				if err != nil {
					b.Error(err)
					return
				}
				var out strings.Builder
				_ = exec.StreamWithContext(b.Context(), remotecommand.StreamOptions{Stdout: &out, Stderr: &out}) // a denied pair ends with an error
			}
		})
	}
	group.Wait()
	return sample / time.Since(begin).Seconds()
}

// BenchmarkVerdict measures what Portcullis itself adds: from the first moment
// that the changed object is on the cluster to the verdict, minus probe time.
func BenchmarkVerdict(b *testing.B) {
	daemon, err := p.StartDaemon("daemon", nil)
	must(b, err)
	defer daemon.Stop()
	ctx := b.Context()
	pipeline, err := p.PipelineFile("verdict", func(text string) string {
		from, to := strings.Index(text, "  - name: staging\n"), strings.Index(text, "  probeSettings:")
		return text[:from] + text[to:]
	})
	must(b, err)
	objects, err := dynamic.NewForConfig(kubeconfig(b, "dev"))
	must(b, err)
	policies := objects.Resource(schema.GroupVersionResource{Group: "crd.projectcalico.org", Version: "v1", Resource: "globalnetworkpolicies"})
	var own []time.Duration
	for i := range 7 {
		revision := p.MustLab(b, "policy", "commit", []string{"v1", "good"}[i%2])
		seen := make(chan time.Time, 64)
		w, err := policies.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=default.deny-instance-metadata"})
		must(b, err)
		go func() {
			for range w.ResultChan() {
				seen <- time.Now()
			}
		}()
		p.Call(b, 0, "rollout", "start", "-f", pipeline, "--revision", revision, "--after-rollback", "--by", "bench")
		started := time.Now()
		s, err := p.Ended(ctx, drive.Pipeline, 3*time.Minute)
		must(b, err)
		w.Stop()
		env := s.Environment("dev")
		if s.State != "verified" || env.Result == nil {
			b.Fatal(s)
		}
		live := firstAfter(seen, started)
		if live.IsZero() {
			continue // the first revision was live before: nothing changed on the cluster
		}
		own = append(own, env.Result.VerdictAt.Sub(live)-env.Result.ProbeTime)
	}
	if len(own) < 5 {
		b.Fatalf("only %d of 7 rollouts changed the cluster", len(own))
	}
	slices.Sort(own)
	b.ReportMetric(own[len(own)/2].Seconds(), "s-own-median")
	b.ReportMetric(own[len(own)-1].Seconds(), "s-own-worst")
	b.ReportMetric(0, "ns/op")
	b.Logf("own time of %d rollouts: %v", len(own), own)
}

func firstAfter(seen <-chan time.Time, start time.Time) time.Time {
	for {
		select {
		case t := <-seen:
			if t.After(start) {
				return t
			}
		default:
			return time.Time{}
		}
	}
}

// BenchmarkAtRest measures a daemon that has nothing to do, and the lab as it idles.
func BenchmarkAtRest(b *testing.B) {
	daemon, err := p.StartDaemon("rest", nil)
	must(b, err)
	defer daemon.Stop()
	time.Sleep(30 * time.Second) // caches are filled, the first garbage is collected
	before := cpu(b, daemon.Pid())
	const window = 60 * time.Second
	time.Sleep(window)
	used := cpu(b, daemon.Pid()) - before
	b.ReportMetric(float64(resident(b, daemon.Pid()))/(1<<20), "MiB-resident")
	b.ReportMetric(100*used.Seconds()/window.Seconds(), "%-of-a-core")
	b.ReportMetric(0, "ns/op")
	out := p.MustLab(b, "usage")
	var usage map[string]any
	must(b, json.Unmarshal([]byte(out), &usage))
	b.Logf("the lab: %s", out)
}

func cpu(b *testing.B, pid int) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(b, err)
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+2:]))
	var ticks int64
	for _, f := range fields[11:13] { // utime and stime, in 1/100 s
		n, err := strconv.ParseInt(f, 10, 64)
		must(b, err)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

func resident(b *testing.B, pid int) int64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(b, err)
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmRSS:" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			must(b, err)
			return n << 10
		}
	}
	b.Fatal("no VmRSS")
	return 0
}

func kubeconfig(b *testing.B, cluster string) *rest.Config {
	b.Helper()
	c, err := clientcmd.BuildConfigFromFlags("", p.Kubeconfig(cluster))
	must(b, err)
	return c
}
