// Package gitd serves the lab's bare repositories over smart HTTP, for fetching
// only. Pushes are made to the repositories on disk.
package gitd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"portcullis.dev/portcullis/deploy/lab/internal/rancherd"
)

// Where the server listens, and where repositories are under its clients' view.
const (
	Listen = "10.99.0.1:8880"
	URL    = "http://" + Listen
)

// backends are the places of Git's own server program: Debian's and others'.
var backends = []string{"/usr/lib/git-core/git-http-backend", "/usr/libexec/git-core/git-http-backend"}

// Root is where the bare repositories are.
func Root(stateDir string) string { return filepath.Join(stateDir, "git") }

// Handler serves the repositories under root.
func Handler(root string, log *slog.Logger) (http.Handler, error) {
	backend, err := findBackend()
	if err != nil {
		return nil, err
	}
	root, err = filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	git := &cgi.Handler{
		Path: backend,
		Dir:  "/",
		Env: []string{
			"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "HOME=" + root,
			"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_COUNT=1",
			"GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
		},
		Logger: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/healthz":
			fmt.Fprintln(w, "ok")
		case strings.HasSuffix(r.URL.Path, "/git-receive-pack") || r.URL.Query().Get("service") == "git-receive-pack":
			http.Error(w, "this server is for fetching only", http.StatusForbidden)
		default:
			git.ServeHTTP(w, r)
		}
	}), nil
}

func findBackend() (string, error) {
	for _, p := range backends {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("git-http-backend is not installed (looked for %s)", strings.Join(backends, ", "))
}

// Command is `lab gitd`: it serves until it is told to stop.
func Command() *cobra.Command {
	cmd := &cobra.Command{Use: "gitd", Short: "Serve the lab's policy repository", Args: cobra.NoArgs}
	stateDir := rancherd.StateDirFlag(cmd)
	listen := cmd.Flags().String("listen", Listen, "address to listen on")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		return Run(ctx, Root(*stateDir), *listen, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
	}
	return cmd
}

// Run serves until ctx ends.
func Run(ctx context.Context, root, listen string, log *slog.Logger) error {
	h, err := Handler(root, log)
	if err != nil {
		return err
	}
	srv := &http.Server{
		Addr: listen, Handler: h, ReadHeaderTimeout: 10 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	log.Info("serving", "address", listen, "root", root)
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
