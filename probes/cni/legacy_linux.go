package cni

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	preflight "portcullis.dev/portcullis/probes/preflight/node"
)

// The questions of the old iptables (linux/netfilter_ipv4/ip_tables.h), and where
// the size is in the answer to the first and the entries are in that to the second.
const (
	getInfo     = 64
	getEntries  = 65
	infoSize    = 84
	infoEntries = 76
	entriesHead = 40
	// maxOldTable bounds a table; those of large clusters have some MiB.
	maxOldTable = 256 << 20
)

// oldResidue finds flannel's rules and chains in the tables of the old iptables.
// Only tables that the kernel has already are looked at, for looking at another
// would make it.
func (o *operation) oldResidue() ([]residue, error) {
	names, err := os.ReadFile(filepath.Join(o.host.Proc, "thread-self/net/ip_tables_names"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the tables of the old iptables cannot be listed: %w", err)
	}
	var out []residue
	for _, name := range strings.Fields(string(names)) {
		entries, err := readOldTable(name)
		if err != nil {
			return nil, fmt.Errorf("the table %s of the old iptables cannot be read: %w", name, err)
		}
		t, err := parseOldTable(name, entries)
		if err != nil {
			return nil, fmt.Errorf("the table %s of the old iptables cannot be read: %w", name, err)
		}
		if t.rules+len(t.chains) > 0 {
			out = append(out, residue{
				what:   rulesAndChains(t.rules, t.chains, "ip "+name, "iptables-legacy"),
				remove: func(ctx context.Context) error { return o.cleanOldTable(ctx, name) },
			})
		}
	}
	return out, nil
}

// readOldTable asks the kernel for a table's entries.
func readOldTable(name string) ([]byte, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	for {
		info := make([]byte, infoSize)
		copy(info[:31], name)
		if err := ask(fd, getInfo, info); err != nil {
			return nil, err
		}
		size := binary.NativeEndian.Uint32(info[infoEntries+4:])
		if size > maxOldTable {
			return nil, fmt.Errorf("it has %d bytes", size)
		}
		entries := make([]byte, entriesHead+int(size))
		copy(entries[:31], name)
		binary.NativeEndian.PutUint32(entries[32:], size)
		// It was changed since its size was told.
		if err := ask(fd, getEntries, entries); errors.Is(err, unix.EAGAIN) {
			continue
		} else if err != nil {
			return nil, err
		}
		return entries[entriesHead:], nil
	}
}

func ask(fd, question int, answer []byte) error {
	size := uint32(len(answer))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_IP, uintptr(question),
		uintptr(unsafe.Pointer(&answer[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// oldLimit bounds one run of the node's iptables, and oldLock its wait for the
// lock that kube-proxy and Felix take too, in seconds.
const (
	oldLimit = 20 * time.Second
	oldLock  = "10"
)

// cleanOldTable removes flannel's rules and chains with the node's own iptables, in one
// transaction: it alone knows every extension that a table may hold.
func (o *operation) cleanOldTable(ctx context.Context, table string) error {
	root, err := o.root()
	if err != nil {
		return err
	}
	program, err := oldIPTables(ctx, root)
	if err != nil {
		return err
	}
	rules, err := run(ctx, root, "", program, "-w", oldLock, "-t", table, "-S")
	if err != nil {
		return err
	}
	script, found := oldRemoval(table, rules)
	if !found {
		return nil
	}
	_, err = run(ctx, root, script, program+"-restore", "-w", oldLock, "--noflush")
	return err
}

// root leads to the node's own file system.
func (o *operation) root() (string, error) {
	if o.host.Root != "" {
		return o.host.Root, nil
	}
	return preflight.RuntimeRoot(o.host.Proc)
}

// errNoOldIPTables tells the remedy too.
var errNoOldIPTables = errors.New("the node has no iptables-legacy to remove them with: install it and repeat this, or reboot the node, which has them no more then")

// oldIPTables finds the node's iptables that writes to the old tables.
func oldIPTables(ctx context.Context, root string) (string, error) {
	for _, name := range []string{"iptables-legacy", "iptables"} {
		for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin"} {
			program := dir + "/" + name
			version, err := run(ctx, root, "", program, "--version")
			if err == nil && !strings.Contains(version, "nf_tables") {
				return program, nil
			}
		}
	}
	return "", errNoOldIPTables
}

// run runs a program of the node, in the node's root.
func run(ctx context.Context, root, input, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, oldLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	var out, problem bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &problem
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("the node's %s: %w: %.300s", program, err, strings.TrimSpace(problem.String()))
	}
	return out.String(), nil
}
