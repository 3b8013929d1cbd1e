package rancherd

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
)

// lab is a stand-in in front of one API server, as tests see it.
type lab struct {
	files  Files
	server *Server
	front  *httptest.Server
	token  string
}

func newLab(t *testing.T, api http.Handler) *lab {
	t.Helper()
	files := Files{Dir: t.TempDir()}
	upstream := httptest.NewUnstartedServer(api)
	upstream.EnableHTTP2 = true
	upstream.StartTLS()
	t.Cleanup(upstream.Close)

	token, err := NewToken(files.TokenTable(), "u-tester", 0)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	caPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: upstream.Certificate().Raw})
	b, err := newBackend("c-m-test0001", &rest.Config{
		Host: upstream.URL, TLSClientConfig: rest.TLSClientConfig{CAData: caPEM},
	}, log)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{
		files: files, tokens: OpenTokens(files.TokenTable()), log: log,
		backends: map[string]*backend{b.id: b},
		aliases:  fresh[map[string]string]{path: files.Aliases(), read: readAliases},
	}
	front := httptest.NewUnstartedServer(s.Handler())
	front.EnableHTTP2 = true
	front.StartTLS()
	t.Cleanup(front.Close)
	return &lab{files: files, server: s, front: front, token: token}
}

func (l *lab) get(t *testing.T, path, bearer string, header ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, l.front.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := l.front.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return res
}

func body(t *testing.T, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func echo(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "%s user=%s groups=%s auth=%q alias=%s", r.URL.RequestURI(),
		r.Header.Get("Impersonate-User"), strings.Join(r.Header["Impersonate-Group"], ","), r.Header.Get("Authorization"), r.Header.Get(AliasHeader))
}

func TestAliases(t *testing.T) {
	l := newLab(t, http.HandlerFunc(echo))
	const path = "/k8s/clusters/c-sim-0001/api/v1/a%2Fb?x=1"
	expect := func(code int, contains string) {
		t.Helper()
		res := l.get(t, path, l.token)
		if text := body(t, res); res.StatusCode != code || !strings.Contains(text, contains) {
			t.Fatalf("%d %s; want %d with %q", res.StatusCode, text, code, contains)
		}
	}
	expect(404, "No cluster available")
	if err := l.files.WriteAliases(map[string]string{"c-sim-0001": "c-m-test0001", "c-sim-0002": "c-m-gone0001"}); err != nil {
		t.Fatal(err)
	}
	expect(200, "/api/v1/a%2Fb?x=1 user=u-tester")
	expect(200, "alias=c-sim-0001")
	if err := l.files.Disconnect("c-m-test0001"); err != nil {
		t.Fatal(err)
	}
	expect(503, "cluster agent disconnected")
	if err := l.files.WriteAliases(nil); err != nil {
		t.Fatal(err)
	}
	expect(404, "No cluster available")
	if err := l.files.WriteAliases(nil); err != nil {
		t.Fatal("a second time:", err)
	}
}

