// Package topology says which clusters and nodes a lab has, and which address
// each of them gets. It is pure: the same file always gives the same plan.
package topology

import (
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// CNI is the network of a cluster's pods.
type CNI string

const (
	// Bridge is the plain bridge plugin, without network policy.
	Bridge CNI = "bridge"
	// Calico is Calico with VXLAN between all nodes.
	Calico CNI = "calico"
	// Canal is flannel's VXLAN between nodes, with Calico's plugin and policy.
	Canal CNI = "canal"
)

var cnis = []CNI{Bridge, Calico, Canal}

// Enforces says that network policies have an effect.
func (c CNI) Enforces() bool { return c != Bridge }

// ManagementID is Rancher's name for the cluster that it runs in itself.
const ManagementID = "local"

const (
	// maxNodes keeps a cluster's addresses inside its block of ten.
	maxNodes = 9
	// maxClusters keeps all blocks inside the lab's /24.
	maxClusters = 20
)

// Topology is the content of a topology file.
type Topology struct {
	Clusters []Cluster `json:"clusters"`
	// Fleet defaults to true. Without it there is no Fleet and no Git server, and
	// the lab itself applies the sample policies.
	Fleet *bool `json:"fleet,omitempty"`
}

// Cluster of a topology file.
type Cluster struct {
	// Name is the lab's name; nodes are named NAME-1, NAME-2 and so on.
	Name string `json:"name"`
	// ID is Rancher's name; exactly one cluster is "local".
	ID string `json:"id"`
	// CNI defaults to calico.
	CNI CNI `json:"cni,omitempty"`
	// Nodes defaults to 1.
	Nodes int `json:"nodes,omitempty"`
	// Labels are put on the Rancher and the Fleet cluster.
	Labels map[string]string `json:"labels,omitempty"`
}

//go:embed *.yaml
var files embed.FS

// defaultName is the topology of a lab that is given none.
const defaultName = "default"

// Default is the lab's usual topology.
func Default() Topology {
	t, err := Load(defaultName)
	if err != nil {
		// The file is part of the program and a test parses it.
		return Topology{}
	}
	return t
}

// Names are the topologies that the program brings with it.
func Names() []string {
	entries, err := files.ReadDir(".")
	if err != nil { // embedded: there is always such a folder
		return nil
	}
	var out []string
	for _, e := range entries {
		out = append(out, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	return out
}

// Load reads the topology that the program has under a name, or else that of the
// file at a path. An empty string is the default's name.
func Load(nameOrPath string) (Topology, error) {
	if nameOrPath == "" {
		nameOrPath = defaultName
	}
	read := os.ReadFile
	if slices.Contains(Names(), nameOrPath) {
		read = func(name string) ([]byte, error) { return files.ReadFile(name + ".yaml") }
	}
	b, err := read(nameOrPath)
	if err != nil {
		return Topology{}, fmt.Errorf("topology: %w; besides files there are %s", err, strings.Join(Names(), ", "))
	}
	t, err := Parse(b)
	if err != nil {
		return Topology{}, fmt.Errorf("topology %s: %w", nameOrPath, err)
	}
	return t, nil
}

// WithoutFleet writes a topology into a folder as one that has no Fleet, and names the file.
func WithoutFleet(nameOrPath, dir string) (string, error) {
	t, err := Load(nameOrPath)
	if err != nil {
		return "", err
	}
	t.Fleet = new(bool)
	text, err := yaml.Marshal(t)
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "topology.yaml")
	return file, os.WriteFile(file, text, 0o600)
}

// Parse reads a topology strictly, fills in defaults and validates it.
func Parse(b []byte) (Topology, error) {
	var t Topology
	if err := yaml.UnmarshalStrict(b, &t); err != nil {
		return Topology{}, err
	}
	for i := range t.Clusters {
		c := &t.Clusters[i]
		if c.CNI == "" {
			c.CNI = Calico
		}
		if c.Nodes == 0 {
			c.Nodes = 1
		}
	}
	return t, t.validate()
}

// name is short because link names are limited to 15 characters.
var name = regexp.MustCompile(`^[a-z][a-z0-9]{0,7}$`)
var id = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)

func (t Topology) validate() error {
	if len(t.Clusters) == 0 || len(t.Clusters) > maxClusters {
		return fmt.Errorf("clusters: %d given, want 1 to %d", len(t.Clusters), maxClusters)
	}
	names, ids := map[string]bool{}, map[string]bool{}
	for i, c := range t.Clusters {
		at := fmt.Sprintf("clusters[%d]", i)
		switch {
		case !name.MatchString(c.Name):
			return fmt.Errorf("%s.name: %q: want 1 to 8 lower-case letters and digits, a letter first", at, c.Name)
		case !id.MatchString(c.ID):
			return fmt.Errorf("%s.id: %q: want lower-case letters, digits and dashes, a letter first", at, c.ID)
		case names[c.Name]:
			return fmt.Errorf("%s.name: %q is used twice", at, c.Name)
		case ids[c.ID]:
			return fmt.Errorf("%s.id: %q is used twice", at, c.ID)
		case !slices.Contains(cnis, c.CNI):
			return fmt.Errorf("%s.cni: %q: want one of %v", at, c.CNI, cnis)
		case c.Nodes < 1 || c.Nodes > maxNodes:
			return fmt.Errorf("%s.nodes: %d: want 1 to %d", at, c.Nodes, maxNodes)
		}
		names[c.Name], ids[c.ID] = true, true
	}
	if !ids[ManagementID] {
		return fmt.Errorf("clusters: none has the id %q, which is the management cluster", ManagementID)
	}
	return nil
}
