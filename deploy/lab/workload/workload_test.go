package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func freePort(t *testing.T, network string) string {
	t.Helper()
	if network == "udp" {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.LocalAddr().String()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestEveryPortAnswersAndIsCalled(t *testing.T) {
	o := options{
		name: "shop", http: freePort(t, "tcp"), tcp: freePort(t, "tcp"), udp: freePort(t, "udp"),
		metrics: freePort(t, "tcp"), every: 10 * time.Millisecond, timeout: time.Second,
	}
	down := freePort(t, "tcp")
	o.calls = list{"http://" + o.http + "/", "tcp://" + o.tcp, "udp://" + o.udp, "tcp://" + down}
	s := newService(o.name, slog.New(slog.DiscardHandler))
	if err := s.start(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	want := []string{
		`target="http://` + o.http + `/",result="ok"`, `target="tcp://` + o.tcp + `",result="ok"`,
		`target="udp://` + o.udp + `",result="ok"`, `target="tcp://` + down + `",result="error"`,
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		got := get(t, "http://"+o.metrics+"/metrics")
		missing := ""
		for _, w := range want {
			if !strings.Contains(got, w) {
				missing = w
			}
		}
		if missing == "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %s in\n%s", missing, got)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if got := get(t, "http://"+o.http+"/"); !strings.Contains(got, `"name":"shop"`) {
		t.Errorf("/ says %s", got)
	}
	if got := get(t, "http://"+o.http+"/healthz"); got != "ok\n" {
		t.Errorf("/healthz says %q", got)
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestBadCalls(t *testing.T) {
	for _, target := range []string{"ftp://x:1", "tcp://x", "://", "x"} {
		if _, err := newCaller(target, time.Second); err == nil {
			t.Errorf("%q is accepted", target)
		}
	}
}
