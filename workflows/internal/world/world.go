// Package world is a small model of everything behind the activities: a
// repository, GitRepos with clusters, and wires that follow what is live. Tests
// and the recorder of histories run the workflows against it.
package world

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/worker"

	"portcullis.dev/portcullis/activities/deliver"
	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/source"
	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/probes"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/contract"
)

// The revisions of the model: Old is verified everywhere at the start, Older
// before it; New is what is rolled out.
var (
	Older = strings.Repeat("a", 40)
	Old   = strings.Repeat("b", 40)
	New   = strings.Repeat("c", 40)
)

// World is the model. Its zero parts mean that all goes well.
type World struct {
	// Pipeline is what is rolled out.
	Pipeline contract.Pipeline
	// Bad says that the revision breaks a requirement on the cluster.
	Bad func(cluster, revision string) bool
	// Hook, when set, is called after an activity had its effect, with its name
	// and its subject (a GitRepo, a cluster, or the pipeline); an error fails it.
	Hook func(ctx context.Context, name, subject string) error
	// Later, when set, runs f after d of the test's clock; then soaks take their
	// time by it. Complete ends such a soak.
	Later    func(d time.Duration, f func())
	Complete func(workflowID string, token []byte, result any)
	// Canal is the cluster that is migrated, where there is one.
	Canal *Canal
	// Findings are what Inspect finds.
	Findings []source.Finding
	// Drifting has the name of an extra policy by cluster, and Moving says of a GitRepo how
	// a rollout is changing it.
	Drifting, Moving map[string]string
	// Gone has the name of a policy that is missing by cluster, until Fleet applies again
	// what its GitRepo delivers; on Stubborn clusters it stays so.
	Gone     map[string]string
	Stubborn map[string]bool
	// Groups are Slack's user groups and the users in them.
	Groups map[string][]string

	mu       sync.Mutex
	plans    []deliver.EnvironmentPlan
	live     map[string]string
	staged   map[string]string
	verified map[string]string
	cluster  map[string]string
	noise    map[string]string
	held     string
	calls    []string
	posts    []*SlackPost
	writes   int
}

// Env describes one environment of a world: its GitRepos (units) with a number
// of clusters each.
type Env struct {
	Name     string
	Waves    []int
	Approval int
	Timeout  time.Duration
	Soak     time.Duration
	WaveSoak time.Duration
	// Preflight asks for one at the gate.
	Preflight bool
}

// Make builds a world in which Old is live and verified everywhere.
func Make(envs ...Env) *World {
	w := &World{
		live: map[string]string{}, staged: map[string]string{}, verified: map[string]string{},
		cluster: map[string]string{}, noise: map[string]string{},
	}
	w.Pipeline = contract.Pipeline{
		APIVersion: contract.APIVersion,
		Kind:       contract.Kind,
		Metadata:   contract.Metadata{Name: "policies"},
		Spec: contract.Spec{
			Source: rancher.Source{Repo: "https://git.example.com/policies", Branch: "main"},
			Probes: []probes.Requirement{{
				Name: "web to api", Expect: probes.Allow, From: probes.From{Namespace: "web"},
				To: probes.To{Namespace: "api", Selector: "app == 'api'", Port: 8443},
			}},
		},
	}
	for _, e := range envs {
		w.add(e)
	}
	return w
}

