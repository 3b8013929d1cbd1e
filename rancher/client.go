package rancher

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-retryablehttp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// Config says where Rancher is and who Portcullis is to it.
type Config struct {
	// URL is Rancher's address, such as https://rancher.example.com.
	URL string
	// TokenFile holds an API token; it is read again when it changes.
	TokenFile string
	// CAFile holds the PEM certificates that may sign Rancher's certificate, and
	// none but these. Empty means the system's.
	CAFile string
	// Workspace is the Fleet workspace; empty means fleet-default.
	Workspace string
	// UserAgent is sent with every request.
	UserAgent string
}

const (
	// DefaultWorkspace is Fleet's workspace for downstream clusters.
	DefaultWorkspace = "fleet-default"
	// localCluster is Rancher's ID of the management cluster.
	localCluster = "local"

	// callTimeout bounds one call to the management cluster.
	callTimeout = 20 * time.Second
	// checkTimeout bounds Check and Ping with all their retries.
	checkTimeout = 20 * time.Second
)

// Client talks to Rancher, and through it to the management cluster and the
// downstream clusters. It is safe for concurrent use.
type Client struct {
	cfg    Config
	host   string
	ca     []byte
	tokens *tokenFile
	check  *retryablehttp.Client
	fleet  rest.Interface
	core   rest.Interface
	batch  rest.Interface

	wake *notifier

	mu     sync.RWMutex
	caches *caches
}

// New checks the configuration and builds the clients. It makes no connection.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return nil, problem(KindInvalid, "rancher.url must be https://HOST[:PORT] without user information")
	}
	if cfg.TokenFile == "" {
		return nil, problem(KindInvalid, "rancher.tokenFile is missing; name the file that holds the API token for %s", cfg.URL)
	}
	cfg.URL = strings.TrimRight(cfg.URL, "/")
	if cfg.Workspace == "" {
		cfg.Workspace = DefaultWorkspace
	}
	c := &Client{cfg: cfg, host: u.Host, tokens: &tokenFile{path: cfg.TokenFile}, wake: newNotifier()}
	if cfg.CAFile != "" {
		if c.ca, err = readCA(cfg.CAFile); err != nil {
			return nil, err
		}
	}
	if err := c.connectors(); err != nil {
		return nil, err
	}
	return c, nil
}

func readCA(path string) ([]byte, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, problem(KindInvalid, "cannot read rancher.caFile %s: %v", path, reason(err))
	}
	if !x509.NewCertPool().AppendCertsFromPEM(pem) {
		return nil, problem(KindInvalid, "rancher.caFile %s holds no PEM certificate", path)
	}
	return pem, nil
}

func (c *Client) connectors() error {
	base, err := c.REST(localCluster)
	if err != nil {
		return err
	}
	plain, err := rest.HTTPClientFor(base)
	if err != nil {
		return problem(KindInvalid, "building the HTTP client for %s: %v", c.cfg.URL, err)
	}
	c.check = retrying(plain)
	if c.fleet, err = groupClient(base, fleetGroupVersion); err != nil {
		return problem(KindInvalid, "building the Fleet client for %s: %v", c.cfg.URL, err)
	}
	if c.core, err = groupClient(base, corev1.SchemeGroupVersion); err != nil {
		return problem(KindInvalid, "building the client for %s: %v", c.cfg.URL, err)
	}
	if c.batch, err = groupClient(base, batchv1.SchemeGroupVersion); err != nil {
		return problem(KindInvalid, "building the client for %s: %v", c.cfg.URL, err)
	}
	return nil
}

// retrying wraps a client with few, bounded retries. Its logger is off: the
// library's own would print request URLs.
func retrying(plain *http.Client) *retryablehttp.Client {
	r := retryablehttp.NewClient()
	r.HTTPClient = plain
	r.Logger = nil
	r.RetryMax = 3
	r.RetryWaitMin = 200 * time.Millisecond
	r.RetryWaitMax = 2 * time.Second
	r.ErrorHandler = retryablehttp.PassthroughErrorHandler
	r.CheckRetry = func(ctx context.Context, resp *http.Response, err error) (bool, error) {
		// A named error (no token) and a certificate stay as they are: trying again cannot help.
		if KindOf(err) != "" || certificateProblem(err) != "" {
			return false, err
		}
		return retryablehttp.DefaultRetryPolicy(ctx, resp, err)
	}
	return r
}

