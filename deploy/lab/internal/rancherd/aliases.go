package rancherd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"sigs.k8s.io/yaml"
)

type aliasesFile struct {
	// Aliases maps further cluster IDs to the cluster of the table that each leads to.
	Aliases map[string]string `json:"aliases"`
}

// WriteAliases gives clusters further IDs: a request for one of them goes to the
// cluster that it is mapped to. It takes effect at once. With none, the file goes.
func (f Files) WriteAliases(aliases map[string]string) error {
	if len(aliases) == 0 {
		err := os.Remove(f.Aliases())
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	b, err := yaml.Marshal(aliasesFile{Aliases: aliases})
	if err != nil {
		return err
	}
	return WriteFile(f.Aliases(), b, 0o600)
}

func readAliases(path string) (map[string]string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var f aliasesFile
	if err := yaml.UnmarshalStrict(b, &f); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f.Aliases, nil
}
