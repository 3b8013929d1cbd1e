package cli

import (
	"context"

	"github.com/spf13/cobra"

	"portcullis.dev/portcullis/workflows/contract"
)

func (a *app) rolloutRollback() *cobra.Command {
	var (
		f  startFlags
		in = contract.RolloutInput{Mode: contract.ModeRollback, AfterRollback: true}
	)
	c := &cobra.Command{
		Use:   "rollback -f FILE --why REASON",
		Short: "Go back, by hand, to the revision that was verified before",
		Long: `Go back, by hand, to the revision that was verified before the present one, and probe. The pipeline is
held afterwards, until rollout release or a start with --after-rollback.`,
		Args: cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			if in.Reason == "" {
				return usagef("say why with --why")
			}
			return a.start(ctx, f, in)
		}),
	}
	addStart(c, &f)
	c.Flags().StringVar(&in.Ref, "to", "", "revision to go back to, instead of the one verified before")
	c.Flags().StringSliceVar(&in.Environments, "environment", nil, "only these environments")
	a.rollouts().addDecision(c, &in.StartedBy, &in.Reason)
	return c
}
