package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/cmd/internal/view"
	"portcullis.dev/portcullis/workflows/contract"
)

// catchUp is how late an audit may begin that was due while Temporal was away.
const catchUp = time.Hour

func (a *app) driftSchedule() *cobra.Command {
	return group(&cobra.Command{
		Use:   "schedule",
		Short: "Keep the schedule of audits as the pipeline file has it",
		Long: `The schedule is one of Temporal's, and shows in its UI as drift/PIPELINE. It keeps the pipeline as it was when
it was applied: apply it again after every change of the file.`,
	}, a.scheduleApply(), a.scheduleShow(),
		a.schedulePause("pause", "Let no audit begin until it is resumed", "paused", client.ScheduleHandle.Pause),
		a.schedulePause("resume", "Let audits begin again", "resumed", unpause),
		a.scheduleTrigger(),
		a.scheduleRemove())
}

// applied is what became of a schedule.
type applied struct {
	Pipeline   string `json:"pipeline"`
	ScheduleID string `json:"scheduleId"`
	// Outcome is created, changed, unchanged, removed or none.
	Outcome string `json:"outcome"`
}

func (a *app) scheduleApply() *cobra.Command {
	var file, by string
	c := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Make, change or remove the schedule, as the pipeline file says",
		Args:  cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			p, err := loadPipeline(file)
			if err != nil {
				return err
			}
			who, _, err := a.by(by)
			if err != nil {
				return err
			}
			return a.withSession(ctx, func(ctx context.Context, s *session) error {
				outcome, err := s.applySchedule(ctx, p, who)
				if err != nil {
					return err
				}
				return a.printApplied(p.Metadata.Name, outcome)
			})
		}),
	}
	addFile(c, &file)
	addBy(c.Flags(), &by)
	return c
}

func (a *app) printApplied(pipeline, outcome string) error {
	r := applied{pipeline, contract.DriftID(pipeline), outcome}
	return a.print(r, func(w io.Writer) error {
		if outcome == "none" {
			_, err := fmt.Fprintf(w, "%s: the pipeline has no spec.drift, and there is no schedule\n", r.ScheduleID)
			return err
		}
		_, err := fmt.Fprintf(w, "%s: %s\n", r.ScheduleID, outcome)
		return err
	})
}

// applySchedule makes Temporal's schedule what the pipeline says. Whether it is paused stays as it is.
func (s *session) applySchedule(ctx context.Context, p contract.Pipeline, by string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	name := p.Metadata.Name
	if p.Spec.Drift == nil {
		err := s.removeSchedule(ctx, name)
		if errs.TypeOf(err) == errs.TypeNotFound {
			return "none", nil
		}
		return "removed", err
	}
	in := contract.DriftInput{Pipeline: p, StartedBy: contract.StartedBySchedule}
	_, err := s.ScheduleClient().Create(ctx, client.ScheduleOptions{
		ID: contract.DriftID(name), Spec: specOf(p), Action: s.actionOf(in), Overlap: enumspb.SCHEDULE_OVERLAP_POLICY_SKIP, CatchupWindow: catchUp,
		Note:                  "applied by " + view.Cut(by, 60),
		TypedSearchAttributes: temporal.NewSearchAttributes(contract.AttrPipeline.ValueSet(name)),
	})
	if err == nil {
		return "created", nil
	}
	if !errors.Is(err, temporal.ErrScheduleAlreadyRunning) {
		return "", err
	}
	return s.changeSchedule(ctx, in)
}

// changeSchedule puts in force what the pipeline says, also where only the schedule was edited.
func (s *session) changeSchedule(ctx context.Context, in contract.DriftInput) (string, error) {
	name := in.Pipeline.Metadata.Name
	had, err := s.schedule(ctx, name)
	if err != nil {
		return "", err
	}
	outcome := "changed"
	if same(had.input, in) && had.queue == s.settings.TaskQueue {
		outcome = "unchanged"
	}
	spec := specOf(in.Pipeline)
	return outcome, s.ScheduleClient().GetHandle(ctx, contract.DriftID(name)).Update(ctx, client.ScheduleUpdateOptions{
		DoUpdate: func(is client.ScheduleUpdateInput) (*client.ScheduleUpdate, error) {
			return &client.ScheduleUpdate{Schedule: &client.Schedule{
				Action: s.actionOf(in), Spec: &spec, State: is.Description.Schedule.State,
				Policy: &client.SchedulePolicies{Overlap: enumspb.SCHEDULE_OVERLAP_POLICY_SKIP, CatchupWindow: catchUp},
			}}, nil
		},
	})
}

