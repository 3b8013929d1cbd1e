// Package devserver is a Temporal server and its UI inside this process, on
// SQLite in a file. It is for trying and developing: it listens on the loopback
// interface alone and has no authentication.
package devserver

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	uiserver "github.com/temporalio/ui-server/v2/server"
	uiconfig "github.com/temporalio/ui-server/v2/server/config"
	"github.com/temporalio/ui-server/v2/server/server_options"
	"go.temporal.io/server/common/authorization"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/membership/static"
	"go.temporal.io/server/common/primitives"
	"go.temporal.io/server/temporal"
)

// Options of a server. All are required.
type Options struct {
	// Database is the SQLite file. It is made, with its folder, where it is not there.
	Database string
	// Port is the frontend's and UIPort the web interface's.
	Port   int
	UIPort int
	// Namespace is made where it is not there, with Retention.
	Namespace string
	Retention time.Duration
	// Logger gets what is a warning or worse.
	Logger *slog.Logger
}

// Server is a running Temporal with its UI.
type Server struct {
	temporal temporal.Server
	ui       *uiserver.Server
	options  Options
}

const loopback = "127.0.0.1"

// Address is host:port of the frontend.
func (s *Server) Address() string { return hostPort(s.options.Port) }

// UI is the URL of the web interface.
func (s *Server) UI() string { return "http://" + hostPort(s.options.UIPort) }

func hostPort(port int) string { return net.JoinHostPort(loopback, strconv.Itoa(port)) }

// Start starts a server; it takes a few seconds. A port that is taken is
// reported before the database is touched.
func Start(o Options) (*Server, error) {
	if err := portsFree(o.Port, o.UIPort); err != nil {
		return nil, err
	}
	sql, err := openDatabase(o)
	if err != nil {
		return nil, err
	}
	inner, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	conf := serverConfig(o, sql, inner)
	server, err := temporal.NewServer(serverOptions(o, conf)...)
	if err != nil {
		return nil, fmt.Errorf("the embedded Temporal cannot be set up: %w", err)
	}
	if err := server.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("the embedded Temporal does not start: %w", err), server.Stop())
	}
	s := &Server{temporal: server, ui: newUI(o), options: o}
	// Start of the UI blocks until Stop.
	go func() {
		if err := s.ui.Start(); err != nil {
			o.Logger.Error("the Temporal UI ended", "error", err)
		}
	}()
	return s, nil
}

// Stop ends the UI and then Temporal. What is in the database stays.
func (s *Server) Stop() error {
	s.ui.Stop()
	return s.temporal.Stop()
}

func newUI(o Options) *uiserver.Server {
	return uiserver.NewServer(server_options.WithConfigProvider(&uiconfig.Config{
		Host:                loopback,
		Port:                o.UIPort,
		TemporalGRPCAddress: hostPort(o.Port),
		EnableUI:            true,
		DefaultNamespace:    o.Namespace,
		CORS:                uiconfig.CORS{CookieInsecure: true},
		HideLogs:            true,
	}))
}

func serverOptions(o Options, conf *config.Config) []temporal.ServerOption {
	hosts := map[primitives.ServiceName]static.Hosts{}
	for name, service := range conf.Services {
		hosts[primitives.ServiceName(name)] = static.SingleLocalHost(hostPort(service.RPC.GRPCPort))
	}
	return []temporal.ServerOption{
		temporal.WithConfig(conf),
		temporal.ForServices(temporal.DefaultServices),
		temporal.WithStaticHosts(hosts),
		temporal.WithLogger(logger{o.Logger}),
		temporal.WithAuthorizer(authorization.NewNoopAuthorizer()),
		temporal.WithClaimMapper(func(*config.Config) authorization.ClaimMapper { return authorization.NewNoopClaimMapper() }),
		temporal.WithDynamicConfigClient(dynamicConfig()),
	}
}
