package image

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ensureArchive has an image written into a file in cache, where it is not there yet,
// and takes files of other builds of the same image away.
func ensureArchive(cache, ref string, write func(path string) error) (string, error) {
	dir := filepath.Join(cache, "archives")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	name, tag, _ := strings.Cut(filepath.Base(ref), ":")
	file := filepath.Join(dir, name+"-"+tag+".tar")
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	partial := filepath.Join(dir, ".new-"+filepath.Base(file))
	defer os.Remove(partial)
	if err := write(partial); err != nil {
		return "", err
	}
	if err := os.Rename(partial, file); err != nil {
		return "", err
	}
	olds, err := filepath.Glob(filepath.Join(dir, name+"-*.tar"))
	if err != nil {
		return "", err
	}
	return file, removeOthers(olds, file)
}

// Prune takes layers and stores away that no current image is made of. Nodes
// that run keep their links to them.
func Prune(cache, store string, keep []Image) error {
	used := map[string]bool{}
	for _, i := range keep {
		for _, l := range i.Layers {
			used[l.Path] = true
		}
	}
	layers, err := filepath.Glob(filepath.Join(cache, "layers", "*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range layers {
		if !used[l] {
			errs = append(errs, os.Remove(l))
		}
	}
	stores, err := filepath.Glob(filepath.Join(cache, "stores", "*"))
	errs = append(errs, err, removeOthers(stores, store))
	return errors.Join(errs...)
}

func removeOthers(paths []string, keep string) error {
	for _, p := range paths {
		if p == keep {
			continue
		}
		if err := os.RemoveAll(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
