// Package image assembles the lab's container images from programs, files and
// Debian packages, without any registry, and loads them into containerd.
package image

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"
)

// Image is a reference with the layers and settings behind it.
type Image struct {
	Ref    string
	Layers []Layer
	Config Config
}

// Config is how a container of the image starts.
type Config struct {
	Entrypoint []string `json:"Entrypoint,omitempty"`
	Cmd        []string `json:"Cmd,omitempty"`
	Env        []string `json:"Env,omitempty"`
	User       string   `json:"User,omitempty"`
	WorkingDir string   `json:"WorkingDir,omitempty"`
}

// Layer is an uncompressed layer in the cache; its digest is its diff ID too.
type Layer struct {
	Digest string
	Size   int64
	Path   string
}

// File is one entry of a layer.
type File struct {
	// Path in the image, without a slash at the beginning.
	Path string
	// Source is the file whose content is taken; Content is taken without one.
	Source  string
	Content []byte
	// Link makes the entry a symbolic link to it, Dir a folder.
	Link string
	Dir  bool
	// Mode defaults to 0755, right for programs and folders.
	Mode int64
}

// Descriptor as in the OCI image specification.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type imageConfig struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Config       Config `json:"config"`
	RootFS       rootFS `json:"rootfs"`
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	Manifests     []descriptor `json:"manifests"`
}

const (
	mediaConfig   = "application/vnd.oci.image.config.v1+json"
	mediaLayer    = "application/vnd.oci.image.layer.v1.tar"
	mediaManifest = "application/vnd.oci.image.manifest.v1+json"
)

// blobs are the parts of an archive by digest.
type blobs map[string]blob

// blob is held in memory, or in a file if that is named.
type blob struct {
	content []byte
	file    string
	size    int64
}

// documents gives the manifest of an image with the parts that it names.
func (i Image) documents() (descriptor, blobs, error) {
	cfg := imageConfig{Architecture: "amd64", OS: "linux", Config: i.Config, RootFS: rootFS{Type: "layers"}}
	m := manifest{SchemaVersion: 2, MediaType: mediaManifest}
	parts := blobs{}
	for _, l := range i.Layers {
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, l.Digest)
		m.Layers = append(m.Layers, descriptor{MediaType: mediaLayer, Digest: l.Digest, Size: l.Size})
		parts[l.Digest] = blob{file: l.Path, size: l.Size}
	}
	var err error
	if m.Config, err = parts.add(mediaConfig, cfg); err != nil {
		return descriptor{}, nil, err
	}
	d, err := parts.add(mediaManifest, m)
	// containerd takes the full name from its own annotation.
	d.Annotations = map[string]string{"io.containerd.image.name": i.Ref}
	return d, parts, err
}

func (b blobs) add(mediaType string, v any) (descriptor, error) {
	content, err := json.Marshal(v)
	if err != nil {
		return descriptor{}, err
	}
	sum := sha256.Sum256(content)
	d := descriptor{MediaType: mediaType, Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(content))}
	b[d.Digest] = blob{content: content, size: d.Size}
	return d, nil
}

// ID is the digest of the image's manifest.
func (i Image) ID() (string, error) {
	d, _, err := i.documents()
	return d.Digest, err
}

// WriteArchive writes images as one OCI archive. Layers that they share are in it once.
func WriteArchive(w io.Writer, images []Image) error {
	t := tar.NewWriter(w)
	idx := index{SchemaVersion: 2}
	all := blobs{}
	for _, img := range images {
		d, parts, err := img.documents()
		if err != nil {
			return fmt.Errorf("image %s: %w", img.Ref, err)
		}
		idx.Manifests = append(idx.Manifests, d)
		for k, v := range parts {
			all[k] = v
		}
	}
	idxJSON, err := json.Marshal(idx)
	if err != nil {
		return err
	}
	if err := putBytes(t, "oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	if err := putBytes(t, "index.json", idxJSON); err != nil {
		return err
	}
	digests := make([]string, 0, len(all))
	for k := range all {
		digests = append(digests, k)
	}
	sort.Strings(digests)
	for _, digest := range digests {
		name := "blobs/" + strings.Replace(digest, ":", "/", 1)
		b := all[digest]
		if b.file == "" {
			err = putBytes(t, name, b.content)
		} else {
			err = putFile(t, name, b.file, b.size)
		}
		if err != nil {
			return err
		}
	}
	return t.Close()
}

func putBytes(t *tar.Writer, name string, content []byte) error {
	if err := t.WriteHeader(&tar.Header{Name: name, Size: int64(len(content)), Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err := t.Write(content)
	return err
}

func putFile(t *tar.Writer, name, path string, size int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := t.WriteHeader(&tar.Header{Name: name, Size: size, Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err = io.Copy(t, f)
	return err
}

// BuildLayer writes files as a layer into dir, named by its digest. Equal files
// give an equal layer.
func BuildLayer(dir string, files []File) (Layer, error) {
	files = slices.Clone(files)
	sort.Slice(files, func(i, j int) bool { return files[i].Path < files[j].Path })
	return writeLayer(dir, func(t *tar.Writer) error {
		made := map[string]bool{}
		for _, f := range files {
			if err := parents(t, made, f.Path); err != nil {
				return err
			}
			if err := entry(t, made, f); err != nil {
				return fmt.Errorf("layer entry %s: %w", f.Path, err)
			}
		}
		return nil
	})
}

func writeLayer(dir string, fill func(*tar.Writer) error) (Layer, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Layer{}, err
	}
	tmp, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return Layer{}, err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	h := sha256.New()
	t := tar.NewWriter(io.MultiWriter(tmp, h))
	if err := fill(t); err != nil {
		return Layer{}, err
	}
	if err := t.Close(); err != nil {
		return Layer{}, err
	}
	fi, err := tmp.Stat()
	if err != nil {
		return Layer{}, err
	}
	sum := hex.EncodeToString(h.Sum(nil))
	l := Layer{Digest: "sha256:" + sum, Size: fi.Size(), Path: filepath.Join(dir, sum)}
	return l, os.Rename(tmp.Name(), l.Path)
}

// parents adds the folders above a path that are not there yet.
func parents(t *tar.Writer, made map[string]bool, path string) error {
	elems := strings.Split(filepath.Dir(path), "/")
	for i := range elems {
		p := strings.Join(elems[:i+1], "/")
		if p == "." || made[p] {
			continue
		}
		if err := entry(t, made, File{Path: p, Dir: true}); err != nil {
			return err
		}
	}
	return nil
}

func entry(t *tar.Writer, made map[string]bool, f File) error {
	h := &tar.Header{Name: f.Path, Mode: f.Mode, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
	if h.Mode == 0 {
		h.Mode = 0o755
	}
	switch {
	case f.Dir:
		made[f.Path] = true
		h.Typeflag, h.Name = tar.TypeDir, f.Path+"/"
		return t.WriteHeader(h)
	case f.Link != "":
		h.Typeflag, h.Linkname = tar.TypeSymlink, f.Link
		return t.WriteHeader(h)
	case f.Source == "":
		h.Typeflag, h.Size = tar.TypeReg, int64(len(f.Content))
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		_, err := t.Write(f.Content)
		return err
	}
	src, err := os.Open(f.Source)
	if err != nil {
		return err
	}
	defer src.Close()
	fi, err := src.Stat()
	if err != nil {
		return err
	}
	h.Typeflag, h.Size = tar.TypeReg, fi.Size()
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(t, src)
	return err
}
