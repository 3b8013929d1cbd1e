package world

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"portcullis.dev/portcullis/deploy/lab/internal/apply"
	"portcullis.dev/portcullis/deploy/lab/internal/fleetlab"
	"portcullis.dev/portcullis/deploy/lab/internal/rancherd"
)

//go:embed rancher-crds.yaml
var rancherCRDs []byte

const connectWithin = time.Minute

// rancher makes Rancher's objects and starts its stand-in, and returns when
// every cluster is reached through it.
func (w *world) rancher(ctx context.Context) error {
	files := rancherd.In(w.StateDir)
	host, _, err := net.SplitHostPort(rancherd.Listen)
	if err != nil {
		return err
	}
	if err := files.EnsurePKI(host, "127.0.0.1", "localhost"); err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	token, err := ensureToken(files)
	if err != nil {
		return fmt.Errorf("token: %w", err)
	}
	var upstreams []rancherd.Upstream
	for _, c := range w.Clusters {
		upstreams = append(upstreams, rancherd.Upstream{ID: c.ID, Name: c.Name, Kubeconfig: c.Kubeconfig})
	}
	if err := files.WriteClusters(upstreams); err != nil {
		return err
	}
	if err := w.rancherObjects(ctx, files); err != nil {
		return err
	}
	if err := w.serve("rancherd"); err != nil {
		return err
	}
	return w.waitConnected(ctx, files, token)
}

// ensureToken keeps the token that is there as long as it is accepted.
func ensureToken(files rancherd.Files) (string, error) {
	b, err := os.ReadFile(files.Token())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	token := strings.TrimSpace(string(b))
	if _, ok := rancherd.OpenTokens(files.TokenTable()).User(token); ok {
		return token, nil
	}
	token, err = rancherd.NewToken(files.TokenTable(), rancherd.DefaultUser, 0)
	if err != nil {
		return "", err
	}
	return token, rancherd.WriteFile(files.Token(), []byte(token+"\n"), 0o600)
}

// rancherObjects are what Rancher keeps on the management cluster, and what its
// user may do on each cluster.
func (w *world) rancherObjects(ctx context.Context, files rancherd.Files) error {
	ca, err := os.ReadFile(files.CACert())
	if err != nil {
		return err
	}
	mgmt := w.clients[w.mgmt.Name]
	if err := mgmt.ApplyYAML(ctx, rancherCRDs); err != nil {
		return err
	}
	if err := mgmt.Apply(ctx, setting("server-url", rancherd.URL), setting("cacerts", string(ca))); err != nil {
		return err
	}
	for _, c := range w.Clusters {
		if err := mgmt.Apply(ctx, clusterObject(c)); err != nil {
			return err
		}
		if err := w.clusterStatus(ctx, mgmt, c); err != nil {
			return fmt.Errorf("status of cluster %s: %w", c.ID, err)
		}
		if err := w.clients[c.Name].Apply(ctx, userBinding()); err != nil {
			return fmt.Errorf("cluster %s: %w", c.Name, err)
		}
	}
	return nil
}

func setting(name, value string) *unstructured.Unstructured {
	return object("management.cattle.io/v3", "Setting", name, map[string]any{
		"value": value, "default": "", "customized": true, "source": "",
	})
}

func clusterObject(c Cluster) *unstructured.Unstructured {
	workspace := fleetlab.Workspace
	if c.ID == ManagementID {
		workspace = "fleet-local"
	}
	u := object("management.cattle.io/v3", "Cluster", c.ID, map[string]any{
		"spec": map[string]any{
			"displayName": c.Name, "internal": c.ID == ManagementID, "fleetWorkspaceName": workspace,
		},
	})
	u.SetLabels(c.Labels)
	return u
}

// clusterStatus writes what does not change; the stand-in keeps the conditions.
func (w *world) clusterStatus(ctx context.Context, mgmt *apply.Client, c Cluster) error {
	ca, err := os.ReadFile(c.CAFile)
	if err != nil {
		return err
	}
	u := object("management.cattle.io/v3", "Cluster", c.ID, map[string]any{
		"status": map[string]any{"apiEndpoint": c.APIServer, "caCert": base64.StdEncoding.EncodeToString(ca)},
	})
	opts := metav1.ApplyOptions{FieldManager: apply.FieldManager, Force: true}
	_, err = mgmt.Dynamic.Resource(rancherd.ClustersResource).ApplyStatus(ctx, c.ID, u, opts)
	return err
}

// userBinding makes the token's user an administrator, which in Rancher is a
// cluster role template binding of the role cluster-owner.
func userBinding() *unstructured.Unstructured {
	return object("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "rancher-"+rancherd.DefaultUser, map[string]any{
		"roleRef": map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
		"subjects": []any{map[string]any{
			"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": rancherd.DefaultUser,
		}},
	})
}

func object(apiVersion, kind, name string, content map[string]any) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: content}
	u.SetAPIVersion(apiVersion)
	u.SetKind(kind)
	u.SetName(name)
	return u
}

// waitConnected asks each API server through the stand-in, as Portcullis will,
// and waits for the Cluster objects to say so too.
func (w *world) waitConnected(ctx context.Context, files rancherd.Files, token string) error {
	client, err := trusting(files.CACert())
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	for _, c := range w.Clusters {
		if files.Disconnected(c.ID) {
			continue // somebody switched it off, and may want it so
		}
		err := apply.Until(ctx, connectWithin, func(ctx context.Context) (bool, string, error) {
			awaited := "cluster " + c.Name + " through " + rancherd.URL
			if err := ask(ctx, client, rancherd.URL+"/k8s/clusters/"+c.ID+"/version", token); err != nil {
				return false, awaited + ": " + err.Error(), nil
			}
			u, err := w.clients[w.mgmt.Name].Dynamic.Resource(rancherd.ClustersResource).Get(ctx, c.ID, metav1.GetOptions{})
			if err != nil {
				return false, awaited + ": " + err.Error(), nil
			}
			return rancherd.Connected(u), awaited + ": not marked as connected", nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func trusting(caFile string) (*http.Client, error) {
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate", caFile)
	}
	return &http.Client{
		Timeout:   5 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true},
	}, nil
}

func ask(ctx context.Context, client *http.Client, url, token string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("answer %s", res.Status)
	}
	return nil
}
