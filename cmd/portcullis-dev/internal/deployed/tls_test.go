package deployed

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/persistence/sql/sqlplugin/sqlite"
	sqliteschema "go.temporal.io/server/schema/sqlite"

	"portcullis.dev/portcullis/cmd/internal/cli"
	serverconfig "portcullis.dev/portcullis/cmd/internal/config"
	"portcullis.dev/portcullis/cmd/internal/connect"
)

// onSQLite keeps everything in a file, for tests that are not about PostgreSQL.
func onSQLite(t *testing.T) func(*config.Config) {
	t.Helper()
	sql := &config.SQL{PluginName: sqlite.PluginName, DatabaseName: filepath.Join(t.TempDir(), "temporal.db"), ConnectAttributes: map[string]string{"mode": "rwc"}}
	require.NoError(t, sqliteschema.SetupSchema(sql))
	ns, err := sqliteschema.NewNamespaceConfig("active", "default", false, nil)
	require.NoError(t, err)
	require.NoError(t, sqliteschema.CreateNamespaces(sql, ns))
	return func(c *config.Config) {
		c.Persistence.NumHistoryShards = 1
		c.Persistence.DataStores = map[string]config.DataStore{"default": {SQL: sql}, "visibility": {SQL: sql}}
	}
}

// settings that are right for a client with this folder of certificates.
func settings(address, dir string) serverconfig.Temporal {
	t := serverconfig.Temporal{Address: address, TLS: serverconfig.TLS{
		CAFile: filepath.Join(dir, "ca.crt"), CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key"), ServerName: "temporal",
	}}
	s := serverconfig.Server{Temporal: t}
	serverconfig.SetServerDefaults(&s)
	return s.Temporal
}

func options(t *testing.T, s serverconfig.Temporal) client.Options {
	t.Helper()
	o, err := connect.Options(s, "")
	require.NoError(t, err)
	return o
}

// runServer runs `portcullis server` until it ends by itself, and returns how it
// ended and its last line. All that it said is held against secrets.
func runServer(t *testing.T, s serverconfig.Temporal, secrets ...string) (code int, last string) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "token"), []byte("token-x:y"), 0o600))
	file := filepath.Join(dir, "server.yaml")
	text := fmt.Sprintf(`rancher: {url: "https://127.0.0.1:1", tokenFile: token}
agent: {image: x}
log: {level: debug}
temporal: {address: %q, apiKeyFile: %q, tls: {caFile: %q, certFile: %q, keyFile: %q, serverName: %q}}
`, s.Address, s.APIKeyFile, s.TLS.CAFile, s.TLS.CertFile, s.TLS.KeyFile, s.TLS.ServerName)
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var out, errOut bytes.Buffer
	code = cli.Main(ctx, cli.Options{Program: "portcullis", Args: []string{"server", "--config", file}, Stdout: &out, Stderr: &errOut})
	require.NoError(t, ctx.Err(), "it did not end: %s", errOut.String())
	for _, secret := range secrets {
		require.NotContains(t, out.String()+errOut.String(), secret)
	}
	lines := strings.Split(strings.TrimSpace(errOut.String()), "\n")
	var own []string
	for _, line := range lines {
		if strings.HasPrefix(line, "portcullis: ") {
			own = append(own, line)
		}
	}
	require.Len(t, own, 1, "one line says what is wrong: %s", errOut.String())
	return code, own[0]
}

// exitDenied is the exit code for credentials that are refused and certificates that
// do not verify.
const exitDenied = 7

func TestMutualTLS(t *testing.T) {
	if testing.Short() {
		t.Skip("left out by -short: starts a Temporal server")
	}
	ours, other := newAuthority(t), newAuthority(t)
	later := time.Now().Add(time.Hour)
	t.Setenv("TEMPORAL_TLS_DIR", ours.folder("temporal", later))
	conf, address := load(t, onSQLite(t))
	require.True(t, conf.Global.TLS.Frontend.Server.RequireClientAuth)
	serve(t, conf)

	right := settings(address, ours.folder("portcullis", later))
	up(t, options(t, right))
	startDaemon(t, right)

	expired := ours.folder("portcullis", time.Now().Add(-24*time.Hour))
	for what, c := range map[string]struct {
		change func(*serverconfig.Temporal)
		says   []string
	}{
		"another authority for the server": {
			func(s *serverconfig.Temporal) { s.TLS.CAFile = filepath.Join(other.folder("x", later), "ca.crt") },
			[]string{"the certificate of Temporal at " + address + " does not verify", "unknown authority"},
		},
		"another name": {
			func(s *serverconfig.Temporal) { s.TLS.ServerName = "elsewhere" },
			[]string{"does not verify", "valid for temporal, not elsewhere"},
		},
		"no certificate": {
			func(s *serverconfig.Temporal) { s.TLS.CertFile, s.TLS.KeyFile = "", "" },
			[]string{"refuses the connection (certificate required)", "name one in temporal.tls.certFile and keyFile"},
		},
		"an expired certificate": {
			func(s *serverconfig.Temporal) {
				s.TLS.CertFile, s.TLS.KeyFile = filepath.Join(expired, "tls.crt"), filepath.Join(expired, "tls.key")
			},
			[]string{"refuses the connection", "expired on " + time.Now().Add(-24*time.Hour).UTC().Format(time.DateOnly), "renew it", filepath.Join(expired, "tls.crt")},
		},
		"another authority's certificate": {
			func(s *serverconfig.Temporal) {
				dir := other.folder("portcullis", later)
				s.TLS.CertFile, s.TLS.KeyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
			},
			[]string{"refuses the connection", "is of an authority that Temporal trusts"},
		},
	} {
		s := right
		c.change(&s)
		code, last := runServer(t, s)
		require.Equal(t, exitDenied, code, "%s: %s", what, last)
		for _, says := range c.says {
			require.Contains(t, last, says, what)
		}
	}

	// A renewed certificate is taken by the next connection of the same client.
	dir := ours.folder("portcullis", time.Now().Add(-24*time.Hour))
	o := options(t, settings(address, dir))
	ours.renew(dir, "portcullis", later)
	up(t, o)
}
