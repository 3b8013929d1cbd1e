package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/cmd/internal/view"
)

// plainWidth is how wide the view is where no terminal tells its width.
const plainWidth = 100

func (k kind) status(short string) *cobra.Command {
	return k.verb("status", short, func(ctx context.Context, name string) error {
		return k.withSession(ctx, func(ctx context.Context, s *session) error {
			l, err := k.gather(ctx, s, name, true)
			if err != nil {
				return err
			}
			return k.print(l, func(w io.Writer) error { return k.screen(w, l) })
		})
	})
}

func (a *app) screen(w io.Writer, l view.Look) error {
	width, _, is := a.terminal()
	if !is {
		width = plainWidth
	}
	// No limit on the height: what has been printed can be scrolled.
	for _, line := range (view.Screen{Width: width, Paint: a.paint(), Now: a.Now()}).Lines(l) {
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

// watchInterval is how often a rollout or a migration is looked at.
const watchInterval = time.Second

func (k kind) watch(long string) *cobra.Command {
	c := k.verb("watch", "Follow a "+k.noun+" to its end", func(ctx context.Context, name string) error {
		return k.withSession(ctx, func(ctx context.Context, s *session) error { return k.follow(ctx, s, name) })
	})
	c.Long = long
	return c
}

// follow ends when the rollout or migration does. Temporal may be away for a while;
// one that was never there is an error at once.
func (k kind) follow(ctx context.Context, s *session, name string) error {
	out := k.watcher()
	defer out.close()
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	var last view.Look
	for {
		l, err := k.gather(ctx, s, name, true)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && last == nil:
			return err
		case err != nil:
			l = last.Silent(errs.Message(s.explain(err)))
		}
		last = l
		if err := out.show(l); err != nil {
			return err
		}
		if !l.Shared().Running {
			return k.end(ctx, s, l)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// watcher is how each look is shown.
type watcher interface {
	show(view.Look) error
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

func (w *jsonWatcher) show(l view.Look) error {
	line, err := json.Marshal(l)
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

func (w *lineWatcher) show(l view.Look) error {
	for _, line := range w.tail.Next(l, w.app.Now()) {
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

func (w *screenWatcher) show(l view.Look) error {
	width, height, is := w.app.terminal()
	if !is {
		width, height = plainWidth, 0
	}
	// The last column is left free: some terminals wrap when it is written.
	lines := (view.Screen{Width: width - 1, Height: height - 1, Paint: w.app.paint(), Now: w.app.Now()}).Lines(l)
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
