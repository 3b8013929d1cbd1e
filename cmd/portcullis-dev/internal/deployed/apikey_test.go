package deployed

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v4"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"portcullis.dev/portcullis/cmd/internal/connect"
)

// issuer signs API keys, and shows its public key to Temporal.
type issuer struct {
	t   *testing.T
	key *rsa.PrivateKey
	url string
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	set, err := json.Marshal(map[string]any{"keys": []any{map[string]string{
		"kty": "RSA", "kid": "one", "use": "sig", "alg": "RS256",
		"n": base64.RawURLEncoding.EncodeToString(key.N.Bytes()), "e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes()),
	}}})
	require.NoError(t, err)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(set) }))
	t.Cleanup(s.Close)
	return &issuer{t, key, s.URL + "/jwks.json"}
}

// apiKey may do this, until then.
func (i *issuer) apiKey(until time.Time, permissions ...string) string {
	i.t.Helper()
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{"sub": "portcullis", "exp": until.Unix(), "permissions": permissions})
	token.Header["kid"] = "one"
	signed, err := token.SignedString(i.key)
	require.NoError(i.t, err)
	return signed
}

func TestAPIKeys(t *testing.T) {
	if testing.Short() {
		t.Skip("left out by -short: starts a Temporal server")
	}
	ours, keys, forger := newAuthority(t), newIssuer(t), newIssuer(t)
	later := time.Now().Add(time.Hour)
	t.Setenv("TEMPORAL_TLS_DIR", ours.folder("temporal", later))
	t.Setenv("TEMPORAL_JWKS", keys.url)
	conf, address := load(t, onSQLite(t))
	serve(t, conf)

	dir := ours.folder("unused", later)
	file := filepath.Join(dir, "api-key")
	write := func(key string) string {
		t.Helper()
		require.NoError(t, os.WriteFile(file, []byte(key+"\n"), 0o600))
		return key
	}
	right := settings(address, dir)
	right.TLS.CertFile, right.TLS.KeyFile, right.APIKeyFile = "", "", file
	good := write(keys.apiKey(later, "default:admin"))
	up(t, options(t, right))
	startDaemon(t, right)

	for what, key := range map[string]string{
		"forged":     forger.apiKey(later, "default:admin"),
		"expired":    keys.apiKey(time.Now().Add(-time.Hour), "default:admin"),
		"of another": keys.apiKey(later, "elsewhere:admin"),
		"no token":   "s3cret",
	} {
		write(key)
		code, last := runServer(t, right, key, good)
		require.Equal(t, exitDenied, code, "%s: %s", what, last)
		require.Contains(t, last, "Temporal at "+address+" refuses the credentials", what)
	}

	// The key is read anew for each call, so a client that runs takes another.
	write(good)
	c, err := client.Dial(options(t, right))
	require.NoError(t, err)
	defer c.Close()
	ask := func() error {
		_, err := c.WorkflowService().ListWorkflowExecutions(t.Context(), &workflowservice.ListWorkflowExecutionsRequest{Namespace: "default"})
		return connect.Explain(err, right)
	}
	require.NoError(t, ask())
	write(forger.apiKey(later, "default:admin"))
	require.ErrorContains(t, ask(), "refuses the credentials")
	write(keys.apiKey(later, "default:read"))
	require.NoError(t, ask())
	write("")
	require.ErrorContains(t, ask(), file+" is empty")
}
