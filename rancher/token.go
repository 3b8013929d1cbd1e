package rancher

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// tokenFile reads a bearer token and reads it again when the file changes, so
// that a rotated token needs no restart.
type tokenFile struct {
	path string

	mu       sync.Mutex
	token    string
	modified time.Time
	size     int64
}

func (t *tokenFile) read() (string, error) {
	info, err := os.Stat(t.path)
	if err != nil {
		return "", problem(KindDenied, "cannot read the Rancher token file %s: %v", t.path, reason(err))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.token != "" && info.ModTime().Equal(t.modified) && info.Size() == t.size {
		return t.token, nil
	}
	data, err := os.ReadFile(t.path)
	if err != nil {
		return "", problem(KindDenied, "cannot read the Rancher token file %s: %v", t.path, reason(err))
	}
	token := strings.TrimSpace(string(data))
	if token == "" {
		return "", problem(KindDenied, "the Rancher token file %s is empty; put an API token into it", t.path)
	}
	if strings.ContainsAny(token, " \t\r\n") {
		return "", problem(KindDenied, "the Rancher token file %s holds more than one word; it must hold only an API token", t.path)
	}
	t.token, t.modified, t.size = token, info.ModTime(), info.Size()
	return token, nil
}

func reason(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// bearer adds the token to requests for one host, and to no other: a redirect
// elsewhere must not carry it along.
type bearer struct {
	host   string
	agent  string
	tokens *tokenFile
	next   http.RoundTripper
}

func (b *bearer) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host != b.host {
		return nil, fmt.Errorf("the server redirected to another host (%s)", req.URL.Host)
	}
	token, err := b.tokens.read()
	if err != nil {
		return nil, err
	}
	req = req.Clone(req.Context())
	req.Header.Set("Authorization", "Bearer "+token)
	if b.agent != "" && req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", b.agent)
	}
	return b.next.RoundTrip(req)
}

// WrappedRoundTripper lets client-go find the transport below.
func (b *bearer) WrappedRoundTripper() http.RoundTripper { return b.next }
