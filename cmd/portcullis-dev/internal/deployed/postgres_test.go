package deployed

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/server/common/config"

	"portcullis.dev/portcullis/cmd/internal/cli"
	serverconfig "portcullis.dev/portcullis/cmd/internal/config"
	"portcullis.dev/portcullis/cmd/internal/daemon"
	"portcullis.dev/portcullis/cmd/internal/estate"
	"portcullis.dev/portcullis/workflows"
	"portcullis.dev/portcullis/workflows/contract"
)

// postgres is a PostgreSQL of this machine's packages with data of its own, which
// asks for a password and listens on the loopback interface.
type postgres struct {
	port     int
	password string
}

func startPostgres(t *testing.T) postgres {
	t.Helper()
	bins, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	require.NoError(t, err)
	if len(bins) == 0 {
		t.Skip("PostgreSQL is not installed: apt-get install postgresql")
	}
	bin := slices.Max(bins)
	dir := openDir(t)
	as := owner(t, dir)
	p := postgres{port: freePorts(t, 1)[0], password: filepath.Join(dir, "password")}
	require.NoError(t, os.WriteFile(p.password, []byte("s3cret:of@the/database\n"), 0o644))
	data := filepath.Join(dir, "data")
	run := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(bin, name), args...)
		cmd.Dir, cmd.SysProcAttr = dir, &syscall.SysProcAttr{Credential: as, Pdeathsig: syscall.SIGQUIT}
		return cmd
	}
	out, err := run("initdb", "--pgdata", data, "--username", "temporal", "--pwfile", p.password, "--auth", "scram-sha-256", "--no-sync", "--locale", "C", "--encoding", "UTF8").CombinedOutput()
	require.NoError(t, err, "%s", out)
	server := run("postgres", "-D", data, "-c", "listen_addresses="+loopback, "-c", "port="+strconv.Itoa(p.port), "-c", "unix_socket_directories=", "-c", "fsync=off")
	var said bytes.Buffer
	server.Stdout, server.Stderr = &said, &said
	require.NoError(t, server.Start())
	t.Cleanup(func() {
		// Fast: whoever is connected is sent away.
		_ = server.Process.Signal(syscall.SIGINT)
		_ = server.Wait()
		if t.Failed() {
			t.Log(said.String())
		}
	})
	ready := func() bool {
		return exec.Command(filepath.Join(bin, "pg_isready"), "--quiet", "--host", loopback, "--port", strconv.Itoa(p.port)).Run() == nil
	}
	require.Eventually(t, ready, 30*time.Second, 50*time.Millisecond)
	return p
}

// openDir is a folder that other users can come to.
func openDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		require.NoError(t, os.Chmod(d, 0o755))
	}
	return dir
}

