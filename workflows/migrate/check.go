package migrate

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"slices"
	"strings"

	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/migrate"
	checks "portcullis.dev/portcullis/activities/preflight"
	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/workflows/call"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/options"
	"portcullis.dev/portcullis/workflows/orders"
	"portcullis.dev/portcullis/workflows/planning"
	"portcullis.dev/portcullis/workflows/story"
)

// namedAtMost is how many reasons a refusal names.
const namedAtMost = 5

// check decides whether the migration may begin, claims the cluster, and measures
// the wire. Nothing else is changed.
func (m *cluster) check(ctx workflow.Context) error {
	if err := workflow.UpsertTypedSearchAttributes(ctx, contract.AttrCluster.ValueSet(m.in.Cluster)); err != nil {
		m.log.Warn("search attributes not set", "error", err)
	}
	m.enter(ctx, contract.StateChecking)
	if err := m.asked(ctx); err != nil {
		return err
	}
	if err := m.find(); err != nil {
		return err
	}
	plan, err := m.plan()
	if err != nil {
		return err
	}
	if err := m.agreed(plan); err != nil {
		return err
	}
	m.note(ctx, "", "planned "+story.Count(len(plan.Nodes), "node")+", plan "+call.Short(plan.Hash))
	m.state.Claimed = true // as far as is known: giving back what was not taken does no harm
	if err := call.Claim(m.work, m.claim(ctx)); err != nil {
		return err
	}
	if err := m.baseline(ctx); err != nil {
		return err
	}
	for _, n := range plan.Nodes {
		m.state.Nodes = append(m.state.Nodes, contract.NodeState{
			Name: n.Name, ControlPlane: n.ControlPlane, Mode: n.Mode, State: contract.NodePending,
		})
	}
	m.state.Plan = plan
	return m.work.Err()
}

// asked refuses a start that cannot be meant.
func (m *cluster) asked(ctx workflow.Context) error {
	switch {
	case strings.TrimSpace(m.in.StartedBy) == "":
		return errs.Invalid("say who starts the migration of %s: startedBy is empty", m.in.Cluster)
	case len(m.in.Plan) < contract.MinEvidence:
		return errs.Invalid("a start names the plan that was read, with at least %d characters of its hash: portcullis migrate plan %s",
			contract.MinEvidence, m.in.Cluster)
	case len(m.in.Manifest) == 0:
		return errs.Invalid("the migration of %s needs Calico's manifest", m.in.Cluster)
	}
	sum, err := manifestHash(m.in.Manifest)
	if err != nil {
		return errs.Invalid("Calico's manifest for %s cannot be read: %v", m.in.Cluster, err)
	}
	if planned := m.in.Options.Manifest; planned != "" && planned != sum {
		return errs.Invalid("Calico's manifest for %s is not the one that was planned with: it is %s, and not %s",
			m.in.Cluster, call.Short(sum), call.Short(planned))
	}
	if problem := look(ctx, m.in.Options.Windows).Problem; problem != "" {
		return errs.Invalid("the windows of the migration of %s: %s", m.in.Cluster, problem)
	}
	return nil
}

// maxManifest bounds what a manifest may unpack to, in bytes.
const maxManifest = 16 << 20