func TestWhoMayPass(t *testing.T) {
	l := newLab(t, http.HandlerFunc(echo))
	expired, err := NewToken(l.files.TokenTable(), "u-tester", -time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	revoked, err := NewToken(l.files.TokenTable(), "u-tester", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := RevokeToken(l.files.TokenTable(), revoked); err != nil {
		t.Fatal(err)
	}
	name, _, _ := strings.Cut(l.token, ":")
	const path = "/k8s/clusters/c-m-test0001/version"
	for _, c := range []struct {
		name, path, bearer string
		code               int
		contains           string
	}{
		{"good", path, l.token, 200, "user=u-tester groups=system:authenticated"},
		{"path, query and escapes arrive", "/k8s/clusters/c-m-test0001/api/v1/a%2Fb?watch=1&x=a%20b", l.token, 200, "/api/v1/a%2Fb?watch=1&x=a%20b"},
		{"root of the cluster", "/k8s/clusters/c-m-test0001", l.token, 200, "/ user="},
		{"own credentials stay here", path, l.token, 200, `auth=""`},
		{"no token", path, "", 401, "must authenticate"},
		{"wrong secret", path, name + ":nope", 401, "must authenticate"},
		{"empty secret", path, name + ":", 401, "must authenticate"},
		{"unknown name", path, "token-zzzzz:nope", 401, "must authenticate"},
		{"expired", path, expired, 401, "must authenticate"},
		{"revoked", path, revoked, 401, "must authenticate"},
		{"unknown cluster", "/k8s/clusters/c-m-nope/version", l.token, 404, "No cluster available"},
		{"unknown cluster without token", "/k8s/clusters/c-m-nope/version", "", 401, "must authenticate"},
		{"other path", "/v3/users", l.token, 404, "not found"},
		{"ping needs no token", "/ping", "", 200, "pong"},
	} {
		t.Run(c.name, func(t *testing.T) {
			res := l.get(t, c.path, c.bearer)
			got := body(t, res)
			if res.StatusCode != c.code || !strings.Contains(got, c.contains) {
				t.Errorf("%s: %d %s; want %d with %q", c.path, res.StatusCode, got, c.code, c.contains)
			}
			if c.code >= 400 && res.Header.Get("Content-Type") != "application/json" {
				t.Errorf("error is %s, want JSON", res.Header.Get("Content-Type"))
			}
		})
	}
}

func TestImpersonationIsRefused(t *testing.T) {
	l := newLab(t, http.HandlerFunc(echo))
	res := l.get(t, "/k8s/clusters/c-m-test0001/version", l.token, "Impersonate-Group", "system:masters")
	if res.StatusCode != http.StatusForbidden {
		t.Errorf("got %d, want 403", res.StatusCode)
	}
}

func TestTokenExpiresWhileServing(t *testing.T) {
	files := Files{Dir: t.TempDir()}
	token, err := NewToken(files.TokenTable(), "u-tester", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	tokens := OpenTokens(files.TokenTable())
	if _, ok := tokens.User(token); !ok {
		t.Fatal("a fresh token is refused")
	}
	tokens.now = func() time.Time { return time.Now().Add(time.Hour + time.Second) }
	if _, ok := tokens.User(token); ok {
		t.Error("an expired token is accepted")
	}
}

func TestBrokenTokenTableLetsNobodyIn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.yaml")
	token, err := NewToken(path, "u-tester", 0)
	if err != nil {
		t.Fatal(err)
	}
	tokens := OpenTokens(path)
	if _, ok := tokens.User(token); !ok {
		t.Fatal("a fresh token is refused")
	}
	if err := os.WriteFile(path, []byte("tokens: {"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ok := tokens.User(token); ok {
		t.Error("a token is accepted from a table that cannot be read")
	}
}

func TestWatchArrivesEventByEvent(t *testing.T) {
	next := make(chan string)
	l := newLab(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for {
			select {
			case <-r.Context().Done():
				return
			case e := <-next:
				fmt.Fprintln(w, e)
				w.(http.Flusher).Flush()
			}
		}
	}))
	go func() { next <- "first" }()
	res := l.get(t, "/k8s/clusters/c-m-test0001/api/v1/pods?watch=1", l.token)
	lines := bufio.NewReader(res.Body)
	for _, want := range []string{"first", "second"} {
		if want != "first" {
			next <- want
		}
		got, err := lines.ReadString('\n')
		if err != nil || strings.TrimSpace(got) != want {
			t.Fatalf("got %q, %v; want %q", got, err, want)
		}
	}
}

func TestDisconnectEndsStreamsAndRefusesRequests(t *testing.T) {
	l := newLab(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "open")
		w.(http.Flusher).Flush()
		if r.URL.Query().Has("watch") {
			<-r.Context().Done()
		}
	}))
	watch := l.get(t, "/k8s/clusters/c-m-test0001/api/v1/pods?watch=1", l.token)
	lines := bufio.NewReader(watch.Body)
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := l.files.Disconnect("c-m-test0001"); err != nil {
		t.Fatal(err)
	}
	res := l.get(t, "/k8s/clusters/c-m-test0001/version", l.token)
	if got := body(t, res); res.StatusCode != http.StatusServiceUnavailable || !strings.Contains(got, "disconnected") {
		t.Errorf("got %d %s, want 503", res.StatusCode, got)
	}
	if _, err := lines.ReadString('\n'); err == nil {
		t.Error("the watch goes on over a cut connection")
	}
	if err := l.files.Connect("c-m-test0001"); err != nil {
		t.Fatal(err)
	}
	if res := l.get(t, "/k8s/clusters/c-m-test0001/version", l.token); res.StatusCode != http.StatusOK {
		t.Errorf("got %d after connecting again, want 200", res.StatusCode)
	}
}

