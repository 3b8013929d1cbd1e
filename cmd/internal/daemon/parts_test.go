package daemon

import (
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/cmd/internal/config"
)

// The real parts against a Rancher that refuses: what a person configured wrong
// must end the daemon with its own type, and what is down must not.
func TestRealPartsTellWrongFromDown(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer good:token" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer server.Close()
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, data, 0o600))
		return file
	}
	ca := write("ca.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	token := write("token", []byte("bad:token\n"))

	for name, c := range map[string]struct {
		cfg  config.Rancher
		want string
	}{
		"wrong token": {config.Rancher{URL: server.URL, TokenFile: token, CAFile: ca}, errs.TypeDenied},
		"wrong CA":    {config.Rancher{URL: server.URL, TokenFile: token}, errs.TypeUntrusted},
		"down":        {config.Rancher{URL: "https://127.0.0.1:1", TokenFile: token}, errs.TypeUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			parts, err := build(config.Server{Rancher: c.cfg}, "test")
			require.NoError(t, err)
			require.Equal(t, c.want, errs.TypeOf(parts.Rancher.Check(t.Context())))
		})
	}
	_, err := build(config.Server{Rancher: config.Rancher{URL: server.URL, TokenFile: token, CAFile: filepath.Join(dir, "none")}}, "test")
	require.Equal(t, errs.TypeInvalid, errs.TypeOf(err))
}

// Registering twice, or something that is no activity, makes the SDK panic.
func TestRealPartsCanBeRegistered(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte("a:b"), 0o600))
	parts, err := build(config.Server{Rancher: config.Rancher{URL: "https://127.0.0.1:1", TokenFile: file}}, "test")
	require.NoError(t, err)
	lazy, err := client.NewLazyClient(client.Options{})
	require.NoError(t, err)
	defer lazy.Close()
	require.NotPanics(t, func() { parts.Register(worker.New(lazy, "q", worker.Options{})) })
	_, err = newMetrics(Options{Config: config.Server{Metrics: config.Metrics{Listen: "127.0.0.1:0"}}, Logger: slog.New(slog.DiscardHandler)}, parts.Collectors...)
	require.NoError(t, err)
}
