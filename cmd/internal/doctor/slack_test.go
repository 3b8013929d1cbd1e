package doctor

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"portcullis.dev/portcullis/cmd/internal/config"
)

// The token is tried on Slack's Web API, which tells its scopes in a header.
func TestSlackIsAskedForTheScopes(t *testing.T) {
	answer, header := `{"ok":true,"user":"portcullis","team":"Example"}`, "chat:write,usergroups:read,files:write"
	slack := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/auth.test" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-OAuth-Scopes", header)
		_, _ = fmt.Fprint(w, answer)
	}))
	defer slack.Close()
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, data, 0o600))
		return file
	}
	s := newSetting(t)
	s.Config.Slack = config.Slack{
		BotTokenFile: write("bot", []byte("xoxb-s3cret")), AppTokenFile: write("app", []byte("xapp-s3cret")), APIURL: slack.URL + "/api/",
		CAFile: write("ca.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: slack.Certificate().Raw})),
	}
	ask := func() Result { return found(Run(t.Context(), s.Options))[SlackToken] }

	got := ask()
	require.Equal(t, OK, got.Status, "%+v", got)
	require.Equal(t, "it is portcullis in Example, with all scopes", got.Detail)

	header = "usergroups:read"
	got = ask()
	require.Equal(t, Fail, got.Status)
	require.Contains(t, got.Remedy, "add the scope chat:write")

	answer = `{"ok":false,"error":"token_revoked"}`
	got = ask()
	require.Equal(t, Fail, got.Status)
	require.NotContains(t, got.Detail+got.Remedy, "s3cret")
}
