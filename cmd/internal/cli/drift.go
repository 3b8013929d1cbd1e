package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/cmd/internal/config"
	"portcullis.dev/portcullis/cmd/internal/view"
	"portcullis.dev/portcullis/rancher/drift"
	"portcullis.dev/portcullis/workflows/contract"
)

// auditLimit bounds one audit, with its measurements.
const auditLimit = 2 * time.Hour

func (a *app) driftCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "drift",
		Short: "Compare what is live on clusters with what was rolled out, and have Fleet put it right",
	}, a.driftAudit(), a.driftReport(), a.driftList(), a.driftSchedule(), a.driftCorrect())
}

func (a *app) driftAudit() *cobra.Command {
	var (
		file, by string
		show     reportFlags
	)
	c := &cobra.Command{
		Use:   "audit PIPELINE | -f FILE",
		Short: "Audit now, and show what was found",
		Long: `Audit a pipeline's clusters now: every object that was rolled out against what is live, what no release
holds, settings of Felix that change enforcement, and the GitRepos. With a name, the pipeline is what its
schedule has; with --file, what the file says. It ends with 9 where something drifted, and with 11 where
nothing did but not everything could be looked at.`,
		Args: cobra.MaximumNArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			who, _, err := a.by(by)
			if err != nil {
				return err
			}
			return a.withSession(ctx, func(ctx context.Context, s *session) error {
				in, err := a.audited(ctx, s, file, args)
				if err != nil {
					return err
				}
				in.StartedBy = who
				return a.auditNow(ctx, s, in, show)
			})
		}),
	}
	addFile(c, &file)
	addBy(c.Flags(), &by)
	show.add(c)
	return c
}

// reportFlags say how an audit is shown.
type reportFlags struct {
	all  bool
	html string
}

func (f *reportFlags) add(c *cobra.Command) {
	c.Flags().BoolVar(&f.all, "all", false, "show clusters that are clean, too")
	c.Flags().StringVar(&f.html, "html", "", "write a page to this file as well; it needs no other")
	_ = c.MarkFlagFilename("html", "html")
}

// audited is the pipeline that is meant: of the file, or of the schedule.
func (a *app) audited(ctx context.Context, s *session, file string, args []string) (contract.DriftInput, error) {
	switch {
	case file != "" && len(args) > 0:
		return contract.DriftInput{}, usagef("give the pipeline's name or its file, not both")
	case file != "":
		p, err := config.LoadPipeline(file)
		return contract.DriftInput{Pipeline: p}, err
	case len(args) > 0:
		plan, err := s.schedule(ctx, args[0])
		return plan.input, err
	}
	return contract.DriftInput{}, usagef("name the pipeline, or its file with --file")
}

func (a *app) auditNow(ctx context.Context, s *session, in contract.DriftInput, show reportFlags) error {
	name := in.Pipeline.Metadata.Name
	id := contract.DriftID(name)
	// An audit that nobody waits for any more is cancelled, and makes room for the next.
	var result contract.DriftResult
	err := a.withProgress(ctx, s, id, func() error {
		return s.operation(ctx, id, contract.DriftWorkflow, view.Cut("audit "+name, 100), auditLimit, in, &result)
	})
	if err != nil {
		return err
	}
	run := ""
	if d, err := s.describe(ctx, id); err == nil {
		run = d.GetWorkflowExecutionInfo().GetExecution().GetRunId()
	}
	d, err := view.NewDrift(run, result)
	if err != nil {
		return err
	}
	if err := a.showDrift(d, show); err != nil {
		return err
	}
	return auditEnd(result)
}

// auditUnknown is an audit that found nothing, and could not look at everything.
type auditUnknown struct{ reason string }

func (e auditUnknown) Error() string { return e.reason }

func auditEnd(r contract.DriftResult) error {
	switch r.State {
	case contract.StateDrifted:
		return notPassed{state: r.State, reason: r.Reason}
	case contract.StateUnknown:
		return auditUnknown{"nothing has drifted as far as could be seen: " + r.Reason}
	}
	return nil
}

func (a *app) showDrift(d view.Drift, show reportFlags) error {
	if show.html != "" {
		if err := writePage(show.html, d); err != nil {
			return err
		}
	}
	return a.print(d, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, strings.Join(d.Lines(a.paint(), show.all), "\n"))
		return err
	})
}

func writePage(file string, d view.Drift) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(d.HTML(f), f.Close())
}

func (a *app) driftReport() *cobra.Command {
	var (
		run, since string
		show       reportFlags
	)
	c := a.pipelineVerb("report", "Show the last audit, or what came and went between two", func(ctx context.Context, pipeline string) error {
		return a.withSession(ctx, func(ctx context.Context, s *session) error {
			d, err := s.report(ctx, pipeline, run, since)
			if err != nil {
				return err
			}
			return a.showDrift(d, show)
		})
	})
	c.Flags().StringVar(&run, "run", "", "the audit with this run ID, as drift list has it; the last that ended by default")
	c.Flags().StringVar(&since, "since", "", "compare with this audit: a run ID, or previous")
	show.add(c)
	return c
}

// sincePrevious names the audit before the one that is shown.
const sincePrevious = "previous"

