package wire

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"portcullis.dev/portcullis/probes"
)

// maxResponse bounds what is read of an HTTP response's head.
const maxResponse = 64 << 10

// http is an HTTP probe: any response is allowed. A connection that is made but
// not answered is an error: the path is open, yet the request did not get through.
func (r *runner) http(ctx context.Context, ns *namespace, to netip.AddrPort, host, path string, deadline time.Time) finding {
	d := r.dial(ctx, ns, to, deadline)
	if d.conn == nil {
		return d.finding
	}
	defer d.conn.Close()
	stop, err := endAt(ctx, d.conn, deadline)
	if err != nil {
		return failed("%v", err)
	}
	defer stop()
	if path == "" {
		path = "/"
	}
	request := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: portcullis\r\nAccept: */*\r\nConnection: close\r\n\r\n",
		path, net.JoinHostPort(host, strconv.Itoa(int(to.Port()))))
	if _, err := io.WriteString(d.conn, request); err != nil {
		return failed("connected, but the request could not be sent: %v", err)
	}
	response, err := http.ReadResponse(bufio.NewReader(io.LimitReader(d.conn, maxResponse)), nil)
	switch {
	case ctx.Err() != nil:
		return failed("cancelled")
	case isSilence(err):
		return failed("connected, but no HTTP response came in time")
	case err != nil:
		return failed("connected, but what came back was not an HTTP response: %.200s", err)
	}
	response.Body.Close()
	// Not the text that came with the code: that may be anything, and people read it.
	return finding{outcome: probes.Allowed, detail: strings.TrimSpace(fmt.Sprintf("HTTP %d %s", response.StatusCode, http.StatusText(response.StatusCode)))}
}
