package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"portcullis.dev/portcullis/activities/source"
	"portcullis.dev/portcullis/cmd/internal/view"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/story"
)

// planLimit is how long planning may take; fetching a large repository for the
// first time is what takes long.
const planLimit = 10 * time.Minute

func (a *app) rolloutPlan() *cobra.Command {
	var (
		file string
		in   = contract.RolloutInput{Mode: contract.ModePromote}
	)
	c := &cobra.Command{
		Use:   "plan -f FILE",
		Short: "Show what a rollout would do; nothing is written",
		Args:  cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			p, err := loadPipeline(file)
			if err != nil {
				return err
			}
			in.Pipeline = p
			if in.StartedBy, _, err = a.by(in.StartedBy); err != nil {
				return err
			}
			return a.plan(ctx, in)
		}),
	}
	addFile(c, &file)
	addRevision(c, &in)
	addBy(c.Flags(), &in.StartedBy)
	return c
}

func addRevision(c *cobra.Command, in *contract.RolloutInput) {
	c.Flags().StringVar(&in.Ref, "revision", "", "full commit, tag or branch; the head of the pipeline's branch by default")
	c.Flags().BoolVar(&in.AfterRollback, "after-rollback", false, "also when the pipeline is held after a rollback")
}

func (a *app) plan(ctx context.Context, in contract.RolloutInput) error {
	return a.withSession(ctx, func(ctx context.Context, s *session) error {
		var plan contract.RolloutPlan
		name := in.Pipeline.Metadata.Name
		err := s.operation(ctx, a.opID("plan/"+name), contract.PlanWorkflow, "plan "+name, planLimit, in, &plan)
		if err != nil {
			return err
		}
		return a.print(plan, func(w io.Writer) error { return a.planText(w, plan) })
	})
}

func (a *app) planText(w io.Writer, p contract.RolloutPlan) error {
	r := p.Revision
	if _, err := fmt.Fprintf(w, "%s\nrevision %s  %s\n         by %s, %s\n\n", a.paint().Bold(p.Pipeline), r.Commit,
		view.Cut(r.Subject, 60), view.Cut(r.Author, 40), r.Time.UTC().Format(time.RFC3339)); err != nil {
		return err
	}
	if err := a.findings(w, p.Inspection.Findings); err != nil {
		return err
	}
	rows := [][]string{{"ENVIRONMENT", "WAVE", "GITREPO", "CLUSTERS", "NOW", "WAY BACK", "CHANGES"}}
	for _, e := range p.Plan.Environments {
		for _, u := range e.Units {
			rows = append(rows, []string{e.Name, u.Wave, u.GitRepo, view.Cut(names(u.Clusters), 40), now(u.Before), string(u.Before.Kind), changed(p, u.Before)})
		}
	}
	if err := table(w, rows); err != nil {
		return err
	}
	return a.unready(w, p)
}

func (a *app) findings(w io.Writer, findings []source.Finding) error {
	if len(findings) == 0 {
		return nil
	}
	for _, f := range findings {
		kind := "warning"
		if f.Error {
			kind = a.paint().Bad("error")
		}
		place := f.Path
		if f.Line > 0 {
			place = fmt.Sprintf("%s:%d", f.Path, f.Line)
		}
		if _, err := fmt.Fprintf(w, "%s: %s: %s (%s)\n", kind, place, view.Cut(f.Message, 160), f.Rule); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(w)
	return err
}

func (a *app) unready(w io.Writer, p contract.RolloutPlan) error {
	for _, e := range p.Plan.Environments {
		for _, cluster := range slices.Sorted(maps.Keys(e.Unready)) {
			if _, err := fmt.Fprintf(w, "\n%s: cluster %s is not ready: %s\n", e.Name, cluster, view.Cut(e.Unready[cluster], 120)); err != nil {
				return err
			}
		}
	}
	if p.Plan.Held != "" {
		_, err := fmt.Fprintf(w, "\nheld: %s\n", view.Cut(p.Plan.Held, 160))
		return err
	}
	return nil
}

func names(clusters []rancher.Cluster) string {
	out := make([]string, len(clusters))
	for i, c := range clusters {
		out[i] = c.Name
	}
	return fmt.Sprintf("%d: %s", len(out), strings.Join(out, ", "))
}

// now is the revision that a unit has before the rollout.
func now(b rancher.Before) string {
	switch {
	case b.Now() != "":
		return view.Short(b.Now())
	case b.Branch != "":
		return "branch " + b.Branch
	default:
		return "nothing"
	}
}

func changed(p contract.RolloutPlan, b rancher.Before) string {
	changes, known := p.Inspection.Changes[b.Now()]
	switch {
	case b.Now() == p.Revision.Commit:
		return "none"
	case b.Kind == rancher.RestoreAbsent && b.Now() == "":
		return "all"
	case !known:
		return "unknown"
	default:
		return story.Count(len(changes), "file")
	}
}
