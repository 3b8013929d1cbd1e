package verify

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/url"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
)

// executor runs a command in an agent's container.
type executor interface {
	// Exec returns when the command has ended. Its error is one line.
	Exec(ctx context.Context, namespace, pod string, command []string, stdin io.Reader, stdout io.Writer) error
}

// remoteExecutor execs through the API server, by WebSocket, and by SPDY where
// something on the way does not speak that.
type remoteExecutor struct {
	config *rest.Config
	client rest.Interface
}

func (e *remoteExecutor) Exec(ctx context.Context, namespace, pod string, command []string, stdin io.Reader, stdout io.Writer) error {
	url := e.client.Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: agentName, Command: command, Stdin: true, Stdout: true, Stderr: true}, scheme.ParameterCodec).URL()
	said := &head{}
	err := e.stream(ctx, url, remotecommand.StreamOptions{Stdin: stdin, Stdout: stdout, Stderr: said})
	if err == nil {
		return nil
	}
	// A proxy on the way may have answered with a page.
	message := clipLine(err.Error())
	if text := said.line(); text != "" {
		message += ": " + text
	}
	return fmt.Errorf("exec in %s/%s: %s", namespace, pod, message)
}

func (e *remoteExecutor) stream(ctx context.Context, url *url.URL, options remotecommand.StreamOptions) error {
	spdy, err := remotecommand.NewSPDYExecutor(e.config, "POST", url)
	if err != nil {
		return err
	}
	socket, err := remotecommand.NewWebSocketExecutor(e.config, "GET", url.String())
	if err != nil {
		return err
	}
	both, err := remotecommand.NewFallbackExecutor(socket, spdy, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- both.StreamWithContext(ctx, options) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		// Not waited for: while a server does not answer the request for SPDY, that
		// goes on whatever ctx says, and ends with the connection.
		return ctx.Err()
	}
}

// head keeps the beginning of what a command writes to standard error.
type head struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const maxHead = 400

func (h *head) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.buf.Write(b[:min(len(b), maxHead-min(maxHead, h.buf.Len()))])
	return len(b), nil
}

func (h *head) line() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(strings.Fields(h.buf.String()), " ")
}
