// Package drivetest is what the tests and benchmarks on the lab share: package drive
// with calls that end the test where drive returns an error.
package drivetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"portcullis.dev/portcullis/deploy/lab/internal/drive"
	"portcullis.dev/portcullis/deploy/lab/internal/flows"
)

const (
	// KeepVariable, when set, leaves the lab up that the tests have started.
	KeepVariable = "PORTCULLIS_LAB_KEEP"
	// tail is how many lines of a log are shown.
	tail = 80
	// mendLimit bounds the clearing of a fault: a node may have to boot.
	mendLimit = 5 * time.Minute
)

// Lab is a Portcullis on the lab.
type Lab struct {
	*drive.Portcullis
	// Daemon is the one that runs, where Main or Restart has started it.
	Daemon *drive.Process
}

// Main runs the tests of a package, and ends the program. Where the lab is not up it is
// started, with these arguments of `lab up`, and taken down afterwards. Tests are given
// one Temporal and one daemon.
func Main(name string, tests func(*Lab) (int, error), up ...string) {
	code, err := run(name, tests, up)
	if err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		code = 1
	}
	os.Exit(code)
}

func run(name string, tests func(*Lab) (int, error), up []string) (int, error) {
	if os.Geteuid() != 0 {
		return 1, errors.New("the lab needs root")
	}
	o, err := drive.Here("../../../bin")
	if err != nil {
		return 1, err
	}
	ctx := context.Background()
	ours := !o.IsUp()
	if err := o.Show(ctx, append([]string{"up"}, up...)...); err != nil {
		return 1, err
	}
	if ours && os.Getenv(KeepVariable) == "" {
		defer func() {
			if err := o.Show(ctx, "down"); err != nil {
				fmt.Fprintln(os.Stderr, name+":", err)
			}
		}()
	}
	if o.Dir, err = os.MkdirTemp("", "portcullis-"+name+"-"); err != nil {
		return 1, err
	}
	l := &Lab{}
	if l.Portcullis, err = drive.Start(ctx, o); err != nil {
		return 1, err
	}
	defer l.Stop()
	if l.Daemon, err = l.StartDaemon("daemon", nil); err != nil {
		return 1, err
	}
	code, err := tests(l)
	if code == 0 && err == nil {
		_ = os.RemoveAll(o.Dir)
		return 0, nil
	}
	fmt.Fprintln(os.Stderr, name+": logs are in", o.Dir)
	show(l.Daemon.Log)
	show(l.Temporal().Log)
	return code, err
}

// show prints the end of a log: on a machine that is gone later, it is all there is.
func show(file string) {
	b, err := os.ReadFile(file)
	if err != nil {
		return
	}
	lines := strings.Split(string(b), "\n")
	fmt.Fprintf(os.Stderr, "--- end of %s\n%s\n", filepath.Base(file), strings.Join(lines[max(0, len(lines)-tail):], "\n"))
}

// Must ends the test on an error.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Eventually waits until nothing is wrong any more.
func Eventually(t testing.TB, limit time.Duration, what string, wrong func() string) {
	t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(time.Second) {
		w := wrong()
		if w == "" {
			return
		}
		if time.Now().After(end) {
			t.Errorf("%s: not within %s: %s", what, limit, w)
			return
		}
	}
}

// still is the context of what is called in a test, and also while it cleans up.
func still(t testing.TB) context.Context { return context.WithoutCancel(t.Context()) }

// Call calls the command line and wants an exit code of it.
func (l *Lab) Call(t testing.TB, code int, args ...string) drive.Result {
	t.Helper()
	r, err := l.CLI(still(t), args...)
	Must(t, err)
	if r.Code != code {
		t.Fatalf("portcullis %s: exit %d, want %d: %s", strings.Join(args, " "), r.Code, code, strings.TrimSpace(r.Stderr))
	}
	return r
}

// MustKubectl is Kubectl.
func (l *Lab) MustKubectl(t testing.TB, cluster string, args ...string) string {
	t.Helper()
	out, err := l.Kubectl(still(t), cluster, args...)
	Must(t, err)
	return out
}

