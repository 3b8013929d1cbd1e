package slackapp

import (
	"context"
	"log/slog"
	"net"

	"portcullis.dev/portcullis/activities/errs"
)

// Start takes interactions until ctx ends, by every way that is configured. The
// function that it returns waits until what was begun has ended.
func (a *App) Start(ctx context.Context, temporal Temporal, log *slog.Logger) (wait func(), err error) {
	a.temporal, a.log = temporal, log
	if a.cfg.Listen != "" {
		socket, err := new(net.ListenConfig).Listen(ctx, "tcp", a.cfg.Listen)
		if err != nil {
			return nil, errs.Invalid("slack.listen: cannot listen on %s: %v", a.cfg.Listen, err)
		}
		a.address = socket.Addr().String()
		a.log.Info("Slack's interactions", "listen", socket.Addr().String(), "path", Path)
		a.work.Go(func() { a.runHTTP(ctx, socket) })
	}
	if a.cfg.AppTokenFile != "" {
		a.work.Go(func() { a.runSocket(ctx) })
	}
	return a.work.Wait, nil
}
