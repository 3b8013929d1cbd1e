package preflight

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/pace"
	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/probes/dialogue"
	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/probes/preflight"
	"portcullis.dev/portcullis/probes/preflight/node"
)

const (
	// heartbeatEvery is the time between two heartbeats.
	heartbeatEvery = 2 * time.Second
	// maxReport bounds a report, in bytes of JSON; what passed is left out of a larger one.
	maxReport = 1 << 20
	// defaultPacketTimeout is how long silence is waited for.
	defaultPacketTimeout = time.Second
)

// Config says where the agents are.
type Config struct {
	// Namespace of the node agent; empty means its default.
	Namespace string
}

// Activities check clusters.
type Activities struct {
	config  Config
	connect func(clusterID string) (*connection, error)
	metrics *metrics
	now     func() time.Time
}

// connection is what is needed of one cluster.
type connection struct {
	kube kubernetes.Interface
	exec verify.Executor
	// raw reads a path of the API server.
	raw func(ctx context.Context, path string) ([]byte, error)
}

// New returns the activities.
func New(config Config, clusters verify.Clusters) *Activities {
	return &Activities{
		config:  config,
		metrics: newMetrics(),
		now:     time.Now,
		connect: func(id string) (*connection, error) {
			kube, exec, err := verify.Connect(clusters, id)
			if err != nil {
				return nil, err
			}
			raw := func(ctx context.Context, path string) ([]byte, error) {
				return kube.CoreV1().RESTClient().Get().AbsPath(path).Do(ctx).Raw()
			}
			return &connection{kube: kube, exec: exec, raw: raw}, nil
		},
	}
}

// Check makes the preflight of one cluster. What it finds is in the report, also
// when it is bad, and so is what it could not find out. Errors mean that not even
// the nodes could be listed: Denied, Untrusted, NotFound, Invalid, or Unavailable.
//
// It changes nothing and heartbeats its Progress every two seconds.
func (a *Activities) Check(ctx context.Context, in Input) (*preflight.Report, error) {
	found, err := a.look(ctx, in)
	if err != nil {
		return nil, err
	}
	return bound(found.report)
}

// CheckNode makes the preflight of one node that is about to be moved, with the
// checks that hold for a cluster that is half-way to Calico. The report has what did
// not pass. An agent that does not answer is waited for, a minute at most. It
// changes nothing and heartbeats like Check; its errors are those of Check, and
// NotFound where there is no such node.
func (a *Activities) CheckNode(ctx context.Context, in NodeInput) (*preflight.Report, error) {
	r, err := a.begin(in.Input)
	if err != nil {
		return nil, err
	}
	stop := pace.Heartbeat(ctx, heartbeatEvery, r.soFar)
	defer stop()
	report, err := r.checkNode(ctx, in.Node)
	if err != nil {
		return nil, err
	}
	report.Results = slices.DeleteFunc(report.Results, func(res preflight.Result) bool { return res.Status == preflight.Pass })
	return bound(report)
}

// PlanMigration plans the migration of one cluster to Calico from a preflight that
// is made now. It changes nothing; its errors are those of Check. A cluster that
// cannot be migrated has a plan, too, that says why.
func (a *Activities) PlanMigration(ctx context.Context, in PlanInput) (*Planned, error) {
	found, err := a.look(ctx, in.Input)
	if err != nil {
		return nil, err
	}
	plan := migration.Make(found.cluster, found.nodes, found.report, in.Options)
	return &Planned{Plan: plan, Preflight: found.report.Counts}, nil
}

// found is everything that a preflight found out.
type found struct {
	cluster *preflight.ClusterFacts
	nodes   []preflight.NodeFacts
	report  *preflight.Report
}

// look makes a preflight.
func (a *Activities) look(ctx context.Context, in Input) (*found, error) {
	r, err := a.begin(in)
	if err != nil {
		return nil, err
	}
	stop := pace.Heartbeat(ctx, heartbeatEvery, r.soFar)
	defer stop()
	found, err := r.check(ctx)
	if err != nil {
		a.metrics.ended.WithLabelValues("error").Inc()
	}
	return found, err
}

// begin connects to the cluster.
func (a *Activities) begin(in Input) (*run, error) {
	if in.AtOnce < 0 || in.PacketTimeout < 0 || in.PacketTimeout > node.MaxTimeout {
		return nil, errs.Invalid("atOnce %d or packetTimeout %s is out of bounds", in.AtOnce, in.PacketTimeout)
	}
	conn, err := a.connect(in.Cluster.ID)
	if err != nil {
		return nil, verify.Classify(in.Cluster.Name, err)
	}
	r := &run{Activities: a, in: in, conn: conn, started: a.now()}
	r.in.AtOnce = cmp.Or(in.AtOnce, preflight.DefaultAtOnce)
	r.in.PacketTimeout = cmp.Or(in.PacketTimeout, defaultPacketTimeout)
	r.note("cluster", 0, 0)
	return r, nil
}

