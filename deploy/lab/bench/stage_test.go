package bench

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"portcullis.dev/portcullis/deploy/lab/internal/gitd"
	"portcullis.dev/portcullis/deploy/lab/internal/rancherd"
	"portcullis.dev/portcullis/deploy/lab/internal/simcluster"
	"portcullis.dev/portcullis/deploy/lab/policies"
)

// A benchmark that simulates clusters has a Rancher stand-in and a Git server of
// its own, so that of the lab it needs the management cluster alone, and leaves
// the lab's own as they are. The stand-in and the simulated clusters are
// processes of their own, so that what each uses can be told apart: this program
// again, with roleVariable saying what it is to be.
const (
	roleVariable  = "PORTCULLIS_BENCH_ROLE"
	roleRancher   = "rancher"
	roleSimulator = "simulator"

	// simulatorID is the simulator's in the stand-in's table.
	simulatorID = "c-simulator"
	startWithin = 30 * time.Second
)

// play is what this program does as a child: it serves until it is told to stop.
func play(role string, args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	switch {
	case role == roleRancher && len(args) == 2:
		return rancherd.Run(ctx, rancherd.In(args[0]), args[1], log)
	case role == roleSimulator && len(args) == 1:
		return simcluster.Run(ctx, args[0], simulatorConfig(args[0]), log)
	}
	return fmt.Errorf("no role %q with the arguments %q", role, args)
}

func simulatorConfig(dir string) string { return filepath.Join(dir, "kubeconfig.yaml") }

// stage is what stands around Portcullis in such a benchmark.
type stage struct {
	dir                string
	rancher, simulator *child
	// url and files are the stand-in's, repo the Git server's.
	url   string
	files rancherd.Files
	repo  string
}

func newStage(b *testing.B) *stage {
	b.Helper()
	s := &stage{dir: filepath.Join(p.Dir, "stage")}
	s.files = rancherd.In(s.dir)
	clusters := filepath.Join(s.dir, "clusters")
	s.simulator = startChild(b, s.dir, roleSimulator, clusters)
	s.simulator.until(b, "its kubeconfig", func() error { _, err := os.Stat(simulatorConfig(clusters)); return err })

	must(b, s.files.WriteClusters([]rancherd.Upstream{
		{ID: "local", Name: "mgmt", Kubeconfig: filepath.Join(p.LabDir, "kubeconfig", "mgmt.yaml")},
		{ID: simulatorID, Name: "simulated", Kubeconfig: simulatorConfig(clusters)},
	}))
	token, err := rancherd.NewToken(s.files.TokenTable(), rancherd.DefaultUser, 0)
	must(b, err)
	must(b, rancherd.WriteFile(s.files.Token(), []byte(token), 0o600))
	address := freeAddress(b, "127.0.0.1")
	s.url = "https://" + address
	s.rancher = startChild(b, s.dir, roleRancher, s.dir, address)
	s.rancher.until(b, "its port", func() error {
		c, err := net.DialTimeout("tcp", address, time.Second)
		if err != nil {
			return err
		}
		return c.Close()
	})
	s.git(b)
	return s
}

// configure makes a daemon's configuration one for this stage.
func (s *stage) configure(config string) string {
	lab := rancherd.In(p.LabDir)
	return strings.NewReplacer(
		rancherd.URL, s.url, lab.Token(), s.files.Token(), lab.CACert(), s.files.CACert(),
		filepath.Join(p.LabDir, "git-cache"), filepath.Join(s.dir, "git-cache"),
	).Replace(config)
}

// git serves the sample policy repository, with a commit of its own, where the
// management cluster's pods reach it.
func (s *stage) git(b *testing.B) {
	b.Helper()
	const name = "network-policies.git"
	repo := gitd.Repo{Bare: filepath.Join(gitd.Root(s.dir), name), Work: filepath.Join(s.dir, "policies")}
	must(b, repo.Create(b.Context()))
	tree, err := policies.Tree(policies.First)
	must(b, err)
	_, err = repo.Commit(b.Context(), "Policies for a thousand clusters", tree)
	must(b, err)
	handler, err := gitd.Handler(gitd.Root(s.dir), slog.New(slog.DiscardHandler))
	must(b, err)
	host, _, err := net.SplitHostPort(gitd.Listen)
	must(b, err)
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	must(b, err)
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }()
	b.Cleanup(func() { _ = server.Close() })
	s.repo = "http://" + listener.Addr().String() + "/" + name
}

func freeAddress(b *testing.B, host string) string {
	b.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	must(b, err)
	defer l.Close()
	return l.Addr().String()
}

// child is this program in a role.
type child struct {
	role, log string
	cmd       *exec.Cmd
	ended     chan struct{}
}

func startChild(b *testing.B, dir, role string, args ...string) *child {
	b.Helper()
	must(b, os.MkdirAll(dir, 0o755))
	self, err := os.Executable()
	must(b, err)
	c := &child{role: role, log: filepath.Join(dir, role+".log"), ended: make(chan struct{})}
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	must(b, err)
	defer log.Close()
	c.cmd = exec.Command(self, args...)
	c.cmd.Env = append(os.Environ(), roleVariable+"="+role)
	c.cmd.Stdout, c.cmd.Stderr = log, log
	// A child of a benchmark that is killed must not outlive it.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(b, c.cmd.Start())
	go func() { _ = c.cmd.Wait(); close(c.ended) }()
	b.Cleanup(c.stop)
	return c
}

func (c *child) pid() int { return c.cmd.Process.Pid }

func (c *child) stop() {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.ended:
	case <-time.After(10 * time.Second):
		_ = c.cmd.Process.Kill()
		<-c.ended
	}
}

// until waits for what a child does when it has started.
func (c *child) until(b *testing.B, what string, ready func() error) {
	b.Helper()
	deadline := time.Now().Add(startWithin)
	for err := ready(); err != nil; err = ready() {
		select {
		case <-c.ended:
			text, _ := os.ReadFile(c.log)
			b.Fatalf("the %s ended: %s", c.role, text)
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			b.Fatalf("the %s did not have %s within %s: %v", c.role, what, startWithin, err)
		}
	}
}
