// Package cli is the lab's command line.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"portcullis.dev/portcullis/deploy/lab/internal/gitd"
	"portcullis.dev/portcullis/deploy/lab/internal/rancherd"
	"portcullis.dev/portcullis/deploy/lab/internal/substrate"
	"portcullis.dev/portcullis/deploy/lab/internal/world"
)

const (
	stateEnv, defaultState = "PORTCULLIS_LAB_DIR", "/var/lib/portcullis-lab"
	cacheEnv, defaultCache = "PORTCULLIS_LAB_CACHE", "/var/cache/portcullis-lab"
)

type options struct {
	stateDir, cacheDir, sourceDir string
	noBuild                       bool
	started                       time.Time
	mu                            sync.Mutex
	out                           io.Writer
}

// Command is `lab`.
func Command() *cobra.Command {
	o := &options{started: time.Now(), out: os.Stderr}
	root := &cobra.Command{
		Use:   "lab",
		Short: "Real Rancher-like clusters on this machine, to try Portcullis on",
		Long: `lab starts a management cluster and clusters for dev, staging and prod on one
Linux machine: real Kubernetes, Calico and Fleet, with nodes as namespaces. It
needs root and Debian 12, and pulls no image.`,
		SilenceUsage: true, SilenceErrors: true,
	}
	f := root.PersistentFlags()
	f.StringVar(&o.stateDir, "state", env(stateEnv, defaultState), "folder of the running lab ($"+stateEnv+")")
	f.StringVar(&o.cacheDir, "cache", env(cacheEnv, defaultCache), "folder of what was built for it ($"+cacheEnv+")")
	f.StringVar(&o.sourceDir, "source", "", "root of the Portcullis repository (default: found from the working directory or the program)")
	root.PersistentPreRunE = func(*cobra.Command, []string) error { return o.resolve() }
	root.AddCommand(
		o.build(), o.up(), o.down(), o.status(), o.usage(), o.flows(), o.kubeconfig(), o.image(), o.exec(),
		o.node(), o.cluster(), o.process(), o.faults(), nodeInit(), nodeListen(), rancherd.Command(), gitd.Command(),
		rancherd.AdminCommand(), world.PolicyCommand(),
	)
	return root
}

func (o *options) resolve() error {
	var err error
	if o.stateDir, err = filepath.Abs(o.stateDir); err != nil {
		return err
	}
	o.cacheDir, err = filepath.Abs(o.cacheDir)
	return err
}

// log prints a line with the time since the start.
func (o *options) log(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	fmt.Fprintf(o.out, "%6.1fs  %s\n", time.Since(o.started).Seconds(), fmt.Sprintf(format, args...))
}

func (o *options) config() substrate.Config {
	return substrate.Config{StateDir: o.stateDir, CacheDir: o.cacheDir, SourceDir: o.sourceDir, NoBuild: o.noBuild, Log: o.log, World: world.Up}
}

// withLab calls f with the lab held.
func (o *options) withLab(f func(*substrate.Lab) error) error {
	l, err := substrate.Open(o.config())
	if err != nil {
		return err
	}
	defer l.Close()
	return f(l)
}

// built builds what is missing and finds the repository for it.
func (o *options) built(ctx context.Context) (substrate.Built, error) {
	if err := o.findSource(); err != nil {
		return substrate.Built{}, err
	}
	return substrate.Build(ctx, o.config())
}

func (o *options) findSource() error {
	if o.sourceDir != "" {
		return nil
	}
	cwd, err := os.Getwd()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for _, start := range []string{cwd, filepath.Dir(self)} {
		for dir := start; ; dir = filepath.Dir(dir) {
			if _, err := os.Stat(filepath.Join(dir, "deploy", "lab", "components", "kubernetes", "go.mod")); err == nil {
				o.sourceDir = dir
				return nil
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return errors.New("the Portcullis repository is not around here: run lab in it, or name it with --source")
}

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}
