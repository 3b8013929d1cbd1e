package image

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"debug/elf"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// program writes the least file that is a Linux program, and text behind it.
func program(t *testing.T, machine elf.Machine, text string) string {
	t.Helper()
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT), Ehsize: 64, Phentsize: 56, Shentsize: 64,
	}); err != nil {
		t.Fatal(err)
	}
	b.WriteString(text)
	file := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func build(t *testing.T, o Options) v1.Image {
	t.Helper()
	img, err := Build(o)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func digest(t *testing.T, of interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	d, err := of.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

// extract is an image's files, by name, as a container sees them.
func extract(t *testing.T, img v1.Image) (headers map[string]*tar.Header, content map[string][]byte) {
	t.Helper()
	flat := mutate.Extract(img)
	defer flat.Close()
	headers, content = map[string]*tar.Header{}, map[string][]byte{}
	for r := tar.NewReader(flat); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return headers, content
		}
		if err != nil {
			t.Fatal(err)
		}
		key := strings.TrimSuffix(h.Name, "/")
		headers[key] = h
		if content[key], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhatIsInTheImage(t *testing.T) {
	img := build(t, Options{Program: program(t, elf.EM_X86_64, "one"), Architecture: "amd64", Version: "v1.2.3", Revision: strings.Repeat("a", 40), Created: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)})
	headers, content := extract(t, img)
	want := []string{
		"etc", "etc/group", "etc/passwd", "etc/ssl", "etc/ssl/certs", "etc/ssl/certs/ca-certificates.crt",
		"tmp", "usr", "usr/bin", "usr/bin/portcullis", "var", "var/cache", "var/cache/portcullis",
	}
	var got []string
	for path, h := range headers {
		got = append(got, path)
		if h.Mode&0o6000 != 0 {
			t.Errorf("%s has mode %o: nothing may give its caller other rights", path, h.Mode)
		}
		if path != "tmp" && h.Mode&0o022 != 0 {
			t.Errorf("%s has mode %o: nothing but /tmp is writable to others", path, h.Mode)
		}
		if owner := map[bool]int{true: User}[path == "var/cache/portcullis"]; h.Uid != owner || h.Gid != owner {
			t.Errorf("%s belongs to %d:%d", path, h.Uid, h.Gid)
		}
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("in the image are %q, want %q", got, want)
	}
	if !bytes.HasSuffix(content["usr/bin/portcullis"], []byte("one")) || headers["usr/bin/portcullis"].Mode != 0o755 {
		t.Errorf("the program is another: %o", headers["usr/bin/portcullis"].Mode)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if c.Config.User != "65532:65532" || !slices.Equal(c.Config.Entrypoint, []string{"portcullis"}) || c.Architecture != "amd64" || c.OS != "linux" {
		t.Errorf("config %+v", c)
	}
	for label, want := range map[string]string{
		"version": "v1.2.3", "revision": strings.Repeat("a", 40), "created": "2026-01-02T03:04:05Z", "title": "Portcullis", "source": "", "url": "",
	} {
		if got := c.Config.Labels["org.opencontainers.image."+label]; got != want {
			t.Errorf("label %s is %q, want %q", label, got, want)
		}
	}
}

func TestAuthorities(t *testing.T) {
	n := 0
	for rest := authorities(); len(rest) > 0; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			t.Fatalf("after %d certificates there is something else", n)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil || !cert.IsCA {
			t.Errorf("certificate %d: %v", n, err)
		}
	}
	if n < 50 {
		t.Errorf("%d authorities; the web has more", n)
	}
}

func TestSameInputSameDigest(t *testing.T) {
	o := Options{Program: program(t, elf.EM_X86_64, "one"), Architecture: "amd64", Version: "v1"}
	first := digest(t, build(t, o))
	// The same bytes elsewhere, written at another time with another mode.
	o.Program = program(t, elf.EM_X86_64, "one")
	if err := errors.Join(os.Chmod(o.Program, 0o755), os.Chtimes(o.Program, time.Time{}, time.Unix(1e9, 0))); err != nil {
		t.Fatal(err)
	}
	if again := digest(t, build(t, o)); again != first {
		t.Errorf("%s and %s from the same input", first, again)
	}
	for what, change := range map[string]func(*Options){
		"program": func(o *Options) { o.Program = program(t, elf.EM_X86_64, "two") },
		"version": func(o *Options) { o.Version = "v2" },
		"time":    func(o *Options) { o.Created = time.Unix(1e9, 0) },
	} {
		other := o
		change(&other)
		if digest(t, build(t, other)) == first {
			t.Errorf("another %s has the same digest", what)
		}
	}
}

func TestAProgramThatCannotRunThere(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	arm := program(t, elf.EM_AARCH64, "")
	for what, c := range map[string]struct{ program, architecture, says string }{
		"none":         {filepath.Join(t.TempDir(), "none"), "amd64", "no such file"},
		"script":       {text, "amd64", "is not a Linux program"},
		"other":        {arm, "amd64", "build it with GOARCH=amd64"},
		"architecture": {arm, "sparc", "it is amd64 or arm64"},
	} {
		if _, err := Build(Options{Program: c.program, Architecture: c.architecture}); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", what, err, c.says)
		}
	}
	// Debian's shell needs the C library.
	if _, err := Build(Options{Program: "/bin/bash", Architecture: "amd64"}); err == nil || !strings.Contains(err.Error(), "CGO_ENABLED=0") {
		t.Logf("bash is static here, or for another architecture: %v", err)
	}
}

