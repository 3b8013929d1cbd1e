package migration

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"portcullis.dev/portcullis/probes/preflight"
)

// full is a cluster whose plan has something in everything that the hash covers.
func full() *cluster {
	c := canal()
	c.facts.Kubernetes.Value = "v1.30.4+rke2r1"
	c.facts.DaemonSets.Value = append(c.facts.DaemonSets.Value, preflight.CNISet{Namespace: "kube-system", Name: "rke2-canal", Flavour: preflight.FlavourRKE2Canal})
	c.facts.Nodes.Value[2].PodCIDRs = nil
	c.facts.Pools = preflight.Known([]preflight.Pool{
		{Name: "pods", CIDR: "10.42.0.0/16", BlockSize: 28}, {Name: "default-ipv4-ippool", CIDR: "192.168.0.0/16", BlockSize: 26},
	})
	c.nodes = c.nodes[:2]
	c.found("reach-udp-4789", preflight.Fail, "a", "b")
	c.found("ipset-works", preflight.Fail, "a")
	c.found("ipset-works", preflight.Fail, "b")
	c.found("clock", preflight.Unsure, "a")
	c.found("cni-known", preflight.Unsure, "b", "cp")
	c.found("cpu-room", preflight.Warn, "b")
	c.report.Target.Images = []string{"calico/node:v3.28.5", "calico/cni:v3.28.5"}
	c.opts = Options{First: []string{"a", "cp"}, Parallel: 2, MaxFailures: 1, Manifest: strings.Repeat("a", 64), Windows: []Window{
		{Days: []string{"mon", "tue"}, From: "22:00", Until: "05:00", Zone: "Europe/Berlin"}, {From: "12:00", Until: "13:00"},
	}}
	return c
}

func shuffle[T any](rng *rand.Rand, list []T) {
	rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
}

// In whatever order things are found or given, the hash is the same; but for the nodes that
// are named to begin with, whose order is meant.
func TestHashKnowsNoOrder(t *testing.T) {
	want := full().plan().Hash
	for seed := range uint64(500) {
		rng, c := rand.New(rand.NewPCG(seed, 1)), full()
		shuffle(rng, c.facts.DaemonSets.Value)
		shuffle(rng, c.facts.Nodes.Value)
		shuffle(rng, c.facts.Pods.Value)
		shuffle(rng, c.facts.Pools.Value)
		shuffle(rng, c.nodes)
		shuffle(rng, c.report.Results)
		for i := range c.report.Results {
			shuffle(rng, c.report.Results[i].Nodes)
		}
		shuffle(rng, c.report.Target.Images)
		shuffle(rng, c.opts.Windows)
		for i := range c.opts.Windows {
			shuffle(rng, c.opts.Windows[i].Days)
		}
		if got := c.plan().Hash; got != want {
			t.Fatalf("seed %d: %s, and not %s", seed, got, want)
		}
	}
	c := full()
	slices.Reverse(c.opts.First)
	if c.plan().Hash == want {
		t.Error("the order of the nodes that are named to begin with does not change the hash")
	}
}

// What is measured, counted or told does not change the hash, as long as it is the same that
// would be done, and the same that is acknowledged or in the way.
func TestHashKnowsNoMeasurement(t *testing.T) {
	want := full().plan().Hash
	for seed := range uint64(500) {
		rng, c := rand.New(rand.NewPCG(seed, 2)), full()
		any := func() string { return fmt.Sprint("measured ", rng.Uint64()) }
		for i := range c.report.Results {
			r := &c.report.Results[i]
			r.Title, r.Measured, r.Threshold, r.Remedy, r.More = any(), any(), any(), any(), []string{any()}
			if rng.IntN(2) == 0 {
				r.Nodes = r.Nodes[:1]
			}
		}
		for range rng.IntN(4) {
			// One of a check that was found before, on other nodes, and one that is no more than advised.
			again := c.report.Results[rng.IntN(len(c.report.Results))]
			again.Nodes = []string{any()}
			advised := preflight.Result{ID: any(), Severity: preflight.Advised, Status: []preflight.Status{preflight.Fail, preflight.Unsure, preflight.Warn}[rng.IntN(3)]}
			c.report.Results = append(c.report.Results, again, advised, preflight.Result{ID: any(), Severity: preflight.Required, Status: preflight.Pass})
		}
		c.report.Counts = preflight.Counts{Pass: rng.Int(), Warn: rng.Int()}
		c.report.StartedAt, c.report.Took = time.Unix(rng.Int64N(1e9), 0), time.Duration(rng.Int64N(1e9))
		for i := range c.facts.DaemonSets.Value {
			s := &c.facts.DaemonSets.Value[i]
			s.Ready, s.Desired, s.Images, s.Selector = rng.IntN(9), rng.IntN(9), []string{any()}, map[string]string{any(): any()}
		}
		c.facts.Pods.Value = nil
		for range rng.IntN(20) {
			n := c.facts.Nodes.Value[rng.IntN(3)].Name
			c.facts.Pods.Value = append(c.facts.Pods.Value, preflight.Pod{
				Namespace: any(), Name: any(), Node: n, Controller: []string{"", "DaemonSet", "ReplicaSet"}[rng.IntN(3)], Replicas: rng.IntN(3), LocalData: rng.IntN(2) == 0,
			})
		}
		// Why a node's configuration could not be read is no matter: that it could not is.
		c.nodes = append(c.nodes, preflight.NodeFacts{Node: "b", Problem: any()})
		if got := c.plan().Hash; got != want {
			t.Fatalf("seed %d: %s, and not %s", seed, got, want)
		}
	}
}

