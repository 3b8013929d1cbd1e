package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/cmd/internal/config"
	"portcullis.dev/portcullis/cmd/internal/doctor"
	"portcullis.dev/portcullis/cmd/internal/view"
)

type doctorFlags struct {
	pipelines []string
	clusters  []string
	all       bool
	timeout   time.Duration
}

func (a *app) doctorCommand() *cobra.Command {
	var f doctorFlags
	c := &cobra.Command{
		Use:   "doctor --config FILE",
		Short: "Check every connection, permission and version that the daemon needs",
		Long: `Check every connection, permission and version that the daemon needs, and say how to mend what is missing.
Run it where the daemon runs, with the daemon's own file: it talks to Temporal, Rancher, Git, the clusters and Slack
as the daemon would. It changes nothing.`,
		Args: cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error { return a.doctor(ctx, f) }),
	}
	c.Flags().StringArrayVarP(&f.pipelines, "file", "f", nil, "pipeline file, whose repository is looked at; may be given again")
	c.Flags().StringArrayVar(&f.clusters, "cluster", nil, "downstream cluster to look at, by name or Rancher's ID; may be given again. One that is connected by default")
	c.Flags().BoolVar(&f.all, "all", false, "look at every downstream cluster")
	c.Flags().DurationVar(&f.timeout, "timeout", 2*time.Minute, "how long it may take altogether")
	return c
}

func (a *app) doctor(ctx context.Context, f doctorFlags) error {
	if f.all && len(f.clusters) > 0 {
		return usagef("name clusters, or give --all")
	}
	if f.timeout <= 0 {
		return usagef("--timeout is %s; it is above zero", f.timeout)
	}
	file := first(a.flags.config, a.env("CONFIG"))
	if file == "" {
		return usagef("name the daemon's configuration file with --config")
	}
	cfg, err := a.serverConfig()
	if err != nil {
		return err
	}
	o := doctor.Options{
		File: file, Config: cfg, APIKey: a.env("TEMPORAL_API_KEY"), Version: Version(), Clusters: f.clusters, All: f.all, Dial: a.Dial, Now: a.Now,
	}
	for _, name := range f.pipelines {
		p, err := config.LoadPipeline(name)
		if err != nil {
			return err
		}
		o.Pipelines = append(o.Pipelines, p)
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	report := doctor.Run(ctx, o)
	if err := a.print(report, func(w io.Writer) error { return doctorTable(w, report) }); err != nil {
		return err
	}
	if n := report.Counts[doctor.Fail]; n > 0 {
		return errs.Failed("%s of %d failed: the daemon cannot do all its work", count(n, "check"), len(report.Checks))
	}
	return nil
}

// doctorTable has a line for each check, and one below for what helps.
func doctorTable(w io.Writer, r doctor.Report) error {
	rows := [][]string{{"STATUS", "CHECK", "TARGET", "FOUND"}}
	for _, c := range r.Checks {
		rows = append(rows, []string{string(c.Status), c.ID, view.Cut(c.Target, 44), c.Detail})
		if c.Remedy != "" {
			rows = append(rows, []string{"", "", "", "-> " + c.Remedy})
		}
	}
	if err := table(w, rows); err != nil {
		return err
	}
	var parts []string
	for _, s := range []doctor.Status{doctor.OK, doctor.Warn, doctor.Fail, doctor.Skipped} {
		if n := r.Counts[s]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, s))
		}
	}
	_, err := fmt.Fprintf(w, "\n%s in %s\n", strings.Join(parts, ", "), r.Took.Round(100*time.Millisecond))
	return err
}
