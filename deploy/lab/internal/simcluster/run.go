package simcluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"k8s.io/klog/v2"

	"portcullis.dev/portcullis/deploy/lab/internal/kube"
	"portcullis.dev/portcullis/deploy/lab/internal/pki"
)

// Run serves on a free port of the loopback address until ctx ends. The file
// kubeconfig is written when it serves; its certificates are in dir.
func Run(ctx context.Context, dir, kubeconfig string, log *slog.Logger) error {
	// The library of the WebSockets logs every connection that its client ended.
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	ca, err := pki.Open(dir, "ca", "portcullis-lab-simulated-ca")
	if err != nil {
		return err
	}
	for _, r := range []pki.Request{
		{Name: "server", CommonName: "simulated", Hosts: []string{"127.0.0.1"}},
		{Name: "client", CommonName: "rancher"},
	} {
		if err := ca.Issue(r); err != nil {
			return err
		}
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	pem, err := os.ReadFile(file("ca.crt"))
	if err != nil {
		return err
	}
	clients := x509.NewCertPool()
	if !clients.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s: no certificate", file("ca.crt"))
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{
		Handler: New(log).Handler(), ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx },
		TLSConfig:   &tls.Config{ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12},
	}
	defer context.AfterFunc(ctx, func() { _ = srv.Close() })()
	// It is seen when it is whole.
	err = kube.WriteKubeconfig(kubeconfig+".new", "simulated", "rancher", "https://"+listener.Addr().String(), kube.Identity{
		CAFile: file("ca.crt"), CertFile: file("client.crt"), KeyFile: file("client.key"),
	})
	if err != nil {
		return err
	}
	if err := os.Rename(kubeconfig+".new", kubeconfig); err != nil {
		return err
	}
	err = srv.ServeTLS(listener, file("server.crt"), file("server.key"))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
