package world

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/migrate"
	"portcullis.dev/portcullis/probes"
	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/probes/preflight"
	"portcullis.dev/portcullis/workflows/contract"
)

// How far a step of the model is.
type made int

const (
	untouched made = iota
	begun          // a part of it may be made
	done
	undone
)

// Canal is a cluster of the model that goes from Canal to Calico. It notes every
// call that would have harmed a real one.
type Canal struct {
	Cluster string
	// Early gives a step its effect before the hook is asked, which can then only
	// take away the answer; else a hook that fails leaves the step half made.
	Early bool
	// Nothing makes the cluster one without anything to probe.
	Nothing bool

	mu      sync.Mutex
	nodes   []*canalNode
	steps   map[migration.Step]made
	claimed string
	// target is what the last plan was asked for.
	target preflight.Target
	// all nodes are to be drained.
	all bool
	// turned is true while Calico is the choice of nodes without a label.
	turned     bool
	name       string
	violations []string
	// busy are the steps that are being made. A real server waits for an activity
	// that is cancelled; a test environment does not, so that the undo does.
	busy map[string]chan struct{}
	// undo has the last undoing of a node's steps, or of the cluster's.
	undo map[string]activity.Info
}

type canalNode struct {
	name    string
	control bool
	drain   bool
	// label is what the node was told to have; without one, it has what is the choice.
	label    string
	cordoned bool
	steps    map[migration.Step]made
	// born is true for a node that had Calico from its start.
	born bool
	// late is true for a node that joined after the plan was made.
	late bool
	lost bool
	// unfit is what a preflight of the node finds.
	unfit *preflight.Result
}

// MakeCanal adds a cluster with Canal to the world. A name that ends in a star
// is of the control plane.
func (w *World) MakeCanal(cluster string, nodes ...string) *Canal {
	c := &Canal{Cluster: cluster, steps: map[migration.Step]made{}, busy: map[string]chan struct{}{}, undo: map[string]activity.Info{}}
	for _, n := range nodes {
		c.Add(n)
	}
	w.Canal = c
	return c
}

// Add lets a node join the cluster.
func (c *Canal) Add(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := &canalNode{name: name, steps: map[migration.Step]made{}}
	if last := len(name) - 1; name[last] == '*' {
		n.name, n.control = name[:last], true
	}
	n.born = c.turned
	n.late = c.claimed != ""
	c.nodes = append(c.nodes, n)
}

// Drop takes a node away.
func (c *Canal) Drop(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = slices.DeleteFunc(c.nodes, func(n *canalNode) bool { return n.name == name })
}

// Lose says that the workflow of a node was lost: its steps may be taken back
// whether they were begun or not.
func (c *Canal) Lose(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.node(name).lost = true
}

// Spoil says what a preflight of a node finds from now on; Pass is nothing.
func (c *Canal) Spoil(name string, status preflight.Status, measured string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.node(name).unfit = &preflight.Result{
		ID: "cni-writable", Severity: preflight.Required, Status: status, Nodes: []string{name}, Measured: measured, Remedy: "mend it",
	}
}

// CheckNode is what a preflight of a node finds.
func (c *Canal) CheckNode(name string) *preflight.Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &preflight.Report{Cluster: c.Cluster, Status: preflight.Pass, Nodes: 1, Took: time.Second}
	if n := c.node(name); n != nil && n.unfit != nil && n.unfit.Status != preflight.Pass {
		r.Status, r.Results = n.unfit.Status, []preflight.Result{*n.unfit}
	}
	return r
}

// Drain makes the plan drain a node.
func (c *Canal) Drain(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.node(name).drain = true
}

func (c *Canal) node(name string) *canalNode {
	for _, n := range c.nodes {
		if n.name == name {
			return n
		}
	}
	return nil
}

// Violations are the calls that would have harmed a real cluster.
func (c *Canal) Violations() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.violations)
}

func (c *Canal) wrong(format string, args ...any) {
	c.violations = append(c.violations, fmt.Sprintf(format, args...))
}

