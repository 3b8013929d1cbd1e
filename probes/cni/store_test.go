package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	canal  = `{"name":"k8s-pod-network","cniVersion":"0.3.1","plugins":[{"type":"calico","ipam":{"type":"host-local","subnet":"usePodCidr"}},{"type":"portmap"},{"type":"bandwidth"}]}`
	calico = `{"name":"k8s-pod-network","cniVersion":"0.3.1","plugins":[{"type":"calico","ipam":{"type":"calico-ipam"}},{"type":"portmap"}]}`
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

type node struct {
	*testing.T
	conf, keep string
	*Store
}

func canalNode(t *testing.T) *node {
	t.Helper()
	n := &node{T: t, conf: t.TempDir(), keep: filepath.Join(t.TempDir(), "portcullis", "cni")}
	n.put("10-canal.conflist", canal, 0o644)
	n.put("calico-kubeconfig", "token: secret", 0o600)
	n.open()
	return n
}

// open opens the store anew, as an agent that was killed and started again does.
func (n *node) open() {
	n.Helper()
	s, err := OpenStore(n.conf, n.keep)
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() { _ = s.Close() })
	n.Store = s
}

func (n *node) put(name, text string, mode fs.FileMode) {
	n.Helper()
	if err := os.WriteFile(filepath.Join(n.conf, name), []byte(text), mode); err != nil {
		n.Fatal(err)
	}
}

// content is what a container runtime and the plugins would find.
func (n *node) content() map[string]string {
	n.Helper()
	out := map[string]string{}
	entries, err := os.ReadDir(n.conf)
	if err != nil {
		n.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), retired) {
			continue
		}
		data, err := os.ReadFile(filepath.Join(n.conf, e.Name()))
		st, serr := e.Info()
		if err = errors.Join(err, serr); err != nil {
			n.Fatal(err)
		}
		out[e.Name()] = fmt.Sprint(st.Mode().Perm(), " ", string(data))
	}
	return out
}

func (n *node) must(err error) {
	n.Helper()
	if err != nil {
		n.Fatal(err)
	}
}

func (n *node) fails(says string, err error) {
	n.Helper()
	if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") {
		n.Errorf("want one line with %q, got %v", says, err)
	}
}

func TestSwapAndRestore(t *testing.T) {
	n := canalNode(t)
	before := n.content()
	snap, err := n.Save("m1", noon)
	n.must(err)
	active := Active(snap.Files)
	if active == nil || active.Name != "10-canal.conflist" || active.IPAM != "host-local" || active.Network != "k8s-pod-network" ||
		!slices.Equal(active.Plugins, []string{"calico", "portmap", "bandwidth"}) {
		t.Errorf("active: %+v", active)
	}
	n.put("10-calico.conflist", calico, 0o644) // as install-cni does
	n.put("calico-kubeconfig", "token: other", 0o600)
	files, err := n.Read()
	n.must(err)
	if got := Active(files); got.Name != "10-calico.conflist" || got.IPAM != "calico-ipam" {
		t.Errorf("after the swap, active is %+v", got)
	}
	n.must(n.Retire("m1", "10-canal.conflist"))
	n.must(n.Retire("m1", "10-canal.conflist"))
	if _, there := n.content()["10-canal.conflist"]; there {
		t.Error("Canal's configuration is still in sight")
	}
	again, err := n.Save("m1", noon.Add(time.Hour))
	n.must(err)
	if !again.TakenAt.Equal(noon) || len(again.Files) != 2 {
		t.Errorf("a second save replaced the first: %+v", again)
	}
	for range 2 {
		_, err = n.Restore("m1")
		n.must(err)
		got := n.content()
		if !strings.Contains(got["calico-kubeconfig"], "token: other") {
			t.Errorf("a renewed credential was put back to %q", got["calico-kubeconfig"])
		}
		got["calico-kubeconfig"] = before["calico-kubeconfig"]
		if !maps.Equal(got, before) {
			t.Fatalf("restored %v, want %v", got, before)
		}
	}
	n.must(n.Forget("m1"))
	n.must(n.Forget("m1"))
	if entries, err := os.ReadDir(n.conf); err != nil || len(entries) != 2 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestRefusals(t *testing.T) {
	n := canalNode(t)
	n.fails("was not saved", n.Retire("m1", "10-canal.conflist"))
	_, err := n.Restore("m1")
	n.fails("no CNI configuration was saved", err)
	for _, name := range []string{"", "..", "a/b", "../x", strings.Repeat("a", 64), "A"} {
		_, err := n.Save(name, noon)
		n.fails("cannot name a migration", err)
	}
	_, err = n.Save("m1", noon)
	n.must(err)
	n.put("10-canal.conflist", canal+" ", 0o644)
	n.fails("was changed after it was saved", n.Retire("m1", "10-canal.conflist"))
	n.must(os.WriteFile(filepath.Join(n.keep, "m1", "files-10-canal.conflist"), []byte("{}"), 0o600))
	_, err = n.Restore("m1")
	n.fails("damaged", err)
	if got := n.content()["10-canal.conflist"]; !strings.HasSuffix(got, canal+" ") {
		t.Errorf("a damaged copy was put back: %s", got)
	}
	n.put("huge.conf", strings.Repeat("x", maxFile+1), 0o644)
	_, err = n.Read()
	n.fails("larger than 1 MiB", err)
	_, err = OpenStore(filepath.Join(n.conf, "missing"), n.keep)
	n.fails("cannot open the folder", err)
}

// A link in the folder must not make the agent read or write outside it.
func TestLinksDoNotLeadOut(t *testing.T) {
	n := canalNode(t)
	secret := filepath.Join(t.TempDir(), "shadow")
	n.must(os.WriteFile(secret, []byte("root:x"), 0o600))
	n.must(os.Symlink(secret, filepath.Join(n.conf, "05-link.conf")))
	snap, err := n.Save("m1", noon)
	n.must(err)
	if slices.ContainsFunc(snap.Files, func(f File) bool { return f.Name == "05-link.conf" }) {
		t.Error("the link was followed")
	}
	_, err = n.Restore("m1")
	n.must(err)
	if data, err := os.ReadFile(secret); err != nil || string(data) != "root:x" {
		t.Errorf("outside: %q, %v", data, err)
	}
}

// The saved copy has credentials in it, so only root may read it, and nothing
// that is reported has them.
func TestSavedCopyIsPrivate(t *testing.T) {
	n := canalNode(t)
	snap, err := n.Save("m1", noon)
	n.must(err)
	if strings.Contains(fmt.Sprintf("%+v", snap), "secret") {
		t.Errorf("the report has a credential: %+v", snap)
	}
	err = filepath.WalkDir(n.keep, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err == nil && st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s", p, st.Mode())
		}
		return err
	})
	n.must(err)
}

