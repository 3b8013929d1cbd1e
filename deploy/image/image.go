// Package image makes Portcullis's container image out of its program, without a
// container engine, a registry or a base image. The same input gives the same
// digest on every machine.
package image

import (
	"archive/tar"
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	// Name of the image, without a tag.
	Name = "portcullis.dev/portcullis"
	// User is who the program runs as: no root, and a number, so that Kubernetes can
	// see that without a look into the image.
	User = 65532
	// CacheDir is the one folder that the program writes to; mount something there
	// where the root is read-only and policy repositories are to be kept.
	CacheDir = "/var/cache/portcullis"
)

// Options of an image. Program and Architecture are required.
type Options struct {
	// Program is the file with the program, linked statically.
	Program string
	// Architecture as Go names it: amd64 or arm64.
	Architecture string
	// Version and Revision go into the labels, where they are not empty.
	Version, Revision string
	// Created is the time of the revision; files have it too. Zero is 1970.
	Created time.Time
}

// Build makes an image. What is wrong with the program is said before anything else.
func Build(o Options) (v1.Image, error) {
	if err := checkProgram(o.Program, o.Architecture); err != nil {
		return nil, err
	}
	o.Created = moment(o.Created)
	// What seldom changes is a layer of its own: a new version need not bring it again.
	system, err := layer(o.Created, systemFiles()...)
	if err != nil {
		return nil, err
	}
	program, err := layer(o.Created, file{path: "usr/", mode: 0o755}, file{path: "usr/bin/", mode: 0o755}, file{path: "usr/bin/portcullis", mode: 0o755, source: o.Program})
	if err != nil {
		return nil, err
	}
	img, err := mutate.ConfigFile(mutate.MediaType(empty.Image, types.OCIManifestSchema1), config(o))
	if err != nil {
		return nil, err
	}
	img = mutate.ConfigMediaType(img, types.OCIConfigJSON)
	return mutate.Append(img,
		mutate.Addendum{Layer: system, MediaType: types.OCILayer, History: history(o, "certificates, users and folders")},
		mutate.Addendum{Layer: program, MediaType: types.OCILayer, History: history(o, "portcullis "+cmp.Or(o.Version, "(devel)"))})
}

// moment is t to the second: archives have no finer time.
func moment(t time.Time) time.Time {
	if t.IsZero() {
		return time.Unix(0, 0).UTC()
	}
	return t.UTC().Truncate(time.Second)
}

func history(o Options, what string) v1.History {
	return v1.History{Created: v1.Time{Time: o.Created}, CreatedBy: what}
}

func config(o Options) *v1.ConfigFile {
	labels := map[string]string{
		"org.opencontainers.image.title":       "Portcullis",
		"org.opencontainers.image.description": "Rolls network policy out across Rancher-managed clusters, and proves every step on the wire",
		"org.opencontainers.image.created":     o.Created.Format(time.RFC3339),
	}
	for name, value := range map[string]string{"version": o.Version, "revision": o.Revision} {
		if value != "" {
			labels["org.opencontainers.image."+name] = value
		}
	}
	return &v1.ConfigFile{
		Architecture: o.Architecture,
		OS:           "linux",
		Created:      v1.Time{Time: o.Created},
		RootFS:       v1.RootFS{Type: "layers"},
		Config: v1.Config{
			Entrypoint: []string{"portcullis"},
			User:       fmt.Sprintf("%d:%d", User, User),
			Env: []string{
				"PATH=/usr/bin",
				// Engines set HOME to the root, where nothing can be written.
				"XDG_CACHE_HOME=/var/cache",
			},
			WorkingDir: "/",
			Labels:     labels,
		},
	}
}

// file is an entry of a layer; a path that ends in a slash is a folder.
type file struct {
	path    string
	mode    int64
	owner   int
	content []byte
	// source is a file whose content is taken.
	source string
}

func systemFiles() []file {
	return []file{
		{path: "etc/", mode: 0o755},
		{path: "etc/group", mode: 0o644, content: fmt.Appendf(nil, "root:x:0:\nportcullis:x:%d:\n", User)},
		{path: "etc/passwd", mode: 0o644, content: fmt.Appendf(nil, "root:x:0:0:root:/:/sbin/nologin\nportcullis:x:%d:%d:portcullis:/:/sbin/nologin\n", User, User)},
		{path: "etc/ssl/", mode: 0o755},
		{path: "etc/ssl/certs/", mode: 0o755},
		{path: "etc/ssl/certs/ca-certificates.crt", mode: 0o644, content: authorities()},
		{path: "tmp/", mode: 0o1777},
		{path: "var/", mode: 0o755},
		{path: "var/cache/", mode: 0o755},
		{path: CacheDir[1:] + "/", mode: 0o700, owner: User},
	}
}

// layer is made of files in the order that they are given in.
func layer(at time.Time, files ...file) (v1.Layer, error) {
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	for _, f := range files {
		if err := f.write(t, at); err != nil {
			return nil, fmt.Errorf("%s: %w", f.path, err)
		}
	}
	if err := t.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil },
		tarball.WithCompressedCaching, tarball.WithMediaType(types.OCILayer))
}

func (f file) write(t *tar.Writer, at time.Time) error {
	if f.source != "" {
		var err error
		if f.content, err = os.ReadFile(f.source); err != nil {
			return err
		}
	}
	h := &tar.Header{Name: f.path, Mode: f.mode, Uid: f.owner, Gid: f.owner, ModTime: at, Format: tar.FormatUSTAR, Typeflag: tar.TypeReg, Size: int64(len(f.content))}
	if f.path[len(f.path)-1] == '/' {
		h.Typeflag = tar.TypeDir
	}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	_, err := t.Write(f.content)
	return err
}