// Original says what is left of a migration, or "".
func (c *Canal) Original() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.claimed != "" {
		return "it is claimed by " + c.claimed
	}
	for step, m := range c.steps {
		if m != undone && m != untouched {
			return "step " + string(step) + " is left"
		}
	}
	for _, n := range c.nodes {
		for step, m := range n.steps {
			if step != migration.Check && step != migration.Uncordon && m != undone && m != untouched {
				return "step " + string(step) + " of " + n.name + " is left"
			}
		}
		if n.cordoned {
			return n.name + " is cordoned"
		}
		if c.has(n) == "calico" {
			return n.name + " is on Calico"
		}
	}
	return ""
}

// Migrated says what is left of Canal, or "".
func (c *Canal) Migrated() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.claimed != "" {
		return "it is claimed by " + c.claimed
	}
	for _, step := range slices.Concat(migration.Preparation(), migration.Completion()) {
		if c.steps[step] != done {
			return "step " + string(step) + " was not made"
		}
	}
	for _, n := range c.nodes {
		if c.has(n) != "calico" {
			return n.name + " is on Canal"
		}
		if n.cordoned {
			return n.name + " is cordoned"
		}
	}
	return ""
}

// has is the CNI that a node really has, as the real activity lists it.
func (c *Canal) has(n *canalNode) string {
	if n.label != "" {
		return n.label
	}
	if c.turned {
		return "calico"
	}
	return "canal"
}

// moving is true while the node is between two CNIs.
func moving(n *canalNode) bool {
	for _, step := range []migration.Step{migration.Evict, migration.Leave, migration.Swap} {
		if n.steps[step] == begun {
			return true
		}
	}
	return n.steps[migration.Leave] == done && n.steps[migration.Swap] != done
}

// Migrate are the activities of a migration in the model.
type Migrate struct{ w *World }

// Claim marks the cluster.
func (a *Migrate) Claim(ctx context.Context, in migrate.ClaimInput) error {
	c := a.w.Canal
	c.mu.Lock()
	if c.claimed != "" && c.claimed != in.Migration {
		c.mu.Unlock()
		return errs.Conflict("cluster %s is being migrated by %s", c.Cluster, c.claimed)
	}
	c.claimed = in.Migration
	c.mu.Unlock()
	return a.w.did(ctx, "Claim", in.Cluster.Name, false)
}

// Unclaim takes the mark away.
func (a *Migrate) Unclaim(ctx context.Context, in migrate.ClaimInput) error {
	if err := a.w.did(ctx, "Unclaim", in.Cluster.Name, false); err != nil {
		return err
	}
	c := a.w.Canal
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.claimed == in.Migration {
		c.claimed = ""
	}
	return nil
}

// Nodes lists the nodes.
func (a *Migrate) Nodes(ctx context.Context, in migrate.NodesInput) ([]migrate.Node, error) {
	if err := a.w.did(ctx, "Nodes", in.Cluster.Name, false); err != nil {
		return nil, err
	}
	c := a.w.Canal
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []migrate.Node
	for _, n := range c.nodes {
		out = append(out, migrate.Node{Name: n.name, ControlPlane: n.control, Ready: true, CNI: c.has(n)})
	}
	return out, nil
}

// Requirements finds one thing to probe.
func (a *Migrate) Requirements(ctx context.Context, in migrate.RequirementsInput) ([]probes.Requirement, error) {
	if err := a.w.did(ctx, "Requirements", in.Cluster.Name, false); err != nil {
		return nil, err
	}
	if a.w.Canal.Nothing {
		return in.Given, nil
	}
	return append([]probes.Requirement{{
		Name: "the cluster's DNS", Expect: probes.Allow, From: probes.From{Namespace: "web"}, To: probes.To{DNS: "kubernetes.default.svc"},
	}}, in.Given...), nil
}

