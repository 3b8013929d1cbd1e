package image

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// EnsureArchive writes an image as an archive into cache, and takes archives of
// other builds of the same image away.
func EnsureArchive(cache string, img Image) (string, error) {
	dir := filepath.Join(cache, "archives")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	name, tag, _ := strings.Cut(img.Ref, ":")
	name = filepath.Base(name)
	file := filepath.Join(dir, name+"-"+tag+".tar")
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	if err := WriteArchive(f, []Image{img}); err != nil {
		f.Close()
		return "", err
	}
	if err := f.Close(); err != nil {
		return "", err
	}
	if err := os.Rename(f.Name(), file); err != nil {
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
