package verify

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
)

// execAt execs at an API server.
func execAt(ctx context.Context, serve http.HandlerFunc) error {
	server := httptest.NewServer(serve)
	defer server.CloseClientConnections()
	conn, err := dial(clusters(func(string) (*rest.Config, error) {
		return &rest.Config{Host: server.URL, BearerToken: "s3cr3t"}, nil
	}), "c-1", runtime.ContentTypeJSON)
	if err != nil {
		return nil
	}
	return conn.exec.Exec(ctx, "portcullis-system", "agent-n1", reachCommand, strings.NewReader(""), &strings.Builder{})
}

// What a proxy answers in the API server's place is made one line, without secrets.
func TestExecErrorIsOneLine(t *testing.T) {
	err := execAt(t.Context(), func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusBadGateway)
		page := "<html>\n<h1>Bad Gateway</h1>\n" + strings.Repeat("<p>sorry</p>\n", 1000)
		_, _ = w.Write([]byte(page))
	})
	if err == nil {
		t.Fatal("no error")
	}
	text := err.Error()
	if !strings.HasPrefix(text, "exec in portcullis-system/agent-n1: ") || !strings.Contains(text, "Bad Gateway") || strings.Contains(text, "\n") || len(text) > 2*maxLineLength || strings.Contains(text, "s3cr3t") {
		t.Errorf("%d bytes: %.500q", len(text), text)
	}
}

// An API server that takes the connection and is silent then does not keep an exec.
func TestExecEndsWithItsContext(t *testing.T) {
	for name, first := range map[string]int{"web socket": 0, "SPDY": http.StatusForbidden} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			over := make(chan struct{})
			defer close(over)
			ended := make(chan error, 1)
			go func() {
				ended <- execAt(ctx, func(w http.ResponseWriter, r *http.Request) {
					if first != 0 && strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
						w.WriteHeader(first)
						return
					}
					<-over
				})
			}()
			select {
			case err := <-ended:
				if err == nil {
					t.Error("no error")
				}
				t.Log(err)
			case <-time.After(5 * time.Second):
				t.Error("it goes on")
			}
		})
	}
}