// Do makes a step.
func (a *Migrate) Do(ctx context.Context, in migrate.StepInput) (*migrate.StepResult, error) {
	c := a.w.Canal
	defer c.take(in)()
	if c.outdated(ctx, in) {
		return nil, context.Canceled
	}
	if err := c.begin(in); err != nil {
		return nil, err
	}
	if c.Early {
		c.end(in, done)
	}
	if err := a.w.did(ctx, "Do", subject(in), true); err != nil {
		return nil, err
	}
	c.end(in, done)
	return &migrate.StepResult{Changes: []string{"made " + string(in.Step)}, Took: 3 * time.Second, Waited: 2 * time.Second}, nil
}

// Undo takes a step back.
func (a *Migrate) Undo(ctx context.Context, in migrate.StepInput) (*migrate.StepResult, error) {
	c := a.w.Canal
	defer c.take(in)()
	c.unbegin(in)
	c.mu.Lock()
	c.undo[in.Node] = activity.GetInfo(ctx)
	c.mu.Unlock()
	if c.Early {
		c.end(in, undone)
	}
	if err := a.w.did(ctx, "Undo", subject(in), true); err != nil {
		return nil, err
	}
	c.end(in, undone)
	return &migrate.StepResult{Changes: []string{"undid " + string(in.Step)}, Took: 2 * time.Second, Waited: time.Second}, nil
}

// NewRun says that another test environment begins, which numbers from 1 again.
func (c *Canal) NewRun() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.undo)
}

// outdated is true for a step that comes after an undoing which its workflow asked for
// later: the step was cancelled before it began. A real server does not begin it then; a
// test environment may.
func (c *Canal) outdated(ctx context.Context, in migrate.StepInput) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	last, found := c.undo[in.Node]
	now := activity.GetInfo(ctx)
	if !found || last.WorkflowExecution != now.WorkflowExecution {
		return false
	}
	before, err := strconv.Atoi(now.ActivityID)
	after, err2 := strconv.Atoi(last.ActivityID)
	return err == nil && err2 == nil && before < after
}

// take waits until nobody makes the step, and returns how to let go of it.
func (c *Canal) take(in migrate.StepInput) func() {
	key, mine := subject(in), make(chan struct{})
	for {
		c.mu.Lock()
		other := c.busy[key]
		if other == nil {
			c.busy[key] = mine
			c.mu.Unlock()
			return func() {
				c.mu.Lock()
				defer c.mu.Unlock()
				delete(c.busy, key)
				close(mine)
			}
		}
		c.mu.Unlock()
		<-other
	}
}

func subject(in migrate.StepInput) string {
	if in.Node == "" {
		return string(in.Step)
	}
	return string(in.Step) + " " + in.Node
}

// common checks what holds for every call.
func (c *Canal) common(what string, in migrate.StepInput) {
	if c.claimed != contract.MigrateID(c.Cluster) {
		c.wrong("%s while the cluster is claimed by %q", what, c.claimed)
	}
	if c.name == "" {
		c.name = in.Migration
	}
	if in.Migration != c.name || in.Migration == "" {
		c.wrong("%s under the name %q, and not %q", what, in.Migration, c.name)
	}
	if in.Timeout <= 0 {
		c.wrong("%s without a time limit", what)
	}
	if !reflect.DeepEqual(in.Target, resolved(c.target)) {
		c.wrong("%s with the target %+v, and not the plan's", what, in.Target)
	}
}

// begin checks that a step may be made now.
func (c *Canal) begin(in migrate.StepInput) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	what := "do " + subject(in)
	c.common(what, in)
	if in.Node == "" {
		if err := c.beginCluster(what, in); err != nil {
			return err
		}
		c.steps[in.Step] = begun
		return nil
	}
	n := c.node(in.Node)
	if n == nil {
		return errs.Failed("there is no node %s", in.Node)
	}
	c.beginNode(what, n, in.Step)
	n.steps[in.Step] = begun
	return nil
}

