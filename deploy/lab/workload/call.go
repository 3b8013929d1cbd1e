package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// caller makes one call and says whether it was answered.
type caller func(context.Context) error

// newCaller understands http://…, tcp://host:port and udp://host:port. Every
// call opens a new connection, so that each is judged by policy anew.
func newCaller(target string, timeout time.Duration) (caller, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, fmt.Errorf("call %q: %w", target, err)
	}
	var call caller
	switch u.Scheme {
	case "http":
		call = httpCaller(u.String())
	case "tcp", "udp":
		if u.Port() == "" {
			return nil, fmt.Errorf("call %q: no port", target)
		}
		call = echoCaller(u.Scheme, u.Host)
	default:
		return nil, fmt.Errorf("call %q: scheme is none of http, tcp, udp", target)
	}
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return call(ctx)
	}, nil
}

func httpCaller(target string) caller {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
		if err != nil {
			return err
		}
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if _, err := io.Copy(io.Discard, io.LimitReader(res.Body, 1<<20)); err != nil {
			return err
		}
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("answer %s", res.Status)
		}
		return nil
	}
}

func echoCaller(network, address string) caller {
	const message = "are you there?\n"
	var d net.Dialer
	return func(ctx context.Context) error {
		conn, err := d.DialContext(ctx, network, address)
		if err != nil {
			return err
		}
		defer conn.Close()
		if t, ok := ctx.Deadline(); ok {
			_ = conn.SetDeadline(t)
		}
		if _, err := conn.Write([]byte(message)); err != nil {
			return err
		}
		buf := make([]byte, len(message))
		if _, err := io.ReadFull(conn, buf); err != nil {
			return err
		}
		if string(buf) != message {
			return errors.New("answer is not an echo")
		}
		return nil
	}
}

// keepCalling calls until ctx ends. It logs only changes: a log of every call
// would bury the moment that a policy cut the path.
func (s *service) keepCalling(ctx context.Context, target string, call caller, every time.Duration) {
	for {
		err := call(ctx)
		if ctx.Err() != nil {
			return
		}
		s.count(target, err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
	}
}

func (s *service) count(target string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ok := err == nil
	s.counts[outcome{target, ok}]++
	if was, known := s.last[target]; known && was == ok {
		return
	}
	s.last[target] = ok
	if ok {
		s.log.Info("call answered", "target", target)
	} else {
		s.log.Warn("call failed", "target", target, "err", err)
	}
}
