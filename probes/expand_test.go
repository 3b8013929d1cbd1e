package probes

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// pod makes a running pod of a Deployment.
func pod(namespace, app string, n int) Pod {
	name := fmt.Sprintf("%s-7d4b9c-%d", app, n)
	return Pod{
		UID: namespace + "/" + name, Namespace: namespace, Name: name, Node: fmt.Sprintf("n%d", n%3),
		Labels: map[string]string{"app": app}, IPs: []string{fmt.Sprintf("10.0.%d.%d", len(namespace), n+1)}, Running: true,
		Workload: Workload(namespace, name, "ReplicaSet", app+"-7d4b9c", "7d4b9c"),
	}
}

func shop() *Cluster {
	c := &Cluster{Pods: []Pod{
		pod("web", "web", 0), pod("web", "web", 1), pod("api", "api", 0), pod("api", "api", 1), pod("api", "worker", 0),
		pod("kube-system", "coredns", 0), pod("cattle-system", "agent", 0), pod("portcullis-system", "other", 0),
	}}
	host := pod("web", "exporter", 0)
	host.Host = true
	gone := pod("web", "web", 9)
	gone.Running = false
	c.Pods = append(c.Pods, host, gone)
	c.Services = []Service{
		{Namespace: "api", Name: "api", IP: "10.43.0.9", Ports: []ServicePort{{Port: 80, Protocol: TCP, Ready: 2, Pods: []string{"a", "b"}}, {Port: 81, Protocol: TCP}, {Port: 53, Protocol: UDP, Ready: 1, Pods: []string{"a"}}}},
		{Namespace: "api", Name: "headless", Ports: []ServicePort{{Port: 80, Protocol: TCP, Ready: 2}}},
	}
	return c
}

func lines(p *Plan) []string {
	var out []string
	for _, pair := range p.Pairs {
		out = append(out, pair.Source.Name+" > "+pair.Host)
	}
	return out
}

func TestExpand(t *testing.T) {
	to := To{Namespace: "api", Selector: "app == 'api'", Port: 80}
	all := Namespaces{All: true}
	for _, tc := range []struct {
		name    string
		req     Requirement
		want    int
		problem string
	}{
		{"named namespace, host network included", Requirement{From: From{Namespace: "web"}, To: to}, 6, ""},
		{"selector", Requirement{From: From{Namespace: "web", Selector: "app == 'web'"}, To: to}, 4, ""},
		{"all: without the platform's, the host network's and itself", Requirement{From: From{Namespaces: all}, To: to}, 2*2 + 2 + 2, ""},
		{"all but one", Requirement{From: From{Namespaces: all, Except: []string{"api"}}, To: to}, 4, ""},
		{"a platform namespace can be named", Requirement{From: From{Namespaces: Namespaces{Names: []string{"kube-system", "web"}}, Selector: "app in {'coredns','web'}"}, To: to}, 6, ""},
		{"labels that Calico adds", Requirement{From: From{Namespaces: all, Selector: "projectcalico.org/namespace == 'web'"}, To: to}, 4, ""},
		{"service", Requirement{From: From{Namespace: "web", Selector: "app == 'web'"}, To: To{Namespace: "api", Service: "api", Port: 80}}, 2, ""},
		{"UDP service", Requirement{From: From{Namespace: "web", Selector: "app == 'web'"}, To: To{Namespace: "api", Service: "api", Port: 53, Protocol: UDP}}, 2, ""},
		{"address", Requirement{From: From{Namespace: "api"}, To: To{Address: "1.1.1.1", Port: 80}}, 3, ""},
		{"DNS", Requirement{From: From{Namespace: "api"}, To: To{DNS: "x"}}, 3, ""},

		{"no source", Requirement{From: From{Namespace: "web", Selector: "app == 'nobody'"}, To: to}, 0, "no running pod matches from: namespace web, selector app == 'nobody'"},
		{"no destination", Requirement{From: From{Namespace: "web"}, To: To{Namespace: "nowhere", Selector: "all()", Port: 1}}, 0, "no running pod matches to: namespace nowhere"},
		{"only itself", Requirement{From: From{Namespace: "api", Selector: "app == 'worker'"}, To: To{Namespace: "api", Selector: "app == 'worker'", Port: 1}}, 0, "is the destination itself"},
		{"no service", Requirement{From: From{Namespace: "web"}, To: To{Namespace: "api", Service: "nope", Port: 80}}, 0, "there is no service api/nope"},
		{"no service port", Requirement{From: From{Namespace: "web"}, To: To{Namespace: "api", Service: "api", Port: 99}}, 0, "has no tcp port 99"},
		{"no endpoint", Requirement{From: From{Namespace: "web"}, To: To{Namespace: "api", Service: "api", Port: 81}}, 0, "no ready endpoint"},
		{"headless", Requirement{From: From{Namespace: "web"}, To: To{Namespace: "api", Service: "headless", Port: 80}}, 0, "has no cluster IP"},
		{"optional without source", Requirement{Optional: true, From: From{Namespace: "none"}, To: to}, 0, ""},
		{"optional without service", Requirement{Optional: true, From: From{Namespace: "web"}, To: To{Namespace: "api", Service: "nope", Port: 80}}, 0, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := Expand([]Requirement{tc.req}, shop())
			if len(p.Pairs) != tc.want || !strings.Contains(p.Problems[0], tc.problem) || tc.problem == "" && p.Problems[0] != "" {
				t.Errorf("%d pairs, want %d: %v, problem %q", len(p.Pairs), tc.want, lines(p), p.Problems[0])
			}
		})
	}
}