func (c *Canal) beginCluster(what string, in migrate.StepInput) error {
	all := slices.Concat(migration.Preparation(), migration.Completion())
	for _, step := range all[:slices.Index(all, in.Step)] {
		if c.steps[step] != done {
			c.wrong("%s before %s", what, step)
		}
	}
	if in.Step == migration.Begin && len(in.Manifest) == 0 {
		c.wrong("%s without a manifest", what)
	}
	if in.Step != migration.Begin && len(in.Manifest) > 0 {
		c.wrong("%s with a manifest, which only begin needs", what)
	}
	if slices.Contains(migration.Preparation(), in.Step) {
		return nil
	}
	for _, n := range c.nodes {
		if in.Step == migration.Turn && c.has(n) != "calico" {
			return errs.Conflict("node %s is not on Calico yet", n.name)
		}
		if c.has(n) != "calico" {
			c.wrong("%s while %s is on Canal", what, n.name)
		}
	}
	return nil
}

func (c *Canal) beginNode(what string, n *canalNode, step migration.Step) {
	for _, s := range migration.Preparation() {
		if c.steps[s] != done {
			c.wrong("%s before %s", what, s)
		}
	}
	for _, s := range []migration.Step{migration.Unlink, migration.Adopt, migration.Clean} {
		if m := c.steps[s]; m == begun || m == done {
			c.wrong("%s after %s", what, s)
		}
	}
	c.alone(what, n)
	all := c.stepsOf(n, step)
	at := slices.Index(all, step)
	if at < 0 {
		c.wrong("%s is no step of a node that goes by %v", what, all)
		return
	}
	for _, s := range all[:at] {
		if n.steps[s] != done {
			c.wrong("%s before %s", what, s)
		}
	}
}

// stepsOf are those of a node that makes, or takes back, one of them. What is done with a
// node that joined late is not the plan's to say.
func (c *Canal) stepsOf(n *canalNode, step migration.Step) []migration.Step {
	if n.drain || c.all || n.late && (step == migration.Evict || n.steps[migration.Evict] != untouched) {
		return migration.NodeSteps(migration.Drain)
	}
	return migration.NodeSteps(migration.InPlace)
}

// never is true when a step was not begun, and could not have been: one that was to
// begin when it was cancelled may be taken back.
func never(made map[migration.Step]made, all []migration.Step, step migration.Step) bool {
	at := slices.Index(all, step)
	return made[step] == untouched && (at < 1 || made[all[at-1]] == untouched)
}

// alone checks that a node of the control plane moves while no other does.
func (c *Canal) alone(what string, n *canalNode) {
	for _, o := range c.nodes {
		if o != n && moving(o) && (n.control || o.control) {
			c.wrong("%s while %s moves", what, o.name)
		}
	}
}

// unbegin checks that a step may be taken back now.
func (c *Canal) unbegin(in migrate.StepInput) {
	c.mu.Lock()
	defer c.mu.Unlock()
	what := "undo " + subject(in)
	c.common(what, in)
	if in.Node == "" {
		c.unbeginCluster(what, in.Step)
		c.steps[in.Step] = begun
		return
	}
	n := c.node(in.Node)
	if n == nil {
		return
	}
	if c.steps[migration.Turn] == begun || c.steps[migration.Turn] == done {
		// A node that joined late may fail after Turn; it goes back before Turn does.
		for _, s := range []migration.Step{migration.Unlink, migration.Adopt, migration.Clean} {
			if m := c.steps[s]; m == begun || m == done {
				c.wrong("%s before undo %s", what, s)
			}
		}
	}
	if !n.born && !n.lost && never(n.steps, c.stepsOf(n, in.Step), in.Step) {
		c.wrong("%s, which was never begun", what)
	}
	c.alone(what, n)
	all := migration.NodeSteps(migration.Drain)
	for _, s := range all[slices.Index(all, in.Step)+1:] {
		if m := n.steps[s]; s != migration.Uncordon && (m == begun || m == done) {
			c.wrong("%s before undo %s", what, s)
		}
	}
	n.steps[in.Step] = begun
}