// run is one call of Check.
type run struct {
	*Activities
	in      Input
	conn    *connection
	started time.Time

	mu       sync.Mutex
	progress Progress
}

func (r *run) note(phase string, ready, total int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.progress = Progress{Phase: phase, Ready: ready, Total: total, Cluster: r.in.Cluster.Name, StartedAt: r.started}
}

func (r *run) soFar() Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.progress
}

func (r *run) check(ctx context.Context) (*found, error) {
	nodes, err := r.listNodes(ctx)
	if err != nil {
		return nil, verify.Classify(r.in.Cluster.Name, err)
	}
	agents, agentErr := r.agents(ctx, nodes)
	pool := newPool(r.conn.exec, agents)
	defer pool.close()
	// The API server and the agents are asked at the same time.
	var cluster *preflight.ClusterFacts
	var reading sync.WaitGroup
	reading.Go(func() { cluster = r.cluster(ctx, nodes) })
	facts := r.nodeFacts(ctx, pool, agents, agentErr)
	reading.Wait()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	proxyFromNodes(cluster, facts)
	mesh, err := r.mesh(ctx, pool, cluster, facts)
	if err != nil {
		return nil, err
	}
	r.note("judging", 0, 0)
	report := preflight.Judge(cluster, facts, mesh, r.in.Target)
	report.StartedAt, report.Took = r.started, r.now().Sub(r.started)
	r.metrics.observe(report, mesh)
	return &found{cluster, facts, report}, nil
}

// How long the agent of a node that is to be moved is waited for, and how often it is asked.
const (
	agentWait  = time.Minute
	agentEvery = 5 * time.Second
)

func (r *run) checkNode(ctx context.Context, name string) (*preflight.Report, error) {
	nodes, err := r.listNodes(ctx)
	if err != nil {
		return nil, verify.Classify(r.in.Cluster.Name, err)
	}
	i := slices.IndexFunc(nodes, func(n corev1.Node) bool { return n.Name == name })
	if i < 0 {
		return nil, errs.NotFound("cluster %s has no node %s", r.in.Cluster.Name, name)
	}
	var cluster *preflight.ClusterFacts
	var reading sync.WaitGroup
	reading.Go(func() { cluster = r.cluster(ctx, nodes) })
	facts, err := r.thisNode(ctx, nodes[i:i+1])
	reading.Wait()
	if err != nil {
		return nil, err
	}
	r.note("judging", 0, 0)
	report := preflight.JudgeNode(cluster, facts, r.in.Target)
	report.StartedAt, report.Took = r.started, r.now().Sub(r.started)
	return report, nil
}

// thisNode measures the node that is given alone, and asks again where it does not answer.
func (r *run) thisNode(ctx context.Context, node []corev1.Node) (preflight.NodeFacts, error) {
	for end := r.now().Add(agentWait); ; {
		agents, problem := r.agents(ctx, node)
		pool := newPool(r.conn.exec, agents)
		facts := r.nodeFacts(ctx, pool, agents, problem)
		pool.close()
		if ctx.Err() != nil {
			return preflight.NodeFacts{}, ctx.Err()
		}
		if len(facts) == 0 {
			return preflight.NodeFacts{Node: node[0].Name, Problem: "it has no agent"}, nil
		}
		if facts[0].Problem == "" || !r.now().Add(agentEvery).Before(end) {
			return facts[0], nil
		}
		select {
		case <-ctx.Done():
			return preflight.NodeFacts{}, ctx.Err()
		case <-time.After(agentEvery):
		}
	}
}

// bound leaves out of a report what is too much for a workflow's history.
func bound(report *preflight.Report) (*preflight.Report, error) {
	for range 2 {
		b, err := json.Marshal(report)
		if err != nil {
			return nil, errs.Failed("the report cannot be written: %v", err)
		}
		if len(b) <= maxReport {
			return report, nil
		}
		report.Trim()
	}
	return report, nil
}

// proxyFromNodes takes kube-proxy's mode from the nodes where the API server does not tell.
func proxyFromNodes(cluster *preflight.ClusterFacts, facts []preflight.NodeFacts) {
	if cluster.ProxyMode.Known {
		return
	}
	modes := map[string]bool{}
	for i := range facts {
		if facts[i].KubeProxy == "" {
			return
		}
		modes[facts[i].KubeProxy] = true
	}
	if len(modes) == 1 {
		cluster.ProxyMode = preflight.Known(facts[0].KubeProxy)
	}
}

