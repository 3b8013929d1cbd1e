// Package fleetlab installs Fleet on the management cluster from its own charts
// and registers downstream clusters with it.
package fleetlab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"portcullis.dev/portcullis/deploy/lab/internal/apply"
)

// Namespaces of Fleet: its own, and the workspace that clusters are in.
const (
	SystemNamespace = "cattle-fleet-system"
	Workspace       = "fleet-default"
)

const (
	installWithin  = 4 * time.Minute
	registerWithin = 4 * time.Minute
)

var (
	clusters   = schema.GroupVersionResource{Group: "fleet.cattle.io", Version: "v1alpha1", Resource: "clusters"}
	namespaces = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
)

// Options of an installation.
type Options struct {
	// Helm is the program; ChartsDir the charts folder of the Fleet module.
	Helm, ChartsDir string
	// Kubeconfig, APIServer and CAFile are the management cluster's. Agents call APIServer.
	Kubeconfig, APIServer, CAFile string
	// Image and AgentImage are references that the nodes have loaded.
	Image, AgentImage string
}

// Install brings the CRDs and the controllers up and returns when they are
// available. A second call repairs what was changed.
func Install(ctx context.Context, o Options) error {
	ctx, cancel := context.WithTimeout(ctx, installWithin)
	defer cancel()
	if err := o.helm(ctx, "fleet-crd"); err != nil {
		return err
	}
	imageRepo, imageTag := split(o.Image)
	agentRepo, agentTag := split(o.AgentImage)
	return o.helm(ctx, "fleet",
		"--set", "image.repository="+imageRepo, "--set", "image.tag="+imageTag,
		"--set", "agentImage.repository="+agentRepo, "--set", "agentImage.tag="+agentTag,
		"--set", "apiServerURL="+o.APIServer, "--set-file", "apiServerCA="+o.CAFile,
		"--set", "agentTLSMode=system-store",
		"--set", "bootstrap.enabled=false", // Rancher registers the local cluster elsewhere, if at all
		// Clean-ups for installations older than the lab's.
		"--set", "migrations.clusterRegistrationCleanup=false", "--set", "migrations.gitrepoJobsCleanup=false",
	)
}

func (o Options) helm(ctx context.Context, chart string, set ...string) error {
	args := append([]string{
		"upgrade", "--install", chart, filepath.Join(o.ChartsDir, chart),
		"--kubeconfig", o.Kubeconfig, "--namespace", SystemNamespace, "--create-namespace",
		"--wait", "--timeout", installWithin.String(),
	}, set...)
	cmd := exec.CommandContext(ctx, o.Helm, args...)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("helm upgrade %s: %w: %s", chart, err, lastLine(out))
	}
	return nil
}

// split parts repository:tag.
func split(ref string) (repository, tag string) {
	i := strings.LastIndex(ref, ":")
	if i < 0 || strings.Contains(ref[i:], "/") {
		return ref, "latest"
	}
	return ref[:i], ref[i+1:]
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}

// Member is a downstream cluster to register.
type Member struct {
	// Name is the Fleet cluster's; ID is Rancher's.
	Name, ID string
	// Kubeconfig is the path of an administrator's kubeconfig that works from
	// the management cluster's pods.
	Kubeconfig string
	Labels     map[string]string
}

// Register gives Fleet the means to install its agent in each cluster.
func Register(ctx context.Context, mgmt *apply.Client, members []Member) error {
	objs := []*unstructured.Unstructured{object("v1", "Namespace", "", Workspace, nil)}
	for _, m := range members {
		kubeconfig, err := os.ReadFile(m.Kubeconfig)
		if err != nil {
			return fmt.Errorf("cluster %s: %w", m.Name, err)
		}
		objs = append(objs,
			object("v1", "Secret", Workspace, m.secretName(), map[string]any{
				"stringData": map[string]any{"value": string(kubeconfig)},
			}),
			m.cluster())
	}
	return mgmt.Apply(ctx, objs...)
}

func (m Member) secretName() string { return m.Name + "-kubeconfig" }

func (m Member) cluster() *unstructured.Unstructured {
	u := object("fleet.cattle.io/v1alpha1", "Cluster", Workspace, m.Name, map[string]any{
		"spec": map[string]any{"kubeConfigSecret": m.secretName()},
	})
	labels := map[string]string{
		"management.cattle.io/cluster-name":         m.ID,
		"management.cattle.io/cluster-display-name": m.Name,
	}
	for k, v := range m.Labels {
		labels[k] = v
	}
	u.SetLabels(labels)
	return u
}

func object(apiVersion, kind, namespace, name string, content map[string]any) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{}}
	for k, v := range content {
		u.Object[k] = v
	}
	u.SetAPIVersion(apiVersion)
	u.SetKind(kind)
	u.SetNamespace(namespace)
	u.SetName(name)
	return u
}

// WaitAgents waits until the agent of every cluster has reported to the
// management cluster.
func WaitAgents(ctx context.Context, mgmt *apply.Client, members []Member) error {
	for _, m := range members {
		err := apply.Until(ctx, registerWithin, func(ctx context.Context) (bool, string, error) {
			awaited := "Fleet's agent in " + m.Name
			c, err := mgmt.Dynamic.Resource(clusters).Namespace(Workspace).Get(ctx, m.Name, metav1.GetOptions{})
			if err != nil {
				return false, awaited + ": " + err.Error(), nil
			}
			why := unregistered(c)
			if why != "" {
				if err := remindOfNamespace(ctx, mgmt, c); err != nil {
					return false, awaited + ": " + err.Error(), nil
				}
			}
			return why == "", awaited + ": " + why, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// remindOfNamespace has Fleet make the cluster's namespace anew where it is gone.
// Fleet's cleanup deletes the namespace of a new cluster now and then: it looks for
// the cluster in a cache that may be behind. Fleet makes it again only when the
// Cluster changes, and registers nothing until then.
func remindOfNamespace(ctx context.Context, mgmt *apply.Client, c *unstructured.Unstructured) error {
	name, _, _ := unstructured.NestedString(c.Object, "status", "namespace")
	if name == "" {
		return nil
	}
	_, err := mgmt.Dynamic.Resource(namespaces).Get(ctx, name, metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		return err
	}
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"portcullis.dev/namespace-was-gone":%q}}}`, time.Now().UTC().Format(time.RFC3339))
	_, err = mgmt.Dynamic.Resource(clusters).Namespace(c.GetNamespace()).Patch(ctx, c.GetName(), types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

// unregistered says what a cluster still lacks, or "".
func unregistered(c *unstructured.Unstructured) string {
	if seen, _, _ := unstructured.NestedString(c.Object, "status", "agent", "lastSeen"); seen == "" {
		return "has not reported" + because(c)
	}
	if ns, _, _ := unstructured.NestedString(c.Object, "status", "namespace"); ns == "" {
		return "cluster has no namespace yet"
	}
	if message, ok := condition(c, "Ready"); !ok {
		return "cluster is not ready: " + message
	}
	return ""
}

func because(c *unstructured.Unstructured) string {
	for _, kind := range []string{"Imported", "Processed"} {
		if message, ok := condition(c, kind); !ok && message != "" {
			return ": " + message
		}
	}
	return ""
}

// condition returns the message of a condition and whether it is True.
func condition(c *unstructured.Unstructured, kind string) (message string, isTrue bool) {
	list, _, _ := unstructured.NestedSlice(c.Object, "status", "conditions")
	for _, v := range list {
		m, ok := v.(map[string]any)
		if !ok || m["type"] != kind {
			continue
		}
		message, _ = m["message"].(string)
		return message, m["status"] == "True"
	}
	return "", false
}
