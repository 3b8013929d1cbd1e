package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"google.golang.org/protobuf/types/known/timestamppb"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/probes/migration/manifest"
	"portcullis.dev/portcullis/probes/preflight"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/contract"
)

const goodManifest = "../../../probes/migration/manifest/testdata/calico.yaml"

var somePlanHash = strings.Repeat("a1b2", 16)

func somePlan() contract.PlanMigrationResult {
	return contract.PlanMigrationResult{
		Plan: migration.Plan{
			Cluster: "prod", Kubernetes: "v1.30.4+rke2r1", Distribution: migration.RKE2,
			From:   preflight.CNISet{Namespace: "kube-system", Name: "rke2-canal", Calico: "v3.28.5"},
			Target: preflight.Target{Version: "v3.28.5", Encapsulation: preflight.VXLAN, VNI: 4096, Port: 4789, PodCIDR: "10.42.0.0/16", BlockSize: 26, MTU: 1450},
			Nodes: []migration.Node{
				{Name: "prod-2", Mode: migration.InPlace, Pods: 7, Estimate: 45 * time.Second},
				{Name: "prod-1", ControlPlane: true, Mode: migration.Drain, Why: "its CNI configuration could not be read", Pods: 9, Moved: 3, Estimate: 75 * time.Second},
			},
			Disturbed:   []migration.Disturbance{{Node: "prod-1", Workload: "shop/statefulset/db", How: "it is the only replica: down until it runs elsewhere"}},
			Vendor:      migration.Vendor{Position: "SUSE does not support changing the CNI of a running cluster, and says to rebuild it", Source: "RKE2 documentation, Basic Network Options"},
			Acknowledge: []migration.Acknowledgement{{ID: migration.AckVendor, Why: "SUSE does not support it"}},
			Refused:     []string{"cni-addon: HelmChart rke2-canal brings it back; take the chart away first"},
			Estimate:    2 * time.Minute, Hash: somePlanHash,
		},
		Preflight: preflight.Counts{Pass: 90, Warn: 3, Fail: 1},
	}
}

// startable is a plan with nothing in the way.
func startable() contract.PlanMigrationResult {
	p := somePlan()
	p.Plan.Refused, p.Plan.Manifest, p.Preflight.Fail = nil, strings.Repeat("c", 64), 0
	return p
}

func planning(p contract.PlanMigrationResult) *fakeTemporal {
	return &fakeTemporal{results: map[string]any{contract.PlanMigrationWorkflow: p}}
}

// golden compares text with a file, and sees that it fits a terminal.
func golden(t *testing.T, file, text string) {
	t.Helper()
	path := filepath.Join("testdata", file)
	if *updatePreflight {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), text)
	for line := range strings.SplitSeq(text, "\n") {
		require.LessOrEqual(t, len([]rune(line)), preflightWidth, line)
	}
}

func TestMigratePlanGolden(t *testing.T) {
	r := run(t, planning(somePlan()), "migrate", "plan", "prod")
	require.Equal(t, exitPreflight, r.code, r.errors)
	require.Contains(t, r.errors, "prod cannot be migrated as it is: 1 thing to mend")
	golden(t, "migrate-plan.txt", r.out)
}