// agents finds the agents. Its error is for every node.
func (r *run) agents(ctx context.Context, nodes []corev1.Node) (map[string]verify.AgentPod, string) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	agents, err := verify.AgentPods(ctx, r.conn.kube, r.config.Namespace, nodes)
	if err != nil {
		return linuxNodes(nodes), "the agents cannot be listed: " + errs.Message(verify.Classify(r.in.Cluster.Name, err))
	}
	return agents, ""
}

func linuxNodes(nodes []corev1.Node) map[string]verify.AgentPod {
	out := map[string]verify.AgentPod{}
	for i := range nodes {
		if os := nodes[i].Labels[corev1.LabelOSStable]; os == "" || os == "linux" {
			out[nodes[i].Name] = verify.AgentPod{}
		}
	}
	return out
}

// nodeFacts measures every node, so many at once. Each has facts, or a problem.
func (r *run) nodeFacts(ctx context.Context, pool *pool, agents map[string]verify.AgentPod, problem string) []preflight.NodeFacts {
	names := make([]string, 0, len(agents))
	for name := range agents {
		names = append(names, name)
	}
	slices.Sort(names)
	out := make([]preflight.NodeFacts, len(names))
	slots := make(chan struct{}, r.in.AtOnce)
	var running sync.WaitGroup
	var mu sync.Mutex
	done := 0
	r.note("nodes", 0, len(names))
	for i, name := range names {
		out[i].Node, out[i].Problem = name, problem
		if out[i].Problem == "" && agents[name].Reason != "" {
			out[i].Problem = oneLine("the agent is not ready: " + agents[name].Reason)
		}
		if out[i].Problem != "" {
			continue
		}
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			out[i] = r.oneNode(ctx, pool, name)
			if len(names) > r.in.AtOnce {
				pool.drop(name)
			}
			mu.Lock()
			defer mu.Unlock()
			done++
			r.note("nodes", done, len(names))
		})
	}
	running.Wait()
	return out
}

// ports are those whose owners are wanted.
func (r *run) ports() []int {
	var out []int
	for _, p := range preflight.Paths(preflight.Target{Encapsulation: preflight.IPIP, Port: r.in.Target.Port}) {
		out = append(out, p.Port)
	}
	out = append(out, 9091, 9098)
	slices.Sort(out)
	return slices.Compact(out)
}

func (r *run) oneNode(ctx context.Context, pool *pool, name string) preflight.NodeFacts {
	var facts *preflight.NodeFacts
	err := pool.do(ctx, name, func(s *dialogue.Session) error {
		skew, err := clock(ctx, s)
		if err != nil {
			return err
		}
		err = call(ctx, s, factsTimeout, node.Request{Role: node.RoleFacts, Ports: r.ports()}, func(m *node.Message) {
			if m.Facts != nil {
				facts = m.Facts
			}
		})
		if err == nil && facts == nil {
			err = fmt.Errorf("the agent on %s sent no facts", name)
		}
		if err == nil {
			facts.ClockSkew = preflight.Known(skew)
		}
		return err
	})
	if err != nil {
		return preflight.NodeFacts{Node: name, Problem: oneLine(err.Error())}
	}
	facts.Node = name
	return *facts
}

// mesh lets the nodes send each other packets. Nodes without an address or an
// agent take no part, and are named.
func (r *run) mesh(ctx context.Context, pool *pool, cluster *preflight.ClusterFacts, facts []preflight.NodeFacts) (*preflight.Mesh, error) {
	target := preflight.Resolve(cluster, facts, r.in.Target)
	paths := preflight.Paths(target)
	mesh := preflight.NewMesh(len(facts), paths)
	mesh.MTU.Tried = preflight.Sizes(cluster, facts, r.in.Target)
	m := &mesher{
		pool: pool, paths: paths, sizes: mesh.MTU.Tried, atOnce: r.in.AtOnce, timeout: r.in.PacketTimeout, token: newToken(), out: mesh,
		note: func(done, total int) { r.note("packets", done, total) },
	}
	addresses := map[string]string{}
	for _, n := range cluster.Nodes.Value {
		addresses[n.Name] = preflight.IPv4(n.Addresses)
	}
	for i := range facts {
		name := facts[i].Node
		switch {
		case facts[i].Problem != "":
			mesh.Absent[name] = facts[i].Problem
		case addresses[name] == "":
			mesh.Absent[name] = "it has no internal IPv4 address"
		default:
			m.members = append(m.members, member{name, addresses[name]})
		}
	}
	mesh.Size = preflight.Grow(len(m.members), r.in.AtOnce, paths, len(m.sizes))
	return mesh, m.run(ctx)
}
