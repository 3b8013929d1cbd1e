package node

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"portcullis.dev/portcullis/probes/preflight"
)

// collectLimit bounds the measurement of a node.
const collectLimit = 8 * time.Second

// collector measures one node.
type collector struct {
	proc  string
	root  *tree
	ports map[int]bool

	mu sync.Mutex
	// closed is set when what is measured comes too late.
	closed bool
}

// collect measures this node. Of ports, those that are taken are reported with
// their owners. What cannot be measured, or not in time, is unknown in the facts;
// an error is that the node was not found at all.
func collect(ctx context.Context, ports []int, progress func(done, total int)) (*preflight.NodeFacts, error) {
	root, err := nodeTree("/proc")
	if err != nil {
		return nil, err
	}
	defer root.close()
	c := &collector{proc: "/proc", root: root, ports: map[int]bool{}}
	for _, p := range ports {
		c.ports[p] = true
	}
	return c.collect(ctx, progress), nil
}

// put notes something that was measured, unless it comes too late.
func (c *collector) put(note func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		note()
	}
}

// job returns what measures one fact. Until that has been, the fact is not known.
func job[T any](c *collector, to *preflight.Fact[T], measure func() (T, error)) func() {
	*to = preflight.Unknown[T](fmt.Sprintf("measuring it took longer than %s", collectLimit))
	return func() {
		fact := measured(measure)
		c.put(func() { *to = fact })
	}
}

// measured is a fact. A failure to measure it, also a panic of a parser, is its reason.
func measured[T any](measure func() (T, error)) (fact preflight.Fact[T]) {
	defer func() {
		if r := recover(); r != nil {
			fact = preflight.Unknown[T](oneLine(fmt.Sprintf("measuring it failed: %v", r)))
		}
	}()
	v, err := measure()
	if err != nil {
		return preflight.Unknown[T](oneLine(err.Error()))
	}
	return preflight.Known(v)
}

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	return strings.ToValidUTF8(s[:min(len(s), 300)], "")
}

// collect does not wait for what hangs, as the files of a disk that is gone do.
func (c *collector) collect(ctx context.Context, progress func(done, total int)) *preflight.NodeFacts {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, collectLimit)
	defer cancel()
	f := &preflight.NodeFacts{}
	jobs := c.jobs(ctx, f)
	finished := make(chan struct{}, len(jobs))
	for _, job := range jobs {
		go func() {
			job()
			finished <- struct{}{}
		}()
	}
	for done := 1; done <= len(jobs) && ctx.Err() == nil; done++ {
		select {
		case <-finished:
			progress(done, len(jobs))
		case <-ctx.Done():
		}
	}
	c.put(func() {
		c.closed = true
		f.MeasuredIn = time.Since(start)
	})
	return f
}

