// Package drive runs Portcullis on the lab as a person would: it starts
// Temporal and the daemon as processes, calls the command line, and reads the
// clusters with the lab's own credentials. The demo, the end-to-end tests and
// the benchmarks share it.
package drive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"portcullis.dev/portcullis/deploy/lab/internal/state"
)

// Options say where things are and which ports to use; port 0 means any free one.
type Options struct {
	// LabDir is the lab's state directory.
	LabDir string
	// BinDir holds portcullis, portcullis-dev and lab.
	BinDir string
	// Dir keeps Temporal's database, logs and copies of configuration.
	Dir                  string
	TemporalPort, UIPort int
	// Keep leaves the processes running when this program ends; `lab down` ends them.
	Keep bool
	// TaskQueue lets several daemons of one test run stay apart.
	TaskQueue string
}

// Portcullis is a Temporal server and the daemons that were started against it.
type Portcullis struct {
	Options
	temporal *Process
	mu       sync.Mutex
	daemons  []*Process
}

// Process is a child that this program started.
type Process struct {
	Name string
	Log  string
	cmd  *exec.Cmd
	done chan struct{}
}

// Start brings up Temporal with its UI. Daemons are started by StartDaemon.
func Start(ctx context.Context, o Options) (*Portcullis, error) {
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, err
	}
	for _, p := range []*int{&o.TemporalPort, &o.UIPort} {
		if *p == 0 {
			port, err := freePort()
			if err != nil {
				return nil, err
			}
			*p = port
		}
	}
	p := &Portcullis{Options: o}
	return p, p.StartTemporal(ctx)
}

// StartTemporal starts the server and UI on the same database and ports as before.
func (p *Portcullis) StartTemporal(ctx context.Context) error {
	proc, err := p.spawn("temporal", filepath.Join(p.BinDir, "portcullis-dev"), "temporal",
		"--db", filepath.Join(p.Dir, "temporal.db"),
		"--temporal-port", fmt.Sprint(p.TemporalPort), "--ui-port", fmt.Sprint(p.UIPort))
	if err != nil {
		return err
	}
	p.temporal = proc
	return proc.waitListening(ctx, p.Address(), time.Minute)
}

// Temporal is the server's process.
func (p *Portcullis) Temporal() *Process { return p.temporal }

// StopTemporal kills the server, as a crash would.
func (p *Portcullis) StopTemporal() { p.temporal.Kill() }

// Address is Temporal's frontend.
func (p *Portcullis) Address() string { return fmt.Sprintf("127.0.0.1:%d", p.TemporalPort) }

// UI is the Temporal UI's address for a browser.
func (p *Portcullis) UI() string { return fmt.Sprintf("http://127.0.0.1:%d", p.UIPort) }

// StartDaemon starts one `portcullis server` with the lab's configuration; edit may change it.
func (p *Portcullis) StartDaemon(name string, edit func(config string) string) (*Process, error) {
	b, err := os.ReadFile(filepath.Join(p.LabDir, "portcullis.yaml"))
	if err != nil {
		return nil, fmt.Errorf("the lab is not up: %w", err)
	}
	config := strings.ReplaceAll(string(b), "127.0.0.1:7233", p.Address())
	if edit != nil {
		config = edit(config)
	}
	file := filepath.Join(p.Dir, name+".yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	proc, err := p.spawn(name, filepath.Join(p.BinDir, "portcullis"), "server", "--config", file)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.daemons = append(p.daemons, proc)
	p.mu.Unlock()
	return proc, nil
}

// Stop ends the daemons and Temporal.
func (p *Portcullis) Stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range p.daemons {
		d.Stop()
	}
	p.temporal.Stop()
}

func (p *Portcullis) env() []string {
	env := append(os.Environ(), "PORTCULLIS_TEMPORAL_ADDRESS="+p.Address(), "NO_COLOR=1")
	if p.TaskQueue != "" {
		env = append(env, "PORTCULLIS_TASK_QUEUE="+p.TaskQueue)
	}
	return env
}