// untar writes an archive's files into a folder.
func untar(t *testing.T, archive, dir string) {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	unpack(t, tar.NewReader(f), dir)
}

func unpack(t *testing.T, r *tar.Reader, dir string) {
	t.Helper()
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		to, mode := filepath.Join(dir, h.Name), h.FileInfo().Mode()
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(to, 0o755)
		} else {
			var b []byte
			if b, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(to, b, 0o600)
			}
		}
		if err = errors.Join(err, os.Chmod(to, mode)); err != nil {
			t.Fatal(err)
		}
		if os.Geteuid() == 0 {
			if err := os.Chown(to, h.Uid, h.Gid); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestArchives(t *testing.T) {
	dir := t.TempDir()
	images := []v1.Image{
		build(t, Options{Program: program(t, elf.EM_X86_64, "one"), Architecture: "amd64", Version: "v1"}),
		build(t, Options{Program: program(t, elf.EM_AARCH64, "one"), Architecture: "arm64", Version: "v1"}),
	}
	idx, err := Index(images...)
	if err != nil {
		t.Fatal(err)
	}
	oci, docker := filepath.Join(dir, "oci.tar"), filepath.Join(dir, "docker.tar")
	for range 2 {
		var before []byte
		before, _ = os.ReadFile(oci)
		if err := errors.Join(WriteOCI(oci, Name+":v1", idx), WriteDocker(docker, Name+":v1", images[0])); err != nil {
			t.Fatal(err)
		}
		if after, err := os.ReadFile(oci); err != nil || before != nil && !bytes.Equal(before, after) {
			t.Errorf("the archive is another the second time: %v", err)
		}
	}
	tag, err := name.NewTag(Name + ":v1")
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := tarball.ImageFromPath(docker, &tag)
	if err != nil {
		t.Fatal(err)
	}
	// What docker calls an image's ID is the digest of its configuration.
	a, errA := images[0].ConfigName()
	b, errB := loaded.ConfigName()
	if err := errors.Join(errA, errB, validate.Image(loaded)); err != nil || a != b {
		t.Errorf("docker would load %s, want %s: %v", b, a, err)
	}
	unpacked := filepath.Join(dir, "unpacked")
	untar(t, oci, unpacked)
	l, err := layout.ImageIndexFromPath(unpacked)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(l); err != nil {
		t.Error(err)
	}
	m, err := l.IndexManifest()
	if err != nil || len(m.Manifests) != 1 {
		t.Fatalf("%v %+v", err, m)
	}
	d := m.Manifests[0]
	if d.Digest.String() != digest(t, idx) || d.Annotations["org.opencontainers.image.ref.name"] != "v1" || d.Annotations["io.containerd.image.name"] != Name+":v1" {
		t.Errorf("the layout names %+v", d)
	}
	left, err := filepath.Glob(filepath.Join(dir, ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left over: %q %v", left, err)
	}
	if err := WriteOCI(oci, Name+":not a tag", idx); err == nil {
		t.Error("a tag with spaces is taken")
	}
}
