// Package rancherd stands in for the one thing of Rancher that Portcullis talks
// to: the authenticated proxy in front of every cluster's API server, and the
// connection state that Rancher keeps on its Cluster objects.
package rancherd

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// Where the stand-in listens, and the URL that its clients are given.
const (
	Listen = "10.99.0.1:8443"
	URL    = "https://" + Listen
)

const clustersPath = "/k8s/clusters/"

var dialer = &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}

// Server answers for Rancher.
type Server struct {
	files    Files
	tokens   *Tokens
	backends map[string]*backend
	aliases  fresh[map[string]string]
	log      *slog.Logger
}

// NewServer makes a server for the clusters in the files.
func NewServer(files Files, log *slog.Logger) (*Server, error) {
	list, err := files.ReadClusters()
	if err != nil {
		return nil, fmt.Errorf("clusters behind the proxy: %w", err)
	}
	s := &Server{
		files: files, tokens: OpenTokens(files.TokenTable()),
		backends: make(map[string]*backend, len(list)), log: log,
		aliases: fresh[map[string]string]{path: files.Aliases(), read: readAliases},
	}
	for _, u := range list {
		if s.backends[u.ID], err = openBackend(u, log); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Handler routes requests. What needs no token in Rancher needs none here.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ping", text("pong"))
	mux.HandleFunc("GET /healthz", text("ok"))
	mux.HandleFunc("GET /cacerts", s.caCertsPEM)
	mux.HandleFunc("GET /v3/settings/cacerts", s.caCertsSetting)
	mux.Handle(clustersPath, s.authenticated(http.HandlerFunc(s.cluster)))
	mux.Handle("/", s.authenticated(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		writeError(w, http.StatusNotFound, "not found")
	})))
	return mux
}

// cluster finds the backend for /k8s/clusters/ID/...
func (s *Server) cluster(w http.ResponseWriter, r *http.Request) {
	id, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, clustersPath), "/")
	if to, ok := s.aliases.get()[id]; ok {
		r = r.WithContext(context.WithValue(r.Context(), aliasKey{}, id))
		id = to
	}
	b, ok := s.backends[id]
	if !ok {
		writeProxyError(w, http.StatusNotFound, "NotFound", "No cluster available")
		return
	}
	b.link.set(!s.files.Disconnected(id))
	b.ServeHTTP(w, r)
}

type userKey struct{}

func userFrom(ctx context.Context) string {
	user, _ := ctx.Value(userKey{}).(string)
	return user
}

// AliasHeader tells what stands behind an alias which one it was asked as: one
// server may be many clusters.
const AliasHeader = "X-Lab-Cluster-Alias"

type aliasKey struct{}

func aliasFrom(ctx context.Context) string {
	alias, _ := ctx.Value(aliasKey{}).(string)
	return alias
}

// authenticated lets only requests with a good bearer token through. A request
// that asks to impersonate is refused: the proxy does that itself.
func (s *Server) authenticated(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		var user string
		if ok {
			user, ok = s.tokens.User(strings.TrimSpace(bearer))
		}
		if !ok {
			writeError(w, http.StatusUnauthorized, "Unauthorized 401: must authenticate")
			return
		}
		for name := range r.Header {
			if strings.HasPrefix(name, "Impersonate-") {
				writeError(w, http.StatusForbidden, "not allowed to impersonate")
				return
			}
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), userKey{}, user)))
	})
}

func (s *Server) caCertsPEM(w http.ResponseWriter, _ *http.Request) {
	pem, err := os.ReadFile(s.files.CACert())
	if err != nil {
		writeError(w, http.StatusInternalServerError, "CA certificate is not readable")
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	_, _ = w.Write(pem)
}

func (s *Server) caCertsSetting(w http.ResponseWriter, _ *http.Request) {
	pem, err := os.ReadFile(s.files.CACert())
	if err != nil {
		writeError(w, http.StatusInternalServerError, "CA certificate is not readable")
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"id": "cacerts", "name": "cacerts", "type": "setting", "value": string(pem),
	})
}

// writeError answers in the form of Rancher's authentication layer.
func writeError(w http.ResponseWriter, code int, message string) {
	writeJSON(w, code, map[string]string{"type": "error", "status": strconv.Itoa(code), "message": message})
}

// writeProxyError answers in the form of Rancher's cluster router.
func writeProxyError(w http.ResponseWriter, code int, name, message string) {
	writeJSON(w, code, map[string]any{
		"baseType": "error", "type": "error", "status": code, "code": name, "message": message,
	})
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client may be gone; there is nobody else to tell
}

func text(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(s)) }
}
