package rancherd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// errDisconnected is why a request through a switched-off cluster ends.
var errDisconnected = errors.New("cluster agent disconnected")

// backend is one API server behind the proxy.
type backend struct {
	id     string
	target *url.URL
	proxy  *httputil.ReverseProxy
	plain  http.RoundTripper
	link   link
}

// newBackend prepares the way to one API server with the credentials of cfg.
func newBackend(id string, cfg *rest.Config, log *slog.Logger) (*backend, error) {
	target, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("cluster %s: %w", id, err)
	}
	tlsCfg, err := rest.TLSConfigFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("cluster %s: %w", id, err)
	}
	b := &backend{id: id, target: target, plain: transport(tlsCfg, true)}
	b.proxy = &httputil.ReverseProxy{
		Rewrite:       b.rewrite,
		Transport:     &byProtocol{plain: b.plain, upgrade: transport(tlsCfg, false)},
		FlushInterval: -1, // watches and logs must not wait for a full buffer
		ErrorLog:      slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() != nil && !errors.Is(context.Cause(r.Context()), errDisconnected) {
				return // the client left
			}
			log.Warn("cluster not reached", "cluster", id, "path", r.URL.Path, "err", err)
			writeProxyError(w, http.StatusServiceUnavailable, "ClusterUnavailable",
				fmt.Sprintf("cluster %s is not reachable", id))
		},
	}
	return b, nil
}

func openBackend(u Upstream, log *slog.Logger) (*backend, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", u.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("cluster %s: kubeconfig %s: %w", u.ID, u.Kubeconfig, err)
	}
	return newBackend(u.ID, cfg, log)
}

// rewrite sends a request to the API server as the user who made it. The
// service's own credentials may impersonate; what the user may do is for the
// cluster's RBAC to say.
func (b *backend) rewrite(pr *httputil.ProxyRequest) {
	pr.Out.URL.Scheme, pr.Out.URL.Host = b.target.Scheme, b.target.Host
	pr.Out.URL.Path = inCluster(pr.In.URL.Path)
	if pr.In.URL.RawPath != "" {
		pr.Out.URL.RawPath = inCluster(pr.In.URL.RawPath)
	}
	pr.Out.Host = b.target.Host
	pr.Out.Header.Del("Authorization")
	pr.Out.Header.Del("Cookie")
	pr.Out.Header.Set("Impersonate-User", userFrom(pr.In.Context()))
	pr.Out.Header.Del(AliasHeader)
	if alias := aliasFrom(pr.In.Context()); alias != "" {
		pr.Out.Header.Set(AliasHeader, alias)
	}
	pr.Out.Header["Impersonate-Group"] = []string{"system:authenticated", "system:cattle:authenticated"}
	pr.SetXForwarded()
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, done, ok := b.link.use(r.Context())
	if !ok {
		writeProxyError(w, http.StatusServiceUnavailable, "ClusterUnavailable", errDisconnected.Error())
		return
	}
	defer done()
	b.proxy.ServeHTTP(w, r.WithContext(ctx))
}

// ready asks the API server whether it is ready, as the service itself.
func (b *backend) ready(ctx context.Context) error {
	u := *b.target
	u.Path = "/readyz"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	res, err := b.plain.RoundTrip(req)
	if err != nil {
		return err
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("API server answers %s to /readyz", res.Status)
	}
	return nil
}

// inCluster is what of /k8s/clusters/ID/PATH the API server is asked for.
func inCluster(path string) string {
	_, path, _ = strings.Cut(strings.TrimPrefix(path, clustersPath), "/")
	return "/" + path
}

// byProtocol sends upgrades (exec, attach, port-forward) over HTTP/1.1 and the
// rest over HTTP/2: an upgrade cannot be asked for on an HTTP/2 connection.
type byProtocol struct{ plain, upgrade http.RoundTripper }

func (t *byProtocol) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Header.Get("Upgrade") != "" {
		return t.upgrade.RoundTrip(r)
	}
	return t.plain.RoundTrip(r)
}

func transport(cfg *tls.Config, http2 bool) *http.Transport {
	t := &http.Transport{
		ForceAttemptHTTP2:   http2,
		TLSHandshakeTimeout: 5 * time.Second,
		IdleConnTimeout:     90 * time.Second,
		MaxIdleConnsPerHost: 32,
		DialContext:         dialer.DialContext,
	}
	if cfg != nil {
		t.TLSClientConfig = cfg.Clone()
	}
	if !http2 {
		t.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
		if t.TLSClientConfig != nil {
			t.TLSClientConfig.NextProtos = []string{"http/1.1"}
		}
	}
	return t
}

// link is the way to one cluster: while it is cut nothing passes, and cutting
// it ends what is under way.
type link struct {
	mu  sync.Mutex
	off bool
	cut context.CancelCauseFunc
	ctx context.Context
}

func (l *link) set(connected bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.off = !connected
	if l.off && l.cut != nil {
		l.cut(errDisconnected)
		l.ctx, l.cut = nil, nil
	}
}

// use returns a context that ends with the parent or when the link is cut.
func (l *link) use(parent context.Context) (context.Context, func(), bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.off {
		return nil, nil, false
	}
	if l.ctx == nil {
		l.ctx, l.cut = context.WithCancelCause(context.Background())
	}
	ctx, cancel := context.WithCancelCause(parent)
	stop := context.AfterFunc(l.ctx, func() { cancel(errDisconnected) })
	return ctx, func() { stop(); cancel(nil) }, true
}
