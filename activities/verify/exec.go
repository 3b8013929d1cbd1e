package verify

import (
	"bytes"
	"context"
	"fmt"
	"io"
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
	spdy, err := remotecommand.NewSPDYExecutor(e.config, "POST", url)
	if err != nil {
		return fmt.Errorf("exec in %s/%s: %w", namespace, pod, err)
	}
	socket, err := remotecommand.NewWebSocketExecutor(e.config, "GET", url.String())
	if err != nil {
		return fmt.Errorf("exec in %s/%s: %w", namespace, pod, err)
	}
	both, err := remotecommand.NewFallbackExecutor(socket, spdy, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
	if err != nil {
		return fmt.Errorf("exec in %s/%s: %w", namespace, pod, err)
	}
	said := &tail{}
	err = both.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: stdin, Stdout: stdout, Stderr: said})
	if err != nil {
		if text := said.line(); text != "" {
			return fmt.Errorf("exec in %s/%s: %w: %s", namespace, pod, err, text)
		}
		return fmt.Errorf("exec in %s/%s: %w", namespace, pod, err)
	}
	return nil
}

// tail keeps the beginning of what a command writes to standard error.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const maxTail = 400

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(b[:min(len(b), maxTail-min(maxTail, t.buf.Len()))])
	return len(b), nil
}

func (t *tail) line() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(strings.Fields(t.buf.String()), " ")
}
