package topology

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestDefault(t *testing.T) {
	p := Default().Plan()
	var got []string
	for _, n := range p.Nodes() {
		got = append(got, n.Name+"="+n.Address)
	}
	want := "mgmt-1=10.99.0.21 dev-1=10.99.0.31 staging-1=10.99.0.41 prod-1=10.99.0.51 prod-2=10.99.0.52"
	if strings.Join(got, " ") != want {
		t.Errorf("nodes %v, want %s", got, want)
	}
	if c, ok := p.Cluster("mgmt"); !ok || c.APIServer() != "https://10.99.0.20:6443" {
		t.Errorf("management cluster %+v", c)
	}
}

func TestCanal(t *testing.T) {
	for name, nodes := range map[string]int{"canal": 3, "canal-single": 1} {
		top, err := Load(name)
		if err != nil {
			t.Fatal(err)
		}
		p := top.Plan()
		c, ok := p.Cluster("canal")
		if !ok || c.CNI != Canal || len(c.NodeList) != nodes || p.NoFleet || c.Labels["env"] != "canal" {
			t.Errorf("%s: got %+v", name, p)
		}
	}
}

// Every topology that comes with the program can be started by its name, and
// none was renamed away from the documentation.
func TestNames(t *testing.T) {
	if got := strings.Join(Names(), " "); got != "canal-single canal default" {
		t.Errorf("names %q", got)
	}
	for _, n := range Names() {
		if _, err := Load(n); err != nil {
			t.Error(err)
		}
	}
}

func TestLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mine.yaml")
	if err := os.WriteFile(file, []byte("fleet: false\nclusters: [{name: mgmt, id: local, cni: canal, nodes: 2}]"), 0o644); err != nil {
		t.Fatal(err)
	}
	top, err := Load(file)
	if err != nil || len(top.Plan().Nodes()) != 2 || !top.Plan().NoFleet {
		t.Errorf("%+v, %v", top, err)
	}
	if top, err = Load(""); err != nil || top.Plan().NoFleet {
		t.Errorf("the default: %+v, %v", top, err)
	}
	if file, err = WithoutFleet("canal", t.TempDir()); err != nil {
		t.Fatal(err)
	}
	with, _ := Load("canal")
	top, err = Load(file)
	if with.Fleet = top.Fleet; err != nil || !top.Plan().NoFleet || !reflect.DeepEqual(top, with) {
		t.Errorf("canal without Fleet: %+v, %v", top, err)
	}
	if _, err := Load("nowhere"); err == nil || !strings.Contains(err.Error(), "canal-single, canal, default") {
		t.Errorf("got %v, want the names there are", err)
	}
}

func TestParseRefuses(t *testing.T) {
	ok := "{name: mgmt, id: local}"
	for want, in := range map[string]string{
		"unknown field":          "clusters: [{name: mgmt, id: local, cpu: 2}]",
		"want 1 to 20":           "clusters: []",
		"clusters[0].name":       "clusters: [{name: Mgmt, id: local}]",
		"clusters[0].id":         "clusters: [{name: mgmt, id: 'a b'}]",
		"clusters[1].name":       "clusters: [" + ok + ", {name: mgmt, id: c-1}]",
		"clusters[1].id":         "clusters: [" + ok + ", {name: dev, id: local}]",
		"bridge calico canal":    "clusters: [{name: mgmt, id: local, cni: cilium}]",
		"clusters[0].nodes":      "clusters: [{name: mgmt, id: local, nodes: 10}]",
		"the management cluster": "clusters: [{name: dev, id: c-1}]",
	} {
		_, err := Parse([]byte(in))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", in, err, want)
		}
	}
}

// Every address is in the lab's network and used once, and no pod range meets
// another or the services', for the largest topology that is allowed.
func TestPlanHasNoOverlap(t *testing.T) {
	var top Topology
	for i := range maxClusters {
		top.Clusters = append(top.Clusters, Cluster{Name: fmt.Sprintf("c%d", i), ID: fmt.Sprintf("c-%d", i), Nodes: maxNodes, CNI: Calico})
	}
	top.Clusters[0].ID = ManagementID
	if err := top.validate(); err != nil {
		t.Fatal(err)
	}
	lab := netip.MustParsePrefix(fmt.Sprintf("%s/%d", Gateway, PrefixLen)).Masked()
	seen := map[netip.Addr]bool{netip.MustParseAddr(Gateway): true}
	pods := []netip.Prefix{netip.MustParsePrefix(ServiceCIDR), lab}
	use := func(s string) {
		a := netip.MustParseAddr(s)
		if seen[a] || !lab.Contains(a) || a.As4()[3] == 255 {
			t.Errorf("address %s is used twice or outside %s", a, lab)
		}
		seen[a] = true
	}
	for _, c := range top.Plan().Clusters {
		use(c.APIAddress)
		net := netip.MustParsePrefix(c.PodCIDR)
		for _, o := range pods {
			if net.Overlaps(o) {
				t.Errorf("%s overlaps %s", net, o)
			}
		}
		pods = append(pods, net)
		for _, n := range c.NodeList {
			use(n.Address)
			if !net.Contains(netip.MustParsePrefix(n.PodCIDR).Addr()) {
				t.Errorf("%s: %s is outside %s", n.Name, n.PodCIDR, net)
			}
		}
	}
}
