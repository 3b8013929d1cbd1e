package daemon

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff is the wait between attempts: First, then twice as long each time, up
// to Most; up to a fifth of it is chance, so that daemons do not knock together.
type Backoff struct{ First, Most time.Duration }

// wait sleeps before attempt n+1 (n counts from 0). It is false when ctx ended.
func (b Backoff) wait(ctx context.Context, n int) bool {
	timer := time.NewTimer(b.delay(n))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func (b Backoff) delay(n int) time.Duration {
	d := b.First
	for range n {
		if d >= b.Most {
			break
		}
		d *= 2
	}
	d = min(d, b.Most)
	return d - time.Duration(rand.Int64N(int64(d)/5+1))
}
