// Package kube talks to the lab's API servers: kubeconfigs, readiness, and what
// `lab up` waits for and `lab status` shows.
package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// Identity is a client certificate with the authority that it trusts, as files.
type Identity struct{ CAFile, CertFile, KeyFile string }

// WriteKubeconfig writes a kubeconfig for server with the identity's content in it.
func WriteKubeconfig(file, cluster, user, server string, id Identity) error {
	var parts [3][]byte
	for i, f := range []string{id.CAFile, id.CertFile, id.KeyFile} {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		parts[i] = b
	}
	type m = map[string]any
	b, err := yaml.Marshal(m{
		"apiVersion": "v1", "kind": "Config", "current-context": cluster,
		"clusters": []m{{"name": cluster, "cluster": m{"server": server, "certificate-authority-data": parts[0]}}},
		"users":    []m{{"name": user, "user": m{"client-certificate-data": parts[1], "client-key-data": parts[2]}}},
		"contexts": []m{{"name": cluster, "context": m{"cluster": cluster, "user": user}}},
	})
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o600)
}

// Client reads from one API server.
type Client struct {
	server string
	http   *http.Client
}

// New makes a client for server.
func New(server string, id Identity) (*Client, error) {
	pair, err := tls.LoadX509KeyPair(id.CertFile, id.KeyFile)
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(id.CAFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s holds no certificate", id.CAFile)
	}
	return &Client{server: server, http: &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}},
	}}, nil
}

// Ready asks whether the API server is ready.
func (c *Client) Ready(ctx context.Context) error {
	_, err := c.get(ctx, "/readyz")
	return err
}

func (c *Client) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.server+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusNotFound {
		return nil, fmt.Errorf("GET %s: %w", path, fs.ErrNotExist)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s: %s", path, resp.Status, strings.TrimSpace(string(b[:min(len(b), 200)])))
	}
	return b, nil
}

// DaemonSet tells whether there is one of that name.
func (c *Client) DaemonSet(ctx context.Context, namespace, name string) (bool, error) {
	_, err := c.get(ctx, "/apis/apps/v1/namespaces/"+namespace+"/daemonsets/"+name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

type condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Message string `json:"message"`
}

// Node is what is shown of a node.
type Node struct {
	Name  string
	Ready bool
	// Why it is not ready.
	Why string
}

// Nodes lists the cluster's nodes.
func (c *Client) Nodes(ctx context.Context) ([]Node, error) {
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct{ Conditions []condition }
		}
	}
	if err := c.list(ctx, "/api/v1/nodes", &list); err != nil {
		return nil, err
	}
	var out []Node
	for _, i := range list.Items {
		n := Node{Name: i.Metadata.Name, Why: "no status yet"}
		for _, cond := range i.Status.Conditions {
			if cond.Type == "Ready" {
				n.Ready, n.Why = cond.Status == "True", cond.Message
			}
		}
		out = append(out, n)
	}
	return out, nil
}

// Pod is what is shown of a pod.
type Pod struct {
	Namespace, Name, Node string
	// OK: ready, or ended well.
	OK bool
	// Why it is not OK.
	Why string
}

type podStatus struct {
	Phase             string
	Conditions        []condition
	ContainerStatuses []containerStatus
	// A pod that waits for its first steps shows it here.
	InitContainerStatuses []containerStatus
}

type containerStatus struct {
	Name  string
	State struct {
		Waiting    *struct{ Reason, Message string }
		Terminated *struct {
			Reason   string
			ExitCode int
		}
	}
}

// Pods lists all pods of the cluster.
func (c *Client) Pods(ctx context.Context) ([]Pod, error) {
	var list struct {
		Items []struct {
			Metadata struct{ Namespace, Name string }
			Spec     struct{ NodeName string }
			Status   podStatus
		}
	}
	if err := c.list(ctx, "/api/v1/pods", &list); err != nil {
		return nil, err
	}
	var out []Pod
	for _, i := range list.Items {
		p := Pod{Namespace: i.Metadata.Namespace, Name: i.Metadata.Name, Node: i.Spec.NodeName}
		p.OK, p.Why = i.Status.judge()
		out = append(out, p)
	}
	return out, nil
}

func (s podStatus) judge() (ok bool, why string) {
	if s.Phase == "Succeeded" {
		return true, ""
	}
	for _, c := range s.Conditions {
		if c.Type == "Ready" && c.Status == "True" {
			return true, ""
		}
	}
	for _, c := range append(s.InitContainerStatuses, s.ContainerStatuses...) {
		if w := c.State.Waiting; w != nil && w.Reason != "PodInitializing" {
			return false, strings.TrimSpace(fmt.Sprintf("%s: %s %s", c.Name, w.Reason, w.Message))
		}
		if t := c.State.Terminated; t != nil && t.ExitCode != 0 {
			return false, fmt.Sprintf("%s: %s, exit code %d", c.Name, t.Reason, t.ExitCode)
		}
	}
	for _, c := range s.Conditions {
		if c.Type == "PodScheduled" && c.Status != "True" {
			return false, c.Message
		}
	}
	return false, strings.ToLower(s.Phase)
}

func (c *Client) list(ctx context.Context, path string, into any) error {
	b, err := c.get(ctx, path)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, into)
}

// Apply applies manifests with the lab's kubectl.
func Apply(ctx context.Context, kubectl, kubeconfig string, manifests []byte) error {
	return run(ctx, kubectl, kubeconfig, manifests, "apply", "--server-side", "--force-conflicts", "-f", "-")
}

// Delete deletes an object; one that is not there is fine.
func Delete(ctx context.Context, kubectl, kubeconfig, kind, namespace, name string) error {
	return run(ctx, kubectl, kubeconfig, nil, "delete", kind, name, "--namespace", namespace, "--ignore-not-found", "--request-timeout=30s")
}

func run(ctx context.Context, kubectl, kubeconfig string, stdin []byte, args ...string) error {
	cmd := exec.CommandContext(ctx, kubectl, append([]string{"--kubeconfig", kubeconfig}, args...)...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("kubectl %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return nil
}
