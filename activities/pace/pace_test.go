package pace

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/testsuite"
)

func TestHeartbeatBeginsAtOnceAndEndsWithStop(t *testing.T) {
	env := (&testsuite.WorkflowTestSuite{}).NewTestActivityEnvironment()
	heard := make(chan int64, 1)
	env.SetOnActivityHeartbeatListener(func(_ *activity.Info, details converter.EncodedValues) {
		var n int64
		if details.Get(&n) == nil {
			select {
			case heard <- n:
			default:
			}
		}
	})
	var asked atomic.Int64
	work := func(ctx context.Context) error {
		stop := Heartbeat(ctx, time.Millisecond, func() int64 { return asked.Add(1) })
		assert.Equal(t, int64(1), <-heard)
		assert.Eventually(t, func() bool { return asked.Load() > 2 }, 10*time.Second, time.Millisecond)
		stop()
		after := asked.Load()
		time.Sleep(20 * time.Millisecond)
		assert.Equal(t, after, asked.Load())
		return nil
	}
	env.RegisterActivity(work)
	_, err := env.ExecuteActivity(work)
	require.NoError(t, err)
}

func TestSleepEndsWithItsContext(t *testing.T) {
	require.NoError(t, Sleep(t.Context(), time.Millisecond))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, Sleep(ctx, time.Hour), context.Canceled)
}
