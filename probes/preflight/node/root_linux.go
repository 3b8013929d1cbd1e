package node

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// tree is the node's file system. Paths are resolved inside it.
type tree struct {
	dir *os.File
	// path leads to it, for a program to be run there.
	path string
}

// maxFile bounds what is read of one file of the node.
const maxFile = 16 << 20

// openTree opens a folder as the node's root.
func openTree(path string) (*tree, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the node's root: %w", err)
	}
	return &tree{dir: os.NewFile(uintptr(fd), path), path: path}, nil
}

// nodeTree finds the node's root: that of the nearest ancestor in another mount
// namespace, which is the container runtime's.
func nodeTree(proc string) (*tree, error) {
	own, err := os.Readlink(filepath.Join(proc, "self/ns/mnt"))
	if err != nil {
		return nil, fmt.Errorf("cannot tell the agent's own mount namespace: %w", err)
	}
	for pid, depth := os.Getppid(), 0; pid > 0 && depth < 64; depth++ {
		dir := filepath.Join(proc, strconv.Itoa(pid))
		ns, err := os.Readlink(filepath.Join(dir, "ns/mnt"))
		if err != nil {
			return nil, fmt.Errorf("cannot tell the mount namespace of process %d (the agent needs SYS_PTRACE): %w", pid, err)
		}
		if ns != own {
			return openTree(filepath.Join(dir, "root"))
		}
		if pid, err = parent(dir); err != nil {
			return nil, err
		}
	}
	return nil, errors.New("no container runtime was found above the agent's process: the agent needs hostPID")
}

// RuntimeRoot is a path to the node's root as the container runtime above this
// process has it. It holds as long as the runtime lives.
func RuntimeRoot(proc string) (string, error) {
	t, err := nodeTree(proc)
	if err != nil {
		return "", err
	}
	t.close()
	return t.path, nil
}

func parent(dir string) (int, error) {
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may contain anything.
	_, rest, _ := strings.Cut(string(stat[max(bytes.LastIndexByte(stat, ')'), 0):]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return 0, fmt.Errorf("%s/stat is not understood", dir)
	}
	return strconv.Atoi(fields[1])
}

func (t *tree) close() { t.dir.Close() }

func (t *tree) open(path string, flags uint64) (*os.File, error) {
	if flags&unix.O_PATH == 0 {
		// A named pipe in the place of a file must not stop the agent.
		flags |= unix.O_NONBLOCK
	}
	name := strings.TrimPrefix(path, "/")
	if name == "" {
		name = "."
	}
	fd, err := unix.Openat2(int(t.dir.Fd()), name, &unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// read reads a regular file, at most maxFile of it.
func (t *tree) read(path string) ([]byte, error) {
	f, err := t.open(path, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// names lists a folder, sorted.
func (t *tree) names(path string) ([]string, error) {
	f, err := t.open(path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

func (t *tree) exists(path string) bool {
	f, err := t.open(path, unix.O_PATH)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

// resolve returns what a path leads to, inside the tree.
func (t *tree) resolve(path string) (string, error) {
	f, err := t.open(path, unix.O_PATH)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return os.Readlink("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
}

func (t *tree) statfs(path string) (st unix.Statfs_t, err error) {
	f, err := t.open(path, unix.O_PATH)
	if err != nil {
		return st, err
	}
	defer f.Close()
	return st, unix.Fstatfs(int(f.Fd()), &st)
}
