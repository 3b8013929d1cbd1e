package daemon

import (
	"context"
	"time"

	"portcullis.dev/portcullis/activities/errs"
)

// checkTimeout bounds one attempt to reach Rancher at start.
const checkTimeout = 15 * time.Second

// openRancher checks Rancher once. Refused credentials and certificates that do
// not verify end the daemon; a Rancher that is down does not, because workflows
// that wait must still be told so: then it is tried further in the background.
func (d *Daemon) openRancher(ctx context.Context, broken chan<- error) error {
	err := d.checkRancher(ctx)
	if err != nil && !mayPass(err) {
		return err
	}
	go d.startRancher(ctx, err, broken)
	return nil
}

func (d *Daemon) checkRancher(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	return d.parts.Rancher.Check(ctx)
}

// startRancher checks, where the last check failed, and starts the caches, until
// both have worked.
func (d *Daemon) startRancher(ctx context.Context, last error, broken chan<- error) {
	for n := 0; ; n++ {
		if last != nil {
			d.opts.Logger.Warn("Rancher cannot be used yet", "url", d.opts.Config.Rancher.URL, "reason", errs.Message(last))
			if !d.opts.Backoff.wait(ctx, n) {
				return
			}
		}
		if last = d.useRancher(ctx, last); last == nil {
			d.watching.Store(true)
			d.came()
			d.opts.Logger.Info("Rancher is in use", "url", d.opts.Config.Rancher.URL, "workspace", d.opts.Config.Rancher.Workspace)
			return
		}
		if ctx.Err() != nil {
			return
		}
		if !mayPass(last) {
			broken <- last
			return
		}
	}
}

func (d *Daemon) useRancher(ctx context.Context, last error) error {
	if last != nil {
		if err := d.checkRancher(ctx); err != nil {
			return err
		}
	}
	return d.parts.Rancher.Start(ctx)
}

// mayPass tells whether waiting can mend the error.
func mayPass(err error) bool {
	switch errs.TypeOf(err) {
	case errs.TypeUnavailable, errs.TypeDeadline, "":
		return true
	default:
		return false
	}
}