func same(a, b contract.DriftInput) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

func specOf(p contract.Pipeline) client.ScheduleSpec {
	return client.ScheduleSpec{CronExpressions: []string{p.Spec.Drift.Schedule}, TimeZoneName: first(p.Spec.Drift.Timezone, "UTC")}
}

func (s *session) actionOf(in contract.DriftInput) *client.ScheduleWorkflowAction {
	name := in.Pipeline.Metadata.Name
	return &client.ScheduleWorkflowAction{
		ID: contract.DriftID(name), Workflow: contract.DriftWorkflow, Args: []any{in}, TaskQueue: s.settings.TaskQueue,
		WorkflowExecutionTimeout: auditLimit, StaticSummary: view.Cut("audit "+name, 100),
		TypedSearchAttributes: temporal.NewSearchAttributes(
			contract.AttrPipeline.ValueSet(name), contract.AttrState.ValueSet(string(contract.StateAuditing)),
		),
	}
}

// planned audits, as Temporal has them.
type schedulePlan struct {
	input contract.DriftInput
	queue string
	d     *client.ScheduleDescription
}

// schedule reads the schedule of a pipeline; NotFound where there is none.
func (s *session) schedule(ctx context.Context, pipeline string) (schedulePlan, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	id := contract.DriftID(pipeline)
	d, err := s.ScheduleClient().GetHandle(ctx, id).Describe(ctx)
	if err != nil {
		return schedulePlan{}, s.noSchedule(pipeline, err)
	}
	action, ok := d.Schedule.Action.(*client.ScheduleWorkflowAction)
	if !ok || action.Workflow != contract.DriftWorkflow || len(action.Args) != 1 {
		return schedulePlan{}, errs.Conflict("the schedule %s of Temporal at %s is none of Portcullis: it starts no %s; remove it there", id, s.settings.Address, contract.DriftWorkflow)
	}
	plan := schedulePlan{queue: action.TaskQueue, d: d}
	payload, ok := action.Args[0].(*commonpb.Payload)
	if !ok || converter.GetDefaultDataConverter().FromPayload(payload, &plan.input) != nil {
		return schedulePlan{}, errs.Conflict("what the schedule %s starts cannot be read; apply it again: `portcullis drift schedule apply -f FILE`", id)
	}
	return plan, nil
}

func (s *session) noSchedule(pipeline string, err error) error {
	if !gone(err) {
		return err
	}
	return errs.NotFound("pipeline %s has no schedule of audits at %s; make it with `portcullis drift schedule apply -f FILE`", pipeline, s.settings.Address)
}

// shown is a schedule for people and machines.
type shownSchedule struct {
	Pipeline   string `json:"pipeline"`
	ScheduleID string `json:"scheduleId"`
	Schedule   string `json:"schedule"`
	Timezone   string `json:"timezone"`
	Probes     bool   `json:"probes"`
	Ignores    int    `json:"ignores"`
	// Corrections is how many must approve a correction; 0 means that nothing is corrected.
	Corrections int         `json:"corrections"`
	Paused      bool        `json:"paused"`
	Note        string      `json:"note,omitempty"`
	Next        []time.Time `json:"next,omitempty"`
	Last        time.Time   `json:"last,omitzero"`
	Skipped     int         `json:"skipped,omitempty"`
}

const shownNext = 3

func (a *app) scheduleShow() *cobra.Command {
	return a.pipelineVerb("show", "Show the schedule: when, and what it knows of the pipeline", func(ctx context.Context, pipeline string) error {
		return a.withSession(ctx, func(ctx context.Context, s *session) error {
			plan, err := s.schedule(ctx, pipeline)
			if err != nil {
				return err
			}
			r := shownOf(pipeline, plan)
			return a.print(r, func(w io.Writer) error { return a.scheduleText(w, r) })
		})
	})
}

func shownOf(pipeline string, plan schedulePlan) shownSchedule {
	r := shownSchedule{Pipeline: pipeline, ScheduleID: contract.DriftID(pipeline)}
	if d := plan.input.Pipeline.Spec.Drift; d != nil {
		r.Schedule, r.Timezone, r.Probes, r.Ignores = d.Schedule, first(d.Timezone, "UTC"), d.Probes, len(d.Ignore)
		if d.Correct != nil {
			r.Corrections = d.Correct.Approvals
		}
	}
	if state := plan.d.Schedule.State; state != nil {
		r.Paused, r.Note = state.Paused, state.Note
	}
	info := plan.d.Info
	r.Next = info.NextActionTimes[:min(len(info.NextActionTimes), shownNext)]
	r.Skipped = info.NumActionsSkippedOverlap + info.NumActionsMissedCatchupWindow
	if n := len(info.RecentActions); n > 0 {
		r.Last = info.RecentActions[n-1].ActualTime
	}
	return r
}

