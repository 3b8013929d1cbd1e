package substrate

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"portcullis.dev/portcullis/deploy/lab/internal/cgroup"
	"portcullis.dev/portcullis/deploy/lab/internal/netw"
	"portcullis.dev/portcullis/deploy/lab/internal/state"
)

// Down takes everything away that the lab made, after any crash, also without
// its records, and says what is left if anything is.
func (l *Lab) Down() error {
	if err := checkOwner(l.StateDir); err != nil {
		return err
	}
	errs := []error{l.endProcesses(), netw.RemoveAll(), cgroup.RemoveAll(scope(l.StateDir), 10*time.Second), unmountUnder(l.StateDir)}
	l.Log("processes, namespaces, links, control groups and mounts are gone")
	errs = append(errs, l.removeDirs(), l.removeState())
	l.Log("files are gone")
	if left := Leftovers(l.StateDir); len(left) > 0 {
		errs = append(errs, fmt.Errorf("left behind:\n  %s", strings.Join(left, "\n  ")))
	}
	return errors.Join(errs...)
}

// endProcesses ends the nodes first, and with each all that runs in it, and
// then everything else that carries the lab's marker.
func (l *Lab) endProcesses() error {
	var holders, rest []state.Process
	for name, r := range l.store.Get().Processes {
		if strings.HasSuffix(name, "-holder") {
			holders = append(holders, r.Process)
		} else {
			rest = append(rest, r.Process)
		}
	}
	// A holder is the first process of its namespace, so this spares no pod.
	// Nothing is asked to end by itself: all that it would keep is removed next.
	err := state.End(append(holders, rest...), 0)
	// One that was just starting another is seen in the next round.
	for range 5 {
		marked := state.Marked(l.StateDir)
		if len(marked) == 0 {
			break
		}
		err = errors.Join(err, state.End(marked, 0))
	}
	// Pods carry no marker. Those of a node whose holder was not recorded are in its group.
	groups, gerr := cgroup.Found(scope(l.StateDir))
	var pods []state.Process
	for _, g := range groups {
		for _, pid := range cgroup.PIDs(g) {
			if p, ierr := state.Identify(pid); ierr == nil {
				pods = append(pods, p)
			}
		}
	}
	return errors.Join(err, gerr, state.End(pods, 0))
}

// removeDirs takes away the folders that the machine did not have, deepest first.
// Without a record it takes only empty ones of those that the lab makes.
func (l *Lab) removeDirs() error {
	// To remove a folder takes away what another lab has mounted on it.
	if len(state.MarkedOthers(l.StateDir)) > 0 {
		return nil
	}
	dirs := l.store.Get().Dirs
	if len(l.plan.Clusters) == 0 {
		dirs = wellKnownDirs()
	}
	var errs []error
	for _, d := range slices.Backward(dirs) {
		err := unix.Rmdir(d)
		// A folder that somebody else has put something into since is theirs now.
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTEMPTY) {
			errs = append(errs, fmt.Errorf("remove %s: %w", d, err))
		}
	}
	return errors.Join(errs...)
}

// wellKnownDirs are the folders that a lab makes if they are missing, without
// those that belong to a Debian package.
func wellKnownDirs() []string {
	var out []string
	for _, d := range append(slices.Sorted(maps.Values(own)), modulesDir) {
		if exec.Command("dpkg-query", "-S", d).Run() != nil {
			out = append(out, d)
		}
	}
	return out
}

// removeState empties the state directory and removes it. The lock file goes
// last: until then nobody else can start a lab here.
func (l *Lab) removeState() error {
	entries, err := os.ReadDir(l.StateDir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if e.Name() == "lock" {
			continue
		}
		errs = append(errs, os.RemoveAll(l.path(e.Name())))
	}
	errs = append(errs, os.Remove(l.path("lock")), os.Remove(l.StateDir))
	return errors.Join(errs...)
}

// Leftovers lists what of a lab is on the machine.
func Leftovers(stateDir string) []string {
	var left []string
	add := func(kind string, names ...string) {
		for _, n := range names {
			left = append(left, kind+" "+n)
		}
	}
	for _, p := range state.Marked(stateDir) {
		cmd, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
		add("process", fmt.Sprintf("%d %s", p.PID, strings.ReplaceAll(string(cmd[:min(len(cmd), 80)]), "\x00", " ")))
	}
	links, namespaces, err := netw.Found()
	if err != nil {
		add("unknown links:", err.Error())
	}
	add("link", links...)
	add("network namespace", namespaces...)
	blocking, err := netw.Blocking()
	if err != nil {
		add("unknown rules:", err.Error())
	}
	if blocking {
		add("rules", "that block packets on the bridge")
	}
	groups, err := cgroup.Found(scope(stateDir))
	if err != nil {
		add("unknown control groups:", err.Error())
	}
	add("control group", groups...)
	mounts, err := mountsUnder(stateDir)
	if err != nil {
		add("unknown mounts:", err.Error())
	}
	add("mount", mounts...)
	if _, err := os.Stat(stateDir); !errors.Is(err, fs.ErrNotExist) {
		add("folder", stateDir)
	}
	return left
}

func unmountUnder(dir string) error {
	mounts, err := mountsUnder(dir)
	errs := []error{err}
	for _, m := range slices.Backward(mounts) {
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", m, err))
		}
	}
	return errors.Join(errs...)
}

func mountsUnder(dir string) ([]string, error) {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []string
	s := bufio.NewScanner(f)
	for s.Scan() {
		fields := strings.Fields(s.Text())
		if len(fields) > 1 && strings.HasPrefix(fields[1], filepath.Clean(dir)+"/") {
			out = append(out, fields[1])
		}
	}
	return out, s.Err()
}
