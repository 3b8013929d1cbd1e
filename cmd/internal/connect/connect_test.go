package connect

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/serviceerror"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/cmd/internal/config"
)

func TestExplain(t *testing.T) {
	settings := config.Temporal{Address: "temporal.example.com:7233", Namespace: "policies"}
	preface := func(alert string) error {
		return fmt.Errorf("failed reaching server: %w", status.Error(codes.Unavailable, `connection error: desc = "error reading server preface: remote error: tls: `+alert+`"`))
	}
	for what, c := range map[string]struct {
		err        error
		kind, says string
	}{
		"namespace":    {serviceerror.NewNamespaceNotFound("policies"), errs.TypeNotFound, `has no namespace "policies"`},
		"denied":       {serviceerror.NewPermissionDenied("Request unauthorized.", ""), errs.TypeDenied, "refuses the credentials: Request unauthorized."},
		"key":          {status.Error(codes.Unauthenticated, "no key"), errs.TypeDenied, "refuses the credentials"},
		"certificate":  {preface("certificate required"), errs.TypeDenied, "(certificate required): it asks for a client certificate"},
		"other alert":  {preface("internal error"), errs.TypeUnavailable, "does not answer"},
		"authority":    {fmt.Errorf("x: %w", x509.UnknownAuthorityError{}), errs.TypeUntrusted, "does not verify"},
		"network":      {&net.OpError{Op: "dial", Err: errors.New("connection refused")}, errs.TypeUnavailable, "does not answer"},
		"deadline":     {context.DeadlineExceeded, errs.TypeUnavailable, "does not answer"},
		"not mapped":   {serviceerror.NewInvalidArgument("Namespace policies has no mapping defined for search attribute PortcullisState"), errs.TypeUnavailable, "takes notice within a minute"},
		"not defined":  {serviceerror.NewInvalidArgument("search attribute PortcullisState is not defined"), errs.TypeUnavailable, "takes notice within a minute"},
		"other input":  {serviceerror.NewInvalidArgument("the query is not defined"), "", "the query is not defined"},
		"typed":        {errs.Held("held"), errs.TypeHeld, "held"},
		"of something": {errors.New("odd"), "", "odd"},
	} {
		got := Explain(c.err, settings)
		require.Equal(t, c.kind, errs.TypeOf(got), what)
		require.Contains(t, errs.Message(got), c.says, what)
		require.NotContains(t, errs.Message(got), "\n", what)
		if c.kind != "" && c.kind != errs.TypeHeld {
			require.Contains(t, errs.Message(got), settings.Address, what)
		}
	}
	require.NoError(t, Explain(nil, settings))
}

// What is wrong with files is said before anything is dialled, and without what is in them.
func TestOptionsOfFilesThatAreWrong(t *testing.T) {
	dir := t.TempDir()
	file := func(name, data string) string {
		f := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(f, []byte(data), 0o600))
		return f
	}
	none, text := filepath.Join(dir, "none"), file("text", "s3cret words")
	for field, s := range map[string]config.Temporal{
		"temporal.apiKeyFile":                {APIKeyFile: none},
		"temporal.apiKeyFile: " + dir:        {APIKeyFile: file("empty", " \n")},
		"temporal.tls.caFile":                {TLS: config.TLS{CAFile: none}},
		"temporal.tls.caFile: " + text:       {TLS: config.TLS{CAFile: text}},
		"temporal.tls.certFile":              {TLS: config.TLS{CertFile: none, KeyFile: none}},
		"temporal.tls.certFile and keyFile:": {TLS: config.TLS{CertFile: text, KeyFile: text}},
	} {
		_, err := Options(s, "")
		require.Equal(t, errs.TypeInvalid, errs.TypeOf(err), field)
		require.Contains(t, errs.Message(err), field)
		require.NotContains(t, errs.Message(err), "s3cret")
	}
}

// An API key never goes out without TLS, and one that was given goes before the file's.
func TestAPIKeyUsesTLS(t *testing.T) {
	o, err := Options(config.Temporal{Address: "x:1", APIKeyFile: "/none"}, "given")
	require.NoError(t, err)
	require.NotNil(t, o.ConnectionOptions.TLS)
	require.NotNil(t, o.Credentials)
	o, err = Options(config.Temporal{Address: "x:1"}, "")
	require.NoError(t, err)
	require.Nil(t, o.ConnectionOptions.TLS)
	require.False(t, strings.Contains(fmt.Sprintf("%+v", o), "given"))
}
