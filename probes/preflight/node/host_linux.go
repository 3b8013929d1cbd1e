package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"portcullis.dev/portcullis/probes/preflight"
)

// iptablesLimit bounds the one program of the node that is run.
const iptablesLimit = 2 * time.Second

func (c *collector) iptables(ctx context.Context) (t preflight.IPTables, err error) {
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin"} {
		if c.root.exists(dir + "/iptables") {
			t.Path = dir + "/iptables"
			break
		}
	}
	if t.Path == "" {
		return t, nil
	}
	if resolved, err := c.root.resolve(t.Path); err == nil {
		switch {
		case strings.Contains(path.Base(resolved), "nft"):
			t.Flavour = "nft"
		case strings.Contains(path.Base(resolved), "legacy"):
			t.Flavour = "legacy"
		}
	}
	ctx, cancel := context.WithTimeout(ctx, iptablesLimit)
	defer cancel()
	out, err := c.ask(ctx, t.Path)
	if err != nil {
		// It is there; which version it has is another question.
		return t, nil
	}
	if number, flavour, err := parseIPTables(out); err == nil {
		t.Version, t.Flavour = number, flavour
	}
	return t, nil
}

// ask runs the node's iptables with --version, in the node's root.
func (c *collector) ask(ctx context.Context, program string) (string, error) {
	cmd := exec.CommandContext(ctx, program, "--version")
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: c.root.path}
	var out head
	cmd.Stdout = &out
	cmd.WaitDelay = 100 * time.Millisecond
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("running the node's iptables: %w", err)
	}
	return out.text.String(), nil
}

// head keeps the beginning of what is written.
type head struct{ text bytes.Buffer }

const maxHead = 1 << 10

func (h *head) Write(b []byte) (int, error) {
	h.text.Write(b[:min(len(b), maxHead-h.text.Len())])
	return len(b), nil
}

// programs lists the names of all processes.
func (c *collector) programs() (map[string]bool, error) {
	dir, err := os.Open(c.proc)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for _, n := range names {
		if _, err := strconv.Atoi(n); err != nil {
			continue
		}
		// A process that ended since cannot be read. That is no error.
		if comm, err := os.ReadFile(c.proc + "/" + n + "/comm"); err == nil {
			out[strings.TrimSpace(string(comm))] = true
		}
	}
	return out, nil
}

func (c *collector) networkManager(programs map[string]bool, err error) (m preflight.NetworkManager, _ error) {
	if err != nil {
		return m, fmt.Errorf("the node's processes cannot be listed: %w", err)
	}
	m.Running = programs["NetworkManager"]
	if text, err := c.root.read("/etc/NetworkManager/NetworkManager.conf"); err == nil {
		m.Unmanaged = parseUnmanaged(text)
	}
	for _, dir := range []string{"/usr/lib/NetworkManager/conf.d", "/run/NetworkManager/conf.d", "/etc/NetworkManager/conf.d"} {
		names, _ := c.root.names(dir)
		for _, n := range names {
			if text, err := c.root.read(dir + "/" + n); err == nil && strings.HasSuffix(n, ".conf") {
				m.Unmanaged = append(m.Unmanaged, parseUnmanaged(text)...)
			}
		}
	}
	return m, nil
}

func (c *collector) services(programs map[string]bool, err error) (map[string]preflight.ServiceState, error) {
	if err != nil {
		return nil, fmt.Errorf("the node's processes cannot be listed: %w", err)
	}
	return map[string]preflight.ServiceState{
		"firewalld":      c.service(programs["firewalld"], "firewalld.service"),
		"nm-cloud-setup": c.service(programs["nm-cloud-setup"], "nm-cloud-setup.service", "nm-cloud-setup.timer"),
	}, nil
}

// service says what systemd does with units. One is enabled when another wants it.
func (c *collector) service(running bool, units ...string) preflight.ServiceState {
	if running {
		return preflight.ServiceRunning
	}
	state := preflight.ServiceAbsent
	for _, dir := range []string{"/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"} {
		names, _ := c.root.names(dir)
		for _, n := range names {
			if slices.Contains(units, n) {
				state = preflight.ServiceInstalled
			}
		}
	}
	names, _ := c.root.names("/etc/systemd/system")
	for _, n := range names {
		if !strings.HasSuffix(n, ".wants") && !strings.HasSuffix(n, ".requires") {
			continue
		}
		wanted, _ := c.root.names("/etc/systemd/system/" + n)
		if slices.ContainsFunc(units, func(u string) bool { return slices.Contains(wanted, u) }) {
			return preflight.ServiceEnabled
		}
	}
	return state
}

func (c *collector) cpu() (u preflight.CPU, err error) {
	text, err := os.ReadFile(c.proc + "/stat")
	if err != nil {
		return u, err
	}
	lines(text, func(line string) {
		name, _, _ := strings.Cut(line, " ")
		if number, ok := strings.CutPrefix(name, "cpu"); ok && number != "" {
			u.Count++
		}
	})
	load, err := os.ReadFile(c.proc + "/loadavg")
	if err != nil {
		return u, err
	}
	f := strings.Fields(string(load))
	if len(f) < 3 || u.Count == 0 {
		return u, errors.New("the load is not understood")
	}
	u.Load5, err = strconv.ParseFloat(f[1], 64)
	return u, err
}

func (c *collector) memory() (m preflight.Memory, err error) {
	text, err := os.ReadFile(c.proc + "/meminfo")
	if err != nil {
		return m, err
	}
	found := 0
	lines(text, func(line string) {
		f := strings.Fields(line)
		if len(f) < 2 {
			return
		}
		n, convErr := strconv.ParseInt(f[1], 10, 64)
		switch {
		case convErr != nil:
		case f[0] == "MemTotal:":
			m.Total = n << 10
			found++
		case f[0] == "MemAvailable:":
			m.Available = n << 10
			found++
		}
	})
	if found != 2 {
		return m, errors.New("the kernel does not tell how much memory is available")
	}
	return m, nil
}

