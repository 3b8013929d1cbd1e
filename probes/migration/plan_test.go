package migration

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"portcullis.dev/portcullis/probes/preflight"
)

// cluster is a Canal cluster of two workers and a control plane.
type cluster struct {
	facts  preflight.ClusterFacts
	nodes  []preflight.NodeFacts
	report preflight.Report
	opts   Options
}

func canal() *cluster {
	c := &cluster{}
	c.facts.Name, c.facts.Kubernetes = "prod", preflight.Known("v1.30.4")
	c.facts.DaemonSets = preflight.Known([]preflight.CNISet{{Namespace: "kube-system", Name: "canal", Flavour: preflight.FlavourCanal, Calico: "v3.28.5"}})
	var nodes []preflight.Node
	for i, name := range []string{"cp", "a", "b"} {
		nodes = append(nodes, preflight.Node{Name: name, ControlPlane: name == "cp", PodCIDRs: []string{fmt.Sprintf("10.42.%d.0/24", i)}})
		c.nodes = append(c.nodes, preflight.NodeFacts{Node: name, CNI: preflight.Known(preflight.CNIDir{
			Configs: []preflight.CNIConfig{{File: "10-canal.conflist", Name: "k8s-pod-network", Plugins: []string{"calico", "portmap"}, IPAM: "host-local"}},
		})})
	}
	c.facts.Nodes = preflight.Known(nodes)
	c.facts.Pods = preflight.Known([]preflight.Pod{
		{Namespace: "shop", Name: "web-1", Node: "a", Controller: "ReplicaSet", Owner: "deployment/web", Replicas: 2},
		{Namespace: "shop", Name: "db-0", Node: "a", Controller: "StatefulSet", Owner: "statefulset/db", Replicas: 1},
		{Namespace: "shop", Name: "cache", Node: "a", Controller: "ReplicaSet", Owner: "deployment/cache", Replicas: 3, LocalData: true},
		{Namespace: "shop", Name: "bare", Node: "b"},
		{Namespace: "shop", Name: "logs", Node: "b", Controller: "DaemonSet"},
		{Namespace: "kube-system", Name: "canal-x", Node: "b", Controller: "DaemonSet", HostNetwork: true},
	})
	c.facts.Flannel = preflight.Known(preflight.FlannelConfig{Present: true, Backend: "vxlan", VNI: 1, Port: 8472, Network: "10.42.0.0/16"})
	c.report.Target = preflight.Target{
		Version: "v3.28.5", Encapsulation: preflight.VXLAN, VNI: 4096, Port: 4789, PodCIDR: "10.42.0.0/16", BlockSize: 26, MTU: 1450,
	}
	return c
}

func (c *cluster) plan() Plan { return Make(&c.facts, c.nodes, &c.report, c.opts) }

func (c *cluster) found(id string, status preflight.Status, nodes ...string) {
	c.report.Results = append(c.report.Results, preflight.Result{
		ID: id, Severity: preflight.Required, Status: status, Nodes: nodes, Measured: "it is so", Remedy: "mend it",
	})
}

func names(p Plan) (out []string) {
	for _, n := range p.Nodes {
		out = append(out, n.Name)
	}
	return out
}

func ids(acks []Acknowledgement) (out []string) {
	for _, a := range acks {
		out = append(out, a.ID)
	}
	return out
}

