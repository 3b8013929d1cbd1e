package world

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"slices"
	"text/template"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

//go:embed workloads.yaml
var workloadsYAML string

var workloadsTemplate = template.Must(template.New("workloads").Parse(workloadsYAML))

const rolloutWithin = 4 * time.Minute

// app is one of the sample workloads.
type app struct {
	Namespace, Name string
	Args            []string
	Ports           []port
	// Everywhere puts one pod on each node.
	Everywhere bool
}

type port struct {
	Name, Protocol string
	Port           int
}

// metricsPort is the scraper's way in; probes of the kubelet use it too.
var metricsPort = port{"metrics", "TCP", 9090}

// apps call each other as a shop's services would: gateway to checkout to
// payments to database, and a scraper that reads everybody's metrics.
var apps = []app{
	{
		Namespace: "edge", Name: "api-gateway",
		Args:  []string{"--http=:8080", "--call=http://checkout-api.checkout:8443/"},
		Ports: []port{{"http", "TCP", 8080}},
	},
	{
		Namespace: "checkout", Name: "checkout-api",
		Args:  []string{"--http=:8443", "--call=http://payment-api.payments:8080/", "--call=udp://payment-api.payments:9000"},
		Ports: []port{{"http", "TCP", 8443}},
	},
	{
		Namespace: "payments", Name: "payment-api",
		Args:  []string{"--http=:8080", "--udp=:9000", "--call=tcp://db.data:5432"},
		Ports: []port{{"http", "TCP", 8080}, {"audit", "UDP", 9000}},
	},
	{
		Namespace: "data", Name: "db",
		Args:  []string{"--tcp=:5432"},
		Ports: []port{{"sql", "TCP", 5432}},
	},
	{
		Namespace: "monitoring", Name: "metrics-scraper",
		Args: []string{
			"--call=http://api-gateway.edge:9090/metrics", "--call=http://checkout-api.checkout:9090/metrics",
			"--call=http://payment-api.payments:9090/metrics", "--call=http://db.data:9090/metrics",
		},
	},
}

// echo is on every node of a cluster of three or more, and each calls all: what
// shows whether nodes reach each other, whichever of them is being changed.
var echo = app{
	Namespace: "mesh", Name: "node-echo", Everywhere: true,
	Args: []string{
		"--http=:8080", "--tcp=:7000", "--udp=:7001",
		"--call=http://node-echo.mesh:8080/", "--call=tcp://node-echo.mesh:7000", "--call=udp://node-echo.mesh:7001",
	},
	Ports: []port{{"http", "TCP", 8080}, {"echo-tcp", "TCP", 7000}, {"echo-udp", "UDP", 7001}},
}

const (
	// maxReplicas is enough for a pod of each workload on most nodes of a large
	// cluster without filling the machine.
	maxReplicas = 3
	// meshNodes is the size of cluster from which on echo is started.
	meshNodes = 3
)

func appsOn(nodes int) []app {
	if nodes < meshNodes {
		return apps
	}
	return append(slices.Clone(apps), echo)
}

// workloads applies the sample workloads to a cluster and waits for them.
func (w *world) workloads(ctx context.Context, c Cluster) error {
	client := w.clients[c.Name]
	nodes, err := client.Dynamic.Resource(schema.GroupVersionResource{Version: "v1", Resource: "nodes"}).
		List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	manifest, err := renderWorkloads(w.WorkloadImage, len(nodes.Items))
	if err != nil {
		return err
	}
	if err := client.ApplyYAML(ctx, manifest); err != nil {
		return err
	}
	for _, a := range appsOn(len(nodes.Items)) {
		wait := client.WaitRollout
		if a.Everywhere {
			wait = client.WaitEverywhere
		}
		if err := wait(ctx, rolloutWithin, a.Namespace, a.Name); err != nil {
			return err
		}
	}
	return nil
}

// renderWorkloads makes the manifest: a pod of each on every node, up to maxReplicas.
func renderWorkloads(image string, nodes int) ([]byte, error) {
	var b bytes.Buffer
	err := workloadsTemplate.Execute(&b, map[string]any{
		"Image": image, "Replicas": min(max(nodes, 1), maxReplicas), "Apps": appsOn(nodes), "Metrics": metricsPort,
	})
	if err != nil {
		return nil, fmt.Errorf("workloads: %w", err)
	}
	return b.Bytes(), nil
}