// disks are the file systems of kubelet, of the container runtime, and the root.
func (c *collector) disks() ([]preflight.Disk, error) {
	var out []preflight.Disk
	seen := map[unix.Fsid]bool{}
	for _, p := range []string{"/var/lib/kubelet", "/var/lib/rancher", "/var/lib/containerd", "/var/lib/containers", "/"} {
		st, err := c.root.statfs(p)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if seen[st.Fsid] || st.Blocks == 0 {
			continue
		}
		seen[st.Fsid] = true
		out = append(out, preflight.Disk{
			Path: p, Total: int64(st.Blocks) * st.Bsize, Free: int64(st.Bavail) * st.Bsize,
			Inodes: int64(st.Files), InodesFree: int64(st.Ffree),
		})
	}
	return out, nil
}

// portUses lists which of the ports are taken, and by whom.
func (c *collector) portUses() ([]preflight.PortUse, error) {
	var out []preflight.PortUse
	owners := map[uint64][]int{}
	for _, protocol := range []string{"tcp", "udp"} {
		for _, family := range []string{"", "6"} {
			// thread-self: the process's own entry is its first thread's, which may be elsewhere.
			text, err := os.ReadFile(c.proc + "/thread-self/net/" + protocol + family)
			if errors.Is(err, os.ErrNotExist) && family == "6" {
				continue
			}
			if err != nil {
				return nil, err
			}
			sockets, err := parseSockets(text)
			if err != nil {
				return nil, err
			}
			for _, s := range sockets {
				if !s.listening || !c.ports[s.port] {
					continue
				}
				use := preflight.PortUse{Protocol: protocol, Port: s.port, Address: s.address.String()}
				if family == "6" && s.address == netip.IPv4Unspecified() {
					use.Address = "::"
				}
				owners[s.inode] = append(owners[s.inode], len(out))
				out = append(out, use)
			}
		}
	}
	c.findOwners(owners, out)
	return out, ownKernel(out)
}

// ownKernel notes the ports of VXLAN devices, which no process has.
func ownKernel(uses []preflight.PortUse) error {
	if !slices.ContainsFunc(uses, func(u preflight.PortUse) bool { return u.Owner == "" && u.Protocol == "udp" }) {
		return nil
	}
	all, err := links()
	if err != nil {
		return err
	}
	for i := range uses {
		u := &uses[i]
		if u.Owner == "" && u.Protocol == "udp" && slices.ContainsFunc(all, func(l preflight.Link) bool { return l.Kind == "vxlan" && l.Port == u.Port }) {
			u.Owner = "kernel"
		}
	}
	return nil
}

// findOwners looks for the processes that have the sockets.
func (c *collector) findOwners(owners map[uint64][]int, uses []preflight.PortUse) {
	if len(owners) == 0 {
		return
	}
	processes, _ := os.ReadDir(c.proc)
	for _, p := range processes {
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		dir := c.proc + "/" + p.Name()
		files, _ := os.ReadDir(dir + "/fd")
		for _, f := range files {
			link, _ := os.Readlink(dir + "/fd/" + f.Name())
			number, ok := strings.CutPrefix(link, "socket:[")
			inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 64)
			if !ok || err != nil || owners[inode] == nil {
				continue
			}
			comm, _ := os.ReadFile(dir + "/comm")
			for _, i := range owners[inode] {
				uses[i].Owner = strings.TrimSpace(string(comm))
			}
			delete(owners, inode)
		}
		if len(owners) == 0 {
			return
		}
	}
}

// cniFolders are where the runtimes look: plain and RKE2, then K3s.
var cniFolders = []string{"/etc/cni/net.d", "/var/lib/rancher/k3s/agent/etc/cni/net.d"}

func (c *collector) cni() (d preflight.CNIDir, err error) {
	var folder string
	var names []string
	for _, folder = range cniFolders {
		if names, err = c.root.names(folder); err == nil {
			break
		}
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return d, err
	}
	for _, n := range names {
		if ext := path.Ext(n); ext != ".conf" && ext != ".conflist" && ext != ".json" {
			continue
		}
		text, err := c.root.read(folder + "/" + n)
		if err != nil {
			d.Configs = append(d.Configs, preflight.CNIConfig{File: n, Error: oneLine(err.Error())})
			continue
		}
		d.Configs = append(d.Configs, parseCNI(n, text))
	}
	for _, p := range []string{folder, "/opt/cni/bin"} {
		st, err := c.root.statfs(p)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return d, err
		}
		if st.Flags&unix.ST_RDONLY != 0 {
			d.ReadOnly = append(d.ReadOnly, p)
		}
	}
	return d, nil
}

func (c *collector) subnetEnv() (preflight.SubnetEnv, error) {
	text, err := c.root.read("/run/flannel/subnet.env")
	if errors.Is(err, os.ErrNotExist) {
		return preflight.SubnetEnv{}, nil
	}
	if err != nil {
		return preflight.SubnetEnv{}, err
	}
	return parseSubnetEnv(text)
}

// proxyLimit bounds asking kube-proxy, on the node itself.
const proxyLimit = time.Second

var proxyModes = []string{"iptables", "ipvs", "nftables", "kernelspace"}

// proxyMode asks the node's kube-proxy for its mode; "" where it does not tell.
func proxyMode(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, proxyLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:10249/proxyMode", nil)
	if err != nil {
		return ""
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64))
	if mode := strings.TrimSpace(string(text)); err == nil && slices.Contains(proxyModes, mode) {
		return mode
	}
	return ""
}
