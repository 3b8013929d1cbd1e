package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"portcullis.dev/portcullis/cmd/internal/view"
)

// plainWidth is how wide the view is where no terminal tells its width.
const plainWidth = 100

func (a *app) rolloutStatus() *cobra.Command {
	return a.verb("status", "Show a pipeline's rollout: environments, clusters, probes and gates", func(ctx context.Context, pipeline string) error {
		return a.withSession(ctx, func(ctx context.Context, s *session) error {
			r, err := a.gather(ctx, s, pipeline, true)
			if err != nil {
				return err
			}
			return a.print(r, func(w io.Writer) error { return a.screen(w, r) })
		})
	})
}

func (a *app) screen(w io.Writer, r view.Rollout) error {
	width, _, is := a.terminal()
	if !is {
		width = plainWidth
	}
	// No limit on the height: what has been printed can be scrolled.
	for _, line := range (view.Screen{Width: width, Paint: a.paint(), Now: a.Now()}).Lines(r) {
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}