// Workspace is the Fleet workspace that this client works in.
func (c *Client) Workspace() string { return c.cfg.Workspace }

// URL is Rancher's address.
func (c *Client) URL() string { return c.cfg.URL }

// REST returns how to reach the API server of a cluster through Rancher's proxy.
// clusterID is Rancher's own (c-m-abc12, or local for the management cluster).
// The configuration carries a transport that reads the token afresh; no secret is in it.
func (c *Client) REST(clusterID string) (*rest.Config, error) {
	if !validClusterID(clusterID) {
		return nil, problem(KindInvalid, "%q is not a Rancher cluster ID", clusterID)
	}
	return &rest.Config{
		Host:            c.cfg.URL + "/k8s/clusters/" + clusterID,
		UserAgent:       c.cfg.UserAgent,
		TLSClientConfig: rest.TLSClientConfig{CAData: c.ca},
		QPS:             100,
		Burst:           200,
		WrapTransport: func(next http.RoundTripper) http.RoundTripper {
			return &bearer{host: c.host, agent: c.cfg.UserAgent, tokens: c.tokens, next: next}
		},
	}, nil
}

// validClusterID keeps an ID from leaving its path segment.
func validClusterID(id string) bool {
	if id == "" || len(id) > 63 {
		return false
	}
	for _, r := range id {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' {
			return false
		}
	}
	return true
}

// Check says whether Rancher is there, its certificate is trusted, and the token
// is good: KindUnavailable, KindUntrusted or KindDenied otherwise. KindNotFound
// means that something answers there, but not Rancher.
func (c *Client) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	err := c.get(ctx, localCluster, "/apis/management.cattle.io/v3/settings/server-url")
	if KindOf(err) == KindNotFound {
		return problem(KindNotFound, "%s answers, but has no management.cattle.io settings: it is not Rancher, or the path before /k8s is wrong", c.cfg.URL)
	}
	return err
}

// Ping says whether the API server of one cluster answers through Rancher.
func (c *Client) Ping(ctx context.Context, clusterID string) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	return c.get(ctx, clusterID, "/version")
}

func (c *Client) get(ctx context.Context, clusterID, path string) error {
	if !validClusterID(clusterID) {
		return problem(KindInvalid, "%q is not a Rancher cluster ID", clusterID)
	}
	where := c.cfg.URL + "/k8s/clusters/" + clusterID
	doing := "reaching cluster " + clusterID
	if clusterID == localCluster {
		doing = "reaching Rancher"
	}
	req, err := retryablehttp.NewRequestWithContext(ctx, http.MethodGet, where+path, nil)
	if err != nil {
		return problem(KindInvalid, "%s: %v", doing, err)
	}
	resp, err := c.check.Do(req)
	if err != nil {
		return Wrap(ctx, err, doing, c.cfg.URL, c.cfg.TokenFile, c.cfg.CAFile)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 300 {
		return nil
	}
	return Wrap(ctx, answered(resp, clusterID), doing, c.cfg.URL, c.cfg.TokenFile, c.cfg.CAFile)
}

// largestStatus bounds what is read of an answer that is no success.
const largestStatus = 64 << 10

// answered is the error of an answer that is no success, in the words of the API server where it said any.
func answered(resp *http.Response, clusterID string) error {
	var said metav1.Status
	body, err := io.ReadAll(io.LimitReader(resp.Body, largestStatus))
	if err == nil && json.Unmarshal(body, &said) == nil && said.Kind == "Status" && said.Message != "" && int(said.Code) == resp.StatusCode {
		return &apierrors.StatusError{ErrStatus: said}
	}
	return apierrors.NewGenericServerResponse(resp.StatusCode, "get", corev1.Resource("clusters"), clusterID, http.StatusText(resp.StatusCode), 0, false)
}

// ReadSecret returns the data of a Secret on the management cluster.
func (c *Client) ReadSecret(ctx context.Context, namespace, name string) (map[string][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	secret := &corev1.Secret{}
	err := c.core.Get().Namespace(namespace).Resource("secrets").Name(name).Do(ctx).Into(secret)
	if err != nil {
		return nil, c.wrap(ctx, err, fmt.Sprintf("reading Secret %s/%s", namespace, name))
	}
	return secret.Data, nil
}

func (c *Client) wrap(ctx context.Context, err error, doing string) error {
	return Wrap(ctx, err, doing, c.cfg.URL, c.cfg.TokenFile, c.cfg.CAFile)
}
