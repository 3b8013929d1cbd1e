// Package cgroup makes the control groups that hold a node's pods, on version 1
// hierarchies, on the unified one, and where both are mounted.
package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// prefix of the groups of all labs.
const prefix = "plab-"

// Name is a node's group in the lab with the given scope: each lab has its own,
// so that taking one away spares the pods of another.
func Name(scope, node string) string { return prefix + scope + "-" + node }

// controllers that kubelet needs on a unified hierarchy.
var controllers = []string{"cpuset", "cpu", "io", "memory", "pids"}

// mount is one mounted hierarchy.
type mount struct {
	path    string
	unified bool
}

// Ensure makes the group of a node in every hierarchy.
func Ensure(scope, node string) error {
	ms, err := mounts()
	if err != nil {
		return err
	}
	if len(ms) == 0 {
		return errors.New("no control groups are mounted under /sys/fs/cgroup")
	}
	onlyUnified := !slices.ContainsFunc(ms, func(m mount) bool { return !m.unified })
	for _, m := range ms {
		dir := filepath.Join(m.path, Name(scope, node))
		if m.unified && onlyUnified {
			if err := delegate(m.path); err != nil {
				return err
			}
		}
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("control group of %s: %w", node, err)
		}
		if m.unified && onlyUnified {
			if err := delegate(dir); err != nil {
				return err
			}
			continue
		}
		if err := inheritCPUSet(m.path, dir); err != nil {
			return err
		}
	}
	return nil
}

// delegate lets the children of a group use what kubelet needs of what the group has.
func delegate(dir string) error {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, c := range controllers {
		if !slices.Contains(strings.Fields(string(have)), c) {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0o644); err != nil {
			return fmt.Errorf("control group %s: cannot hand on controller %s: %w", dir, c, err)
		}
	}
	return nil
}

// inheritCPUSet fills a new group's processors and memory nodes, without which
// no process can enter it on version 1.
func inheritCPUSet(parent, dir string) error {
	for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
		b, err := os.ReadFile(filepath.Join(parent, f))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, f), b, 0o644); err != nil {
			return fmt.Errorf("control group %s: %w", dir, err)
		}
	}
	return nil
}

// Found are a lab's groups in all hierarchies, as paths.
func Found(scope string) ([]string, error) { return matching(Name(scope, "*")) }

func matching(name string) ([]string, error) {
	ms, err := mounts()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, m := range ms {
		dirs, err := filepath.Glob(filepath.Join(m.path, name))
		if err != nil {
			return nil, err
		}
		out = append(out, dirs...)
	}
	return out, nil
}

// PIDs are the processes in a group and below it.
func PIDs(dir string) []int {
	var out []int
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() != "cgroup.procs" {
			return nil //nolint:nilerr // a group may go while it is looked at
		}
		b, _ := os.ReadFile(p)
		for _, f := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil {
				out = append(out, pid)
			}
		}
		return nil
	})
	return out
}

// RemoveAll takes a lab's groups away once their processes have ended.
func RemoveAll(scope string, limit time.Duration) error { return removeMatching(scope, "*", limit) }

// Remove takes a node's groups away once their processes have ended.
func Remove(scope, node string, limit time.Duration) error { return removeMatching(scope, node, limit) }

func removeMatching(scope, node string, limit time.Duration) error {
	var err error
	for end := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		dirs, ferr := matching(Name(scope, node))
		if ferr != nil {
			return ferr
		}
		if len(dirs) == 0 {
			return nil
		}
		for _, d := range dirs {
			if e := remove(d); e != nil {
				err = e
			}
		}
		if time.Now().After(end) {
			return err
		}
	}
}

func remove(dir string) error {
	var all []string
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			all = append(all, p)
		}
		return nil
	})
	slices.Reverse(all)
	for _, p := range all {
		if err := unix.Rmdir(p); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove control group %s: %w", p, err)
		}
	}
	return nil
}

func mounts() ([]mount, error) {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parse(f)
}

func parse(r io.Reader) ([]mount, error) {
	var out []mount
	s := bufio.NewScanner(r)
	for s.Scan() {
		f := strings.Fields(s.Text())
		if len(f) < 3 || !strings.HasPrefix(f[1], "/sys/fs/cgroup") {
			continue
		}
		if f[2] == "cgroup" || f[2] == "cgroup2" {
			out = append(out, mount{path: f[1], unified: f[2] == "cgroup2"})
		}
	}
	return out, s.Err()
}
