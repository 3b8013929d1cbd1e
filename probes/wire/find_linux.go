package wire

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// finder finds the processes and the network namespaces of pods.
type finder struct {
	// proc is where the process file system of the host's PID namespace is.
	proc string
	// host is the path of the node's own network namespace.
	host   string
	thread *netThread
}

func newFinder(thread *netThread) *finder {
	// Not /proc/self: that is the process's first thread, and the runtime may
	// have given just that one to netThread, which is in a pod's namespace then.
	return &finder{proc: "/proc", host: "/proc/thread-self/ns/net", thread: thread}
}

// place is where the probes of one pod start.
type place struct {
	ns *namespace
	// pids are the pod's processes, lowest first.
	pids []int
	// err says why there is no namespace.
	err error
}

// find looks up pods by UID. Every pod has a place; the caller closes them.
// What was found before is not remembered: a sandbox may have been replaced, and
// an open namespace outlives it.
func (f *finder) find(pods []Pod) map[string]*place {
	places := make(map[string]*place, len(pods))
	pids, err := f.scan(pods)
	host, hostErr := openNamespace(f.host)
	defer host.close()
	for _, p := range pods {
		pl := &place{pids: pids[p.UID]}
		switch {
		case err != nil:
			pl.err = err
		case hostErr != nil:
			pl.err = fmt.Errorf("cannot open the node's network namespace: %w", hostErr)
		case len(pl.pids) == 0:
			pl.err = errors.New("no process of the pod runs on this node")
		case p.Host:
			pl.ns, pl.err = openNamespace(f.host)
		default:
			pl.ns, pl.err = f.enter(p, pl.pids, host)
		}
		places[p.UID] = pl
	}
	return places
}

func closePlaces(places map[string]*place) {
	for _, p := range places {
		p.ns.close()
	}
}

// scan maps the UIDs of pods to their processes.
func (f *finder) scan(pods []Pod) (map[string][]int, error) {
	want := make(map[string]bool, len(pods))
	for _, p := range pods {
		want[p.UID] = true
	}
	dir, err := os.Open(f.proc)
	if err != nil {
		return nil, fmt.Errorf("cannot list the node's processes: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("cannot list the node's processes: %w", err)
	}
	found := map[string][]int{}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		// A process that ended since it was listed cannot be read. That is no error.
		cgroup, err := os.ReadFile(filepath.Join(f.proc, name, "cgroup"))
		if err != nil {
			continue
		}
		if uid := podOf(cgroup); want[uid] {
			found[uid] = append(found[uid], pid)
		}
	}
	for _, pids := range found {
		slices.Sort(pids)
	}
	return found, nil
}

// enter opens the network namespace of the pod: of those that its processes
// are in, the one that is not the node's and has one of the pod's addresses.
func (f *finder) enter(p Pod, pids []int, host *namespace) (*namespace, error) {
	var why error
	seen := map[uint64]bool{host.inode: true}
	for _, pid := range pids {
		ns, err := openNamespace(filepath.Join(f.proc, strconv.Itoa(pid), "ns", "net"))
		if errors.Is(err, os.ErrPermission) {
			why = fmt.Errorf("not permitted to enter the pod's network namespace (the agent needs SYS_PTRACE and SYS_ADMIN): %w", err)
		}
		if err != nil {
			continue
		}
		if seen[ns.inode] {
			ns.close()
			continue
		}
		seen[ns.inode] = true
		if err := f.owns(ns, p); err != nil {
			why = err
			ns.close()
			continue
		}
		return ns, nil
	}
	if why != nil {
		return nil, why
	}
	return nil, errors.New("no process of the pod has a network namespace of its own")
}

// owns checks that the namespace has one of the pod's addresses.
func (f *finder) owns(ns *namespace, p Pod) error {
	have, err := f.thread.addresses(ns)
	if err != nil {
		return fmt.Errorf("cannot enter the pod's network namespace: %w", err)
	}
	for _, ip := range p.IPs {
		if addr, err := netip.ParseAddr(ip); err == nil && slices.Contains(have, addr.Unmap()) {
			return nil
		}
	}
	return fmt.Errorf("the pod's network namespace has addresses %v, not %v: its sandbox was replaced", have, p.IPs)
}

// namespace is an open network namespace.
type namespace struct {
	file  *os.File
	inode uint64
}

func openNamespace(path string) (*namespace, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		file.Close()
		return nil, err
	}
	return &namespace{file: file, inode: st.Ino}, nil
}

func (n *namespace) close() {
	if n != nil {
		n.file.Close()
	}
}

// maxResolvConf bounds what is read of a pod's resolv.conf.
const maxResolvConf = 64 << 10

// resolvConf reads /etc/resolv.conf as the pod sees it. The path is resolved
// inside the pod's root, so a symbolic link in it cannot lead to a file of the agent.
func (f *finder) resolvConf(pids []int) ([]byte, error) {
	err := errors.New("no process")
	for _, pid := range pids {
		var text []byte
		if text, err = readInRoot(filepath.Join(f.proc, strconv.Itoa(pid), "root"), "etc/resolv.conf"); err == nil {
			return text, nil
		}
	}
	return nil, fmt.Errorf("cannot read the pod's /etc/resolv.conf: %w", err)
}

func readInRoot(root, path string) ([]byte, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, path, &unix.OpenHow{
		// A named pipe in the place of the file must not stop the agent.
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), path)
	defer file.Close()
	if st, err := file.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	return io.ReadAll(io.LimitReader(file, maxResolvConf))
}