func TestPlan(t *testing.T) {
	for name, test := range map[string]struct {
		change func(c *cluster)
		order  []string
		modes  []Mode
		acks   []string
		refuse string
	}{
		"in place, the emptiest worker first, the control plane last": {
			order: []string{"b", "a", "cp"}, modes: []Mode{InPlace, InPlace, InPlace},
		},
		"a node is named to begin with": {
			change: func(c *cluster) { c.opts.First = []string{"a"} },
			order:  []string{"a", "b", "cp"}, modes: []Mode{InPlace, InPlace, InPlace},
		},
		"an unknown node is named": {
			change: func(c *cluster) { c.opts.First = []string{"x"} },
			order:  []string{"b", "a", "cp"}, refuse: "there is no node x",
		},
		"drain is asked for": {
			change: func(c *cluster) { c.opts.Mode = Drain },
			order:  []string{"b", "a", "cp"}, modes: []Mode{Drain, Drain, Drain},
		},
		"in place is insisted on where it is not known": {
			change: func(c *cluster) { c.opts.Mode = InPlace; c.nodes = c.nodes[:1] },
			order:  []string{"b", "a", "cp"}, refuse: "node a cannot be taken over in place: its CNI configuration could not be read; leave the mode open, or drain it",
		},
		"a CNI configuration that could not be read": {
			change: func(c *cluster) { c.nodes[2].CNI = preflight.Unknown[preflight.CNIDir]("no answer") },
			order:  []string{"b", "a", "cp"}, modes: []Mode{Drain, InPlace, InPlace},
		},
		"a node that was not measured": {
			change: func(c *cluster) { c.nodes = c.nodes[:2] },
			order:  []string{"b", "a", "cp"}, modes: []Mode{Drain, InPlace, InPlace},
		},
		"RKE2": {
			change: func(c *cluster) { c.facts.Kubernetes.Value = "v1.30.4+rke2r1" },
			order:  []string{"b", "a", "cp"}, acks: []string{AckVendor},
		},
		"K3s, one node, not all known": {
			change: func(c *cluster) {
				c.facts.Kubernetes.Value = "v1.30.4+k3s1"
				c.facts.Nodes.Value = c.facts.Nodes.Value[:1]
				c.found("path-mtu", preflight.Unsure)
			},
			order: []string{"cp"}, acks: []string{AckVendor, AckOneNode, AckUnknown},
		},
		"a required check failed": {
			change: func(c *cluster) { c.found("reach-udp-4789", preflight.Fail, "a", "b", "c", "d") },
			order:  []string{"b", "a", "cp"}, refuse: "reach-udp-4789 on a, b, c and 1 more: it is so; mend it",
		},
		"an advised check failed": {
			change: func(c *cluster) {
				c.found("cpu-room", preflight.Warn)
			},
			order: []string{"b", "a", "cp"},
		},
		"no Canal": {
			change: func(c *cluster) { c.facts.DaemonSets.Value[0].Flavour = preflight.FlavourOther },
			order:  []string{"b", "a", "cp"}, refuse: "no Canal",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := canal()
			if test.change != nil {
				test.change(c)
			}
			p := c.plan()
			if !slices.Equal(names(p), test.order) {
				t.Errorf("order %v, want %v", names(p), test.order)
			}
			for i, want := range test.modes {
				if p.Nodes[i].Mode != want || (p.Nodes[i].Mode == Drain) != (p.Nodes[i].Why != "") {
					t.Errorf("node %s: %s (%s), want %s", p.Nodes[i].Name, p.Nodes[i].Mode, p.Nodes[i].Why, want)
				}
			}
			if !slices.Equal(ids(p.Acknowledge), test.acks) {
				t.Errorf("acknowledge %v, want %v", ids(p.Acknowledge), test.acks)
			}
			if refused := strings.Join(p.Refused, "\n"); (refused == "") != (test.refuse == "") || !strings.Contains(refused, test.refuse) {
				t.Errorf("refused %q, want %q", refused, test.refuse)
			}
		})
	}
}

func TestDrainSaysWhatItDisturbs(t *testing.T) {
	c := canal()
	c.opts.Mode = Drain
	p := c.plan()
	var got []string
	for _, d := range p.Disturbed {
		got = append(got, d.Node+" "+d.Workload+" "+d.How[:10])
	}
	want := []string{"b shop/bare it has no ", "a shop/statefulset/db it is the ", "a shop/deployment/cache it has dat"}
	if !slices.Equal(got, want) {
		t.Errorf("disturbed %q, want %q", got, want)
	}
	if p.Nodes[0].Moved != 1 || p.Nodes[1].Moved != 3 || p.Nodes[0].Pods != 2 {
		t.Errorf("moved: %+v", p.Nodes)
	}
	if inPlace := canal().plan(); len(inPlace.Disturbed) > 0 || inPlace.Estimate >= p.Estimate {
		t.Errorf("in place disturbs %v and takes %s, a drain %s", inPlace.Disturbed, inPlace.Estimate, p.Estimate)
	}
}

// What is as the default, and what nobody agrees to, is not in the hash.
func TestHash(t *testing.T) {
	base := canal().plan().Hash
	if len(base) != 64 {
		t.Fatalf("hash %q", base)
	}
	for name, change := range map[string]func(c *cluster){
		"another canary":      func(c *cluster) { c.facts.Pods.Value = nil },
		"one at a time, said": func(c *cluster) { c.opts.Parallel = 1 },
		"no window, said":     func(c *cluster) { c.opts.Windows, c.opts.First = []Window{}, []string{} },
		"a warning":           func(c *cluster) { c.found("cpu-room", preflight.Warn) },
	} {
		c := canal()
		change(c)
		if c.plan().Hash != base {
			t.Errorf("%s changes the hash", name)
		}
	}
}

func TestMissingAcknowledgements(t *testing.T) {
	c := canal()
	c.facts.Kubernetes.Value = "v1.30.4+rke2r1"
	c.found("clock", preflight.Unsure)
	p := c.plan()
	if got := ids(p.Missing([]string{AckVendor, "something"})); !slices.Equal(got, []string{AckUnknown}) {
		t.Errorf("missing %v", got)
	}
	if got := p.Missing([]string{AckVendor, AckUnknown}); len(got) != 0 {
		t.Errorf("missing %v", got)
	}
}