// manifestHash is the SHA-256, in hex, of a compressed manifest.
func manifestHash(packed []byte) (string, error) {
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return "", err
	}
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(r, maxManifest+1))
	switch {
	case err != nil:
		return "", err
	case n > maxManifest:
		return "", errs.Invalid("more than %d bytes", maxManifest)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// find finds the cluster, and makes sure of its node agents.
func (m *cluster) find() error {
	inventory, err := call.Clusters(m.work)
	if err != nil {
		return err
	}
	found, err := planning.Named(inventory, []string{m.in.Cluster}, false)
	if err != nil {
		return err
	}
	m.state.Cluster = found[0]
	if c := found[0]; !c.Connected {
		return errs.Unavailable("cluster %s is not connected: %s", c.Name, cmp.Or(c.Reason, "no reason given"))
	}
	// What the nodes without an agent are is unknown, and so in the plan.
	_, err = call.EnsureAgent(m.work, found[0], options.AgentTimeout)
	if errs.TypeOf(err) == errs.TypeDeadline {
		return nil
	}
	return err
}

func (m *cluster) plan() (*migration.Plan, error) {
	planned, err := call.PlanMigration(m.work, checks.PlanInput{
		Input: checks.Input{Cluster: m.state.Cluster, Target: m.in.Target}, Options: m.in.Options,
	})
	if err != nil {
		return nil, err
	}
	return &planned.Plan, nil
}

// agreed refuses a plan that cannot be carried out, or is not the one that was agreed to.
func (m *cluster) agreed(plan *migration.Plan) error {
	where := m.state.Cluster.Name
	if len(plan.Refused) > 0 {
		return errs.Preflight("cluster %s cannot be migrated as it is: %s", where, story.Some(plan.Refused, namedAtMost))
	}
	if len(plan.Nodes) == 0 {
		return errs.Preflight("cluster %s has no nodes to migrate", where)
	}
	if !strings.HasPrefix(plan.Hash, strings.ToLower(m.in.Plan)) {
		return errs.Conflict("the plan of cluster %s is not %s any more: the cluster, or what was asked for, is not as it was; run portcullis migrate plan %s again, and start with what it says",
			where, call.Short(m.in.Plan), where)
	}
	if missing := plan.Missing(m.in.Acknowledge); len(missing) > 0 {
		var lines []string
		for _, a := range missing {
			lines = append(lines, a.ID+" ("+a.Why+")")
		}
		return errs.Invalid("the migration of cluster %s must be started with an acknowledgement of: %s", where, strings.Join(lines, "; "))
	}
	return nil
}

// baseline finds what can be probed, and measures it.
func (m *cluster) baseline(ctx workflow.Context) error {
	requirements, err := call.Requirements(m.work, migrate.RequirementsInput{Cluster: m.state.Cluster, Given: m.in.Probes})
	if err != nil {
		return err
	}
	if len(requirements) == 0 {
		return errs.Failed("there is nothing on cluster %s that could be probed, so that nothing could be proven; start with the probes of a pipeline", m.state.Cluster.Name)
	}
	m.state.Requirements = requirements
	m.in.Probes = nil
	if m.state.Baseline, err = m.wire().before(m.work); err != nil {
		return err
	}
	m.note(ctx, "", "measured "+story.Count(len(requirements), "requirement")+" before, evidence "+call.Short(m.state.Baseline.Hashes[m.state.Cluster.Name]))
	return nil
}

// refuse ends a migration that was not begun: ended by a person, or refused.
func (m *cluster) refuse(ctx workflow.Context, err error) (contract.MigrateResult, error) {
	ended := m.isEnded(err)
	if ended {
		m.refused = errs.Failed("the migration of %s was ended before it was begun: %s", m.in.Cluster, m.endingLine())
		m.state.State, m.state.Reason = contract.StateOriginal, m.endingLine()
		return m.finish(ctx), nil
	}
	m.refused = story.Final(err)
	m.state.State, m.state.Reason = contract.StateFailed, story.Reason(err)
	m.note(ctx, "", "refused: "+m.state.Reason)
	m.unclaim(ctx)
	m.over = true
	m.enter(ctx, contract.StateFailed)
	m.count(ctx)
	orders.Drain(ctx, m.log)
	return contract.MigrateResult{}, m.refused
}

// mode of a node that was not there when the plan was made: the one that all
// others have, or in place.
func (m *cluster) mode() migration.Mode {
	if m.state.Plan == nil || len(m.state.Plan.Nodes) == 0 {
		return migration.InPlace
	}
	drained := func(n migration.Node) bool { return n.Mode == migration.Drain }
	if slices.ContainsFunc(m.state.Plan.Nodes, func(n migration.Node) bool { return !drained(n) }) {
		return migration.InPlace
	}
	return migration.Drain
}
