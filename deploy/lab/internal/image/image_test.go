package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestLayerIsReproducible(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "program")
	if err := os.WriteFile(src, []byte("#!"), 0o600); err != nil {
		t.Fatal(err)
	}
	files := []File{{Path: "usr/bin/p", Source: src}, {Path: "etc/f", Content: []byte("x"), Mode: 0o644}, {Path: "bin/p", Link: "/usr/bin/p"}}
	a, err := BuildLayer(dir, files)
	if err != nil {
		t.Fatal(err)
	}
	files[0], files[2] = files[2], files[0]
	b, err := BuildLayer(dir, files)
	if err != nil || a != b {
		t.Errorf("%+v and %+v (%v) differ", a, b, err)
	}
	got := map[string]int64{}
	f, err := os.Open(a.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got[h.Name] = h.Mode
	}
	for name, mode := range map[string]int64{"usr/": 0o755, "usr/bin/": 0o755, "usr/bin/p": 0o755, "etc/f": 0o644, "bin/p": 0o755} {
		if got[name] != mode {
			t.Errorf("%s has mode %o, want %o", name, got[name], mode)
		}
	}
}

// What containerd imports: every blob has the content that its name says, names
// are whole, and a shared layer is there once.
func TestArchive(t *testing.T) {
	dir := t.TempDir()
	shared, err := BuildLayer(dir, []File{{Path: "base", Content: []byte("base")}})
	if err != nil {
		t.Fatal(err)
	}
	images := []Image{{Ref: "docker.io/a/b:v1", Layers: []Layer{shared}, Config: Config{User: "1"}}, {Ref: "docker.io/a/c:v2", Layers: []Layer{shared}}}
	var buf bytes.Buffer
	if err := WriteArchive(&buf, images); err != nil {
		t.Fatal(err)
	}
	entries := map[string][]byte{}
	for r := tar.NewReader(&buf); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := entries[h.Name]; ok {
			t.Errorf("%s is there twice", h.Name)
		}
		if entries[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range entries {
		if digest, ok := strings.CutPrefix(name, "blobs/sha256/"); ok {
			if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != digest {
				t.Errorf("%s holds something else", name)
			}
		}
	}
	var idx index
	if err := json.Unmarshal(entries["index.json"], &idx); err != nil {
		t.Fatal(err)
	}
	for i, d := range idx.Manifests {
		if d.Annotations["io.containerd.image.name"] != images[i].Ref {
			t.Errorf("manifest %d is %v", i, d.Annotations)
		}
		var m manifest
		blob := entries["blobs/"+strings.Replace(d.Digest, ":", "/", 1)]
		if err := json.Unmarshal(blob, &m); err != nil || m.Layers[0].Digest != shared.Digest || int64(len(blob)) != d.Size {
			t.Errorf("manifest %d: %v %+v", i, err, m)
		}
	}
}

// A cluster's images hold the programs that the manifests run, by the names that
// they run them by, and no file twice.
func TestClusterSet(t *testing.T) {
	if _, err := os.Stat(CNIPluginDir); err != nil {
		t.Skip("Debian's CNI plugins are not installed")
	}
	dir := t.TempDir()
	programs := map[string]string{}
	for component, files := range map[string][]string{
		"kubernetes": {"kubernetes"}, "coredns": {"coredns"}, "flannel": {"flanneld"},
		"calico": {
			"calico-node", "calico", "install", "kube-controllers", "check-status",
			"filesystem/sbin/start_runit", "filesystem/etc/service/available/allocate-tunnel-addrs/run",
		},
		"fleet": {"fleetagent", "fleetcli", "fleetcontroller", "package/log.sh"},
	} {
		programs[component] = filepath.Join(dir, component)
		for _, f := range files {
			file := filepath.Join(dir, component, f)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(component+" "+f), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	base, err := BuildLayer(dir, []File{{Path: "bin/sh", Content: []byte("sh")}})
	if err != nil {
		t.Fatal(err)
	}
	set, err := ClusterSet(dir, base, programs, filepath.Join(dir, "coredns", "coredns"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{
		Flannel:           {"opt/bin/flanneld", "bin/sh"},
		CalicoNode:        {"usr/bin/calico-node", "sbin/start_runit", "etc/service/available/allocate-tunnel-addrs/run"},
		CalicoCNI:         {"opt/cni/bin/install", "opt/cni/bin/calico-ipam", "opt/cni/bin/host-local"},
		CalicoControllers: {"usr/bin/kube-controllers", "usr/bin/check-status", "status/"},
		FlannelMigration:  {"usr/bin/kube-controllers", "usr/bin/check-status", "usr/bin/kubectl"},
		CrashingCalico:    {"usr/bin/calico-node", "sbin/start_runit", "sbin/start_runit_whole"},
		HangingCalico:     {"usr/bin/calico-node", "sbin/start_runit", "sbin/start_runit_whole"},
	}
	for _, img := range set {
		content := map[string]string{}
		for _, l := range img.Layers {
			for name, text := range layerContent(t, l) {
				content[name] = text
			}
		}
		for _, w := range want[img.Ref] {
			if _, ok := content[w]; !ok {
				t.Errorf("%s has no %s", img.Ref, w)
			}
		}
		if img.Ref == CrashingCalico && (!strings.Contains(content["sbin/start_runit"], "exit 1") || content["sbin/start_runit_whole"] != "calico filesystem/sbin/start_runit") {
			t.Errorf("%s starts with %q and else %q", img.Ref, content["sbin/start_runit"], content["sbin/start_runit_whole"])
		}
		if img.Ref == CalicoNode && content["etc/service/available/allocate-tunnel-addrs/run"] != allocateTunnelAddrs {
			t.Errorf("%s still has Calico's own service for tunnel addresses", img.Ref)
		}
		delete(want, img.Ref)
	}
	for ref := range want {
		t.Errorf("no image %s", ref)
	}
}

// layerContent reads a layer, and fails on an entry that is there twice.
func layerContent(t *testing.T, l Layer) map[string]string {
	t.Helper()
	f, err := os.Open(l.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := map[string]string{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := out[h.Name]; twice {
			t.Errorf("%s is in a layer twice", h.Name)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out[h.Name] = string(b)
	}
}

func TestTagFollowsTheProgram(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "workload")
	made := func(content string) (ref, file string) {
		t.Helper()
		if err := os.WriteFile(program, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
		ref, file, err := Workload(dir, program)
		if err != nil {
			t.Fatal(err)
		}
		return ref, file
	}
	a, old := made("one")
	b, file := made("two")
	if a == b || a != WorkloadName+":7692c3ad3540" {
		t.Errorf("references %s and %s", a, b)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "archives", "*")); err != nil || len(left) != 1 || left[0] != file || file == old {
		t.Errorf("archives %q, want %s alone: %v", left, file, err)
	}
}

func TestUnwanted(t *testing.T) {
	for name, want := range map[string]bool{
		"usr/share/doc/": false, "usr/share/doc/x": true, "usr/bin/perl": true, "usr/bin/perl5": true, "usr/bin/ip": false, "dev/null": true,
	} {
		if unwanted(name) != want {
			t.Errorf("unwanted(%q) = %t", name, !want)
		}
	}
}

func TestCloneStoreSharesLayersAndCopiesDatabases(t *testing.T) {
	store, node := t.TempDir(), filepath.Join(t.TempDir(), "node")
	for name, content := range map[string]string{"content/blob": "layer", "meta.db": "database"} {
		file := filepath.Join(store, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("blob", filepath.Join(store, "content", "link")); err != nil {
		t.Fatal(err)
	}
	// Twice, as when the first was broken off.
	for range 2 {
		if err := CloneStore(store, node); err != nil {
			t.Fatal(err)
		}
	}
	inode := func(path string) uint64 {
		t.Helper()
		fi, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		if !ok {
			t.Fatal("no inode")
		}
		return st.Ino
	}
	if inode(filepath.Join(store, "meta.db")) == inode(filepath.Join(node, "meta.db")) {
		t.Error("the database is shared")
	}
	if b, err := os.ReadFile(filepath.Join(node, "content", "link")); err != nil || string(b) != "layer" {
		t.Errorf("through the link: %q %v", b, err)
	}
}

func TestPrune(t *testing.T) {
	cache := t.TempDir()
	keep, err := BuildLayer(filepath.Join(cache, "layers"), []File{{Path: "keep"}})
	if err != nil {
		t.Fatal(err)
	}
	drop, err := BuildLayer(filepath.Join(cache, "layers"), []File{{Path: "drop"}})
	if err != nil {
		t.Fatal(err)
	}
	store := filepath.Join(cache, "stores", "now")
	for _, d := range []string{store, filepath.Join(cache, "stores", "old")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := Prune(cache, store, []Image{{Layers: []Layer{keep}}}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{keep.Path: true, drop.Path: false, store: true, filepath.Join(cache, "stores", "old"): false} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: %v, want kept %t", path, err, want)
		}
	}
}