func (w *World) add(e Env) {
	env := rancher.Environment{Name: e.Name, Gate: rancher.Gate{
		Soak:      metav1.Duration{Duration: e.Soak},
		Approvals: rancher.Approvals{Required: e.Approval, Timeout: metav1.Duration{Duration: e.Timeout}},
		Preflight: e.Preflight,
	}}
	plan := deliver.EnvironmentPlan{Name: e.Name, Hash: "plan-of-" + e.Name}
	if len(e.Waves) == 0 {
		e.Waves = []int{1}
	}
	for i, n := range e.Waves {
		wave := fmt.Sprintf("wave%d", i)
		env.Waves = append(env.Waves, rancher.Wave{Name: wave, Soak: metav1.Duration{Duration: e.WaveSoak}})
		u := rancher.Unit{
			Namespace: "fleet-default", GitRepo: "policies-" + e.Name + "-" + wave, Wave: wave,
			Before: rancher.Before{Kind: rancher.RestoreVerified, Revision: Old, Current: Old, Previous: Older},
		}
		for j := range n {
			name := fmt.Sprintf("%s-%d-%d", e.Name, i, j)
			u.Clusters = append(u.Clusters, rancher.Cluster{ID: "c-" + name, Name: name, Connected: true})
			w.cluster[name] = u.GitRepo
		}
		w.live[u.GitRepo], w.verified[u.GitRepo] = Old, Old
		plan.Units = append(plan.Units, u)
	}
	w.plans = append(w.plans, plan)
	w.Pipeline.Spec.Environments = append(w.Pipeline.Spec.Environments, env)
}

// Register registers the model's activities under the names of the real ones.
func (w *World) Register(r worker.ActivityRegistry) {
	r.RegisterActivityWithOptions(&Source{w}, activity.RegisterOptions{Name: "source."})
	r.RegisterActivityWithOptions(&Deliver{w}, activity.RegisterOptions{Name: "deliver."})
	r.RegisterActivityWithOptions(&Verify{w}, activity.RegisterOptions{Name: "verify."})
	r.RegisterActivityWithOptions(&Preflight{w}, activity.RegisterOptions{Name: "preflight."})
	r.RegisterActivityWithOptions(&Migrate{w}, activity.RegisterOptions{Name: "migrate."})
	r.RegisterActivityWithOptions(&Audit{w}, activity.RegisterOptions{Name: "audit."})
	r.RegisterActivityWithOptions(&Slack{w}, activity.RegisterOptions{Name: "slack."})
}

// Live is the revision that a GitRepo has live.
func (w *World) Live(gitrepo string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.live[gitrepo]
}

// Verified is the revision that is recorded as verified on a GitRepo.
func (w *World) Verified(gitrepo string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.verified[gitrepo]
}

// Staged is the revision that waits, paused, on a GitRepo, or "".
func (w *World) Staged(gitrepo string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.staged[gitrepo]
}

// Held is why the pipeline is held, or "".
func (w *World) Held() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.held
}

// SetHeld holds the pipeline.
func (w *World) SetHeld(reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held = reason
}

// Disturb changes what is measured on a cluster, whatever is live.
func (w *World) Disturb(cluster, noise string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.noise[cluster] = noise
}

// Writes counts writes to GitRepos.
func (w *World) Writes() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.writes
}

// Calls are the activities that ran, as "Name subject", in order.
func (w *World) Calls() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.calls)
}

// Units are all units of the world's plan.
func (w *World) Units() []rancher.Unit {
	var out []rancher.Unit
	for _, p := range w.plans {
		out = append(out, p.Units...)
	}
	return out
}

func (w *World) did(ctx context.Context, name, subject string, write bool) error {
	w.mu.Lock()
	w.calls = append(w.calls, name+" "+subject)
	if write {
		w.writes++
	}
	hook := w.Hook
	w.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(ctx, name, subject)
}

func (w *World) set(m map[string]string, key, value string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if value == "" {
		delete(m, key)
		return
	}
	m[key] = value
}

// Source stands in for source.Activities.
type Source struct{ w *World }

// Resolve knows New, Old and Older, and that New is the head.
func (s *Source) Resolve(ctx context.Context, in source.ResolveInput) (*source.Revision, error) {
	commit := in.Ref
	switch commit {
	case "", "main":
		commit = New
	case New, Old, Older:
	default:
		return nil, errs.NotFound("revision %s is not on branch %s", in.Ref, in.Source.Branch)
	}
	return &source.Revision{Commit: commit, Subject: "Let web reach api", Author: "dev", Email: "dev@example.com"}, s.w.did(ctx, "Resolve", commit, false)
}

