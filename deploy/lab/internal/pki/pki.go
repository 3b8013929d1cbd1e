// Package pki makes the certificates of the lab: one authority for etcd, and
// for each cluster one for its components and one for its aggregation layer.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// lifetime of every certificate. A lab is made anew long before it ends.
const lifetime = 5 * 365 * 24 * time.Hour

// Authority signs certificates and keeps them in one folder.
type Authority struct {
	dir  string
	cert *x509.Certificate
	key  crypto.Signer
}

// Request is what a certificate is for. All are good for both ends of a connection.
type Request struct {
	// Name is the file name without its ending.
	Name string
	// CommonName and Organizations are the user and groups for Kubernetes.
	CommonName    string
	Organizations []string
	// Hosts are DNS names and addresses that a server answers to.
	Hosts []string
}

// Open loads the authority name from dir (NAME.crt, NAME.key), or makes it.
func Open(dir, name, commonName string) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	certFile, keyFile := files(dir, name)
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	switch {
	case err == nil:
		key, ok := pair.PrivateKey.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("%s: not a signing key", keyFile)
		}
		return &Authority{dir: dir, cert: pair.Leaf, key: key}, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("certificate authority %s: %w", certFile, err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template, err := newTemplate(commonName)
	if err != nil {
		return nil, err
	}
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &Authority{dir: dir, cert: cert, key: key}, write(certFile, keyFile, der, key)
}

// Issue makes a certificate in the authority's folder unless one with the same
// subject and hosts, signed by this authority, is there already.
func (a *Authority) Issue(r Request) error {
	certFile, keyFile := files(a.dir, r.Name)
	if a.current(certFile, keyFile, r) {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template, err := newTemplate(r.CommonName)
	if err != nil {
		return err
	}
	template.Subject.Organization = r.Organizations
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, h := range r.Hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return fmt.Errorf("certificate %s: %w", r.Name, err)
	}
	return write(certFile, keyFile, der, key)
}

func (a *Authority) current(certFile, keyFile string, r Request) bool {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil || pair.Leaf.CheckSignatureFrom(a.cert) != nil || pair.Leaf.Subject.CommonName != r.CommonName {
		return false
	}
	for _, h := range r.Hosts {
		if pair.Leaf.VerifyHostname(h) != nil {
			return false
		}
	}
	return time.Until(pair.Leaf.NotAfter) > 24*time.Hour
}

// Signed says whether this authority signed the certificate in file.
func (a *Authority) Signed(file string) bool {
	b, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return false
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	return err == nil && cert.CheckSignatureFrom(a.cert) == nil
}

// SigningKey makes the key pair NAME.key, NAME.pub that signs service account
// tokens, unless it is there already.
func SigningKey(dir, name string) error {
	keyFile, pubFile := filepath.Join(dir, name+".key"), filepath.Join(dir, name+".pub")
	if _, err := os.Stat(pubFile); err == nil {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if err := writeKey(keyFile, key); err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	return os.WriteFile(pubFile, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600)
}

func newTemplate(commonName string) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: commonName},
		// An hour back, for clocks that were set between two starts.
		NotBefore: time.Now().Add(-time.Hour),
		NotAfter:  time.Now().Add(lifetime),
	}, nil
}

func files(dir, name string) (cert, key string) {
	return filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
}

// write puts the key first: a certificate without a key is made again, so a
// crash between the two is harmless.
func write(certFile, keyFile string, der []byte, key *ecdsa.PrivateKey) error {
	if err := writeKey(keyFile, key); err != nil {
		return err
	}
	return os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
}

func writeKey(file string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}
