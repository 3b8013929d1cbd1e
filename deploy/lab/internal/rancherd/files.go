package rancherd

import (
	"fmt"
	"os"
	"path/filepath"

	"sigs.k8s.io/yaml"
)

// Files are where the stand-in keeps what it needs, inside the lab's state directory.
type Files struct {
	// Dir is STATE/rancher.
	Dir string
}

// In returns the files of a lab's state directory.
func In(stateDir string) Files { return Files{Dir: filepath.Join(stateDir, "rancher")} }

// CACert and the rest are paths. Token is the bearer value that Portcullis is
// given; TokenTable what the stand-in checks it against.
func (f Files) CACert() string     { return filepath.Join(f.Dir, "ca.crt") }
func (f Files) CAKey() string      { return filepath.Join(f.Dir, "ca.key") }
func (f Files) ServerCert() string { return filepath.Join(f.Dir, "tls.crt") }
func (f Files) ServerKey() string  { return filepath.Join(f.Dir, "tls.key") }
func (f Files) Token() string      { return filepath.Join(f.Dir, "token") }
func (f Files) TokenTable() string { return filepath.Join(f.Dir, "tokens.yaml") }
func (f Files) Clusters() string   { return filepath.Join(f.Dir, "clusters.yaml") }
func (f Files) Aliases() string    { return filepath.Join(f.Dir, "aliases.yaml") }

// switchFile exists while the cluster is to be unreachable.
func (f Files) switchFile(id string) string {
	return filepath.Join(f.Dir, "disconnected", id)
}

// Upstream is one cluster behind the proxy.
type Upstream struct {
	// ID is the path segment (c-m-abc12, local); Name is for people.
	ID   string `json:"id"`
	Name string `json:"name"`
	// Kubeconfig is the path of a kubeconfig that may impersonate users.
	Kubeconfig string `json:"kubeconfig"`
}

type clustersFile struct {
	Clusters []Upstream `json:"clusters"`
}

// WriteClusters says which clusters are behind the proxy. It takes effect when
// the stand-in starts.
func (f Files) WriteClusters(list []Upstream) error {
	b, err := yaml.Marshal(clustersFile{Clusters: list})
	if err != nil {
		return err
	}
	return WriteFile(f.Clusters(), b, 0o600)
}

// ReadClusters reads what WriteClusters wrote.
func (f Files) ReadClusters() ([]Upstream, error) {
	b, err := os.ReadFile(f.Clusters())
	if err != nil {
		return nil, err
	}
	var c clustersFile
	if err := yaml.UnmarshalStrict(b, &c); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Clusters(), err)
	}
	return c.Clusters, nil
}

// resolve finds a cluster by ID or by name.
func resolve(list []Upstream, idOrName string) (Upstream, error) {
	var known []string
	for _, u := range list {
		if u.ID == idOrName || u.Name == idOrName {
			return u, nil
		}
		known = append(known, u.Name)
	}
	return Upstream{}, fmt.Errorf("no cluster %q; known are %v", idOrName, known)
}

// Disconnect makes the proxy answer 503 for a cluster and end its open streams,
// as when Rancher has lost the tunnel to it.
func (f Files) Disconnect(id string) error {
	return WriteFile(f.switchFile(id), nil, 0o600)
}

// Connect undoes Disconnect.
func (f Files) Connect(id string) error {
	err := os.Remove(f.switchFile(id))
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// Disconnected says whether the switch is on.
func (f Files) Disconnected(id string) bool {
	_, err := os.Stat(f.switchFile(id))
	return err == nil
}
