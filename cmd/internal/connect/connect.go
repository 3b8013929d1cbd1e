// Package connect makes the connection to Temporal that the daemon and the
// command line share.
package connect

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/cmd/internal/config"
)

// Options turns settings into the SDK's options. apiKey, where it is not empty,
// goes before the settings' file; files are read now, so that what is wrong with
// them is said before anything is dialled.
func Options(t config.Temporal, apiKey string) (client.Options, error) {
	o := client.Options{HostPort: t.Address, Namespace: t.Namespace}
	key, err := readKey(t.APIKeyFile, apiKey)
	if err != nil {
		return o, err
	}
	if key != "" {
		o.Credentials = client.NewAPIKeyDynamicCredentials(func(context.Context) (string, error) {
			return readKey(t.APIKeyFile, apiKey)
		})
	}
	if key == "" && !t.TLS.On() {
		return o, nil
	}
	o.ConnectionOptions.TLS, err = tlsConfig(t.TLS)
	return o, err
}

// readKey reads the file anew each time, so that a key can be rotated under a
// daemon that runs.
func readKey(file, given string) (string, error) {
	if given != "" || file == "" {
		return given, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return "", errs.Invalid("temporal.apiKeyFile: %v", err)
	}
	key := strings.TrimSpace(string(data))
	if key == "" {
		return "", errs.Invalid("temporal.apiKeyFile: %s is empty", file)
	}
	return key, nil
}

func tlsConfig(t config.TLS) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, errs.Invalid("temporal.tls.caFile: %v", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errs.Invalid("temporal.tls.caFile: %s holds no certificate", t.CAFile)
		}
	}
	if t.CertFile == "" {
		return c, nil
	}
	pair, err := clientCertificate(t)
	if err != nil {
		return nil, err
	}
	c.Certificates = []tls.Certificate{*pair}
	// Files are read anew for each connection, so that a certificate can be renewed
	// under a daemon that runs. While they are being written, the first one serves.
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if renewed, err := clientCertificate(t); err == nil {
			return renewed, nil
		}
		return pair, nil
	}
	return c, nil
}

func clientCertificate(t config.TLS) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
	if err != nil {
		return nil, errs.Invalid("temporal.tls.certFile and keyFile: %v", err)
	}
	return &pair, nil
}

// Explain gives an error of a call to Temporal one of the errs types and a line
// that names the address. Errors that have a type already pass unchanged.
func Explain(err error, t config.Temporal) error {
	var (
		missing   *serviceerror.NamespaceNotFound
		denied    *serviceerror.PermissionDenied
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		network   *net.OpError
	)
	switch code := status.Code(err); {
	case err == nil, errs.TypeOf(err) != "", errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &missing):
		return errs.NotFound("Temporal at %s has no namespace %q: make it, or name another with --temporal-namespace", t.Address, t.Namespace)
	case errors.As(err, &denied), code == codes.PermissionDenied, code == codes.Unauthenticated:
		return errs.Denied("Temporal at %s refuses the credentials: %s", t.Address, reason(err))
	case Unindexed(err):
		return errs.Unavailable("Temporal at %s does not know Portcullis's search attributes yet: the first daemon registers them, and Temporal takes notice within a minute (%s)",
			t.Address, reason(err))
	case strings.Contains(alert(err), "certificate"):
		return errs.Denied("Temporal at %s refuses the connection (%s): %s", t.Address, alert(err), aboutCertificate(t.TLS))
	case errors.As(err, &authority), errors.As(err, &host), strings.Contains(err.Error(), "x509: "):
		return errs.Untrusted("the certificate of Temporal at %s does not verify: %s", t.Address, reason(err))
	case errors.As(err, &network), unavailable(err), errors.Is(err, context.DeadlineExceeded):
		return errs.Unavailable("Temporal at %s does not answer: %s", t.Address, reason(err))
	default:
		return err
	}
}

// remoteAlert is how Go's TLS begins to tell what the other side said before it
// broke off.
const remoteAlert = "remote error: tls: "

// alert is what the other side said of the handshake, or "".
func alert(err error) string {
	_, said, _ := strings.Cut(err.Error(), remoteAlert)
	said, _, _ = strings.Cut(said, `"`)
	return strings.TrimSpace(said)
}

// aboutCertificate is what is to be done where the other side does not like the
// client's certificate.
func aboutCertificate(t config.TLS) string {
	if t.CertFile == "" {
		return "it asks for a client certificate; name one in temporal.tls.certFile and keyFile"
	}
	pair, err := clientCertificate(t)
	if err != nil {
		return errs.Message(err)
	}
	if leaf, err := x509.ParseCertificate(pair.Certificate[0]); err == nil && time.Now().After(leaf.NotAfter) {
		return fmt.Sprintf("the client certificate in %s expired on %s; renew it", t.CertFile, leaf.NotAfter.UTC().Format(time.DateOnly))
	}
	return "see that the client certificate in " + t.CertFile + " is of an authority that Temporal trusts"
}

// Unindexed tells whether Temporal does not know a search attribute. It also says
// so for up to a minute after one was registered.
func Unindexed(err error) bool {
	var invalid *serviceerror.InvalidArgument
	if !errors.As(err, &invalid) {
		return false
	}
	for _, said := range []string{"has no mapping defined for search attribute", "is not a valid search attribute", "is not defined"} {
		if strings.Contains(invalid.Message, said) && strings.Contains(invalid.Message, "search attribute") {
			return true
		}
	}
	return false
}

func unavailable(err error) bool {
	var (
		down *serviceerror.Unavailable
		late *serviceerror.DeadlineExceeded
	)
	code := status.Code(err)
	return errors.As(err, &down) || errors.As(err, &late) || code == codes.Unavailable || code == codes.DeadlineExceeded
}

// reason shortens gRPC's nested messages to their last part, which has the cause.
func reason(err error) string {
	text := strings.Join(strings.Fields(err.Error()), " ")
	if _, after, found := strings.Cut(text, `desc = "`); found {
		text = strings.TrimSuffix(after, `"`)
	}
	for _, prefix := range []string{"failed reaching server: ", "transport: Error while dialing: ", "transport: authentication handshake failed: "} {
		text = strings.TrimPrefix(text, prefix)
	}
	return text
}

// Dial connects and sees that the namespace is there.
func Dial(ctx context.Context, o client.Options) (client.Client, error) {
	c, err := client.DialContext(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := checkNamespace(ctx, c, o.Namespace); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// checkNamespace asks the frontend for the namespace's description. An API key
// that may not describe a namespace may well work in it.
func checkNamespace(ctx context.Context, c client.Client, namespace string) error {
	_, err := c.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: namespace})
	var denied *serviceerror.PermissionDenied
	if errors.As(err, &denied) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("namespace %s: %w", namespace, err)
	}
	return nil
}
