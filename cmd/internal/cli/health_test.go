package cli

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func runHealth(t *testing.T, listen string, args ...string) (code int, out, errOut string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "server.yaml")
	require.NoError(t, os.WriteFile(file, []byte("metrics: {listen: '"+listen+"'}\n"), 0o600))
	var o, e bytes.Buffer
	code = Main(t.Context(), Options{Program: "portcullis", Args: append([]string{"health", "--config", file}, args...), Stdout: &o, Stderr: &e})
	return code, o.String(), e.String()
}

func TestHealth(t *testing.T) {
	ready := http.StatusOK
	daemon := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/livez":
			_, _ = w.Write([]byte("ok\n"))
		case "/readyz":
			w.WriteHeader(ready)
			_, _ = w.Write([]byte("temporal: ready\nworker: ready\nrancher: " + map[bool]string{true: "ready", false: "Unavailable"}[ready == http.StatusOK] + "\n"))
		}
	}))
	defer daemon.Close()
	at := daemon.Listener.Addr().String()

	code, out, errOut := runHealth(t, at)
	require.Equal(t, exitOK, code, errOut)
	require.Equal(t, "temporal: ready\nworker: ready\nrancher: ready\n", out)
	code, out, _ = runHealth(t, at, "-o", "json")
	require.Equal(t, exitOK, code)
	var told struct {
		Ready bool
		Says  []string
	}
	require.NoError(t, json.Unmarshal([]byte(out), &told))
	require.True(t, told.Ready)
	require.Len(t, told.Says, 3)

	ready = http.StatusServiceUnavailable
	code, out, errOut = runHealth(t, at)
	require.Equal(t, exitUnavailable, code)
	require.Empty(t, out)
	requireOneLine(t, errOut)
	require.Contains(t, errOut, "is not ready: temporal: ready, worker: ready, rancher: Unavailable")
	code, out, _ = runHealth(t, at, "--live")
	require.Equal(t, exitOK, code, "it works, though it is not ready")
	require.Equal(t, "ok\n", out)
}

func TestHealthOfADaemonThatDoesNotAnswer(t *testing.T) {
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, mute.Close()) }()
	began := time.Now()
	code, _, errOut := runHealth(t, mute.Addr().String(), "--timeout", "50ms")
	require.Equal(t, exitUnavailable, code)
	requireOneLine(t, errOut)
	require.Less(t, time.Since(began), 5*time.Second)
	for what, c := range map[string]struct {
		listen string
		args   []string
		code   int
		says   string
	}{
		"nobody":  {"127.0.0.1:1", nil, exitUnavailable, "does not answer at 127.0.0.1:1"},
		"nowhere": {"", nil, exitInvalid, "metrics.listen"},
		"timeout": {"127.0.0.1:1", []string{"--timeout", "0s"}, exitUsage, "--timeout"},
	} {
		code, _, errOut := runHealth(t, c.listen, c.args...)
		require.Equal(t, c.code, code, what)
		require.Contains(t, errOut, c.says, what)
		requireOneLine(t, errOut)
	}
}

// What a daemon listens on is not always an address that one can connect to.
func TestAskedAt(t *testing.T) {
	for listen, want := range map[string]string{
		"127.0.0.1:9464": "127.0.0.1:9464", "0.0.0.0:9464": "localhost:9464", ":9464": "localhost:9464", "[::]:9464": "localhost:9464", "portcullis:9464": "portcullis:9464",
	} {
		require.Equal(t, want, askedAt(listen), listen)
	}
}
