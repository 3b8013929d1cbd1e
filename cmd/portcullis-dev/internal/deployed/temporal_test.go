package deployed

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/server/common/authorization"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/dynamicconfig"
	"go.temporal.io/server/common/log"
	"go.temporal.io/server/temporal"
)

const loopback = "127.0.0.1"

var silent = slog.New(slog.DiscardHandler)

// freePorts picks ports, and holds each until all are picked, so that no two are the
// same. They are below those that the system gives out: Temporal keeps ports of its
// membership in two bytes with a sign in PostgreSQL.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	var ports []int
	for tries := 0; len(ports) < n; tries++ {
		require.Less(t, tries, 1000, "no free ports")
		port := 12000 + rand.IntN(20000)
		l, err := net.Listen("tcp", at(port))
		if err != nil {
			continue
		}
		defer func() { require.NoError(t, l.Close()) }()
		ports = append(ports, port)
	}
	return ports
}

func at(port int) string { return net.JoinHostPort(loopback, strconv.Itoa(port)) }

// load reads the configuration as the server does, and moves it to ports of its own
// on the loopback interface. What else the machine differs in, change changes.
func load(t *testing.T, change func(*config.Config)) (c *config.Config, address string) {
	t.Helper()
	c, err := config.Load(config.WithConfigFile(filepath.Join(folder, "temporal.yaml")))
	require.NoError(t, err)
	require.Equal(t, "0.0.0.0", c.Services["frontend"].RPC.BindOnIP, "the frontend is for others")
	require.Equal(t, "/etc/temporal/portcullis/dynamicconfig.yaml", c.DynamicConfigClient.Filepath)
	c.DynamicConfigClient.Filepath = filepath.Join(folder, "dynamicconfig.yaml")
	if change != nil {
		change(c)
	}
	for name, s := range c.Services {
		if name != "frontend" {
			require.Equal(t, loopback, s.RPC.BindOnIP, "%s is for this process alone", name)
		}
		ports := freePorts(t, 2)
		s.RPC.GRPCPort, s.RPC.MembershipPort, s.RPC.BindOnIP = ports[0], ports[1], loopback
		c.Services[name] = s
	}
	address = at(c.Services["frontend"].RPC.GRPCPort)
	if c.PublicClient.HostPort != "" {
		c.PublicClient.HostPort = address
	}
	active := c.ClusterMetadata.ClusterInformation["active"]
	active.RPCAddress = address
	c.ClusterMetadata.ClusterInformation["active"] = active
	return c, address
}

// serve starts a server as its own main does with the configuration's file. It ends
// with the test, or before.
func serve(t *testing.T, c *config.Config) (stop func()) {
	t.Helper()
	quiet := log.NewNoopLogger()
	authorizer, err := authorization.GetAuthorizerFromConfig(&c.Global.Authorization)
	require.NoError(t, err)
	mapper, err := authorization.GetClaimMapperFromConfig(&c.Global.Authorization, quiet)
	require.NoError(t, err)
	services := temporal.DefaultServices
	if _, inner := c.Services["internal-frontend"]; inner {
		services = append([]string{"internal-frontend"}, services...)
	}
	s, err := temporal.NewServer(
		temporal.ForServices(services), temporal.WithConfig(c), temporal.WithLogger(quiet), temporal.WithAuthorizer(authorizer),
		temporal.WithClaimMapper(func(*config.Config) authorization.ClaimMapper { return mapper }),
	)
	require.NoError(t, err)
	require.NoError(t, s.Start())
	stop = sync.OnceFunc(func() { require.NoError(t, s.Stop()) })
	t.Cleanup(stop)
	return stop
}

// up waits until the frontend answers, refusals too.
func up(t *testing.T, o client.Options) {
	t.Helper()
	o.Logger = sdklog.NewStructuredLogger(silent)
	for end := time.Now().Add(time.Minute); ; {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		c, err := client.DialContext(ctx, o)
		cancel()
		var denied *serviceerror.PermissionDenied
		if err == nil {
			c.Close()
			return
		}
		if errors.As(err, &denied) {
			return
		}
		require.True(t, time.Now().Before(end), "Temporal does not come up: %v", err)
		time.Sleep(200 * time.Millisecond)
	}
}

// script runs one of the scripts, with this program in the place of Temporal's.
func script(t *testing.T, name string, env ...string) {
	t.Helper()
	bin := t.TempDir()
	self, err := os.Executable()
	require.NoError(t, err)
	for tool := range tools {
		require.NoError(t, os.Symlink(self, filepath.Join(bin, tool)))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", filepath.Join(folder, name))
	cmd.Env = append([]string{"PATH=" + bin + ":/usr/bin:/bin"}, env...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// What Temporal does not know in the dynamic configuration it passes over in silence.
func TestDynamicConfig(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(folder, "dynamicconfig.yaml"))
	require.NoError(t, err)
	loaded := dynamicconfig.LoadYamlFile(b)
	require.Empty(t, loaded.Errors)
	require.Empty(t, loaded.Warnings)
	require.NotEmpty(t, loaded.Map)
}
