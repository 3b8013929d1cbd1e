package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/probes/preflight"
	"portcullis.dev/portcullis/workflows/contract"
)

func somePlan() contract.PlanMigrationResult {
	return contract.PlanMigrationResult{
		Plan: migration.Plan{
			Cluster: "prod", Kubernetes: "v1.30.4+rke2r1", Distribution: migration.RKE2,
			From:   preflight.CNISet{Namespace: "kube-system", Name: "rke2-canal", Calico: "v3.28.5"},
			Target: preflight.Target{Version: "v3.28.5", Encapsulation: preflight.VXLAN, VNI: 4096, Port: 4789, PodCIDR: "10.42.0.0/16", BlockSize: 26, MTU: 1450},
			Nodes: []migration.Node{
				{Name: "prod-2", Mode: migration.InPlace, Pods: 7, Estimate: 45 * time.Second},
				{Name: "prod-1", ControlPlane: true, Mode: migration.Drain, Why: "its pods hang on flannel, and not on Calico's own interfaces", Pods: 9, Moved: 3, Estimate: 75 * time.Second},
			},
			Disturbed:   []migration.Disturbance{{Node: "prod-1", Workload: "shop/statefulset/db", How: "it is the only replica: down until it runs elsewhere"}},
			Vendor:      migration.Vendor{Position: "SUSE does not support changing the CNI of a running cluster, and says to rebuild it", Source: "RKE2 documentation, Basic Network Options"},
			Acknowledge: []migration.Acknowledgement{{ID: migration.AckVendor, Why: "SUSE does not support it"}},
			Refused:     []string{"cni-addon: HelmChart rke2-canal brings it back; take the chart away first"},
			Estimate:    2 * time.Minute, Hash: strings.Repeat("a", 64),
		},
		Preflight: preflight.Counts{Pass: 90, Warn: 3, Fail: 1},
	}
}

func TestMigratePlanGolden(t *testing.T) {
	r := run(t, &fakeTemporal{results: map[string]any{contract.PlanMigrationWorkflow: somePlan()}}, "migrate", "plan", "prod")
	require.Equal(t, exitPreflight, r.code, r.errors)
	require.Contains(t, r.errors, "prod cannot be migrated as it is: 1 thing to mend")
	path := filepath.Join("testdata", "migrate-plan.txt")
	if *updatePreflight {
		require.NoError(t, os.WriteFile(path, []byte(r.out), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), r.out)
	for line := range strings.SplitSeq(r.out, "\n") {
		require.LessOrEqual(t, len([]rune(line)), preflightWidth, line)
	}
}

func TestMigratePlanForMachines(t *testing.T) {
	plan := somePlan()
	plan.Plan.Refused = nil
	r := run(t, &fakeTemporal{results: map[string]any{contract.PlanMigrationWorkflow: plan}}, "migrate", "plan", "prod", "-o", "json")
	require.Equal(t, exitOK, r.code, r.errors)
	var got contract.PlanMigrationResult
	require.NoError(t, json.Unmarshal([]byte(r.out), &got))
	require.Equal(t, plan.Plan.Hash, got.Plan.Hash)
	require.Equal(t, migration.Drain, got.Plan.Nodes[1].Mode)
}

func TestMigratePlanRefusesBadFlags(t *testing.T) {
	for _, args := range [][]string{{"migrate", "plan"}, {"migrate", "plan", "a", "b"}, {"migrate", "plan", "a", "--mode", "fast"}, {"migrate", "plan", "a", "--vni", "-1"}} {
		r := run(t, nil, args...)
		require.Equal(t, exitUsage, r.code, "%v: %s", args, r.errors)
	}
}
