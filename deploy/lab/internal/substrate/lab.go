// Package substrate makes the lab's clusters on one machine and takes them away
// again: etcd, a control plane for each cluster, and nodes as namespaces.
package substrate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"portcullis.dev/portcullis/deploy/lab/internal/kube"
	"portcullis.dev/portcullis/deploy/lab/internal/netw"
	"portcullis.dev/portcullis/deploy/lab/internal/nsrun"
	"portcullis.dev/portcullis/deploy/lab/internal/state"
	"portcullis.dev/portcullis/deploy/lab/internal/topology"
	"portcullis.dev/portcullis/deploy/lab/internal/world"
)

// Config says where things are.
type Config struct {
	// StateDir holds the running lab, CacheDir what was built for it, and
	// SourceDir the repository.
	StateDir, CacheDir, SourceDir string
	// NoBuild takes the repository's own programs from the cache as they are.
	NoBuild bool
	// Log prints one line of progress.
	Log func(format string, args ...any)
	// World fills the clusters once they run; nil leaves them empty.
	World func(context.Context, world.Env) error
}

// Lab is a lab whose state this program holds.
type Lab struct {
	Config
	store *state.Store
	plan  topology.Plan
}

// Open takes hold of the lab in the state directory, whose record must be whole.
func Open(cfg Config) (*Lab, error) {
	l, err := OpenDamaged(cfg)
	if err != nil {
		return nil, err
	}
	if err := l.store.Damage; err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// OpenDamaged is Open for taking a lab away, also if its record cannot be read.
func OpenDamaged(cfg Config) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the lab makes namespaces, mounts and links: run this as root")
	}
	store, err := state.Open(cfg.StateDir)
	if err != nil {
		return nil, err
	}
	l := &Lab{Config: cfg, store: store, plan: store.Get().Plan}
	if d := store.Get(); d.BootID != "" && d.BootID != state.BootID() {
		// Process numbers of an earlier boot mean nothing; what is on disk does.
		err = store.Update(func(d *state.Data) {
			for n, r := range d.Processes {
				r.Process = state.Process{}
				d.Processes[n] = r
			}
			d.BootID = state.BootID()
		})
	}
	return l, err
}

// scope tells labs in different state directories apart, where names are shared by the machine.
func scope(stateDir string) string {
	sum := sha256.Sum256([]byte(stateDir))
	return hex.EncodeToString(sum[:3])
}

// Close lets other lab commands in.
func (l *Lab) Close() { l.store.Close() }

func (l *Lab) path(elem ...string) string {
	return filepath.Join(append([]string{l.StateDir}, elem...)...)
}

func (l *Lab) bin(name string) string          { return l.path("bin", name) }
func (l *Lab) pki(cluster, file string) string { return l.path("pki", cluster, file) }
func (l *Lab) nodeDir(node string, e ...string) string {
	return l.path(append([]string{"nodes", node}, e...)...)
}

// Kubeconfig is the path of the administrator's kubeconfig of a cluster.
func Kubeconfig(stateDir, cluster string) string {
	return filepath.Join(stateDir, "kubeconfig", cluster+".yaml")
}

func (l *Lab) client(c topology.PlannedCluster) (*kube.Client, error) {
	return adminClient(l.StateDir, c)
}

func adminClient(stateDir string, c topology.PlannedCluster) (*kube.Client, error) {
	dir := filepath.Join(stateDir, "pki", c.Name)
	return kube.New(c.APIServer(), kube.Identity{
		CAFile: filepath.Join(dir, "ca.crt"), CertFile: filepath.Join(dir, "admin.crt"), KeyFile: filepath.Join(dir, "admin.key"),
	})
}

// environment is all that the lab's processes see of the caller's. The marker
// lets `lab down` find them when the state is lost.
func (l *Lab) environment() []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
		state.Marker + "=" + l.StateDir,
	}
}

// ensure starts a long-lived process unless it runs already. It survives this program.
func (l *Lab) ensure(name string, r state.Record) error {
	if l.store.Get().Processes[name].Alive() {
		return nil
	}
	target := nsrun.Target{}
	if r.NetNS != "" {
		target.NetNS = netw.NSPath(r.NetNS)
	}
	if r.Node != "" {
		holder := l.store.Get().Processes[holderName(r.Node)]
		if !holder.Alive() {
			return fmt.Errorf("%s: node %s has no namespaces", name, r.Node)
		}
		target.PID = holder.PID
	}
	cmd, err := l.daemon(name, r.Command)
	if err != nil {
		return err
	}
	if err := nsrun.Start(target, cmd); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	return l.register(name, r, cmd)
}

// daemon is a command in a session of its own that logs to a file.
func (l *Lab) daemon(name string, argv []string) (*exec.Cmd, error) {
	log, err := os.OpenFile(l.path("log", name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env, cmd.Dir = l.environment(), "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd, nil
}

func (l *Lab) register(name string, r state.Record, cmd *exec.Cmd) error {
	p, err := state.Identify(cmd.Process.Pid)
	if err != nil {
		return fmt.Errorf("%s ended at once, see %s", name, l.path("log", name+".log"))
	}
	// A child that ends while this program runs must not stay as a zombie.
	go func() { _ = cmd.Wait() }()
	r.Process = p
	return l.store.Update(func(d *state.Data) { d.Processes[name] = r })
}

// Processes lists what the lab runs, by name.
func (l *Lab) Processes() map[string]state.Record { return l.store.Get().Processes }

// StopProcess ends one process of the lab; it stays down until it is started or `lab up`.
func (l *Lab) StopProcess(name string) error {
	r, err := l.record(name)
	if err != nil {
		return err
	}
	return state.End([]state.Process{r.Process}, 5*time.Second)
}

// StartProcess starts a process that was stopped or has ended.
func (l *Lab) StartProcess(name string) error {
	r, err := l.record(name)
	if err != nil {
		return err
	}
	return l.ensure(name, r)
}

func (l *Lab) record(name string) (state.Record, error) {
	all := l.Processes()
	r, ok := all[name]
	if !ok {
		return r, fmt.Errorf("no process %q in the lab; there are %v", name, slices.Sorted(maps.Keys(all)))
	}
	return r, nil
}

// linkOrCopy puts a program where it stays even if the cache is emptied.
func linkOrCopy(from, to string) error {
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if os.Link(from, to) == nil {
		return nil
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o755)
}

// poll asks every interval until ask gives no error or ctx ends, and then says what was last wrong.
func poll(ctx context.Context, what string, limit, interval time.Duration, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not after %s: %w", what, limit, err)
		case <-time.After(interval):
		}
	}
}