// Inspect finds the world's findings, and one change.
func (s *Source) Inspect(ctx context.Context, in source.InspectInput) (*source.Inspection, error) {
	out := &source.Inspection{Findings: s.w.Findings, Changes: map[string][]source.Change{}}
	for _, since := range in.Since {
		out.Changes[since] = []source.Change{{Path: "web/policy.yaml", Kind: "modified", Objects: []string{"NetworkPolicy/web"}}}
	}
	return out, s.w.did(ctx, "Inspect", in.Commit, false)
}

// Deliver stands in for deliver.Activities.
type Deliver struct{ w *World }

// Clusters lists all clusters.
func (d *Deliver) Clusters(ctx context.Context) ([]rancher.Cluster, error) {
	var out []rancher.Cluster
	for _, u := range d.w.Units() {
		out = append(out, u.Clusters...)
	}
	if c := d.w.Canal; c != nil {
		out = append(out, rancher.Cluster{ID: "c-" + c.Cluster, Name: c.Cluster, Connected: true})
	}
	return out, d.w.did(ctx, "Clusters", "all", false)
}

// Plan returns the world's plan.
func (d *Deliver) Plan(ctx context.Context, in deliver.PlanInput) (*deliver.Plan, error) {
	if held := d.w.Held(); held != "" && !in.AfterRollback && !in.MembersOnly {
		return nil, errs.Held("pipeline %s is held: %s", in.Pipeline, held)
	}
	out := &deliver.Plan{Namespace: "fleet-default", Environments: d.w.plans, Held: d.w.Held(), Hash: "plan"}
	return out, d.w.did(ctx, "Plan", in.Pipeline, false)
}

// Stage pins, paused.
func (d *Deliver) Stage(ctx context.Context, in deliver.UnitInput) (*deliver.Staged, error) {
	d.w.set(d.w.staged, in.Unit.GitRepo, in.Commit)
	out := &deliver.Staged{}
	for _, c := range in.Unit.Clusters {
		out.Clusters = append(out.Clusters, rancher.ClusterStatus{Cluster: c.Name, Changed: true})
	}
	err := d.w.did(ctx, "Stage", in.Unit.GitRepo, true)
	var short *Short
	if errors.As(err, &short) {
		out.Clusters, err = out.Clusters[:len(out.Clusters)-short.By], nil
	}
	return out, err
}

// Short is a hook's error that makes Stage leave out clusters rather than fail.
type Short struct{ By int }

func (s *Short) Error() string { return "short" }

// Release makes what is staged live.
func (d *Deliver) Release(ctx context.Context, in deliver.UnitInput) error {
	if d.w.Staged(in.Unit.GitRepo) == in.Commit {
		d.w.set(d.w.live, in.Unit.GitRepo, in.Commit)
		d.w.set(d.w.staged, in.Unit.GitRepo, "")
	}
	return d.w.did(ctx, "Release", in.Unit.GitRepo, true)
}

// Settle finds everything live.
func (d *Deliver) Settle(ctx context.Context, in deliver.UnitInput) (*deliver.Settled, error) {
	return d.settled(in), d.w.did(ctx, "Settle", in.Unit.GitRepo, false)
}

func (d *Deliver) settled(in deliver.UnitInput) *deliver.Settled {
	out := &deliver.Settled{LiveAt: time.Now()}
	for _, c := range in.Unit.Clusters {
		out.Clusters = append(out.Clusters, rancher.ClusterStatus{
			Cluster: c.Name, Live: true, Manifests: map[string]string{"policies": "s-" + d.w.Live(in.Unit.GitRepo)},
		})
	}
	return out
}

// Restore puts Before back and holds.
func (d *Deliver) Restore(ctx context.Context, in deliver.RestoreInput) (*deliver.Settled, error) {
	if err := d.w.did(ctx, "Restore", in.Unit.GitRepo, true); err != nil {
		return nil, err
	}
	d.w.set(d.w.staged, in.Unit.GitRepo, "")
	d.w.set(d.w.live, in.Unit.GitRepo, in.Unit.Before.Revision)
	d.w.SetHeld(in.Reason)
	return d.settled(in.UnitInput), nil
}