func (p *Portcullis) spawn(name, bin string, args ...string) (*Process, error) {
	log := filepath.Join(p.Dir, name+".log")
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cmd := exec.Command(bin, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = p.env(), f, f
	// A child of a test that is killed must not outlive it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if p.Keep {
		cmd.SysProcAttr.Pdeathsig = 0
		cmd.Env = append(cmd.Env, state.GuestMarker+"="+p.LabDir)
	}
	proc := &Process{Name: name, Log: log, cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The signal comes when the thread that started the child ends, not when the
		// program does: this one stays as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
			close(proc.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return proc, nil
}

// Pid of the process.
func (pr *Process) Pid() int { return pr.cmd.Process.Pid }

// Done is closed when the process has ended.
func (pr *Process) Done() <-chan struct{} { return pr.done }

// Kill is kill -9.
func (pr *Process) Kill() {
	_ = pr.cmd.Process.Kill()
	<-pr.done
}

// Stop asks the process to end and kills it if it does not in time.
func (pr *Process) Stop() {
	if pr == nil {
		return
	}
	_ = pr.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-pr.done:
	case <-time.After(20 * time.Second):
		pr.Kill()
	}
}

func (pr *Process) waitListening(ctx context.Context, addr string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", addr)
		if err == nil {
			return c.Close()
		}
		select {
		case <-pr.done:
			return fmt.Errorf("%s ended before it listened on %s: %s", pr.Name, addr, tail(pr.Log))
		case <-ctx.Done():
			return fmt.Errorf("%s does not listen on %s after %s: %s", pr.Name, addr, limit, tail(pr.Log))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Result of one call of the command line.
type Result struct {
	Code           int
	Stdout, Stderr string
}

// endLimit is how long a command may take to end once it was interrupted.
const endLimit = 20 * time.Second

// CLI calls the command line and returns what it printed and its exit code. The end of ctx
// interrupts it as a person would.
func (p *Portcullis) CLI(ctx context.Context, args ...string) (Result, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(p.BinDir, "portcullis"), args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = endLimit
	var out, errOut bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = p.env(), &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return Result{}, err
	}
	return Result{Code: cmd.ProcessState.ExitCode(), Stdout: out.String(), Stderr: errOut.String()}, nil
}

// Stream calls the command line with its output going to w, and returns the exit code.
func (p *Portcullis) Stream(ctx context.Context, w io.Writer, args ...string) (int, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(p.BinDir, "portcullis"), args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = p.env(), w, w
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return -1, err
	}
	return cmd.ProcessState.ExitCode(), nil
}

// JSON calls the command line with -o json and decodes what it prints.
func (p *Portcullis) JSON(ctx context.Context, into any, args ...string) (Result, error) {
	r, err := p.CLI(ctx, append(args, "-o", "json")...)
	if err != nil {
		return r, err
	}
	if strings.TrimSpace(r.Stdout) == "" {
		return r, fmt.Errorf("portcullis %s: exit %d: %s", strings.Join(args, " "), r.Code, strings.TrimSpace(r.Stderr))
	}
	if err := json.Unmarshal([]byte(r.Stdout), into); err != nil {
		return r, fmt.Errorf("portcullis %s: %w in %q", strings.Join(args, " "), err, r.Stdout)
	}
	return r, nil
}

// Lab calls the lab's own program.
func (p *Portcullis) Lab(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(p.BinDir, "lab"), args...)
	cmd.Env = append(os.Environ(), "PORTCULLIS_LAB_DIR="+p.LabDir)
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("lab %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errOut.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// askEvery is the pause between two looks at what is waited for.
const askEvery = 500 * time.Millisecond

// until asks until ok holds for the answer, or the limit is over.
func until[S fmt.Stringer](ctx context.Context, limit time.Duration, what string, ask func(context.Context) (S, error), ok func(S) bool) (last S, _ error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var lastErr error
	for {
		s, err := ask(ctx)
		if err == nil {
			if last = s; ok(s) {
				return s, nil
			}
		}
		// A question that the limit cut short tells nothing.
		if ctx.Err() == nil {
			lastErr = err
		}
		select {
		case <-ctx.Done():
			return last, fmt.Errorf("not %s within %s: %s (%s)", what, limit, last, fmt.Sprint(lastErr))
		case <-time.After(askEvery):
		}
	}
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func tail(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], " | ")
}

// Code is the exit code of a process that has ended.
func (pr *Process) Code() int {
	<-pr.done
	return pr.cmd.ProcessState.ExitCode()
}
