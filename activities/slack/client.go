// Package slack shows rollouts and their gates in Slack. Nothing of a rollout
// depends on it: who may approve is decided elsewhere, and a Slack that is away is
// told to people and waited for by nobody.
package slack

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-retryablehttp"
	slackgo "github.com/slack-go/slack"

	"portcullis.dev/portcullis/activities/errs"
)

// DefaultURL is Slack's Web API.
const DefaultURL = slackgo.APIURL

// Config says how Slack is reached.
type Config struct {
	// BotTokenFile holds the bot's token (xoxb-); it is read for every call, so
	// that it can be rotated. Empty means that Slack is not in use.
	BotTokenFile string
	// URL of the Web API; empty means DefaultURL.
	URL string
	// CAFile has the certificates to trust; empty means the system's.
	CAFile string
}

const (
	// callTimeout bounds one call, its repetitions included.
	callTimeout = 20 * time.Second
	// shortWait is the longest rate limit that is waited for inside a call; a
	// longer one is handed up, so that nothing is held meanwhile.
	shortWait = 2 * time.Second
	// largestAnswer bounds what is read of an answer. Messages that are sent back
	// are a few kilobytes.
	largestAnswer = 4 << 20
)

// Client calls Slack's Web API. Every call has a time limit, honours rate limits
// and ends with an error of errs; the token is in none of them.
type Client struct {
	cfg     Config
	http    *http.Client
	metrics *metrics
}

// NewClient reads the certificates and talks to nothing.
func NewClient(cfg Config) (*Client, error) {
	if cfg.URL == "" {
		cfg.URL = DefaultURL
	}
	if !strings.HasSuffix(cfg.URL, "/") {
		cfg.URL += "/"
	}
	transport, err := newTransport(cfg.CAFile)
	if err != nil {
		return nil, err
	}
	return &Client{
		cfg: cfg, metrics: newMetrics(),
		// The token is in every request's body: it follows no redirect.
		http: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// On tells whether the daemon has a bot token at all.
func (c *Client) On() bool { return c.cfg.BotTokenFile != "" }

// TLS is what connections to Slack trust, or nil for the system's certificates.
func TLS(caFile string) (*tls.Config, error) {
	if caFile == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, errs.Invalid("cannot read slack.caFile: %v", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errs.Invalid("slack.caFile %s holds no PEM certificate", caFile)
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}

func newTransport(caFile string) (http.RoundTripper, error) {
	base, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return nil, errs.Failed("the process has replaced net/http's transport")
	}
	base = base.Clone()
	base.ResponseHeaderTimeout = 10 * time.Second
	trust, err := TLS(caFile)
	if err != nil {
		return nil, err
	}
	if trust != nil {
		base.TLSClientConfig = trust
	}
	r := retryablehttp.NewClient()
	r.Logger = nil // it would print addresses
	r.RetryMax = 3
	r.RetryWaitMin = 200 * time.Millisecond
	r.RetryWaitMax = shortWait
	r.ErrorHandler = retryablehttp.PassthroughErrorHandler
	r.CheckRetry = again
	r.HTTPClient = &http.Client{
		Transport:     bounded{base},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return &retryablehttp.RoundTripper{Client: r}, nil
}

// again repeats what Slack did not take: a short rate limit, or a connection that
// could not be made. A message whose fate is not known is not sent again here:
// whoever asked decides that, and may have a newer one by then.
func again(ctx context.Context, resp *http.Response, err error) (bool, error) {
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err != nil {
		return neverSent(err), nil
	}
	if resp.StatusCode != http.StatusTooManyRequests {
		return false, nil
	}
	seconds, bad := strconv.Atoi(resp.Header.Get("Retry-After"))
	return bad == nil && time.Duration(seconds)*time.Second <= shortWait, nil
}

// bounded reads no more of an answer than there can be.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, largestAnswer), resp.Body}
	}
	return resp, err
}

// secret reads a token out of its file.
func secret(field, file string) (string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", errs.Invalid("%s: %v", field, err)
	}
	value := strings.TrimSpace(string(data))
	if value == "" || strings.ContainsAny(value, " \r\n\t") {
		return "", errs.Invalid("%s: %s does not hold one token alone", field, file)
	}
	return value, nil
}

// Secret reads a token or a signing secret out of its file; field is how the
// configuration calls it.
func Secret(field, file string) (string, error) { return secret(field, file) }

// API is Slack's own client with the token that is there now.
func (c *Client) API(options ...slackgo.Option) (*slackgo.Client, error) {
	if !c.On() {
		return nil, errs.Invalid("the daemon has no Slack token: name its file in slack.botTokenFile")
	}
	token, err := secret("slack.botTokenFile", c.cfg.BotTokenFile)
	if err != nil {
		return nil, err
	}
	return slackgo.New(token, append([]slackgo.Option{
		slackgo.OptionHTTPClient(c.http),
		slackgo.OptionAPIURL(c.cfg.URL),
		slackgo.OptionLog(log.New(io.Discard, "", 0)),
	}, options...)...), nil
}

// Do makes one call: with a time limit, counted, and with a named error. what is
// the method of the Web API; about names its subject in errors.
func (c *Client) Do(ctx context.Context, what, about string, f func(context.Context, *slackgo.Client) error) (err error) {
	began := time.Now()
	defer func() { c.metrics.observe(what, began, err) }()
	api, err := c.API()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return explain(what, about, c.cfg, f(ctx, api))
}
