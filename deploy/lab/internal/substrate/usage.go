package substrate

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"portcullis.dev/portcullis/deploy/lab/internal/state"
)

// Usage of the machine by the whole lab, pods included. Memory is in bytes.
type Usage struct {
	Processes int `json:"processes"`
	// RSS counts what processes share once for each; PSS once in all.
	RSS int64 `json:"rssBytes"`
	PSS int64 `json:"pssBytes"`
	// Cores is how many processors were busy with the lab, on average.
	Cores float64 `json:"cores"`
}

// Measure adds up the memory of the lab's processes.
func Measure(stateDir string) Usage {
	var u Usage
	for pid := range labPIDs(stateDir) {
		u.Processes++
		rss, pss := memory(pid)
		u.RSS += rss
		u.PSS += pss
	}
	return u
}

// MeasureOver is Measure, with the processors' use over a time.
func MeasureOver(ctx context.Context, stateDir string, over time.Duration) (Usage, error) {
	if _, err := Load(stateDir); err != nil {
		return Usage{}, err
	}
	before, start := ticks(stateDir), time.Now()
	select {
	case <-ctx.Done():
		return Usage{}, ctx.Err()
	case <-time.After(over):
	}
	after, elapsed := ticks(stateDir), time.Since(start)
	u := Measure(stateDir)
	u.Cores = float64(spent(before, after)) / ticksPerSecond / elapsed.Seconds()
	return u, nil
}

// ticksPerSecond is USER_HZ, which is 100 wherever Go runs on Linux.
const ticksPerSecond = 100

// spent adds up what each process used between two moments. What one did that
// started and ended in between is in its parent's account.
func spent(before, after map[state.Process]uint64) uint64 {
	var sum uint64
	for p, t := range after {
		if t > before[p] {
			sum += t - before[p]
		}
	}
	return sum
}

// ticks are the processor times of the lab's processes and their ended children.
func ticks(stateDir string) map[state.Process]uint64 {
	out := map[state.Process]uint64{}
	for pid := range labPIDs(stateDir) {
		p, err := state.Identify(pid)
		if err != nil {
			continue
		}
		if t, err := state.CPUTicks(pid); err == nil {
			out[p] = t
		}
	}
	return out
}

func memory(pid int) (rss, pss int64) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, 0
	}
	return field(string(b), "Rss:"), field(string(b), "Pss:")
}

// field reads a line like "Rss:  12 kB".
func field(text, name string) int64 {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == name {
			kb, _ := strconv.ParseInt(f[1], 10, 64)
			return kb << 10
		}
	}
	return 0
}
