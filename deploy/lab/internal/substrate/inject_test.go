package substrate

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"portcullis.dev/portcullis/deploy/lab/internal/fault"
	"portcullis.dev/portcullis/deploy/lab/internal/state"
	"portcullis.dev/portcullis/deploy/lab/internal/topology"
)

func testFault(t *testing.T, kind, target string, args ...string) fault.Fault {
	t.Helper()
	params, err := fault.ParseParams(args)
	if err != nil {
		t.Fatal(err)
	}
	f, err := fault.New(kind, target, params)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestInjectRefuses(t *testing.T) {
	l := testLab(t)
	for want, f := range map[string]fault.Fault{
		`no node "nowhere"`:         testFault(t, fault.Power, "nowhere"),
		`no cluster "prod-1"`:       testFault(t, fault.Budget, "prod-1"),
		`no node "elsewhere"`:       testFault(t, fault.Block, "prod-1", "peer=elsewhere"),
		"is no peer of itself":      testFault(t, fault.Block, "prod-1", "peer=prod-1"),
		"node prod-1 is off":        testFault(t, fault.MTU, "prod-1"),
		"node prod-2 is off":        testFault(t, fault.Calico, "prod-2"),
		`no kind of fault "plague"`: {Kind: "plague", Target: "prod-1"},
	} {
		if err := l.Inject(context.Background(), f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", f.ID(), err, want)
		}
		if len(l.Faults()) != 0 {
			t.Fatalf("%s was refused and is in the record", f.ID())
		}
	}
}

// A node that is off has lost its faults but for the record of them.
func TestClearOnNodeThatIsOff(t *testing.T) {
	l := testLab(t)
	faults := []fault.Fault{
		testFault(t, fault.MTU, "prod-1"), testFault(t, fault.Module, "prod-1"), testFault(t, fault.Port, "prod-1"),
		testFault(t, fault.CNIReadOnly, "prod-1"), testFault(t, fault.CNIReadOnly, "prod-1", "dir=bin"), testFault(t, fault.Calico, "prod-1"),
	}
	for _, f := range faults {
		if err := l.note(f, true); err != nil {
			t.Fatal(err)
		}
	}
	if found, err := l.ClearMatching(context.Background(), "cni-readonly/prod-1"); err != nil || len(found) != 2 {
		t.Fatalf("cleared %v, %v", found, err)
	}
	if found, err := l.ClearMatching(context.Background(), ""); err == nil || !strings.Contains(err.Error(), "turn it on first") || len(found) != 4 {
		t.Fatalf("cleared %v, %v", found, err)
	}
	// Images are on the disk, so that one is still there.
	if left := l.Faults(); len(left) != 1 || left[0].Kind != fault.Calico {
		t.Errorf("left: %v", left)
	}
	if found, err := l.ClearMatching(context.Background(), "mtu"); err != nil || len(found) != 0 {
		t.Errorf("what is not in force: %v, %v", found, err)
	}
	d, err := state.Read(l.StateDir)
	if err != nil || len(d.Faults) != 1 {
		t.Errorf("on disk: %v, %v", d.Faults, err)
	}
}

func TestPowerIsClearedFirst(t *testing.T) {
	if last(testFault(t, fault.Power, "a")) >= last(testFault(t, fault.Calico, "a")) {
		t.Error("a node must be on for its images to be mended")
	}
}

func TestKeptImage(t *testing.T) {
	seen := map[string]bool{}
	for _, ref := range calicoImages {
		k := keptImage(ref)
		if seen[k] || k == ref || strings.Contains(k, "docker.io") {
			t.Errorf("%s is kept as %s", ref, k)
		}
		seen[k] = true
	}
}

func TestHide(t *testing.T) {
	h := hide([]fault.Fault{
		testFault(t, fault.Module, "a", "name=vxlan"), testFault(t, fault.Module, "a", "name=xt_set"),
		testFault(t, fault.Module, "a", "name=ip-set"), testFault(t, fault.Module, "a", "name=odd", "config=ODD_ONE"),
	})
	for name, option := range map[string]string{"vxlan": "VXLAN", "xt_set": "NETFILTER_XT_SET", "ip_set": "IP_SET", "odd": "ODD_ONE"} {
		if h[name] != option {
			t.Errorf("%s: option %q, want %q", name, h[name], option)
		}
	}
}

func TestModuleFiles(t *testing.T) {
	h := hidden{"vxlan": "VXLAN", "ip_set": "IP_SET"}
	lib := "/lib/modules/6.1.0-1-amd64/"
	for name, c := range map[string]struct{ in, want string }{
		"/proc/modules": {
			"vxlan 155648 0 - Live 0x0\nip_set 61440 1 xt_set, Live 0x0\nxt_set 16384 0 - Live 0x0\n",
			"xt_set 16384 0 - Live 0x0\n",
		},
		lib + "modules.dep": {
			"kernel/drivers/net/vxlan/vxlan.ko: kernel/net/ipv4/udp_tunnel.ko\nkernel/net/ipv4/udp_tunnel.ko:\nkernel/net/netfilter/ipset/ip_set.ko.xz:\n",
			"kernel/net/ipv4/udp_tunnel.ko:\n",
		},
		lib + "modules.builtin": {"kernel/drivers/net/vxlan/vxlan.ko\nkernel/drivers/net/veth.ko\n", "kernel/drivers/net/veth.ko\n"},
		lib + "modules.alias":   {"alias rtnl-link-vxlan vxlan\nalias rtnl-link-veth veth\n", "alias rtnl-link-veth veth\n"},
		lib + "modules.dep.bin": {"\x00\x01", ""},
		"/boot/config-6.1.0-1-amd64": {
			"CONFIG_VXLAN=m\nCONFIG_IP_SET=y\nCONFIG_IP_SET_MAX=256\n# CONFIG_X is not set\n",
			"# CONFIG_VXLAN is not set\n# CONFIG_IP_SET is not set\nCONFIG_IP_SET_MAX=256\n# CONFIG_X is not set\n",
		},
	} {
		without := moduleFiles("6.1.0-1-amd64")[name]
		if without == nil {
			t.Errorf("nothing is done to %s", name)
			continue
		}
		got, err := without([]byte(c.in), h)
		if err != nil || string(got) != c.want {
			t.Errorf("%s: got %q, %v; want %q", name, got, err, c.want)
		}
	}
}

func TestWithoutOptionsGzip(t *testing.T) {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := io.WriteString(w, "CONFIG_VXLAN=y\nCONFIG_VETH=y\n"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	out, err := withoutOptionsGzip(packed.Bytes(), hidden{"vxlan": "VXLAN"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := gzip.NewReader(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil || string(plain) != "# CONFIG_VXLAN is not set\nCONFIG_VETH=y\n" {
		t.Errorf("got %q, %v", plain, err)
	}
	if _, err := withoutOptionsGzip([]byte("plain"), nil); err == nil {
		t.Error("what is no gzip is taken")
	}
}

func TestParseMounts(t *testing.T) {
	got, err := parseMounts(strings.NewReader(
		"31 23 254:0 /state/nodes/a-1/etc-cni /etc/cni rw,relatime shared:4 - ext4 /dev/vda rw\n" +
			"32 23 254:0 /with\\040space /mnt/a\\134b rw - ext4 /dev/vda rw\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []mountPoint{{"254:0", "/state/nodes/a-1/etc-cni", "/etc/cni"}, {"254:0", "/with space", `/mnt/a\b`}}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got %v, want %v", got, want)
	}
	if _, err := parseMounts(strings.NewReader("31 23 254:0\n")); err == nil {
		t.Error("a broken line is taken")
	}
}

// The folders that can be made read-only are ones that a node has for itself.
func TestCNIDirsAreTheNodes(t *testing.T) {
	mine := map[string]bool{}
	for _, target := range own {
		mine[target] = true
	}
	for name, dir := range cniDirs {
		if !mine[dir] || filepath.Clean(dir) != dir {
			t.Errorf("%s: %s is no mount of a node", name, dir)
		}
	}
}

func TestNetworkManifestOfBridge(t *testing.T) {
	c, _ := topology.Default().Plan().Cluster("mgmt")
	if b, err := networkManifest(c, t.TempDir()); err != nil || b != nil {
		t.Errorf("%q, %v", b, err)
	}
	c, _ = topology.Default().Plan().Cluster("prod")
	if _, err := networkManifest(c, t.TempDir()); err == nil {
		t.Error("a manifest that is missing is taken")
	}
}