// jobs are what measures all facts.
func (c *collector) jobs(ctx context.Context, f *preflight.NodeFacts) []func() {
	release := kernelRelease()
	f.Kernel = preflight.Known(release)
	// The modules are told from the options too.
	config := sync.OnceValues(func() (map[string]string, error) { return c.kernelConfig(release) })
	programs := sync.OnceValues(c.programs)
	return []func(){
		job(c, &f.KernelConfig, config),
		job(c, &f.Modules, func() (map[string]preflight.ModuleState, error) {
			options, _ := config()
			return c.modules(release, options)
		}),
		job(c, &f.IPSet, tryIPSet),
		job(c, &f.Conntrack, c.conntrack),
		job(c, &f.IPTables, func() (preflight.IPTables, error) { return c.iptables(ctx) }),
		job(c, &f.LegacyTables, legacyTables),
		job(c, &f.NFTables, nfTables),
		job(c, &f.Sysctls, c.sysctls),
		job(c, &f.SysctlFiles, c.sysctlFiles),
		job(c, &f.NetworkManager, func() (preflight.NetworkManager, error) { return c.networkManager(programs()) }),
		job(c, &f.Services, func() (map[string]preflight.ServiceState, error) { return c.services(programs()) }),
		job(c, &f.CPU, c.cpu),
		job(c, &f.Memory, c.memory),
		job(c, &f.Disks, c.disks),
		job(c, &f.Ports, c.portUses),
		job(c, &f.CNI, c.cni),
		job(c, &f.SubnetEnv, c.subnetEnv),
		job(c, &f.Links, links),
		job(c, &f.Routes, routes),
		func() {
			mode := proxyMode(ctx)
			c.put(func() { f.KubeProxy = mode })
		},
	}
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// kernelConfig reads the options of the running kernel, from itself or from the
// file that distributions put beside it: those that checks look at.
func (c *collector) kernelConfig(release string) (map[string]string, error) {
	if packed, err := c.shown("/config.gz"); err == nil {
		r, err := gzip.NewReader(bytes.NewReader(packed))
		if err != nil {
			return nil, err
		}
		text, err := io.ReadAll(io.LimitReader(r, maxFile))
		if err != nil {
			return nil, err
		}
		return onlyUsed(parseKernelConfig(text)), nil
	}
	for _, path := range []string{"/boot/config-" + release, "/usr/lib/modules/" + release + "/config", "/lib/modules/" + release + "/config"} {
		if text, err := c.root.read(path); err == nil {
			return onlyUsed(parseKernelConfig(text)), nil
		}
	}
	return nil, errors.New("the kernel's options are neither in /proc/config.gz nor in /boot")
}

// shown reads a file of the node's /proc as the node itself shows it, or else as the
// agent sees it.
func (c *collector) shown(path string) ([]byte, error) {
	if text, err := c.root.read("/proc" + path); err == nil {
		return text, nil
	}
	return os.ReadFile(c.proc + path)
}

// onlyUsed keeps the options that checks look at.
func onlyUsed(all map[string]string) map[string]string {
	out := map[string]string{}
	for _, o := range []string{"CONFIG_NET_NS", "CONFIG_NETFILTER", "CONFIG_CGROUPS", "CONFIG_MODULES"} {
		if v, ok := all[o]; ok {
			out[o] = v
		}
	}
	for _, m := range preflight.Modules() {
		if v, ok := all[m.Option]; ok {
			out[m.Option] = v
		}
	}
	return out
}

// modules tells where each module is. One of which nothing is known is left out;
// no options are that the kernel's are not known.
func (c *collector) modules(release string, options map[string]string) (map[string]preflight.ModuleState, error) {
	loaded := map[string]bool{}
	if text, err := c.shown("/modules"); err == nil {
		loaded = parseProcModules(text)
	}
	var builtin, loadable map[string]bool
	for _, dir := range []string{"/lib/modules/", "/usr/lib/modules/"} {
		if text, err := c.root.read(dir + release + "/modules.builtin"); err == nil {
			builtin = parseModulesDep(text)
		}
		if text, err := c.root.read(dir + release + "/modules.dep"); err == nil {
			loadable = parseModulesDep(text)
			break
		}
	}
	barred := c.barred()
	out := map[string]preflight.ModuleState{}
	for _, m := range preflight.Modules() {
		option, isSet := options[m.Option]
		switch {
		case loaded[m.Name]:
			out[m.Name] = preflight.ModuleLoaded
		case builtin[m.Name] || option == "y":
			out[m.Name] = preflight.ModuleBuiltin
		case loadable[m.Name] && barred[m.Name]:
			out[m.Name] = preflight.ModuleMissing
		case loadable[m.Name]:
			out[m.Name] = preflight.ModuleLoadable
		case loadable != nil || options != nil && !isSet:
			out[m.Name] = preflight.ModuleMissing
		}
	}
	if len(out) == 0 {
		return nil, errors.New("the node has neither a list of its modules nor its kernel's options")
	}
	return out, nil
}

// barred are the modules that modprobe is told not to load.
func (c *collector) barred() map[string]bool {
	out := map[string]bool{}
	for _, dir := range []string{"/usr/lib/modprobe.d", "/lib/modprobe.d", "/run/modprobe.d", "/etc/modprobe.d"} {
		names, _ := c.root.names(dir)
		for _, n := range names {
			if text, err := c.root.read(dir + "/" + n); err == nil && strings.HasSuffix(n, ".conf") {
				parseModprobe(text, out)
			}
		}
	}
	return out
}

func (c *collector) number(path string) (int64, error) {
	text, err := os.ReadFile(c.proc + path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

func (c *collector) conntrack() (t preflight.Conntrack, err error) {
	if t.Count, err = c.number("/sys/net/netfilter/nf_conntrack_count"); err != nil {
		return t, fmt.Errorf("connection tracking cannot be read: %w", err)
	}
	if t.Max, err = c.number("/sys/net/netfilter/nf_conntrack_max"); err != nil {
		return t, fmt.Errorf("connection tracking cannot be read: %w", err)
	}
	return t, nil
}

// wantedSysctls are those that checks look at.
var wantedSysctls = []string{
	"net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding", "net.ipv4.conf.all.rp_filter", "net.ipv4.conf.default.rp_filter",
	"fs.inotify.max_user_instances", "fs.inotify.max_user_watches",
}

func (c *collector) sysctls() (map[string]string, error) {
	out := map[string]string{}
	for _, name := range wantedSysctls {
		text, err := os.ReadFile(c.proc + "/sys/" + strings.ReplaceAll(name, ".", "/"))
		if err == nil {
			out[name] = strings.TrimSpace(string(text))
		}
	}
	if len(out) == 0 {
		return nil, errors.New("none of the kernel's settings can be read")
	}
	return out, nil
}

// sysctlFiles reads what is applied at boot: files by name, whichever folder they
// are in, and /etc/sysctl.conf last. A file in /etc hides one of its name elsewhere.
func (c *collector) sysctlFiles() (map[string]string, error) {
	byName := map[string]string{}
	var order []string
	for _, dir := range []string{"/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d"} {
		names, err := c.root.names(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		for _, n := range names {
			if _, hidden := byName[n]; !hidden && strings.HasSuffix(n, ".conf") {
				byName[n] = dir + "/" + n
				order = append(order, n)
			}
		}
	}
	slices.Sort(order)
	all := map[string]string{}
	for _, n := range order {
		if text, err := c.root.read(byName[n]); err == nil {
			parseSysctl(text, all)
		}
	}
	if text, err := c.root.read("/etc/sysctl.conf"); err == nil {
		parseSysctl(text, all)
	}
	out := map[string]string{}
	for _, name := range wantedSysctls {
		if v, ok := all[name]; ok {
			out[name] = v
		}
	}
	return out, nil
}