func (a *app) scheduleText(w io.Writer, r shownSchedule) error {
	rows := [][]string{{"schedule", r.ScheduleID}, {"when", r.Schedule + " (" + r.Timezone + ")"}}
	state := "running"
	if r.Paused {
		state = "paused"
	}
	if r.Note != "" {
		state += " (" + view.Cut(r.Note, 100) + ")"
	}
	rows = append(rows, []string{"state", state}, []string{"measures requirements", map[bool]string{true: "yes", false: "no"}[r.Probes]}, []string{"ignores", fmt.Sprint(r.Ignores)})
	if r.Corrections > 0 {
		rows = append(rows, []string{"corrects", fmt.Sprintf("after %d approvals", r.Corrections)})
	}
	if !r.Last.IsZero() {
		rows = append(rows, []string{"last begun", r.Last.UTC().Format(time.RFC3339)})
	}
	if r.Skipped > 0 {
		rows = append(rows, []string{"left out", fmt.Sprintf("%d: the one before still ran, or nothing could be begun in time", r.Skipped)})
	}
	if !r.Paused {
		var next []string
		for _, t := range r.Next {
			next = append(next, t.UTC().Format(time.RFC3339))
		}
		rows = append(rows, []string{"next", strings.Join(next, ", ")})
	}
	return table(w, rows)
}

func unpause(h client.ScheduleHandle, ctx context.Context, o client.SchedulePauseOptions) error {
	return h.Unpause(ctx, client.ScheduleUnpauseOptions(o))
}

func (a *app) schedulePause(verb, short, done string, do func(client.ScheduleHandle, context.Context, client.SchedulePauseOptions) error) *cobra.Command {
	var by, why string
	c := a.pipelineVerb(verb, short, func(ctx context.Context, pipeline string) error {
		who, _, err := a.by(by)
		if err != nil {
			return err
		}
		note := done + " by " + who
		if why != "" {
			note += ": " + why
		}
		return a.withSession(ctx, func(ctx context.Context, s *session) error {
			if _, err := s.schedule(ctx, pipeline); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(ctx, callTimeout)
			defer cancel()
			h := s.ScheduleClient().GetHandle(ctx, contract.DriftID(pipeline))
			if err := do(h, ctx, client.SchedulePauseOptions{Note: view.Cut(note, 200)}); err != nil {
				return s.noSchedule(pipeline, err)
			}
			return a.printApplied(pipeline, done)
		})
	})
	addBy(c.Flags(), &by)
	c.Flags().StringVar(&why, "why", "", "why; it is kept with the schedule")
	return c
}

func (a *app) scheduleTrigger() *cobra.Command {
	c := a.pipelineVerb("trigger", "Begin an audit of the schedule now, also while it is paused", func(ctx context.Context, pipeline string) error {
		return a.withSession(ctx, func(ctx context.Context, s *session) error {
			if _, err := s.schedule(ctx, pipeline); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(ctx, callTimeout)
			defer cancel()
			h := s.ScheduleClient().GetHandle(ctx, contract.DriftID(pipeline))
			if err := h.Trigger(ctx, client.ScheduleTriggerOptions{Overlap: enumspb.SCHEDULE_OVERLAP_POLICY_BUFFER_ONE}); err != nil {
				return s.noSchedule(pipeline, err)
			}
			return a.printApplied(pipeline, "triggered")
		})
	})
	c.Long = `Begin an audit of the schedule now, and do not wait for it. Unlike drift audit, it is compared with the audit
before, says in Slack what is new, and begins a correction where the pipeline has one. One that runs already is
waited for.`
	return c
}

func (a *app) scheduleRemove() *cobra.Command {
	return a.pipelineVerb("remove", "Remove the schedule; audits that were made stay", func(ctx context.Context, pipeline string) error {
		return a.withSession(ctx, func(ctx context.Context, s *session) error {
			ctx, cancel := context.WithTimeout(ctx, callTimeout)
			defer cancel()
			if err := s.removeSchedule(ctx, pipeline); err != nil {
				return err
			}
			return a.printApplied(pipeline, "removed")
		})
	})
}

func (s *session) removeSchedule(ctx context.Context, pipeline string) error {
	if _, err := s.schedule(ctx, pipeline); err != nil {
		return err
	}
	return s.noSchedule(pipeline, s.ScheduleClient().GetHandle(ctx, contract.DriftID(pipeline)).Delete(ctx))
}