func TestMigratePlanEndsWithTheStart(t *testing.T) {
	args := []string{"migrate", "plan", "c-m-abc", "--calico", goodManifest, "--canary", "--parallel", "2", "--max-failures", "1", "--first", "prod-2,prod-1",
		"--window", "mon-fri 22:00-05:00 Europe/Berlin", "--window", "sat,sun 00:00-24:00", "--temporal-namespace", "ops"}
	f := planning(startable())
	r := run(t, f, args...)
	require.Zero(t, r.code, r.errors)
	golden(t, "migrate-plan-start.txt", r.out)

	in := f.inputs[0].(contract.PlanMigrationInput)
	text, err := os.ReadFile(goodManifest)
	require.NoError(t, err)
	require.Equal(t, "v3.28.5", in.Target.Version)
	require.Equal(t, []string{"docker.io/calico/cni:v3.28.5", "docker.io/calico/node:v3.28.5"}, in.Target.Images)
	require.Equal(t, migration.Options{
		First: []string{"prod-2", "prod-1"}, Manifest: manifest.Hash(text), Parallel: 2, MaxFailures: 1, Canary: true,
		Windows: []migration.Window{
			{Days: []string{"mon", "tue", "wed", "thu", "fri"}, From: "22:00", Until: "05:00", Zone: "Europe/Berlin"},
			{Days: []string{"sat", "sun"}, From: "00:00", Until: "24:00"},
		},
	}, in.Options)

	// The printed command, given as it stands, starts what was planned.
	_, command, found := strings.Cut(r.out, "to start it:\n")
	require.True(t, found)
	words := shellWords(t, strings.ReplaceAll(command, "\\\n", " "))
	require.Equal(t, []string{"portcullis", "migrate", "start", "prod"}, words[:4])
	s := starting(nil)
	r = run(t, s, words[1:]...)
	require.Zero(t, r.code, r.errors)
	started := s.inputs[1].(contract.MigrateInput)
	require.Equal(t, in.Target, started.Target)
	require.Equal(t, in.Options, started.Options)
	require.Equal(t, somePlanHash, started.Plan)
	require.Equal(t, []string{migration.AckVendor}, started.Acknowledge)
}

