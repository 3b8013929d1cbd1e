package cli

import (
	"context"

	"github.com/spf13/cobra"

	"portcullis.dev/portcullis/cmd/internal/config"
)

func (a *app) rolloutCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "rollout",
		Short: "Plan, start, watch and decide about rollouts",
	},
		a.rolloutPlan(), a.rolloutStart(), a.rolloutList(), a.rolloutStatus(), a.rolloutWatch(),
		a.rolloutApprove(), a.rolloutReject(), a.rolloutPause(), a.rolloutResume(), a.rolloutAbort(),
		a.rolloutRollback(), a.rolloutRelease(),
	)
}

// subject is how verbs are told which pipeline they are about: by its name, or by its file.
type subject struct{ file string }

// verb makes a command that takes PIPELINE or --file.
func (a *app) verb(use, short string, do func(ctx context.Context, pipeline string) error) *cobra.Command {
	var about subject
	c := &cobra.Command{
		Use:   use + " [PIPELINE]",
		Short: short,
		Args:  cobra.MaximumNArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			pipeline, err := about.pipeline(args)
			if err != nil {
				return err
			}
			return do(ctx, pipeline)
		}),
	}
	c.Flags().StringVarP(&about.file, "file", "f", "", "pipeline file, instead of the pipeline's name")
	_ = c.MarkFlagFilename("file", "yaml", "yml")
	return c
}

func (s subject) pipeline(args []string) (string, error) {
	switch {
	case s.file != "" && len(args) > 0:
		return "", usagef("give the pipeline's name or its file, not both")
	case s.file != "":
		p, err := config.LoadPipeline(s.file)
		return p.Metadata.Name, err
	case len(args) > 0:
		return args[0], nil
	default:
		return "", usagef("name the pipeline, or its file with --file")
	}
}
