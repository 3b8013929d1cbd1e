package pki

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
)

func TestIssue(t *testing.T) {
	dir := t.TempDir()
	ca, err := Open(dir, "ca", "dev-ca")
	if err != nil {
		t.Fatal(err)
	}
	req := Request{Name: "node", CommonName: "system:node:dev-1", Organizations: []string{"system:nodes"}, Hosts: []string{"dev-1", "10.99.0.31"}}
	if err := ca.Issue(req); err != nil {
		t.Fatal(err)
	}
	leaf := load(t, dir, "node")
	roots := x509.NewCertPool()
	roots.AddCert(load(t, dir, "ca"))
	for _, host := range req.Hosts {
		if _, err := leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("as a client: %v", err)
	}
	if leaf.Subject.Organization[0] != "system:nodes" || leaf.Subject.CommonName != "system:node:dev-1" {
		t.Errorf("subject %v", leaf.Subject)
	}
}

// A second `lab up` keeps what is there, and replaces what no longer fits.
func TestIssueAgain(t *testing.T) {
	dir := t.TempDir()
	issue := func(hosts ...string) string {
		t.Helper()
		ca, err := Open(dir, "ca", "ca")
		if err != nil {
			t.Fatal(err)
		}
		if err := ca.Issue(Request{Name: "s", CommonName: "s", Hosts: hosts}); err != nil {
			t.Fatal(err)
		}
		return load(t, dir, "s").SerialNumber.String()
	}
	first := issue("10.0.0.1")
	if issue("10.0.0.1") != first {
		t.Error("an unchanged certificate was made again")
	}
	second := issue("10.0.0.1", "10.0.0.2")
	if second == first {
		t.Error("a new host did not renew the certificate")
	}
	for _, f := range []string{"ca.crt", "ca.key"} {
		if err := os.Remove(filepath.Join(dir, f)); err != nil {
			t.Fatal(err)
		}
	}
	if issue("10.0.0.1", "10.0.0.2") == second {
		t.Error("a certificate of a lost authority was kept")
	}
}

func TestKeysArePrivate(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(dir, "ca", "ca"); err != nil {
		t.Fatal(err)
	}
	if err := SigningKey(dir, "sa"); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"ca.key", "sa.key"} {
		fi, err := os.Stat(filepath.Join(dir, f))
		if err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", f, fi, err)
		}
	}
}

func load(t *testing.T, dir, name string) *x509.Certificate {
	t.Helper()
	p, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"))
	if err != nil {
		t.Fatal(err)
	}
	return p.Leaf
}