// shellWords splits as a shell does, as far as quote writes.
func shellWords(t *testing.T, text string) (words []string) {
	t.Helper()
	var word strings.Builder
	quoted, begun := false, false
	for _, r := range text {
		switch {
		case r == '\'':
			quoted, begun = !quoted, true
		case !quoted && (r == ' ' || r == '\n'):
			if begun {
				words = append(words, word.String())
			}
			word.Reset()
			begun = false
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	require.False(t, quoted, text)
	return words
}

func TestMigratePlanWithoutAManifestSaysWhatAStartNeeds(t *testing.T) {
	p := startable()
	p.Plan.Manifest = ""
	r := run(t, planning(p), "migrate", "plan", "prod")
	require.Zero(t, r.code, r.errors)
	require.Contains(t, r.out, "plan again with --calico FILE")
	require.NotContains(t, r.out, "migrate start")
}

func TestMigratePlanForMachines(t *testing.T) {
	r := run(t, planning(startable()), "migrate", "plan", "prod", "-o", "json")
	require.Equal(t, exitOK, r.code, r.errors)
	var got contract.PlanMigrationResult
	require.NoError(t, json.Unmarshal([]byte(r.out), &got))
	require.Equal(t, somePlanHash, got.Plan.Hash)
	require.Equal(t, migration.Drain, got.Plan.Nodes[1].Mode)
}

func TestMigrateRefusesBadFlags(t *testing.T) {
	plan := func(more ...string) []string { return append([]string{"migrate", "plan", "a"}, more...) }
	start := func(more ...string) []string { return append([]string{"migrate", "start", "a"}, more...) }
	for want, args := range map[string][]string{
		"accepts 1 arg(s), received 0":    {"migrate", "plan"},
		"accepts 1 arg(s), received 2":    {"migrate", "plan", "a", "b"},
		"--mode is":                       plan("--mode", "fast"),
		"--vni -1":                        plan("--vni", "-1"),
		"--parallel is 101":               plan("--parallel", "101"),
		"--max-failures is -1":            plan("--max-failures", "-1"),
		`--window "later": write it like`: plan("--window", "later"),
		"leave the flag out":              plan("--calico", goodManifest, "--calico-version", "v3.29.0"),
		"brings up vxlan":                 plan("--calico", goodManifest, "--encapsulation", "ipip"),
		"name the plan":                   start("--calico", goodManifest),
		"at least its first 12":           start("--calico", goodManifest, "--plan", "abc"),
		"give Calico's manifest":          start("--plan", somePlanHash),
		"--limit is 0":                    {"migrate", "list", "--limit", "0"},
		"say which evidence you approve":  {"migrate", "approve", "a"},
	} {
		r := run(t, nil, args...)
		require.Equal(t, exitUsage, r.code, "%v: %s", args, r.errors)
		require.Contains(t, r.errors, want)
		requireOneLine(t, r.errors)
	}
}

func TestMigrateNamesTheLinesOfABadManifest(t *testing.T) {
	text, err := os.ReadFile(goodManifest)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "calico.yaml")
	bad := strings.NewReplacer(`calico_backend: "vxlan"`, `calico_backend: "bird"`, `veth_mtu: "0"`, `veth_mtu: "x"`).Replace(string(text))
	require.NoError(t, os.WriteFile(file, []byte(bad), 0o600))
	r := run(t, nil, "migrate", "plan", "prod", "--calico", file)
	require.Equal(t, exitInvalid, r.code)
	require.Contains(t, r.errors, "portcullis: "+file+":28:1: calico_backend is \"bird\"")
	require.Contains(t, r.errors, file+":29:1: veth_mtu")
	r = run(t, nil, "migrate", "plan", "prod", "--calico", file, "-o", "json")
	require.Contains(t, r.errors, `"line":28`)
	require.Equal(t, exitNotFound, run(t, nil, "migrate", "plan", "prod", "--calico", file+"x").code)
}

// starting has a cluster prod that can be migrated.
func starting(refused error) *fakeTemporal {
	return &fakeTemporal{
		results: map[string]any{contract.InventoryWorkflow: contract.InventoryResult{Clusters: []rancher.Cluster{
			{Name: "dev", ID: "c-m-dev"}, {Name: "prod", ID: "c-m-prod", Connected: true},
		}}},
		updates: func(name string, _ []any) (any, error) {
			if name == contract.UpdatePlanned && refused == nil {
				return startable().Plan, nil
			}
			return nil, refused
		},
	}
}

func startArgs(cluster string, more ...string) []string {
	return append([]string{"migrate", "start", cluster, "--plan", somePlanHash, "--calico", goodManifest, "--acknowledge", migration.AckVendor}, more...)
}

func TestMigrateStart(t *testing.T) {
	for _, cluster := range []string{"prod", "c-m-prod"} {
		f := starting(nil)
		r := run(t, f, startArgs(cluster, "--pipeline", goodPipeline, "--by", "kim")...)
		require.Zero(t, r.code, r.errors)
		golden(t, "migrate-start.txt", r.out)

		o, in := f.started[1], f.inputs[1].(contract.MigrateInput)
		require.Equal(t, "migrate/prod", o.ID)
		require.Equal(t, "migrate prod from Canal to Calico v3.28.5", o.StaticSummary)
		require.Contains(t, o.StaticDetails, somePlanHash)
		name, _ := o.TypedSearchAttributes.GetKeyword(contract.AttrCluster)
		require.Equal(t, "prod", name)
		state, _ := o.TypedSearchAttributes.GetKeyword(contract.AttrState)
		require.Equal(t, string(contract.StateChecking), state)

		require.Equal(t, "prod", in.Cluster)
		require.Equal(t, "kim", in.StartedBy)
		require.Len(t, in.Probes, 3)
		require.NotZero(t, in.Settings.Timeout)
		m, err := manifest.Open(in.Manifest)
		require.NoError(t, err)
		require.Equal(t, in.Options.Manifest, m.SHA256())
	}
}

func TestMigrateStartAsJSON(t *testing.T) {
	r := run(t, starting(nil), startArgs("prod", "-o", "json")...)
	require.Zero(t, r.code, r.errors)
	var out struct {
		WorkflowID string
		Plan       migration.Plan
	}
	require.NoError(t, json.Unmarshal([]byte(r.out), &out))
	require.Equal(t, "migrate/prod", out.WorkflowID)
	require.Equal(t, somePlanHash, out.Plan.Hash)
}

func TestMigrateStartIsRefused(t *testing.T) {
	f := starting(nil)
	f.startErrors, f.migration = []error{nil, already()}, moving()
	r := run(t, f, startArgs("prod")...)
	require.Equal(t, exitConflict, r.code)
	requireOneLine(t, r.errors)
	for _, part := range []string{"run-1", "migrating", "alex", "12m00s ago", "portcullis migrate abort prod"} {
		require.Contains(t, r.errors, part)
	}

	r = run(t, starting(nil), startArgs("other")...)
	require.Equal(t, exitNotFound, r.code)
	require.Contains(t, r.errors, `no cluster "other"`)

	r = run(t, starting(errs.Conflict("the plan of cluster prod is not a1b2 any more")), startArgs("prod")...)
	require.Equal(t, exitConflict, r.code)
	require.Contains(t, r.errors, "not a1b2 any more")

	// What a plan would refuse ends as the plan does.
	r = run(t, starting(errs.Preflight("cluster prod cannot be migrated as it is: there is no Canal")), startArgs("prod")...)
	require.Equal(t, exitPreflight, r.code)
	require.Equal(t, "portcullis: cluster prod cannot be migrated as it is: there is no Canal\n", r.errors)

	// It ended before it could be asked.
	f = starting(already())
	f.closed, f.resultErr = true, map[string]error{contract.MigrateWorkflow: errs.Invalid("must be started with an acknowledgement of: single-node")}
	r = run(t, f, startArgs("prod")...)
	require.Equal(t, exitInvalid, r.code)
	require.Contains(t, r.errors, "single-node")
}

func TestMigrateStartWithoutADaemonIsTakenBack(t *testing.T) {
	f := starting(nil)
	f.unattended = true
	r := run(t, f, startArgs("prod")...)
	require.Equal(t, exitUnavailable, r.code)
	require.Contains(t, r.errors, "no Portcullis server is polling")
}

// moving is a migration that waits for an approval after its canary node.
func moving() *contract.MigrateStatus {
	p := startable().Plan
	return &contract.MigrateStatus{MigrateState: contract.MigrateState{
		State: contract.StateMigrating, StartedBy: "alex", StartedAt: noon.Add(-12 * time.Minute), Cluster: rancher.Cluster{Name: "prod"}, Plan: &p,
		Steps:    migration.Preparation(),
		Baseline: &contract.BaselineBatch{Data: []byte("much")},
		Nodes: []contract.NodeState{
			{Name: "prod-2", Mode: migration.InPlace, State: contract.NodeCalico, Evidence: strings.Repeat("3f9c2a61d0b4", 5),
				StartedAt: noon.Add(-2 * time.Minute), FinishedAt: noon.Add(-80 * time.Second), Own: 1234 * time.Millisecond},
			{Name: "prod-1", ControlPlane: true, Mode: migration.Drain, State: contract.NodePending},
		},
		Log: []contract.LogEntry{{At: noon.Add(-12 * time.Minute), Message: "planned 2 nodes"}, {At: noon.Add(-80 * time.Second), Environment: "prod-2", Message: "the wire is as before"}},
	}}
}

func TestMigrateStatus(t *testing.T) {
	f := &fakeTemporal{migration: moving()}
	f.migration.State = contract.StateApproval
	f.migration.Gate = &contract.MigrateGate{Node: "prod-2", Evidence: strings.Repeat("50ce69b5ca6d", 5), Since: noon.Add(-time.Minute)}
	r := run(t, f, "migrate", "status", "prod")
	require.Zero(t, r.code, r.errors)
	golden(t, "migrate-status.txt", r.out)

	r = run(t, f, "migrate", "status", "prod", "-o", "json")
	require.Zero(t, r.code, r.errors)
	var got struct {
		Name    string
		State   string
		Running bool
		Nodes   []contract.NodeState
	}
	require.NoError(t, json.Unmarshal([]byte(r.out), &got))
	require.Equal(t, "prod", got.Name)
	require.Equal(t, "awaiting-approval", got.State)
	require.True(t, got.Running)
	require.Len(t, got.Nodes, 2)
	require.NotContains(t, r.out, "baseline")
}

func TestMigrateStatusOfNone(t *testing.T) {
	r := run(t, &fakeTemporal{missing: true}, "migrate", "status", "prod")
	require.Equal(t, exitNotFound, r.code)
	require.Contains(t, r.errors, "no migration of prod")
}

func ended(state contract.State, reason string) *fakeTemporal {
	return &fakeTemporal{closed: true, results: map[string]any{contract.MigrateWorkflow: contract.MigrateResult{
		Cluster: "prod", State: state, Reason: reason, Proven: true, StartedAt: noon.Add(-time.Hour), Nodes: moving().Nodes, Log: moving().Log,
	}}}
}

func TestMigrateWatchEndsWithTheResult(t *testing.T) {
	r := run(t, ended(contract.StateMigrated, ""), "migrate", "watch", "prod")
	require.Zero(t, r.code, r.errors)
	require.Contains(t, r.out, "prod: migrated")

	f := ended(contract.StateMigrated, "dns: dropped")
	result := f.results[contract.MigrateWorkflow].(contract.MigrateResult)
	result.Proven = false
	f.results[contract.MigrateWorkflow] = result
	r = run(t, f, "migrate", "watch", "prod")
	require.Equal(t, exitNotPassed, r.code)
	require.Contains(t, r.errors, "migrated: dns: dropped")

	r = run(t, ended(contract.StateOriginal, "aborted by kim"), "migrate", "watch", "prod")
	require.Equal(t, exitNotPassed, r.code)
	require.Contains(t, r.errors, "original: aborted by kim")

	r = run(t, &fakeTemporal{closed: true, resultErr: map[string]error{contract.MigrateWorkflow: errs.Conflict("a rollout touches prod")}}, "migrate", "watch", "prod")
	require.Equal(t, exitConflict, r.code)
	require.Contains(t, r.errors, "a rollout touches prod")

	r = run(t, ended(contract.StateMigrated, ""), "migrate", "watch", "prod", "-o", "json")
	require.Zero(t, r.code, r.errors)
	require.True(t, json.Valid([]byte(r.out)), r.out)
	require.Equal(t, 1, strings.Count(r.out, "\n"))
}

func TestMigrateDecisions(t *testing.T) {
	for verb, want := range map[string]any{
		"approve": contract.Decision{By: "sam", Why: "seen", Evidence: "50ce69b5ca6d", Via: contract.ViaCLI, Known: contract.KnownSaid},
		"reject":  contract.Decision{By: "sam", Why: "seen", Via: contract.ViaCLI, Known: contract.KnownSaid},
		"pause":   contract.Order{By: "sam", Why: "seen", Via: contract.ViaCLI, Known: contract.KnownSaid},
		"resume":  contract.Order{By: "sam", Why: "seen", Via: contract.ViaCLI, Known: contract.KnownSaid},
		"abort":   contract.Order{By: "sam", Why: "seen", Via: contract.ViaCLI, Known: contract.KnownSaid},
	} {
		var name string
		var given []any
		f := &fakeTemporal{migration: moving(), updates: func(n string, args []any) (any, error) {
			name, given = n, args
			return contract.MigrateGate{}, nil
		}}
		args := []string{"migrate", verb, "prod", "--why", "seen"}
		if verb == "approve" {
			args = append(args, "--evidence", "50ce69b5ca6d")
		}
		r := run(t, f, args...)
		require.Zero(t, r.code, r.errors)
		require.Equal(t, verb, name)
		require.Equal(t, want, given[0])
		require.Contains(t, r.out, "prod: ")
		require.Contains(t, r.out, "(migrating)")

		f.updates = func(string, []any) (any, error) { return nil, errs.Conflict("it is over") }
		require.Equal(t, exitConflict, run(t, f, args...).code)
	}
}

func TestMigrateList(t *testing.T) {
	f := &fakeTemporal{listed: []*workflowpb.WorkflowExecutionInfo{
		{Execution: &commonpb.WorkflowExecution{WorkflowId: "migrate/prod", RunId: "r1"}, Status: enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING,
			StartTime: timestamppb.New(noon.Add(-time.Minute))},
		{Execution: &commonpb.WorkflowExecution{WorkflowId: "migrate/dev", RunId: "r0"}, Status: enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED,
			StartTime: timestamppb.New(noon.Add(-time.Hour)), CloseTime: timestamppb.New(noon.Add(-time.Minute))},
	}}
	r := run(t, f, "migrate", "list", "--cluster", "o'neil", "--running")
	require.Zero(t, r.code, r.errors)
	require.Equal(t, "WorkflowType = 'MigrateCluster' AND ExecutionStatus != 'ContinuedAsNew' AND PortcullisCluster = 'o''neil' AND ExecutionStatus = 'Running'", f.query)
	golden(t, "migrate-list.txt", r.out)
	r = run(t, f, "migrate", "list", "-o", "json")
	require.Contains(t, r.out, `"cluster": "dev"`)
}
