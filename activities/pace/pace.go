// Package pace has what activities do while they wait: heartbeat, and sleep.
package pace

import (
	"context"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"
)

// Heartbeat tells Temporal the progress, at once and then again and again, until stop is
// called. Outside of an activity it does nothing.
func Heartbeat[P any](ctx context.Context, every time.Duration, progress func() P) (stop func()) {
	if !activity.IsActivity(ctx) {
		return func() {}
	}
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			activity.RecordHeartbeat(ctx, progress())
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	})
	return func() { close(done); running.Wait() }
}

// Sleep waits for d, or until ctx ends.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
