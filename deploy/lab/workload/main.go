// Command workload is what the lab's pods run: a service that answers on TCP,
// UDP and HTTP, and keeps calling the services that it depends on.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "workload:", err)
		os.Exit(1)
	}
}

// options are the program's flags.
type options struct {
	name                    string
	http, tcp, udp, metrics string
	calls                   list
	every, timeout          time.Duration
	dial                    string
}

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("workload", flag.ContinueOnError)
	f.StringVar(&o.name, "name", "workload", "what the service calls itself")
	f.StringVar(&o.http, "http", "", "listen `address` for HTTP: / and /healthz")
	f.StringVar(&o.tcp, "tcp", "", "listen `address` for TCP echo")
	f.StringVar(&o.udp, "udp", "", "listen `address` for UDP echo")
	f.StringVar(&o.metrics, "metrics", "", "listen `address` for /metrics and /healthz")
	f.Var(&o.calls, "call", "`URL` to keep calling: http://…, tcp://host:port or udp://host:port; may be repeated")
	f.DurationVar(&o.every, "every", time.Second, "pause between calls of one URL")
	f.DurationVar(&o.timeout, "timeout", 2*time.Second, "time limit of one call")
	f.StringVar(&o.dial, "dial", "", "connect to `address` once by TCP, within the time limit, and end: what other tools run by exec")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	return o, nil
}

func run(args []string) error {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if o.dial != "" {
		conn, err := net.DialTimeout("tcp", o.dial, o.timeout)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	s := newService(o.name, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err := s.start(ctx, o); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// start opens every listener before it returns, so that a pod is ready only
// when all its ports answer.
func (s *service) start(ctx context.Context, o options) error {
	for _, l := range []struct {
		address string
		serve   func(context.Context, string) error
	}{
		{o.tcp, s.serveTCP},
		{o.udp, s.serveUDP},
		{o.http, func(ctx context.Context, a string) error { return serveHTTP(ctx, a, s.pages()) }},
		{o.metrics, func(ctx context.Context, a string) error { return serveHTTP(ctx, a, s.metricsPages()) }},
	} {
		if l.address == "" {
			continue
		}
		if err := l.serve(ctx, l.address); err != nil {
			return err
		}
	}
	for _, target := range o.calls {
		call, err := newCaller(target, o.timeout)
		if err != nil {
			return err
		}
		go s.keepCalling(ctx, target, call, o.every)
	}
	return nil
}
