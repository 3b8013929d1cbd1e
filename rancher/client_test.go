package rancher

import (
	"context"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// proxy is an HTTPS server that answers like Rancher's proxy does.
func proxy(t *testing.T, handler http.HandlerFunc) (*httptest.Server, Config) {
	t.Helper()
	srv := httptest.NewTLSServer(handler)
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.crt")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("token-abc:secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return srv, Config{URL: srv.URL, CAFile: ca, TokenFile: token, UserAgent: "portcullis/test"}
}

func mustNew(t *testing.T, cfg Config) *Client {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func authorized(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer token-abc:secret" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if r.URL.Path != "/k8s/clusters/local/apis/management.cattle.io/v3/settings/server-url" {
		w.WriteHeader(http.StatusNotFound)
	}
}

func TestCheck(t *testing.T) {
	_, cfg := proxy(t, authorized)
	if err := mustNew(t, cfg).Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		change  func(cfg *Config)
		kind    Kind
		says    string
	}{
		"wrong token": {authorized, func(c *Config) { overwrite(t, c.TokenFile, "wrong") }, KindDenied, "put a valid one into"},
		"empty token": {authorized, func(c *Config) { overwrite(t, c.TokenFile, "\n") }, KindDenied, "is empty"},
		"two words":   {authorized, func(c *Config) { overwrite(t, c.TokenFile, "Bearer x") }, KindDenied, "more than one word"},
		"no token":    {authorized, func(c *Config) { c.TokenFile += "-gone" }, KindDenied, "no such file"},
		"other CA":    {authorized, func(c *Config) { c.CAFile = otherCA(t) }, KindUntrusted, "signed by an unknown authority"},
		"no CA":       {authorized, func(c *Config) { c.CAFile = "" }, KindUntrusted, "the system's CAs"},
		"forbidden":   {status(403), nil, KindDenied, "grant"},
		"in words": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(403)
			_, _ = w.Write([]byte(`{"kind":"Status","code":403,"reason":"Forbidden","message":"settings \"server-url\" is forbidden: User \"u-a\" cannot get it"}`))
		}, nil, KindDenied, `(settings "server-url" is forbidden: User "u-a" cannot get it)`},
		"not Rancher": {status(404), nil, KindNotFound, "it is not Rancher"},
		"failing":     {status(500), nil, KindUnavailable, "does not answer"},
		"down":        {authorized, func(c *Config) { c.URL = "https://127.0.0.1:1" }, KindUnavailable, "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, cfg := proxy(t, tc.handler)
			if tc.change != nil {
				tc.change(&cfg)
			}
			err := mustNew(t, cfg).Check(t.Context())
			if KindOf(err) != tc.kind || !strings.Contains(err.Error(), tc.says) {
				t.Fatalf("got %q: %v", KindOf(err), err)
			}
			if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "\n") {
				t.Errorf("not one clean line: %v", err)
			}
		})
	}
}

func otherCA(t *testing.T) string {
	t.Helper()
	// A certificate that signs nothing here: httptest uses one key pair for all
	// servers, so this one is written out.
	const other = `-----BEGIN CERTIFICATE-----
MIIBhTCCASugAwIBAgIQIRi6zePL6mKjOipn+dNuaTAKBggqhkjOPQQDAjASMRAw
DgYDVQQKEwdBY21lIENvMB4XDTE3MTAyMDE5NDMwNloXDTE4MTAyMDE5NDMwNlow
EjEQMA4GA1UEChMHQWNtZSBDbzBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABD0d
7VNhbWvZLWPuj/RtHFjvtJBEwOkhbN/BnnE8rnZR8+sbwnc/KhCk3FhnpHZnQz7B
5aETbbIgmuvewdjvSBSjYzBhMA4GA1UdDwEB/wQEAwICpDATBgNVHSUEDDAKBggr
BgEFBQcDATAPBgNVHRMBAf8EBTADAQH/MCkGA1UdEQQiMCCCDmxvY2FsaG9zdDo1
NDUzgg4xMjcuMC4wLjE6NTQ1MzAKBggqhkjOPQQDAgNIADBFAiEA2zpJEPQyz6/l
Wf86aX6PepsntZv2GYlA5UpabfT2EZICICpJ5h/iI+i341gBmLiAFQOyTDT+/wQc
6MF9+Yw1Yy0t
-----END CERTIFICATE-----
`
	path := filepath.Join(t.TempDir(), "other.crt")
	overwrite(t, path, other)
	return path
}

func overwrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCheckRetriesAndRereadsTheToken(t *testing.T) {
	var calls atomic.Int32
	_, cfg := proxy(t, func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) < 3 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		if r.Header.Get("Authorization") != "Bearer new" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	c := mustNew(t, cfg)
	if err := c.Check(t.Context()); KindOf(err) != KindDenied {
		t.Fatalf("with the old token: %v", err)
	}
	overwrite(t, cfg.TokenFile, "new")
	if err := c.Check(t.Context()); err != nil {
		t.Fatalf("with the new token: %v", err)
	}
}

func TestTokenStaysWithItsHost(t *testing.T) {
	var leaked atomic.Bool
	other := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		leaked.Store(leaked.Load() || r.Header.Get("Authorization") != "")
	}))
	defer other.Close()
	_, cfg := proxy(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, http.StatusFound) })
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := mustNew(t, cfg).Check(ctx); err == nil {
		t.Error("a redirect to another host was followed")
	}
	if leaked.Load() {
		t.Error("the token went to another host")
	}
}

func TestNewRefuses(t *testing.T) {
	_, good := proxy(t, authorized)
	for name, change := range map[string]func(c *Config){
		"http":            func(c *Config) { c.URL = "http://rancher.example.com" },
		"user in the URL": func(c *Config) { c.URL = "https://u:hidden@rancher.example.com" },
		"no URL":          func(c *Config) { c.URL = "" },
		"no token file":   func(c *Config) { c.TokenFile = "" },
		"CA not there":    func(c *Config) { c.CAFile += "x" },
		"CA not PEM":      func(c *Config) { c.CAFile = c.TokenFile },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			change(&cfg)
			if _, err := New(cfg); KindOf(err) != KindInvalid || strings.Contains(err.Error(), "hidden") {
				t.Errorf("got %v", err)
			}
		})
	}
	c := mustNew(t, good)
	for _, id := range []string{"", "../local", "c-m/x", "C"} {
		if _, err := c.REST(id); KindOf(err) != KindInvalid {
			t.Errorf("cluster ID %q: %v", id, err)
		}
	}
}

func TestBeforeStart(t *testing.T) {
	_, cfg := proxy(t, authorized)
	c := mustNew(t, cfg)
	if _, err := c.Inventory(); KindOf(err) != KindUnavailable {
		t.Errorf("inventory before start: %v", err)
	}
	if err := c.Start(t.Context()); KindOf(err) != KindNotFound || !strings.Contains(err.Error(), "is Fleet installed?") {
		t.Errorf("start without Fleet: %v", err)
	}
	if _, err := c.ReadSecret(t.Context(), "ns", "s"); KindOf(err) != KindNotFound {
		t.Errorf("secret: %v", err)
	}
}

func TestWrapKeepsTheCallersCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Wrap(ctx, errors.New("x"), "reading", "there", "", ""); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestNotifier(t *testing.T) {
	n := newNotifier()
	a, stopA := n.watch("ns/a")
	b, stopB := n.watch("ns/b")
	n.changed("ns/a")
	n.changed("ns/a") // becomes one
	if len(a) != 1 || len(b) != 0 {
		t.Errorf("a %d, b %d", len(a), len(b))
	}
	n.changedAny()
	if len(a) != 1 || len(b) != 1 {
		t.Errorf("a %d, b %d", len(a), len(b))
	}
	stopA()
	stopB()
	n.changed("ns/a")
	if len(n.waiters) != 0 {
		t.Errorf("left: %v", n.waiters)
	}
}