// Windows that mean the same are the same.
func TestHashOfWindows(t *testing.T) {
	hash := func(w ...Window) string {
		c := canal()
		c.opts.Windows = w
		return c.plan().Hash
	}
	night := Window{Days: []string{"mon", "sat"}, From: "22:00", Until: "05:00"}
	day := Window{From: "09:00", Until: "10:00", Zone: "Europe/Berlin"}
	for _, same := range [][2][]Window{
		{{night, day}, {day, night}},
		{{night}, {night, night}},
		{{night}, {{Days: []string{"Sat", "MON", "mon"}, From: "22:00", Until: "05:00", Zone: "UTC"}}},
		{{day}, {{Days: []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}, From: "09:00", Until: "10:00", Zone: "Europe/Berlin"}}},
	} {
		if hash(same[0]...) != hash(same[1]...) {
			t.Errorf("%v is not %v", same[0], same[1])
		}
	}
	for _, other := range []Window{
		{Days: []string{"mon"}, From: "22:00", Until: "05:00"}, {From: "22:00", Until: "05:00"},
		{Days: night.Days, From: "21:00", Until: "05:00"}, {Days: night.Days, From: "22:00", Until: "04:00"},
		{Days: night.Days, From: "22:00", Until: "05:00", Zone: "Europe/Berlin"},
	} {
		if hash(other) == hash(night) {
			t.Errorf("%v is %v", other, night)
		}
	}
}

// Each thing that is agreed to changes the hash, by itself.
func TestHashCovers(t *testing.T) {
	target := func(change func(t *preflight.Target)) func(*cluster) {
		return func(c *cluster) { change(&c.report.Target) }
	}
	seen := map[string]string{full().plan().Hash: "nothing"}
	for name, change := range map[string]func(c *cluster){
		"the cluster":               func(c *cluster) { c.facts.Name = "dev" },
		"Kubernetes":                func(c *cluster) { c.facts.Kubernetes.Value = "v1.30.5+rke2r1" },
		"Canal's name":              func(c *cluster) { c.facts.DaemonSets.Value[0].Name = "c" },
		"Canal's namespace":         func(c *cluster) { c.facts.DaemonSets.Value[0].Namespace = "cni" },
		"Canal's Calico":            func(c *cluster) { c.facts.DaemonSets.Value[0].Calico = "v3.27.0" },
		"the version":               target(func(t *preflight.Target) { t.Version = "v3.29.0" }),
		"the encapsulation":         target(func(t *preflight.Target) { t.Encapsulation = preflight.IPIP }),
		"the VNI":                   target(func(t *preflight.Target) { t.VNI++ }),
		"the port":                  target(func(t *preflight.Target) { t.Port++ }),
		"the pods' network":         target(func(t *preflight.Target) { t.PodCIDR = "10.0.0.0/8" }),
		"the blocks' size":          target(func(t *preflight.Target) { t.BlockSize = 27 }),
		"the MTU":                   target(func(t *preflight.Target) { t.MTU-- }),
		"Typha":                     target(func(t *preflight.Target) { t.Typha = true }),
		"an image":                  target(func(t *preflight.Target) { t.Images[0] += "-fips" }),
		"an image less":             target(func(t *preflight.Target) { t.Images = t.Images[1:] }),
		"the manifest":              func(c *cluster) { c.opts.Manifest = strings.Repeat("b", 64) },
		"a node's name":             func(c *cluster) { c.facts.Nodes.Value[0].Name = "cp-1" },
		"a node more":               func(c *cluster) { c.facts.Nodes.Value = append(c.facts.Nodes.Value, preflight.Node{Name: "new"}) },
		"a node's mode":             func(c *cluster) { c.nodes = c.nodes[1:] },
		"every mode":                func(c *cluster) { c.opts.Mode = Drain },
		"what is acknowledged":      func(c *cluster) { c.facts.Kubernetes.Value = "v1.30.4" },
		"what is unknown":           func(c *cluster) { c.found("kernel-modules", preflight.Unsure) },
		"something else in the way": func(c *cluster) { c.found("kernel-modules", preflight.Fail) },
		"something mended": func(c *cluster) {
			c.report.Results = slices.DeleteFunc(c.report.Results, func(r preflight.Result) bool { return r.ID == "ipset-works" })
		},
		"the pod networks mended": func(c *cluster) {
			c.facts.Nodes.Value[2].PodCIDRs, c.facts.Pools.Value = []string{"10.42.2.0/24"}, nil
		},
		"the nodes to begin with": func(c *cluster) { c.opts.First = c.opts.First[:1] },
		"how many at a time":      func(c *cluster) { c.opts.Parallel = 3 },
		"how many may fail":       func(c *cluster) { c.opts.MaxFailures = 2 },
		"a canary":                func(c *cluster) { c.opts.Canary = true },
		"a window":                func(c *cluster) { c.opts.Windows = c.opts.Windows[1:] },
	} {
		c := full()
		change(c)
		hash := c.plan().Hash
		if other, there := seen[hash]; there {
			t.Errorf("%s changes the hash as %s does", name, other)
		}
		seen[hash] = name
	}
}