// owner is who PostgreSQL runs as: not root, which it refuses.
func owner(t *testing.T, dir string) *syscall.Credential {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	require.NoError(t, err)
	uid, err := strconv.Atoi(u.Uid)
	require.NoError(t, err)
	gid, err := strconv.Atoi(u.Gid)
	require.NoError(t, err)
	require.NoError(t, os.Chown(dir, uid, gid))
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// use points the configuration to this PostgreSQL.
func (p postgres) use(t *testing.T) func(*config.Config) {
	return func(c *config.Config) {
		for name, store := range c.Persistence.DataStores {
			require.Equal(t, "postgres:5432", store.SQL.ConnectAddr, name)
			require.Equal(t, []string{"/run/secrets/postgres_password"}, store.SQL.PasswordCommand.Args, name)
			store.SQL.ConnectAddr, store.SQL.PasswordCommand.Args = at(p.port), []string{p.password}
		}
	}
}

// startDaemon runs a daemon whose activities are the estate's, until the test ends,
// and waits until it is ready.
func startDaemon(t *testing.T, s serverconfig.Temporal) {
	t.Helper()
	listen := at(freePorts(t, 1)[0])
	cfg := serverconfig.Server{Temporal: s, Metrics: serverconfig.Metrics{Listen: listen}}
	serverconfig.SetServerDefaults(&cfg)
	d, err := daemon.New(daemon.Options{Config: cfg, Version: "test", Logger: silent, Build: func(serverconfig.Server, string) (*daemon.Parts, error) {
		return &daemon.Parts{Rancher: wellRancher{}, Register: func(r worker.Registry) { workflows.Register(r); estate.Register(r) }}, nil
	}})
	require.NoError(t, err)
	done := make(chan error, 1)
	began := time.Now()
	go func() { done <- d.Run(context.Background()) }()
	t.Cleanup(func() { d.Stop(); require.NoError(t, <-done) })
	file := filepath.Join(t.TempDir(), "server.yaml")
	require.NoError(t, os.WriteFile(file, []byte("metrics: {listen: '"+listen+"'}\n"), 0o600))
	require.Eventually(t, func() bool {
		code, _, _ := say(t, s.Address, "health", "--config", file)
		return code == 0
	}, 2*time.Minute, 200*time.Millisecond)
	t.Logf("the daemon is ready after %s", time.Since(began).Round(time.Millisecond))
}

// wellRancher is a Rancher that is always there.
type wellRancher struct{}

func (wellRancher) Check(context.Context) error { return nil }
func (wellRancher) Start(context.Context) error { return nil }

// say runs the command line, and returns its exit code and what it said.
func say(t *testing.T, address string, args ...string) (code int, out, errOut string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var o, e bytes.Buffer
	code = cli.Main(ctx, cli.Options{Program: "portcullis", Args: append(args, "--temporal-address", address), Stdout: &o, Stderr: &e})
	return code, o.String(), e.String()
}

// A rollout on what docker-compose.yml puts together: it waits at its gate while
// Temporal is restarted, and goes on to its end.
func TestARolloutOnPostgreSQL(t *testing.T) {
	if testing.Short() {
		t.Skip("left out by -short: starts PostgreSQL, and a Temporal server twice")
	}
	p := startPostgres(t)
	env := []string{"SQL_HOST=" + loopback, "SQL_PORT=" + strconv.Itoa(p.port), "SQL_PASSWORD_FILE=" + p.password}
	// The second time is the start after the first.
	for range 2 {
		script(t, "setup-schema.sh", env...)
	}
	conf, address := load(t, p.use(t))
	began := time.Now()
	stop := serve(t, conf)
	up(t, client.Options{HostPort: address})
	t.Logf("Temporal is up after %s", time.Since(began).Round(time.Millisecond))
	for range 2 {
		script(t, "setup-namespace.sh", "TEMPORAL_ADDRESS="+address)
	}
	startDaemon(t, serverconfig.Temporal{Address: address})

	pipeline := filepath.Join(t.TempDir(), "pipeline.yaml")
	b, err := json.Marshal(estate.Pipeline("policies", 1, []contract.Person{{Name: "alex"}, {Name: "sam"}}))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(pipeline, b, 0o600))
	code, out, errOut := say(t, address, "rollout", "start", "-f", pipeline, "--by", "alex")
	require.Zero(t, code, "%s%s", out, errOut)
	evidence := waitAtGate(t, address)

	stop()
	serve(t, conf)
	up(t, client.Options{HostPort: address})
	// The daemon may take a moment to find Temporal again. 12 says that an order which
	// had no answer was carried out meanwhile.
	require.Eventually(t, func() bool {
		code, out, errOut = say(t, address, "rollout", "approve", "policies", "--evidence", evidence, "--by", "sam")
		return code == 0 || code == 12
	}, time.Minute, time.Second, "%s%s", out, errOut)
	code, out, errOut = say(t, address, "rollout", "watch", "policies")
	require.Zero(t, code, "%s%s", out, errOut)
	require.Contains(t, out, string(contract.StateVerified))
	// The index is another database.
	require.Eventually(t, func() bool {
		code, out, _ = say(t, address, "rollout", "list", "--pipeline", "policies")
		return code == 0 && strings.Contains(out, string(contract.StateVerified))
	}, 30*time.Second, 300*time.Millisecond, "%s", out)
}

// waitAtGate returns what an approver of the rollout's gate approves.
func waitAtGate(t *testing.T, address string) string {
	t.Helper()
	var said string
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		code, out, errOut := say(t, address, "rollout", "status", "policies", "-o", "json")
		require.Zero(t, code, "%s", errOut)
		var status contract.RolloutStatus
		require.NoError(t, json.Unmarshal([]byte(out), &status))
		if status.Gate != nil {
			return status.Gate.Evidence.Hash
		}
		said = out
	}
	t.Fatalf("no gate: %s", said)
	return ""
}
