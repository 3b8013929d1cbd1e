package world

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
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
		"edge", "api-gateway",
		[]string{"--http=:8080", "--call=http://checkout-api.checkout:8443/"},
		[]port{{"http", "TCP", 8080}},
	},
	{
		"checkout", "checkout-api",
		[]string{"--http=:8443", "--call=http://payment-api.payments:8080/", "--call=udp://payment-api.payments:9000"},
		[]port{{"http", "TCP", 8443}},
	},
	{
		"payments", "payment-api",
		[]string{"--http=:8080", "--udp=:9000", "--call=tcp://db.data:5432"},
		[]port{{"http", "TCP", 8080}, {"audit", "UDP", 9000}},
	},
	{
		"data", "db",
		[]string{"--tcp=:5432"},
		[]port{{"sql", "TCP", 5432}},
	},
	{
		"monitoring", "metrics-scraper",
		[]string{
			"--call=http://api-gateway.edge:9090/metrics", "--call=http://checkout-api.checkout:9090/metrics",
			"--call=http://payment-api.payments:9090/metrics", "--call=http://db.data:9090/metrics",
		},
		nil,
	},
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
	for _, a := range apps {
		if err := client.WaitRollout(ctx, rolloutWithin, a.Namespace, a.Name); err != nil {
			return err
		}
	}
	return nil
}

// renderWorkloads makes the manifest: one pod of each on a cluster of one node,
// two on different nodes elsewhere.
func renderWorkloads(image string, nodes int) ([]byte, error) {
	var b bytes.Buffer
	err := workloadsTemplate.Execute(&b, map[string]any{
		"Image": image, "Replicas": min(max(nodes, 1), 2), "Apps": apps, "Metrics": metricsPort,
	})
	if err != nil {
		return nil, fmt.Errorf("workloads: %w", err)
	}
	return b.Bytes(), nil
}
