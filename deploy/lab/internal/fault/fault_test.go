package fault

import (
	"strings"
	"testing"
)

func TestNew(t *testing.T) {
	for _, c := range []struct {
		kind, target string
		args         []string
		// id of the fault, or a part of the error.
		id, err string
	}{
		{kind: "block", target: "canal-2", id: "block/canal-2/tcp"},
		{kind: "block", target: "canal-2", args: []string{"proto=udp", "port=8472"}, id: "block/canal-2/udp/8472"},
		{kind: "block", target: "canal-2", args: []string{"proto=4", "peer=canal-1"}, id: "block/canal-2/4/canal-1"},
		{kind: "block", target: "canal-2", args: []string{"proto=icmp", "port=1"}, err: "has no ports"},
		{kind: "block", target: "canal-2", args: []string{"proto=sctp"}, err: "proto"},
		{kind: "block", target: "canal-2", args: []string{"proto=256"}, err: "proto"},
		{kind: "block", target: "canal-2", args: []string{"port=0"}, err: "1 to 65535"},
		{kind: "block", target: "canal-2", args: []string{"port=080"}, err: "1 to 65535"},
		{kind: "block", target: "canal-2", args: []string{"peer=a;drop"}, err: "want letters"},
		{kind: "mtu", target: "canal-1", id: "mtu/canal-1"},
		{kind: "mtu", target: "canal-1", args: []string{"value=9000"}, err: "576 to 1499"},
		{kind: "module", target: "canal-1", args: []string{"name=ip_set"}, id: "module/canal-1/ip_set"},
		{kind: "module", target: "canal-1", args: []string{"name="}, err: "want letters"},
		{kind: "port", target: "canal-1", id: "port/canal-1/udp/4789"},
		{kind: "budget", target: "canal", id: "budget/canal/checkout/checkout-api"},
		{kind: "power", target: "canal-1", id: "power/canal-1"},
		{kind: "power", target: "", err: "say which node"},
		{kind: "cni-readonly", target: "canal-1", args: []string{"dir=bin"}, id: "cni-readonly/canal-1/bin"},
		{kind: "calico", target: "canal-1", args: []string{"how=hang"}, id: "calico/canal-1/node"},
		{kind: "calico", target: "canal-1", args: []string{"how=crash", "image=cni"}, err: "only the image node"},
		{kind: "calico", target: "canal-1", args: []string{"size=1"}, err: `no "size"`},
		{kind: "fire", target: "canal-1", err: "power"},
	} {
		params, err := ParseParams(c.args)
		if err != nil {
			t.Fatal(err)
		}
		f, err := New(c.kind, c.target, params)
		switch {
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s %s %v: got %v, want %q", c.kind, c.target, c.args, err, c.err)
		case c.err == "" && err != nil:
			t.Errorf("%s %s %v: %v", c.kind, c.target, c.args, err)
		case c.err == "" && f.ID() != c.id:
			t.Errorf("%s %s %v: ID %s, want %s", c.kind, c.target, c.args, f.ID(), c.id)
		}
	}
}

// What a kind says of itself is enough to inject it, and its defaults are valid.
func TestEveryKindHasDefaults(t *testing.T) {
	for _, k := range Kinds {
		if _, err := New(k.Name, "x", nil); err != nil {
			t.Error(err)
		}
		if k.What == "" || (k.On != OnNode && k.On != OnCluster) {
			t.Errorf("%s: %q on %q", k.Name, k.What, k.On)
		}
	}
}

func TestParseParams(t *testing.T) {
	for _, args := range [][]string{{"x"}, {"=x"}, {"a=1", "a=2"}} {
		if _, err := ParseParams(args); err == nil {
			t.Errorf("%v is accepted", args)
		}
	}
	if p, err := ParseParams([]string{"a=b=c"}); err != nil || p["a"] != "b=c" {
		t.Errorf("%v, %v", p, err)
	}
}

func TestList(t *testing.T) {
	must := func(kind, target string, params map[string]string) Fault {
		t.Helper()
		f, err := New(kind, target, params)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	var list []Fault
	list = With(list, must(MTU, "a-1", nil))
	list = With(list, must(Block, "a-1", map[string]string{"proto": "udp"}))
	list = With(list, must(MTU, "a-1", map[string]string{"value": "1300"}))
	if len(list) != 2 || list[1].String() != "mtu/a-1 value=1300 where=node" {
		t.Errorf("injected twice: %v", list)
	}
	list = With(list, must(MTU, "a-10", nil))
	for id, want := range map[string]int{"mtu": 2, "mtu/a-1": 1, "block/a-1/udp": 1, "block/a-1": 1, "blo": 0, "module": 0} {
		if got := Matching(list, id); len(got) != want {
			t.Errorf("%s matches %v, want %d", id, got, want)
		}
	}
	if got := Of(list, "", "a-1"); len(got) != 2 {
		t.Errorf("on a-1: %v", got)
	}
	if got := Of(list, MTU, ""); len(got) != 2 {
		t.Errorf("of kind mtu: %v", got)
	}
	if got := Without(list, "mtu/a-1"); len(got) != 2 || len(list) != 3 {
		t.Errorf("without: %v of %v", got, list)
	}
}
