package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"portcullis.dev/portcullis/workflows/contract"
)

func (a *app) rolloutRelease() *cobra.Command {
	var by string
	c := a.pipelineVerb("release", "Lift the hold that a rollback leaves on a pipeline", func(ctx context.Context, pipeline string) error {
		who, _, err := a.by(by)
		if err != nil {
			return err
		}
		return a.release(ctx, contract.HoldInput{Pipeline: pipeline, By: who})
	})
	addBy(c.Flags(), &by)
	return c
}

func (a *app) release(ctx context.Context, in contract.HoldInput) error {
	return a.withSession(ctx, func(ctx context.Context, s *session) error {
		// One ID for each pipeline: two people cannot hold and release at once.
		err := s.operation(ctx, "hold/"+in.Pipeline, contract.HoldWorkflow, "release "+in.Pipeline+", by "+in.By, 5*time.Minute, in, nil)
		if err != nil {
			return err
		}
		return a.print(map[string]string{"pipeline": in.Pipeline, "held": ""}, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "%s: released\n", in.Pipeline)
			return err
		})
	})
}
