package simcluster

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	appsac "k8s.io/client-go/applyconfigurations/apps/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/remotecommand"

	"portcullis.dev/portcullis/deploy/lab/internal/rancherd"
)

// serve runs the simulator and returns how to reach one of its clusters.
func serve(t *testing.T) func(cluster string) (*rest.Config, *kubernetes.Clientset) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	dir := t.TempDir()
	file := filepath.Join(dir, "kubeconfig.yaml")
	done := make(chan error, 1)
	go func() { done <- Run(ctx, filepath.Join(dir, "pki"), file, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	var config *rest.Config
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		var err error
		if config, err = clientcmd.BuildConfigFromFlags("", file); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	return func(cluster string) (*rest.Config, *kubernetes.Clientset) {
		c := rest.CopyConfig(config)
		c.WrapTransport = func(next http.RoundTripper) http.RoundTripper {
			return roundTrip(func(r *http.Request) (*http.Response, error) {
				r = r.Clone(r.Context())
				r.Header.Set(rancherd.AliasHeader, cluster)
				return next.RoundTrip(r)
			})
		}
		client, err := kubernetes.NewForConfig(c)
		if err != nil {
			t.Fatal(err)
		}
		return c, client
	}
}

var everything = labels.Everything()

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

const systemNamespace = "portcullis-system"

func daemonSet(image string) *appsac.DaemonSetApplyConfiguration {
	return appsac.DaemonSet("portcullis-node", systemNamespace).WithSpec(appsac.DaemonSetSpec().WithTemplate(
		coreac.PodTemplateSpec().WithSpec(coreac.PodSpec().WithContainers(coreac.Container().WithName("portcullis-node").WithImage(image)))))
}

// Each cluster has its own node agents, and applying the same again changes nothing.
func TestAgents(t *testing.T) {
	at := serve(t)
	_, one := at("c-sim-0001")
	_, two := at("c-sim-0002")
	ctx := t.Context()
	options := metav1.ApplyOptions{FieldManager: "portcullis", Force: true}
	if _, err := one.CoreV1().Namespaces().Get(ctx, systemNamespace, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Fatal("a namespace that nobody made:", err)
	}
	if _, err := one.CoreV1().Namespaces().Apply(ctx, coreac.Namespace(systemNamespace), options); err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		image      string
		generation int64
	}{{"a:1", 1}, {"a:1", 1}, {"a:2", 2}} {
		ds, err := one.AppsV1().DaemonSets(systemNamespace).Apply(ctx, daemonSet(c.image), options)
		if err != nil || ds.Generation != c.generation || ds.Status.ObservedGeneration != c.generation || ds.Status.NumberReady != nodesEach {
			t.Fatalf("%d: %v, generation %d, %+v", i, err, ds.Generation, ds.Status)
		}
	}
	selected := metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=portcullis-node"}
	pods, err := one.CoreV1().Pods(systemNamespace).List(ctx, selected)
	if err != nil || len(pods.Items) != nodesEach || pods.Items[0].Spec.Containers[0].Image != "a:2" {
		t.Fatalf("%v: %d agents", err, len(pods.Items))
	}
	if pods, err = two.CoreV1().Pods(systemNamespace).List(ctx, selected); err != nil || len(pods.Items) != 0 {
		t.Fatalf("%v: the other cluster has %d agents", err, len(pods.Items))
	}
	if err := one.CoreV1().Namespaces().Delete(ctx, systemNamespace, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := one.AppsV1().DaemonSets(systemNamespace).Get(ctx, "portcullis-node", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Fatal("the agent outlived its namespace:", err)
	}
}

// A client's caches fill, and see what changes, in both forms.
func TestCaches(t *testing.T) {
	for _, form := range []string{runtime.ContentTypeJSON, runtime.ContentTypeProtobuf} {
		t.Run(form, func(t *testing.T) { caches(t, form) })
	}
}

func caches(t *testing.T, form string) {
	config, _ := serve(t)("c-sim-0001")
	config.ContentType, config.AcceptContentTypes = form, form
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	factory := informers.NewSharedInformerFactory(client, 0)
	nodes, pods := factory.Core().V1().Nodes().Lister(), factory.Core().V1().Pods().Lister()
	services, endpoints := factory.Core().V1().Services().Informer(), factory.Discovery().V1().EndpointSlices().Informer()
	factory.Core().V1().Nodes().Informer()
	podCache := factory.Core().V1().Pods().Informer()
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	before := len(podCache.GetStore().ListKeys())
	if all, _ := nodes.List(everything); len(all) != nodesEach {
		t.Errorf("%d nodes", len(all))
	}
	if n, m := len(services.GetStore().ListKeys()), len(endpoints.GetStore().ListKeys()); n == 0 || n != m {
		t.Errorf("%d services, %d endpoint slices", n, m)
	}
	if _, err := client.AppsV1().DaemonSets(systemNamespace).Apply(ctx, daemonSet("a:1"), metav1.ApplyOptions{FieldManager: "x"}); err != nil {
		t.Fatal(err)
	}
	for {
		all, _ := pods.List(everything)
		if len(all) == before+nodesEach {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%d pods, then %d", before, len(all))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// A session with a node agent, through a real client's WebSocket.
func TestSession(t *testing.T) {
	at := serve(t)
	config, client := at("c-sim-0001")
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	if _, err := client.AppsV1().DaemonSets(systemNamespace).Apply(ctx, daemonSet("a:1"), metav1.ApplyOptions{FieldManager: "x"}); err != nil {
		t.Fatal(err)
	}
	exec := func(command []string, in io.Reader) (string, error) {
		url := client.CoreV1().RESTClient().Post().Resource("pods").Namespace(systemNamespace).Name("portcullis-node-00000").SubResource("exec").
			VersionedParams(&corev1.PodExecOptions{Container: "portcullis-node", Command: command, Stdin: true, Stdout: true, Stderr: true}, scheme.ParameterCodec).URL()
		socket, err := remotecommand.NewWebSocketExecutor(config, "GET", url.String())
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		err = socket.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: &out, Stderr: io.Discard})
		return out.String(), err
	}
	if _, err := exec([]string{"sh"}, strings.NewReader("")); err == nil {
		t.Error("a shell was run")
	}
	open, shut := "", "10.42.0.250"
	for address := range newWorld().open {
		if host, found := strings.CutSuffix(address, ":8443"); found {
			open = host
		}
	}
	out, err := exec(reachCommand, strings.NewReader(strings.Join([]string{
		`{"version":1,"role":"witness","session":"00112233","round":1}`,
		`{"version":1,"role":"reach","session":"00112233","round":1,"timeoutMillis":1000,"probes":[` +
			`{"id":"0","protocol":"tcp","host":"` + open + `","port":8443},{"id":"1","protocol":"tcp","host":"` + shut + `","port":8443},` +
			`{"id":"2","protocol":"udp","host":"` + open + `","port":8443}]}`,
		`{"version":1,"role":"again","round":2}`,
		`{"version":2,"role":"again","round":3}`,
		`{"version":1,"role":"bye"}`, ``,
	}, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(out) {
		var m message
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if m.Result != nil {
			got = append(got, m.Result.Outcome)
			continue
		}
		got = append(got, m.Type)
	}
	want := "ready allowed refused error done allowed refused error done error"
	if strings.Join(got, " ") != want {
		t.Errorf("%s; want %s", strings.Join(got, " "), want)
	}
}

// What is not simulated is not there.
func TestNotSimulated(t *testing.T) {
	at := serve(t)
	_, client := at("c-sim-0001")
	if _, err := client.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{}); !apierrors.IsNotFound(err) {
		t.Error(err)
	}
	if _, err := client.CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{ResourceVersion: "999"}); err != nil {
		t.Error("a watch from another version begins, and is told so:", err)
	}
}