func TestExpandBothFamilies(t *testing.T) {
	c := shop()
	c.Pods[0].IPs = []string{"10.0.3.1", "fd00::1"}
	c.Pods[2].IPs = []string{"10.0.3.9", "fd00::9"}
	p := Expand([]Requirement{{From: From{Namespace: "web", Selector: "app == 'web'"}, To: To{Namespace: "api", Selector: "app == 'api'", Port: 80}}}, c)
	if got := strings.Join(lines(p), ", "); strings.Count(got, "fd00::9") != 1 || len(p.Pairs) != 5 {
		t.Error(got)
	}
}

func TestExpandIsBounded(t *testing.T) {
	c := &Cluster{}
	for i := range 400 {
		c.Pods = append(c.Pods, pod("web", "web", i))
	}
	req := Requirement{From: From{Namespace: "web"}, To: To{Namespace: "web", Selector: "all()", Port: 1}}
	if p := Expand([]Requirement{req}, c); len(p.Pairs) != 0 || !strings.Contains(p.Problems[0], "means 159600 pairs") {
		t.Errorf("%d pairs, problem %q", len(p.Pairs), p.Problems[0])
	}
	req.Sample = 300
	if p := Expand([]Requirement{req}, c); len(p.Pairs) != 300 || p.Skipped != 159300 {
		t.Errorf("%d pairs, %d skipped", len(p.Pairs), p.Skipped)
	}
}

// Whatever the cluster: the order of its pods does not matter, no pod is probed
// from itself, no pair comes twice, and a sample takes from every workload
// before it takes from one again.
func TestExpandProperties(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		c := &Cluster{}
		for ns := range 1 + rng.IntN(4) {
			for app := range 1 + rng.IntN(3) {
				for n := range 1 + rng.IntN(4) {
					c.Pods = append(c.Pods, pod(fmt.Sprintf("ns%d", ns), fmt.Sprintf("app%d", app), n))
				}
			}
		}
		req := Requirement{Name: "r", From: From{Namespaces: Namespaces{All: true}}, To: To{Namespace: "ns0", Selector: "all()", Port: 80}}
		whole := Expand([]Requirement{req}, c)
		req.Sample = 1 + rng.IntN(30)
		sample := Expand([]Requirement{req}, c)
		// Pairs point to the cluster's pods, so another cluster is shuffled.
		other := &Cluster{Pods: slices.Clone(c.Pods)}
		rng.Shuffle(len(other.Pods), func(i, j int) { other.Pods[i], other.Pods[j] = other.Pods[j], other.Pods[i] })
		again := Expand([]Requirement{req}, other)
		if !reflect.DeepEqual(lines(sample), lines(again)) {
			t.Fatalf("seed %d: the order of the pods changed the plan", seed)
		}
		if len(sample.Pairs) != min(req.Sample, len(whole.Pairs)) || len(sample.Pairs)+sample.Skipped != len(whole.Pairs) {
			t.Fatalf("seed %d: %d of %d pairs, %d skipped, sample %d", seed, len(sample.Pairs), len(whole.Pairs), sample.Skipped, req.Sample)
		}
		seen := map[string]bool{}
		flows := map[string]int{}
		for _, p := range whole.Pairs {
			key := p.Source.UID + ">" + p.Targets[0]
			if p.Source.UID == p.Targets[0] || seen[key] {
				t.Fatalf("seed %d: %s", seed, key)
			}
			seen[key] = true
			flows[p.Source.Workload+">"+p.To] = 0
		}
		for _, p := range sample.Pairs {
			flows[p.Source.Workload+">"+p.To]++
		}
		var counts []int
		for _, n := range flows {
			counts = append(counts, n)
		}
		if req.Sample >= len(flows) && len(counts) > 0 && slices.Min(counts) == 0 {
			t.Fatalf("seed %d: a sample of %d leaves out some of %d flows", seed, req.Sample, len(flows))
		}
	}
}

func TestWorkload(t *testing.T) {
	for _, tc := range []struct{ kind, name, hash, want string }{
		{"ReplicaSet", "web-7d4b9c", "7d4b9c", "ns/Deployment/web"},
		{"ReplicaSet", "web", "", "ns/ReplicaSet/web"},
		{"StatefulSet", "db", "", "ns/StatefulSet/db"},
		{"Job", "backup-28973040", "", "ns/Job/backup"},
		{"Job", "migrate", "", "ns/Job/migrate"},
		{"", "", "", "ns/Pod/p"},
		{"Node", "n1", "", "ns/Pod/p"},
	} {
		if got := Workload("ns", "p", tc.kind, tc.name, tc.hash); got != tc.want {
			t.Errorf("%+v: %s", tc, got)
		}
	}
}
