package view

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/probes/preflight"
	"portcullis.dev/portcullis/workflows/contract"
)

func movingCluster() Migration {
	hash := strings.Repeat("3f9c2a61d0b4", 5)
	return Migration{
		WorkflowID: "migrate/prod", RunID: "0197a0de-7a70-7bb0-a7ab-0d7bb5a4ba2e", Name: "prod", Running: true,
		MigrateStatus: contract.MigrateStatus{MigrateState: contract.MigrateState{
			State: contract.StateMigrating, StartedBy: "alex", StartedAt: noon.Add(-12 * time.Minute),
			Plan:  &migration.Plan{From: preflight.CNISet{Calico: "v3.28.5"}, Target: preflight.Target{Version: "v3.28.5"}, Hash: strings.Repeat("a1b2", 16)},
			Steps: migration.Preparation(), Failures: 1,
			Nodes: []contract.NodeState{
				{Name: "prod-worker-1", Mode: migration.InPlace, State: contract.NodeCalico, Evidence: hash,
					StartedAt: noon.Add(-4 * time.Minute), FinishedAt: noon.Add(-3 * time.Minute), Own: 2400 * time.Millisecond},
				{Name: "prod-worker-with-a-very-long-name-that-is-cut", Mode: migration.InPlace, State: contract.NodeCanal, Failures: 1,
					Reason:    "after swap: gateway reaches checkout: dropped from edge/gateway-7d9 on prod-worker-2 to checkout/api-5f4 on prod-worker-1, and was allowed before",
					StartedAt: noon.Add(-3 * time.Minute), FinishedAt: noon.Add(-100 * time.Second)},
				{Name: "prod-worker-3", Mode: migration.InPlace, State: contract.NodeMigrating, Step: migration.Swap, StartedAt: noon.Add(-12 * time.Second)},
				{Name: "prod-cp-1", ControlPlane: true, Mode: migration.Drain, State: contract.NodePending},
			},
			Log: []contract.LogEntry{
				{At: noon.Add(-12 * time.Minute), Message: "planned 4 nodes, plan a1b2a1b2a1b2"},
				{At: noon.Add(-3 * time.Minute), Environment: "prod-worker-1", Message: "the wire is as before, evidence 3f9c2a61d0b4"},
			},
		}},
		Waiting: []Waiting{{Environment: "prod-worker-3", Activity: "swap", Attempt: 1, Phase: "calico-node", For: "calico-node to become ready"}},
	}
}

func gatedCluster() Migration {
	m := movingCluster()
	m.State, m.Waiting = contract.StateApproval, nil
	m.Nodes = m.Nodes[:1]
	m.Gate = &contract.MigrateGate{Node: "prod-worker-1", Evidence: strings.Repeat("50ce69b5ca6d", 5) + "50ce", Since: noon.Add(-90 * time.Second)}
	return m
}

func stoppedCluster() Migration {
	m := movingCluster()
	m.State, m.Waiting = contract.StateStopped, nil
	m.Nodes[2].State, m.Nodes[2].Step = contract.NodePending, ""
	m.Reason = "a node failed, and at most 0 may: prod-worker-with-a-very-long-name-that-is-cut: " + m.Nodes[1].Reason
	return m
}

func restoredCluster() Migration {
	m := movingCluster()
	m.Running, m.FinishedAt, m.Waiting, m.Plan, m.Steps = false, noon, nil, nil, nil
	m.State, m.Reason, m.Proven = contract.StateOriginal, "aborted by kim (wrong ticket)", true
	for i := range m.Nodes {
		m.Nodes[i].State, m.Nodes[i].Step, m.Nodes[i].Reason = contract.NodeCanal, "", ""
	}
	return m
}

func finishedCluster() Migration {
	m := restoredCluster()
	m.State, m.Reason = contract.StateMigrated, ""
	for i := range m.Nodes {
		m.Nodes[i].State = contract.NodeCalico
	}
	return m
}

