package rollout

import (
	"go.temporal.io/sdk/workflow"

	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/slackgate"
)

// startCourier begins to tell Slack, where the pipeline has it.
func (r *rollout) startCourier(ctx workflow.Context) {
	if r.in.Pipeline.Spec.Slack == nil ||
		workflow.GetVersion(ctx, "slack-20261123", workflow.DefaultVersion, 1) == workflow.DefaultVersion {
		return
	}
	r.courier = &slackgate.Courier{
		ID: contract.SlackID(r.name), Summary: "show the gates of " + r.name + " in Slack", Pipeline: r.name,
		Slack: *r.in.Pipeline.Spec.Slack, Log: r.log,
	}
	// The end of the rollout is told too.
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	r.courier.Start(ctx)
	workflow.GoNamed(ctx, "soaks", r.hearSoaks)
	slackgate.Hear(ctx, r.state.FirstRun, func(s *contract.SlackState) {
		r.state.Slack = s
		r.show(ctx)
	})
}

// hearSoaks keeps the soak that a promotion says it has begun, until it says that it was cut short.
func (r *rollout) hearSoaks(ctx workflow.Context) {
	for ch := workflow.GetSignalChannel(ctx, contract.SignalSoak); ; {
		var s contract.Soaking
		if !ch.Receive(ctx, &s) {
			return
		}
		for i := range r.state.Environments {
			if e := &r.state.Environments[i]; e.Name == s.Environment && e.State == contract.StatePromoting {
				e.Soaking = &s
				if s.Until.IsZero() {
					e.Soaking = nil
				}
			}
		}
		r.show(ctx)
	}
}

// tellSlack tells how the rollout is now, where that is new.
func (r *rollout) tellSlack(ctx workflow.Context) {
	if r.courier == nil {
		return
	}
	info := workflow.GetInfo(ctx)
	r.courier.Tell(slackgate.View(slackgate.Of{
		Pipeline: r.in.Pipeline, Status: r.status(), Over: r.over, Matrix: r.measured(),
		Namespace: info.Namespace, Workflow: info.WorkflowExecution.ID, Run: info.WorkflowExecution.RunID,
	}))
}

// measured is the matrix of the gate that waits. It is made once for each evidence.
func (r *rollout) measured() *slack.Matrix {
	g := r.state.Gate
	if g == nil {
		return nil
	}
	if r.matrixOf != g.Evidence.Hash {
		r.matrixOf, r.matrix = g.Evidence.Hash, slackgate.MatrixOf(r.in.Pipeline.Spec.Probes, r.baselines[g.Environment])
	}
	return r.matrix
}
