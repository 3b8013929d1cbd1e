package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/cmd/internal/view"
)

// watchInterval is how often a rollout is looked at.
const watchInterval = time.Second

func (a *app) rolloutWatch() *cobra.Command {
	c := a.verb("watch", "Follow a rollout to its end", func(ctx context.Context, pipeline string) error {
		return a.withSession(ctx, func(ctx context.Context, s *session) error { return a.watch(ctx, s, pipeline) })
	})
	c.Long = `Follow a rollout to its end, and exit with its result. On a terminal the view is drawn anew each
second; elsewhere every change is a line, and with -o json a JSON object on a line of its own.`
	return c
}

// watch ends when the rollout does. Temporal may be away for a while; a rollout
// that was never there is an error at once.
func (a *app) watch(ctx context.Context, s *session, pipeline string) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	out := a.watcher()
	defer out.close()
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	var last view.Rollout
	for {
		r, err := a.gather(ctx, s, pipeline, true)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && last.WorkflowID == "":
			return err
		case err != nil:
			last.Unanswered = errs.Message(s.explain(err))
			r = last
		}
		last = r
		if err := out.show(r); err != nil {
			return err
		}
		if !r.Running {
			return verdict(r.Mode, r.State, r.Reason)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// watcher is how each look at the rollout is shown.
type watcher interface {
	show(view.Rollout) error
	close()
}

func (a *app) watcher() watcher {
	if a.output == "json" {
		return &jsonWatcher{app: a}
	}
	if _, _, is := a.terminal(); is {
		return &screenWatcher{app: a}
	}
	return &lineWatcher{app: a}
}

// jsonWatcher writes a line when something has changed.
type jsonWatcher struct {
	app  *app
	last []byte
}

func (w *jsonWatcher) show(r view.Rollout) error { return w.write(r) }

func (w *jsonWatcher) write(v any) error {
	line, err := json.Marshal(v)
	if err != nil || bytes.Equal(line, w.last) {
		return err
	}
	w.last = line
	_, err = w.app.Stdout.Write(append(line, '\n'))
	return err
}

func (w *jsonWatcher) close() {}

type lineWatcher struct {
	app  *app
	tail view.Tail
}

func (w *lineWatcher) show(r view.Rollout) error {
	for _, line := range w.tail.Next(r, w.app.Now()) {
		if _, err := fmt.Fprintln(w.app.Stdout, line); err != nil {
			return err
		}
	}
	return nil
}

func (w *lineWatcher) close() {}

// screenWatcher draws over what it drew before. It leaves the last view on the
// terminal, below what was there.
type screenWatcher struct {
	app   *app
	drawn int
}

const (
	hideCursor = "\x1b[?25l"
	showCursor = "\x1b[?25h"
	clearBelow = "\x1b[J"
)

func (w *screenWatcher) show(r view.Rollout) error {
	return w.draw(func(s view.Screen) []string { return s.Lines(r) })
}

func (w *screenWatcher) draw(drawn func(view.Screen) []string) error {
	width, height, is := w.app.terminal()
	if !is {
		width, height = plainWidth, 0
	}
	// The last column is left free: some terminals wrap when it is written.
	lines := drawn(view.Screen{Width: width - 1, Height: height - 1, Paint: w.app.paint(), Now: w.app.Now()})
	var b strings.Builder
	b.WriteString(hideCursor)
	if w.drawn > 0 {
		// A terminal that was made smaller has scrolled; more cannot be reached.
		fmt.Fprintf(&b, "\r\x1b[%dA", min(w.drawn, height-1))
	}
	b.WriteString(clearBelow)
	for _, line := range lines {
		b.WriteString(line + "\r\n")
	}
	w.drawn = len(lines)
	_, err := w.app.Stdout.Write([]byte(b.String()))
	return err
}

func (w *screenWatcher) close() { _, _ = fmt.Fprint(w.app.Stdout, showCursor) }