func waitingCluster() Migration {
	m := movingCluster()
	m.Waiting, m.Nodes = nil, m.Nodes[3:]
	m.OpensAt = noon.Add(3 * time.Hour)
	m.Paused = &contract.Order{By: "kim", Why: "lunch\x1b[31m"}
	m.Unanswered = "no Portcullis server answers"
	m.Step, m.Steps = migration.Tunnels, migration.Preparation()[:2]
	return m
}

// The golden files are what people see; `go test -update` writes them anew.
func TestMigrationGolden(t *testing.T) {
	for name, m := range map[string]Migration{
		"moving": movingCluster(), "gated": gatedCluster(), "stopped": stoppedCluster(), "restored": restoredCluster(), "migrated": finishedCluster(), "waiting": waitingCluster(),
	} {
		t.Run(name, func(t *testing.T) {
			screen := (Screen{Width: 100, Now: noon}).Lines(m)
			var tail Tail
			lines := tail.Next(m, noon)
			for _, l := range screen {
				require.LessOrEqual(t, utf8.RuneCountInString(l), 100, l)
				require.NotContains(t, l, "\x1b")
			}
			require.Empty(t, tail.Next(m, noon.Add(time.Second)), "what did not change is told again")
			for kind, got := range map[string][]string{"screen": screen, "lines": lines} {
				path := fmt.Sprintf("testdata/migration-%s.%s", name, kind)
				text := strings.Join(got, "\n") + "\n"
				if *update {
					require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
				}
				want, err := os.ReadFile(path)
				require.NoError(t, err)
				require.Equal(t, string(want), text)
			}
		})
	}
}

// Whatever the size of the terminal and of the cluster, the view fits.
func TestMigrationFits(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	states := []string{contract.NodePending, contract.NodeMigrating, contract.NodeCalico, contract.NodeCanal, contract.NodeRestoring}
	for range 100 {
		m := []Migration{movingCluster(), gatedCluster(), stoppedCluster(), waitingCluster()}[r.IntN(4)]
		for i := range r.IntN(200) {
			n := contract.NodeState{Name: fmt.Sprintf("node-%d", i), Mode: migration.Drain, State: states[r.IntN(len(states))], Step: migration.Uncordon}
			if r.IntN(5) == 0 {
				n.Reason = strings.Repeat("because of this ", r.IntN(40))
			}
			m.Nodes = append(m.Nodes, n)
		}
		width, height := 21+r.IntN(120), 6+r.IntN(60)
		lines := (Screen{Width: width, Height: height, Now: noon}).Lines(m)
		require.LessOrEqual(t, len(lines), height)
		for _, l := range lines {
			if utf8.RuneCountInString(l) > width {
				t.Fatalf("wider than %d: %q", width, l)
			}
		}
	}
}

// Where not all nodes can be shown, those that failed and those that move are.
func TestMigrationShowsWhatTells(t *testing.T) {
	m := movingCluster()
	for i := range 200 {
		m.Nodes = append(m.Nodes, contract.NodeState{Name: fmt.Sprintf("node-%d", i), State: contract.NodeCalico})
	}
	m.Nodes = append(m.Nodes, contract.NodeState{Name: "last", State: contract.NodeCanal, Reason: "it did not start"})
	text := strings.Join((Screen{Width: 100, Height: 30, Now: noon}).Lines(m), "\n")
	for _, want := range []string{"last", "it did not start", "prod-worker-3", "of all 205: 201 calico"} {
		require.Contains(t, text, want)
	}
}

// The lines tell a migration's way, each thing once.
func TestMigrationTailTellsChanges(t *testing.T) {
	var tail Tail
	m := movingCluster()
	tail.Next(m, noon)
	m.Nodes[2].Step = migration.Uncordon
	m.Waiting = nil
	require.Equal(t, []string{"12:00:05  prod-worker-3: migrating, uncordon"}, tail.Next(m, noon.Add(5*time.Second)))
	m.State = contract.StateFinishing
	m.Log = append(m.Log, contract.LogEntry{At: noon.Add(6 * time.Second), Message: "begins turn"})
	require.Equal(t, []string{"12:00:06  begins turn", "12:00:07  prod: finishing"}, tail.Next(m, noon.Add(7*time.Second)))
}
