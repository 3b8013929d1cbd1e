package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Limits on what is asked and answered.
const (
	// MaxRequestBytes bounds a request.
	MaxRequestBytes = 4 << 20
	// requestLimit bounds the wait for a request.
	requestLimit = 30 * time.Second
	// maxError bounds Reply.Error, in bytes.
	maxError = 2000
)

// Host is where the node's folders are. An empty path is the Mount constant's.
type Host struct {
	Conf, Networks, Keep, Run string
	// Proc is where processes are seen; /proc where it is empty.
	Proc string
	// Root is the node's root, for its own programs; the container runtime's where
	// it is empty.
	Root string
}

func (h Host) withDefaults() Host {
	for _, p := range []struct {
		path     *string
		fallback string
	}{{&h.Conf, MountConf}, {&h.Networks, MountNetworks}, {&h.Keep, MountKeep}, {&h.Run, MountRun}, {&h.Proc, "/proc"}} {
		if *p.path == "" {
			*p.path = p.fallback
		}
	}
	return h
}

// Serve reads one Request from in, does what it asks for, and writes one Reply to
// out, also when the request was refused or failed: why is in the Reply. The
// error returned is that no Reply could be written.
func Serve(ctx context.Context, in io.Reader, out io.Writer, host Host) error {
	reply := answer(ctx, in, host.withDefaults())
	reply.Error = oneLine(reply.Error)
	if err := json.NewEncoder(out).Encode(reply); err != nil {
		return fmt.Errorf("cannot write the reply: %w", err)
	}
	return nil
}

func answer(ctx context.Context, in io.Reader, host Host) Reply {
	data, err := readRequest(ctx, in)
	if err != nil {
		return Reply{Error: err.Error()}
	}
	req, err := ParseRequest(data)
	if err != nil {
		return Reply{Error: err.Error()}
	}
	return serve(ctx, host, req)
}

// readRequest reads one JSON value. It does not wait for the input's end, which a
// connection that broke may never bring.
func readRequest(ctx context.Context, in io.Reader) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	type result struct {
		data []byte
		err  error
	}
	read := make(chan result, 1)
	go func() {
		limited := &io.LimitedReader{R: in, N: MaxRequestBytes + 1}
		dec := json.NewDecoder(limited)
		var raw json.RawMessage
		err := dec.Decode(&raw)
		rest, restErr := io.ReadAll(dec.Buffered())
		switch {
		case limited.N == 0:
			err = fmt.Errorf("the request is larger than %d MiB", MaxRequestBytes>>20)
		case errors.Is(err, io.EOF):
			err = errors.New("there is no request")
		case err != nil:
			err = fmt.Errorf("the request is not JSON: %w", err)
		case restErr == nil && len(bytes.TrimSpace(rest)) > 0:
			err = errors.New("more than one request was sent")
		}
		read <- result{raw, err}
	}()
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("no whole request came within %s", requestLimit)
	case r := <-read:
		return r.data, r.err
	}
}

// oneLine makes an error fit for a log.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxError {
		s = strings.ToValidUTF8(s[:maxError], "") + " …"
	}
	return s
}