// MustLab is Lab.
func (l *Lab) MustLab(t testing.TB, args ...string) string {
	t.Helper()
	out, err := l.Lab(still(t), args...)
	Must(t, err)
	return out
}

// MustInNode is InNode.
func (l *Lab) MustInNode(t testing.TB, node, words string) string {
	t.Helper()
	out, err := l.InNode(still(t), node, words)
	Must(t, err)
	return out
}

// Restart starts a daemon after the last one has ended.
func (l *Lab) Restart(t testing.TB) {
	t.Helper()
	var err error
	l.Daemon, err = l.StartDaemon("daemon", nil)
	Must(t, err)
}

// Kill kills the daemon as a crash would, and starts another.
func (l *Lab) Kill(t testing.TB) {
	t.Helper()
	l.Daemon.Kill()
	l.Restart(t)
}

// Inject injects a fault until the test ends, or until mend is called.
func (l *Lab) Inject(t testing.TB, args ...string) (mend func()) {
	t.Helper()
	id := l.MustLab(t, append([]string{"fault", "inject"}, args...)...)
	mend = func() {
		t.Helper()
		ctx, stop := context.WithTimeout(context.WithoutCancel(t.Context()), mendLimit)
		defer stop()
		if _, err := l.Lab(ctx, "fault", "clear", id); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(mend)
	return mend
}

// Planned plans a migration, and wants nothing to be in its way.
func (l *Lab) Planned(t testing.TB, cluster, manifest string, flags ...string) drive.MigrationPlan {
	t.Helper()
	plan, r, err := l.PlanMigration(t.Context(), cluster, manifest, flags...)
	Must(t, err)
	if r.Code != 0 || len(plan.Plan.Refused) > 0 {
		t.Fatalf("plan: exit %d: %s: %v", r.Code, r.Stderr, plan.Plan.Refused)
	}
	return plan
}

// Begin starts a migration that was planned, with the same manifest and flags.
func (l *Lab) Begin(t testing.TB, cluster string, plan drive.MigrationPlan, by, manifest string, flags ...string) {
	t.Helper()
	r, err := l.StartMigration(t.Context(), cluster, plan, by, manifest, flags...)
	Must(t, err)
	if r.Code != 0 {
		t.Fatalf("start: exit %d: %s", r.Code, r.Stderr)
	}
}

// Client is an administrator's, of one of the lab's clusters. It does not tell of an API
// server that cannot be reached for a while: here it boots now and then.
func (l *Lab) Client(t testing.TB, cluster string) kubernetes.Interface {
	t.Helper()
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	config, err := clientcmd.BuildConfigFromFlags("", l.Kubeconfig(cluster))
	Must(t, err)
	client, err := kubernetes.NewForConfig(config)
	Must(t, err)
	return client
}

// Flows says which flows of a cluster are watched: each is FROM:TO:PORT.
type Flows struct{ Allow, Deny, Hold []string }

// Every is the time between two tries of a flow: twenty times a second.
const Every = 50 * time.Millisecond

// Follow watches flows until it is stopped, or the context ends.
func (f Flows) Follow(ctx context.Context, t testing.TB, kube kubernetes.Interface) *flows.Watch {
	t.Helper()
	w, err := f.follow(ctx, t, kube)
	Must(t, err)
	return w
}

func (f Flows) follow(ctx context.Context, t testing.TB, kube kubernetes.Interface) (*flows.Watch, error) {
	t.Helper()
	rules, err := flows.ParseRules(f.Allow, f.Deny, f.Hold)
	Must(t, err)
	return flows.Follow(ctx, kube, rules, Every)
}

// Look watches flows for a while.
func (f Flows) Look(t testing.TB, kube kubernetes.Interface, during time.Duration) (flows.Totals, error) {
	t.Helper()
	w, err := f.follow(t.Context(), t, kube)
	if err != nil {
		return flows.Totals{}, err
	}
	time.Sleep(during)
	r, err := w.Stop()
	return r.Totals(), err
}
