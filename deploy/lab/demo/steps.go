package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"portcullis.dev/portcullis/deploy/lab/internal/drive"
)

// bring commits a scenario and expects it to be verified in every environment.
func (d *demo) bring(ctx context.Context, scenario, title string) error {
	step(title)
	commit, err := d.Lab(ctx, "policy", "commit", scenario)
	if err != nil {
		return err
	}
	status, err := d.roll(ctx, commit)
	if err != nil {
		return err
	}
	if status.State != "verified" {
		return fmt.Errorf("%s was to be verified, but: %s", scenario, status)
	}
	return d.record(ctx, scenario, commit, status)
}

// bad commits a scenario and expects it to be stopped in one environment and put back there.
func (d *demo) bad(ctx context.Context, scenario, stopped, title string) error {
	step(title)
	commit, err := d.Lab(ctx, "policy", "commit", scenario)
	if err != nil {
		return err
	}
	status, err := d.roll(ctx, commit)
	if err != nil {
		return err
	}
	env := status.Environment(stopped)
	switch {
	case status.State != "rolled-back":
		return fmt.Errorf("%s was to be rolled back, but: %s", scenario, status)
	case env.Result == nil || env.Result.Rollback == nil:
		return fmt.Errorf("%s was to be rolled back in %s, but: %s", scenario, stopped, status)
	case !env.Result.Rollback.Live || !env.Result.Rollback.Proven:
		return fmt.Errorf("the way back of %s in %s is not proven: %s", scenario, stopped, env.Result.Rollback.Detail)
	}
	return d.record(ctx, scenario, commit, status)
}

// roll starts a rollout, shows it until its end and approves prod on the way,
// each by the command that a person would type.
func (d *demo) roll(ctx context.Context, commit string) (drive.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	fmt.Printf("$ portcullis rollout start -f pipeline.yaml --revision %.12s --after-rollback\n", commit)
	if code, err := d.Stream(ctx, os.Stdout, "rollout", "start", "-f", d.pipeline, "--revision", commit, "--after-rollback", "--by", "demo"); err != nil || code != 0 {
		return drive.Status{}, errors.Join(err, fmt.Errorf("rollout start ended with exit code %d", code))
	}
	watched := make(chan error, 1)
	fmt.Printf("$ portcullis rollout watch %s\n", drive.Pipeline)
	go func() {
		_, err := d.Stream(ctx, os.Stdout, "rollout", "watch", drive.Pipeline)
		watched <- err
	}()
	at, err := d.Until(ctx, drive.Pipeline, limit, "at prod's gate or ended", func(s drive.Status) bool { return s.Gate != nil || !s.Running })
	if err != nil {
		return at, err
	}
	if at.Running {
		hash := at.Gate.Evidence.Hash[:12]
		fmt.Printf("$ portcullis rollout approve %s --evidence %s --why \"seen in staging\"\n", drive.Pipeline, hash)
		if code, err := d.Stream(ctx, os.Stdout, "rollout", "approve", drive.Pipeline, "--evidence", hash, "--by", "demo", "--why", "seen in staging"); err != nil || code != 0 {
			return at, errors.Join(err, fmt.Errorf("rollout approve ended with exit code %d", code))
		}
	}
	if err := <-watched; err != nil {
		return at, err
	}
	return d.Ended(ctx, drive.Pipeline, limit)
}

// record keeps what the summary tells: each gate's outcome, and what kubectl
// finds on the cluster itself.
func (d *demo) record(ctx context.Context, scenario, commit string, s drive.Status) error {
	for _, e := range s.Environments {
		r := row{revision: fmt.Sprintf("%s %.7s", scenario, commit), environment: e.Name, outcome: e.State}
		if e.Result != nil {
			for _, c := range e.Result.Clusters {
				r.probes += c.Pairs
			}
			r.evidence, r.reason = fmt.Sprintf("%.12s", e.Result.Evidence), e.Result.Reason
			if b := e.Result.Rollback; b != nil {
				r.back = fmt.Sprintf("went back to the %s revision %.7s; live: %t, proven by the same probes: %t", b.Kind, b.Revision, b.Live, b.Proven)
			}
		}
		policies, err := d.Kubectl(ctx, e.Name, "get", "globalnetworkpolicies.crd.projectcalico.org,networkpolicies.networking.k8s.io", "-A", "-o", "name")
		if err != nil {
			return err
		}
		source, err := d.Kubectl(ctx, e.Name, "get", "globalnetworkpolicies.crd.projectcalico.org", "default.checkout-api",
			"-o", "jsonpath={.spec.ingress[0].source.selector} in {.spec.ingress[0].source.nets[0]}")
		if err != nil {
			return err
		}
		r.seen = fmt.Sprintf("%d, checkout open to %s", len(strings.Fields(policies)), source)
		d.rows = append(d.rows, r)
	}
	return nil
}

func (d *demo) summary() {
	step("What happened")
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "REVISION\tGATE\tOUTCOME\tPROBES\tEVIDENCE\tPOLICIES THAT KUBECTL SEES")
	for _, r := range d.rows {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\t%s\n", r.revision, r.environment, r.outcome, r.probes, r.evidence, r.seen)
	}
	_ = t.Flush()
	for _, r := range d.rows {
		if r.back != "" {
			fmt.Printf("\n%s in %s\n  %s\n  %s\n", r.revision, r.environment, r.reason, r.back)
		}
	}
	fmt.Printf(`
Everything is still up:
  Temporal UI       %s
  command line      PORTCULLIS_TEMPORAL_ADDRESS=%s bin/portcullis rollout status %s
  a cluster         %s/bin/kubectl --kubeconfig %s/kubeconfig/prod.yaml get globalnetworkpolicies
  all of the lab    make lab-status
Remove it with: make demo-down
`, d.UI(), d.Address(), drive.Pipeline, d.LabDir, d.LabDir)
}

// start runs Temporal and the daemon so that they outlive the demo; `lab down` ends them.
func start(ctx context.Context, bin, labDir string) (*drive.Portcullis, error) {
	p, err := drive.Start(ctx, drive.Options{
		LabDir: labDir, BinDir: bin, Dir: filepath.Join(labDir, "demo"), TemporalPort: 7233, UIPort: 8233, Keep: true,
	})
	if err != nil {
		return nil, err
	}
	_, err = p.StartDaemon("portcullis", nil)
	return p, err
}

func stream(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", filepath.Base(name), strings.Join(args, " "), err)
	}
	return nil
}

func step(title string) {
	_, _ = io.WriteString(os.Stdout, "\n== "+time.Now().Format("15:04:05")+"  "+title+"\n")
}
