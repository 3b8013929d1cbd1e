package cni

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/disk"
)

// hostLocal is the store of the real plugin.
func (n *testNode) hostLocal() *disk.Store {
	n.Helper()
	s, err := disk.New("k8s-pod-network", n.Networks)
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() { _ = s.Close() })
	return s
}

func folders(t *testing.T) *testNode {
	dir := t.TempDir()
	n := &testNode{T: t, Host: Host{Conf: filepath.Join(dir, "conf"), Networks: filepath.Join(dir, "networks"), Keep: filepath.Join(dir, "keep"), Run: dir, Root: "/"}}
	for _, d := range []string{n.Conf, n.Networks} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	n.file(n.Conf, "10-canal.conflist", canal)
	return n
}

func id(i int) string { return fmt.Sprintf("%064x", i) }

func restoring(addresses ...int) Request {
	req := request(OpRestore)
	req.Peers = nil
	for _, i := range addresses {
		req.Addresses = append(req.Addresses, Address{IP: netip.AddrFrom4([4]byte{10, 42, 0, byte(i)}), Container: id(i), Interface: "eth0"})
	}
	return req
}

// The real host-local finds what was restored as if it had given it itself.
func TestHostLocalTakesOverWhatIsRestored(t *testing.T) {
	n := folders(t)
	n.does(Request{Version: Version, Op: OpSave, Migration: "m1"})
	n.calicosNow()
	reply := n.does(restoring(4, 5, 6))
	if got := strings.Join(reply.Changes, "; "); got != "wrote 3 addresses for host-local; retired 10-calico.conflist" {
		t.Errorf("changes %q", got)
	}
	s := n.hostLocal()
	for _, i := range []int{4, 5, 6} {
		if got := s.GetByID(id(i), "eth0"); len(got) != 1 || got[0].String() != fmt.Sprintf("10.42.0.%d", i) {
			t.Errorf("container %d has %v", i, got)
		}
		if given, err := s.Reserve(id(9), "eth0", net.IPv4(10, 42, 0, byte(i)), "0"); given || err != nil {
			t.Errorf("10.42.0.%d is given twice (%v)", i, err)
		}
		st, err := os.Stat(filepath.Join(n.Networks, "k8s-pod-network", fmt.Sprintf("10.42.0.%d", i)))
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("the entry has mode %v (%v)", st.Mode(), err)
		}
	}
	if given, err := s.Reserve(id(9), "eth0", net.IPv4(10, 42, 0, 7), "0"); !given || err != nil {
		t.Errorf("a free address is not given: %v", err)
	}
	if err := s.ReleaseByID(id(5), "eth0"); err != nil || len(s.GetByID(id(5), "eth0")) > 0 {
		t.Errorf("an address is not released: %v", err)
	}
}

// What host-local wrote itself is left as it is, also in its old form, and an entry
// that it never finished is filled.
func TestEntriesOfTheSameContainerStay(t *testing.T) {
	n := folders(t)
	n.does(Request{Version: Version, Op: OpSave, Migration: "m1"})
	s := n.hostLocal()
	if given, err := s.Reserve(id(4), "eth0", net.IPv4(10, 42, 0, 4), "0"); !given || err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(n.Networks, "k8s-pod-network")
	n.file(folder, "10.42.0.5", id(5))
	n.file(folder, "10.42.0.6", "")
	if got := n.does(restoring(4, 5, 6)).Changes; len(got) != 1 || got[0] != "wrote 1 addresses for host-local" {
		t.Errorf("changes %q", got)
	}
	for i, want := range map[int]string{4: id(4) + "\r\neth0", 5: id(5), 6: id(6) + "\r\neth0"} {
		if got, err := os.ReadFile(filepath.Join(folder, fmt.Sprintf("10.42.0.%d", i))); err != nil || string(got) != want {
			t.Errorf("10.42.0.%d: %q (%v), want %q", i, got, err, want)
		}
	}
}

// An entry of another container stops everything: not even the configuration is put back.
func TestEntryOfAnotherContainerIsAnError(t *testing.T) {
	n := folders(t)
	n.does(Request{Version: Version, Op: OpSave, Migration: "m1"})
	n.calicosNow()
	if given, err := n.hostLocal().Reserve(id(99), "eth0", net.IPv4(10, 42, 0, 6), "0"); !given || err != nil {
		t.Fatal(err)
	}
	reply := n.refuses(restoring(4, 5, 6), "host-local has given 10.42.0.6 to container \""+id(99)+"\", not to "+id(6))
	if len(reply.Changes) > 0 || len(reply.State.Files) != 2 {
		t.Errorf("something was changed: %q %+v", reply.Changes, reply.State.Files)
	}
	if entries, err := os.ReadDir(filepath.Join(n.Networks, "k8s-pod-network")); err != nil || len(entries) != 3 {
		t.Errorf("entries: %v (%v)", entries, err)
	}
}

// While a pod gets an address from host-local, nothing is written.
func TestRestoreAwaitsHostLocalsLock(t *testing.T) {
	n := folders(t)
	n.does(Request{Version: Version, Op: OpSave, Migration: "m1"})
	s := n.hostLocal()
	if err := s.Lock(); err != nil {
		t.Fatal(err)
	}
	req := restoring(4)
	req.TimeoutMS = 120
	n.refuses(req, "cannot take host-local's lock of k8s-pod-network")
	time.AfterFunc(100*time.Millisecond, func() { _ = s.Unlock() })
	n.does(restoring(4))
}

// Killed at any moment, the same request makes it whole, and host-local never sees
// half an entry.
func TestInterruptedRestoreIsRepeated(t *testing.T) {
	n := folders(t)
	n.does(Request{Version: Version, Op: OpSave, Migration: "m1"})
	n.calicosNow()
	req := restoring(4, 5, 6, 7)
	o := &operation{Request: &req, host: n.Host}
	if err := o.open(); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(n.Networks)
	if err != nil {
		t.Fatal(err)
	}
	n.hostLocal()
	for i := range req.Addresses {
		// Some entries are there, and one was being written.
		if err := o.reserve(root, req.Addresses[i]); err != nil {
			t.Fatal(err)
		}
		n.file(n.Networks, partialEntry, id(i)[:20])
		if got := n.hostLocal().GetByID(id(i+4), "eth0"); len(got) != 1 {
			t.Errorf("entry %d: %v", i, got)
		}
		part := req
		part.Addresses = req.Addresses[:i+1]
		n.does(part)
	}
	if err := o.store.Close(); err != nil {
		t.Error(err)
	}
	n.does(req)
	if _, err := os.Lstat(filepath.Join(n.Networks, partialEntry)); err == nil {
		t.Error("what was being written is still there")
	}
}

// A link in host-local's folder leads nowhere.
func TestRestoreStaysInItsFolder(t *testing.T) {
	n := folders(t)
	n.does(Request{Version: Version, Op: OpSave, Migration: "m1"})
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(n.Networks, "k8s-pod-network")); err != nil {
		t.Fatal(err)
	}
	n.refuses(restoring(4), "host-local's folder of k8s-pod-network")
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("outside: %v (%v)", entries, err)
	}
}
