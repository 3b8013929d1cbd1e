package daemon

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"portcullis.dev/portcullis/activities/errs"
)

func get(t *testing.T, h http.HandlerFunc) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h(w, httptest.NewRequest(http.MethodGet, "/", nil))
	body, err := io.ReadAll(w.Result().Body)
	require.NoError(t, err)
	return w.Code, string(body)
}

func TestReadinessIsAllThatIsNeeded(t *testing.T) {
	h := newHealth(time.Now)
	code, body := get(t, h.readyz)
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Equal(t, "temporal: starting\nworker: starting\nrancher: starting\n", body)

	require.True(t, h.saw(onTemporal, nil))
	require.True(t, h.saw(onWorker, nil))
	// The reason's words may hold addresses: only its type is told.
	require.False(t, h.saw(onRancher, errs.Denied("https://rancher.internal refused the token")))
	code, body = get(t, h.readyz)
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Equal(t, "temporal: ready\nworker: ready\nrancher: Denied\n", body)

	require.True(t, h.saw(onRancher, nil))
	require.True(t, h.ready())
	code, _ = get(t, h.readyz)
	require.Equal(t, http.StatusOK, code)
	require.InDelta(t, 1, testutil.ToFloat64(h.up.WithLabelValues("rancher")), 0)

	// One look that misses is no news; two are.
	require.False(t, h.saw(onRancher, errors.New("blip")))
	require.True(t, h.ready())
	require.True(t, h.saw(onRancher, errors.New("still")))
	require.False(t, h.ready())
	require.InDelta(t, 0, testutil.ToFloat64(h.up.WithLabelValues("rancher")), 0)
	require.True(t, h.saw(onRancher, nil))
	require.False(t, h.saw(onRancher, errors.New("blip")), "it counts anew")

	h.stops()
	code, body = get(t, h.readyz)
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, body, "stopping\n")
}

func TestLivenessIsOfTheProcessAlone(t *testing.T) {
	now := time.Now()
	h := newHealth(func() time.Time { return now })
	for _, d := range dependencies {
		h.saw(d, errs.Unavailable("down for hours"))
	}
	code, _ := get(t, h.livez)
	require.Equal(t, http.StatusOK, code)

	now = now.Add(stuckAfter + time.Second)
	code, body := get(t, h.livez)
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, body, "stuck")
	h.beats()
	code, _ = get(t, h.livez)
	require.Equal(t, http.StatusOK, code)
}

// hungRancher answers nothing before its context ends.
type hungRancher struct{}

func (hungRancher) Check(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
func (hungRancher) Start(ctx context.Context) error { return nil }

// Dependencies that hang for hours do not stop the heartbeat that liveness is.
func TestHungDependenciesDoNotHarmLiveness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, log := newDaemon(t, &fakeRancher{}, nil)
		d.parts.Rancher = hungRancher{}
		d.watching.Store(true)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go d.watch(ctx)
		for range 100 {
			time.Sleep(time.Minute)
			code, body := get(t, d.health.livez)
			require.Equal(t, http.StatusOK, code, body)
			code, _ = get(t, d.health.readyz)
			require.Equal(t, http.StatusServiceUnavailable, code)
		}
		cancel()
		synctest.Wait()
		require.NotContains(t, log.String(), "not ready", "it never was: that is no change")
	})
}

// A daemon is ready when what it needs has come, and not when it is next looked at.
func TestWhatComesIsSeenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := newDaemon(t, &fakeRancher{}, func() error { return nil })
		go d.watch(t.Context())
		time.Sleep(lookSoon + 2*lookSoon + 4*lookSoon + time.Millisecond) // the next look is two seconds away
		d.watching.Store(true)
		d.came()
		synctest.Wait()
		_, said := get(t, d.health.readyz)
		require.Contains(t, said, "rancher: ready")

		// What comes with it, a moment later, is not waited for as long either.
		done := d.polls.begin()
		defer done(nil)
		time.Sleep(lookSoon)
		synctest.Wait()
		_, said = get(t, d.health.readyz)
		require.Contains(t, said, "worker: ready")
	})
}

func TestRoutes(t *testing.T) {
	d, _ := newDaemon(t, &fakeRancher{}, nil)
	d.metrics.registry = prometheus.NewRegistry()
	server := httptest.NewServer(d.routes())
	defer server.Close()
	for path, want := range map[string]int{"/livez": 200, "/healthz": 200, "/readyz": 503, "/metrics": 200, "/": 404, "/debug/pprof/": 404} {
		response, err := http.Get(server.URL + path)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, want, response.StatusCode, path)
	}
	response, err := http.Post(server.URL+"/metrics", "text/plain", nil)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusMethodNotAllowed, response.StatusCode)
}

func TestPolls(t *testing.T) {
	now := time.Now()
	p := newPolls(func() time.Time { return now })
	require.Error(t, p.working(), "none was made")
	done := p.begin()
	require.NoError(t, p.working(), "one is out")
	now = now.Add(time.Minute)
	done(nil)
	require.NoError(t, p.working(), "it was answered")
	now = now.Add(pollMost + time.Second)
	require.Error(t, p.working(), "none was made since")

	done = p.begin()
	done(errors.New("down"))
	require.Error(t, p.working())
	now = now.Add(time.Second)
	done = p.begin()
	require.Error(t, p.working(), "it may fail like the last one")
	now = now.Add(settled)
	require.NoError(t, p.working(), "Temporal holds it")
	now = now.Add(pollMost)
	require.Error(t, p.working(), "nobody answers any more")
	done(nil)
	require.NoError(t, p.working())
}