// MarkVerified records.
func (d *Deliver) MarkVerified(ctx context.Context, in deliver.VerifiedInput) error {
	d.w.set(d.w.verified, in.Unit.GitRepo, in.Commit)
	return d.w.did(ctx, "MarkVerified", in.Unit.GitRepo, true)
}

// Hold holds or releases.
func (d *Deliver) Hold(ctx context.Context, in deliver.HoldInput) error {
	d.w.SetHeld(in.Reason)
	return d.w.did(ctx, "Hold", in.Pipeline, false)
}

// Unsure is a hook's error that makes Measure return evidence that tells nothing.
type Unsure struct{ Reason string }

func (u *Unsure) Error() string { return u.Reason }

// Verify stands in for verify.Activities.
type Verify struct{ w *World }

// EnsureAgent finds agents.
func (v *Verify) EnsureAgent(ctx context.Context, in verify.AgentInput) (*verify.Agents, error) {
	return &verify.Agents{Installed: true}, v.w.did(ctx, "EnsureAgent", in.Cluster.Name, false)
}

// RemoveAgent removes them.
func (v *Verify) RemoveAgent(ctx context.Context, in verify.AgentInput) error {
	return v.w.did(ctx, "RemoveAgent", in.Cluster.Name, false)
}

// AgentStatus finds agents.
func (v *Verify) AgentStatus(ctx context.Context, in verify.AgentInput) (*verify.Agents, error) {
	return &verify.Agents{Installed: true}, v.w.did(ctx, "AgentStatus", in.Cluster.Name, false)
}

// Measure sees the wire that the live revision makes.
func (v *Verify) Measure(ctx context.Context, in verify.Input) (*probes.Evidence, error) {
	if err := v.w.did(ctx, "Measure "+string(in.Mode), in.Cluster.Name, false); err != nil {
		var unsure *Unsure
		if errors.As(err, &unsure) {
			return &probes.Evidence{Cluster: in.Cluster.Name, Inconclusive: true, Reason: unsure.Reason, Hash: "of nothing"}, nil
		}
		return nil, err
	}
	if in.Mode == verify.Soak && v.w.Later != nil {
		info := activity.GetInfo(ctx)
		v.w.Later(in.Duration, func() {
			v.w.Complete(info.WorkflowExecution.ID, info.TaskToken, v.w.wire(in.Cluster.Name, in.Requirements))
		})
		return nil, activity.ErrResultPending
	}
	e := v.w.wire(in.Cluster.Name, in.Requirements)
	switch in.Mode {
	case verify.Baseline:
		e.Passed = true
	case verify.Compare:
		e.Passed = in.Want != nil && in.Want.Hash == e.Hash
		if e.Reason = ""; !e.Passed {
			e.Reason = "the flows are not those of the baseline"
		}
	}
	return &e, nil
}

func (w *World) wire(cluster string, requirements []probes.Requirement) probes.Evidence {
	w.mu.Lock()
	defer w.mu.Unlock()
	live := w.live[w.cluster[cluster]]
	good := w.Bad == nil || !w.Bad(cluster, live)
	e := probes.Evidence{Cluster: cluster, Passed: good, Pairs: len(requirements), Rounds: 3, ProbeTime: metav1.Duration{Duration: time.Second}}
	outcome := probes.Allowed
	if !good {
		outcome, e.Reason = probes.Dropped, "web to api: dropped"
	}
	for _, r := range requirements {
		e.Requirements = append(e.Requirements, probes.RequirementResult{
			Name: r.Name, Expect: r.Expect, Passed: good,
			Flows: []probes.Flow{{From: "web/Deployment/web", To: "api/Deployment/api", Outcomes: map[probes.Outcome]int{outcome: 1}}},
		})
	}
	sum := sha256.Sum256([]byte(string(outcome) + live + w.noise[cluster]))
	e.Hash = hex.EncodeToString(sum[:])
	return e
}
