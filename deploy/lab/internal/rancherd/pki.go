package rancherd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"
)

const certLife = 365 * 24 * time.Hour

// EnsurePKI makes the private CA and the server's certificate, unless good ones
// are there already.
func (f Files) EnsurePKI(hosts ...string) error {
	if f.pkiGood(hosts) {
		return nil
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ca := template("portcullis-lab-rancher-ca")
	ca.IsCA, ca.BasicConstraintsValid = true, true
	ca.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	leaf := template("portcullis-lab-rancher")
	leaf.KeyUsage = x509.KeyUsageDigitalSignature
	leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		return err
	}
	return f.writePKI(caDER, der, caKey, key)
}

func template(name string) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil { // crypto/rand does not fail; a fixed serial would still be valid here
		serial = big.NewInt(time.Now().UnixNano())
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(certLife),
	}
}

func (f Files) writePKI(ca, leaf []byte, caKey, leafKey *ecdsa.PrivateKey) error {
	for path, der := range map[string][]byte{f.CACert(): ca, f.ServerCert(): leaf} {
		b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		if err := WriteFile(path, b, 0o644); err != nil {
			return err
		}
	}
	for path, key := range map[string]*ecdsa.PrivateKey{f.CAKey(): caKey, f.ServerKey(): leafKey} {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return fmt.Errorf("encode key: %w", err)
		}
		b := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
		if err := WriteFile(path, b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// pkiGood is true when the certificate is signed by the CA, names every host
// and stays valid for a month.
func (f Files) pkiGood(hosts []string) bool {
	pair, err := tls.LoadX509KeyPair(f.ServerCert(), f.ServerKey())
	if err != nil {
		return false
	}
	ca, err := tls.LoadX509KeyPair(f.CACert(), f.CAKey())
	if err != nil {
		return false
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.Leaf)
	for _, h := range hosts {
		opts := x509.VerifyOptions{Roots: roots, DNSName: h, CurrentTime: time.Now().Add(30 * 24 * time.Hour)}
		if _, err := pair.Leaf.Verify(opts); err != nil {
			return false
		}
	}
	return true
}