// report reads an audit, and where asked for what is new since another one.
func (s *session) report(ctx context.Context, pipeline, run, since string) (view.Drift, error) {
	var none view.Drift
	audits, err := s.audits(ctx, pipeline, listedAudits)
	if err != nil {
		return none, err
	}
	ended := slices.DeleteFunc(audits, func(e *workflowpb.WorkflowExecutionInfo) bool {
		return e.GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED
	})
	at := 0
	if run != "" {
		at = slices.IndexFunc(ended, func(e *workflowpb.WorkflowExecutionInfo) bool { return e.GetExecution().GetRunId() == run })
	}
	if at < 0 || len(ended) == 0 {
		return none, s.noAudit(pipeline, run)
	}
	d, err := s.audit(ctx, ended[at])
	if err != nil || since == "" {
		return d, err
	}
	before := at + 1
	if since != sincePrevious {
		before = slices.IndexFunc(ended, func(e *workflowpb.WorkflowExecutionInfo) bool { return e.GetExecution().GetRunId() == since })
	}
	if before < 0 || before >= len(ended) {
		return none, s.noAudit(pipeline, since)
	}
	old, err := s.audit(ctx, ended[before])
	if err != nil {
		return none, err
	}
	news := drift.Compared(old.Found, d.Found)
	d.News, d.Before = &news, old.RunID
	return d, nil
}

func (s *session) noAudit(pipeline, run string) error {
	which := "that has ended"
	if run != "" {
		which = run + " that has ended"
	}
	return errs.NotFound("no audit %s of pipeline %s is known to Temporal at %s; `portcullis drift list %s` shows those that are, and `portcullis drift audit` makes one",
		which, pipeline, s.settings.Address, quote(pipeline))
}

// audit reads the result of one that has ended.
func (s *session) audit(ctx context.Context, e *workflowpb.WorkflowExecutionInfo) (view.Drift, error) {
	var r contract.DriftResult
	failure, err := s.ended(ctx, e, &r)
	if err := errors.Join(failure, err); err != nil {
		return view.Drift{}, err
	}
	return view.NewDrift(e.GetExecution().GetRunId(), r)
}

// listedAudits is how many audits are looked through.
const listedAudits = 100

// audits lists a pipeline's audits, the newest first.
func (s *session) audits(ctx context.Context, pipeline string, most int) ([]*workflowpb.WorkflowExecutionInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	page, err := s.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
		Namespace: s.settings.Namespace, PageSize: int32(most),
		Query: fmt.Sprintf("WorkflowType = '%s' AND %s = '%s'", contract.DriftWorkflow, contract.AttrPipeline.GetName(), strings.ReplaceAll(pipeline, "'", "''")),
	})
	if err != nil {
		return nil, err
	}
	list := page.GetExecutions()
	slices.SortStableFunc(list, func(a, b *workflowpb.WorkflowExecutionInfo) int {
		return b.GetStartTime().AsTime().Compare(a.GetStartTime().AsTime())
	})
	return list, nil
}

func (a *app) driftList() *cobra.Command {
	return a.pipelineVerb("list", "List a pipeline's audits, the newest first", func(ctx context.Context, pipeline string) error {
		return a.withSession(ctx, func(ctx context.Context, s *session) error {
			audits, err := s.audits(ctx, pipeline, listedAudits)
			if err != nil {
				return err
			}
			list := make([]listed, 0, len(audits))
			k := kind{app: a, owner: ofPipeline, key: contract.AttrPipeline, id: contract.DriftID}
			for _, e := range audits {
				list = append(list, k.readListed(e))
			}
			return a.print(map[string]any{"audits": list}, func(w io.Writer) error { return a.auditTable(w, list) })
		})
	})
}

func (a *app) auditTable(w io.Writer, list []listed) error {
	rows := [][]string{{"PIPELINE", "STATE", "STARTED", "TOOK", "RUN"}}
	for _, l := range list {
		end, took := l.FinishedAt, ""
		if l.Running {
			end, took = a.Now(), " so far"
		}
		rows = append(rows, []string{l.Pipeline, string(l.State), l.StartedAt.UTC().Format(time.RFC3339), view.Ago(end.Sub(l.StartedAt)) + took, l.RunID})
	}
	return table(w, rows)
}

// auditAge is how long what was read of the last audit is shown: a rollout that is watched is
// asked about each second.
const auditAge = 30 * time.Second

// lastAudits are the last audits by pipeline.
type lastAudits map[string]readAudit

type readAudit struct {
	audit *view.Audit
	at    time.Time
}

// lastAudit is how the pipeline's last audit ended. It stands beside a rollout, which can be shown
// without it: where it cannot be read, there is none.
func (s *session) lastAudit(ctx context.Context, pipeline string) *view.Audit {
	if had, ok := s.audited[pipeline]; ok && time.Since(had.at) < auditAge {
		return had.audit
	}
	var last *view.Audit
	audits, err := s.audits(ctx, pipeline, auditsForStatus)
	if err == nil {
		for _, e := range audits {
			if e.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED {
				last = &view.Audit{State: stateAttribute(e), At: e.GetCloseTime().AsTime(), RunID: e.GetExecution().GetRunId()}
				break
			}
		}
	}
	if s.audited == nil {
		s.audited = lastAudits{}
	}
	s.audited[pipeline] = readAudit{last, time.Now()}
	return last
}

// auditsForStatus is among how many of the newest the last that ended is looked for.
const auditsForStatus = 5
