package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sort"
	"sync"
	"time"
)

// idleTimeout ends echo connections that nothing comes from.
const idleTimeout = time.Minute

// service is one running workload.
type service struct {
	name string
	log  *slog.Logger

	mu     sync.Mutex
	counts map[outcome]int
	last   map[string]bool
}

// outcome is what calls are counted by.
type outcome struct {
	target string
	ok     bool
}

func newService(name string, log *slog.Logger) *service {
	return &service{name: name, log: log, counts: map[outcome]int{}, last: map[string]bool{}}
}

func (s *service) serveTCP(ctx context.Context, address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				s.log.Warn("accept", "err", err)
				time.Sleep(100 * time.Millisecond)
				continue
			}
			go echo(conn)
		}
	}()
	return nil
}

// echo returns each chunk as it comes.
func echo(conn net.Conn) {
	defer conn.Close()
	buf := make([]byte, 4096)
	for {
		_ = conn.SetDeadline(time.Now().Add(idleTimeout))
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		if _, err := conn.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (s *service) serveUDP(ctx context.Context, address string) error {
	conn, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = conn.Close() })
	go func() {
		buf := make([]byte, 65535)
		for {
			n, from, err := conn.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				s.log.Warn("receive", "err", err)
				continue
			}
			_, _ = conn.WriteTo(buf[:n], from) // a lost answer is what UDP allows
		}
	}()
	return nil
}

func serveHTTP(ctx context.Context, address string, h http.Handler) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: idleTimeout}
	context.AfterFunc(ctx, func() { _ = srv.Close() })
	go func() { _ = srv.Serve(l) }() // ends with ErrServerClosed when ctx does
	return nil
}

// pages are the service's own HTTP.
func (s *service) pages() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", healthz)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		host, _ := os.Hostname()
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]string{"name": s.name, "pod": host})
	})
	return mux
}

// metricsPages are for the scraper.
func (s *service) metricsPages() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", healthz)
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		s.writeMetrics(w)
	})
	return mux
}

func healthz(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") }

func (s *service) writeMetrics(w io.Writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lines []string
	for o, n := range s.counts {
		result := "error"
		if o.ok {
			result = "ok"
		}
		lines = append(lines, fmt.Sprintf("workload_calls_total{target=%q,result=%q} %d\n", o.target, result, n))
	}
	sort.Strings(lines)
	fmt.Fprint(w, "# TYPE workload_calls_total counter\n")
	for _, l := range lines {
		fmt.Fprint(w, l)
	}
}