func TestUnreachableAPIServer(t *testing.T) {
	l := newLab(t, http.HandlerFunc(echo))
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := l.server.backends["c-m-test0001"]
	b.target.Host = closed.Addr().String()
	closed.Close()
	res := l.get(t, "/k8s/clusters/c-m-test0001/version", l.token)
	if got := body(t, res); res.StatusCode != http.StatusServiceUnavailable || !strings.Contains(got, "c-m-test0001") {
		t.Errorf("got %d %s, want 503 that names the cluster", res.StatusCode, got)
	}
	if err := l.server.probe(t.Context(), b.id, b); err == nil {
		t.Error("probe finds a closed port ready")
	}
}

// TestUpgrade speaks the protocols of exec: SPDY and WebSocket both begin with an
// HTTP/1.1 upgrade, after which bytes go both ways.
func TestUpgrade(t *testing.T) {
	for _, proto := range []string{"SPDY/3.1", "websocket"} {
		t.Run(proto, func(t *testing.T) {
			l := newLab(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Upgrade") != proto || r.ProtoMajor != 1 {
					http.Error(w, "no upgrade", http.StatusBadRequest)
					return
				}
				conn, rw, err := w.(http.Hijacker).Hijack()
				if err != nil {
					return
				}
				defer conn.Close()
				fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", proto)
				rw.Flush()
				_, _ = io.Copy(conn, rw)
			}))
			conn := l.dial(t)
			fmt.Fprintf(conn, "POST /k8s/clusters/c-m-test0001/api/v1/namespaces/a/pods/b/exec?command=x HTTP/1.1\r\n"+
				"Host: rancher\r\nAuthorization: Bearer %s\r\nConnection: Upgrade\r\nUpgrade: %s\r\nContent-Length: 0\r\n\r\n", l.token, proto)
			r := bufio.NewReader(conn)
			res, err := http.ReadResponse(r, nil)
			if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("got %v, %v; want 101", res, err)
			}
			fmt.Fprintln(conn, "over the stream")
			if got, err := r.ReadString('\n'); err != nil || got != "over the stream\n" {
				t.Errorf("echo: %q, %v", got, err)
			}
			if err := l.files.Disconnect("c-m-test0001"); err != nil {
				t.Fatal(err)
			}
			_ = l.server.probe(context.Background(), "c-m-test0001", l.server.backends["c-m-test0001"])
			_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, err := r.ReadByte(); err == nil || os.IsTimeout(err) {
				t.Errorf("stream outlives the connection: %v", err)
			}
		})
	}
}

func (l *lab) dial(t *testing.T) net.Conn {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(l.front.Certificate())
	conn, err := tls.Dial("tcp", l.front.Listener.Addr().String(),
		&tls.Config{RootCAs: roots, ServerName: "example.com", NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestEnsurePKI(t *testing.T) {
	files := Files{Dir: t.TempDir()}
	read := func() string {
		if err := files.EnsurePKI("10.99.0.1", "localhost"); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(files.ServerCert())
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	first := read()
	if read() != first {
		t.Error("a good certificate is replaced")
	}
	if err := files.EnsurePKI("10.99.0.1", "rancher.example.com"); err != nil {
		t.Fatal(err)
	}
	if !files.pkiGood([]string{"rancher.example.com"}) {
		t.Error("a new host name is not in the certificate")
	}
}

func TestConditions(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{{nil, "True"}, {errDisconnected, "False"}} {
		for _, cond := range conditions(c.err, time.Unix(0, 0)) {
			if cond.Status != c.want {
				t.Errorf("%v: %s is %s, want %s", c.err, cond.Type, cond.Status, c.want)
			}
		}
	}
}
