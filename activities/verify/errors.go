package verify

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/rancher"
)

// classify gives an error of talking to a cluster the type that Temporal and
// people know it by.
func classify(cluster string, err error) error {
	if err == nil || errs.TypeOf(err) != "" || errors.Is(err, context.Canceled) {
		return err
	}
	message := clipLine(plain(err).Error())
	var certificate *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	switch {
	case apierrors.IsUnauthorized(err) || apierrors.IsForbidden(err) || rancher.KindOf(err) == rancher.KindDenied:
		return errs.Denied("cluster %s: %s", cluster, message)
	case errors.As(err, &certificate) || errors.As(err, &authority) || rancher.KindOf(err) == rancher.KindUntrusted:
		return errs.Untrusted("cluster %s: %s", cluster, message)
	case apierrors.IsInvalid(err) || apierrors.IsBadRequest(err):
		return errs.Failed("cluster %s: %s", cluster, message)
	case rancher.KindOf(err) == rancher.KindInvalid:
		return errs.Invalid("cluster %s: %s", cluster, message)
	case rancher.KindOf(err) == rancher.KindNotFound:
		return errs.NotFound("cluster %s: %s", cluster, message)
	}
	return errs.Unavailable("cluster %s: %s", cluster, message)
}

// plain leaves the method and the URL out of an error of the HTTP client: they are long,
// and people know the cluster by its name.
func plain(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return fmt.Errorf("%w", u.Err)
	}
	return err
}