// Whatever happened to the folder after it was saved, and however often the agent was
// started anew, Restore makes it what it was.
func TestRestoreIsAlwaysWhole(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		n := canalNode(t)
		before := n.content()
		_, err := n.Save("m1", noon)
		n.must(err)
		names := []string{"10-canal.conflist", "10-calico.conflist", "calico-kubeconfig", "00-multus.conf", "10-canal.conflist" + partial}
		renewed := false
		for range r.IntN(8) {
			name := names[r.IntN(len(names))]
			renewed = renewed || name == "calico-kubeconfig"
			switch r.IntN(4) {
			case 0:
				n.put(name, calico[:r.IntN(len(calico))], 0o600)
			case 1:
				n.must(ignoreMissing(os.Remove(filepath.Join(n.conf, name))))
			case 2:
				_ = n.Retire("m1", name)
			case 3:
				n.open()
			}
		}
		_, err = n.Restore("m1")
		n.must(err)
		got := n.content()
		maps.DeleteFunc(got, func(name, _ string) bool { return strings.HasSuffix(name, partial) })
		if _, there := got["calico-kubeconfig"]; there && renewed {
			got["calico-kubeconfig"] = before["calico-kubeconfig"]
		}
		if !maps.Equal(got, before) {
			t.Fatalf("seed %d: restored %v, want %v", seed, got, before)
		}
	}
}

// A copy that was cut off has no index, and is made anew.
func TestInterruptedSaveIsNoCopy(t *testing.T) {
	n := canalNode(t)
	n.must(os.MkdirAll(filepath.Join(n.keep, "m1"), 0o700))
	n.must(os.WriteFile(filepath.Join(n.keep, "m1", "files-10-canal.conflist"), []byte(canal[:10]), 0o600))
	if saved, err := n.Saved("m1"); err != nil || saved != nil {
		t.Fatalf("half a copy counts: %+v, %v", saved, err)
	}
	_, err := n.Save("m1", noon)
	n.must(err)
	n.must(os.Remove(filepath.Join(n.conf, "10-canal.conflist")))
	_, err = n.Restore("m1")
	n.must(err)
	if got := n.content()["10-canal.conflist"]; !strings.HasSuffix(got, canal) {
		t.Errorf("restored %q", got)
	}
}

func FuzzDescribe(f *testing.F) {
	f.Add([]byte(canal))
	f.Add([]byte(`{"name":"x","type":"bridge","ipam":{"type":"host-local"}}`))
	f.Fuzz(func(_ *testing.T, data []byte) { describe(data) })
}
