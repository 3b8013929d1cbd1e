package bench

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"portcullis.dev/portcullis/deploy/lab/internal/drive"
)

// starts is how often a daemon is started for a figure.
const starts = 11

// BenchmarkReady measures from the start of the process to the first answer of
// /readyz that says ready: Temporal reached, the task queue polled, Rancher's objects
// cached. Beside it stands the process's CPU time, which says the same where other work
// takes the cores.
func BenchmarkReady(b *testing.B) {
	// The first on a new Temporal waits until that takes notice of the search attributes.
	first, _ := untilReady(b)
	var took, used []time.Duration
	for range starts {
		wall, own := untilReady(b)
		took, used = append(took, wall), append(used, own)
	}
	slices.Sort(took)
	slices.Sort(used)
	b.ReportMetric(took[len(took)/2].Seconds(), "s-median")
	b.ReportMetric(took[len(took)-1].Seconds(), "s-worst")
	b.ReportMetric(used[len(used)/2].Seconds(), "s-CPU-median")
	b.ReportMetric(first.Seconds(), "s-first-on-a-new-Temporal")
	b.ReportMetric(0, "ns/op")
	b.Logf("start to ready, %d times: %v; CPU time: %v", len(took), took, used)
}

// untilReady starts a daemon, ends it when it is ready, and tells how long that was and
// what CPU time it took.
func untilReady(b *testing.B) (wall, own time.Duration) {
	b.Helper()
	listen := freeAddress(b, "127.0.0.1")
	began := time.Now()
	daemon, err := p.StartDaemon("ready", func(config string) string { return config + fmt.Sprintf("\nmetrics: {listen: %q}\n", listen) })
	must(b, err)
	defer daemon.Stop()
	ctx, cancel := context.WithTimeout(b.Context(), 3*time.Minute)
	defer cancel()
	must(b, awaitReady(ctx, daemon, "http://"+listen+"/readyz"))
	return time.Since(began), cpu(b, daemon.Pid())
}

// awaitReady asks as often as is needed for a figure in hundredths of a second.
func awaitReady(ctx context.Context, daemon *drive.Process, url string) error {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(req)
		if err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the daemon is not ready: %w", ctx.Err())
		case <-daemon.Done():
			return fmt.Errorf("the daemon ended; its log is %s", daemon.Log)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
