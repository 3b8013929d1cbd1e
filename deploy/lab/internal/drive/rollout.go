package drive

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Pipeline is the lab's sample pipeline.
const Pipeline = "network-policies"

// Status is what the end-to-end tests read of `rollout status -o json`.
type Status struct {
	RunID        string        `json:"runId"`
	Running      bool          `json:"running"`
	State        string        `json:"state"`
	Reason       string        `json:"reason"`
	Environments []Environment `json:"environments"`
	Plan         *struct {
		Revision struct{ Commit string } `json:"revision"`
	} `json:"plan"`
	Gate *struct {
		Environment string                `json:"environment"`
		Evidence    struct{ Hash string } `json:"evidence"`
	} `json:"gate"`
	Promotions map[string]struct {
		State string `json:"state"`
	} `json:"promotions"`
	Waiting []Waiting `json:"waiting"`
}

// Waiting is what a rollout or migration waits for; Environment is a migration's node.
type Waiting struct {
	Environment string `json:"environment"`
	Activity    string `json:"activity"`
	For         string `json:"for"`
	LastFailure string `json:"lastFailure"`
}

// LogEntry is one line of a rollout's or migration's story.
type LogEntry struct {
	At time.Time `json:"at"`
	// Environment is a migration's node, or empty.
	Environment string `json:"environment"`
	Message     string `json:"message"`
}

// Environment is one environment of a Status.
type Environment struct {
	Name   string `json:"name"`
	State  string `json:"state"`
	Result *struct {
		State    string `json:"state"`
		Reason   string `json:"reason"`
		Evidence string `json:"evidence"`
		Touched  bool   `json:"touched"`
		Clusters []struct {
			Cluster  string `json:"cluster"`
			State    string `json:"state"`
			Pairs    int    `json:"pairs"`
			Failing  int    `json:"failing"`
			Evidence string `json:"evidence"`
			Reason   string `json:"reason"`
		} `json:"clusters"`
		Rollback *struct {
			Kind     string `json:"kind"`
			Revision string `json:"revision"`
			Live     bool   `json:"live"`
			Proven   bool   `json:"proven"`
			Detail   string `json:"detail"`
		} `json:"rollback"`
		Log       []LogEntry    `json:"log"`
		LiveAt    time.Time     `json:"liveAt"`
		VerdictAt time.Time     `json:"verdictAt"`
		ProbeTime time.Duration `json:"probeTime"`
	} `json:"result"`
}

// Environment finds one by name.
func (s Status) Environment(name string) Environment {
	for _, e := range s.Environments {
		if e.Name == name {
			return e
		}
	}
	return Environment{Name: name}
}

// Now is what an environment does now: its promotion's state while that runs.
func (s Status) Now(environment string) string {
	if p, ok := s.Promotions[environment]; ok && p.State != "" {
		return p.State
	}
	return s.Environment(environment).State
}

// String is a short form for failure messages.
func (s Status) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "rollout %s (%s)", s.State, s.Reason)
	for _, e := range s.Environments {
		fmt.Fprintf(&b, "; %s %s", e.Name, s.Now(e.Name))
		if e.Result != nil && e.Result.Reason != "" {
			fmt.Fprintf(&b, " (%s)", e.Result.Reason)
		}
	}
	for _, w := range s.Waiting {
		fmt.Fprintf(&b, "; waiting %s: %s %s", w.Activity, w.For, w.LastFailure)
	}
	return b.String()
}

// Status reads the rollout of a pipeline.
func (p *Portcullis) Status(ctx context.Context, pipeline string) (Status, error) {
	var s Status
	_, err := p.JSON(ctx, &s, "rollout", "status", pipeline)
	return s, err
}

// Until waits until ok holds for the status, or the limit is over.
func (p *Portcullis) Until(ctx context.Context, pipeline string, limit time.Duration, what string, ok func(Status) bool) (Status, error) {
	return until(ctx, limit, what, func(ctx context.Context) (Status, error) { return p.Status(ctx, pipeline) }, ok)
}

// Ended waits for the end of the rollout.
func (p *Portcullis) Ended(ctx context.Context, pipeline string, limit time.Duration) (Status, error) {
	return p.Until(ctx, pipeline, limit, "ended", func(s Status) bool { return !s.Running })
}

// Kubectl calls kubectl on one of the lab's clusters, as a person would.
func (p *Portcullis) Kubectl(ctx context.Context, cluster string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(p.LabDir, "bin", "kubectl"),
		append([]string{"--kubeconfig", filepath.Join(p.LabDir, "kubeconfig", cluster+".yaml")}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("kubectl on %s: %s: %w: %s", cluster, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return strings.TrimSpace(string(out)), nil
}

// PipelineFile writes the lab's pipeline, changed by edit, and returns its path.
func (p *Portcullis) PipelineFile(name string, edit func(string) string) (string, error) {
	b, err := os.ReadFile(filepath.Join(p.LabDir, "pipeline.yaml"))
	if err != nil {
		return "", fmt.Errorf("the lab is not up: %w", err)
	}
	text := string(b)
	if edit != nil {
		text = edit(text)
	}
	file := filepath.Join(p.Dir, name+".yaml")
	return file, os.WriteFile(file, []byte(text), 0o644)
}
