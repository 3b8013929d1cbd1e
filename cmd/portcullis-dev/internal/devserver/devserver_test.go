package devserver

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
)

// What is in the database is there again after a restart, and the UI answers.
func TestServerKeepsWhatItHas(t *testing.T) {
	if testing.Short() {
		t.Skip("left out by -short: starts a Temporal server twice")
	}
	ports, err := freePorts(2)
	require.NoError(t, err)
	o := Options{
		Database: filepath.Join(t.TempDir(), "state", "temporal.db"), Port: ports[0], UIPort: ports[1],
		Namespace: "default", Retention: Retention, Logger: slog.New(slog.DiscardHandler),
	}
	s, err := Start(o)
	require.NoError(t, err)
	run := startWorkflow(t, s.Address())
	response, err := http.Get(s.UI())
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusOK, response.StatusCode)
	require.NoError(t, s.Stop())

	s, err = Start(o)
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Stop()) }()
	c := dial(t, s.Address())
	defer c.Close()
	d, err := c.DescribeWorkflowExecution(t.Context(), "kept", run)
	require.NoError(t, err)
	require.Equal(t, run, d.GetWorkflowExecutionInfo().GetExecution().GetRunId())
	ns, err := c.WorkflowService().DescribeNamespace(t.Context(), &workflowservice.DescribeNamespaceRequest{Namespace: "default"})
	require.NoError(t, err)
	require.Equal(t, Retention, ns.GetConfig().GetWorkflowExecutionRetentionTtl().AsDuration())
}

func startWorkflow(t *testing.T, address string) string {
	t.Helper()
	c := dial(t, address)
	defer c.Close()
	run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: "kept", TaskQueue: "q"}, "Anything")
	require.NoError(t, err)
	return run.GetRunID()
}

func dial(t *testing.T, address string) client.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, err := client.DialContext(ctx, client.Options{HostPort: address, Logger: log.NewStructuredLogger(slog.New(slog.DiscardHandler))})
	require.NoError(t, err)
	return c
}

func TestTakenPortIsNamedBeforeAnythingIsMade(t *testing.T) {
	taken, err := net.Listen("tcp", hostPort(0))
	require.NoError(t, err)
	defer func() { require.NoError(t, taken.Close()) }()
	port := taken.Addr().(*net.TCPAddr).Port
	file := filepath.Join(t.TempDir(), "temporal.db")
	_, err = Start(Options{Database: file, Port: port, UIPort: port, Namespace: "default", Retention: Retention, Logger: slog.New(slog.DiscardHandler)})
	require.ErrorContains(t, err, hostPort(port))
	require.NoFileExists(t, file)
}

func TestDefaultDatabaseIsInTheUsersState(t *testing.T) {
	env := func(m map[string]string) func(string) (string, bool) {
		return func(name string) (string, bool) { v, ok := m[name]; return v, ok }
	}
	require.Equal(t, "/s/portcullis/temporal.db", defaultDatabase(env(map[string]string{"XDG_STATE_HOME": "/s", "HOME": "/h"})))
	require.Equal(t, "/h/.local/state/portcullis/temporal.db", defaultDatabase(env(map[string]string{"HOME": "/h", "XDG_STATE_HOME": "relative"})))
}
