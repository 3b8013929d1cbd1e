package cli

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"portcullis.dev/portcullis/activities/errs"
)

// healthMost bounds what is read of an answer, in bytes; a daemon's is a few lines.
const healthMost = 16 << 10

func (a *app) healthCommand() *cobra.Command {
	var live bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "health --config FILE",
		Short: "Ask the daemon on this machine whether it is ready",
		Long: `Ask the daemon on this machine, at its file's metrics.listen, whether it is ready. It is the health check of a
container, in which there is nothing else to ask with.`,
		Args: cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error { return a.health(ctx, live, timeout) }),
	}
	c.Flags().BoolVar(&live, "live", false, "ask whether it works at all, not whether it can make progress")
	c.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "how long it may take")
	return c
}

func (a *app) health(ctx context.Context, live bool, timeout time.Duration) error {
	if first(a.flags.config, a.env("CONFIG")) == "" {
		return usagef("name the daemon's configuration file with --config")
	}
	if timeout <= 0 {
		return usagef("--timeout is %s; it is above zero", timeout)
	}
	cfg, err := a.serverConfig()
	if err != nil {
		return err
	}
	if cfg.Metrics.Listen == "" {
		return errs.Invalid("metrics.listen: the daemon's file has none, so there is nothing to ask")
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	path := map[bool]string{true: "/livez", false: "/readyz"}[live]
	said, err := askHealth(ctx, askedAt(cfg.Metrics.Listen), path)
	if err != nil {
		return err
	}
	return a.print(map[string]any{"ready": true, "says": said}, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, strings.Join(said, "\n"))
		return err
	})
}

// askedAt is where one connects to reach what listens there.
func askedAt(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		return net.JoinHostPort("localhost", port)
	}
	return listen
}

// askHealth returns the lines that a daemon says when all is well.
func askHealth(ctx context.Context, address, path string) ([]string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return nil, errs.Invalid("metrics.listen: %v", err)
	}
	// No proxy is between a daemon and its own machine.
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := c.Do(request)
	if err != nil {
		return nil, errs.Unavailable("the daemon does not answer at %s: %v", address, err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, healthMost))
	if err != nil {
		return nil, errs.Unavailable("the daemon's answer at %s breaks off: %v", address, err)
	}
	said := strings.Split(strings.TrimSpace(string(body)), "\n")
	if response.StatusCode != http.StatusOK {
		return nil, errs.Unavailable("the daemon at %s is not ready: %s", address, strings.Join(said, ", "))
	}
	return said, nil
}