func (c *Canal) unbeginCluster(what string, step migration.Step) {
	if never(c.steps, slices.Concat(migration.Preparation(), migration.Completion()), step) {
		c.wrong("%s, which was never begun", what)
	}
	if step == migration.Clean {
		c.wrong("%s, which has no way back", what)
	}
	all := slices.Concat(migration.Preparation(), migration.Completion())
	for _, s := range all[slices.Index(all, step)+1:] {
		if m := c.steps[s]; m == begun || m == done {
			c.wrong("%s before undo %s", what, s)
		}
	}
	if !slices.Contains(migration.Preparation(), step) {
		return
	}
	for _, n := range c.nodes {
		if c.has(n) == "calico" {
			c.wrong("%s while %s is on Calico", what, n.name)
		}
		for s, m := range n.steps {
			if s != migration.Check && s != migration.Uncordon && (m == begun || m == done) {
				c.wrong("%s before undo %s %s", what, s, n.name)
			}
		}
	}
}

// end gives a step, or its undoing, its effect.
func (c *Canal) end(in migrate.StepInput, how made) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if in.Node == "" {
		c.steps[in.Step] = how
		if in.Step != migration.Turn {
			return
		}
		if c.turned && how == undone {
			for _, n := range c.nodes {
				if n.label == "" {
					n.label, n.born = "calico", true
				}
			}
		}
		c.turned = how == done
		return
	}
	n := c.node(in.Node)
	if n == nil {
		return
	}
	n.steps[in.Step] = how
	switch {
	case in.Step == migration.Swap && how == done:
		n.label = "calico"
	case in.Step == migration.Swap && how == undone:
		n.label = "canal"
	case in.Step == migration.Evict:
		n.cordoned = how == done
	case in.Step == migration.Uncordon && how == done:
		n.cordoned = false
	}
}

// facts are what a preflight finds of the cluster.
func (c *Canal) facts() (*preflight.ClusterFacts, []preflight.NodeFacts) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := &preflight.ClusterFacts{Name: c.Cluster, DaemonSets: preflight.Known([]preflight.CNISet{{Namespace: "kube-system", Name: "canal", Flavour: preflight.FlavourCanal}})}
	var nodes []preflight.Node
	var pods []preflight.Pod
	var measured []preflight.NodeFacts
	for i, n := range c.nodes {
		nodes = append(nodes, preflight.Node{Name: n.name, ControlPlane: n.control, PodCIDRs: []string{fmt.Sprintf("10.42.%d.0/24", i)}})
		pods = append(pods, preflight.Pod{Namespace: "shop", Name: "on-" + n.name, Node: n.name})
		found := preflight.Known(preflight.CNIDir{
			Configs: []preflight.CNIConfig{{File: "10-canal.conflist", Name: "k8s-pod-network", Plugins: []string{"calico"}, IPAM: "host-local"}},
		})
		if n.drain {
			// Where it is not known whether the pods can stay, they go.
			found = preflight.Unknown[preflight.CNIDir]("no answer")
		}
		measured = append(measured, preflight.NodeFacts{Node: n.name, CNI: found})
	}
	f.Nodes, f.Pods = preflight.Known(nodes), preflight.Known(pods)
	return f, measured
}

// Plan is the plan that the model makes.
func (c *Canal) Plan(target preflight.Target, opts migration.Options) migration.Plan {
	facts, measured := c.facts()
	c.mu.Lock()
	c.target, c.all = target, opts.Mode == migration.Drain
	c.mu.Unlock()
	return migration.Make(facts, measured, &preflight.Report{Target: resolved(target)}, opts)
}

// resolved is a target with what a preflight fills in.
func resolved(t preflight.Target) preflight.Target {
	t.Version = cmp.Or(t.Version, "v3.28.5")
	t.Encapsulation = cmp.Or(t.Encapsulation, preflight.VXLAN)
	t.VNI = cmp.Or(t.VNI, preflight.DefaultVNI)
	t.Port = cmp.Or(t.Port, preflight.DefaultPort)
	t.BlockSize = cmp.Or(t.BlockSize, preflight.DefaultBlockSize)
	t.PodCIDR = cmp.Or(t.PodCIDR, "10.42.0.0/16")
	t.MTU = cmp.Or(t.MTU, 1450)
	return t
}
