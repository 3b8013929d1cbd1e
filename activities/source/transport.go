package source

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing/transport/client"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	"github.com/hashicorp/go-retryablehttp"

	"portcullis.dev/portcullis/activities/errs"
)

type viaKey struct{}

// router sends go-git's requests through the transport of the caller. go-git
// knows one HTTP client for the whole process; whom to trust is per Activities.
type router struct{}

func (router) RoundTrip(req *http.Request) (*http.Response, error) {
	if via, ok := req.Context().Value(viaKey{}).(http.RoundTripper); ok {
		return via.RoundTrip(req)
	}
	return http.DefaultTransport.RoundTrip(req)
}

var installRouter = sync.OnceFunc(func() {
	c := githttp.NewClient(&http.Client{Transport: router{}})
	client.InstallProtocol("https", c)
	client.InstallProtocol("http", c)
})

func (a *Activities) withTransport(ctx context.Context) (context.Context, error) {
	installRouter()
	a.trust.Do(func() { a.via, a.trErr = newTransport(a.cfg.CAFile) })
	if a.trErr != nil {
		return nil, a.trErr
	}
	return context.WithValue(ctx, viaKey{}, a.via), nil
}

// newTransport retries what a Git server or the network may mend in a moment. It
// does not log: its lines would hold URLs.
func newTransport(caFile string) (http.RoundTripper, error) {
	base, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return nil, errs.Failed("the process has replaced net/http's transport")
	}
	base = base.Clone()
	base.ResponseHeaderTimeout = time.Minute
	if caFile != "" {
		pool, err := trusted(caFile)
		if err != nil {
			return nil, err
		}
		base.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	r := retryablehttp.NewClient()
	r.Logger = nil
	r.RetryMax = 4
	r.RetryWaitMin = 200 * time.Millisecond
	r.RetryWaitMax = 3 * time.Second
	r.ErrorHandler = retryablehttp.PassthroughErrorHandler
	r.HTTPClient = &http.Client{
		Transport: base,
		// Redirects are for the client above, which knows what may go along.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return &retryablehttp.RoundTripper{Client: r}, nil
}

func trusted(caFile string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, errs.Invalid("cannot read git.caFile %s: %v", caFile, reason(err))
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errs.Invalid("git.caFile %s holds no PEM certificate", caFile)
	}
	return pool, nil
}
