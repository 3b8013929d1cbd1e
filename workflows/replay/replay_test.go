package replay

import (
	"compress/gzip"
	"flag"
	"os"
	"path/filepath"
	"testing"

	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"portcullis.dev/portcullis/workflows"
	"portcullis.dev/portcullis/workflows/internal/harness"
)

var record = flag.String("record", "", "address of a Temporal server: record histories there")

// What a history may hold, in all and for each cluster.
const (
	mostEvents     = 10000
	mostPerCluster = 30
)

func TestReplay(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatal("no recorded histories in testdata: record some (see the package comment)")
	}
	seen := map[string]bool{}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			history := read(t, file)
			seen[history.Events[0].GetWorkflowExecutionStartedEventAttributes().GetWorkflowType().GetName()] = true
			if n := len(history.Events); n > mostEvents {
				t.Errorf("%d events, more than %d", n, mostEvents)
			}
			// A busy machine that looks for races takes its time over the large histories.
			replayer, err := worker.NewWorkflowReplayerWithOptions(worker.WorkflowReplayerOptions{DisableDeadlockDetection: true})
			if err != nil {
				t.Fatal(err)
			}
			workflows.Register(replayer)
			if err := replayer.ReplayWorkflowHistory(harness.Quiet{}, history); err != nil {
				t.Error(err)
			}
		})
	}
	for _, name := range recorded {
		if !seen[name] {
			t.Errorf("no history of workflow %s is recorded", name)
		}
	}
	for name := range scenarios() {
		if kept, err := filepath.Glob("testdata/*." + name + ".00.*.json.gz"); err != nil || len(kept) == 0 {
			t.Errorf("no history of scenario %s is recorded: make record SCENARIO=%s", name, name)
		}
	}
}

func read(t *testing.T, file string) *historypb.History {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	plain, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	history, err := client.HistoryFromJSON(plain, client.HistoryJSONOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return history
}
