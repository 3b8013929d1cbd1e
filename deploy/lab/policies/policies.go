// Package policies is the lab's sample policy repository, and the changes that
// people make to it: good ones, and each kind of bad one.
package policies

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"sort"
	"strings"

	"sigs.k8s.io/yaml"
)

//go:embed all:base all:scenarios
var files embed.FS

// First is the scenario that the repository begins with: the base alone.
const First = "v1"

// Scenario is one change of the repository.
type Scenario struct {
	Name string `json:"-"`
	// Message is the commit message.
	Message string `json:"message"`
	// Layers are scenarios whose files lie under this one's. A scenario does not
	// depend on what was committed before it, so a bad one leaves no trace in the next.
	Layers []string `json:"layers,omitempty"`
}

// Names are all scenarios, sorted.
func Names() []string {
	entries, err := files.ReadDir("scenarios")
	if err != nil { // embedded: there is always such a folder
		return nil
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	sort.Strings(out)
	return out
}

// Load reads what a scenario says of itself.
func Load(name string) (Scenario, error) {
	b, err := files.ReadFile(path.Join("scenarios", name, "scenario.yaml"))
	if err != nil {
		return Scenario{}, fmt.Errorf("no scenario %q; there are %s", name, strings.Join(Names(), ", "))
	}
	s := Scenario{Name: name}
	if err := yaml.UnmarshalStrict(b, &s); err != nil {
		return Scenario{}, fmt.Errorf("scenario %s: %w", name, err)
	}
	return s, nil
}

// Tree is the whole repository at a scenario: slash-separated path to content.
func Tree(name string) (map[string][]byte, error) {
	s, err := Load(name)
	if err != nil {
		return nil, err
	}
	tree := make(map[string][]byte)
	if err := overlay(tree, "base"); err != nil {
		return nil, err
	}
	for _, layer := range append(s.Layers, name) {
		dir := path.Join("scenarios", layer, "tree")
		if _, err := fs.Stat(files, dir); err != nil {
			continue // a scenario without files of its own
		}
		if err := overlay(tree, dir); err != nil {
			return nil, err
		}
	}
	return tree, nil
}

func overlay(tree map[string][]byte, dir string) error {
	return fs.WalkDir(files, dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		tree[strings.TrimPrefix(p, dir+"/")], err = files.ReadFile(p)
		return err
	})
}
